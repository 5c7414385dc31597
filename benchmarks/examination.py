"""Repeats the examination of the calibration server, and counts wrong results.

python benchmarks/examination.py --runs 50
"""

import argparse
import collections
import time

from picolab.config.trial_parameters import TrialParameters
from picolab.examine.registry import CHECKS
from picolab.examine.run import examine

PERFECT = {
    **dict.fromkeys(("health_endpoint", "metrics_endpoint", "clean_stop", "restart_sweeps"), True),
    **dict.fromkeys(("exits_without_listener", "answers_507", "answers_head"), True),
    **dict.fromkeys(("accepts_dot_names", "accepts_empty_files"), True),
}
"""A calibration server without a weakness: each finding is wrong."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=120.0, help="Begin no run after this.")
    options = parser.parse_args()
    begun = time.monotonic()
    wrong: collections.Counter[str] = collections.Counter()
    runs = 0
    while runs < options.runs and time.monotonic() - begun < options.minutes * 60:
        parameters = TrialParameters.model_validate({"calibration": PERFECT})
        examination = examine(parameters, list(CHECKS.values()))
        runs += 1
        for result in examination.results:
            if result.state != "absent":
                wrong[f"{result.check.id} ({result.state})"] += 1
                print(f"  {result.check.id}: {result.state}: {result.seen}")
        took_s = time.monotonic() - begun
        print(f"{runs} runs of {len(CHECKS)} checks, {sum(wrong.values())} wrong results, {took_s:.0f} s", flush=True)
    for name, count in wrong.most_common():
        print(f"{name}: {count} of {runs}")


if __name__ == "__main__":
    main()
