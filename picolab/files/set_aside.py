"""Files that are in the way of a campaign and may still matter move to `set-aside/`; they are never removed."""

import itertools
from pathlib import Path

SET_ASIDE = "set-aside"


def set_aside(folder: Path, path: Path) -> Path:
    """Move a file or folder of a campaign to `set-aside/`, under a name of its own; return the new place."""
    place = folder / SET_ASIDE
    place.mkdir(exist_ok=True)
    for number in itertools.count(1):
        target = place / (path.name if number == 1 else f"{path.name}.{number}")
        if not target.exists() and not target.is_symlink():
            path.rename(target)
            return target
    raise AssertionError("unreachable: the count has no end")
