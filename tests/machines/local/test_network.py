"""The network of a local machine for real: namespaces, virtual devices and addresses of this kernel."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
from conftest import alive, eventually

from picolab.doctor import leftovers, tools
from picolab.errors import MachineError
from picolab.host.processes import ProcessIdentity, this_process
from picolab.machines import folders, registry
from picolab.machines.base import Holder, MachineWish, ProcessSpec
from picolab.machines.local import checks as local_checks
from picolab.machines.local import keeper as keeper_module
from picolab.machines.local import machine as local
from picolab.machines.local import network
from picolab.machines.local.keeper import Keeper
from picolab.machines.local.machine import LocalMachine
from picolab.machines.local.network import NoPrivateNetwork, PrivateNetwork

needs_root = pytest.mark.skipif(network.why_not() is not None, reason="only root may make a network namespace")

LISTENER = "import socket, time; s = socket.create_server(('', {port})); print('up', flush=True); time.sleep(1000)"

Make = Callable[[str], PrivateNetwork]


@pytest.fixture
def make(scratch: Path) -> Iterator[Make]:
    """Make networks, and remove them at the end."""
    made: list[PrivateNetwork] = []

    def made_for(name: str) -> PrivateNetwork:
        made.append(network.make(f"{scratch.name}-{name}"))
        return made[-1]

    yield made_for
    for one in made:
        with contextlib.suppress(OSError):
            one.close()


@pytest.fixture
def machine() -> Iterator[LocalMachine]:
    yield obtain()
    registry.release_by_name("local")


def obtain(name: str = "local", holder: ProcessIdentity | None = None, keep: bool = False) -> LocalMachine:
    return LocalMachine.obtain(MachineWish(name, 64, "none", ""), Holder(holder or this_process(), keep))


def run(machine: LocalMachine, *argv: str) -> int:
    spec = ProcessSpec([*argv], {"PATH": os.defpath}, local.state_dir() / "log")
    pid = machine.start_process(spec).pid
    assert pid is not None
    return pid


def keeper_state(machine: LocalMachine) -> dict[str, Any]:
    return dict(json.loads((machine.folder / "keeper.json").read_text()))


def device_of(machine: LocalMachine) -> str:
    return network.interface_of(json.loads((machine.folder / "machine.json").read_text())["place"])


def namespace_of(pid: int | str) -> str:
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def devices() -> list[str]:
    return sorted(folder.name for folder in Path("/sys/class/net").iterdir())


def has_device(interface: str) -> bool:
    return Path(f"/sys/class/net/{interface}").exists()


def listener_in(made: PrivateNetwork) -> socket.socket:
    with network._inside(made.namespace):
        return socket.create_server(("", 0))


# ---- what it is ----------------------------------------------------------------------------------


@needs_root
def test_this_host_reaches_a_server_on_all_interfaces(machine: LocalMachine) -> None:
    port = machine.free_port()
    pid = run(machine, sys.executable, "-c", LISTENER.format(port=port))
    eventually(machine.process_log, "it listens")
    assert machine.listener(port) == "server" and machine.exposed_addresses(port) == []
    socket.create_connection(machine.endpoint(port), timeout=60).close()
    for address in ("127.0.0.1", socket.gethostname()):
        with pytest.raises(OSError), socket.create_connection((address, port), timeout=60):
            pass
    described = machine.describe().network
    assert described is not None and (described.kind, described.reason) == ("private", None)
    assert namespace_of(pid) == f"net:[{keeper_state(machine)['network']['namespace']}]"
    assert namespace_of(pid) != namespace_of("self")


@needs_root
def test_there_is_no_way_out_and_no_ipv6(make: Make) -> None:
    made = make("a")
    with network._inside(made.namespace):
        routes = Path("/proc/thread-self/net/route").read_text().splitlines()[1:]
        six = Path("/proc/thread-self/net/if_inet6")
        addresses = [line.split() for line in six.read_text().splitlines()] if six.exists() else []
        with pytest.raises(OSError, match="unreachable"), socket.create_connection(("192.0.2.1", 80), timeout=60):
            pass
    (only,) = routes
    assert int(only.split()[7], 16).bit_count() == 30
    assert {fields[5] for fields in addresses} <= {"lo"}
    on_host = Path("/proc/net/if_inet6")
    assert not on_host.exists() or made.interface not in on_host.read_text()


FORWARDING_HOST = """
import ctypes, ipaddress, os, socket, subprocess, sys
from pathlib import Path
from picolab.machines.local import network

def inside(made, *command):
    enter = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{made.namespace}"]
    subprocess.run([*enter, *command], check=True, timeout=60)

def reached(source, address, port, sender=None):
    with network._inside(source.namespace):
        try:
            socket.create_connection((address, port), 2, (sender, 0) if sender else None).close()
            return True
        except OSError:
            return False

# This process is the host, with a network of its own, in which packets are forwarded.
assert ctypes.CDLL(None).unshare(0x40000000) == 0
Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=60)
outside, neighbour, machine = (network.make(name) for name in ("outside", "neighbour", "machine"))
# Two other hosts with ordinary addresses that use this one as their router, and a machine of picolab's.
for made, router, address in ((outside, "192.0.2.1", "192.0.2.2"), (neighbour, "192.0.2.5", "192.0.2.6")):
    subprocess.run(["ip", "addr", "add", f"{router}/30", "dev", made.interface], check=True, timeout=60)
    inside(made, "ip", "addr", "add", f"{address}/30", "dev", "picolab")
    inside(made, "ip", "route", "add", "default", "via", router)
port = 4001
listeners = []
for made in (neighbour, machine):
    with network._inside(made.namespace):
        listeners.append(socket.create_server(("", port)))
assert reached(outside, "192.0.2.6", port), "packets are forwarded here"
answers = [reached(made, machine.server_address, port) for made in (outside, neighbour)]
# Nor does one who takes the address that this host has in the machine's network, and sends from that.
forged = str(ipaddress.ip_address(machine.server_address) - 1)
inside(outside, "ip", "addr", "add", f"{forged}/32", "dev", "lo")
answers.append(reached(outside, machine.server_address, port, forged))
socket.create_connection((machine.server_address, port), timeout=60).close()
print(answers)
"""


@needs_root
@pytest.mark.skipif(not (shutil.which("ip") and shutil.which("nsenter")), reason="ip and nsenter make the other hosts")
def test_no_other_host_reaches_it_even_with_ip_forwarding() -> None:
    done = subprocess.run([sys.executable, "-c", FORWARDING_HOST], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[False, False, False]", done.stderr


@needs_root
def test_machines_side_by_side_have_networks_of_their_own(scratch: Path) -> None:
    code = (
        "import sys; from picolab.machines.local import network\n"
        "made = network.make(sys.argv[1]); print(made.server_address, flush=True); sys.stdin.read(); made.close()"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, f"{scratch.name}-{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(8)
    ]
    try:
        addresses = [process.stdout.readline().strip() for process in processes if process.stdout]
        networks = [IPv4Network((address, 30), strict=False) for address in addresses]
        assert len(set(networks)) == len(processes)
        assert all(one.subnet_of(IPv4Network("169.254.0.0/16")) for one in networks)
    finally:
        for process in processes:
            process.communicate(timeout=60)
    assert not any(has_device(network.interface_of(f"{scratch.name}-{number}")) for number in range(8))


@needs_root
def test_a_network_that_somebody_has_is_not_taken(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = IPv4Network((make("first").server_address, 30), strict=False)
    third, fourth = taken.network_address.packed[2:]
    # What is drawn: the taken one, one of a cloud's metadata, then a free one.
    free = (fourth // 4 + 1) % 64
    drawn = iter([third - 1, fourth // 4, 168, 63, third - 1, fourth // 4, third - 1, free])
    monkeypatch.setattr(network.secrets, "randbelow", lambda _: next(drawn))
    second = make("second")
    assert second.server_address == f"169.254.{third}.{4 * free + 2}"


@needs_root
def test_what_is_left_under_its_name_is_replaced(make: Make) -> None:
    first, second = make("same"), make("same")
    assert first.interface == second.interface
    with listener_in(second) as listener:
        socket.create_connection((second.server_address, listener.getsockname()[1]), timeout=60).close()


def test_names_fit_the_kernel() -> None:
    names = {network.interface_of(f"picolab-{name}-12345678") for name in ("a", "b" * 200, "ü", "local")}
    assert len(names) == 4 and all(len(name) <= 15 for name in names)


# ---- its end -------------------------------------------------------------------------------------


@needs_root
def test_it_ends_with_its_machine(machine: LocalMachine) -> None:
    device = device_of(machine)
    run(machine, "sleep", "1000")
    assert has_device(device)
    machine.release()
    assert not has_device(device)


@needs_root
def test_it_ends_when_its_keeper_is_killed(machine: LocalMachine) -> None:
    device, server = device_of(machine), run(machine, "sleep", "1000")
    os.kill(keeper_state(machine)["process"]["pid"], signal.SIGKILL)
    eventually(lambda: not alive(server) and not has_device(device), "the kernel ends server and network")
    assert registry.sweep() == ["local"]


@needs_root
def test_a_sweep_ends_who_is_still_in_it(machine: LocalMachine) -> None:
    device = device_of(machine)
    run(machine, "sh", "-c", "setsid sleep 1000 & echo $!; wait")
    straggler = int(eventually(machine.process_log, "the child's pid"))
    os.kill(keeper_state(machine)["process"]["pid"], signal.SIGKILL)
    eventually(lambda: LocalMachine.attach("local") is None, "the keeper is gone")
    assert alive(straggler) and has_device(device)
    assert registry.sweep() == ["local"]
    assert not alive(straggler)
    eventually(lambda: not has_device(device), "the device is gone")


@needs_root
def test_a_sweep_leaves_a_device_that_was_made_for_somebody_else(make: Make, scratch: Path) -> None:
    made = make("mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "interface_of", lambda _: made.interface)
        network.sweep(f"{scratch.name}-other", made.inode)
    assert has_device(made.interface)
    network.sweep(f"{scratch.name}-mine", None)
    assert not has_device(made.interface)


@needs_root
def test_a_kept_machine_is_reached_from_any_process(scratch: Path) -> None:
    holder = subprocess.Popen(["sleep", "1000"])
    identity = ProcessIdentity.of(holder.pid)
    assert identity is not None
    machine = obtain(holder=identity, keep=True)
    try:
        port = machine.free_port()
        code = (
            f"import http.server as h; h.ThreadingHTTPServer(('', {port}), h.SimpleHTTPRequestHandler).serve_forever()"
        )
        run(machine, sys.executable, "-c", code)
        eventually(lambda: machine.listener(port) == "server", "it listens")
        holder.kill()
        holder.wait()
        attached = LocalMachine.attach("local")
        assert attached is not None and attached.endpoint(port) == machine.endpoint(port)
        host, host_port = attached.endpoint(port)
        with urllib.request.urlopen(f"http://{host}:{host_port}/", timeout=60) as answer:
            assert answer.status == 200
    finally:
        holder.kill()
        holder.wait()
        registry.release_by_name("local")


# ---- where there can be none ---------------------------------------------------------------------


@needs_root
def test_an_ordinary_user_is_told_why(scratch: Path) -> None:
    code = (
        "import os; os.setgid(65534); os.setuid(65534)\n"
        "from picolab.machines.local import network\n"
        "print(network.why_not()); print(network.try_out())"
    )
    done = subprocess.run(
        [sys.executable, "-c", "import picolab.machines.local.network\n" + code], capture_output=True, text=True
    )
    assert done.stdout.splitlines() == ["making network devices needs root (CAP_NET_ADMIN)"] * 2, done.stderr


def test_a_machine_without_one_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "why_not", lambda: "the test wants none")
    machine = obtain()
    try:
        described = machine.describe().network
        assert described is not None and (described.kind, described.reason) == ("host", "the test wants none")
        port = machine.free_port()
        run(machine, sys.executable, "-c", LISTENER.format(port=port))
        eventually(machine.process_log, "it listens")
        assert machine.exposed_addresses(port) == [f"0.0.0.0:{port}"]
        assert machine.endpoint(port) == ("127.0.0.1", port)
    finally:
        machine.release()


def test_a_network_that_fails_midway_is_a_fault(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scratch)

    def fails(place: str) -> PrivateNetwork:
        raise NoPrivateNetwork("the firewall forbids it")

    def works(place: str) -> PrivateNetwork:
        return PrivateNetwork("none", "169.254.1.2", os.open("/proc/self/ns/net", os.O_RDONLY))

    def set_up(number: int) -> dict[str, Any]:
        folder = scratch / "state" / "machines" / str(number)
        folder.mkdir(parents=True)
        spec = {
            "place": f"picolab-{number}",
            "work": str(scratch / f"picolab-{number}"),
            "method": "none",
            "limit_bytes": 0,
            "no_private_network": None,
            "holder": this_process().to_json(),
            "keep": False,
        }
        (folder / "machine.json").write_text(json.dumps(spec))
        keeper = Keeper(folder)
        try:
            keeper.set_up().close()
            return dict(json.loads((folder / "keeper.json").read_text())["network"])
        finally:
            keeper.take_down()

    monkeypatch.setattr(keeper_module.network, "make", fails)
    assert set_up(1) == {
        "kind": "host",
        "reason": "the firewall forbids it",
        "address": "127.0.0.1",
        "namespace": None,
    }
    monkeypatch.setattr(keeper_module.network, "make", works)
    monkeypatch.setattr(network, "remove", lambda interface: None)
    assert set_up(2)["kind"] == "private"
    monkeypatch.setattr(keeper_module.network, "make", fails)
    memory = scratch / "state" / "machines" / ".private_network.worked"
    with pytest.raises(MachineError, match=r"any more.*the firewall forbids it") as caught:
        set_up(3)
    assert str(memory) in str(caught.value)
    # Another boot, or what the message advises: the memory is gone.
    memory.write_text("user 0, boot another\n")
    assert set_up(4)["kind"] == "host"


# ---- the doctor ----------------------------------------------------------------------------------


@needs_root
def test_the_doctor_leaves_the_hosts_network_unchanged() -> None:
    ours = (namespace_of("self"), network.why_not())
    (finding,) = local_checks.private_network()
    assert finding.state == "good", finding
    assert (namespace_of("self"), network.why_not()) == ours
    assert "picolab" not in devices()


def test_the_doctor_names_the_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "why_not", lambda: "making network devices needs root (CAP_NET_ADMIN)")
    (finding,) = local_checks.private_network()
    assert finding.state == "gap" and "CAP_NET_ADMIN" in finding.text and "other hosts" in finding.text


@needs_root
def test_a_device_of_a_forgotten_machine_is_found_and_removed(scratch: Path) -> None:
    place = f"picolab-local-{folders.state_mark(folders.machines_dir())}"
    strangers = f"picolab-local-{folders.state_mark(scratch)}"
    ours, other = network.make(place), network.make(strangers)
    try:
        assert {(ours.interface, place), (other.interface, strangers)} <= set(network.devices())
        (finding,) = tools.leftovers()
        assert ours.interface in finding.text and finding.remedy == "picolab clean"
        found = [leftover for leftover in leftovers.find()[0] if leftover.kind == "network device of no machine"]
        assert [leftover.what for leftover in found] == [f"{ours.interface} ({place})"]
        assert leftovers.remove(found) == []
        assert not has_device(ours.interface) and has_device(other.interface)
        assert tools.leftovers()[0].state == "good"
    finally:
        ours.close()
        other.close()


@needs_root
def test_the_device_of_a_machine_is_no_leftover(machine: LocalMachine) -> None:
    assert device_of(machine) in dict(network.devices())
    assert not [leftover for leftover in leftovers.find()[0] if "network" in leftover.kind]
    assert tools.leftovers()[0].state == "good"
