"""What the campaign process itself costs while an upload is measured: its share of one processor.

    python benchmarks/campaign_cost.py [--planned 600 2000]

All but the last 100 trials of each campaign are done already (written, not measured); then `picolab resume` runs a few
slow uploads to the calibration server, and the CPU time of its process is read from /proc while each of them runs.
Prints a line for each number of planned trials. Needs what a local trial needs.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from campaign_factory import FakeTrial, make_record, write_campaign  # noqa: E402

LEFT = 100
"""Trials of a campaign that have not run."""
RATE_MIB_S = 2
FILE_SIZE = "20M"
UPLOADS = 3
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def write(folder: Path, planned: int) -> None:
    """Write a campaign of which all but `LEFT` trials are done, with side files as a real one has them."""
    trials = [
        FakeTrial(ram_mb=64 + number % 20, file_size=FILE_SIZE, block=number // 20 + 1) for number in range(planned)
    ]
    done = planned - LEFT
    write_campaign(folder, trials[:done], trials[done:])
    for position, trial in enumerate(trials[:done], start=1):
        record = make_record(trial, position, folder.name)
        name = record["identity"]["trial_id"]
        (folder / "trials" / f"{name}.record.json").write_text(slow(json.dumps(record)))
    plan = folder / "plan.json"
    plan.write_text(slow(plan.read_text()))
    ledger = folder / "ledger.jsonl"
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    for line in lines:
        line["record"] = line["notebook"].replace(".ipynb", ".record.json")
    ledger.write_text("".join(json.dumps(line) + "\n" for line in lines))


def slow(text: str) -> str:
    """Return the JSON of parameters with a slow server in it."""
    return text.replace('"calibration": {}', f'"calibration": {{"transfer_mib_s": {RATE_MIB_S}}}')


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def measure(planned: int) -> list[float]:
    """Return the campaign's share of a processor in each upload."""
    shares: list[float] = []
    with tempfile.TemporaryDirectory(prefix="picolab-cost-", dir="/var/tmp") as place:
        folder = Path(place) / "outputs" / "cost"
        write(folder, planned)
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PICOLAB_OUTPUTS_DIR": str(folder.parent),
            "PICOLAB_STATE_DIR": str(Path(place) / "state"),
        }
        with (Path(place) / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "picolab", "resume", "cost"],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
            )
        try:
            while len(shares) < UPLOADS:
                uploading = wait_for(folder, process)
                before_s, begun = cpu_s(process.pid), time.monotonic()
                # Up to the end of the upload and not further: the file is renewed once a second while bytes go out.
                while uploading.exists() and is_fresh(uploading):
                    time.sleep(0.05)
                    share = (cpu_s(process.pid) - before_s) / (time.monotonic() - begun)
                shares.append(share)
                while uploading.exists():
                    time.sleep(0.05)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()
            if len(shares) < UPLOADS:
                print((Path(place) / "log").read_text(), file=sys.stderr)
    return shares


def is_fresh(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime < 1.3
    except FileNotFoundError:
        return False


def wait_for(folder: Path, process: "subprocess.Popen[bytes]") -> Path:
    """Return the progress file of the next trial that is in its upload."""
    while process.poll() is None:
        for path in folder.glob("running/*/progress.json"):
            if is_fresh(path):
                return path
        time.sleep(0.05)
    raise SystemExit("the campaign ended before it had uploaded enough")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--planned", type=int, nargs="*", default=[600, 2000])
    given = options.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    for planned in given.planned:
        shares = measure(planned)
        each = ", ".join(f"{share:.2%}" for share in shares)
        print(
            f"{planned:,} planned, {planned - LEFT:,} done: {each} of a processor during {UPLOADS} uploads", flush=True
        )


if __name__ == "__main__":
    main()
