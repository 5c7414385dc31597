"""Parameters of a campaign, validated: matrix, builds, stopping."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from picolab.config.field_values import AS_WRITTEN, Text, all_for_fields, for_field, refuse_bool
from picolab.config.trial_parameters import LABEL_PATTERN, TrialParameters

MOST_MACHINES = 64
"""At the same time on one host: each needs a processor."""


class Matrix(BaseModel):
    """Factors and their levels, with GitHub Actions' `include` and `exclude`."""

    model_config = ConfigDict(extra="allow")

    include: list[dict[str, Any]] = []
    exclude: list[dict[str, Any]] = []

    @model_validator(mode="before")
    @classmethod
    def _texts_as_they_stand(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        meant: dict[str, Any] = {}
        for name, levels in data.items():
            if not isinstance(levels, list):
                meant[name] = levels
            elif name in ("include", "exclude"):
                meant[name] = [all_for_fields(TrialParameters, entry) for entry in levels]
            else:
                meant[name] = [for_field(TrialParameters, name, level) for level in levels]
        return meant

    @property
    def factors(self) -> dict[str, list[Any]]:
        return dict(self.model_extra or {})


class BuildParameters(BaseModel):
    """A build under test by its label: the executable, and how it is started."""

    model_config = ConfigDict(extra="forbid")

    build: Annotated[str, Field(min_length=1), AS_WRITTEN] = Field(
        description="calibration, a path, or a release such as 1.5.4"
    )
    environment: dict[str, Any] = Field(default_factory=dict, description="environment variables of the server")
    calibration: dict[str, Any] = Field(default_factory=dict, description="knobs of the calibration server")

    @field_validator("environment", "calibration", mode="before")
    @classmethod
    def _as_it_stands(cls, value: Any, info: ValidationInfo) -> Any:
        return for_field(TrialParameters, str(info.field_name), value)


class Stopping(BaseModel):
    """When `repeats: auto` has enough blocks."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    _no_bool = field_validator("*", mode="before")(classmethod(refuse_bool))

    target_percent: Annotated[float, Field(gt=0, le=100)] = Field(
        3.0, description="stop when each case's interval reaches at most this far from its middle, in percent"
    )
    least_blocks: Annotated[int, Field(ge=10, le=1000)] = Field(10, description="blocks before the first look")
    most_blocks: Annotated[int, Field(ge=10, le=1000)] = Field(40, description="blocks after which it ends anyway")
    time_limit_h: Annotated[float, Field(gt=0, le=10_000)] | None = Field(
        None, description="hours in which trials of the campaign have run after which it ends anyway; null: no limit"
    )

    @model_validator(mode="after")
    def _least_below_most(self) -> "Stopping":
        if self.least_blocks > self.most_blocks:
            raise ValueError(
                f"least_blocks = {self.least_blocks} is more than most_blocks = {self.most_blocks}; swap them"
            )
        return self


class CampaignParameters(BaseModel):
    """The content of a file in `parameters/`."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    _no_bool = field_validator(
        *("description", "repeats", "seed", "fault_retries", "baseline", "margin_percent", "idle_limit_s", "machines"),
        mode="before",
    )(classmethod(refuse_bool))

    description: Text = Field("", description="what the campaign is for, one sentence for the report")
    matrix: Matrix = Field(description="factors and their levels; `include` adds cases, `exclude` removes them")
    repeats: Annotated[int, Field(ge=1, le=1000)] | Literal["auto"] = Field(
        3, description="trials a case, one in each block; auto: until the intervals are narrow, see `stopping`"
    )
    stopping: Stopping | None = Field(None, description="when `repeats: auto` has enough; null: its defaults")
    builds: dict[Annotated[str, Field(pattern=LABEL_PATTERN)], BuildParameters] = Field(
        default_factory=dict, description="builds by label, each with its environment; levels of `build` may name them"
    )
    baseline: Text = Field("", description="label of the build that others are compared with; empty: the first")
    margin_percent: Annotated[float, Field(gt=0, le=50)] = Field(
        5.0, description="change in percent that does not matter: less is equivalent"
    )
    idle_limit_s: Annotated[float, Field(ge=0, le=86400)] = Field(
        60.0, description="seconds to wait at most for an idle host before the first trial; 0: do not look"
    )
    busy_host: Literal["flag", "refuse"] = Field(
        "flag", description="what to do when the host never is idle: flag (a caveat) or refuse to start"
    )
    seed: Annotated[int, Field(ge=0, lt=1 << 31)] = Field(
        1, description="seed of the order of trials and of the uploaded bytes"
    )
    fault_retries: Annotated[int, Field(ge=0, le=10)] = Field(
        1, description="how often a trial is tried again after a fault of the instrument"
    )
    machines: Annotated[int, Field(ge=1, le=MOST_MACHINES)] = Field(
        1, description="machines at the same time on this host, as far as RAM and processors allow"
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="trial parameters that are the same in all trials"
    )

    @field_validator("parameters", mode="before")
    @classmethod
    def _texts_as_they_stand(cls, value: Any) -> Any:
        return all_for_fields(TrialParameters, value)
