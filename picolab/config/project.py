"""Where picolab keeps things: the project folder, its notebooks and parameters, outputs and machine state.

A project is a folder with the file `.picolab-project`: a checkout of picolab, or a folder made by `picolab init`.
"""

import os
import shlex
from pathlib import Path

MARKER = ".picolab-project"
_PACKAGE = Path(__file__).resolve().parents[1]
_IN_A_WHEEL = _PACKAGE / "project_files"


def find_project() -> Path | None:
    """Return the project: the nearest folder with a marker, from the current folder upwards.

    Outside of any project it is the checkout that picolab is installed from; None when it is installed from a wheel.
    """
    try:
        current = Path.cwd()
        for folder in (current, *current.parents):
            if (folder / MARKER).is_file():
                return folder
    except OSError:
        pass  # the current folder was removed, or may not be read
    return _PACKAGE.parent if (_PACKAGE.parent / MARKER).is_file() else None


def shipped_files() -> Path:
    """Return the folder with the notebooks, the parameters and the Vagrantfile that came with picolab.

    A wheel carries copies; in a checkout they are the top-level folders.
    """
    return _IN_A_WHEEL if _IN_A_WHEEL.is_dir() else _PACKAGE.parent


def project_root() -> Path:
    """Return the folder with the notebooks, the parameters and the Vagrantfile to use.

    That is the project, or outside of any project the folder of those that came with picolab.
    """
    return find_project() or shipped_files()


def working_dir() -> Path:
    """Return where a process that works for this one has to run, so that both find the same project."""
    return find_project() or Path.cwd()


def outputs_dir() -> Path:
    """Return the folder of campaigns: `PICOLAB_OUTPUTS_DIR`, or `outputs/` in the project, or in the current folder."""
    return Path(os.environ.get("PICOLAB_OUTPUTS_DIR") or working_dir() / "outputs").resolve()


def state_dir() -> Path:
    """Return the folder of machine state and caches.

    `PICOLAB_STATE_DIR`, or `.picolab/` in the project, or outside of any project the user's state folder, such as
    `~/.local/state/picolab`.
    """
    given = os.environ.get("PICOLAB_STATE_DIR")
    if given:
        return Path(given).resolve()
    project = find_project()
    if project is not None:
        return (project / ".picolab").resolve()
    import platformdirs

    return platformdirs.user_state_path("picolab").resolve()


def in_command(campaign: Path) -> str:
    """Return how a command names a campaign: by its name, or by its path when it lies elsewhere."""
    is_here = campaign == outputs_dir() / campaign.name
    return shlex.quote(campaign.name if is_here else str(campaign))


def restoring_command(file: Path) -> str:
    """Return the command that puts back a notebook or another file of `project_root()`."""
    root = project_root()
    name = shlex.quote(str(file.relative_to(root)))
    if (root / "picolab" / "__init__.py").is_file():
        return f"git -C {shlex.quote(str(root))} checkout -- {name}"
    if root == find_project():
        return f"rm -f {shlex.quote(str(file))} && picolab init {shlex.quote(str(root))}"
    return "pip install --force-reinstall --no-deps picolab"
