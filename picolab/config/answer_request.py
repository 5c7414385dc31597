"""A question about an upload: its size and RAM, which trials answer it, and which earlier trials may be used."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from picolab.config.field_values import Text
from picolab.config.trial_parameters import TrialParameters
from picolab.files.writing import file_name

LONGEST_BUDGET_S = 30 * 86400
_FileName = Annotated[str, AfterValidator(file_name)]


class EarlierTrial(BaseModel):
    """A finished trial of another campaign of the same folder of outputs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    campaign: _FileName
    trial_id: _FileName


class AnswerRequest(BaseModel):
    """The question of `picolab answer`, as its plan holds it."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    parameters: TrialParameters = Field(description="of the upload that is asked about, with its file size and RAM")
    build: str = Field(description="the build as it was named on the command line")
    build_sha256: str = Field(description="SHA-256 of the executable")
    sizes: Annotated[list[Text], Field(min_length=1)] = Field(description="file sizes that are measured, ascending")
    parallel: list[Annotated[int, Field(ge=1, le=16)]] = Field(
        default=[1], description="numbers of uploads at the same time, ascending; 1 alone: not asked for"
    )
    parallel_size: Text = Field(
        "", description="file size at which several uploads at the same time are measured; empty when the plan grows"
    )
    repeats: Annotated[int, Field(ge=1, le=100)] = Field(description="trials of each case, earlier ones included")
    budget_s: Annotated[float, Field(ge=0, le=LONGEST_BUDGET_S)] = Field(
        description="seconds after which no further block of trials begins; 0: no trials"
    )
    largest: Text = Field("", description="the largest file that may be measured; empty: the size that is asked about")
    grows: bool = Field(
        False, description="nothing was known of the server's speed: each trial is planned after the ones before it"
    )
    earlier: list[EarlierTrial] = Field(default_factory=list, description="finished trials that are used too")
