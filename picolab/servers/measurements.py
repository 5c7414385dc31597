"""The measurements of a transfer, and its limits."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from picolab.config.sizes import MIB
from picolab.servers.exchange import Ending


@dataclass(frozen=True)
class Limits:
    """Time limits of an upload or a download, in seconds.

    Attributes:
        stall_s: without a delivered byte of one file while there is something left of it to deliver.
        total_s: for the whole, from the first byte (of any file) to the last response.
    """

    stall_s: float
    total_s: float


@dataclass(frozen=True)
class TransferProgress:
    """How far an upload (of all files together) is, for a person who waits."""

    delivered_bytes: int
    size_bytes: int
    elapsed_s: float

    @property
    def phase(self) -> Literal["transfer", "commit"]:
        return "transfer" if self.delivered_bytes < self.size_bytes else "commit"

    @property
    def rate_mib_s(self) -> float:
        return self.delivered_bytes / MIB / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds until the transfer is over at the rate so far; None before anything was delivered."""
        if self.delivered_bytes == 0:
            return None
        return self.elapsed_s * (self.size_bytes - self.delivered_bytes) / self.delivered_bytes

    def line(self) -> str:
        """Return one line of text: percent, bytes, rate, ETA or the phase."""
        done = self.delivered_bytes / MIB
        text = f"{self.delivered_bytes / self.size_bytes:4.0%}  {done:,.0f} of {self.size_bytes / MIB:,.0f} MiB"
        if self.phase == "commit":
            return f"{text}  delivered; the server commits  {self.elapsed_s:.0f} s"
        eta = f"  ETA {self.eta_s:.0f} s" if self.eta_s is not None else ""
        return f"{text}  {self.rate_mib_s:,.1f} MiB/s{eta}"


@dataclass
class UploadMeasurement:
    """The measurements of one file's upload. Times are on this process's monotonic clock, None when not reached."""

    ending: Ending = "connection_lost"
    ending_detail: str = ""
    entry_id: str | None = None
    http_status: int | None = None
    server_message: str | None = None
    first_byte_s: float | None = None
    last_byte_s: float | None = None
    response_s: float | None = None
    ended_s: float = 0.0
    delivered_bytes: int = 0
    progress: list[tuple[float, int]] = field(default_factory=list)

    @property
    def succeeded(self) -> bool:
        return self.entry_id is not None


@dataclass
class UploadsMeasurement:
    """The measurements of parallel uploads, in the order of their files; times as in `UploadMeasurement`."""

    files: list[UploadMeasurement]

    @property
    def succeeded(self) -> bool:
        return all(measured.succeeded for measured in self.files)

    @property
    def failed(self) -> list[UploadMeasurement]:
        """Those that were not answered with success, in the order in which they ended."""
        return sorted((m for m in self.files if not m.succeeded), key=lambda m: m.ended_s)

    @property
    def first_byte_s(self) -> float | None:
        """When the first byte of any file was sent."""
        return min((m.first_byte_s for m in self.files if m.first_byte_s is not None), default=None)

    @property
    def last_byte_s(self) -> float | None:
        """When the last byte of all files was acknowledged; None when one of them did not get there."""
        times = [m.last_byte_s for m in self.files if m.last_byte_s is not None]
        return max(times) if len(times) == len(self.files) else None

    @property
    def response_s(self) -> float | None:
        """When the last answer came; None when one is missing."""
        times = [m.response_s for m in self.files if m.response_s is not None]
        return max(times) if len(times) == len(self.files) else None

    @property
    def delivered_bytes(self) -> int:
        return sum(m.delivered_bytes for m in self.files)

    @property
    def progress(self) -> list[tuple[float, int]]:
        """Bytes delivered of all files over time: at each moment the sum of the last known counts."""
        moments = sorted((t, index, count) for index, m in enumerate(self.files) for t, count in m.progress)
        known = [0] * len(self.files)
        summed: list[tuple[float, int]] = []
        for t, index, count in moments:
            known[index] = count
            if summed and summed[-1][0] == t:
                summed.pop()
            summed.append((t, sum(known)))
        return summed


@dataclass
class DownloadMeasurement:
    """The measurements of a download and its comparison with the payload.

    `sent_request_s` and `first_byte_s` (of the body) are on this process's monotonic clock, `download_s` is a duration.
    """

    ending: Ending = "connection_lost"
    ending_detail: str = ""
    http_status: int | None = None
    server_message: str | None = None
    received_bytes: int = 0
    sent_request_s: float | None = None
    first_byte_s: float | None = None
    download_s: float | None = None
    sent_sha256: str | None = None
    received_sha256: str | None = None
    first_difference_byte: int | None = None

    @property
    def matched(self) -> bool | None:
        """True when every byte came back; None when the download did not get to its end."""
        if self.sent_sha256 is None:
            return None
        return self.sent_sha256 == self.received_sha256


def peak_rss_bytes() -> int:
    """Return the peak resident memory of this process (VmHWM of proc(5))."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM")
