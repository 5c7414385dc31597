"""Records and samples as tidy rows: which columns there are, and of which type."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from picolab.agent.memory_probe import COLUMNS
from picolab.config.trial_parameters import TrialParameters
from picolab.record import factors
from picolab.record.factors import FACTORS, Factor
from picolab.record.fields import pandas_type_at, values_at
from picolab.record.hosts import HostIdentity, host_names
from picolab.record.metric import Metric
from picolab.record.metrics import METRICS
from picolab.record.outcomes import STEPS, Outcome, Step
from picolab.record.record import Record, step_outcome
from picolab.text.foreign import csv_cell

if TYPE_CHECKING:  # pandas takes half a second, and a trial that only reads a record does not need it.
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

_FACTS = {
    **{name: f"identity.{name}" for name in ("trial_id", "campaign", "block", "position", "attempt", "started_at")},
    "machine_name": "machine.name",
    "machine_reused": "machine.reused",
    "provider": "machine.virtual_machine.provider",
    "cpus": "machine.virtual_machine.cpus",
    "launcher": "machine.virtual_machine.launcher",
    "reached_by": "machine.virtual_machine.reached_by",
    "clock_uncertainty_s": "machine.virtual_machine.clock_uncertainty_s",
    "usable_ram_bytes": "machine.virtual_machine.usable_ram_bytes",
    "available_ram_bytes": "machine.virtual_machine.available_ram_bytes",
    "build_kind": "build.kind",
    "build_version": "build.version",
    "build_size_bytes": "build.size_bytes",
    "memory_limit_bytes": "machine.memory_limit.limit_bytes",
    "swap": "machine.memory_limit.swap",
    "data_folder_file_system": "machine.data_folder_file_system",
    "data_folder_disk": "machine.data_folder_disk",
    "free_disk_bytes": "machine.free_disk_bytes",
    "outcome": "outcome",
    "outcome_stage": "outcome_stage",
    "outcome_detail": "outcome_detail",
    "upload_memory_limit": "upload.memory_limit",
    "verify_memory_limit": "verify.memory_limit",
    "upload_limit_s": "upload_limit_s",
    "http_status": "upload.http_status",
    "server_message": "upload.server_message",
    "download_matched": "verify.matched",
    "oom_evidence": "server.oom_evidence",
    "exit_code": "server.exit_code",
    "exit_signal": "server.exit_signal",
    "waited_s": "timeline.waited_s",
    "seed": "parameters.seed",
    "repeat_command": "identity.repeat_command",
}
"""Column -> path of its field, for what is neither a metric nor a factor. `build`, `box`, `cpus` and `provider` hold
what there was; `build_wanted` and so on hold what was asked for."""
_SECTION = ("timeline.measured_from_s", "timeline.measured_until_s")
_HOST = ("provenance.host.host_id", "provenance.host.boot_id")
_COMPUTED = {
    "case": "string",
    "case_id": "string",
    "scenario": "string",
    "file_size_bytes": "Int64",
    "build": "string",
    "hostname": "string",
    "host_id": "string",
    "boot_id": "string",
    "measured_section_s": "Float64",
    "upload_outcome": "string",
    "download_outcome": "string",
    "caveats": "string",
}
"""Column -> pandas type of what `record_row` computes."""
_OLDEST_FIRST = """
trial_id campaign block position attempt started_at case case_id scenario machine machine_name machine_reused provider
box box_version acceleration cpus launcher route reached_by reached_s clock_uncertainty_s ram_mb usable_ram_bytes
available_ram_bytes file_size file_size_bytes parallel_uploads direction cache sync environment build build_kind
build_version build_sha256 build_size_bytes memory_limit memory_limit_method network memory_limit_bytes swap
data_folder_file_system data_folder_disk free_disk_bytes outcome outcome_stage outcome_detail upload_outcome
download_outcome upload_memory_limit verify_memory_limit throughput_mib_s transfer_mib_s commit_mib_s durable_mib_s
download_mib_s duration_s transfer_s commit_s sync_s download_s first_byte_wait_s upload_limit_s delivered_bytes
received_bytes http_status server_message download_matched peak_anon_bytes vm_hwm_bytes peak_rss_bytes peak_swap_bytes
peak_cgroup_bytes download_peak_anon_bytes download_peak_rss_bytes download_vm_hwm_bytes download_oom_kills
idle_anon_bytes oom_kills oom_evidence min_mem_available_bytes client_peak_rss_bytes ready_s stop_s exit_code
exit_signal samples samples_per_s gap_count download_samples probe_cpu_share seed caveats repeat_command build_wanted
calibration label work_dir fresh_machine cpus_wanted box_wanted provider_wanted boot_limit_s release_base_url
ready_limit_s stall_limit_s floor_rate_mib_s total_limit_s sample_interval_s peak_disk_bytes stored_disk_bytes
hostname measured_on
"""
"""Columns that keep their place in `results.csv`, for programs that read it by position. All others come after them, so
that a new column needs no entry here."""

_NEWER_COLUMNS = frozenset({"files_bytes", "cgroup_peak_bytes"})
"""Columns of samples that the probe of earlier versions did not have."""

CASE_COLUMNS = (
    "case",
    "case_id",
    "machine",
    "acceleration",
    "ram_mb",
    "file_size",
    "file_size_bytes",
    "build",
    "memory_limit_method",
    "memory_limit_bytes",
    "block",
    "outcome",
)
"""Columns of a trial that each of its samples carries too."""

_OLDEST_SAMPLES = COLUMNS[: COLUMNS.index("disk_written_bytes") + 1]
"""Columns of samples that keep their place in an export, before those of the case; all others come last."""

FAULT_COLUMNS = ("trial_id", "attempt", "outcome", "outcome_detail", "started_at", "duration_s", "notebook")


def row_columns() -> dict[str, str]:
    """Return the columns of a row and their pandas types, in the order of `results.csv`.

    They are every metric, every factor, and the facts of a trial that are neither.
    """
    return dict(_columns(tuple(FACTORS), tuple(METRICS)))


@functools.cache
def _columns(factors_now: tuple[str, ...], metrics_now: tuple[str, ...]) -> dict[str, str]:
    """Return the columns while the registries have these entries: a row is made of each of thousands of records."""
    kinds = _COMPUTED | {name: pandas_type_at(path) for name, path in _FACTS.items()}
    kinds |= {name: FACTORS[name].kind for name in factors_now}
    kinds |= {name: METRICS[name].pandas_type for name in metrics_now}
    return {name: kinds[name] for name in dict.fromkeys((*_OLDEST_FIRST.split(), *kinds))}


def record_row(record: Record) -> dict[str, Any]:
    """Return a record as one flat row with the keys of `row_columns`; what is missing is None."""
    facts, asked = factors.fact_factors(), _asked_for(record.parameters)
    paths = [*_FACTS.values(), *(fact.source for fact in facts)]
    paths += [path for metric in METRICS.values() for path in metric.paths]
    paths += _SECTION + _HOST
    fields = values_at(record, tuple(paths))
    row = {name: fields[path] for name, path in _FACTS.items()}
    row |= asked.levels
    row |= {fact.name: fields[fact.source] for fact in facts}
    row |= {metric.name: metric.value(fields) for metric in METRICS.values()}
    # The name of a host says nothing where all trials have the same.
    row |= {"hostname": row["measured_on"], "measured_on": None}
    row |= {
        "case": asked.case,
        "case_id": asked.case_id(row, facts),
        "scenario": asked.scenario,
        "file_size_bytes": asked.file_size_bytes,
        "build": record.build.label if record.build else asked.build_label,
        "upload_outcome": _step_outcome(record, "upload"),
        "download_outcome": _step_outcome(record, "download"),
        "host_id": fields[_HOST[0]],
        "boot_id": fields[_HOST[1]],
        "measured_section_s": _length(*(fields[path] for path in _SECTION)),
        "caveats": " ".join(sorted({caveat.code for caveat in record.caveats})),
    }
    return {name: row[name] for name in _columns(tuple(FACTORS), tuple(METRICS))}


class _AskedFor:
    """The part of a row that follows from the parameters, whose seed is in none of it."""

    def __init__(self, parameters: TrialParameters) -> None:
        self.levels = factors.levels_of(parameters)
        self.case = factors.case_name(parameters)
        self.scenario = parameters.scenario
        self.file_size_bytes = parameters.file_size_bytes
        self.build_label = parameters.build_label
        self.factors = tuple(FACTORS.values())
        self._case_ids: dict[tuple[str | None, ...], str] = {}

    def case_id(self, row: Mapping[str, Any], facts: Iterable[Factor]) -> str:
        """Return `picolab.record.factors.case_id` of a row with these parameters."""
        key = tuple([row[fact.name] for fact in facts])
        if key not in self._case_ids:
            self._case_ids[key] = factors.case_id(row)
        return self._case_ids[key]


_asked: dict[tuple[str | int, ...], _AskedFor] = {}
_MOST_ASKED = 1000
"""That are kept: a campaign has fewer cases."""


def _asked_for(parameters: TrialParameters) -> _AskedFor:
    """Return what follows from parameters: thousands of trials have the same but for their seed."""
    # A changed registry makes other levels. The objects that the numbers are of are kept with the result.
    key: tuple[str | int, ...] = (parameters.model_dump_json(exclude={"seed"}), *map(id, FACTORS.values()))
    if key not in _asked:
        if len(_asked) >= _MOST_ASKED:
            _asked.clear()
        _asked[key] = _AskedFor(parameters)
    return _asked[key]


def step_ok(row: Mapping[str, Any], step: Step | None) -> bool:
    """Return whether the numbers of a step count: it ended ok, and every byte came back.

    A download that proves an upload and is not measured itself counts when the upload does. Without a step it is about
    numbers of the whole trial, which count when its outcome is ok.
    """
    if step is None:
        return bool(row["outcome"] == Outcome.OK)
    found = row["upload_outcome"] if step == "upload" else row["download_outcome"] or row["upload_outcome"]
    return bool(found == Outcome.OK and row["outcome"] != Outcome.CORRUPTED)


def plain_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a frame as dicts of plain Python values, None where something is missing."""
    import pandas as pd

    na, nat = pd.NA, pd.NaT
    names = [str(name) for name in frame]
    # A report asks for all rows again and again. For a few trials a call of pandas for each column would take most of
    # its time; for ten thousand this is as fast.
    columns = [
        [
            None if value is na or value is nat or (isinstance(value, float) and math.isnan(value)) else value
            for value in column.tolist()
        ]
        for _, column in frame.items()
    ]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def counting_values(metric: Metric, rows: Iterable[Mapping[str, Any]]) -> list[float]:
    """Return the values of a metric in those trials in which its step is ok."""
    return [row[metric.name] for row in rows if row[metric.name] is not None and step_ok(row, metric.step)]


def case_value(metric: Metric, rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Return a metric of one case, in the stored unit; None when no trial of it has a value that counts.

    It is the maximum of all trials, or the median of the trials in which the metric's step is ok.
    """
    if metric.summary == "maximum":
        return max((row[metric.name] for row in rows if row[metric.name] is not None), default=None)
    values = counting_values(metric, rows)
    return statistics.median(values) if values else None


def measured_outcomes(row: Mapping[str, Any]) -> dict[Step, str]:
    """Return the outcome of each measured step of a trial; a step that was not reached has none."""
    return {step: row[f"{step}_outcome"] for step in STEPS if row[f"{step}_outcome"] is not None}


def _step_outcome(record: Record, step: Step) -> str | None:
    outcome = step_outcome(record, step)
    return None if outcome is None else outcome.value


def _length(begun_s: float | None, ended_s: float | None) -> float | None:
    return None if begun_s is None or ended_s is None else ended_s - begun_s


def csv_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row for a CSV file: a spreadsheet runs no text of it as a formula."""
    return {name: csv_cell(value) if isinstance(value, str) else value for name, value in row.items()}


def trial_rows(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of `record_row` as they are shown: in the order of the plan, and no name stands for two things."""
    ordered = sorted(rows, key=lambda row: (row["position"] is None, row["position"] or 0, row["trial_id"]))
    _tell_hosts_apart(ordered)
    _make_unambiguous(ordered, "build", "build_sha256")
    _make_unambiguous(ordered, "case", "case_id")
    for name, kind in _kinds(ordered).items():
        if kind == "Float64":
            for row in ordered:
                row[name] = None if row[name] is None else float(row[name])
    return ordered


def _tell_hosts_apart(rows: list[dict[str, Any]]) -> None:
    """Give each host one name, and make the host a factor where trials ran on several: they are never pooled."""
    names = host_names([HostIdentity.of(row) for row in rows])
    several = len(set(names)) > 1
    for row, name in zip(rows, names, strict=True):
        row["hostname"] = name
        if several:
            row["measured_on"] = name
            row["case_id"] = factors.case_id(row)


def _make_unambiguous(rows: list[dict[str, Any]], name: str, identity: str) -> None:
    """Give the begin of its identity to each name that stands for several of them."""
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row[name], set()).update(filter(None, [row[identity]]))
    for row in rows:
        if len(found[row[name]]) > 1:
            row[name] = f"{row[name]} {(row[identity] or 'unknown')[:8]}"


def _kinds(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Return the columns and their pandas types; a column with a fraction in it holds fractions."""
    return {
        name: "Float64" if kind == "Int64" and float in {type(row[name]) for row in rows} else kind
        for name, kind in row_columns().items()
    }


def trial_frame(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Return rows of `record_row` as a frame with the types of `row_columns`, as `trial_rows` has them."""
    import pandas as pd

    shown = trial_rows(rows)
    kinds = _kinds(shown)
    return pd.DataFrame({name: pd.Series([row[name] for row in shown], dtype=kinds[name]) for name in kinds})


@dataclass(frozen=True)
class SampleColumns:
    """The samples of many trials, one after the other.

    Attributes:
        sizes: how many there are, by trial_id, in their order.
        values: by column, NaN where there is no value.
    """

    sizes: dict[str, int]
    values: dict[str, NDArray[np.float64]]


def joined_samples(samples: Mapping[str, Mapping[str, Any]]) -> SampleColumns:
    """Return the columns of samples scraps as one array each.

    Args:
        samples: by trial_id, column name -> values, in a list or an array.
    """
    import numpy as np

    sizes = {name: len(columns.get("t_s", ())) for name, columns in samples.items()}
    values = {}
    for name in COLUMNS:
        # Without a column that no sample has, the export of an old campaign stays as it is.
        if name in _NEWER_COLUMNS and not any(name in columns for columns in samples.values()):
            continue
        parts = [
            columns[name] if name in columns else np.full(size, np.nan)
            for columns, size in zip(samples.values(), sizes.values(), strict=True)
        ]
        values[name] = np.concatenate([numbers(part) for part in parts]) if parts else np.empty(0)
    return SampleColumns(sizes, values)


def sample_frame(samples: SampleColumns, trials: pd.DataFrame) -> pd.DataFrame:
    """Return samples as one frame.

    Args:
        trials: rows of the same trials, for `CASE_COLUMNS`.
    """
    import numpy as np
    import pandas as pd

    places = {str(name): place for place, name in enumerate(trials["trial_id"])}
    sizes = list(samples.sizes.values())
    rows = np.repeat(np.array([places[name] for name in samples.sizes], dtype=np.intp), sizes)
    # A column at a time: a frame for each trial takes most of the time of reading.
    of_trial = {name: trials[name].take(rows).array for name in ("trial_id", *CASE_COLUMNS)}
    own: dict[str, Any] = {
        name: pd.arrays.FloatingArray(values, np.isnan(values)) for name, values in samples.values.items()
    }
    first = {name: own.pop(name) for name in _OLDEST_SAMPLES}
    return pd.DataFrame({"trial_id": of_trial.pop("trial_id"), **first, **of_trial, **own})


def numbers(values: Any) -> NDArray[np.float64]:
    """Return a column of samples as an array, NaN where a value is None."""
    import numpy as np

    return np.asarray(values, dtype=np.float64)
