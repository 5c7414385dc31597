"""The trial notebook as a template: papermill needs exactly one cell after which it inserts the parameters."""

from pathlib import Path
from typing import Any

from picolab.config.project import project_root
from picolab.config.sizes import MIB
from picolab.errors import ParameterError, UnreadableFile
from picolab.files.foreign import read_json

_LARGEST_BYTES = 32 * MIB
_TAG = "parameters"
_REMEDY = (
    "put back the notebook that came with picolab (delete this one and run `picolab init` in the project; in a "
    "checkout: git checkout notebooks/trial.ipynb), or fix it"
)


def trial_notebook() -> Path:
    """Return the notebook that every trial is a run of."""
    return project_root() / "notebooks" / "trial.ipynb"


def check_trial_notebook(path: Path | None = None) -> None:
    """Refuse a trial notebook into which papermill would put no parameters: its defaults would be measured instead.

    Raises:
        ParameterError: it is no notebook, or has not exactly one code cell with the tag `parameters`.
    """
    path = path or trial_notebook()
    try:
        notebook = read_json(path, _LARGEST_BYTES)
    except FileNotFoundError:
        raise ParameterError(f"{path}: is not there; {_REMEDY}") from None
    except UnreadableFile as error:
        raise ParameterError(f"{error}; {_REMEDY}") from None
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise ParameterError(f"{path}: is not a notebook: it has no list of cells; {_REMEDY}")
    tagged = [cell for cell in cells if _TAG in _tags(cell)]
    if any("injected-parameters" in _tags(cell) for cell in cells):
        raise ParameterError(f"{path}: has parameters of an earlier run in it (injected-parameters); {_REMEDY}")
    if len(tagged) != 1 or tagged[0].get("cell_type") != "code":
        what = "no code cell" if len(tagged) < 2 else f"{len(tagged)} cells"
        raise ParameterError(
            f"{path}: has {what} with the tag `parameters`, so trials would not get the parameters that were asked "
            f"for; {_REMEDY}"
        )


def _tags(cell: dict[str, Any]) -> list[Any]:
    metadata = cell.get("metadata")
    tags = metadata.get("tags") if isinstance(metadata, dict) else None
    return tags if isinstance(tags, list) else []
