"""How long a history of a million trials takes to query: 1 s is the aim.

    python benchmarks/history.py [--trials 1000000] [--files 1000]

Writes a history of invented trials to a temporary folder (a minute), as `picolab history add` would write them: a file
for each campaign of 1,000 trials, on 4 hosts, in 8 cases, with 50 builds. Then measures in fresh processes what
`picolab history show` reads for three metrics, a wall time and the CPU time of each of 5 runs. Then the same after
`picolab history compact`, with the time that this took.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from picolab import __version__
from picolab.config.trial_parameters import TrialParameters
from picolab.history.checksums import parquet
from picolab.history.compact import compact
from picolab.history.schema import arrow_table, columns, counts_column
from picolab.history.store import TRIALS, FolderStore, file_name
from picolab.record.outcomes import STEPS

HOSTS, CASES, BUILDS = 4, 8, 50
METRICS = ("throughput_mib_s", "download_mib_s", "peak_anon_bytes")
EVERY = {"string": "a word", "boolean": True, "Int64": 1, "Float64": 1.5, "timestamp": datetime(2026, 1, 1)}
QUERY = f"""
import sys, time
wall_s, cpu_s = time.monotonic(), time.process_time()
from pathlib import Path
from picolab.history.database import Database
from picolab.history.series import chosen_metrics, read_series
from picolab.history.store import FolderStore
import duckdb
imported_s, imported_cpu_s = time.monotonic(), time.process_time()
series = read_series(Database(FolderStore(Path(sys.argv[1]))), chosen_metrics({METRICS!r}))
end_s, end_cpu_s = time.monotonic(), time.process_time()
points = sum(len(one.points) for one in series)
print(f"{{points}} points of {{len(series)}} series: {{end_s - imported_s:.2f}} s, "
      f"{{end_cpu_s - imported_cpu_s:.2f}} CPU seconds; imports before that: {{imported_s - wall_s:.2f}} s, "
      f"{{imported_cpu_s - cpu_s:.2f}} CPU seconds")
"""


def rows_of(campaign: int, count: int, chance: random.Random) -> list[dict[str, Any]]:
    """Return the invented trials of a campaign."""
    host, case, build = campaign % HOSTS, campaign // HOSTS % CASES, campaign * BUILDS // 1000 % BUILDS
    started = datetime(2026, 1, 1) + timedelta(hours=6 * campaign)
    parameters = TrialParameters(ram_mb=64 << (case % 4), file_size="100M")
    # Every column has a value, as few trials have.
    like: dict[str, Any] = {name: EVERY[kind] for name, kind in columns().items()}
    like |= {
        "campaign": f"nightly-{campaign:05d}",
        "campaign_key": f"{campaign:016x}",
        "series": f"{case:012x}",
        "series_words": parameters.scenario,
        "host": f"{host:012x}",
        "hostname": f"bench-{host}",
        "cpu_model": "Some CPU",
        "cpu_count": 8,
        "kernel": "6.1.0",
        "picolab_version": __version__,
        "purpose": "case",
        "outcome": "ok",
        "build_kind": "release",
        **{counts_column(step): True for step in (None, *STEPS)},
    }
    return [
        like
        | {
            "trial_key": f"{campaign:016x}{number:016x}",
            "trial_id": f"{number:03d}-{parameters.case_label}",
            "build": f"1.{build + number % 2}.0",
            "build_sha256": f"{build + number % 2:064x}",
            "started_utc": started + timedelta(seconds=20 * number),
            "record": json.dumps({"trial": number, "noise": chance.random()}),
            "throughput_mib_s": 100 * chance.gauss(1, 0.02),
            "download_mib_s": 300 * chance.gauss(1, 0.02),
            "peak_anon_bytes": int(30e6 * chance.gauss(1, 0.01)),
        }
        for number in range(count)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=1_000)
    given = parser.parse_args()
    chance, kinds = random.Random(1), columns()
    with tempfile.TemporaryDirectory(prefix="picolab-history-") as folder:
        store = FolderStore(Path(folder))
        for campaign in range(given.files):
            rows = rows_of(campaign, given.trials // given.files, chance)
            store.write(TRIALS, file_name(f"{campaign:012x}", "0" * 16), parquet(arrow_table(rows, kinds)))
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
        print(f"{given.trials:,} trials in {given.files:,} files, {size / (1 << 20):,.0f} MiB")
        sys.stdout.flush()
        for _ in range(5):
            subprocess.run([sys.executable, "-c", QUERY, folder], check=True)
        begun, used = time.monotonic(), time.process_time()
        found = compact(store)[TRIALS]
        taken, cpu = time.monotonic() - begun, time.process_time() - used
        print(f"compacted to {found.after} files: {taken:.1f} s, {cpu:.1f} CPU seconds", flush=True)
        for _ in range(5):
            subprocess.run([sys.executable, "-c", QUERY, folder], check=True)


if __name__ == "__main__":
    main()
