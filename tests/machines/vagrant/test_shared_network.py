"""libvirt's network for the machines of all projects: two that need it at the same time both get it.

The libvirt is this host's, and the network one of the test's own name and addresses.
"""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from picolab.machines.vagrant import libvirt, network, network_and_pool

pytestmark = pytest.mark.vm


@pytest.fixture
def own_network(scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = "picolab-test-shared"
    monkeypatch.setattr(libvirt, "NETWORK", name)
    monkeypatch.setattr(network, "_XML", network._XML.replace("192.168.121.", "192.168.249."))
    monkeypatch.setattr(network, "_LOCKED", tmp_path)
    # Machines of other tests may run, and do not use this network.
    monkeypatch.setattr(libvirt, "all_domains", dict)
    yield name
    for command in ("net-destroy", "net-undefine"):
        with contextlib.suppress(libvirt.LibvirtError):
            libvirt.virsh(command, name)


def test_two_first_boots_at_once_both_get_the_network(own_network: str) -> None:
    begin, both_have_it, watched = threading.Barrier(3), threading.Barrier(2), threading.Event()
    seen = set()

    def boot() -> str:
        begin.wait(60)
        with network.in_use():
            both_have_it.wait(60)
            state = libvirt.network()
            assert network_and_pool.unused() == [], "a clean-up meanwhile"
            return state

    def watch() -> None:
        begin.wait(60)
        while not watched.is_set():
            seen.add(libvirt.network())

    with ThreadPoolExecutor(3) as threads:
        with network_and_pool.noted():
            watching = threads.submit(watch)
            boots = [threads.submit(boot) for _ in range(2)]
            try:
                assert [one.result(120) for one in boots] == ["active", "active"]
            finally:
                watched.set()
        watching.result(60)
    assert "inactive" not in seen, "who looks takes it for one that somebody has stopped, and refuses to begin"
    assert libvirt._state_in(libvirt.virsh("net-list", "--all", "--persistent"), own_network) == "active"

    assert network_and_pool.unused() == ["network"]
    network_and_pool.remove("network")
    assert libvirt.network() == "missing" and network_and_pool.unused() == []
