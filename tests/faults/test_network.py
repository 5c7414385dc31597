"""The network between client and server: that of the machine, a namespace of its own which ends with the trial."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import eventually

from picolab.machines.local import network as private_network
from picolab.trial.trial import Trial

from .catalogue import fault
from .conftest import Proof, RunTrial, machine, server_pid

CHECK_NETWORK = "None: a result. If it recurs, check the network between client and server."


@dataclass
class Network:
    """The network between this process and the server of the running trial: the private network of its machine."""

    threads: list[threading.Thread] = field(default_factory=list)

    @property
    def device(self) -> str:
        """The host's end: the one device of this host with the network of the server's address."""
        host = machine().endpoint(0)[0]
        (line,) = subprocess.run(
            ["ip", "-oneline", "address", "show", "to", f"{host}/30"], check=True, capture_output=True, text=True
        ).stdout.splitlines()
        return line.split()[1].partition("@")[0]

    def run(self, *words: str) -> None:
        """Run a command on the server's side."""
        subprocess.run(["nsenter", "-t", str(server_pid()), "-n", *words], check=True, capture_output=True)

    def narrow(self, rate: str) -> None:
        """Let what the client sends pass at this rate at most (tc-tbf(8)), such as `16mbit`."""
        words = f"tc qdisc replace dev {self.device} root tbf rate {rate} burst 256k latency 400ms"
        subprocess.run(words.split(), check=True, capture_output=True)

    def lose(self, probability: float) -> None:
        """Drop packets at random, in both directions."""
        for chain in ("INPUT", "OUTPUT"):
            words = f"iptables -A {chain} -m statistic --mode random --probability {probability} -j DROP"
            self.run(*words.split())

    def cut(self) -> None:
        self.run("ip", "link", "set", "picolab", "down")

    def restore(self) -> None:
        self.run("ip", "link", "set", "picolab", "up")

    def reset(self) -> None:
        """Answer every further packet with a TCP reset, as a firewall does that has lost its table."""
        self.run("iptables", "-A", "INPUT", "-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset")

    def after(self, mib: float, *actions: Callable[[], object], direction: str = "tx") -> Callable[[Trial], None]:
        """Return a function that, from its call on, waits until so much has passed, and then acts."""

        def watch(_: Trial) -> None:
            counter = Path(f"/sys/class/net/{self.device}/statistics/{direction}_bytes")
            goal = int(counter.read_text()) + mib * (1 << 20)

            def act() -> None:
                eventually(lambda: int(counter.read_text()) >= goal, f"{mib} MiB have passed", 20)
                for action in actions:
                    action()

            self.threads.append(threading.Thread(target=act))
            self.threads[-1].start()

        return watch


@pytest.fixture
def network() -> Iterator[Network]:
    """Let a test disturb the network of its machine, which ends with the machine."""
    missing = [word for word in ("nsenter", "ip", "tc", "iptables") if shutil.which(word) is None]
    why_not = f"{', '.join(missing)} not found" if missing else private_network.why_not()
    if why_not:
        pytest.skip(f"machines have no network of their own here: {why_not}")
    made = Network()
    yield made
    for thread in made.threads:
        thread.join()


@fault(
    "network cut in the transfer",
    group="network",
    outcome="stalled",
    see="`no byte was delivered for stall_limit_s = 1 s, after ... of 16.0 MiB`",
    do=CHECK_NETWORK,
)
def test_network_cut_in_the_transfer(run_trial: RunTrial, network: Network, proof: Proof) -> None:
    record = run_trial(
        {"upload": network.after(2, network.cut)},
        calibration={"transfer_mib_s": 8},
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
def test_network_cut_in_the_commit(run_trial: RunTrial, network: Network, proof: Proof) -> None:
    record = run_trial(
        {"upload": network.after(4, lambda: time.sleep(0.1), network.cut)},
        calibration={"commit_mib_s": 3},
        total_limit_s=2,
    )
    proof.record(record, "upload")
    assert record.upload and record.upload.transfer_s


@fault(
    "network cut in the measured download",
    group="network",
    outcome="stalled",
    see="`the download ended after ... MiB`",
    do="None: a result of the download. The numbers of the upload stay valid.",
)
def test_network_cut_in_the_measured_download(run_trial: RunTrial, network: Network, proof: Proof) -> None:
    record = run_trial(
        {"verify": network.after(1, network.cut, direction="rx")},
        calibration={"download_mib_s": 4},
        direction="both",
        stall_limit_s=1,
    )
    proof.record(record, "verify")
    assert record.upload and record.upload.throughput_mib_s


@fault(
    "network interrupted briefly",
    group="network",
    outcome="ok",
    see="A low rate, and a flat section in the progress of the upload.",
    do="None: TCP resends lost data. The number is correct for that network.",
)
def test_network_away_for_a_moment(run_trial: RunTrial, network: Network) -> None:
    record = run_trial(
        {"upload": network.after(2, network.cut, lambda: time.sleep(0.3), network.restore)},
        calibration={"transfer_mib_s": 8},
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
def test_network_resets_the_connection(run_trial: RunTrial, network: Network, proof: Proof) -> None:
    record = run_trial({"upload": network.after(2, network.reset)}, calibration={"transfer_mib_s": 8}, file_size="16M")
    proof.record(record, "upload")


@fault(
    "network too slow",
    group="network",
    outcome="timeout",
    see="`the upload took longer than its limit of 1 s, after ... of 4.0 MiB`",
    do="None: a result. Raise `total_limit_s` or lower `floor_rate_mib_s` for a slow network.",
)
def test_network_too_slow(run_trial: RunTrial, network: Network, proof: Proof) -> None:
    record = run_trial({"upload": lambda _: network.narrow("4mbit")}, calibration={}, total_limit_s=1)
    proof.record(record, "upload")


@fault(
    "network slow",
    group="network",
    outcome="ok",
    see="The rate of the network, not of the server.",
    do="None. Compare builds only over the same network.",
)
def test_network_slow(run_trial: RunTrial, network: Network) -> None:
    record = run_trial({"upload": lambda _: network.narrow("16mbit")}, calibration={}, file_size="3M")
    assert record.outcome == "ok" and record.upload
    # 16 Mbit/s are 1.9 MiB/s, headers included: no client can be faster, and none may claim it.
    assert 0 < (record.upload.transfer_mib_s or 0) < 2.2


@fault(
    "network loses packets",
    group="network",
    outcome="ok",
    see="A lower rate; every byte comes back.",
    do="None: TCP resends them. Compare builds only over the same network.",
)
def test_network_loses_packets(run_trial: RunTrial, network: Network) -> None:
    record = run_trial({"upload": lambda _: network.lose(0.02)}, calibration={}, file_size="2M")
    assert record.outcome == "ok" and record.verify and record.verify.matched
