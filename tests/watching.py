"""Watches with campaigns that end at once, and the files that describe them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from picolab.campaign.runner import Campaign
from picolab.exit_codes import ExitCode
from picolab.servers.calibration.program import server_path
from picolab.watch.state import WatchFolder, WatchState
from picolab.watch.watch import Watch

SMALL = {"ram_mb": [128], "file_size": ["1M"]}


def copy_build(folder: Path) -> Path:
    """Return a build in a folder; its content may be changed."""
    path = folder / "picoshare"
    shutil.copy(server_path(), path)
    path.chmod(0o755)
    return path


def write_watch(folder: Path, content: dict[str, Any] | None = None, **watch: Any) -> Path:
    """Write the files of a watch, and return its own."""
    parameters = {"matrix": SMALL, "repeats": 1, "idle_limit_s": 0}
    (folder / "small.yaml").write_text(json.dumps(parameters | (content or {"parameters": {"build": "./picoshare"}})))
    path = folder / "nightly.yaml"
    path.write_text(json.dumps({"parameters": "small.yaml", "settle_s": 0, "report": False, **watch}))
    return path


def change(build: Path) -> None:
    """Change a program's content; bytes behind a zipapp are ignored."""
    with build.open("ab") as file:
        file.write(b"x")


def die(*_: object) -> None:
    raise KeyboardInterrupt


class Looks:
    """Runs a watch with campaigns that end at once, without a trial.

    Attributes:
        begun: the plan of each campaign that was run, in order.
        notes: the lines that the watch noted.
        meanwhile: called while a campaign runs.
        code: how campaigns end.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.begun: list[Any] = []
        self.notes: list[str] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.code = ExitCode.OK

    def _run(self, campaign: Campaign) -> ExitCode:
        self.begun.append(campaign.plan)
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return self.code

    def look(self) -> int:
        """Start the watch, end it when there is nothing to do, and return how many campaigns it ran."""
        before = len(self.begun)
        Watch(self.file, self._run, self.notes.append, lambda: False).run(once=True)
        return len(self.begun) - before

    @property
    def state(self) -> WatchState:
        return WatchFolder(self.file, "nightly").read()
