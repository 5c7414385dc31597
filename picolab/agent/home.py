"""The agent's folder in the guest, and the user whom the server belongs to."""

# ruff: noqa: PTH100, PTH102, PTH103, PTH105, PTH106, PTH108, PTH112, PTH114
# ruff: noqa: PTH123

from __future__ import annotations

import os

from picolab.agent.refusal import Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


PROGRAM_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


def program(name: str) -> str | None:
    """Return the path of a program, or None when the guest does not have it."""
    paths = (f"{folder}/{name}" for folder in PROGRAM_FOLDERS)
    return next((path for path in paths if os.access(path, os.X_OK)), None)


def has_systemd() -> bool:
    """Return True when systemd runs the guest and takes transient units."""
    return os.path.isdir("/run/systemd/system") and program("systemd-run") is not None


def write_text(path: str, text: str) -> None:
    """Write a private file so that a reader sees either all of it or what was there before."""
    descriptor = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(os.fsencode(text))
    os.replace(f"{path}.new", path)


def overwrite(path: str, text: str) -> None:
    """Replace the beginning of a file that is longer, so that it needs no room on a disk that may be full."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, os.fsencode(text))
    finally:
        os.close(descriptor)


def remove_tree(folder: str) -> None:
    """Remove a folder if it exists; a link to a folder is removed and not followed."""
    for parent, folders, files in os.walk(folder, topdown=False):
        for name in files:
            os.unlink(f"{parent}/{name}")
        for name in folders:
            path = f"{parent}/{name}"
            (os.unlink if os.path.islink(path) else os.rmdir)(path)
    if os.path.isdir(folder):
        os.rmdir(folder)


class Home:
    """The folder that holds everything of a server, and its owner.

    Args:
        path: made if it does not exist.
        user: who the server runs as; must be the caller's own name unless that is root.

    Raises:
        Refusal: there is no such user, or the agent may not act for it.
    """

    def __init__(self, path: str, user: str) -> None:
        import pwd

        self.path = os.path.abspath(path)
        try:
            self.account = pwd.getpwnam(user)
        except KeyError:
            raise Refusal(f"--user {user}: there is no such user") from None
        if os.geteuid() not in (0, self.account.pw_uid):
            raise Refusal(f"--user {user}: only root may run a server as another user; run the agent with sudo")
        if not os.path.isdir(self.path):
            os.makedirs(self.path, 0o755)
            self.give(self.path)

    def give(self, path: str) -> None:
        """Make the user the owner of a path."""
        if os.geteuid() == 0:
            os.chown(path, self.account.pw_uid, self.account.pw_gid)

    def write(self, path: str, text: str = "") -> None:
        """Write a private file of the user's."""
        write_text(path, text)
        self.give(path)

    def make_empty(self, name: str) -> str:
        """Return a folder in this one, made or emptied."""
        folder = f"{self.path}/{name}"
        remove_tree(folder)
        os.mkdir(folder, 0o700)
        self.give(folder)
        return folder

    def lock(self) -> Any:
        """Return a file that holds a lock until it is closed: an agent that was left behind may still be at work."""
        import fcntl

        lock = open(f"{self.path}/lock", "w", encoding="ascii")  # noqa: SIM115
        fcntl.flock(lock, fcntl.LOCK_EX)
        return lock
