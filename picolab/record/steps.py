"""Parts of a record about the measured steps: upload, download, memory."""

from typing import Literal

from pydantic import Field

from picolab.record.conditions import ConditionsRecord
from picolab.record.outcomes import Outcome
from picolab.record.part import Part


class Progress(Part):
    """Bytes delivered over time; both lists have the same length."""

    t_s: list[float] = Field(description="seconds since the first byte was sent")
    delivered_bytes: list[int] = Field(description="bytes of the file that the receiving kernel had acknowledged")


class UploadedFile(Part):
    """One of the files that were uploaded at the same time."""

    seed: int = Field(description="seed of its payload")
    first_byte_s: float | None = Field(
        description="when its first byte was sent, in seconds since the first byte of any file"
    )
    transfer_s: float | None = Field(description="its first byte sent to its last byte acknowledged")
    commit_s: float | None = Field(description="its last byte acknowledged to its response")
    duration_s: float | None = Field(description="its first byte sent to its response")
    throughput_mib_s: float | None = Field(description="its size over its duration")
    delivered_bytes: int = Field(description="bytes of it delivered when its upload ended")
    http_status: int | None = Field(description="status of its answer")
    ending: Literal["response", "stalled", "timeout", "connection_lost"] = Field(
        description="how it ended: `response`, `stalled`, `timeout` or `connection_lost`"
    )
    ending_detail: str = Field(description="what the server or the connection said then; empty after a success")


LimitDuringStep = Literal["kept", "lifted", "none"]


_LIMIT_DURING_STEP = (
    "memory limit meanwhile: `kept`, `lifted` (a step that is not measured, and put back after it), or `none` (the "
    "trial has none); null in older records"
)


_STEP_OUTCOME = "what this step found; null in older records, and when it did not come to a finding"


_STEP_DETAIL = "one sentence with what was seen; empty when the outcome is null"


PageCache = Literal["warm", "dropped", "unknown"]


_PAGE_CACHE = "page cache before it: `warm` (as it was), `dropped`, or `unknown` (dropping it was not possible)"


class UploadRecord(Part):
    """The upload of all files. Times count from the moment the first byte of any body was sent.

    With direction download it is not measured: it only brings the files there.
    """

    outcome: Outcome | None = Field(None, description=_STEP_OUTCOME)
    outcome_detail: str = Field("", description=_STEP_DETAIL)
    memory_limit: LimitDuringStep | None = Field(None, description=_LIMIT_DURING_STEP)
    file_size_bytes: int = Field(description="size of each file")
    first_byte_monotonic_s: float | None = Field(
        description="host's monotonic clock when the first byte was sent: the zero of the samples' `t_s`"
    )
    transfer_s: float | None = Field(
        description="first byte sent to last byte (of all files) acknowledged by the receiver's kernel"
    )
    commit_s: float | None = Field(description="last byte acknowledged to (last) response")
    duration_s: float | None = Field(description="first byte sent to (last) response: transfer plus commit")
    throughput_mib_s: float | None = Field(description="bytes of all files over duration")
    transfer_mib_s: float | None = Field(description="bytes of all files over transfer")
    commit_mib_s: float | None = Field(
        description="bytes of all files over commit; null when a file was answered while another was still "
        "transferred, or the server stores while it receives"
    )
    delivered_bytes: int = Field(description="bytes of all files delivered when the upload ended")
    http_status: int | None = Field(description="status of the answer; of the first upload that failed, if one did")
    server_message: str | None = Field(description="the server's own sentence, when it answered with an error")
    client_peak_rss_bytes: int = Field(description="peak memory of the process that uploads")
    progress: Progress
    cache: PageCache = Field("warm", description=_PAGE_CACHE)
    sync_s: float | None = Field(
        None, description="(last) response to the data being on the disk, with `sync: measure`"
    )
    durable_mib_s: float | None = Field(None, description="bytes of all files over duration plus sync")
    stored_disk_bytes: int | None = Field(
        None,
        description="disk space of the files in data folder and TMPDIR at the end of the trial, before the server was "
        "stopped; null in older records",
    )
    parallel_uploads: int = Field(1, description="files that were uploaded at the same time")
    live_view: bool | None = Field(
        None, description="a notebook showed its progress meanwhile, never in a campaign; null in older records"
    )
    files: list[UploadedFile] = Field(
        default_factory=list, description="each file, in order of its payload's number; empty in older records"
    )


class VerifyRecord(Part):
    """The download of every file that proves the upload. With direction upload it is not measured."""

    memory_limit: LimitDuringStep | None = Field(None, description=_LIMIT_DURING_STEP)
    matched: bool | None = Field(
        description="true: every byte of every file came back; false: one differs; null: it was not found out"
    )
    sent_sha256: str | None = Field(description="of the first file, or of the first one that came back different")
    received_sha256: str | None = Field(description="of the same file, as it came back")
    first_difference_byte: int | None = Field(description="offset of the first wrong byte; null when there is none")
    received_bytes: int = Field(description="bytes of all files that came back")
    download_s: float | None = Field(description="request sent to last byte received, the times of all files added up")
    download_mib_s: float | None = Field(description="bytes of all files over download")


class Gap(Part):
    """A time in which the probe delivered no sample although it should have."""

    t_s: float = Field(description="start, in seconds of the samples' clock")
    duration_s: float


class MemoryRecord(Part):
    """Readings of the memory probe from before a measured step to after it, in bytes."""

    samples: int
    interval_s: float = Field(description="what was asked for")
    samples_per_s: float | None = Field(description="what was reached")
    gaps: list[Gap] = Field(description="pauses of more than three intervals (the ten longest)")
    gap_count: int
    probe_cpu_share: float | None = Field(description="CPU time of the probe over its life time; 1 is one core")
    peak_rss_bytes: int | None
    peak_anon_bytes: int | None = Field(description="peak of anonymous memory: the figure to judge a build by")
    vm_hwm_bytes: int | None = Field(
        description="the kernel's own high-water mark of resident memory since the server's start"
    )
    peak_swap_bytes: int | None
    peak_cgroup_bytes: int | None = Field(description="with page cache: always touches the limit")
    oom_kills: int | None = Field(description="OOM kills under the machine's memory limit during the measured step")
    min_mem_available_bytes: int | None = Field(
        description="lowest MemAvailable of the machine: the host's, or the guest's in a virtual machine"
    )
    peak_disk_bytes: int | None = Field(
        None,
        description="most disk space that the files in data folder and TMPDIR took; null in older records",
    )


class DownloadRecord(Part):
    """The measured download of all files, one after another; it is the one that proves the upload, too."""

    outcome: Outcome | None = Field(None, description=_STEP_OUTCOME)
    outcome_detail: str = Field("", description=_STEP_DETAIL)
    begun_monotonic_s: float = Field(
        description="host's monotonic clock before the first request: the zero of its gaps' `t_s`"
    )
    duration_s: float | None = Field(description="request sent to last byte received, the times of all files added up")
    throughput_mib_s: float | None = Field(description="bytes of all files over duration")
    first_byte_wait_s: float | None = Field(
        description="request sent to first byte of the body received, of the first file"
    )
    received_bytes: int = Field(description="bytes of all files that came back")
    cache: PageCache = Field(description=_PAGE_CACHE)
    memory: MemoryRecord = Field(description="what the memory probe saw meanwhile")
    conditions: ConditionsRecord | None = Field(None, description="what the host did meanwhile")
