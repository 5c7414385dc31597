"""The boxes that this user's Vagrant has, looked up on the disk: asking `vagrant` itself takes seconds."""

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picolab.machines.kind import GuestSystem

PICOLAB_BOX = "picolab"
"""The name of picolab's own box."""
PUBLIC_BOX = "debian/bookworm64"
"""What is used where picolab's own box was not built."""
RECIPE_KEY = "picolab_recipe"
"""The key in a box's metadata.json that names the recipe."""

GUEST_FILE = "guest.json"
"""The file in a box of picolab's that describes its system: processor, version of glibc, programs and libraries."""
_LOADER = "/usr/lib64/ld-linux-x86-64.so.2"

BASE_VOLUME = "_vagrant_box_image_"
"""What is in the name of each base volume: libvirt's copy of a box."""

_SLASH = "-VAGRANTSLASH-"


@dataclass(frozen=True)
class InstalledBox:
    """A box in Vagrant's folder.

    Attributes:
        version: as Vagrant knows it; "0" for a box that was added from a file.
        recipe: what made it, when that was picolab; else None.
        size_bytes: of all of its files.
    """

    name: str
    version: str
    provider: str
    folder: Path
    recipe: str | None
    size_bytes: int


def vagrant_home() -> Path:
    """Return the folder where Vagrant keeps its boxes and plugins: `VAGRANT_HOME`, or `~/.vagrant.d`."""
    return Path(os.environ.get("VAGRANT_HOME") or Path.home() / ".vagrant.d")


def installed_boxes() -> list[InstalledBox]:
    """Return all boxes of this user's Vagrant, of all providers, by name and version."""
    found = []
    for metadata in (vagrant_home() / "boxes").glob("*/*/**/metadata.json"):
        name, version, *_ = metadata.relative_to(vagrant_home() / "boxes").parts
        folder, data = metadata.parent, _json_of(metadata)
        found.append(
            InstalledBox(
                name=name.replace(_SLASH, "/"),
                version=version,
                provider=str(data.get("provider", folder.name)),
                folder=folder,
                recipe=data.get(RECIPE_KEY),
                size_bytes=sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
            )
        )
    return sorted(found, key=lambda box: (box.name, _comparable(box.version)))


def installed_box(name: str, provider: str = "libvirt") -> InstalledBox | None:
    """Return the box of that name that Vagrant would use, its newest version; None when there is none."""
    boxes = [box for box in installed_boxes() if box.name == name and box.provider == provider]
    return boxes[-1] if boxes else None


def box_image(name: str) -> Path | None:
    """Return the disk image in a box of libvirt's, from which libvirt's base volume is copied; None without it."""
    box = installed_box(name)
    image = box.folder / "box.img" if box else None
    return image if image is not None and image.is_file() else None


def base_volume_prefix(name: str) -> str:
    """Return how the names of libvirt's copies of a box begin, of all of its versions."""
    return f"{name.replace('/', _SLASH)}{BASE_VOLUME}"


def box_of_base_volume(volume: str) -> str:
    """Return the name of the box that a base volume is a copy of."""
    return volume.partition(BASE_VOLUME)[0].replace(_SLASH, "/")


def base_volume(name: str) -> str | None:
    """Return the name that libvirt's copy of the installed box has or would have; None when there is no such box."""
    box, image = installed_box(name), box_image(name)
    if box is None or image is None:
        return None
    # vagrant-libvirt tells unversioned boxes apart by the time of the image.
    version = f"0_{int(image.stat().st_mtime)}" if box.version == "0" else box.version
    return f"{base_volume_prefix(name)}{version}_box.img"


def default_box(provider: str = "libvirt") -> str:
    """Return the box that is used when none is named: picolab's own where it was built for that provider."""
    return PICOLAB_BOX if installed_box(PICOLAB_BOX, provider) else PUBLIC_BOX


def guest_system(name: str, provider: str) -> GuestSystem | None:
    """Return the system in a box, as its build has noted it; None for a box of others, or without one."""
    box = installed_box(name, provider)
    if box is None or box.recipe is None:
        return None
    noted = _json_of(box.folder / GUEST_FILE)
    try:
        return GuestSystem(
            processor=str(noted["processor"]),
            files=frozenset(map(str, noted["files"])),
            complete=True,
            glibc=tuple(int(part) for part in noted["glibc"]),
        )
    except (KeyError, TypeError, ValueError):
        # A box of an older picolab, which built them for this processor alone.
        return GuestSystem(processor="x86_64", files=frozenset({_LOADER}))


def _comparable(version: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in version.split(".")]


def _json_of(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads(path.read_text()))
    return {}
