"""How long the report of a campaign takes, and how large its page is, by the number of trials.

    python benchmarks/report_scale.py [--trials 12,200,1000] [--keep FOLDER]

The campaigns are written, not measured: cases of several RAM levels and file sizes, with a warm and a cold cache, 60
samples a trial, some trials killed. Prints a line for each: trials, cases, seconds, MiB of the page and of the notebook
beside it. `--keep` leaves the campaigns in a folder, to look at their pages.
"""

import argparse
import itertools
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from campaign_factory import FakeTrial, write_campaign

from picolab.config.sizes import MIB
from picolab.record.outcomes import Outcome
from picolab.report.render import render_report

MOST_CASES = 20


def trials_of(count: int) -> list[FakeTrial]:
    """Return that many trials of at most `MOST_CASES` cases, as many of each as there can be."""
    levels = itertools.product((1024, 512, 256, 128, 64), ("100M", "500M"), ("warm", "cold"))
    cases = list(levels)[: min(MOST_CASES, max(1, count // 3))]
    return [
        FakeTrial(
            ram_mb=ram_mb,
            file_size=file_size,
            block=number // len(cases) + 1,
            parameters_too={"cache": cache},
            outcome=Outcome.OOM_KILLED if ram_mb < 128 and number % 9 == 0 else Outcome.OK,
        )
        for number, (ram_mb, file_size, cache) in zip(range(count), itertools.cycle(cases), strict=False)
    ]


def cpu_s() -> float:
    """Return the CPU time of this process and of its children that have ended: on a busy host the number to compare."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def measure(count: int, folder: Path) -> str:
    """Render the report of a campaign with that many trials, and return what it took as a line."""
    trials = trials_of(count)
    campaign = write_campaign(folder / f"scale-{count}", trials)
    begun, used = time.monotonic(), cpu_s()
    page = render_report(campaign)
    seconds, used = time.monotonic() - begun, cpu_s() - used
    notebook = campaign / "analysis.ipynb"
    cases = len({trial.parameters.model_copy(update={"seed": 0}).model_dump_json() for trial in trials})
    sizes = "  ".join(f"{path.name} {path.stat().st_size / MIB:.2f} MiB" for path in (page, notebook))
    return f"{count} trials of {cases} cases: {seconds:.1f} s, {used:.1f} s of CPU  {sizes}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", default="12,200,1000", help="numbers of trials, separated by commas")
    parser.add_argument("--keep", type=Path, help="folder for the campaigns; default: one that is removed")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for count in wanted.trials.split(","):
            print(measure(int(count), wanted.keep or Path(temporary)), flush=True)


if __name__ == "__main__":
    main()
