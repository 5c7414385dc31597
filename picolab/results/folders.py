"""Where campaigns are, what they may be called, and the lock that keeps a second process out of one."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from picolab.config.plan import PLAN_FILE
from picolab.config.project import outputs_dir
from picolab.errors import CampaignNotFound, ParameterError
from picolab.files.foreign import refuse_links
from picolab.host.locks import try_lock

LOCK_FILE = ".lock"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,50}")


def check_name(name: str) -> str:
    """Return the name of a campaign.

    Raises:
        ParameterError: a campaign cannot have this name.
    """
    if not _NAME.fullmatch(name):
        raise ParameterError(
            f"campaign {name!r}: a name has up to 51 letters, digits, dots, dashes and underscores, "
            f"and begins with a letter or digit; choose another with --campaign"
        )
    return name


def dated_name(stem: str) -> str:
    """Return the name of a campaign that nobody has named: where its parameters are from, and the time in UTC."""
    return f"{stem}-{datetime.now(UTC):%Y%m%dT%H%M%S}"


def all_campaigns() -> list[Path]:
    """Return the folders of all campaigns, oldest first; one that is being removed meanwhile is left out."""
    found = []
    for path in outputs_dir().glob(f"*/{PLAN_FILE}"):
        with suppress(FileNotFoundError):
            found.append((path.stat().st_mtime, path.parent))
    return [folder for _, folder in sorted(found, key=lambda one: one[0])]


def find_campaign(name: str) -> Path:
    """Return the folder of a campaign.

    Args:
        name: of the campaign, or the path of its folder.

    Raises:
        CampaignNotFound: there is no such campaign; the message lists those that exist.
    """
    try:
        path = Path(name)
        folder = path.resolve() if path.is_dir() and (path / PLAN_FILE).exists() else outputs_dir() / name
        exists = (folder / PLAN_FILE).is_file()
    except OSError:
        # A name that no file can have.
        exists = False
    if not exists:
        names = ", ".join(path.name for path in all_campaigns())
        known = f"there are: {names}" if names else "none was run yet"
        raise CampaignNotFound(f"campaign {name!r}: there is no such campaign in {outputs_dir()}; {known}")
    return folder


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Try to lock a campaign; yield False when another process holds the lock.

    Raises:
        UnsafePath: the lock file is a link, a pipe or a device.
    """
    refuse_links(folder, [LOCK_FILE])
    # Not `open("w")`: nothing is truncated, and a pipe of that name does not block.
    descriptor = os.open(
        folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644
    )
    with open(descriptor, "rb", buffering=0) as lock:  # noqa: PTH123 (it is open already)
        yield try_lock(lock)
