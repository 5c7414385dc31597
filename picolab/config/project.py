"""The project: the folder with notebooks, parameters and outputs, and where picolab's own files are in it."""

import os
import shlex
from pathlib import Path

from picolab.errors import ParameterError


def project_root() -> Path:
    """Return the checkout: the folder that holds `notebooks/` and the package.

    Raises:
        ParameterError: the package is installed without its checkout.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / "notebooks" / "trial.ipynb").is_file():
        raise ParameterError(
            f"picolab is installed in {root} without its notebooks; install it from a checkout: pip install -e ."
        )
    return root


def outputs_dir() -> Path:
    """Return the folder of campaigns: `outputs/` in the checkout, or `PICOLAB_OUTPUTS_DIR`."""
    return Path(os.environ.get("PICOLAB_OUTPUTS_DIR") or project_root() / "outputs").resolve()


def in_command(campaign: Path) -> str:
    """Return how a command names a campaign: by its name, or by its path when it lies elsewhere."""
    is_here = campaign == outputs_dir() / campaign.name
    return shlex.quote(campaign.name if is_here else str(campaign))


def state_dir() -> Path:
    """Return the folder of machine state and caches: `.picolab/` in the checkout, or `PICOLAB_STATE_DIR`."""
    return Path(os.environ.get("PICOLAB_STATE_DIR") or project_root() / ".picolab").resolve()
