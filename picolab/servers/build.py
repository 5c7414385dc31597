"""An executable that can be measured: a file, or a script that starts an installed package."""

import hashlib
import json
import os
import shlex
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from picolab.errors import BuildError
from picolab.machines.kind import GuestSystem
from picolab.record.machine import BuildUnderTest
from picolab.servers import guest_program
from picolab.servers.executable import why_no_program

COPIES_VARIABLE = "PICOLAB_BUILD_COPIES"
"""A JSON object: the path of an executable on the host that planned a campaign -> that of its copy on this host."""
_LARGEST_SCRIPT_BYTES = 4096
"""A console script that an installer wrote is shorter: it imports one function and calls it."""


@dataclass(frozen=True)
class Build:
    """An executable that exists and is identified.

    Attributes:
        path: the executable on the host.
        identity: its part of the record.
    """

    path: Path
    identity: BuildUnderTest


def file_build(wanted: str, label: str, *, in_guest: bool = False) -> Build:
    """Return the build for the path of an executable file, identified by the SHA-256 of the file.

    Args:
        wanted: the path.
        label: short name for the record.
        in_guest: it will run in a virtual machine, not on this host.

    Raises:
        BuildError: there is no such file, or it cannot be executed.
    """
    path = checked_file(wanted, "give the path of an executable")
    check_program(path, wanted, in_guest=in_guest)
    return identified(path, label, "file")


def script_build(package: str, wanted: str | None, label: str, *, in_guest: bool = False) -> Build | None:
    """Return the build for a console script, identified by the SHA-256 of its package (`sha256_of_folder`).

    Args:
        package: the Python package that the script runs.
        wanted: the path of the script; None: the script of the package that is installed in picolab's environment.

    Returns:
        None when `wanted` is not such a script.

    Raises:
        BuildError: the package is not installed, or the script cannot be executed where it is wanted.
    """
    path = Path(sysconfig.get_path("scripts")) / package if wanted is None else Path(wanted)
    folder = next(path.absolute().parent.parent.glob(f"lib/python3*/site-packages/{package}"), None)
    if folder is None or not _runs_package(path, package):
        if wanted is not None:
            return None
        raise BuildError(
            f"build {package!r}: the package is not installed next to picolab; install it with: pip install {package}"
        )
    if in_guest:
        raise BuildError(
            f"build {wanted or package!r}: a script without its package cannot run in a virtual machine; give the path "
            f"of a single file, such as a zipapp"
        )
    check_program(path, wanted or package)
    return identified(path, label, "file", sha256=sha256_of_folder(folder))


def _runs_package(path: Path, package: str) -> bool:
    try:
        script = path.read_text() if path.stat().st_size <= _LARGEST_SCRIPT_BYTES else ""
    except (OSError, ValueError):
        return False
    return any(line.startswith((f"from {package}", f"import {package}")) for line in script.splitlines())


def checked_file(wanted: str, remedy: str) -> Path:
    """Return the path of an existing ordinary file: the wanted one, or the copy of it that another host has sent.

    Raises:
        BuildError: there is none.
    """
    path = Path(json.loads(os.environ.get(COPIES_VARIABLE, "{}")).get(wanted, wanted))
    try:
        if path.is_dir():
            raise BuildError(f"build {wanted!r}: that is a folder; give the path of the executable in it")
        if path.exists() and not path.is_file():
            raise BuildError(f"build {wanted!r}: that is no ordinary file; give the path of an executable")
        if not path.exists():
            raise BuildError(f"build {wanted!r}: there is no such file; {remedy}")
    except OSError as error:
        raise unreadable(wanted, error) from None
    return path


def unreadable(wanted: str, error: OSError) -> BuildError:
    """Return the error for a build that cannot be read."""
    return BuildError(f"build {wanted!r}: cannot be read ({error.strerror}); fix that, or name another")


def check_program(path: Path, wanted: str, *, in_guest: bool = False) -> None:
    """Refuse a file that the kernel would not start: else every trial would fail, one after the other.

    Raises:
        BuildError: the sentence says why.
    """
    try:
        problem = why_no_program(path, in_guest=in_guest)
        may_execute = path.stat().st_mode & 0o111
    except OSError as error:
        raise unreadable(wanted, error) from None
    if problem:
        raise BuildError(f"build {wanted!r}: cannot run here: {problem}")
    if not may_execute:
        raise BuildError(
            f"build {wanted!r}: the file may not be executed; fix it with: chmod +x {shlex.quote(str(path))}"
        )
    if not os.access(path, os.X_OK):
        raise BuildError(
            f"build {wanted!r}: this user may not execute it, or its file system is mounted with noexec; copy it to "
            f"another folder"
        )


def check_in_guest(build: Build, guest: GuestSystem | None) -> None:
    """Refuse a build that could not start in a guest.

    Args:
        guest: None: unknown, or the server runs on this host.

    Raises:
        BuildError: the sentence says why.
    """
    try:
        problem = guest_program.why_unfit(build.path, guest) if guest is not None else ""
    except OSError as error:
        raise unreadable(str(build.path), error) from None
    if problem:
        raise BuildError(f"build {build.identity.label!r}: cannot run in the virtual machine: {problem}")


def identified(path: Path, label: str, kind: str, version: str | None = None, sha256: str | None = None) -> Build:
    """Return a build with its identity.

    Args:
        kind: `calibration`, `file` or `release`.
        sha256: None: that of the file.

    Raises:
        BuildError: the file cannot be read.
    """
    try:
        identity = {
            "label": label,
            "kind": kind,
            "version": version,
            "sha256": sha256 or sha256_of(path),
            "size_bytes": path.stat().st_size,
        }
        return Build(path.resolve(), BuildUnderTest.model_validate(identity))
    except OSError as error:
        raise unreadable(str(path), error) from None


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_folder(folder: Path) -> str:
    """Return the SHA-256 of a folder, in hex: of a line `<SHA-256 of the file>  <path in the folder>` for each file.

    The lines are sorted by path, as in `find . -type f | sort`. Python's caches (`__pycache__`) are left out.
    """
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    lines = [f"{sha256_of(folder / name)}  {name.as_posix()}\n" for name in files if "__pycache__" not in name.parts]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
