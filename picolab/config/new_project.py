"""A new project folder: the notebooks, parameters and Vagrantfile that came with picolab, and a place for results."""

import errno
import os
from pathlib import Path

from picolab.config.project import MARKER, shipped_files
from picolab.errors import FileNotWritten, ParameterError
from picolab.files.writing import write_atomically

FOLDERS = ("notebooks", "parameters")
FILES = ("Vagrantfile", "outputs/README.md")

MARKER_TEXT = """\
This folder is a picolab project: campaigns go to outputs/, the state of machines to .picolab/.
"""

README = """\
# {name}

A folder of benchmarks, made by `picolab init`. Run these commands in it:

    picolab doctor                             # can this host run trials?
    picolab matrix parameters/quick.yaml       # run a campaign
    picolab report CAMPAIGN                    # write its report
    picolab compare ./old ./new                # is the new build faster?
    jupyter lab notebooks/explore.ipynb        # look at the numbers, make your own charts

- `notebooks/` holds the notebooks that picolab runs: one trial, the analysis, the comparison. Edit them as you like.
- `parameters/` holds campaigns. Copy one and change it.
- `outputs/` gets one folder per campaign.
- `.picolab/` holds the state of machines and downloaded builds. To clean up after a crash: `picolab clean`.
"""

GITIGNORE = """\
outputs/*
!outputs/README.md
.picolab/
.vagrant/
.venv/
.ipynb_checkpoints/
"""


def make_project(folder: Path) -> tuple[list[str], list[str]]:
    """Make a project folder, or add the files that one lacks. A file that exists stays as it is.

    Returns:
        The files that were made, and those that existed, relative to the folder.

    Raises:
        ParameterError: the folder cannot be made.
        FileNotWritten: the disk is full.
    """
    source = shipped_files()
    names = [*FILES, *(f"{part}/{path.name}" for part in FOLDERS for path in sorted((source / part).glob("*.*")))]
    texts = {MARKER: MARKER_TEXT, "README.md": README.format(name=folder.resolve().name), ".gitignore": GITIGNORE}
    made: list[str] = []
    kept: list[str] = []
    for name in (*names, *texts):
        for parent in (folder / name).parents:
            if parent.exists() and not parent.is_dir():
                raise ParameterError(
                    f"{parent}: no project can be made here, because this is a file and not a folder; move it, or "
                    "name another folder: picolab init FOLDER"
                )
    try:
        for name in (*names, *texts):
            target = folder / name
            if target.exists() or target.is_symlink():
                kept.append(name)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, texts.get(name) or (source / name).read_text(encoding="utf-8"))
            made.append(name)
    except OSError as error:
        if isinstance(error, FileNotWritten) and error.errno not in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise
        reason = os.strerror(error.errno) if error.errno else error
        raise ParameterError(
            f"{error.filename or folder}: no project can be made here ({reason}); name a folder that you can write to: "
            "picolab init FOLDER"
        ) from None
    return sorted(made), sorted(kept)
