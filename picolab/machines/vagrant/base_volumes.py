"""libvirt's copies of boxes: which there are, how large they are, and which machines use them."""

import shutil
from dataclasses import dataclass

from picolab.machines.vagrant import boxes
from picolab.machines.vagrant.libvirt import described_volumes


@dataclass(frozen=True)
class BaseVolume:
    """libvirt's copy of a box; the disks of machines are differences to it.

    Attributes:
        box: the name of the box.
        allocation_bytes: what it takes on the host.
        path: its file.
        used_by: the volumes in the same pool that are differences to it.
    """

    name: str
    box: str
    allocation_bytes: int
    path: str
    used_by: tuple[str, ...]


def base_volumes() -> list[BaseVolume]:
    """Return libvirt's copies of boxes; an empty list where there is no libvirt or no pool.

    Raises:
        MachineError: libvirt does not answer.
    """
    if shutil.which("virsh") is None:
        return []
    described = described_volumes()
    backing = {name: xml.findtext("backingStore/path") for name, xml in described.items()}
    return [
        BaseVolume(
            name=name,
            box=boxes.box_of_base_volume(name),
            allocation_bytes=int(xml.findtext("allocation") or 0),
            path=(path := xml.findtext("target/path") or ""),
            used_by=tuple(user for user, base in backing.items() if base == path),
        )
        for name, xml in described.items()
        if boxes.BASE_VOLUME in name
    ]
