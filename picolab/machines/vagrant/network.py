"""The network of virtual machines, made without the delay that a bridge has by default.

vagrant-libvirt makes its network with the spanning tree protocol on. A new port of such a bridge forwards nothing for
twice the forward delay, of which Linux takes at least 2 s, so each boot waits 4 s for its address. The protocol is for
bridges in a loop, and this one has guests only. vagrant-libvirt uses a network of its name if there is one.
"""

import contextlib
import tempfile
from pathlib import Path

from picolab.machines.vagrant import libvirt

_XML = f"""\
<network ipv6="yes">
  <name>{libvirt.NETWORK}</name>
  <forward mode="nat"/>
  <bridge stp="off" delay="0"/>
  <ip address="192.168.121.1" netmask="255.255.255.0">
    <dhcp><range start="192.168.121.2" end="192.168.121.254"/></dhcp>
  </ip>
</network>
"""
"""The address is the one that vagrant-libvirt 0.11 expects of the network of this name."""


def make() -> None:
    """Make the network if there is none, or start it. If that fails, vagrant makes its own.

    Another project's `vagrant destroy` stops a network that no running machine uses at that moment.
    """
    state = libvirt.network()
    if state == "inactive":
        with contextlib.suppress(libvirt.LibvirtError):
            libvirt.virsh("net-start", libvirt.NETWORK)
    if state != "missing":
        return
    with tempfile.TemporaryDirectory(prefix="picolab-network-") as folder:
        file = Path(folder) / "network.xml"
        file.write_text(_XML)
        with contextlib.suppress(libvirt.LibvirtError):
            libvirt.virsh("net-define", str(file))
            try:
                libvirt.virsh("net-start", libvirt.NETWORK)
            except libvirt.LibvirtError:
                # Another process may have started it; else its address is taken, and vagrant says so.
                if libvirt.network() != "active":
                    libvirt.virsh("net-undefine", libvirt.NETWORK)
