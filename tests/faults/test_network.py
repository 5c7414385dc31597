"""The network between client and server: a pair of virtual interfaces into a namespace that ends with the test."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import eventually

from picolab.machines.local import LocalMachine
from picolab.trial import Trial

from .catalogue import fault
from .conftest import MisbehavingServer, Proof, RunTrial

CHECK_NETWORK = "Nothing: it is a result. When it comes again, look at the network between client and server."
PAIR = ("198.18.231.1", "198.18.231.2")
"""Addresses of both ends, from the range that is kept for tests of networks."""


@dataclass
class Network:
    """What lies between this process and a server in a namespace of its own."""

    device: str
    namespace_pid: int
    threads: list[threading.Thread] = field(default_factory=list)

    def run(self, *words: str) -> None:
        """Run a command on the server's side."""
        subprocess.run(["nsenter", "-t", str(self.namespace_pid), "-n", *words], check=True, capture_output=True)

    def narrow(self, rate: str) -> None:
        """Let what the client sends pass at this rate at most (tc-tbf(8)), such as `16mbit`."""
        words = f"tc qdisc replace dev {self.device} root tbf rate {rate} burst 64k latency 400ms"
        subprocess.run(words.split(), check=True, capture_output=True)

    def lose(self, probability: float) -> None:
        """Drop packets at random, in both directions."""
        for chain in ("INPUT", "OUTPUT"):
            words = f"iptables -A {chain} -m statistic --mode random --probability {probability} -j DROP"
            self.run(*words.split())

    def cut(self) -> None:
        self.run("ip", "link", "set", "peer", "down")

    def mend(self) -> None:
        self.run("ip", "link", "set", "peer", "up")

    def reset(self) -> None:
        """Answer every further packet with a TCP reset, as a firewall does that has lost its table."""
        self.run("iptables", "-A", "INPUT", "-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset")

    def counted(self, direction: str) -> int:
        return int(Path(f"/sys/class/net/{self.device}/statistics/{direction}_bytes").read_text())

    def after(self, mib: float, *actions: Callable[[], object], direction: str = "tx") -> Callable[[Trial], None]:
        """Return a function that, from its call on, waits until so much has passed, and then acts."""

        def watch(_: Trial) -> None:
            begun = self.counted(direction)

            def act() -> None:
                eventually(lambda: self.counted(direction) - begun >= mib * (1 << 20), "so much has passed", 20)
                for action in actions:
                    action()

            self.threads.append(threading.Thread(target=act))
            self.threads[-1].start()

        return watch


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    """Make a namespace and a way into it; trials of the test reach their server over it."""
    missing = [word for word in ("unshare", "nsenter", "ip", "tc", "iptables") if shutil.which(word) is None]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"a network namespace needs root and {', '.join(missing) or 'nothing else'}")
    holder = subprocess.Popen(["unshare", "--net", "sleep", "600"])
    device = f"picolab-{os.getpid() % 100000}"
    try:
        own = Path("/proc/self/ns/net").readlink()
        eventually(lambda: Path(f"/proc/{holder.pid}/ns/net").readlink() != own, "there is a namespace")
        made = Network(device, holder.pid)
        for words in (
            f"ip link add {device} type veth peer name peer netns {holder.pid}",
            f"ip address add {PAIR[0]}/30 dev {device}",
            f"ip link set {device} up",
        ):
            subprocess.run(words.split(), check=True, capture_output=True)
        made.run("ip", "address", "add", f"{PAIR[1]}/30", "dev", "peer")
        made.mend()
        monkeypatch.setattr(LocalMachine, "endpoint", lambda machine, port: (PAIR[1], port))
        # The listening socket is in another namespace, where nobody looks for it.
        monkeypatch.setattr(LocalMachine, "listener", lambda machine, port: "server")
        yield made
        for thread in made.threads:
            thread.join()
    finally:
        holder.kill()
        holder.wait()
        with contextlib.suppress(subprocess.CalledProcessError):
            subprocess.run(["ip", "link", "delete", device], check=True, capture_output=True)


@pytest.fixture
def distant(network: Network, server_that: MisbehavingServer) -> Callable[..., str]:
    """Make a calibration server that listens in the network's namespace: `distant(commit_mib_s=2)`."""

    def make(**knobs: Any) -> str:
        enter = (
            "import ctypes\n"
            f"inside = os.open('/proc/{network.namespace_pid}/ns/net', os.O_RDONLY)\n"
            "assert ctypes.CDLL(None).setns(inside, 0x40000000) == 0\n"
            f"os.environ['PICOLAB_CALIBRATION_HOST'] = '{PAIR[1]}'"
        )
        return server_that(enter, **knobs)

    return make


Distant = Callable[..., str]


@fault(
    "network cut in the transfer",
    group="network",
    outcome="stalled",
    see="`no byte was delivered for stall_limit_s = 1 s, after ... of 16.0 MiB`",
    do=CHECK_NETWORK,
)
def test_network_cut_in_the_transfer(run_trial: RunTrial, network: Network, distant: Distant, proof: Proof) -> None:
    record = run_trial(
        {"upload": network.after(2, network.cut)},
        build=distant(transfer_mib_s=8),
        file_size="16M",
        stall_limit_s=1,
    )
    proof.record(record, "upload")
    assert record.upload and 0 < record.upload.delivered_bytes < 16 << 20


@fault(
    "network cut in the commit",
    group="network",
    outcome="timeout",
    see="`the upload took longer than its limit of 2 s, after 4.0 of 4.0 MiB`",
    do=CHECK_NETWORK,
)
def test_network_cut_in_the_commit(run_trial: RunTrial, network: Network, distant: Distant, proof: Proof) -> None:
    record = run_trial(
        {"upload": network.after(4, lambda: time.sleep(0.1), network.cut)},
        build=distant(commit_mib_s=3),
        total_limit_s=2,
    )
    proof.record(record, "upload")
    assert record.upload and record.upload.transfer_s


@fault(
    "network cut in the measured download",
    group="network",
    outcome="stalled",
    see="`the download ended after ... MiB`",
    do="Nothing: it is a result of the download; the numbers of the upload stay.",
)
def test_network_cut_in_the_measured_download(
    run_trial: RunTrial, network: Network, distant: Distant, proof: Proof
) -> None:
    record = run_trial(
        {"verify": network.after(1, network.cut, direction="rx")},
        build=distant(download_mib_s=4),
        direction="both",
        stall_limit_s=1,
    )
    proof.record(record, "verify")
    assert record.upload and record.upload.throughput_mib_s


@fault(
    "network away for a moment",
    group="network",
    outcome="ok",
    see="A rate that is too low, and a flat piece in the progress of the upload.",
    do="Nothing: TCP sends again what was lost. The number is true of that network.",
)
def test_network_away_for_a_moment(run_trial: RunTrial, network: Network, distant: Distant) -> None:
    record = run_trial(
        {"upload": network.after(2, network.cut, lambda: time.sleep(0.3), network.mend)},
        build=distant(transfer_mib_s=8),
        file_size="8M",
    )
    assert record.outcome == "ok" and record.verify and record.verify.matched


@fault(
    "network resets the connection",
    group="network",
    outcome="http_error",
    see="`the server closed the connection without an answer, after ... of 16.0 MiB`",
    do=CHECK_NETWORK,
)
def test_network_resets_the_connection(run_trial: RunTrial, network: Network, distant: Distant, proof: Proof) -> None:
    record = run_trial({"upload": network.after(2, network.reset)}, build=distant(transfer_mib_s=8), file_size="16M")
    proof.record(record, "upload")


@fault(
    "network too slow",
    group="network",
    outcome="timeout",
    see="`the upload took longer than its limit of 1 s, after ... of 4.0 MiB`",
    do="Nothing: it is a result. Raise `total_limit_s` or lower `floor_rate_mib_s` for a slow network.",
)
def test_network_too_slow(run_trial: RunTrial, network: Network, distant: Distant, proof: Proof) -> None:
    record = run_trial({"upload": lambda _: network.narrow("4mbit")}, build=distant(), total_limit_s=1)
    proof.record(record, "upload")


@fault(
    "network slow",
    group="network",
    outcome="ok",
    see="A rate that is the network's and not the server's.",
    do="Nothing. Compare builds only over the same network.",
)
def test_network_slow(run_trial: RunTrial, network: Network, distant: Distant) -> None:
    record = run_trial({"upload": lambda _: network.narrow("16mbit")}, build=distant(), file_size="3M")
    assert record.outcome == "ok" and record.upload
    # 16 Mbit/s are 1.9 MiB/s, headers included: no client can be faster, and none may claim it.
    assert 0 < (record.upload.transfer_mib_s or 0) < 2.2


@fault(
    "network loses packets",
    group="network",
    outcome="ok",
    see="A lower rate; every byte comes back.",
    do="Nothing: TCP sends them again. Compare builds only over the same network.",
)
def test_network_loses_packets(run_trial: RunTrial, network: Network, distant: Distant) -> None:
    record = run_trial({"upload": lambda _: network.lose(0.02)}, build=distant(), file_size="2M")
    assert record.outcome == "ok" and record.verify and record.verify.matched
