"""The state of a watch on disk: the builds and times that it has measured, the running campaign, and those before.

<state folder>/watch/<name>-<hash of the file's path>/
    .lock        held by the process that watches
    state.json   written whole or not at all
    builds/      a copy of each build file under its SHA-256, as it was when a campaign began
"""

import hashlib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from picolab.config.plan import FileName
from picolab.config.project import state_dir
from picolab.config.sizes import MIB
from picolab.errors import UnreadableFile
from picolab.files.foreign import read_json, remove_tree_inside
from picolab.files.writing import write_atomically
from picolab.text.foreign import one_line

LOCK_FILE = ".lock"
MOST_TRIES = 2
"""At the steps after a campaign: whatever ends the watch there must not keep it from measuring the next build."""
_STATE_FILE = "state.json"
_LARGEST_BYTES = 64 * MIB
_PIECE_BYTES = MIB

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def watches_dir() -> Path:
    """Return the folder of all watches."""
    return state_dir() / "watch"


class Begun(BaseModel):
    """A campaign that a watch has begun.

    Attributes:
        outputs: the folder in which its folder is.
        triggers: why it began, each a few words.
        files: SHA-256 of each build file, by its path.
        release: version of the newest release in it; None: there is none.
        time: the last time of the schedule when it began, in ISO 8601; None: there is no schedule.
        plan_sha256: of its plan, by which it is recognised; empty: it has none yet.
    """

    model_config = ConfigDict(extra="forbid")

    campaign: FileName
    outputs: str
    triggers: list[str]
    files: dict[str, Sha256]
    release: str | None
    time: str | None
    plan_sha256: Sha256 | Literal[""] = ""

    @property
    def folder(self) -> Path:
        return Path(self.outputs) / self.campaign


class Made(Begun):
    """A campaign that has ended, or was given up.

    Attributes:
        complete: every trial has a result.
        removing: its folder is being removed.
        tries: how often the watch has begun the steps after the campaign, such as its report; None: they have ended.
        in_history: place of the history that all of its trials are in; empty: none.
        on_site: folder of the site that it is on, with all pages that the watch should have written; empty: none.
    """

    complete: bool
    removing: bool = False
    tries: int | None = None
    in_history: str = ""
    on_site: str = ""

    @field_validator("in_history", "on_site", mode="before")
    @classmethod
    def _is_place(cls, value: Any) -> Any:
        # An earlier picolab did not say which history or site it was: adding the campaign again changes nothing.
        return "" if isinstance(value, bool) else value

    @property
    def left_out(self) -> bool:
        """Whether the watch was ended too often in the steps after it to try them again."""
        return self.tries is not None and self.tries > MOST_TRIES

    @property
    def is_due(self) -> bool:
        """Whether steps after it are to be done."""
        return self.tries is not None and not self.left_out


class WatchState(BaseModel):
    """The knowledge of a watch.

    Attributes:
        files: SHA-256 of each build file as the last campaign measured it, by its path.
        release: the newest release that a campaign has measured.
        time: the last time of the schedule that a campaign has served, in ISO 8601.
        current: the campaign that runs, or ran when the watch was ended.
        made: campaigns before it that are still there, oldest first.
    """

    model_config = ConfigDict(extra="forbid")

    state_version: Literal[1] = 1
    config: str
    files: dict[str, Sha256] = Field(default_factory=dict)
    release: str | None = None
    time: str | None = None
    current: Begun | None = None
    made: list[Made] = Field(default_factory=list)


class WatchFolder:
    """The folder of a watch.

    Args:
        config: the file that describes the watch.
        name: of the watch.
    """

    def __init__(self, config: Path, name: str) -> None:
        self.config = config.resolve()
        self.path = watches_dir() / f"{name}-{hashlib.sha256(os.fsencode(self.config)).hexdigest()[:8]}"

    def read(self) -> WatchState:
        """Return the state; that of a new watch when there is none.

        Raises:
            UnreadableFile: there is one, and it cannot be read.
        """
        path = self.path / _STATE_FILE
        remedy = "move it away: the watch then begins anew, and its campaigns stay"
        try:
            return WatchState.model_validate(read_json(path, _LARGEST_BYTES))
        except FileNotFoundError:
            return WatchState(config=str(self.config))
        except UnreadableFile as error:
            raise UnreadableFile(f"{error}; {remedy}") from None
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            why = one_line(f"{where}: {first['msg']}")
            raise UnreadableFile(f"{path}: {why}; {remedy}") from None

    def write(self, state: WatchState) -> None:
        """Write the state, whole or not at all.

        Raises:
            FileNotWritten: it could not be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path / _STATE_FILE, state.model_dump_json(indent=1) + "\n")

    def copy_of(self, file: str, sha256: str) -> Path:
        """Return where the copy of a build file is, or would be."""
        return self.path / "builds" / sha256 / Path(file).name

    def keep_copy(self, file: str, sha256: str) -> bool:
        """Copy a build file, so that a campaign has the same bytes from its first trial to its last.

        Returns:
            False when the file no longer has that SHA-256.

        Raises:
            OSError: it cannot be read, or the copy cannot be written.
        """
        target = self.copy_of(file, sha256)
        if target.is_file():
            # The same bytes may have become executable since.
            target.chmod(target.stat().st_mode | (Path(file).stat().st_mode & 0o111))
            return True
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_name(".new")
        digest = hashlib.sha256()
        try:
            with Path(file).open("rb") as source, new.open("wb") as copy:
                while piece := source.read(_PIECE_BYTES):
                    digest.update(piece)
                    copy.write(piece)
                copy.flush()
                os.fsync(copy.fileno())
                new.chmod(os.fstat(source.fileno()).st_mode & 0o777)
            if digest.hexdigest() != sha256:
                return False
            new.replace(target)
        finally:
            new.unlink(missing_ok=True)
        return True

    def drop_copies(self, state: WatchState) -> None:
        """Remove the copies that no campaign of this watch has used that is still there."""
        used = {*state.files.values(), *(state.current.files.values() if state.current else ())}
        used |= {sha256 for made in state.made for sha256 in made.files.values()}
        folder = self.path / "builds"
        for copy in folder.iterdir() if folder.is_dir() else ():
            if copy.name not in used:
                remove_tree_inside(folder, copy)
