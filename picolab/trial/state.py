"""The state of a trial: a draft of its record that survives the kernel.

It is written to `state.json` in the trial's folder after every step, so that another kernel can continue.
"""

import itertools
import json
import shlex
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from picolab.agent.procfs import boot_id
from picolab.config.project import outputs_dir
from picolab.config.trial_parameters import TrialParameters
from picolab.config.yaml_text import YamlProblem, read_yaml
from picolab.errors import RecordError
from picolab.files import reserve
from picolab.files.writing import not_written
from picolab.host.facts import provenance
from picolab.jupyter.trial_context import TrialContext
from picolab.record.conditions import ConditionsRecord, InstrumentReference, Provenance
from picolab.record.machine import BuildUnderTest, MachineRecord, ServerRecord
from picolab.record.outcomes import STAGES, Outcome, Stage
from picolab.record.record import NOT_VERIFIED, Caveat, Record, StageTime, TrialIdentity
from picolab.record.steps import DownloadRecord, MemoryRecord, UploadRecord, VerifyRecord
from picolab.record.timeline import Timeline
from picolab.record.validation import NEWER_PARTS, null_paths, nulls_without_reason

STATE_FILE = "state.json"
RECORD_FILE = "record.json"
SAMPLES_FILE = "samples.jsonl"
DOWNLOAD_SAMPLES_FILE = "download-samples.jsonl"
SERVER_LOG_FILE = "server.log"
VAGRANT_LOG_FILE = "vagrant.log"
PROGRESS_FILE = "progress.json"


_RESULTS: tuple[tuple[Stage, str], ...] = (
    ("start", "server"),
    ("upload", "upload"),
    ("upload", "memory"),
    ("upload", "conditions"),
    ("verify", "verify"),
    ("verify", "download"),
)
"""Which part of the record each stage fills."""


class StageState(BaseModel):
    """How far a stage is."""

    done: bool = False
    attempts: int = 0
    duration_s: float = 0.0


class TrialState(BaseModel):
    """The draft of a record, and everything that a later kernel needs to continue."""

    parameters: TrialParameters
    identity: TrialIdentity
    timeline: Timeline = Field(default_factory=lambda: Timeline(boot_id=boot_id()))
    stages: dict[Stage, StageState] = Field(default_factory=lambda: {stage: StageState() for stage in STAGES})
    outcome: Outcome | None = None
    outcome_stage: Stage | None = None
    outcome_detail: str = ""
    build: BuildUnderTest | None = None
    build_path: Path | None = None
    machine: MachineRecord | None = None
    server: ServerRecord | None = None
    base_url: str | None = None
    upload: UploadRecord | None = None
    entry_ids: list[str | None] = []
    """Of the uploaded files; None for one whose upload failed."""
    verify: VerifyRecord | None = None
    memory: MemoryRecord | None = None
    download: DownloadRecord | None = None
    conditions: ConditionsRecord | None = None
    instrument: InstrumentReference | None = None
    caveats: list[Caveat] = []
    missing: dict[str, str] = {}
    provenance: Provenance = Field(default_factory=provenance)

    @classmethod
    def begin(cls, parameters: TrialParameters, context: TrialContext | None) -> "TrialState":
        """Return the state of a trial that has not done anything yet."""
        now = datetime.now(UTC)
        identity = TrialIdentity(
            trial_id=context.trial_id if context else f"{now:%Y%m%dT%H%M%S}-{parameters.case_label}",
            campaign=context.campaign if context else None,
            block=context.block if context else None,
            position=context.position if context else None,
            attempt=context.attempt if context else 1,
            started_at=now.isoformat(timespec="milliseconds"),
            repeat_command=repeat_command(parameters),
        )
        return cls(parameters=parameters, identity=identity)

    @classmethod
    def load(cls, folder: Path) -> "TrialState | None":
        """Return the state kept in a trial's folder, or None when there is none that can be used."""
        try:
            return cls.model_validate_json((folder / STATE_FILE).read_text())
        except (OSError, ValueError):
            return None

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        reserve.write(folder / STATE_FILE, self.model_dump_json())

    def found(self, outcome: Outcome, stage: Stage | None, detail: str) -> None:
        self.outcome, self.outcome_stage, self.outcome_detail = outcome, stage, detail

    def begins_again_at(self, stage: Stage) -> None:
        """Forget what this stage and the later ones did and found: they will be run again."""
        later = STAGES[STAGES.index(stage) :]
        for name in later:
            self.stages[name].done = False
        if self.outcome_stage is None or self.outcome_stage in later:
            self.outcome, self.outcome_stage, self.outcome_detail = None, None, ""
        if "verify" in later:
            self.caveats = [caveat for caveat in self.caveats if caveat.code != NOT_VERIFIED]
        forgotten = [result for stage, result in _RESULTS if stage in later]
        for result in forgotten:
            setattr(self, result, None)
        self.missing = {path: why for path, why in self.missing.items() if path.split(".")[0] not in forgotten}

    def record(self) -> Record:
        """Return the record of the results so far; a stage that has not run is null with a reason.

        Raises:
            RecordError: there is no outcome yet.
        """
        if self.outcome is None:
            raise RecordError(f"trial {self.identity.trial_id} has no outcome yet; run its stages first")
        missing = dict(self.missing)
        why = f"not reached: {self.outcome}" + (f" in stage {self.outcome_stage}" if self.outcome_stage else "")
        record = Record(
            outcome=self.outcome,
            outcome_stage=self.outcome_stage,
            outcome_detail=self.outcome_detail,
            identity=self.identity,
            parameters=self.parameters,
            upload_limit_s=self.parameters.upload_limit_s,
            stages=[
                StageTime(stage=stage, duration_s=state.duration_s, attempts=state.attempts)
                for stage, state in self.stages.items()
                if state.attempts
            ],
            # A copy: the stages after this one are in the state alone.
            timeline=self.timeline.model_copy(deep=True),
            build=self.build,
            machine=self.machine,
            server=self.server,
            upload=self.upload,
            verify=self.verify,
            memory=self.memory,
            download=self.download,
            conditions=self.conditions,
            instrument=self.instrument,
            caveats=self.caveats,
            missing=missing,
            provenance=self.provenance,
        )
        data = json.loads(record.model_dump_json())
        for path in nulls_without_reason(data):
            missing[path] = why
        nulls = set(null_paths(data))
        for path in NEWER_PARTS & nulls:
            missing.setdefault(path, why)
        return record.model_copy(update={"missing": {path: why for path, why in missing.items() if path in nulls}})


def repeat_command(parameters: TrialParameters) -> str:
    """Return the shell command that runs a trial with these parameters again."""
    words = ["picolab", "trial", "--ram", str(parameters.ram_mb), "--file-size", parameters.file_size]
    if parameters.build != TrialParameters.model_fields["build"].default:
        words += ["--build", parameters.build]
    for name, field in TrialParameters.model_fields.items():
        value = getattr(parameters, name)
        default = field.get_default(call_default_factory=True)
        if name not in ("ram_mb", "file_size", "build", "machine_name") and value != default:
            words += ["-p", name, _as_yaml(value)]
    return shlex.join(words)


def _as_yaml(value: Any) -> str:
    """Return a text that YAML reads as this value: as it is when that will do, else as JSON."""
    text = str(value)
    with suppress(YamlProblem):
        read = read_yaml(text)
        if read == value and isinstance(read, str) == isinstance(value, str):
            return text
    # As they are: YAML reads the two halves in which JSON escapes some letters as no letter.
    return json.dumps(value, ensure_ascii=False)


def claim_folder(state: TrialState) -> Path:
    """Make the folder of a trial that runs by hand and return it.

    Raises:
        FileNotWritten: the file system is full or read-only.

    Two trials of one case may begin in the same second: the later one gets a number behind its `trial_id`.
    """
    base = state.identity.trial_id
    for number in itertools.count(2):
        folder = outputs_dir() / "single-trials" / state.identity.trial_id
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            state.identity.trial_id = f"{base}-{number}"
        except OSError as error:
            raise not_written(folder, error) from None
        else:
            return folder
    raise AssertionError("unreachable: the count has no end")
