"""Parameters of `picolab watch`, validated, and the builds of a parameter file that it follows and replaces."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from picolab.config.campaign_parameters import CampaignParameters, Matrix
from picolab.config.field_values import Text, all_for_fields, refuse_bool
from picolab.config.given_paths import RELEASE, URL, absolute_path, is_word
from picolab.config.invalid_input import unknown_name, validate
from picolab.config.parameter_file import read_mapping
from picolab.config.schedule import Schedule
from picolab.errors import ParameterError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", re.ASCII)
"""A campaign's name has 51 characters at most; time and number take the rest."""


class WatchParameters(BaseModel):
    """The content of the file that `picolab watch` reads."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    _no_bool = field_validator(
        *("parameters", "name", "release", "every", "poll_s", "settle_s", "keep", "history", "publish"), mode="before"
    )(classmethod(refuse_bool))

    parameters: Annotated[Text, Field(min_length=1)] = Field(
        description="parameter file of each campaign; a relative path means the folder of this file"
    )
    name: Text = Field("", description="begins the name of each campaign; empty: the name of this file")
    build_changes: bool = Field(True, description="run when a build file of the parameter file changes")
    release: Text = Field("", description="label of the build that is always the newest release; empty: none")
    every: Text = Field("", description="run at times in UTC, such as 6h, day at 03:00 or monday at 03:00; empty: no")
    poll_s: Annotated[float, Field(ge=1, le=86400)] = Field(60.0, description="seconds between two looks")
    settle_s: Annotated[float, Field(ge=0, le=3600)] = Field(
        10.0, description="seconds that a build file stays unchanged before it counts as written"
    )
    keep: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None, description="finished campaigns of this watch to keep, the oldest are removed; null: all"
    )
    report: bool = Field(True, description="write the report after each campaign")
    compare: bool = Field(True, description="write the comparison after each campaign of several builds")
    history: Text = Field("", description="folder or s3:// URL of the history that gets each campaign; empty: none")
    publish: Text = Field("", description="folder of the site that is published after each campaign; empty: none")

    @field_validator("every")
    @classmethod
    def _is_time(cls, value: str) -> str:
        if value:
            Schedule.parse(value)
        return value

    @field_validator("name")
    @classmethod
    def _is_name(cls, value: str) -> str:
        if value and not _NAME.fullmatch(value):
            raise ValueError(
                f"{value[:60]!r} cannot begin the name of a campaign: use up to 32 letters, digits, dots, dashes and "
                f"underscores, beginning with a letter or digit"
            )
        return value

    @model_validator(mode="after")
    def _waits_for_something(self) -> "WatchParameters":
        if not (self.build_changes or self.release or self.every):
            raise ValueError("it would wait for nothing: set build_changes: true, release or every")
        return self

    @property
    def schedule(self) -> Schedule | None:
        return Schedule.parse(self.every) if self.every else None


def load_watch_parameters(path: Path) -> WatchParameters:
    """Read the file of a watch; its `name` is set, and its paths begin at the root.

    Raises:
        ParameterError: no such file, not YAML, or something in it makes no sense.
    """
    data = read_mapping(path, "it should begin with `parameters: FILE`")
    wanted = validate(WatchParameters, all_for_fields(WatchParameters, data), str(path))
    if not wanted.name and not _NAME.fullmatch(path.stem):
        raise ParameterError(
            f"{path}: name is missing, and {path.stem[:60]!r} cannot begin the name of a campaign; set name to up to "
            f"32 letters, digits, dots, dashes and underscores"
        )
    here, place = path.parent, str(path)
    found = {
        "name": wanted.name or path.stem,
        "parameters": absolute_path(wanted.parameters, here, place),
        "history": wanted.history if URL.match(wanted.history) else absolute_path(wanted.history, here, place),
        "publish": absolute_path(wanted.publish, here, place),
    }
    return wanted.model_copy(update=found)


def build_files(wanted: CampaignParameters) -> list[str]:
    """Return the absolute paths of the builds that are files, each once."""
    named = [build.build for build in wanted.builds.values()]
    levels = wanted.matrix.factors.get("build", [])
    named += [str(level) for level in (levels if isinstance(levels, list) else [levels])]
    named += [str(entry["build"]) for entry in wanted.matrix.include if "build" in entry]
    named += [str(wanted.parameters["build"])] if "build" in wanted.parameters else []
    return [build for build in dict.fromkeys(named) if build not in wanted.builds and not is_word(build)]


def with_builds(
    wanted: CampaignParameters, copies: Mapping[str, str], label: str = "", release: str | None = None
) -> CampaignParameters:
    """Return the same parameters with other builds.

    Args:
        copies: the file to run instead of each build file, by its path.
        label: of the build that becomes the release; empty: none.
        release: its version; None: the build stays as the parameter file has it.
    """

    def replaced(values: Mapping[str, Any]) -> dict[str, Any]:
        build = values.get("build")
        return {**values, "build": copies.get(build, build)} if isinstance(build, str) else dict(values)

    builds = {
        name: build.model_copy(
            update={"build": release if release and name == label else copies.get(build.build, build.build)}
        )
        for name, build in wanted.builds.items()
    }
    matrix = wanted.matrix.model_dump()
    if isinstance(matrix.get("build"), list):
        matrix["build"] = [copies.get(level, level) for level in matrix["build"]]
    matrix |= {name: [replaced(entry) for entry in matrix[name]] for name in ("include", "exclude")}
    changes = {
        "builds": builds,
        "matrix": Matrix.model_validate(matrix),
        "parameters": replaced(wanted.parameters),
    }
    return wanted.model_copy(update=changes)


def check_release(wanted: CampaignParameters, label: str, place: str, source: str) -> None:
    """Refuse a `release` that is no label of a release in the parameter file.

    Args:
        place: the file of the watch, for messages.
        source: the parameter file, for messages.

    Raises:
        ParameterError: it is none.
    """
    if label not in wanted.builds:
        raise ParameterError(
            f"{place}: release: {unknown_name(label, sorted(wanted.builds))} (the labels under builds in {source})"
        )
    build = wanted.builds[label].build
    if not RELEASE.fullmatch(build):
        raise ParameterError(
            f"{place}: release: the build {label} in {source} is {build!r}; give it a release there, such as 1.5.4"
        )
