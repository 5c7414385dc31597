"""The sockets on which a machine's server listens."""

import contextlib
import ipaddress
import sys

from picolab.agent import procfs

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def listening_sockets(port: int, processes: list[int]) -> dict[str, Address]:
    """Return {inode: address} of the sockets that listen on a TCP port.

    Args:
        processes: whose network is looked at: that of the first which lives.
    """
    for pid in processes:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            return {inode: _address(text) for inode, text in procfs.listening_sockets(port, pid).items()}
    return {}


def _address(text: str) -> Address:
    """Return an address as /proc shows it: words of the network's byte order, each printed as a number of this host."""
    words = (text[start : start + 8] for start in range(0, len(text), 8))
    return ipaddress.ip_address(b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words))


def is_loopback(address: Address) -> bool:
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
