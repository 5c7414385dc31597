"""What several machines gain, and what the overlap does to the measured rate.

    python benchmarks/several_machines.py [--machines 2] [--rounds 3] [--trials 12] [--file-size 64M]

Each round runs the same small campaign on one machine, on several, and on several with overlapping measured steps, in
an order that turns by one each round, and prints the wall times with their ratios to one machine. A campaign with the
same cases alone and next to others gives the ratio of the rate in pairs. It also prints the largest memory of a trial's
processes besides its server. Needs a memory limit (root) and some minutes.
"""

import argparse
import os
import statistics
import tempfile
import threading
import time

from picolab.agent.procfs import descendants
from picolab.analysis.overlap import overlap_ratios, quiet_trials
from picolab.campaign.progress import Watcher
from picolab.campaign.runner import Campaign
from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.plan import make_plan
from picolab.results.load import read_campaign
from picolab.results.rows import plain_rows

MODES = {"one machine": "none", "several": "preparation", "several, --overlap": "measurements"}


def campaign_of(name: str, machines: int, overlap: object, repeats: int, file_size: str) -> Campaign:
    """Return a campaign of uploads to the calibration server, as fast as it can."""
    matrix = {"ram_mb": [256], "file_size": [file_size], "overlap": overlap if isinstance(overlap, list) else [overlap]}
    wanted = {"matrix": matrix, "repeats": repeats, "idle_limit_s": 0, "machines": machines}
    plan = make_plan(CampaignParameters.model_validate(wanted), name, "benchmark")
    return Campaign.create(plan, Watcher())


def wall_s(campaign: Campaign) -> float:
    """Run a campaign, and return how long it took."""
    begun = time.monotonic()
    campaign.run()
    return time.monotonic() - begun


def private_mib(pid: int) -> float:
    """Return the memory of a process that it shares with no other (its share of the rest included), in MiB."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:  # noqa: PTH123 (a process)
            return next(int(line.split()[1]) for line in file if line.startswith("Pss:")) / 1024
    except (OSError, StopIteration):
        return 0.0


def watch_memory(found: list[float], stop: threading.Event) -> None:
    """Note the largest memory of everything that this process has started."""
    while not stop.wait(0.5):
        found.append(sum(private_mib(pid) for pid in descendants(os.getpid())))


def main() -> None:
    """Run the campaigns and print what they took."""
    parser = argparse.ArgumentParser(description="Measure what several machines gain, and what the overlap changes.")
    parser.add_argument("--machines", type=int, default=2, help="machines at the same time (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the wall times (default 3)")
    parser.add_argument("--trials", type=int, default=12, help="trials of a campaign, and pairs (default 12)")
    parser.add_argument("--file-size", default="64M", help="size of each upload (default 64M)")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="picolab-machines-", dir="/var/tmp") as folder:
        os.environ["PICOLAB_STATE_DIR"] = f"{folder}/state"
        os.environ["PICOLAB_OUTPUTS_DIR"] = f"{folder}/outputs"
        memory: list[float] = []
        taken: dict[str, list[float]] = {mode: [] for mode in MODES}
        for number in range(wanted.rounds):
            modes = list(MODES)[number % 3 :] + list(MODES)[: number % 3]
            for mode in modes:
                machines = 1 if mode == "one machine" else wanted.machines
                campaign = campaign_of(
                    f"round-{number}-{MODES[mode]}", machines, MODES[mode], wanted.trials, wanted.file_size
                )
                stop = threading.Event()
                watcher = threading.Thread(target=watch_memory, args=(memory if machines == 1 else [], stop))
                watcher.start()
                taken[mode].append(wall_s(campaign))
                stop.set()
                watcher.join()
                print(f"round {number + 1}: {mode}: {taken[mode][-1]:.1f} s for {wanted.trials} trials", flush=True)
        for mode, times in taken.items() if wanted.rounds else ():
            ratios = [one / alone for one, alone in zip(times, taken["one machine"], strict=True)]
            print(f"{mode}: median {statistics.median(times):.1f} s, {statistics.median(ratios):.2f} of one machine")
        if memory:
            print(f"one machine with everything that runs for it: at most {max(memory):.0f} MiB")
        for level in ("preparation", "measurements"):
            campaign = campaign_of(f"check-{level}", wanted.machines, ["none", level], wanted.trials, wanted.file_size)
            campaign.run()
            data = read_campaign(campaign.folder)
            for one in overlap_ratios(plain_rows(data.trials), quiet_trials(data.records)):
                found = one.ratio
                print(
                    f"{level}: {one.metric.title}: {found.ratio:.3f} ({found.low:.3f} to {found.high:.3f}, "
                    f"{found.coverage:.0%}) of alone, {found.n} pairs"
                )


if __name__ == "__main__":
    main()
