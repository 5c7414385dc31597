"""What may be set: the parameters of a trial and of a campaign, validated; sizes and their units."""

import difflib
import json
import os
import re
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from picolab.config.given_paths import absolute_build, absolute_path
from picolab.config.sizes import MIB, format_size, parse_size
from picolab.config.yaml_text import WrittenFloat, WrittenInt, YamlProblem, plain, read_yaml_file
from picolab.errors import ParameterError
from picolab.machines.kinds import DEFAULT_KIND, KINDS, checked_name, kind_of
from picolab.servers import registry
from picolab.servers.picoshare.adapter import RELEASE_BASE_URL
from picolab.text.foreign import shown

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")

DISK_FACTOR = 2.2
"""Free disk that a trial needs, in file sizes: temp file plus database, and some for the WAL."""


def _no_truth_value(model: type[BaseModel], value: Any, info: ValidationInfo) -> Any:
    """Refuse a bool, which Python would take for 0 or 1 (no parameter is one); forget how numbers were written."""
    if isinstance(value, bool):
        raise ValueError(f"{value} is a yes or a no, and neither makes sense here; put quotes around a text")
    is_text = model.model_fields[str(info.field_name)].annotation is str
    return value if is_text else _as_meant(str(info.field_name), value)


def _text(value: Any) -> Any:
    """Take a text as it stands; refuse a number whose text is lost, since 1.10 and 1.1 are one number and two texts."""
    if isinstance(value, WrittenInt | WrittenFloat):
        return value.written
    if isinstance(value, bool | int | float):
        raise ValueError(f"{shown(value)} is no text, and may have been written in another way; put quotes around it")
    if isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
        raise ValueError(f"{shown(value)} holds a character that cannot be printed; remove it")
    return value


_AS_IT_STANDS = BeforeValidator(_text)
Text = Annotated[str, _AS_IT_STANDS]
MachineName = Annotated[
    str, AfterValidator(checked_name), WithJsonSchema({"type": "string", "enum": list(KINDS)}, mode="serialization")
]
"""The name of a kind of machine."""


def _as_meant(name: str, value: Any) -> Any:
    """Return a value from a YAML file for a parameter of the trial: a text as it stood there, or an ordinary number."""
    field = TrialParameters.model_fields.get(name)
    if field is not None and field.annotation is str and isinstance(value, WrittenInt | WrittenFloat):
        return value.written
    if name == "environment" and isinstance(value, dict):
        return {variable: _as_meant("build", text) for variable, text in value.items()}
    return plain(value)


def _located(name: str, value: Any, folder: Path, place: str, labels: Container[str] = ()) -> Any:
    """Return the value of a parameter with its path, if it is one, from the root.

    Args:
        labels: names of builds, which are no paths either.
    """
    if name == "build" and isinstance(value, str) and value not in labels:
        return absolute_build(value, folder, place)
    return absolute_path(value, folder, place) if name == "work_dir" and isinstance(value, str) else value


def _all_located(values: dict[str, Any], folder: Path, place: str, labels: Container[str]) -> dict[str, Any]:
    return {name: _located(name, value, folder, place, labels) for name, value in values.items()}


def _all_as_meant(values: Any) -> Any:
    return {name: _as_meant(name, value) for name, value in values.items()} if isinstance(values, dict) else values


LABEL_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$"
BUILD_PARAMETERS = ("build", "label", "environment", "calibration", "release_base_url")
"""What belongs to the build under test; the other parameters are the scenario that it is measured in."""
_NOT_OF_THE_SCENARIO = (
    *BUILD_PARAMETERS,
    *("machine", "ram_mb", "file_size", "memory_limit"),
    *("seed", "machine_name", "keep_machine"),
)


def short(value: Any) -> str:
    """Return a value in characters that are safe in a file name."""
    text = json.dumps(value, sort_keys=True, separators=(",", "_")) if isinstance(value, dict) else str(value)
    return re.sub(r"[^A-Za-z0-9._]+", "-", re.sub(r'[{}"]', "", text)).strip("-") or "none"


class TrialParameters(BaseModel):
    """Everything that may be set for one trial; the trial notebook's parameters cell has the same names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    machine: MachineName = Field(
        DEFAULT_KIND,
        description="where the server runs: " + " or ".join(f"{kind.name} ({kind.meaning})" for kind in KINDS.values()),
    )
    machine_name: Annotated[str, Field(pattern=r"^([a-zA-Z0-9][a-zA-Z0-9._-]{0,59})?$"), _AS_IT_STANDS] = Field(
        "", description="name of the machine to use or re-attach to; empty: named after its kind"
    )
    ram_mb: Annotated[int, Field(ge=16, le=1 << 20)] = Field(512, description="memory of the machine in MiB, swap off")
    file_size: Text = Field("100M", description="size of the upload, binary units: 100M is 100 MiB")
    server: Annotated[str, AfterValidator(registry.checked_name), _AS_IT_STANDS] = Field(
        registry.DEFAULT_SERVER, description=f"the server under test: {' or '.join(registry.SERVERS)}"
    )
    build: Annotated[str, Field(min_length=1), _AS_IT_STANDS] = Field(
        "calibration",
        description="executable of the server: calibration, a path, or a release such as 1.5.4",
    )
    calibration: dict[str, Any] = Field(
        default_factory=dict, description="knobs of the calibration server, such as {'transfer_mib_s': 50}"
    )
    label: Annotated[str, Field(pattern=f"^$|{LABEL_PATTERN}"), _AS_IT_STANDS] = Field(
        "", description="short name of the build in labels, charts and verdicts; empty: named after the build"
    )
    environment: dict[str, Text] = Field(
        default_factory=dict, description="environment variables of the server, such as {'GOMEMLIMIT': '100MiB'}"
    )
    parallel_uploads: Annotated[int, Field(ge=1, le=16)] = Field(
        1, description="files that are uploaded at the same time, each of file_size"
    )
    direction: Literal["upload", "download", "both"] = Field(
        "upload", description="what is measured with its memory: upload, download or both (every file is uploaded)"
    )
    cache: Literal["warm", "cold"] = Field(
        "warm", description="page cache before the measured step: warm (as it is) or cold (dropped)"
    )
    sync: Literal["skip", "measure"] = Field(
        "skip", description="measure: after the answer, time until the data is on the disk"
    )
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = Field(1, description="seed of the uploaded bytes")
    keep_machine: Literal["never", "on_failure", "always"] = Field(
        "on_failure", description="leave machine and server up at the end: never, on_failure or always"
    )
    memory_limit: Literal["enforced", "none"] = Field(
        "enforced", description="enforced, or none: an unlimited run that is labelled as such everywhere"
    )
    work_dir: Text = Field(
        "",
        description="folder for data folder and TMPDIR (choose a disk); empty: .picolab in the project; "
        "not for vagrant",
    )
    fresh_machine: Literal["per_trial", "per_block", "per_campaign"] = Field(
        "per_campaign",
        description="how often the VM is made fresh: per_trial, per_block, per_campaign (local ignores it)",
    )
    cpus: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="processors of the virtual machine (local ignores it)"
    )
    box: Annotated[str, Field(max_length=200), _AS_IT_STANDS] = Field(
        "",
        description="box of the VM; empty: picolab's own if it was built, else debian/bookworm64 (local ignores it)",
    )
    provider: Literal["libvirt", "virtualbox"] = Field(
        "libvirt", description="what makes the virtual machine: libvirt or virtualbox (local ignores it)"
    )
    boot_limit_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        300.0, description="seconds that a virtual machine may take to boot (local ignores it)"
    )
    release_base_url: Text = Field(RELEASE_BASE_URL, description="where releases are downloaded from")
    ready_limit_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        60.0, description="seconds that the server may take until it answers, and again for the log-in"
    )
    stall_limit_s: Annotated[float, Field(gt=0, le=86400)] = Field(
        60.0, description="seconds without a delivered byte after which a transfer counts as stalled"
    )
    floor_rate_mib_s: Annotated[float, Field(ge=0.001)] = Field(
        1.0, description="slowest rate worth waiting for, MiB/s; gives the default of total_limit_s"
    )
    total_limit_s: Annotated[float, Field(gt=0, le=30 * 86400)] | None = Field(
        None, description="seconds for a whole upload; None: 60 s plus the file size at floor_rate_mib_s"
    )
    sample_interval_s: Annotated[float, Field(ge=0.005, le=0.1)] = Field(
        0.05, description="seconds between two memory samples, at most 0.1"
    )

    _no_truth_values = field_validator("*", mode="before")(classmethod(_no_truth_value))

    @model_validator(mode="before")
    @classmethod
    def _default_build(cls, data: Any) -> Any:
        """Have the default of `build` mean the server's own default."""
        name = data.get("server") if isinstance(data, dict) else None
        server = registry.SERVERS.get(name) if isinstance(name, str) else None
        usual = cls.model_fields["build"].default
        if server is None or data.get("build", usual) != usual:
            return data
        return {**data, "build": server.default_build}

    @field_validator("build", "work_dir", "box", "release_base_url")
    @classmethod
    def _printable(cls, value: str) -> str:
        # Such a character cannot be part of a path, or would tear the lines that it is shown in.
        if not value.isprintable():
            raise ValueError(f"{shown(value)} holds a character that cannot be printed; remove it")
        return value

    @field_validator("environment", mode="before")
    @classmethod
    def _environment(cls, value: Any) -> Any:
        for name, text in value.items() if isinstance(value, dict) else ():
            if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
                raise ValueError(f"{shown(name)} cannot be the name of an environment variable")
            if name in registry.reserved_variables() or name.startswith("PICOLAB_"):
                raise ValueError(f"{name} is set by picolab itself; remove it")
            if not isinstance(_text(text), str):
                raise ValueError(f"{name} = {shown(text)} should be a text; put quotes around it")
            if not _text(text).isprintable():
                raise ValueError(f"{name} = {shown(text)} holds a character that cannot be printed; remove it")
        return value

    @field_validator("calibration")
    @classmethod
    def _json(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, TypeError, RecursionError):
            raise ValueError(f"{shown(value)} holds something that JSON cannot hold; remove it") from None
        return value

    @field_validator("file_size", mode="before")
    @classmethod
    def _bytes(cls, value: Any) -> Any:
        # A bare number is bytes, and a whole number has one meaning.
        return str(value) if type(value) is int else value

    @field_validator("file_size")
    @classmethod
    def _normal_size(cls, value: str) -> str:
        try:
            return format_size(parse_size(value))
        except ParameterError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _fits_the_server(self) -> "TrialParameters":
        for name in sorted(registry.settings_of_one_server() - {*registry.server_of(self.server).heeds}):
            value = getattr(self, name)
            if value != type(self).model_fields[name].get_default(call_default_factory=True):
                owners = " or ".join(repr(one.name) for one in registry.SERVERS.values() if name in one.heeds)
                raise ValueError(
                    f"{name} = {shown(value)} is a setting of server {owners} alone, and server is {self.server!r}; "
                    f"remove one of the two"
                )
        return self

    @model_validator(mode="after")
    def _fits_the_machine(self) -> "TrialParameters":
        reason = kind_of(self.machine).why_unfit(self)
        if reason is not None:
            raise ValueError(reason)
        return self

    @property
    def file_size_bytes(self) -> int:
        return parse_size(self.file_size)

    @property
    def upload_limit_s(self) -> float:
        """Seconds for the whole upload: `total_limit_s`, or 60 s plus all its bytes at the floor rate."""
        if self.total_limit_s is not None:
            return self.total_limit_s
        return 60.0 + self.uploaded_bytes / MIB / self.floor_rate_mib_s

    @property
    def uploaded_bytes(self) -> int:
        """Bytes of all files together."""
        return self.file_size_bytes * self.parallel_uploads

    @property
    def needed_disk_bytes(self) -> float:
        """Free disk that data folder and TMPDIR need."""
        return DISK_FACTOR * self.uploaded_bytes

    @property
    def build_label(self) -> str:
        """A short name of the build for labels and file names: its label, `calibration`, `1.5.4`, or a file's name."""
        return self.label or re.sub(r"[^A-Za-z0-9._]+", "-", Path(self.build).name)[:60] or "build"

    @property
    def scenario(self) -> str:
        """The case without its build, such as `local-512mb-100M`: what builds are compared in.

        Every parameter with another value than its default is named, so that two scenarios have two names.
        """
        unlimited = "-unlimited" if self.memory_limit == "none" else ""
        others = [
            f"-{name}_{short(getattr(self, name))}"
            for name, field in TrialParameters.model_fields.items()
            if name not in _NOT_OF_THE_SCENARIO and getattr(self, name) != field.get_default()
        ]
        return f"{self.machine}-{self.ram_mb}mb-{self.file_size}{unlimited}{''.join(others)}"

    @property
    def case_label(self) -> str:
        """The case in a few characters, safe in a file name, such as `local-512mb-100M-calibration`."""
        unlimited = "-unlimited" if self.memory_limit == "none" else ""
        return f"{self.machine}-{self.ram_mb}mb-{self.file_size}-{self.build_label}{unlimited}"

    @classmethod
    def from_namespace(cls, namespace: Mapping[str, Any]) -> "TrialParameters":
        """Take from a notebook's `globals()` the names that are parameters, and validate them.

        Raises:
            ParameterError: a value makes no sense.
        """
        known = {name: namespace[name] for name in cls.model_fields if name in namespace}
        for name, value in known.items():
            if cls.model_fields[name].annotation is str and isinstance(value, int | float) and name != "file_size":
                raise ParameterError(
                    f"the parameters cell: {name} = {value} is no text, and may have been written in another way; put "
                    f"quotes around it, or let papermill leave it as it stands: -r {name} TEXT instead of -p"
                )
        given = validate(cls, known, "the parameters cell")
        # In a campaign they come from its plan, where this was done.
        return given if os.environ.get("PICOLAB_TRIAL") else given.located(Path.cwd(), "the parameters cell")

    def located(self, folder: Path, place: str) -> "TrialParameters":
        """Return the same with paths from the root; `folder` is what a relative one means.

        Raises:
            ParameterError: it is not clear what a path means.
        """
        paths = {name: _located(name, getattr(self, name), folder, place) for name in ("build", "work_dir")}
        # Validated once more: the name of a folder may hold what no record can.
        return validate(TrialParameters, {**self.model_dump(), **paths}, place)


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
        meant = {}
        for name, levels in data.items():
            if name in ("include", "exclude"):
                meant[name] = [_all_as_meant(entry) for entry in levels] if isinstance(levels, list) else levels
            else:
                meant[name] = [_as_meant(name, level) for level in levels] if isinstance(levels, list) else levels
        return meant

    @property
    def factors(self) -> dict[str, list[Any]]:
        return dict(self.model_extra or {})


class BuildParameters(BaseModel):
    """A build under test by its label: the executable, and how it is started."""

    model_config = ConfigDict(extra="forbid")

    build: Annotated[str, Field(min_length=1), _AS_IT_STANDS] = Field(
        description="calibration, a path, or a release such as 1.5.4"
    )
    environment: dict[str, Any] = Field(default_factory=dict, description="environment variables of the server")
    calibration: dict[str, Any] = Field(default_factory=dict, description="knobs of the calibration server")

    @field_validator("environment", "calibration", mode="before")
    @classmethod
    def _as_it_stands(cls, value: Any, info: ValidationInfo) -> Any:
        return _as_meant(str(info.field_name), value)


class Stopping(BaseModel):
    """When `repeats: auto` has enough blocks."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    _no_truth_values = field_validator("*", mode="before")(classmethod(_no_truth_value))

    target_percent: Annotated[float, Field(gt=0, le=100)] = Field(
        3.0, description="stop when each case's interval reaches at most this far from its middle, in percent"
    )
    least_blocks: Annotated[int, Field(ge=10, le=1000)] = Field(10, description="blocks before the first look")
    most_blocks: Annotated[int, Field(ge=10, le=1000)] = Field(40, description="blocks after which it ends anyway")
    time_limit_h: Annotated[float, Field(gt=0, le=10_000)] | None = Field(
        None, description="hours of running trials after which it ends anyway; null: no limit"
    )

    @model_validator(mode="after")
    def _least_below_most(self) -> "Stopping":
        if self.least_blocks > self.most_blocks:
            raise ValueError(
                f"least_blocks = {self.least_blocks} is more than most_blocks = {self.most_blocks}; swap them"
            )
        return self


class CampaignParameters(BaseModel):
    """What a file in `parameters/` says."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    _no_truth_values = field_validator(
        "description", "repeats", "seed", "fault_retries", "baseline", "margin_percent", "idle_limit_s", mode="before"
    )(classmethod(_no_truth_value))

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
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="trial parameters that are the same in all trials"
    )

    @field_validator("parameters", mode="before")
    @classmethod
    def _texts_as_they_stand(cls, value: Any) -> Any:
        return _all_as_meant(value)


ModelT = TypeVar("ModelT", bound=BaseModel)


def validate(model: type[ModelT], data: Any, place: str) -> ModelT:
    """Validate `data` into `model`, or say in one sentence what is wrong.

    Args:
        place: where the data came from, as the user would name it.

    Raises:
        ParameterError: names the value, the place and the remedy.
    """
    try:
        return model.model_validate(data)
    except pydantic.ValidationError as error:
        raise ParameterError(f"{place}: {_sentence(model, error.errors()[0])}") from None


def unknown_name(name: str, known: list[str]) -> str:
    """Return a sentence about a name that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known) or 'none'}"
    return f"there is no {shown(name)}; {hint}"


_KINDS = {
    "dict_type": "a mapping (name: value)",
    "model_type": "a mapping (name: value)",
    "list_type": "a list, such as [a, b]",
    "string_type": "a text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
}
"""pydantic's error types in our words."""


def _sentence(model: type[BaseModel], error: Any) -> str:
    # pydantic names the alternative of a union, which says nothing to a user.
    where = ".".join(str(part) for part in error["loc"] if part != "constrained-int")
    if error["type"] == "extra_forbidden":
        return unknown_name(str(error["loc"][-1]), sorted(model.model_fields))
    if error["type"] == "missing":
        return f"{where} is missing and has no default"
    if error["type"] == "value_error":
        # Without a place it is about several parameters at once, and names them itself.
        return f"{where}: {error['ctx']['error']}" if where else str(error["ctx"]["error"])
    if error["type"] == "string_pattern_mismatch" and error["loc"][-1:] == ("[key]",):
        return (
            f"{where.removesuffix('.[key]')}: {shown(error['input'])} cannot be a label: up to 40 letters, digits, "
            f"dots, dashes and underscores, beginning with a letter or digit"
        )
    if error["msg"] == "Keys should be strings" or error["loc"][-1:] == ("[key]",):
        return f"{shown(error['input'])} cannot be a name; put quotes around it if it is meant as one"
    reason = _KINDS.get(error["type"]) or error["msg"].removeprefix("Input should be ").removeprefix("a ")
    field = model.model_fields.get(str(error["loc"][0])) if error["loc"] else None
    meaning = f" ({field.description})" if field and field.description else ""
    return f"{where or 'the whole'} = {shown(error['input'])} should be {reason}{meaning}"


def load_campaign_parameters(path: Path) -> CampaignParameters:
    """Read a file of `parameters/`.

    Raises:
        ParameterError: no such file, not YAML, or something in it makes no sense.
    """
    try:
        data = read_yaml_file(path)
    except OSError as error:
        raise ParameterError(
            f"{path}: cannot be read ({error.strerror}); name a file such as parameters/quick.yaml"
        ) from None
    except YamlProblem as problem:
        raise ParameterError(f"{path}: {problem}") from None
    if not isinstance(data, dict):
        raise ParameterError(f"{path}: holds no mapping; start from a copy of parameters/quick.yaml")
    return _with_paths_from_the_root(validate(CampaignParameters, data, str(path)), path)


def _with_paths_from_the_root(wanted: CampaignParameters, path: Path) -> CampaignParameters:
    """Return the same parameters with absolute paths: a relative one in a file means the folder of the file."""
    folder, place, labels = path.parent, str(path), wanted.builds
    matrix = {
        name: [_located(name, level, folder, place, labels) for level in levels] if isinstance(levels, list) else levels
        for name, levels in wanted.matrix.factors.items()
    }
    for name in ("include", "exclude"):
        matrix[name] = [_all_located(entry, folder, place, labels) for entry in getattr(wanted.matrix, name)]
    builds = {
        label: build.model_copy(update={"build": _located("build", build.build, folder, place)})
        for label, build in wanted.builds.items()
    }
    parameters = _all_located(wanted.parameters, folder, place, labels)
    return wanted.model_copy(
        update={"matrix": Matrix.model_validate(matrix), "builds": builds, "parameters": parameters}
    )
