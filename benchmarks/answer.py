"""Held-out check of the predictions of picolab answer: known laws, a fit of small files, and what a larger file takes.

    python benchmarks/answer.py [--quick] [--update-docs]
    python benchmarks/answer.py --server [--largest 16M]

The simulator draws trials of 64M, 256M and 1G (three each) from a known law with relative noise, fits them, and draws
one more trial of 2G and one of 4G: the share of these inside the 90 % interval is the coverage. All is seeded: the same
version gives the same table. Takes five minutes; `--quick` takes seconds, and its numbers are rough. `--update-docs`
writes the table into docs/answer.md.

`--server` does the same with real trials of the calibration server, whose paced rates, memory and noise are known:
three trials each of a sixteenth, a quarter and the whole of `--largest`, and five held-out trials of twice that size.
Takes about five minutes, and hours with --largest 1G.

Ends with 1 when fewer than 85 % are covered: in a line of the simulator, or in all lines of `--server` together.
"""

import argparse
import math
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picolab.analysis.prediction import fit_sizes
from picolab.campaign.progress import Watcher
from picolab.campaign.runner import Campaign
from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.plan import make_plan
from picolab.config.sizes import format_size, parse_size
from picolab.files.writing import write_atomically
from picolab.record.metrics import METRICS
from picolab.results.rows import counting_values

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "answer.md"
BEGIN = "<!-- begin: written by benchmarks/answer.py --update-docs -->"
END = "<!-- end: written by benchmarks/answer.py --update-docs -->"
TARGET = 0.85
SIZES = (1 / 16, 1 / 4, 1.0)
"""In GiB."""
REPEATS, HELD_OUT = 3, 5
OUTLIERS, OUTLIER_FACTOR = 0.05, 1.5

Noise = Callable[[random.Random], float]
"""Draws the logarithm of what a trial takes more or less than its law says."""


@dataclass(frozen=True)
class Line:
    """A line of a table."""

    what: str
    noise: str
    at: str
    covered: int
    cases: int
    error: float
    width: float
    linear: float

    def cells(self) -> list[str]:
        return [
            self.what,
            self.noise,
            self.at,
            str(self.cases),
            f"{self.covered / self.cases:.1%}",
            f"{self.error:.1%}",
            f"{self.width:.1%}",
            f"{self.linear:.0%}",
        ]


HEAD = ["law", "noise", "predicted size", "cases", "covered", "median error", "reach of the interval", "linear chosen"]
LAWS = {
    "time: 0.5 s plus 20 s for each GiB": (0.5, 20.0),
    "time: 10 s plus 10 s for each GiB": (10.0, 10.0),
    "memory: 20 MiB": (20.0, 0.0),
    "memory: 20 MiB plus 2 MiB for each GiB": (20.0, 2.0),
    "memory: 20 MiB plus 100 MiB for each GiB": (20.0, 100.0),
}
NOISES = (2.0, 10.0, 30.0)


def normal(percent: float) -> Noise:
    return lambda chance: chance.gauss(0, percent / 100)


def with_outliers(percent: float) -> Noise:
    def draw(chance: random.Random) -> float:
        slow = chance.random() < OUTLIERS
        return chance.gauss(0, percent / 100) + (math.log(OUTLIER_FACTOR) if slow else 0)

    return draw


def simulated(what: str, words: str, noise: Noise, size: float, seeds: int) -> Line:
    """Return the line of one law, noise and held-out size in GiB."""
    fixed, slope = LAWS[what]

    def drawn(place: float, chance: random.Random) -> float:
        return (fixed + slope * place) * math.exp(noise(chance))

    covered, errors, widths, linear = 0, [], [], 0
    for seed in range(seeds):
        chance = random.Random(seed)
        fit = fit_sizes([(place, drawn(place, chance)) for place in SIZES for _ in range(REPEATS)])
        one = fit.predict(size)
        covered += one.low <= drawn(size, chance) <= one.high
        errors.append(abs(one.middle / (fixed + slope * size) - 1))
        widths.append((one.high / one.low) ** 0.5 - 1)
        linear += fit.law == "linear"
    at = f"{size:g}G"
    error, width = statistics.median(errors), statistics.median(widths)
    return Line(what, words, at, covered, seeds, error, width, linear / seeds)


def simulations(seeds: int) -> Iterator[Line]:
    """Yield the lines of the simulator."""
    for what in LAWS:
        for percent in NOISES:
            for size in (2.0, 4.0):
                yield simulated(what, f"{percent:g} %", normal(percent), size, seeds)
        words = f"10 %, and every {1 / OUTLIERS:g}th trial {OUTLIER_FACTOR:g} times as much"
        yield simulated(what, words, with_outliers(10.0), 2.0, seeds)


SERVERS: dict[str, dict[str, Any]] = {
    "constant memory, paced, no noise": {"transfer_mib_s": 40, "commit_mib_s": 80, "download_mib_s": 60},
    "constant memory, paced, 5 % noise": {
        "transfer_mib_s": 40,
        "commit_mib_s": 80,
        "download_mib_s": 60,
        "ballast_mib": 16,
        "noise_percent": 5,
    },
    "memory grows by 1 MiB for each MiB, paced, 15 % noise": {
        "transfer_mib_s": 40,
        "download_mib_s": 60,
        "ballast_mib_per_mib": 1,
        "noise_percent": 15,
    },
}
MEASURED = ("duration_s", "download_s", "peak_anon_bytes", "download_peak_anon_bytes")


def served(largest: int, name: str) -> Iterator[Line]:
    """Yield a line for each number of a calibration server that is held out at twice the largest size."""
    sizes = [largest // 16, largest // 4, largest, 2 * largest]
    wanted = CampaignParameters.model_validate(
        {
            "matrix": {"file_size": [format_size(size) for size in sizes]},
            "repeats": HELD_OUT,
            "idle_limit_s": 0,
            "parameters": {"ram_mb": 512, "direction": "both", "calibration": SERVERS[name]},
        }
    )
    campaign = Campaign.create(
        make_plan(wanted, f"held-out-{list(SERVERS).index(name)}", "benchmarks/answer.py"), Watcher()
    )
    campaign.run()
    rows = list(campaign.tally.rows.values())
    for metric in (METRICS[one] for one in MEASURED):
        fit = fit_sizes(
            [
                (float(row["file_size_bytes"]), value)
                for row in rows
                if row["file_size_bytes"] <= largest and row["block"] <= REPEATS
                for value in counting_values(metric, [row])
            ]
        )
        one = fit.predict(2.0 * largest)
        held = [value for row in rows if row["file_size_bytes"] > largest for value in counting_values(metric, [row])]
        yield Line(
            f"{metric.title} ({name})",
            "as served",
            format_size(2 * largest),
            sum(one.low <= value <= one.high for value in held),
            len(held),
            abs(one.middle / statistics.median(held) - 1),
            (one.high / one.low) ** 0.5 - 1,
            float(fit.law == "linear"),
        )


def main() -> None:
    """Print the table, and end with 1 when too few held-out trials are covered."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--update-docs", action="store_true")
    parser.add_argument("--server", action="store_true")
    parser.add_argument("--largest", default="16M")
    options = parser.parse_args()
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as outputs:
        os.environ["PICOLAB_OUTPUTS_DIR"] = outputs
        found = (
            (line for name in SERVERS for line in served(parse_size(options.largest), name))
            if options.server
            else simulations(20 if options.quick else 400)
        )
        text = [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
        for line in found:
            lines.append(line)
            text.append(f"| {' | '.join(line.cells())} |")
            print(text[-1], flush=True)
    covered = sum(line.covered for line in lines) / sum(line.cases for line in lines)
    least = covered if options.server or options.quick else min(line.covered / line.cases for line in lines)
    verdict = (
        f"Over all lines {covered:.1%} of the held-out trials are covered. The target is {TARGET:.0%} in each line."
    )
    print(verdict)
    if options.update_docs and not options.server:
        document = DOCUMENT.read_text(encoding="utf-8")
        before, rest = document.split(BEGIN)
        table = "\n".join([*text, "", verdict])
        write_atomically(DOCUMENT, f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.split(END)[1]}")
    sys.exit(least < TARGET)


if __name__ == "__main__":
    main()
