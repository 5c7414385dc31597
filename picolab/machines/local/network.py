"""A network of a local machine's own: a namespace for its server that only this host reaches.

A server usually listens on all interfaces. In a namespace these are its loopback and one end of a pair of virtual
Ethernet devices, whose other end is on this host. Both ends have an address of a link-local network of four
(169.254.x.y/30) that nobody else on this host uses, and the namespace has no other route: to a packet from elsewhere,
should the host forward one, no answer finds its way.

A namespace exists as long as a process is in it or holds it open, here the server and its keeper, and the devices end
with it. Their name is derived from the machine's, so that a sweep finds them too.

It uses netlink messages, so it needs no external program. Sources: rtnetlink(7), netlink(7), veth(4),
network_namespaces(7), setns(2), and linux/if_link.h for the numbers.
"""

import contextlib
import ctypes
import errno
import hashlib
import ipaddress
import os
import secrets
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from picolab.host.processes import ProcessIdentity, kill_and_wait

_CLONE_NEWNET = 0x40000000
_OWN_NAMESPACE = "/proc/thread-self/ns/net"

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP, _NLM_F_EXCL, _NLM_F_CREATE = 0x1, 0x4, 0x300, 0x200, 0x400
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR, _RTM_NEWNEIGH = 20, 21, 22, 28
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_IFALIAS = 1, 3, 4, 18, 20
_IFLA_AF_SPEC, _IFLA_NET_NS_FD = 26, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFLA_INET6_ADDR_GEN_MODE, _ADDR_GEN_MODE_NONE = 8, 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_NDA_DST, _NDA_LLADDR, _NUD_PERMANENT = 1, 2, 0x80
_IFF_UP = 1
_NESTED = 0x8000

_MTU = 65535
"""The largest that is allowed. Loopback has 65536, so segments are nearly as large and cost as much."""
_PREFIX = 30
_SERVER_INTERFACE = "picolab"
_TRIES = 50
_CONNECT_LIMIT_S = 3.0
_METADATA_NETWORK = 169
"""Clouds serve the metadata of a virtual machine at 169.254.169.x."""


class NoPrivateNetwork(Exception):
    """A private network could not be made; the text says why."""


@dataclass(frozen=True)
class PrivateNetwork:
    """The network of one machine.

    Attributes:
        interface: name of the host's end.
        server_address: at which the host reaches the server.
        namespace: open descriptor of the namespace; the server enters through it.
    """

    interface: str
    server_address: str
    namespace: int

    @property
    def inode(self) -> int:
        """The namespace's number, as in the links /proc/<pid>/ns/net."""
        return os.fstat(self.namespace).st_ino

    def enter(self) -> None:
        """Move the calling thread into the namespace."""
        _setns(self.namespace)

    def close(self) -> None:
        """Remove the devices. The namespace ends with its last process."""
        with contextlib.suppress(OSError):
            remove(self.interface)
        os.close(self.namespace)


def interface_of(place: str) -> str:
    """Return the name of the host's device for a machine; at most 15 characters are allowed.

    Args:
        place: the machine's name, unique on this host.
    """
    return f"picolab{hashlib.sha256(place.encode()).hexdigest()[:8]}"


def why_not() -> str | None:
    """Return why this process cannot make a private network, or None. Nothing is changed."""
    if not Path(_OWN_NAMESPACE).exists():
        return "this kernel has no network namespaces"
    if _limit_of_namespaces() == 0:
        return "this kernel allows no network namespaces (user.max_net_namespaces is 0)"
    try:
        with _Netlink() as netlink:
            # There is no such device. The kernel looks at permissions first.
            netlink.ask(_RTM_DELLINK, 0, _link(index=0x7FFFFFFF))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None if _may_unshare() else "making a network namespace needs root (CAP_SYS_ADMIN)"
        if error.errno == errno.EPERM:
            return "making network devices needs root (CAP_NET_ADMIN)"
        return f"this kernel does not answer questions about network devices ({error.strerror})"
    return None


def _limit_of_namespaces() -> int | None:
    try:
        return int(Path("/proc/sys/user/max_net_namespaces").read_text())
    except (OSError, ValueError):
        return None


def _may_unshare() -> bool:
    """Return True if this process has CAP_SYS_ADMIN (bit 21 of capabilities(7))."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> 21 & 1)
    return False


def make(place: str) -> PrivateNetwork:
    """Make the network of a machine, and prove that this host reaches a listener in it.

    Raises:
        NoPrivateNetwork: it cannot be made; nothing is left of it.
    """
    interface = interface_of(place)
    try:
        remove(interface)
        namespace, inner = _new_namespace()
    except OSError as error:
        raise NoPrivateNetwork(f"a network namespace could not be made ({error.strerror})") from None
    try:
        with inner, _Netlink() as outer:
            address = _connect(place, interface, namespace, outer, inner)
        _prove(namespace, address)
        return PrivateNetwork(interface, str(address), namespace)
    except (OSError, NoPrivateNetwork) as error:
        with contextlib.suppress(OSError):
            remove(interface)
        os.close(namespace)
        if isinstance(error, NoPrivateNetwork):
            raise
        raise NoPrivateNetwork(f"virtual network devices could not be set up ({error.strerror or error})") from None


def _connect(place: str, interface: str, namespace: int, outer: "_Netlink", inner: "_Netlink") -> ipaddress.IPv4Address:
    """Make the two devices and give them addresses; return the server's."""
    # Set explicitly: udev would later replace a random address.
    host_mac, server_mac = _random_mac(), _random_mac()
    peer = _attributes(
        (_IFLA_IFNAME, _SERVER_INTERFACE.encode() + b"\0"),
        (_IFLA_MTU, struct.pack("=I", _MTU)),
        (_IFLA_ADDRESS, server_mac),
        (_IFLA_NET_NS_FD, struct.pack("=I", namespace)),
    )
    pair = _attributes(
        (_IFLA_INFO_KIND, b"veth"),
        (_IFLA_INFO_DATA | _NESTED, _attributes((_VETH_INFO_PEER | _NESTED, _link() + peer))),
    )
    outer.ask(
        _RTM_NEWLINK,
        _NLM_F_CREATE | _NLM_F_EXCL,
        _link()
        + _attributes(
            (_IFLA_IFNAME, interface.encode() + b"\0"),
            (_IFLA_MTU, struct.pack("=I", _MTU)),
            (_IFLA_ADDRESS, host_mac),
            (_IFLA_LINKINFO | _NESTED, pair),
        ),
    )
    here, there = _index(outer, interface), _index(inner, _SERVER_INTERFACE)
    outer.ask(_RTM_NEWLINK, 0, _link(here) + _attributes((_IFLA_IFALIAS, place.encode())))
    for netlink, index in ((outer, here), (inner, there)):
        _without_ipv6(netlink, index)
    network = _take_free_network(outer, here)
    host_address, server_address = network.hosts()
    inner.ask(_RTM_NEWADDR, _NLM_F_CREATE | _NLM_F_EXCL, _address(there, server_address))
    inner.ask(_RTM_NEWLINK, 0, _link(_index(inner, "lo"), up=True))
    inner.ask(_RTM_NEWLINK, 0, _link(there, up=True))
    outer.ask(_RTM_NEWLINK, 0, _link(here, up=True))
    # Permanent entries, so that no trial waits for address resolution; a lost answer costs a second.
    outer.ask(_RTM_NEWNEIGH, _NLM_F_CREATE, _neighbour(here, server_address, server_mac))
    inner.ask(_RTM_NEWNEIGH, _NLM_F_CREATE, _neighbour(there, host_address, host_mac))
    return server_address


def _take_free_network(outer: "_Netlink", index: int) -> ipaddress.IPv4Network:
    """Give the host's end the first address of a network that no other device of this host has, and return it.

    Another process may do the same at this moment, so it checks again after it has taken one.
    """
    for _ in range(_TRIES):
        third, fourth = 1 + secrets.randbelow(254), 4 * secrets.randbelow(64)
        if third == _METADATA_NETWORK:
            continue
        network = ipaddress.IPv4Network((f"169.254.{third}.{fourth}", _PREFIX))
        if any(network.overlaps(other) for _, other in _networks(outer, narrow=True)):
            continue
        host_address = next(network.hosts())
        outer.ask(_RTM_NEWADDR, _NLM_F_CREATE | _NLM_F_EXCL, _address(index, host_address))
        if not any(network.overlaps(other) for whose, other in _networks(outer, narrow=True) if whose != index):
            return network
        outer.ask(_RTM_DELADDR, 0, _address(index, host_address))
    raise NoPrivateNetwork(f"no free link-local network was found in {_TRIES} tries")


def _networks(netlink: "_Netlink", narrow: bool) -> Iterator[tuple[int, ipaddress.IPv4Network]]:
    """Yield (index of the device, network) for each IPv4 address of this host.

    Args:
        narrow: take only the address itself of a wide link-local network, which the host shares with others.
    """
    for body in netlink.ask(_RTM_GETADDR, _NLM_F_DUMP, struct.pack("=BBBBI", socket.AF_INET, 0, 0, 0, 0)):
        _family, prefix, _flags, _scope, index = struct.unpack_from("=BBBBI", body)
        for kind, value in _parse_attributes(body[8:]):
            if kind in (_IFA_ADDRESS, _IFA_LOCAL) and len(value) == 4:
                width = 32 if narrow and prefix < _PREFIX else prefix
                yield index, ipaddress.IPv4Network((value, width), strict=False)


def _prove(namespace: int, address: ipaddress.IPv4Address) -> None:
    """Reach a listener in the namespace from this host, as the client will.

    Raises:
        NoPrivateNetwork: the host cannot reach it.
    """
    with _inside(namespace):
        listener = socket.create_server((str(address), 0))
    deadline = time.monotonic() + _CONNECT_LIMIT_S
    patience_s = 0.01
    with listener:
        while True:
            try:
                socket.create_connection(listener.getsockname(), timeout=patience_s).close()
                return
            except OSError as error:
                # The kernel loses packets until it has noticed, in the background, that both ends are up.
                if not isinstance(error, TimeoutError) or time.monotonic() > deadline:
                    said = f"this host does not reach a server in a network namespace ({error})"
                    raise NoPrivateNetwork(f"{said}; does a firewall forbid it?") from None
            patience_s *= 2


def try_out() -> str | None:
    """Return why no private network can be made, or None. It makes a pair of devices in a namespace of its own."""
    reason = why_not()
    if reason is not None:
        return reason
    found: list[str | None] = []
    # In a thread that ends, and the namespace with it.
    thread = threading.Thread(target=lambda: found.append(_make_devices_in_a_namespace()))
    thread.start()
    thread.join()
    return found[0]


def _make_devices_in_a_namespace() -> str | None:
    """Return why that is not possible. The calling thread stays in the namespace."""
    try:
        _libc("unshare", _CLONE_NEWNET)
        with _Netlink() as netlink:
            pair = _attributes((_IFLA_INFO_KIND, b"veth"))
            netlink.ask(
                _RTM_NEWLINK,
                _NLM_F_CREATE | _NLM_F_EXCL,
                _link() + _attributes((_IFLA_IFNAME, b"picolab\0"), (_IFLA_LINKINFO | _NESTED, pair)),
            )
    except OSError as error:
        return f"a network namespace with virtual devices could not be made ({error.strerror})"
    return None


def sweep(place: str, namespace: int | None) -> None:
    """Remove the network that a machine without a keeper has left, and end whoever is still in it.

    Args:
        namespace: its number, as the keeper noted it; None when the keeper ended before that.
    """
    interface = interface_of(place)
    if alias_of(interface) != place:
        return
    if namespace is not None:
        # The device is there, so its namespace is too: the number cannot mean another one.
        kill_and_wait(_processes_in(namespace))
    with contextlib.suppress(OSError):
        remove(interface)


def _processes_in(namespace: int) -> Iterator[ProcessIdentity]:
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and str((entry / "ns" / "net").readlink()) == f"net:[{namespace}]":
                process = ProcessIdentity.of(int(entry.name))
                if process is not None:
                    yield process


def devices() -> list[tuple[str, str]]:
    """Return (device, name of the machine that it was made for) for all of picolab's devices on this host."""
    try:
        with _Netlink() as netlink:
            names = (_name_and_alias(body) for body in netlink.ask(_RTM_GETLINK, _NLM_F_DUMP, _link()))
    except OSError:
        return []
    return sorted((name, place) for name, place in names if interface_of(place) == name)


def alias_of(interface: str) -> str | None:
    """Return the name of the machine that a device was made for; None when there is no such device."""
    try:
        with _Netlink() as netlink:
            (body,) = netlink.ask(_RTM_GETLINK, 0, _named(interface))
    except OSError:
        return None
    return _name_and_alias(body)[1] or None


def _name_and_alias(body: bytes) -> tuple[str, str]:
    found = dict(_parse_attributes(body[16:]))
    name, alias = found.get(_IFLA_IFNAME, b""), found.get(_IFLA_IFALIAS, b"")
    return name.rstrip(b"\0").decode(errors="replace"), alias.rstrip(b"\0").decode(errors="replace")


def remove(interface: str) -> None:
    """Remove a device of this host's, and with it the other end. Nothing happens when there is none.

    Raises:
        OSError: the kernel refused.
    """
    try:
        with _Netlink() as netlink:
            netlink.ask(_RTM_DELLINK, 0, _named(interface))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise


def _without_ipv6(netlink: "_Netlink", index: int) -> None:
    """Keep a device from assigning itself an IPv6 address. A kernel without IPv6 ignores this."""
    inet6 = _attributes((_IFLA_INET6_ADDR_GEN_MODE, struct.pack("=B", _ADDR_GEN_MODE_NONE)))
    spec = _attributes((_IFLA_AF_SPEC | _NESTED, _attributes((socket.AF_INET6 | _NESTED, inet6))))
    with contextlib.suppress(OSError):
        netlink.ask(_RTM_NEWLINK, 0, _link(index) + spec)


def _random_mac() -> bytes:
    """Return a locally administered unicast hardware address."""
    return bytes([0x02]) + secrets.token_bytes(5)


# Namespaces


def _libc(function: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _setns(namespace: int) -> None:
    _libc("setns", namespace, _CLONE_NEWNET)


@contextlib.contextmanager
def _inside(namespace: int) -> Iterator[None]:
    """Run the block in a namespace. A socket stays in the namespace in which it was made."""
    home = os.open(_OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(namespace)
        try:
            yield
        finally:
            _setns(home)
    finally:
        os.close(home)


def _new_namespace() -> "tuple[int, _Netlink]":
    """Return a descriptor of a new namespace, and a connection to its devices."""
    home = os.open(_OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _libc("unshare", _CLONE_NEWNET)
        try:
            return os.open(_OWN_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC), _Netlink()
        finally:
            _setns(home)
    finally:
        os.close(home)


# Netlink


class _Netlink:
    """A connection to the network devices of the namespace in which it was made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._sequence = 0

    def __enter__(self) -> "_Netlink":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, kind: int, flags: int, body: bytes) -> list[bytes]:
        """Send a request; return the bodies of what was answered.

        Raises:
            OSError: the kernel refused.
        """
        self._sequence += 1
        if not flags & _NLM_F_DUMP or flags & _NLM_F_CREATE:
            flags |= _NLM_F_ACK
        head = struct.pack("=IHHII", 16 + len(body), kind, flags | _NLM_F_REQUEST, self._sequence, 0)
        self._socket.sendall(head + body)
        answers: list[bytes] = []
        while True:
            data = self._socket.recv(1 << 18)
            while data:
                length, answer, _flags, sequence, _port = struct.unpack_from("=IHHII", data)
                content, data = data[16:length], data[(length + 3) & ~3 :]
                if sequence != self._sequence:
                    continue
                if answer == _NLMSG_DONE:
                    return answers
                if answer == _NLMSG_ERROR:
                    (code,) = struct.unpack_from("=i", content)
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    return answers
                answers.append(content)


def _link(index: int = 0, up: bool = False) -> bytes:
    """Return the head of a message about a device."""
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, _IFF_UP * up, _IFF_UP * up)


def _named(interface: str) -> bytes:
    """Return a message about the device of a name."""
    return _link() + _attributes((_IFLA_IFNAME, interface.encode() + b"\0"))


def _address(index: int, address: ipaddress.IPv4Address) -> bytes:
    """Return a message about an address of a device, in a network of `_PREFIX`."""
    scope_of_link = 253
    head = struct.pack("=BBBBI", socket.AF_INET, _PREFIX, 0, scope_of_link, index)
    return head + _attributes((_IFA_LOCAL, address.packed), (_IFA_ADDRESS, address.packed))


def _neighbour(index: int, address: ipaddress.IPv4Address, mac: bytes) -> bytes:
    """Return a message about the hardware address of who is reached through a device."""
    head = struct.pack("=BxxxiHBB", socket.AF_INET, index, _NUD_PERMANENT, 0, 0)
    return head + _attributes((_NDA_DST, address.packed), (_NDA_LLADDR, mac))


def _attributes(*pairs: tuple[int, bytes]) -> bytes:
    text = b""
    for kind, value in pairs:
        padding = b"\0" * (-len(value) % 4)
        text += struct.pack("=HH", 4 + len(value), kind) + value + padding
    return text


def _parse_attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            return
        yield kind & 0x3FFF, data[4:length]
        data = data[(length + 3) & ~3 :]


def _index(netlink: _Netlink, name: str) -> int:
    """Return the index of a device."""
    (body,) = netlink.ask(_RTM_GETLINK, 0, _named(name))
    return int(struct.unpack_from("=BxHiII", body)[2])
