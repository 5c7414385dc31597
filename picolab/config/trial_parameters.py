"""Parameters of one trial, validated."""

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, field_validator, model_validator

from picolab.config.field_values import AS_WRITTEN, Text, refuse_bool, written_text
from picolab.config.given_paths import located
from picolab.config.injected_parameters import undeclared_names
from picolab.config.invalid_input import unknown_name, validate
from picolab.config.sizes import MIB, SMALLEST_RAM_MB, format_size, parse_ram_mib, parse_size
from picolab.errors import ParameterError
from picolab.machines.kinds import DEFAULT_KIND, KINDS, checked_name, kind_of
from picolab.servers import registry
from picolab.servers.picoshare.adapter import RELEASE_BASE_URL
from picolab.text.foreign import shown

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")

DISK_FACTOR = 2.2
"""Free disk that a trial needs, in file sizes: temp file plus database, and some for the WAL."""


LABEL_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$"
BUILD_PARAMETERS = ("build", "label", "environment", "calibration", "release_base_url")
"""What belongs to the build under test; the other parameters are the scenario that it is measured in."""
_IN_EVERY_SCENARIO_NAME = ("machine", "ram_mb", "file_size", "memory_limit")


def short(value: Any) -> str:
    """Return a value in characters that are safe in a file name."""
    text = json.dumps(value, sort_keys=True, separators=(",", "_")) if isinstance(value, dict) else str(value)
    return re.sub(r"[^A-Za-z0-9._]+", "-", re.sub(r'[{}"]', "", text)).strip("-") or "none"


MachineName = Annotated[
    str, AfterValidator(checked_name), WithJsonSchema({"type": "string", "enum": list(KINDS)}, mode="serialization")
]
"""The name of a kind of machine."""


class TrialParameters(BaseModel):
    """Everything that may be set for one trial; the trial notebook's parameters cell has the same names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    machine: MachineName = Field(
        DEFAULT_KIND,
        description="where the server runs: " + " or ".join(f"{kind.name} ({kind.meaning})" for kind in KINDS.values()),
    )
    machine_name: Annotated[str, Field(pattern=r"^([a-zA-Z0-9][a-zA-Z0-9._-]{0,59})?$"), AS_WRITTEN] = Field(
        "", description="name of the machine to use or re-attach to; empty: named after its kind"
    )
    ram_mb: Annotated[int | float, Field(ge=SMALLEST_RAM_MB, le=1 << 20)] = Field(
        512, description="memory of the machine in MiB, or with a unit, such as 12.5M; swap off"
    )
    file_size: Text = Field("100M", description="size of the upload, binary units: 100M is 100 MiB")
    server: Annotated[str, AfterValidator(registry.checked_name), AS_WRITTEN] = Field(
        registry.DEFAULT_SERVER, description=f"the server under test: {' or '.join(registry.SERVERS)}"
    )
    build: Annotated[str, Field(min_length=1), AS_WRITTEN] = Field(
        "calibration",
        description="executable of the server: calibration, a path, or a release such as 1.5.4",
    )
    calibration: dict[str, Any] = Field(
        default_factory=dict, description="knobs of the calibration server, such as {'transfer_mib_s': 50}"
    )
    label: Annotated[str, Field(pattern=f"^$|{LABEL_PATTERN}"), AS_WRITTEN] = Field(
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
    box: Annotated[str, Field(max_length=200), AS_WRITTEN] = Field(
        "",
        description="box of the VM; empty: picolab's own if it was built, else debian/bookworm64 (local ignores it)",
    )
    provider: Literal["libvirt", "virtualbox"] = Field(
        "libvirt", description="what makes the virtual machine: libvirt or virtualbox (local ignores it)"
    )
    boot_limit_s: Annotated[float, Field(gt=0, le=3600)] = Field(
        300.0, description="seconds that a virtual machine may take to boot (local ignores it)"
    )
    overlap: Literal["none", "preparation", "measurements"] = Field(
        "none",
        description="what the campaign's other trials may do while it measures: none, preparation or measurements",
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

    _no_bool = field_validator("*", mode="before")(classmethod(refuse_bool))

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
            if not isinstance(written_text(text), str):
                raise ValueError(f"{name} = {shown(text)} should be a text; put quotes around it")
            if not written_text(text).isprintable():
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

    @field_validator("ram_mb", mode="before")
    @classmethod
    def _mib(cls, value: Any) -> Any:
        try:
            mib = parse_ram_mib(value)
        except ParameterError as error:
            raise ValueError(str(error)) from None
        if not isinstance(mib, int | float) or not math.isfinite(mib):
            raise ValueError(f"{shown(value)} should be a number of MiB, or a size such as 12.5M")
        return mib

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
    def runs_alone(self) -> bool:
        """Whether no other trial of its campaign may run at the same time."""
        return self.overlap == "none"

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

        Every parameter whose value is not its default is named. Values that differ only in characters that are not safe
        in a file name read the same: `ScenarioNames` tells those apart.
        """
        unlimited = "-unlimited" if self.memory_limit == "none" else ""
        others = [
            f"-{name}_{short(getattr(self, name))}"
            for name in SCENARIO_PARAMETERS
            if name not in _IN_EVERY_SCENARIO_NAME
            and getattr(self, name) != TrialParameters.model_fields[name].get_default()
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
            ParameterError: a value makes no sense, or papermill injected a name that nobody declared.
        """
        known = {name: namespace[name] for name in cls.model_fields if name in namespace}
        for name in undeclared_names(namespace.get("In", ())):
            if name not in cls.model_fields:
                raise ParameterError(f"the parameters of papermill: {unknown_name(name, sorted(cls.model_fields))}")
        for name, value in known.items():
            if cls.model_fields[name].annotation is str and isinstance(value, int | float) and name != "file_size":
                raise ParameterError(
                    f"the parameters cell: {name} = {value} is no text, and may have been written in another way; put "
                    f"quotes around it, or have papermill pass it unchanged: -r {name} TEXT instead of -p"
                )
        given = validate(cls, known, "the parameters cell")
        # In a campaign they come from its plan, where this was done.
        return given if os.environ.get("PICOLAB_TRIAL") else given.located(Path.cwd(), "the parameters cell")

    def located(self, folder: Path, place: str) -> "TrialParameters":
        """Return the same with paths from the root; `folder` is what a relative one means.

        Raises:
            ParameterError: it is not clear what a path means.
        """
        paths = {name: located(name, getattr(self, name), folder, place) for name in ("build", "work_dir")}
        # Validated once more: the name of a folder may hold what no record can.
        return validate(TrialParameters, {**self.model_dump(), **paths}, place)


SCENARIO_PARAMETERS = tuple(
    name
    for name in TrialParameters.model_fields
    if name not in (*BUILD_PARAMETERS, "seed", "machine_name", "keep_machine")
)
"""Parameters that make a scenario: what builds are compared in."""
