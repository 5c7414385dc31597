"""The record of a trial: what it measured, what it found, and everything needed to believe or repeat it.

A record is plain JSON; `record.schema.json` describes its shape. A measurement that is missing is null, and `missing`
gives the reason, by the path of the field.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from picolab.config.trial_parameters import TrialParameters
from picolab.record.conditions import ConditionsRecord, InstrumentReference, Provenance
from picolab.record.machine import BuildUnderTest, MachineRecord, ServerRecord
from picolab.record.outcomes import STAGES, Outcome, Stage, Step
from picolab.record.part import Part
from picolab.record.steps import DownloadRecord, MemoryRecord, UploadRecord, VerifyRecord
from picolab.record.timeline import Timeline

RECORD_SCRAP = "record"
SAMPLES_SCRAP = "samples"
NOT_ASKED_FOR = "not asked for"
"""Begins the reason of a measurement that a parameter left out."""
NOT_VERIFIED = "not_verified"
"""Code of the caveat of a trial whose upload was answered with success and could not be compared."""


class Caveat(Part):
    """A warning as data: stored in the record and shown in every report."""

    code: str = Field(description="a word that never changes, such as `memory_limit_none`")
    value: float | int | str | None = Field(description="the measured value that caused it, if there is one")
    message: str = Field(description="what is the matter, one sentence")
    advice: str = Field(description="what to do about it, one sentence")


def _moment(text: str) -> str:
    """Return a text that names a moment in every time zone."""
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError(f"{text!r} names no time zone")
    return text


class TrialIdentity(Part):
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


class StageTime(Part):
    """How a stage went."""

    stage: Stage
    duration_s: float = Field(description="seconds from call to return, all attempts added up")
    attempts: int = Field(description="how often the stage was run")


class Record(Part):
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
    timeline: Timeline | None = Field(
        None, description="when the stages ran, and what ran meanwhile; null in older records"
    )
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
