"""The trial's results in its files and in its notebook."""

import json
import os
from typing import Any

from picolab.errors import ProbeError
from picolab.files import reserve
from picolab.record.record import RECORD_SCRAP, SAMPLES_SCRAP, Record
from picolab.record.samples import read_samples, samples_scrap
from picolab.slow_imports import import_scrapbook
from picolab.trial.run import TrialRun
from picolab.trial.state import RECORD_FILE, SAMPLES_FILE


def publish(run: TrialRun, record: Record) -> None:
    """Write the record next to the samples, and glue both when this is a notebook."""
    reserve.write(run.folder / RECORD_FILE, record.model_dump_json(indent=1))
    # The record is safe: the room that was reserved for the notebook is free for it now.
    reserve.free(run.folder, notebook_only=True)
    if in_notebook():
        scrapbook = import_scrapbook()
        scrapbook.glue(RECORD_SCRAP, json.loads(record.model_dump_json()), "json")
        if (run.folder / SAMPLES_FILE).exists():
            scrapbook.glue(SAMPLES_SCRAP, samples_of(run), "json")


def samples_of(run: TrialRun) -> dict[str, Any]:
    """Return the samples as they are glued, see `Trial.samples`."""
    samples = read_samples(run.folder / SAMPLES_FILE)
    upload = run.state.upload
    zero_s = upload.first_byte_monotonic_s if upload else None
    first = samples.rows[0][0] if samples.rows else None
    return samples_scrap(samples, run.state.identity.trial_id, zero_s if zero_s is not None else first or 0.0)


def chart_of(run: TrialRun) -> Any:
    """Return the chart of the server's memory, or a sentence, see `Trial.chart`."""
    if run.state.identity.campaign is not None:
        return f"Not drawn in a campaign; see: picolab report {run.state.identity.campaign}"
    from picolab.charts.figure import Figure
    from picolab.charts.memory import memory_over_time

    try:
        samples = samples_of(run)
    except ProbeError as error:
        return f"No chart: {error}"
    limit = run.state.machine.memory_limit.limit_bytes if run.state.machine else None
    upload = run.state.upload
    chart = memory_over_time(samples, limit, (upload and upload.outcome) or run.state.outcome)
    return Figure([chart], "Memory of the server over time")


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    if "JPY_PARENT_PID" not in os.environ:
        return False
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None
