"""Paths that somebody has given: made absolute where they were given, since trials run in another folder.

On the command line a relative path means the user's current folder, in a parameter file the folder of that file, in a
notebook the kernel's current folder.
"""

import re
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from picolab.errors import ParameterError
from picolab.servers import registry
from picolab.servers.picoshare.adapter import CALIBRATION

RELEASE = re.compile(r"v?(\d{1,9})\.(\d{1,9})\.(\d{1,9})", re.ASCII)
URL = re.compile(r"([a-z][a-z0-9+.-]*)://")


def absolute_path(text: str, folder: Path, place: str) -> str:
    """Return a path from the root; an empty text stays empty.

    The last part is left as it is, so that a link keeps the name by which it is known.

    Args:
        folder: what a relative path means.
        place: where it was given, for messages.

    Raises:
        ParameterError: `~` names a user without a home.
    """
    if not text:
        return text
    try:
        path = folder.absolute() / Path(text).expanduser()
    except RuntimeError:
        raise ParameterError(f"{place}: {text!r}: there is no such user's home; write the path from the root") from None
    try:
        return str(path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name)
    except (OSError, RuntimeError, ValueError):
        # A loop of links, or a name that is too long: opening the file reports it.
        return str(path)


def absolute_build(build: str, folder: Path, place: str) -> str:
    """Return a `build` whose path, if it is one, begins at the root.

    The default build of a server, such as `calibration`, and a release are not paths; a file of such a name is given
    with a slash.

    Raises:
        ParameterError: it could be a word or a file.
    """
    release = RELEASE.fullmatch(build)
    words = registry.default_builds()
    if build not in words and not release:
        return absolute_path(build, folder, place)
    if (folder / build).is_file():
        remedy = (
            f"{build.removeprefix('v') if build.startswith('v') else f'v{build}'} for the release"
            if release
            else f"rename the file to mean {_in_words(build)}"
        )
        what = "a release" if release else _in_words(build)
        raise ParameterError(
            f"{place}: build {build!r} is {what}, and there is a file of that name in {folder.absolute()}; write "
            f"./{build} for the file, or {remedy}"
        )
    return build


def _in_words(build: str) -> str:
    return "the calibration server" if build == CALIBRATION else f"the default build of server {build}"


def is_word(build: str) -> bool:
    """Return whether a `build` is the default build of a server or a release, not a path."""
    return build in registry.default_builds() or RELEASE.fullmatch(build) is not None


def located(name: str, value: Any, folder: Path, place: str, labels: Container[str] = ()) -> Any:
    """Return the value of a parameter with its path, if it is one, from the root.

    Args:
        labels: names of builds, which are no paths either.
    """
    if name == "build" and isinstance(value, str) and value not in labels:
        return absolute_build(value, folder, place)
    return absolute_path(value, folder, place) if name == "work_dir" and isinstance(value, str) else value


def all_located(values: Mapping[str, Any], folder: Path, place: str, labels: Container[str] = ()) -> dict[str, Any]:
    """Return parameters by name, as `located` does."""
    return {name: located(name, value, folder, place, labels) for name, value in values.items()}
