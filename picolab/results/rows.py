"""Records and samples as tidy rows: which columns there are, and of which type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from picolab.agent.memory_probe import COLUMNS
from picolab.record import factors
from picolab.record.outcomes import Outcome, Step
from picolab.record.record import Record, step_outcome
from picolab.text.foreign import csv_cell

if TYPE_CHECKING:  # pandas takes half a second, and a trial that only reads a record does not need it.
    import pandas as pd

_COLUMNS = {
    "trial_id": "string",
    "campaign": "string",
    "block": "Int64",
    "position": "Int64",
    "attempt": "Int64",
    "started_at": "string",
    "case": "string",
    "case_id": "string",
    "scenario": "string",
    "machine": "string",
    "machine_name": "string",
    "machine_reused": "boolean",
    "provider": "string",
    "box": "string",
    "box_version": "string",
    "acceleration": "string",
    "cpus": "Int64",
    "launcher": "string",
    "route": "string",
    "reached_by": "string",
    "reached_s": "Float64",
    "clock_uncertainty_s": "Float64",
    "ram_mb": "Int64",
    "usable_ram_bytes": "Int64",
    "available_ram_bytes": "Int64",
    "file_size": "string",
    "file_size_bytes": "Int64",
    "parallel_uploads": "Int64",
    "direction": "string",
    "cache": "string",
    "sync": "string",
    "environment": "string",
    "build": "string",
    "build_kind": "string",
    "build_version": "string",
    "build_sha256": "string",
    "build_size_bytes": "Int64",
    "memory_limit": "string",
    "memory_limit_method": "string",
    "network": "string",
    "memory_limit_bytes": "Int64",
    "swap": "string",
    "data_folder_file_system": "string",
    "data_folder_disk": "string",
    "free_disk_bytes": "Int64",
    "outcome": "string",
    "outcome_stage": "string",
    "outcome_detail": "string",
    "upload_outcome": "string",
    "download_outcome": "string",
    "upload_memory_limit": "string",
    "verify_memory_limit": "string",
    "throughput_mib_s": "Float64",
    "transfer_mib_s": "Float64",
    "commit_mib_s": "Float64",
    "durable_mib_s": "Float64",
    "download_mib_s": "Float64",
    "duration_s": "Float64",
    "transfer_s": "Float64",
    "commit_s": "Float64",
    "sync_s": "Float64",
    "download_s": "Float64",
    "first_byte_wait_s": "Float64",
    "upload_limit_s": "Float64",
    "delivered_bytes": "Int64",
    "received_bytes": "Int64",
    "http_status": "Int64",
    "server_message": "string",
    "download_matched": "boolean",
    "peak_anon_bytes": "Int64",
    "vm_hwm_bytes": "Int64",
    "peak_rss_bytes": "Int64",
    "peak_swap_bytes": "Int64",
    "peak_cgroup_bytes": "Int64",
    "download_peak_anon_bytes": "Int64",
    "download_peak_rss_bytes": "Int64",
    "download_vm_hwm_bytes": "Int64",
    "download_oom_kills": "Int64",
    "idle_anon_bytes": "Int64",
    "oom_kills": "Int64",
    "oom_evidence": "string",
    "min_mem_available_bytes": "Int64",
    "client_peak_rss_bytes": "Int64",
    "ready_s": "Float64",
    "stop_s": "Float64",
    "exit_code": "Int64",
    "exit_signal": "string",
    "samples": "Int64",
    "samples_per_s": "Float64",
    "gap_count": "Int64",
    "download_samples": "Int64",
    "probe_cpu_share": "Float64",
    "seed": "Int64",
    "caveats": "string",
    "repeat_command": "string",
}
ROW_COLUMNS = _COLUMNS | {name: kind for name, kind in factors.COLUMNS.items() if name not in _COLUMNS}
"""Columns of a tidy row and their pandas types, in the order of `results.csv`; null for a local machine: those of a
virtual machine, from `provider` to `clock_uncertainty_s` and the RAM that its guest can use and had left.

Every factor has a column: after the others come those parameters that have no place among them. `build`, `box`, `cpus`
and `provider` are what there was, and `build_wanted` and so on what was asked for.
"""

OF_THE_UPLOAD = (
    *("throughput_mib_s", "transfer_mib_s", "commit_mib_s", "durable_mib_s"),
    *("duration_s", "transfer_s", "commit_s", "sync_s"),
    *("peak_anon_bytes", "vm_hwm_bytes", "peak_rss_bytes", "peak_swap_bytes", "peak_cgroup_bytes"),
)
"""Numbers of the upload. With direction download it is not measured, and may have run without the memory limit."""

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

FAULT_COLUMNS = ("trial_id", "attempt", "outcome", "outcome_detail", "started_at", "duration_s", "notebook")


def record_row(record: Record) -> dict[str, Any]:
    """Return a record as one flat row with the keys `ROW_COLUMNS`; what is missing is None."""
    identity, parameters = record.identity, record.parameters
    build, machine, server, download = record.build, record.machine, record.server, record.download
    limit = machine.memory_limit if machine else None
    virtual = machine.virtual_machine if machine else None
    named = {
        **identity.model_dump(),
        **factors.levels_of(parameters),
        "case": factors.case_name(parameters),
        "scenario": parameters.scenario,
        "machine_name": machine.name if machine else None,
        "machine_reused": machine.reused if machine else None,
        "file_size_bytes": parameters.file_size_bytes,
        "build": build.label if build else parameters.build_label,
        "build_kind": build.kind if build else None,
        "build_version": build.version if build else None,
        "build_sha256": build.sha256 if build else None,
        "build_size_bytes": build.size_bytes if build else None,
        "memory_limit_method": limit.method if limit else None,
        "network": machine.network.kind if machine and machine.network else None,
        "memory_limit_bytes": limit.limit_bytes if limit else None,
        "swap": limit.swap if limit else None,
        "data_folder_file_system": machine.data_folder_file_system if machine else None,
        "data_folder_disk": machine.data_folder_disk if machine else None,
        "free_disk_bytes": machine.free_disk_bytes if machine else None,
        "outcome": record.outcome.value,
        "outcome_stage": record.outcome_stage,
        "outcome_detail": record.outcome_detail,
        "upload_outcome": _step_outcome(record, "upload"),
        "download_outcome": _step_outcome(record, "download"),
        "upload_memory_limit": record.upload.memory_limit if record.upload else None,
        "verify_memory_limit": record.verify.memory_limit if record.verify else None,
        "upload_limit_s": record.upload_limit_s,
        "download_matched": record.verify.matched if record.verify else None,
        "first_byte_wait_s": download.first_byte_wait_s if download else None,
        "download_peak_anon_bytes": download.memory.peak_anon_bytes if download else None,
        "download_peak_rss_bytes": download.memory.peak_rss_bytes if download else None,
        "download_vm_hwm_bytes": download.memory.vm_hwm_bytes if download else None,
        "download_oom_kills": download.memory.oom_kills if download else None,
        "download_samples": download.memory.samples if download else None,
        "seed": parameters.seed,
        "caveats": " ".join(sorted({caveat.code for caveat in record.caveats})),
    }
    # Fields that keep their own name in the row.
    parts = [part.model_dump() for part in (record.upload, record.verify, server, record.memory, virtual) if part]
    merged = {name: value for part in parts for name, value in part.items() if name in ROW_COLUMNS} | named
    row = {name: merged.get(name) for name in ROW_COLUMNS}
    return row | {"case_id": factors.case_id(row)}


def step_ok(row: Mapping[str, Any], step: str) -> bool:
    """Tell whether the numbers of a step count: it ended well, and every byte came back.

    A download that proves an upload and is not measured itself counts when the upload does.
    """
    found = row["upload_outcome"] if step == "upload" else row["download_outcome"] or row["upload_outcome"]
    return bool(found == Outcome.OK and row["outcome"] != Outcome.CORRUPTED)


def _step_outcome(record: Record, step: Step) -> str | None:
    outcome = step_outcome(record, step)
    return None if outcome is None else outcome.value


def csv_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row for a CSV file: a spreadsheet runs no text of it as a formula."""
    return {name: csv_cell(value) if isinstance(value, str) else value for name, value in row.items()}


def trial_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return rows of `record_row` as a frame with the types of `ROW_COLUMNS`, in the order of the plan."""
    import pandas as pd

    columns = {name: pd.Series([row[name] for row in rows], dtype=kind) for name, kind in ROW_COLUMNS.items()}
    trials = pd.DataFrame(columns).sort_values(["position", "trial_id"], ignore_index=True)
    trials["build"] = _unambiguous_builds(trials)
    trials["case"] = _unambiguous(trials, "case", "case_id")
    return trials


def _unambiguous_builds(trials: pd.DataFrame) -> pd.Series:
    """Tell two executables apart that have one label."""
    return _unambiguous(trials, "build", "build_sha256")


def _unambiguous(trials: pd.DataFrame, name: str, identity: str) -> pd.Series:
    """Return a column of names, of which those that stand for several identities get the begin of it."""
    several = trials.groupby(name)[identity].transform("nunique") > 1
    return trials[name].mask(several, trials[name] + " " + trials[identity].str[:8].fillna("unknown"))


def sample_frame(samples: dict[str, dict[str, Any]], trials: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of the samples scraps as one frame.

    Args:
        samples: by trial_id, column name -> values.
        trials: rows of the same trials, for `CASE_COLUMNS`.
    """
    import pandas as pd

    kinds = {"trial_id": "string", **dict.fromkeys(COLUMNS, "Float64")}
    frames = [pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in kinds.items()})]
    for trial_id, columns in samples.items():
        nothing = [None] * len(columns.get("t_s", []))
        frame = pd.DataFrame({name: columns.get(name, nothing) for name in COLUMNS}, dtype="Float64")
        frame.insert(0, "trial_id", pd.Series([trial_id] * len(frame), dtype="string"))
        frames.append(frame)
    return pd.concat(frames, ignore_index=True).merge(trials[["trial_id", *CASE_COLUMNS]], on="trial_id")
