"""The metrics: every number of a trial that is shown, compared or exported.

One entry of `METRICS` is all that a new metric needs besides its field in the record. Rows, `results.csv`, the export,
tables, charts, the console and the comparison read the registry when they are called, and so does the check of the
table in docs/record.md, which `python -m picolab.record.metrics` prints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from picolab.record.metric import Metric, Place

if TYPE_CHECKING:
    from picolab.record.outcomes import Step

_UPLOAD = frozenset({"upload", "both"})
_DOWNLOAD = frozenset({"download", "both"})
_RATE, _MEMORY = ("faster", "slower"), ("less memory", "more memory")


def _everywhere(*charts: Place) -> frozenset[Place]:
    return frozenset({"case_table", "trial_table", "console", *charts})


_NOT_ANSWERED = "the upload was not answered with success"
_NO_UPLOAD = "there was no upload"
_NO_DOWNLOAD = "the download did not end, or there was none"
_NO_MEASURED_DOWNLOAD = "the download was not measured, or did not begin"
_NO_SAMPLES = "the server lived too short for a sample"
_NO_SYNC = f"`sync: skip`, or {_NOT_ANSWERED}"
_NO_SERVER = "the server was not started"

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "throughput_mib_s",
            "upload.throughput_mib_s",
            "upload",
            "MiB/s",
            "bytes of all files over the time from the first byte sent to the last response",
            _NOT_ANSWERED,
            "upload",
            higher_is_better=True,
            verdicts=_RATE,
            gates=_UPLOAD,
            shown=_everywhere("throughput"),
        ),
        Metric(
            "transfer_mib_s",
            "upload.transfer_mib_s",
            "transfer",
            "MiB/s",
            "bytes of all files over the time until the last byte was acknowledged",
            _NOT_ANSWERED,
            "upload",
            higher_is_better=True,
            verdicts=_RATE,
            shown=frozenset({"case_table", "console", "phases"}),
        ),
        Metric(
            "commit_mib_s",
            "upload.commit_mib_s",
            "commit",
            "MiB/s",
            "bytes of all files over the time from the last byte acknowledged to the last response",
            f"{_NOT_ANSWERED}, one file was answered while another was still transferred, or the server stores while "
            "it receives",
            "upload",
            higher_is_better=True,
            verdicts=_RATE,
            shown=frozenset({"case_table", "console", "phases"}),
        ),
        Metric(
            "durable_mib_s",
            "upload.durable_mib_s",
            "upload to disk",
            "MiB/s",
            "bytes of all files over the time until the data is on the disk",
            _NO_SYNC,
            "upload",
            higher_is_better=True,
            verdicts=_RATE,
        ),
        Metric(
            "duration_s",
            "upload.duration_s",
            "upload",
            "s",
            "first byte sent to last response: transfer plus commit",
            _NOT_ANSWERED,
            "upload",
            shown=frozenset({"trial_table"}),
        ),
        Metric(
            "transfer_s",
            "upload.transfer_s",
            "transfer",
            "s",
            "first byte sent to last byte acknowledged",
            "not every byte was delivered",
            "upload",
            shown=frozenset({"trial_table"}),
        ),
        Metric(
            "commit_s",
            "upload.commit_s",
            "commit",
            "s",
            "last byte acknowledged to last response",
            _NOT_ANSWERED,
            "upload",
            shown=frozenset({"trial_table"}),
        ),
        Metric(
            "sync_s", "upload.sync_s", "sync", "s", "last response to the data being on the disk", _NO_SYNC, "upload"
        ),
        Metric(
            "delivered_bytes",
            "upload.delivered_bytes",
            "delivered",
            "bytes",
            "bytes of all files that were delivered when the upload ended",
            _NO_UPLOAD,
            "upload",
        ),
        Metric(
            "download_mib_s",
            "verify.download_mib_s",
            "download",
            "MiB/s",
            "bytes of all files over the time of their downloads",
            _NO_DOWNLOAD,
            "download",
            higher_is_better=True,
            verdicts=_RATE,
            gates=_DOWNLOAD,
            shown=_everywhere(),
        ),
        Metric(
            "download_s",
            "verify.download_s",
            "download",
            "s",
            "request sent to last byte received, the times of all files added up",
            _NO_DOWNLOAD,
            "download",
        ),
        Metric(
            "first_byte_wait_s",
            "download.first_byte_wait_s",
            "wait for the first byte",
            "s",
            "request sent to first byte of the body received, of the first file",
            _NO_MEASURED_DOWNLOAD,
            "download",
        ),
        Metric(
            "received_bytes",
            "verify.received_bytes",
            "received",
            "bytes",
            "bytes of all files that came back",
            "there was no download",
            "download",
        ),
        Metric(
            "peak_anon_bytes",
            "memory.peak_anon_bytes",
            "peak memory",
            "bytes",
            "peak of the server's anonymous memory during the upload",
            _NO_SAMPLES,
            "upload",
            verdicts=_MEMORY,
            gates=_UPLOAD,
            summary="maximum",
            shown=_everywhere("peaks"),
        ),
        Metric(
            "vm_hwm_bytes",
            "memory.vm_hwm_bytes",
            "VmHWM",
            "bytes",
            "the kernel's high-water mark of resident memory since the server's start, after the upload",
            _NO_SAMPLES,
            "upload",
            summary="maximum",
            shown=frozenset({"trial_table", "peaks"}),
        ),
        Metric(
            "peak_rss_bytes",
            "memory.peak_rss_bytes",
            "peak resident memory",
            "bytes",
            "peak of the server's resident memory during the upload",
            _NO_SAMPLES,
            "upload",
            summary="maximum",
        ),
        Metric(
            "peak_swap_bytes",
            "memory.peak_swap_bytes",
            "peak swap",
            "bytes",
            "peak of the server's memory in swap during the upload",
            _NO_SAMPLES,
            "upload",
            summary="maximum",
        ),
        Metric(
            "peak_cgroup_bytes",
            "memory.peak_cgroup_bytes",
            "peak with page cache",
            "bytes",
            "peak usage of the memory cgroup, page cache included",
            "the server had no memory cgroup",
            "upload",
            summary="maximum",
        ),
        Metric(
            "peak_disk_bytes",
            "memory.peak_disk_bytes",
            "peak disk space",
            "bytes",
            "most disk space that the files in data folder and TMPDIR took during the upload",
            f"{_NO_SAMPLES}, or an older record",
            "upload",
            summary="maximum",
            shown=frozenset({"trial_table"}),
        ),
        Metric(
            "stored_disk_bytes",
            "upload.stored_disk_bytes",
            "disk space after the trial",
            "bytes",
            "disk space of these files at the end of the trial, before the server was stopped",
            f"{_NO_UPLOAD}, or an older record",
            "upload",
            summary="maximum",
        ),
        Metric(
            "download_peak_anon_bytes",
            "download.memory.peak_anon_bytes",
            "peak memory of the download",
            "bytes",
            "peak of the server's anonymous memory during the download",
            _NO_MEASURED_DOWNLOAD,
            "download",
            verdicts=_MEMORY,
            gates=_DOWNLOAD,
            summary="maximum",
            shown=_everywhere("peaks"),
        ),
        Metric(
            "download_peak_rss_bytes",
            "download.memory.peak_rss_bytes",
            "peak resident memory of the download",
            "bytes",
            "peak of the server's resident memory during the download",
            _NO_MEASURED_DOWNLOAD,
            "download",
            summary="maximum",
        ),
        Metric(
            "download_vm_hwm_bytes",
            "download.memory.vm_hwm_bytes",
            "VmHWM after the download",
            "bytes",
            "the high-water mark after the download; holds the upload's peak too",
            _NO_MEASURED_DOWNLOAD,
            "download",
            summary="maximum",
        ),
        Metric(
            "download_oom_kills",
            "download.memory.oom_kills",
            "OOM kills in the download",
            "count",
            "OOM kills under the machine's memory limit during the download",
            _NO_MEASURED_DOWNLOAD,
            "download",
            summary="maximum",
        ),
        Metric(
            "ready_s",
            "server.ready_s",
            "ready after",
            "s",
            "start of the server's process to its first good answer",
            "the server did not get ready",
            shown=frozenset({"case_table"}),
        ),
        Metric(
            "idle_anon_bytes",
            "server.idle_anon_bytes",
            "idle memory",
            "bytes",
            "anonymous memory of the server when ready, before the upload",
            "the server did not get ready",
        ),
        Metric(
            "stop_s",
            "server.stop_s",
            "stopped in",
            "s",
            "SIGTERM to the end of the server's process",
            "the server was not stopped",
        ),
        Metric(
            "oom_kills",
            "memory.oom_kills",
            "OOM kills",
            "count",
            "OOM kills under the machine's memory limit during the upload",
            _NO_SERVER,
            summary="maximum",
            otherwise="server.oom_kills",
        ),
        Metric(
            "min_mem_available_bytes",
            "memory.min_mem_available_bytes",
            "lowest available memory",
            "bytes",
            "lowest MemAvailable of the host, or of the guest in a virtual machine",
            _NO_SAMPLES,
        ),
        Metric(
            "client_peak_rss_bytes",
            "upload.client_peak_rss_bytes",
            "peak memory of the client",
            "bytes",
            "peak resident memory of the process that uploads",
            _NO_UPLOAD,
            summary="maximum",
        ),
        Metric(
            "samples",
            "memory.samples",
            "samples",
            "count",
            "memory samples during the upload",
            _NO_UPLOAD,
            "upload",
        ),
        Metric(
            "samples_per_s",
            "memory.samples_per_s",
            "samples",
            "1/s",
            "memory samples a second that were reached",
            _NO_SAMPLES,
            shown=frozenset({"trial_table"}),
        ),
        Metric(
            "gap_count",
            "memory.gap_count",
            "gaps",
            "count",
            "pauses of the memory probe of more than three intervals",
            _NO_UPLOAD,
        ),
        Metric(
            "download_samples",
            "download.memory.samples",
            "samples of the download",
            "count",
            "memory samples during the download",
            _NO_MEASURED_DOWNLOAD,
            "download",
        ),
        Metric(
            "probe_cpu_share",
            "memory.probe_cpu_share",
            "CPU of the probe",
            "share",
            "CPU time of the memory probe over its life time; 1 is one core",
            _NO_SAMPLES,
        ),
        Metric(
            "reached_s",
            "machine.virtual_machine.reached_s",
            "made ready in",
            "s",
            "time in which the virtual machine reached the state that the trial needed",
            "the machine is not virtual",
            shown=frozenset({"trial_table"}),
        ),
    )
}
"""By name, in the order in which they are shown."""


def compared_metrics() -> list[Metric]:
    """Return the metrics in which builds are compared, in the order in which they are shown."""
    return [metric for metric in METRICS.values() if metric.verdicts]


def metrics_of(step: Step) -> list[Metric]:
    """Return the metrics of a measured step."""
    return [metric for metric in METRICS.values() if metric.step == step]


def shown_metrics(place: Place, rows: Iterable[Mapping[str, Any]] | None = None) -> list[Metric]:
    """Return the metrics that are shown at a place.

    Args:
        rows: of the trials there: without a value in any of them, only metrics of the upload are shown.
    """
    having = None if rows is None else list(rows)
    return [
        metric
        for metric in METRICS.values()
        if place in metric.shown
        and (having is None or metric.step == "upload" or any(row[metric.name] is not None for row in having))
    ]


def documentation_table() -> list[list[str]]:
    """Return the cells of the table of metrics in docs/record.md, its head first."""
    head = ["metric", "unit", "meaning", "field of the record", "of a case", "compared", "null when"]
    rows = [
        [
            f"`{metric.name}`",
            {"count": "", "share": ""}.get(metric.unit, metric.unit),
            metric.description,
            f"`{metric.source}`",
            metric.summary,
            _compared_in_words(metric),
            metric.missing,
        ]
        for metric in METRICS.values()
    ]
    return [head, *rows]


def _compared_in_words(metric: Metric) -> str:
    if metric.verdicts is None:
        return ""
    best = "higher" if metric.higher_is_better else "lower"
    directions = [direction for direction in ("upload", "download", "both") if direction in metric.gates]
    return f"{best} is better; " + (f"gates {', '.join(directions)}" if directions else "does not gate")


def main() -> None:
    """Print the table of metrics for docs/record.md."""
    head, *rows = documentation_table()
    for cells in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
