"""What a campaign on many hosts costs at home and in the scheduler, and where 1,000 hosts and a million trials break.

    python benchmarks/scale_out.py [--hosts 1000] [--filed 10000] [--tasks 500] [--trials 1000000]

Nothing is uploaded: orders are answered at once with parcels like those of a trial of 100 MiB. It measures three runs
of a comparison, each the real loop of a campaign with the real filing:

1. on 1,000 hosts that stand in for a cluster in this process, one trial after the other, 1,000 open all the time;
2. on two such hosts;
3. through a real scheduler with two real workers on loopback. The difference to the second run is the transport.

The CPU of making the parcels is taken out. With these costs it simulates hosts that are ready at once, one order each,
and prints how busy they can be kept for several lengths of a trial.
"""

import argparse
import heapq
import json
import os
import sys
import tempfile
import time
import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import distributed_cluster
import psutil
from campaign_factory import FakeTrial, make_notebook, make_record, make_samples, write_campaign
from distributed import get_worker

from picolab.campaign.progress import Watcher
from picolab.config.plan import Plan, PlannedTrial
from picolab.distributed.campaign import begin
from picolab.distributed.capacity import Capacity, Host
from picolab.distributed.cluster import Begun, Cluster
from picolab.distributed.order import Attempt, Order, Parcel
from picolab.exit_codes import ExitCode
from picolab.record.record import RECORD_SCRAP, SAMPLES_SCRAP
from picolab.results.ledger import LedgerEntry

HERE = Path(__file__).resolve().parents[1]
PARCEL_BYTES = 100_000
"""Of a trial of 100 MiB, compressed: notebook, record, samples and logs."""
NEVER_KEPT = {"keep_machine": "never"}
PRELOAD = "\nimport scale_out\nworker.run_order = scale_out.answer\n"
"""Has a worker answer orders instead of running them."""


def plan_of(folder: Path, name: str, trials: int) -> Plan:
    """Return the plan of a comparison of two builds."""
    both = [
        FakeTrial(block=block, label=label, parameters_too=NEVER_KEPT)
        for block in range(1, trials // 2 + 1)
        for label in ("old", "new")
    ]
    return Plan.load(write_campaign(folder / name, [], both)).model_copy(update={"baseline": "old"})


def answer(text: str) -> dict[str, Any]:
    """Take an order and return a parcel, as a worker does, without running anything."""
    plan = Order.model_validate_json(text).plan
    try:
        address = str(get_worker().address)
    except ValueError:
        address = "tcp://w:1"
    return Parcel(ending="ran", worker=address, attempts=[_attempt(plan, trial) for trial in plan.trials]).model_dump()


def _attempt(plan: Plan, trial: PlannedTrial) -> Attempt:
    ran = FakeTrial(
        block=trial.block,
        label=trial.parameters.label,
        parameters_too=NEVER_KEPT,
        facts={"identity.trial_id": trial.trial_id},
    )
    record = make_record(ran, trial.position, plan.campaign)
    notebook = make_notebook(**{RECORD_SCRAP: record, SAMPLES_SCRAP: make_samples(ran, trial.position)})
    files = {"record.json": record, "trial.ipynb": notebook}
    packed = {name: zlib.compress(json.dumps(content).encode(), 3) for name, content in files.items()}
    packed["server.log"] = zlib.compress(os.urandom(PARCEL_BYTES - sum(map(len, packed.values()))), 0)
    began = record["identity"]["started_at"]
    entry = LedgerEntry(
        trial_id=trial.trial_id, attempt=1, outcome=record["outcome"], outcome_detail="", duration_s=1.0,
        started_at=began, ended_at=began, notebook=None, record=None,
    )  # fmt: skip
    return Attempt(entry=entry, files=packed)


class Running:
    """Stands in for the future of an order."""

    status = "pending"

    def __init__(self, hosts: "Hosts", address: str, order: str, done: Callable[[Any], None]) -> None:
        self.hosts, self.address, self.order, self.done = hosts, address, order, done

    def result(self, timeout: float) -> dict[str, Any]:
        """Return a parcel."""
        begun = time.thread_time()
        try:
            return answer(self.order) | {"worker": self.address}
        finally:
            self.hosts.answering_s += time.thread_time() - begun


class Hosts:
    """Stands in for a cluster: an order ends when each host has one, so that nearly all of them are always open.

    Args:
        count: of the hosts.
        orders: of the whole campaign.
    """

    address, session, is_connected, worker_command = "tcp://s:1", "s" * 32, True, ""

    def __init__(self, count: int, orders: int) -> None:
        hosts = (Host(f"tcp://10.0.{n // 250}.{n % 250}:1", 1, 8e9, f"host{n}", f"boot{n}") for n in range(count))
        self._capacity = Capacity(tuple(hosts))
        self._left = orders
        self._begun: list[Begun] = []
        self._open: deque[Running] = deque()
        self.answering_s = 0.0
        self.filed_at_s: list[float] = []

    def check_workers(self) -> Capacity:
        """Return all hosts, like `capacity`."""
        return self._capacity

    capacity = check_workers

    def notes(self, _capacity: Capacity) -> list[str]:
        """Return nothing to say."""
        return []

    def submit(self, order: str, _key: str, _resources: object, _workers: object, done: Callable[[Any], None]) -> Any:
        """Take an order."""
        self._left -= 1
        begun = time.thread_time()
        host = self._capacity.hosts[self._left % len(self._capacity.hosts)]
        self._begun.append(Begun(Order.model_validate_json(order).key, host.address, host.hostname))
        self.answering_s += time.thread_time() - begun
        one = Running(self, host.address, order, done)
        self._open.append(one)
        if len(self._open) == len(self._capacity.hosts) or not self._left:
            self._end_one()
        return one

    def begun(self) -> list[Begun]:
        """Return the orders that have begun since the last call: all, at once."""
        found, self._begun = self._begun, []
        return found

    def _end_one(self) -> None:
        if self._open:
            one = self._open.popleft()
            one.status = "finished"
            one.done(one)

    def forget(self, _address: str, _key: str) -> None:
        """Note that a parcel was filed."""
        self.filed_at_s.append(time.process_time() - self.answering_s)
        if not self._left:
            self._end_one()

    def forget_everywhere(self, _keys: list[str]) -> None:
        """Forget nothing."""

    def close(self) -> None:
        """Close nothing."""


def loop_s(plan: Plan, hosts: int) -> tuple[float, float, float]:
    """Return the CPU seconds of the client for each trial on hosts in this process: first tenth, last tenth, all."""
    cluster = Hosts(hosts, len(plan.trials) // 2)
    begun = time.process_time()
    assert begin(plan, Watcher(), cluster).run() is ExitCode.OK  # type: ignore[arg-type]
    all_s = (time.process_time() - begun - cluster.answering_s) / len(plan.trials)
    at_s = cluster.filed_at_s
    tenth = max(1, len(at_s) // 10)
    return (at_s[tenth] - at_s[0]) / tenth / 2, (at_s[-1] - at_s[-1 - tenth]) / tenth / 2, all_s


def through_scheduler_s(folder: Path, plan: Plan) -> tuple[float, float, float]:
    """Return for each trial through a real scheduler: seconds, CPU seconds of the client and of the scheduler."""
    distributed_cluster.PRELOAD += PRELOAD
    with distributed_cluster.cluster_in(folder / "cluster", 2) as made, Cluster(made.address) as cluster:
        assert made.scheduler is not None
        scheduler = psutil.Process(made.scheduler.pid)
        begun, cpu, before = time.monotonic(), time.process_time(), scheduler.cpu_times()
        assert begin(plan, Watcher(), cluster).run() is ExitCode.OK
        after = scheduler.cpu_times()
        busy_s = after.user - before.user + after.system - before.system
        took = time.monotonic() - begun, time.process_time() - cpu, busy_s
    seconds, client_s, scheduler_s = (one / len(plan.trials) for one in took)
    return seconds, client_s, scheduler_s


def simulate(hosts: int, trials: int, trial_s: float, home_s: float, scheduler_s: float) -> tuple[float, float]:
    """Return the hours that a campaign takes, and the share of them that hosts measure.

    The scheduler and the client are queues with one place each: an order goes through the scheduler, runs on a host,
    comes back through the scheduler and is filed by the client, which then gives the host the next order.
    """
    free = [(0.0, host) for host in range(hosts)]
    heapq.heapify(free)
    scheduler_free = home_free = end = 0.0
    for _ in range(trials):
        ready, host = heapq.heappop(free)
        scheduler_free = max(scheduler_free, ready) + scheduler_s
        ended = scheduler_free + trial_s
        # Parcels are handled in the order in which their hosts became free: all trials take the same time.
        home_free = max(home_free, ended) + home_s
        end = home_free
        heapq.heappush(free, (home_free, host))
    return end / 3600, trials * trial_s / (hosts * end)


def main() -> None:
    """Measure, simulate, print."""
    parser = argparse.ArgumentParser(description="Costs of a campaign on many hosts, and a simulation of a large one.")
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--filed", type=int, default=10_000)
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--trials", type=int, default=1_000_000)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="picolab-scale-", dir="/var/tmp") as name:
        folder = Path(name)
        os.environ["PICOLAB_STATE_DIR"], os.environ["PICOLAB_OUTPUTS_DIR"] = f"{name}/state", f"{name}/outputs"
        os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (HERE / "tests", HERE / "benchmarks", HERE)))
        begun = time.monotonic()
        first_s, last_s, _ = loop_s(plan_of(folder, "many", wanted.filed), wanted.hosts)
        many_s = (time.monotonic() - begun) / wanted.filed
        few_s = loop_s(plan_of(folder, "few", wanted.tasks), 2)[-1]
        rate_s, client_s, scheduler_s = through_scheduler_s(folder, plan_of(folder, "real", wanted.tasks))
    print(
        f"a trial at home, {wanted.hosts} hosts: {first_s * 1e3:.1f} ms of CPU at first, {last_s * 1e3:.1f} ms at the "
        f"end of {wanted.filed} trials, {many_s * 1e3:.1f} ms in all; 2 hosts: {few_s * 1e3:.1f} ms"
    )
    print(
        f"through a scheduler on loopback with two workers: {1 / rate_s:.0f} trials a second; a trial takes "
        f"{client_s * 1e3:.1f} ms of the client's CPU and {scheduler_s * 1e3:.1f} ms of the scheduler's"
    )
    home_s = last_s + max(0.0, client_s - few_s)
    print(f"the client files at most {1 / home_s:.0f} trials a second")
    print("trial   hosts  hours  busy")
    for trial_s in (5.0, 10.0, 30.0, 60.0, 600.0):
        hours, busy = simulate(wanted.hosts, wanted.trials, trial_s, home_s, scheduler_s)
        print(f"{trial_s:4.0f} s  {wanted.hosts:6d} {hours:6.1f}  {busy:.0%}; at most {trial_s / home_s:,.0f} hosts")


if __name__ == "__main__":
    main()
