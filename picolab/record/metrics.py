"""The metrics in which builds are compared."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A number of a trial in which builds are compared."""

    name: str
    """A column of `CampaignData.trials`."""
    title: str
    unit: str
    """Of the values in the column: `MiB/s` or `bytes`."""
    higher_is_better: bool
    better: str
    """The verdict for a candidate that is better, such as `faster`."""
    worse: str
    gates: frozenset[str]
    """The directions (`upload`, `download`, `both`) in whose scenarios it decides the gate; elsewhere it is shown."""


_UPLOAD = frozenset({"upload", "both"})
_DOWNLOAD = frozenset({"download", "both"})
_NEVER: frozenset[str] = frozenset()


def _rate(name: str, title: str, gates: frozenset[str] = _NEVER) -> Metric:
    return Metric(name, title, "MiB/s", True, "faster", "slower", gates)


def _memory(name: str, title: str, gates: frozenset[str]) -> Metric:
    return Metric(name, title, "bytes", False, "less memory", "more memory", gates)


METRICS = (
    _rate("throughput_mib_s", "upload", _UPLOAD),
    _rate("transfer_mib_s", "transfer"),
    _rate("commit_mib_s", "commit"),
    _rate("durable_mib_s", "upload to disk"),
    _rate("download_mib_s", "download", _DOWNLOAD),
    _memory("peak_anon_bytes", "peak memory", _UPLOAD),
    _memory("download_peak_anon_bytes", "peak memory of the download", _DOWNLOAD),
)
"""In the order in which they are shown."""
