"""The network of virtual machines, made without the delay that a bridge has by default.

vagrant-libvirt makes its network with the spanning tree protocol on. A new port of such a bridge forwards nothing for
twice the forward delay, of which Linux takes at least 2 s, so each boot waits 4 s for its address. The protocol is for
bridges in a loop, and this one has guests only. vagrant-libvirt uses a network of its name if there is one.

All projects of a host share it. vagrant-libvirt would remove it with each machine, also when another project is about
to start one: the `Vagrantfile` has it kept, and only `picolab clean` removes it.
"""

import contextlib
import fcntl
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from picolab.machines.vagrant import libvirt

_XML = """\
<network ipv6="yes">
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <forward mode="nat"/>
  <bridge stp="off" delay="0"/>
  <ip address="192.168.121.1" netmask="255.255.255.0">
    <dhcp><range start="192.168.121.2" end="192.168.121.254"/></dhcp>
  </ip>
</network>
"""
"""The address is the one that vagrant-libvirt 0.11 expects of the network of this name."""


_TRIES = 3
_LOCKED = libvirt.IMAGES.parent
"""A folder that all users of libvirt on a host share and can read: a lock on it needs no file of its own."""


@contextlib.contextmanager
def in_use() -> Iterator[None]:
    """Make the network, and keep others from removing it while a machine is made or started that will use it.

    From then on its domain does so, see `network_and_pool.unused`.
    """
    with _locked(fcntl.LOCK_SH):
        make()
        yield


@contextlib.contextmanager
def unless_in_use() -> Iterator[bool]:
    """Yield True when no project of this host is about to use the network; none begins to while this lasts."""
    with _locked(fcntl.LOCK_EX | fcntl.LOCK_NB) as is_ours:
        yield is_ours


@contextlib.contextmanager
def _locked(how: int) -> Iterator[bool]:
    try:
        descriptor = os.open(_LOCKED, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        # Without libvirt's folder nobody has machines here.
        yield True
        return
    try:
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def is_slow() -> bool:
    """Return whether the network has the spanning tree protocol on, as one that vagrant-libvirt or a person has made.

    Raises:
        LibvirtError: there is no network, or libvirt does not answer.
    """
    bridge = ElementTree.fromstring(libvirt.virsh("net-dumpxml", libvirt.NETWORK)).find("bridge")
    return bridge is not None and bridge.get("stp", "on") != "off"


def make() -> None:
    """Make the network if there is none, or start it. If that fails, vagrant makes its own.

    Another project may make, stop or remove it at the same time.
    """
    for _ in range(_TRIES):
        state = libvirt.network()
        if state == "active":
            return
        with contextlib.suppress(libvirt.LibvirtError):
            if state == "inactive":
                libvirt.virsh("net-start", libvirt.NETWORK)
            else:
                _make_new()


def _make_new() -> None:
    with tempfile.TemporaryDirectory(prefix="picolab-network-") as folder:
        file = Path(folder) / "network.xml"
        file.write_text(_XML.format(name=libvirt.NETWORK, uuid=uuid.uuid4()))
        # It runs from its first moment on, so that nobody takes it for one that somebody has stopped.
        libvirt.virsh("net-create", str(file))
        # By the same uuid, so that it is there again after libvirt's daemon was started anew.
        libvirt.virsh("net-define", str(file))
