"""Samples of the memory probe: read, summarised for the record, and made into the samples scrap."""

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picolab.config.sizes import GIB
from picolab.errors import ProbeError, UnreadableFile
from picolab.files.foreign import read_text
from picolab.record.steps import Gap, MemoryRecord

SAMPLES_VERSION = 1
MOST_SCRAP_SAMPLES = 6000
GAP_INTERVALS = 3
_GAPS_KEPT = 10
LARGEST_BYTES = GIB
"""Of a trial's own file: days of samples."""

Value = float | int | None


@dataclass(frozen=True)
class Samples:
    """All samples of one measured step, an upload or a download.

    Attributes:
        columns: names in the order of a row; the first is `t_s` on the host's monotonic clock.
        rows: a list of values a sample, None where the kernel had none.
        missing: column -> why it has no value at all.
        end: the probe's own CPU time and life time; None when it was killed.
        unlocked: why the probe's pages were not locked in memory; None when they were, or when that is not known.
    """

    columns: list[str]
    rows: list[list[Value]]
    missing: dict[str, str]
    end: dict[str, float] | None
    unlocked: str | None = None

    def column(self, name: str) -> list[Value]:
        """Return a value of each sample; empty for a column that the probe of an earlier version did not have."""
        if name not in self.columns:
            return []
        index = self.columns.index(name)
        return [row[index] for row in self.rows]

    def peak(self, name: str) -> int | None:
        values = [value for value in self.column(name) if value is not None]
        return int(max(values)) if values else None

    def growth(self, name: str) -> int | None:
        """Return by how much a counter grew during the step."""
        values = [value for value in self.column(name) if value is not None]
        return int(max(values) - values[0]) if values else None

    def lowest(self, name: str) -> int | None:
        values = [value for value in self.column(name) if value is not None]
        return int(min(values)) if values else None


def read_samples(path: Path, most_bytes: int = LARGEST_BYTES) -> Samples:
    """Read a samples file; a last line that is incomplete, because the probe was killed, is left out.

    Raises:
        ProbeError: there is no file or it has no head: the probe did not start.
    """
    try:
        lines = read_text(path, most_bytes).splitlines()
        head = json.loads(lines[0])
    except (OSError, UnreadableFile, ValueError, IndexError, RecursionError):
        raise ProbeError(f"the memory probe wrote nothing to {path.name}: it did not start or was killed") from None
    rows: list[list[Value]] = []
    end = None
    for line in lines[1:]:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            break
        if isinstance(value, dict):
            end = value.get("end")
        else:
            rows.append(value)
    return Samples(head["columns"], rows, head["missing"], end, head.get("unlocked"))


def _cgroup_peak(samples: Samples) -> int | None:
    """Return the peak of the cgroup: the kernel's own if it was reached meanwhile, as it may lie between two samples.

    The kernel's peak is that since the cgroup was made. Older files do not have it, nor does Linux before 5.19 with v2.
    """
    sampled = samples.peak("cgroup_bytes")
    grown = samples.growth("cgroup_peak_bytes") if "cgroup_peak_bytes" in samples.columns else None
    return max(sampled or 0, samples.peak("cgroup_peak_bytes") or 0) if grown else sampled


def summarise(samples: Samples, interval_s: float, zero_s: float) -> tuple[MemoryRecord, dict[str, str]]:
    """Return the record of a probe's samples, and the reason for each value that it lacks.

    Args:
        interval_s: seconds between two samples that were asked for.
        zero_s: the moment that counts as zero, on the samples' clock.
    """
    times = [float(t) for t in samples.column("t_s") if t is not None]
    steps = [(later - earlier, earlier) for earlier, later in itertools.pairwise(times)]
    gaps = sorted((step for step in steps if step[0] > GAP_INTERVALS * interval_s), reverse=True)
    lasted_s = times[-1] - times[0] if len(times) > 1 else 0.0
    record = MemoryRecord(
        samples=len(times),
        interval_s=interval_s,
        samples_per_s=(len(times) - 1) / lasted_s if lasted_s > 0 else None,
        gaps=[Gap(t_s=start - zero_s, duration_s=duration) for duration, start in gaps[:_GAPS_KEPT]],
        gap_count=len(gaps),
        probe_cpu_share=samples.end["cpu_s"] / samples.end["lifetime_s"]
        if samples.end and samples.end["lifetime_s"] > 0
        else None,
        peak_rss_bytes=samples.peak("rss_bytes"),
        peak_anon_bytes=samples.peak("anon_bytes"),
        vm_hwm_bytes=samples.peak("vm_hwm_bytes"),
        peak_swap_bytes=samples.peak("swap_bytes"),
        peak_cgroup_bytes=_cgroup_peak(samples),
        oom_kills=samples.growth("oom_kills"),
        min_mem_available_bytes=samples.lowest("mem_available_bytes"),
        peak_disk_bytes=samples.peak("files_bytes"),
    )
    columns = {
        "peak_rss_bytes": "rss_bytes",
        "peak_anon_bytes": "anon_bytes",
        "vm_hwm_bytes": "vm_hwm_bytes",
        "peak_swap_bytes": "swap_bytes",
        "peak_cgroup_bytes": "cgroup_bytes",
        "oom_kills": "oom_kills",
        "min_mem_available_bytes": "mem_available_bytes",
        "peak_disk_bytes": "files_bytes",
    }
    missing = {
        f"memory.{field}": samples.missing.get(column, "the server had ended before the first sample")
        for field, column in columns.items()
        if getattr(record, field) is None
    }
    if record.samples_per_s is None:
        missing["memory.samples_per_s"] = "fewer than two samples"
    if record.probe_cpu_share is None:
        missing["memory.probe_cpu_share"] = "the probe was killed before it could say"
    return record, missing


_LEVELS = ("rss_bytes", "anon_bytes", "swap_bytes", "cgroup_bytes", "cgroup_anon_bytes", "dirty_bytes", "files_bytes")


def _thinned(samples: Samples) -> list[list[Value]]:
    """Return at most `MOST_SCRAP_SAMPLES` samples: of each stretch that with most anonymous memory.

    The first and the last one stay, and of the whole step the peak of each level and the lowest MemAvailable.
    """
    rows, anon = samples.rows, samples.columns.index("anon_bytes")
    kept = {0, len(rows) - 1}
    for name in set(_LEVELS) & set(samples.columns):
        column = samples.columns.index(name)
        kept.add(max(range(len(rows)), key=lambda place: rows[place][column] or 0))
    column = samples.columns.index("mem_available_bytes")
    kept.add(max(range(len(rows)), key=lambda place: -math.inf if (v := rows[place][column]) is None else -v))
    stretches = MOST_SCRAP_SAMPLES - len(kept)
    edges = [place * len(rows) // stretches for place in range(stretches + 1)]
    kept |= {
        max(range(start, stop), key=lambda place: rows[place][anon] or 0) for start, stop in itertools.pairwise(edges)
    }
    return [rows[place] for place in sorted(kept)]


def samples_scrap(samples: Samples, trial_id: str, zero_s: float) -> dict[str, Any]:
    """Return the samples scrap: a list a column, with times relative to `zero_s`.

    More than `MOST_SCRAP_SAMPLES` are thinned so that notebooks stay small; the side file keeps every sample.
    """
    rows = samples.rows
    thinned_from = None
    if len(rows) > MOST_SCRAP_SAMPLES:
        thinned_from = len(rows)
        rows = _thinned(samples)
    columns: dict[str, list[Value]] = {name: [row[index] for row in rows] for index, name in enumerate(samples.columns)}
    columns["t_s"] = [None if t is None else round(t - zero_s, 4) for t in columns["t_s"]]
    return {
        "samples_version": SAMPLES_VERSION,
        "trial_id": trial_id,
        "columns": columns,
        "missing": samples.missing,
        "thinned_from": thinned_from,
    }
