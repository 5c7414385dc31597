"""Parts of a record about the host: its conditions during a measured step, the instrument, the software."""

from typing import Any

from pydantic import Field

from picolab.record.part import Part


class ConditionsRecord(Part):
    """Activity of the host from right before a measured step to right after it.

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
        description="of it, data not yet written to disk: work for the disk during the step"
    )


class InstrumentReference(Part):
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


class Provenance(Part):
    """Host and software."""

    host: dict[str, Any] = Field(
        description="hostname, host_id (or why there is none), boot_id, CPU, kernel, RAM, governor, virtualisation, "
        "load at the start"
    )
    versions: dict[str, str] = Field(description="Python and every package that took part")
    picolab_version: str
    picolab_commit: str | None
    picolab_dirty: bool | None = Field(description="true when the checkout had uncommitted changes")
