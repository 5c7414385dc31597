"""What a trial costs besides what it measures: wall time of the whole process less start, upload and verify.

    python benchmarks/trial_overhead.py [--trials 5]

Prints a line a trial and the median. The first trial starts the fork server, as that of a campaign does.
Needs a memory limit (root) and a minute of an idle host.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from picolab.config.trial_parameters import TrialParameters
from picolab.host.processes import this_process
from picolab.jupyter.fork_server import ForkServer
from picolab.jupyter.notebook_process import TrialProcess, trial_fork_server
from picolab.jupyter.trial_context import TrialContext
from picolab.record.outcomes import STAGES
from picolab.record.record import Record
from picolab.trial.state import RECORD_FILE

MEASURED = ("start", "upload", "verify")


def overhead_s(folder: Path, number: int, server: ForkServer) -> float:
    """Run one trial; return the seconds that were not server start, upload or verification."""
    trial_id = f"trial-{number}"
    context = TrialContext(
        folder=folder / trial_id, trial_id=trial_id, owner=this_process().to_json(), campaign="overhead"
    )
    begun = time.monotonic()
    process = TrialProcess(TrialParameters(file_size="32M", keep_machine="never"), context, server)
    while not process.wait(10.0):
        pass
    wall_s = time.monotonic() - begun
    record = Record.model_validate(json.loads((context.folder / RECORD_FILE).read_text()))
    taken = {stage.stage: stage.duration_s for stage in record.stages}
    measured_s = sum(taken[stage] for stage in MEASURED)
    stages = ", ".join(f"{stage} {taken[stage]:.2f}" for stage in STAGES if stage in taken)
    print(
        f"{record.outcome}: {wall_s:.2f} s in all, {wall_s - measured_s:.2f} s besides the measured stages ({stages})"
    )
    return wall_s - measured_s


def main() -> None:
    """Run the trials and print the median."""
    parser = argparse.ArgumentParser(description="Measure what a trial costs besides what it measures.")
    parser.add_argument("--trials", type=int, default=5, help="how many trials (default 5)")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="picolab-overhead-", dir="/var/tmp") as folder:
        os.environ["PICOLAB_STATE_DIR"] = f"{folder}/state"
        os.environ["PICOLAB_OUTPUTS_DIR"] = f"{folder}/outputs"
        server = trial_fork_server(["local"])
        try:
            costs = [overhead_s(Path(folder), number, server) for number in range(1, wanted.trials + 1)]
        finally:
            server.close()
    print(f"median {statistics.median(costs):.2f} s of {len(costs)} trials")


if __name__ == "__main__":
    main()
