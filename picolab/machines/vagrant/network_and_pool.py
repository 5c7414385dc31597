"""libvirt's network and storage pool, which the first machine of a host makes for all of them.

A note in the state folder says which of them were not there before, by their uuid, so that `picolab clean` removes no
others. They are removed when nothing on this host uses them, and no project is about to.
"""

import contextlib
import json
from collections.abc import Iterator
from typing import Literal

from picolab.config.project import state_dir
from picolab.files.writing import write_atomically
from picolab.machines.folders import machine_folders
from picolab.machines.vagrant import libvirt, network

Made = Literal["network", "pool"]
_WORDS: dict[Made, str] = {"network": "net", "pool": "pool"}
"""How the commands of virsh about it begin."""
_FILE = "libvirt-made.json"


@contextlib.contextmanager
def noted() -> Iterator[None]:
    """Note which of network and pool are made meanwhile.

    Raises:
        LibvirtError: libvirt does not answer.
    """
    missing = [what for what in _WORDS if _state(what) == "missing"]
    try:
        yield
    finally:
        with contextlib.suppress(libvirt.LibvirtError):
            made = {what: uuid for what in missing if (uuid := _uuid(what)) is not None}
            if made:
                _write({**_read(), **made})


def unused() -> list[Made]:
    """Return which of those that were noted nothing on this host uses any more."""
    with network.unless_in_use() as is_idle:
        return _unused() if is_idle else []


def _unused() -> list[Made]:
    note = _read()
    if not note or machine_folders() or libvirt.all_domains():
        return []
    return [what for what in _WORDS if what in note and _is_unused(what) and _uuid(what) in (None, note[what])]


def remove(what: Made) -> None:
    """Remove a network or a pool, unless something uses it by now.

    Raises:
        LibvirtError: libvirt does not let it go.
    """
    with network.unless_in_use() as is_idle:
        if not is_idle or what not in _unused():
            return
        name, word = name_of(what), _WORDS[what]
        if _state(what) == "active":
            libvirt.virsh(f"{word}-destroy", name)
        if _state(what) != "missing":
            libvirt.virsh(f"{word}-undefine", name)
        _write({other: uuid for other, uuid in _read().items() if other != what})


def name_of(what: Made) -> str:
    """Return its name in libvirt."""
    return libvirt.NETWORK if what == "network" else libvirt.POOL


def _is_unused(what: Made) -> bool:
    return what == "network" or not libvirt.volumes()


def _state(what: Made) -> str:
    return libvirt.network() if what == "network" else libvirt.pool_state()


def _uuid(what: Made) -> str | None:
    """Return its uuid; None when there is none of its name."""
    if _state(what) == "missing":
        return None
    return libvirt.virsh(f"{_WORDS[what]}-uuid", name_of(what)).strip()


def _read() -> dict[Made, str]:
    try:
        found = json.loads((state_dir() / _FILE).read_text())
        return {what: str(found[what]) for what in _WORDS if what in found}
    except (OSError, ValueError, TypeError):
        return {}


def _write(note: dict[Made, str]) -> None:
    path = state_dir() / _FILE
    if note:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, json.dumps(note))
    else:
        path.unlink(missing_ok=True)
