"""What a campaign on many hosts costs at home and in the scheduler, and where 1,000 hosts and a million trials break.

    python benchmarks/scale_out.py [--tasks 2000] [--filed 300] [--hosts 1000] [--trials 1000000]

Measures two things here: orders through a real scheduler on loopback with two workers that only answer (so it is the
scheduler, the client and the transport), and the filing of parcels at home. Then it simulates, with these costs, hosts
that are ready at once, one order each, and prints how busy they can be kept for several lengths of a trial.
"""

import argparse
import heapq
import json
import os
import sys
import tempfile
import time
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from campaign_factory import FakeTrial, write_campaign
from distributed_cluster import cluster_in

from picolab.campaign.progress import Watcher
from picolab.campaign.runner import Campaign
from picolab.config.plan import Plan
from picolab.distributed.campaign import with_cluster
from picolab.distributed.cluster import Cluster
from picolab.distributed.order import Attempt, Parcel, part_of
from picolab.results.ledger import LedgerEntry

PARCEL_BYTES = 100_000
"""Of a trial of 100 MiB, compressed: notebook, record, samples and logs."""


def answer(order: str) -> bytes:
    """Take an order and send a parcel, as a worker does, without running anything."""
    return os.urandom(PARCEL_BYTES)


def orders_per_s(folder: Path, tasks: int) -> tuple[float, float]:
    """Return orders a second through a real scheduler, and CPU seconds of this process for each."""
    from distributed import as_completed

    with cluster_in(folder / "cluster", 2) as made, Cluster(made.address) as cluster:
        client, order = cluster._client, "x" * 3000
        begun, cpu = time.monotonic(), time.process_time()
        first = [client.submit(answer, order, pure=False, resources={"machine": 1}) for _ in range(2)]
        open_, sent = as_completed(first, loop=client.loop), 2
        for future in open_:
            future.result()
            if sent < tasks:
                open_.add(client.submit(answer, order, pure=False, resources={"machine": 1}))
                sent += 1
        return sent / (time.monotonic() - begun), (time.process_time() - cpu) / sent


def filing_s(folder: Path, count: int) -> tuple[float, float]:
    """Return the CPU seconds that filing a parcel takes: of the first tenth of the trials, and of the last."""
    there = write_campaign(folder / "there", [FakeTrial(block=block) for block in range(1, count + 1)])
    plan = Plan.load(there)
    home = folder / "home"
    home.mkdir()
    plan.save(home)
    campaign = with_cluster(Campaign(home, plan, Watcher()), None)  # type: ignore[arg-type]
    took = []
    for trial in plan.trials:
        files = {
            "record.json": there / "trials" / f"{trial.trial_id}.record.json",
            "trial.ipynb": there / "trials" / f"{trial.trial_id}.ipynb",
        }
        record = json.loads(files["trial.ipynb"].read_text())
        record = next(
            output["data"]["application/scrapbook.scrap.json+json"]["data"]
            for cell in record["cells"]
            for output in cell.get("outputs", [])
            if output.get("data", {}).get("application/scrapbook.scrap.json+json", {}).get("name") == "record"
        )
        entry = LedgerEntry(
            trial_id=trial.trial_id, attempt=1, outcome=record["outcome"], outcome_detail="", duration_s=1.0,
            started_at=record["identity"]["started_at"], ended_at=record["identity"]["started_at"],
            notebook=None, record=None,
        )  # fmt: skip
        packed = {"record.json": zlib.compress(json.dumps(record).encode(), 3)}
        packed["trial.ipynb"] = zlib.compress(files["trial.ipynb"].read_bytes(), 3)
        cpu = time.process_time()
        part_of(plan, [trial]).model_dump_json()
        campaign._accept([trial], Parcel(ending="ran", worker="w", attempts=[Attempt(entry=entry, files=packed)]))
        took.append(time.process_time() - cpu)
    assert len(campaign.ledger.results()) == count
    tenth = max(1, count // 10)
    return sum(took[:tenth]) / tenth, sum(took[-tenth:]) / tenth


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
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--filed", type=int, default=300)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--trials", type=int, default=1_000_000)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="picolab-scale-", dir="/var/tmp") as name:
        os.environ["PICOLAB_STATE_DIR"], os.environ["PICOLAB_OUTPUTS_DIR"] = f"{name}/state", f"{name}/outputs"
        os.environ["PYTHONPATH"] = os.pathsep.join([*sys.path[:1], str(Path(__file__).parent)])
        first_s, last_s = filing_s(Path(name), wanted.filed)
        rate, cpu_s = orders_per_s(Path(name), wanted.tasks)
    print(f"filing at home: {first_s * 1e3:.1f} ms of CPU a trial at first, {last_s * 1e3:.1f} ms after {wanted.filed}")
    print(f"orders through a scheduler on loopback: {rate:.0f} a second, {cpu_s * 1e3:.1f} ms of the client's CPU each")
    home_s, scheduler_s = last_s + cpu_s, 1 / rate
    print(f"the client files at most {1 / home_s:.0f} trials a second")
    print("trial   hosts  hours  busy")
    for trial_s in (5.0, 10.0, 30.0, 60.0, 600.0):
        hours, busy = simulate(wanted.hosts, wanted.trials, trial_s, home_s, scheduler_s)
        print(f"{trial_s:4.0f} s  {wanted.hosts:6d} {hours:6.1f}  {busy:.0%}; at most {trial_s / home_s:,.0f} hosts")


if __name__ == "__main__":
    main()
