"""The part of a record about time: when each stage ran, and what other trials did during the measured section."""

from pydantic import Field

from picolab.record.outcomes import Stage
from picolab.record.part import Part


class StageSpan(Part):
    """One run of a stage, on the host's monotonic clock."""

    stage: Stage
    begun_monotonic_s: float
    ended_monotonic_s: float


class Neighbour(Part):
    """A stage of another trial of the campaign during the measured section of this one."""

    trial_id: str
    machine: str = Field(description="name of its machine")
    doing: str = Field(description="its stage, or `begins` (its kernel starts) or `ends` (files, machine)")
    measured: bool = Field(description="whether it was in its own measured section")
    overlap_s: float = Field(description="seconds of this trial's measured section")


class Timeline(Part):
    """When the stages ran. The measured section lasts from the server's start to the end of the last measured step."""

    boot_id: str = Field(description="the host's boot that the monotonic clock belongs to")
    stages: list[StageSpan] = Field(default_factory=list, description="each run of a stage that had something to do")
    waited_s: float = Field(default=0.0, description="seconds that the measured section waited for its turn")
    measured_from_s: float | None = Field(default=None, description="begin of the measured section, monotonic clock")
    measured_until_s: float | None = Field(default=None, description="end of it")
    others_worked_s: float | None = Field(
        default=None, description="seconds of it in which another trial worked and did not measure"
    )
    others_measured_s: float | None = Field(default=None, description="the same for one that measured, too")
    others_s: float | None = Field(
        default=None, description="the same for one that did either; null in older records too"
    )
    neighbours: list[Neighbour] = Field(
        default_factory=list,
        description="what ran during it, the longest first, at most 100 entries; none where that is unknown",
    )
