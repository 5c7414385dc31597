"""The record of a trial: what it measured, what it found, and everything needed to believe or repeat it.

A record is plain JSON. Its shape is `RECORD_SCHEMA` (the file `record.schema.json`, kept equal to the models
below by a test). A measurement that is missing is null, and `missing` tells why, by the path of the field.
"""

import functools
import json
from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from picolab.config.parameters import MachineName, TrialParameters
from picolab.errors import RecordError
from picolab.machines.kinds import KINDS, kind_of
from picolab.slow_imports import decline_slow_imports

SCHEMA_PATH = Path(__file__).with_name("record.schema.json")

RECORD_SCRAP = "record"
SAMPLES_SCRAP = "samples"


NOT_ASKED_FOR = "not asked for"
"""How the reason of a measurement begins that a parameter has left out."""


class Outcome(StrEnum):
    """What a trial found, in one word."""

    OK = "ok"
    OOM_KILLED = "oom_killed"
    SERVER_DIED = "server_died"
    HTTP_ERROR = "http_error"
    STALLED = "stalled"
    TIMEOUT = "timeout"
    CORRUPTED = "corrupted"
    DISK_FULL = "disk_full"
    MACHINE_FAILED = "machine_failed"
    INTERRUPTED = "interrupted"
    INVALID = "invalid"

    @property
    def is_fault(self) -> bool:
        """True for a fault of the instrument: it may be retried and never enters a figure."""
        return self in FAULTS


FAULTS = frozenset({Outcome.MACHINE_FAILED, Outcome.INTERRUPTED, Outcome.INVALID})

OUTCOME_MEANINGS = {
    Outcome.OK: "every measured step was answered with success, and no byte is known to differ",
    Outcome.OOM_KILLED: "the kernel killed the server because the machine's memory was used up",
    Outcome.SERVER_DIED: "the server's process ended by itself",
    Outcome.HTTP_ERROR: "the server answered with an error",
    Outcome.STALLED: "no byte was delivered for the stall limit",
    Outcome.TIMEOUT: "a stage took longer than its limit",
    Outcome.CORRUPTED: "the download differs from what was uploaded",
    Outcome.DISK_FULL: "the server said that its disk is full",
    Outcome.MACHINE_FAILED: "fault of the instrument: the machine could not be made, reached or kept",
    Outcome.INTERRUPTED: "fault of the instrument: the trial was stopped from outside",
    Outcome.INVALID: "fault of the instrument: what was measured is not complete or not consistent",
}

Stage = Literal["provision", "start", "authenticate", "upload", "verify", "collect", "release"]
STAGES: tuple[Stage, ...] = get_args(Stage)

Step = Literal["upload", "download"]
"""What numbers are about. Which of the two are measured, the parameter `direction` says."""
STEPS: tuple[Step, ...] = get_args(Step)

NOT_VERIFIED = "not_verified"
"""Code of the caveat of a trial whose upload was answered with success and could not be compared."""


class _Model(BaseModel):
    # JSON has no NaN and no infinity: a measurement that is missing is null, with a reason.
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Caveat(_Model):
    """A warning as data: stored in the record and shown in every report."""

    code: str = Field(description="a word that never changes, such as `memory_limit_none`")
    value: float | int | str | None = Field(description="the measured value that caused it, if there is one")
    message: str = Field(description="what is the matter, one sentence")
    advice: str = Field(description="what to do about it, one sentence")


def _moment(text: str) -> str:
    """Return a text that names a moment, whoever reads it where."""
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError(f"{text!r} names no time zone")
    return text


class TrialIdentity(_Model):
    """Which trial this is."""

    trial_id: str = Field(description="unique in its campaign, such as `003-local-512mb-100M-calibration`")
    campaign: str | None = Field(description="name of the campaign; null for a trial run by hand")
    block: int | None = Field(description="number of the block, from 1; null for a trial run by hand")
    position: int | None = Field(description="place in the plan, from 1; null for a trial run by hand")
    attempt: int = Field(description="1, or more after a fault of the instrument")
    started_at: Annotated[str, AfterValidator(_moment)] = Field(
        description="wall clock time of the first stage, ISO 8601, UTC"
    )
    repeat_command: str = Field(description="the shell command that runs this trial again")


class StageTime(_Model):
    """How a stage went."""

    stage: Stage
    duration_s: float = Field(description="seconds from call to return, all attempts added up")
    attempts: int = Field(description="how often the stage was run")


class BuildUnderTest(_Model):
    """The executable that was measured."""

    label: str = Field(description="short name, such as `calibration` or `1.5.4`")
    kind: Literal["calibration", "file", "release"] = Field(description="where it comes from")
    version: str | None = Field(description="release version, or null")
    sha256: str = Field(description="of the executable")
    size_bytes: int = Field(description="of the executable")


class MemoryLimit(_Model):
    """The limit that the server ran under."""

    method: Literal["cgroup_v1", "cgroup_v2", "cgroup_v2_systemd_user", "virtual_machine", "none"] = Field(
        description="which kernel mechanism enforced the limit; `virtual_machine`: the size of the virtual machine's "
        "RAM; `none`: nothing did"
    )
    limit_bytes: int | None = Field(
        description="what the kernel says that the limit is (in a virtual machine what the guest's kernel can use, its "
        "MemTotal); null when there is none"
    )
    swap: Literal["off", "unlimited"] = Field(description="`off`: the kernel gives the server no swap")


ReachedBy = Literal["created", "booted", "reloaded", "restored", "reset"]

REACHED_BY_MEANINGS: dict[ReachedBy, str] = {
    "created": "made anew from the box and booted",
    "booted": "it existed and was off: booted",
    "reloaded": "rebooted, with another RAM or because cleaning up did not bring it back to its baseline",
    "restored": "put back to the snapshot of the state after its boot",
    "reset": "it was running and was cleaned up; memory, disk and swap were verified to be back at their baseline",
}


class VirtualMachineRecord(_Model):
    """The virtual machine that the server ran in."""

    provider: str = Field(description="what made it: `libvirt` or `virtualbox`")
    software: dict[str, str] = Field(description="versions of Vagrant, its plugin, libvirt and QEMU, by name")
    box: str = Field(description="name of the box that it was made of")
    box_version: str | None = Field(description="version of the box")
    acceleration: Literal["kvm", "emulation", "unknown"] = Field(
        description="`kvm`: the host's processor ran the guest; `emulation`: software did, many times slower"
    )
    acceleration_reason: str = Field(description="how that is known, or why it is so, one sentence")
    cpus: int = Field(description="processors of the guest")
    nominal_ram_bytes: int = Field(description="RAM that the virtual machine was given")
    usable_ram_bytes: int = Field(description="what the guest's kernel can use of it (MemTotal)")
    available_ram_bytes: int = Field(description="MemAvailable of the guest before the server was started")
    kernel: str = Field(description="kernel release of the guest")
    operating_system: str = Field(description="of the guest, such as `Debian GNU/Linux 12 (bookworm)`")
    launcher: Literal["screen", "systemd"] | None = Field(
        description="what keeps the server running in the guest: a `screen` session, or a transient `systemd` unit"
    )
    route: Literal["direct", "ssh_forward"] | None = Field(
        description="how the client reached the server: `direct`: at the guest's own address; `ssh_forward`: through "
        "the ssh connection"
    )
    reached_by: ReachedBy = Field(description="how the state that the trial needed was reached, see below")
    reached_s: float = Field(description="seconds that reaching it took")
    mended: list[str] = Field(description="stale states that were found and mended before, one sentence each")
    clock_uncertainty_s: float = Field(
        description="half the round trip in which the guest's clock was mapped to the host's: the guest's times may be "
        "wrong by this"
    )


class NetworkRecord(_Model):
    """Who could reach the server of a local machine."""

    kind: Literal["private", "host"] = Field(
        description="`private`: a network namespace that only the host reached; `host`: the host's own network"
    )
    reason: str | None = Field(description="why there was no private network; null when there was one")


class MachineRecord(_Model):
    """Where the server ran."""

    kind: MachineName = Field(description="; ".join(f"`{kind.name}`: {kind.meaning}" for kind in KINDS.values()))
    name: str
    reused: bool = Field(description="true when a machine that was already running was re-used")
    memory_limit: MemoryLimit
    data_folder_file_system: str = Field(description="such as `ext4`")
    data_folder_disk: str | None = Field(description="block device and kind, such as `vda (ssd)`")
    free_disk_bytes: int = Field(description="free for data folder and TMPDIR before the upload")
    virtual_machine: VirtualMachineRecord | None = Field(
        None, description="the virtual machine; null for a local machine"
    )
    network: NetworkRecord | None = Field(
        None, description="the network of a local machine; null for a virtual machine, and in records of older versions"
    )


class ServerRecord(_Model):
    """The life of the server's process."""

    ready_s: float | None = Field(description="seconds from the process's start to the first good answer")
    idle_anon_bytes: int | None = Field(description="anonymous memory when ready, before the upload")
    exit_code: int | None = Field(description="exit code; null when a signal ended it or it runs on")
    exit_signal: str | None = Field(description="such as `SIGKILL`; null when it ended by itself or runs on")
    oom_kills: int | None = Field(
        description="OOM kills under the machine's memory limit from this server's start to the end of the last "
        "measured step"
    )
    stop_s: float | None = Field(description="seconds from SIGTERM to the end of the process")
    oom_evidence: str | None = Field(
        None, description="the line of the kernel's log that says that it killed the server; null when there is none"
    )


class Progress(_Model):
    """Bytes delivered over time; both lists have the same length."""

    t_s: list[float] = Field(description="seconds since the first byte was sent")
    delivered_bytes: list[int] = Field(description="bytes of the file that the receiving kernel had acknowledged")


class UploadedFile(_Model):
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


class UploadRecord(_Model):
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
        description="bytes of all files over commit; null when a file was answered while another was still transferred"
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
    parallel_uploads: int = Field(1, description="files that were uploaded at the same time")
    files: list[UploadedFile] = Field(
        default_factory=list, description="each file, in order of its payload's number; empty in older records"
    )


class VerifyRecord(_Model):
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


class Gap(_Model):
    """A time in which the probe delivered no sample although it should have."""

    t_s: float = Field(description="start, in seconds of the samples' clock")
    duration_s: float


class MemoryRecord(_Model):
    """What the memory probe saw from before a measured step to after it. Bytes."""

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


class ConditionsRecord(_Model):
    """What the host did from right before a measured step to right after it.

    Shares are of the time of all processors, if nothing else is said.
    """

    duration_s: float = Field(description="seconds between the two readings of the kernel's counters")
    other_busy_share: float | None = Field(
        description="time used by programs that are not the trial's own (own: server or virtual machine, client, "
        "probe, campaign)"
    )
    busiest_other: str | None = Field(
        description="which of them used most, among those that still ran afterwards; null when none stood out"
    )
    own_busy_share: float | None = Field(description="time used by the trial's own processes")
    kernel_busy_share: float | None = Field(
        description="time used by kernel threads and interrupts, whoever they worked for"
    )
    steal_share: float | None = Field(description="time that a hypervisor gave to others")
    iowait_share: float | None = Field(description="time in which a processor had nothing to do but wait for a disk")
    load_1min_before: float = Field(description="load average of one minute, before the step")
    load_1min_after: float = Field(description="the same, after it")
    cpu_pressure_share: float | None = Field(
        description="share of the duration in which some task of the host waited for a processor (/proc/pressure)"
    )
    io_pressure_share: float | None = Field(description="the same for a disk")
    memory_pressure_share: float | None = Field(description="the same for memory")
    throttle_events: int | None = Field(description="how often a processor was slowed down because of its heat")
    frequency_share: float | None = Field(
        description="frequency of the fastest processor right after the step, of the highest that it can do"
    )
    temperature_c: float | None = Field(description="highest temperature of any sensor right after the step")
    governor: str | None = Field(description="CPU frequency governor; all of them when processors have several")
    disk_free_share: float | None = Field(description="free share of the data folder's disk after the step")
    swapped_bytes: int = Field(description="moved to and from the host's swap meanwhile")
    cached_bytes_before: int | None = Field(description="page cache of the host before the step")
    dirty_bytes_before: int | None = Field(
        description="of it, what still waited to be written: work that the disk does beside the step"
    )


class DownloadRecord(_Model):
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


class InstrumentReference(_Model):
    """The calibration of the instrument that was stored on this host when the trial began, see docs/instrument.md."""

    measured_at: str = Field(description="wall clock time of the calibration, ISO 8601, UTC")
    upload_ceiling_mib_s: float = Field(description="what the client can upload to a server that does nothing")
    download_ceiling_mib_s: float = Field(description="what it can download and compare from such a server")
    probe_ratio: float = Field(description="throughput with the memory probe over throughput without it")
    noise_floor: float | None = Field(
        description="relative spread of ratios when the same server was measured twice (A/A)"
    )
    minimum_detectable: float | None = Field(
        description="relative change that the pairs of the calibration, usually ten, find with 80 % power"
    )
    stale: str | None = Field(description="why it does not hold for this trial; null when it does")


class Provenance(_Model):
    """Host and software."""

    host: dict[str, Any] = Field(description="hostname, CPU, kernel, RAM, governor, virtualisation, load at the start")
    versions: dict[str, str] = Field(description="Python and every package that took part")
    picolab_version: str
    picolab_commit: str | None
    picolab_dirty: bool | None = Field(description="true when the checkout had uncommitted changes")


class Record(_Model):
    """The result of one trial."""

    record_version: Literal[1] = 1
    outcome: Outcome = Field(
        description="that of the first measured step which is not ok; else `corrupted` if a byte differs, else `ok`"
    )
    outcome_stage: Stage | None = Field(description="the stage in which the outcome was found; null when ok")
    outcome_detail: str = Field(description="one sentence with what was seen")
    identity: TrialIdentity
    parameters: TrialParameters
    upload_limit_s: float = Field(description="the total limit that was in force")
    stages: list[StageTime]
    build: BuildUnderTest | None
    machine: MachineRecord | None
    server: ServerRecord | None
    upload: UploadRecord | None
    verify: VerifyRecord | None
    memory: MemoryRecord | None
    download: DownloadRecord | None = None
    conditions: ConditionsRecord | None = Field(None, description="what the host did during the measured upload")
    instrument: InstrumentReference | None = Field(
        None, description="the calibration of the instrument that was valid when the trial began"
    )
    caveats: list[Caveat]
    missing: dict[str, str] = Field(description="path of each null measurement -> why it is missing")
    provenance: Provenance


MAY_BE_NULL_WITHOUT_REASON = frozenset(
    {
        "outcome_stage",
        "identity.campaign",
        "identity.block",
        "identity.position",
        "parameters.total_limit_s",
        "build.version",
        "server.exit_code",
        "server.exit_signal",
        "upload.server_message",
        "verify.first_difference_byte",
        "server.oom_evidence",
        "machine.memory_limit.limit_bytes",
        "machine.virtual_machine",
        "machine.network",
        "machine.network.reason",
        "instrument.stale",
        "conditions.busiest_other",
        "download.conditions.busiest_other",
    }
)
"""Fields in which null is itself the statement; every other null needs an entry in `missing`."""

NEWER_PARTS = frozenset(
    {
        "conditions",
        "download.conditions",
        "instrument",
        "upload.outcome",
        "upload.memory_limit",
        "download.outcome",
        "verify.memory_limit",
    }
)
"""Parts that old records do not have: null without a reason means that the record is old. A new one has a reason."""

_NOT_ASKED_FOR = {
    "download": ("direction", "upload"),
    "upload.sync_s": ("sync", "skip"),
    "upload.durable_mib_s": ("sync", "skip"),
}
"""Fields that may be null as well when a parameter (which old records do not have) has the value that means so."""


def nulls_without_reason(record: dict[str, Any]) -> list[str]:
    """Return the paths of null measurements that `missing` does not explain."""
    explained = record.get("missing", {})
    parameters = record.get("parameters", {})
    not_asked_for = {path for path, (name, value) in _NOT_ASKED_FOR.items() if parameters.get(name, value) == value}
    return [
        path
        for path in null_paths(record)
        if not explained.get(path)
        and path not in MAY_BE_NULL_WITHOUT_REASON | NEWER_PARTS | not_asked_for
        and not path.startswith("provenance.")
    ]


def null_paths(value: Any, path: str = "") -> Iterator[str]:
    """Yield the path of every null in a record, such as `upload.commit_s` or `upload.files.0.commit_s`."""
    if value is None:
        yield path
    elif isinstance(value, dict):
        for name, item in value.items():
            if path != "parameters.calibration":
                yield from null_paths(item, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and path != "caveats":
        for index, item in enumerate(value):
            # A list of numbers can be long, and has no null in it.
            if isinstance(item, dict):
                yield from null_paths(item, f"{path}.{index}")


def step_outcome(record: Record, step: Step) -> Outcome | None:
    """Return what a measured step found; None: it is not measured, or an earlier one left nothing to do for it.

    A record that does not say it (an old one, or one of a trial that ended before the step) is judged by the trial's
    outcome and the stage that found it. Numbers of a step count when this is ok and the trial is not `corrupted`.
    """
    if record.parameters.direction not in (step, "both"):
        return None
    part = record.upload if step == "upload" else record.download
    if part is not None and part.outcome is not None:
        return part.outcome
    stage = record.outcome_stage
    found_after_upload = stage is not None and STAGES.index(stage) > STAGES.index("upload")
    if step == "upload":
        answered = record.upload is not None and record.upload.duration_s is not None
        return Outcome.OK if found_after_upload and answered and not record.outcome.is_fault else record.outcome
    ended_before = record.parameters.direction == "both" and stage is not None and not found_after_upload
    return None if ended_before else record.outcome


@functools.cache
def _validator() -> Any:
    import jsonschema

    return jsonschema.Draft202012Validator(json.loads(SCHEMA_PATH.read_text()))


def validate_record(data: Any, place: str) -> Record:
    """Check a record against the JSON schema and its own rules, and return it.

    Args:
        data: the parsed JSON.
        place: where it came from, for the message.

    Raises:
        RecordError: not valid; the message names the first field that is wrong.
    """
    decline_slow_imports()
    # Imported here: slow, and not needed inside a trial's kernel.
    from jsonschema.exceptions import best_match

    error = best_match(_validator().iter_errors(data))
    if error is not None:
        where = ".".join(str(part) for part in error.absolute_path) or "the whole"
        raise RecordError(f"{place}: the record is not valid: {where}: {error.message[:300]}")
    unexplained = nulls_without_reason(data)
    if unexplained:
        raise RecordError(f"{place}: the record is not valid: {unexplained[0]} is null and `missing` has no reason")
    try:
        record = Record.model_validate(data)
    except ValidationError as invalid:
        first = invalid.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecordError(f"{place}: the record is not valid: {where}: {first['msg']}") from None
    contradiction = _contradiction(record)
    if contradiction:
        raise RecordError(f"{place}: the record is not valid: {contradiction}")
    return record


def _contradiction(record: Record) -> str | None:
    """Return what cannot be true at the same time in a record, if there is such a thing."""
    if (record.outcome is Outcome.OK) != (record.outcome_stage is None):
        return f"outcome is {record.outcome} and outcome_stage is {record.outcome_stage}"
    machine = record.machine
    if machine is not None:
        if machine.kind != record.parameters.machine:
            return f"machine.kind is {machine.kind} and parameters.machine is {record.parameters.machine}"
        kind = kind_of(machine.kind)
        if kind.is_virtual != (machine.virtual_machine is not None):
            found = "is null" if kind.is_virtual else "is there"
            return f"machine.kind is {machine.kind}, and machine.virtual_machine {found}"
        if machine.memory_limit.method not in kind.memory_limit_methods:
            return f"machine.kind is {machine.kind}, and memory_limit.method is {machine.memory_limit.method}"
    if record.upload is not None:
        if record.upload.file_size_bytes != record.parameters.file_size_bytes:
            return f"upload.file_size_bytes is {record.upload.file_size_bytes}, not {record.parameters.file_size}"
        if len(record.upload.progress.t_s) != len(record.upload.progress.delivered_bytes):
            return "the two lists of upload.progress differ in length"
        parallel = record.parameters.parallel_uploads
        if record.upload.parallel_uploads != parallel or len(record.upload.files) not in (0, parallel):
            return (
                f"parallel_uploads is {parallel}, and upload tells of {record.upload.parallel_uploads} "
                f"and {len(record.upload.files)} files"
            )
    if record.download is not None and record.parameters.direction == "upload":
        return "direction is upload, and download is there"
    if record.outcome is Outcome.OK:
        if record.upload is None or record.upload.duration_s is None or record.memory is None:
            return "outcome is ok, and upload or memory is not complete"
        measured = record.parameters.direction != "upload"
        unverified = not measured and any(caveat.code == NOT_VERIFIED for caveat in record.caveats)
        if record.verify is None or not (record.verify.matched or (unverified and record.verify.matched is None)):
            return "outcome is ok, and verify.matched is not true"
        if measured and (record.download is None or record.download.duration_s is None):
            return "outcome is ok, and download is not complete"
    for step in STEPS:
        part = record.upload if step == "upload" else record.download
        if part is not None and record.outcome is Outcome.OK and part.outcome not in (None, Outcome.OK):
            return f"outcome is ok, and {step}.outcome is {part.outcome}"
    return None


def record_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of the models above."""
    schema = Record.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def write_schema() -> None:
    """Renew `record.schema.json` after a change of the models."""
    SCHEMA_PATH.write_text(json.dumps(record_schema(), indent=1) + "\n")


if __name__ == "__main__":
    write_schema()
