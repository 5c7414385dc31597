"""Adds to a wheel what the options of hatchling cannot: the Vagrantfile, and the git commit that it is built from."""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class WheelFiles(BuildHookInterface):
    """Only a real wheel gets them: an editable install has the checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the files to include."""
        self._temporary = tempfile.TemporaryDirectory()
        if version == "editable":
            return
        build_data["force_include"][str(Path(self.root, "Vagrantfile"))] = "picolab/project_files/Vagrantfile"
        commit = self._git("rev-parse", "HEAD") if Path(self.root, ".git").exists() else None
        if commit:
            dirty = bool(self._git("status", "--porcelain", "--untracked-files=no"))
            source = Path(self._temporary.name, "built_from.json")
            source.write_text(json.dumps({"commit": commit, "dirty": dirty}) + "\n", encoding="utf-8")
            build_data["force_include"][str(source)] = "picolab/built_from.json"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the temporary file."""
        self._temporary.cleanup()

    def _git(self, *words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", self.root, *words], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None
