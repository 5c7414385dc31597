"""How long reading a campaign takes by the number of trials: from its files, and from its cache.

    python benchmarks/reading.py [--trials 1000,10000] [--samples 60] [--keep FOLDER]

The campaigns are written, not measured: see report_scale.py. Each trial has an executed notebook and a record beside
it, as a real one has. A real upload has 20 samples a second: 60 in 3 s, 1,200 in a minute. Each reading is in a process
of its own, which has imported pandas before. Prints a line for each number of trials: seconds and CPU seconds cold,
warm, and warm with the samples as a frame; size of the cache. `--keep` leaves the campaigns in a folder.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from campaign_factory import USUAL_SAMPLES, make_record, write_campaign
from report_scale import trials_of

from picolab.config.sizes import MIB
from picolab.results.cache import CACHE_FOLDER, SETTLED_S


def write(folder: Path, count: int, samples: int) -> Path:
    """Write a campaign with a side file for each record."""
    trials = trials_of(count)
    write_campaign(folder, trials, samples=samples)
    for position, trial in enumerate(trials, start=1):
        record = make_record(trial, position, folder.name)
        name = record["identity"]["trial_id"]
        (folder / "trials" / f"{name}.record.json").write_text(json.dumps(record))
    return folder


def read(folder: Path, samples: int) -> dict[str, float]:
    """Read a campaign in this process."""
    import pandas as pd
    import pyarrow.parquet

    from picolab.results.load import read_campaign

    assert pd and pyarrow.parquet
    begun, used = time.monotonic(), time.process_time()
    data = read_campaign(folder)
    taken, cpu = time.monotonic() - begun, time.process_time() - used
    rows = len(data.samples)
    whole, whole_cpu = time.monotonic() - begun, time.process_time() - used
    assert len(data.problems) == 0 and rows == samples * len(data.trials)
    return {"trials": len(data.trials), "s": taken, "cpu_s": cpu, "whole_s": whole, "whole_cpu_s": whole_cpu}


def in_a_process(folder: Path, samples: int) -> dict[str, float]:
    """Read a campaign in a fresh process."""
    command = [sys.executable, __file__, "--read", str(folder), "--samples", str(samples)]
    return dict(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def measure(count: int, samples: int, folder: Path) -> str:
    """Return a line about a campaign of so many trials."""
    campaign = write(folder / f"reading-{count}", count, samples)
    # A cache is made only of files that have not changed for a moment.
    time.sleep(SETTLED_S + 0.5)
    cold, warm = in_a_process(campaign, samples), in_a_process(campaign, samples)
    assert cold["trials"] == warm["trials"] == count
    size = sum(path.stat().st_size for path in (campaign / CACHE_FOLDER).iterdir())
    return (
        f"{count:,} trials of {samples:,} samples: cold {cold['s']:.2f} s ({cold['cpu_s']:.2f} CPU s, "
        f"{cold['cpu_s'] / count * 1000:.2f} ms a trial), warm {warm['s']:.2f} s ({warm['cpu_s']:.2f} CPU s), "
        f"warm with samples {warm['whole_s']:.2f} s ({warm['whole_cpu_s']:.2f} CPU s), cache {size / MIB:.1f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", default="1000,10000", help="numbers of trials, separated by commas")
    parser.add_argument("--samples", type=int, default=USUAL_SAMPLES, help="samples of each trial")
    parser.add_argument("--keep", type=Path, help="folder for the campaigns; default: one that is removed")
    parser.add_argument("--read", type=Path, help="read one campaign, print JSON")
    wanted = parser.parse_args()
    if wanted.read:
        print(json.dumps(read(wanted.read, wanted.samples)))
        return
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="picolab-reading-") as temporary:
        for count in wanted.trials.split(","):
            print(measure(int(count), wanted.samples, wanted.keep or Path(temporary)), flush=True)


if __name__ == "__main__":
    main()
