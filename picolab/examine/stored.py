"""Examinations that are kept in the outputs folder, so that reports of the same build show them.

Each is a file `examinations/BUILD-TIME.json` with the content of `--format json`; BUILD is the beginning of the
build's SHA-256. It is written after each check, so that what was examined survives whatever ends the examination.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from picolab.config.project import outputs_dir
from picolab.config.sizes import MIB
from picolab.errors import UnreadableFile
from picolab.examine.check import State
from picolab.examine.output import as_json
from picolab.examine.run import Examination
from picolab.files.foreign import read_json, unfit_value
from picolab.files.writing import not_written, write_atomically
from picolab.record.machine import BuildUnderTest

FOLDER = "examinations"
_MOST_BYTES = MIB
_SHA_DIGITS = 12


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, frozen=True)


class StoredResult(_Model):
    """The result of a check, as `--format json` writes it."""

    id: str
    state: State
    severity: Literal["low", "medium", "high"]
    title: str
    seen: str
    issue: str | None


class StoredExamination(_Model):
    """An examination, as `--format json` writes it."""

    picolab_version: str
    begun_at: str
    server: str
    machine: str
    build: BuildUnderTest
    results: list[StoredResult]


@dataclass(frozen=True)
class Dated:
    """A result with the examination that it is from."""

    result: StoredResult
    examination: StoredExamination


def folder() -> Path:
    """Return the folder of examinations."""
    return outputs_dir() / FOLDER


def path_of(examination: Examination) -> Path:
    """Return the file in which an examination is kept."""
    time = "".join(sign for sign in examination.begun_at[:23] if sign not in "-:.")
    return folder() / f"{examination.build.sha256[:_SHA_DIGITS]}-{time}.json"


def store(examination: Examination) -> None:
    """Keep an examination; a later state of it replaces an earlier one.

    Raises:
        FileNotWritten: it could not be written.
    """
    path = path_of(examination)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_written(path, error) from None
    write_atomically(path, as_json(examination))


def of_build(sha256: str) -> tuple[list[StoredExamination], list[str]]:
    """Return the examinations of a build, oldest first, and a sentence for each file that cannot be read."""
    found: list[StoredExamination] = []
    problems: list[str] = []
    for path in sorted(folder().glob(f"{sha256[:_SHA_DIGITS]}-*.json")):
        try:
            content = read_json(path, _MOST_BYTES)
            if unfit := unfit_value(content):
                raise UnreadableFile(f"{path}: {unfit}")
            examination = StoredExamination.model_validate(content)
        except FileNotFoundError:
            continue
        except ValidationError as error:
            place = ".".join(map(str, error.errors()[0]["loc"])) or "the whole"
            problems.append(f"{path}: is no examination ({place}: {error.errors()[0]['msg']})")
        except UnreadableFile as error:
            problems.append(str(error))
        else:
            if examination.build.sha256 == sha256:
                found.append(examination)
    return sorted(found, key=lambda one: one.begun_at), problems


def newest(examinations: Iterable[StoredExamination]) -> list[Dated]:
    """Return one result of each check: the newest one, and one that could not be made only when there is no other.

    Args:
        examinations: oldest first.
    """
    best: dict[str, Dated] = {}
    for examination in examinations:
        for result in examination.results:
            old = best.get(result.id)
            if old is None or result.state != "not_examined" or old.result.state == "not_examined":
                best[result.id] = Dated(result, examination)
    return list(best.values())


def in_state(dated: Sequence[Dated], state: State) -> list[Dated]:
    """Return the results in a state."""
    return [one for one in dated if one.result.state == state]
