"""How long the report of a campaign takes, and how large its page is, by the number of trials.

    python benchmarks/report_scale.py [--trials 12,200,1000] [--samples 60] [--keep FOLDER] [--phone]

The campaigns are written, not measured: cases of several RAM levels and file sizes, with a warm and a cold cache, some
trials killed. A real upload has 20 samples a second: 60 in 3 s, 1,200 in a minute. Prints a line for each: trials,
cases, seconds, MiB of the page and of the notebook beside it. `--keep` leaves the campaigns in a folder, to look at
their pages. `--phone` opens each page in Chromium on a screen 390 pixels wide, prints its size and how many charts and
marks it has, and leaves a picture beside it.
"""

import argparse
import itertools
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from browser import browser
from campaign_factory import USUAL_SAMPLES, FakeTrial, write_campaign

from picolab.config.sizes import MIB
from picolab.record.outcomes import Outcome
from picolab.report.render import render_report

MOST_CASES = 20
PHONE_PX = 390


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


def measure(count: int, samples: int, folder: Path) -> tuple[str, Path]:
    """Render the report of a campaign with that many trials; return what it took as a line, and the page."""
    trials = trials_of(count)
    campaign = write_campaign(folder / f"scale-{count}", trials, samples=samples)
    begun, used = time.monotonic(), cpu_s()
    page = render_report(campaign)
    seconds, used = time.monotonic() - begun, cpu_s() - used
    notebook = campaign / "analysis.ipynb"
    cases = len({trial.parameters.model_copy(update={"seed": 0}).model_dump_json() for trial in trials})
    sizes = "  ".join(f"{path.name} {path.stat().st_size / MIB:.2f} MiB" for path in (page, notebook))
    line = f"{count} trials of {cases} cases, {samples} samples each: {seconds:.1f} s, {used:.1f} s of CPU  {sizes}"
    return line, page


def on_a_phone(page: Path) -> str:
    """Open a page on a screen of `PHONE_PX`, leave a picture beside it, and return what it is like there as a line."""
    with browser() as visit, visit(page, width=PHONE_PX, has_touch=True, is_mobile=True) as visited:
        root = visited.page.locator("html")
        width, height = root.evaluate("root => [root.scrollWidth, root.scrollHeight]")
        charts = visited.page.locator(".panel.interactive .chart svg").count()
        marks = visited.page.locator(".panel .chart svg :is(path, text)").count()
        visited.page.screenshot(path=page.with_suffix(".png"), full_page=True)
    return f"  at {PHONE_PX} px: {width} x {height:,} px, {charts} charts with {marks:,} marks"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", default="12,200,1000", help="numbers of trials, separated by commas")
    parser.add_argument("--samples", type=int, default=USUAL_SAMPLES, help="samples of each trial")
    parser.add_argument("--keep", type=Path, help="folder for the campaigns; default: one that is removed")
    parser.add_argument("--phone", action="store_true", help="open each page in Chromium as on a phone")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for count in wanted.trials.split(","):
            line, page = measure(int(count), wanted.samples, wanted.keep or Path(temporary))
            print(line, flush=True)
            if wanted.phone:
                print(on_a_phone(page), flush=True)


if __name__ == "__main__":
    main()
