"""Room on disks for a calibration: checked before it begins, and the full place is named when it runs out."""

import contextlib
import errno
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from picolab.config.sizes import MIB
from picolab.config.trial_parameters import DISK_FACTOR, TrialParameters
from picolab.errors import FileNotWritten, HostUnfit, MachineError, ProbeError
from picolab.files.writing import not_written
from picolab.host import disk_room
from picolab.machines.kinds import kind_of

FOLDER_BYTES = 64 * MIB
"""For samples and for the logs of servers and of the machine's making, in TMPDIR: a few MiB, and room to spare."""
STATE_BYTES = 16 * MIB
"""For the machine's state and the result."""
_OUT_OF_ROOM = (errno.ENOSPC, errno.EDQUOT)
_TMPDIR = "or set TMPDIR to a folder on a larger disk"


@dataclass(frozen=True)
class Place:
    """A folder that a calibration writes to.

    Attributes:
        purpose: of the folder, for a message.
        elsewhere: how the user chooses another, as the end of a sentence.
    """

    folder: Path
    purpose: str
    needed_bytes: float
    elsewhere: str

    @property
    def free_bytes(self) -> int | None:
        return disk_room.free_bytes(self.folder)


def places(folder: Path, state: Path) -> list[Place]:
    """Return the folders of this host that any calibration writes to.

    Args:
        folder: for its samples and logs, in TMPDIR.
        state: of machines and results.
    """
    return [
        Place(folder, "samples and logs", FOLDER_BYTES, _TMPDIR),
        Place(state, "machine and result", STATE_BYTES, "or name another folder by PICOLAB_STATE_DIR"),
    ]


def check(parameters: TrialParameters, data_bytes: float, where: list[Place]) -> None:
    """Do nothing if a calibration fits on the disks of this host.

    Args:
        parameters: of the machine.
        data_bytes: that its servers will have on disk at most.

    Raises:
        HostUnfit: it does not; the message names the place and both numbers.
    """
    for place in where:
        free_bytes = place.free_bytes
        if free_bytes is not None and free_bytes < place.needed_bytes:
            raise HostUnfit(
                f"picolab calibrate needs {place.needed_bytes / MIB:,.0f} MiB for {place.purpose} in {place.folder}, "
                f"and {free_bytes / MIB:,.0f} MiB are free; free some, {place.elsewhere}"
            )
    disk = kind_of(parameters.machine).host_disk(parameters)
    if disk.free_bytes is not None and disk.free_bytes < data_bytes:
        raise HostUnfit(
            f"picolab calibrate writes up to {data_bytes / MIB:,.0f} MiB of data, and {disk.name} has "
            f"{disk.free_bytes / MIB:,.0f} MiB free; free some, or use --quick{disk.advice}"
        )


def check_machine(free_bytes: int, file_bytes: int) -> None:
    """Do nothing if an upload fits on the machine's own disk.

    Raises:
        HostUnfit: it does not.
    """
    needed = DISK_FACTOR * file_bytes
    if free_bytes < needed:
        raise HostUnfit(
            f"picolab calibrate uploads {file_bytes / MIB:,.0f} MiB at a time, which needs {needed / MIB:,.0f} MiB on "
            f"disk, and the machine has {free_bytes / MIB:,.0f} MiB free; use --quick, or a box with a larger disk"
        )


@contextlib.contextmanager
def named_when_full(parameters: TrialParameters, where: list[Place]) -> Iterator[None]:
    """Turn a failure for lack of room into one sentence that names the full place.

    Raises:
        FileNotWritten: a file of this host could not be written.
        HostUnfit: the machine failed, and the disk of this host that it needs is full.
    """
    try:
        yield
    except FileNotWritten:
        raise
    except OSError as error:
        if error.errno not in _OUT_OF_ROOM:
            raise
        place = min(where, key=lambda place: math.inf if place.free_bytes is None else place.free_bytes)
        raise not_written(Path(error.filename or place.folder), error, place.elsewhere) from None
    except (MachineError, ProbeError) as error:
        full = _full(parameters, where)
        if not full:
            raise
        raise HostUnfit(f"{error}; the cause may be that {full}; free some, then run picolab calibrate again") from None


def _full(parameters: TrialParameters, where: list[Place]) -> str:
    """Return which disk of this host is full, in words; an empty text for none."""
    found: dict[str, int | None] = {f"the disk of {place.folder}": place.free_bytes for place in where}
    with contextlib.suppress(HostUnfit, MachineError):
        disk = kind_of(parameters.machine).host_disk(parameters)
        found[disk.name] = disk.free_bytes
    return disk_room.full_in_words(found)
