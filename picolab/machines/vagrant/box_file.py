"""A box as one file that a team shares: a Vagrant box (a tar archive) that begins with the checksums of its members.

The file comes from somebody else. Its members are copied under names of ours, one by one and never more bytes than the
checksums cover; links and other names are refused, the Vagrantfile in it is never used (Vagrant would run it), and the
image may not refer to other files.
"""

import hashlib
import json
import os
import re
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from picolab.config.sizes import MIB
from picolab.errors import MachineError, ParameterError
from picolab.files.writing import not_written
from picolab.machines.vagrant.box_disk import DISK_GIB
from picolab.machines.vagrant.box_tools import STEP_LIMIT_S, run
from picolab.machines.vagrant.boxes import GUEST_FILE, RECIPE_KEY, installed_box

IMAGE, KERNEL, INITRD, METADATA, VAGRANTFILE = "box.img", "vmlinuz", "initrd", "metadata.json", "Vagrantfile"
_MANIFEST = "picolab-box.json"
_FORMAT = 1
_REQUIRED = (METADATA, VAGRANTFILE, KERNEL, INITRD, IMAGE)
_LARGEST = {_MANIFEST: MIB, METADATA: MIB, VAGRANTFILE: MIB, GUEST_FILE: 16 * MIB, KERNEL: 128 * MIB, INITRD: 128 * MIB}
_LARGEST_IMAGE = DISK_GIB * 1024 * MIB
_LARGEST_HEADER = 1 << 16
"""Times and long names are in headers of their own, which tarfile reads as a whole."""
_PIECE = MIB
_DAMAGED = "copy it again, or export it again with: picolab box export"


@dataclass(frozen=True)
class Exported:
    """A box that was written into a file.

    Attributes:
        sha256: of the list of checksums in the file: the same for the same box, and printed by `box add` as well.
    """

    path: Path
    size_bytes: int
    sha256: str


class _Member(tarfile.TarInfo):
    """A member whose header takes no more memory than those of a box do."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: Any, errors: str) -> "_Member":
        found = super().frombuf(buf, encoding, errors)
        if found.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) and found.size > _LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {found.size} bytes")
        return found


def pack(archive: Path, members: Mapping[str, Path], mode: str = "w") -> None:
    """Write a tar archive of files that belong to nobody in particular.

    Args:
        mode: `w`, because compressing takes longer than all else, or `w:gz`.
    """
    # Of gzip's levels the first is enough: most of an image is programs, which it halves.
    how: dict[str, Any] = {"compresslevel": 1} if mode == "w:gz" else {}
    with tarfile.open(archive, mode, **how) as tar:  # type: ignore[call-overload]
        for name, path in members.items():
            tar.add(path, arcname=name, filter=_nobody_in_particular)


def _nobody_in_particular(member: tarfile.TarInfo) -> tarfile.TarInfo:
    # Its time stays: vagrant-libvirt tells boxes apart by the time of the image.
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mode = 0o644
    return member


def export_box(name: str, path: Path) -> Exported:
    """Write a box of picolab's into one file.

    Raises:
        ParameterError: there is no such box, it is not picolab's, or the file exists.
        FileNotWritten: the file could not be written.
    """
    box = installed_box(name)
    if box is None:
        raise ParameterError(f"there is no box {name!r}; build it with: picolab box build, or see: picolab box list")
    if box.recipe is None:
        raise ParameterError(
            f"the box {name!r} was not built by picolab, so it cannot be exported; use: vagrant box repackage"
        )
    if path.exists():
        raise ParameterError(f"{path} exists already; remove it, or name another file")
    members = {member: box.folder / member for member in (*_REQUIRED, GUEST_FILE) if (box.folder / member).is_file()}
    missing = [member for member in _REQUIRED if member not in members]
    if missing:
        raise MachineError(
            f"the box {name!r} in {box.folder} lacks {', '.join(missing)}; build it again with: picolab box build"
        )
    files = {member: {"bytes": file.stat().st_size, "sha256": _sha256(file)} for member, file in members.items()}
    text = json.dumps({"format": _FORMAT, "recipe": box.recipe, "files": files}, indent=1, sort_keys=True).encode()
    new, manifest = (path.with_name(f".{path.name}.{os.getpid()}.{what}") for what in ("new", "list"))
    try:
        manifest.write_bytes(text)
        pack(new, {_MANIFEST: manifest, **members}, "w:gz")
        new.replace(path)
    except OSError as error:
        raise not_written(path, error, "or name another file") from None
    finally:
        for temporary in (new, manifest):
            temporary.unlink(missing_ok=True)
    return Exported(path, path.stat().st_size, hashlib.sha256(text).hexdigest())


def unpack(path: Path, folder: Path) -> tuple[str, str]:
    """Copy the members of an exported box into an empty folder, and return its recipe and the SHA-256 of its list.

    Raises:
        ParameterError: the file is not such a box, or it is damaged.
    """
    if path.exists() and not path.is_file():
        raise ParameterError(f"{path} is no ordinary file; {_HOW}")
    try:
        with tarfile.open(path, "r|*", tarinfo=_Member) as tar:
            return _unpack(path, tar, folder)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        if not _begins_like_a_box(path):
            raise ParameterError(f"{path} is no box: it is not a tar archive ({error}); {_HOW}") from None
        raise ParameterError(f"{path} is damaged or was cut off ({error}); {_DAMAGED}") from None
    except OSError as error:
        if isinstance(error, FileNotFoundError | PermissionError) and error.filename == str(path):
            raise ParameterError(f"{path}: cannot be read ({error.strerror})") from None
        # gzip reports its own damage as an OSError without a file.
        if error.errno is None:
            raise ParameterError(f"{path} is damaged ({error}); {_DAMAGED}") from None
        raise not_written(folder, error, "or set TMPDIR to a folder on a larger disk") from None


_HOW = "such files are made by: picolab box export"


def _begins_like_a_box(path: Path) -> bool:
    with path.open("rb") as file:
        begin = file.read(512)
    return begin.startswith(b"\x1f\x8b") or begin[257:262] == b"ustar"


def _unpack(path: Path, tar: tarfile.TarFile, folder: Path) -> tuple[str, str]:
    first = tar.next()
    if first is None or first.name != _MANIFEST or not first.isreg() or first.size > _LARGEST[_MANIFEST]:
        raise ParameterError(f"{path} is a box that picolab did not export: it has no list of checksums; {_HOW}")
    text = _content(tar, first).read()
    recipe, files = _manifest(path, text)
    for member in iter(tar.next, None):
        wanted = files.pop(member.name, None)
        if wanted is None or not member.isreg():
            raise ParameterError(f"{path} holds {member.name[:80]!r}, which is no part of a box; {_HOW}")
        if member.size != wanted["bytes"]:
            raise ParameterError(
                f"{path} is damaged: {member.name} has {member.size} bytes and not {wanted['bytes']}; {_DAMAGED}"
            )
        # The name is one of ours by now, never a path.
        if _copy(_content(tar, member), folder / member.name) != wanted["sha256"]:
            raise ParameterError(
                f"{path} is damaged: the SHA-256 of {member.name} is not that in its list of checksums; {_DAMAGED}"
            )
    if files:
        raise ParameterError(f"{path} was cut off: {', '.join(files)} is missing; {_DAMAGED}")
    return recipe, hashlib.sha256(text).hexdigest()


def _manifest(path: Path, text: bytes) -> tuple[str, dict[str, Any]]:
    """Return the recipe and the members that a box has, by name, with their sizes and checksums.

    Raises:
        ParameterError: the list is not as `export_box` writes it.
    """
    problem = f"{path} has a list of checksums that this picolab cannot read; {_HOW}"
    try:
        found = json.loads(text)
        files, recipe = dict(found["files"]), str(found["recipe"])
        fits = found["format"] == _FORMAT and re.fullmatch(r"[0-9a-f]{12}", recipe) and set(_REQUIRED) <= files.keys()
        for name, entry in files.items():
            most = _LARGEST_IMAGE if name == IMAGE else _LARGEST[name]
            fits = fits and type(entry["bytes"]) is int and 0 <= entry["bytes"] <= most
            fits = fits and re.fullmatch(r"[0-9a-f]{64}", entry["sha256"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ParameterError(problem) from None
    if not fits or _MANIFEST in files:
        raise ParameterError(problem)
    return recipe, files


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(member)
    assert content is not None, "it is an ordinary file"
    return content


def _copy(source: IO[bytes], target: Path) -> str:
    """Copy a file, and return its SHA-256."""
    digest = hashlib.sha256()
    with target.open("wb") as file:
        while piece := source.read(_PIECE):
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def check_image(path: Path, image: Path) -> None:
    """Refuse an image that is not a whole disk of its own: one may name any file of this host as its base.

    Args:
        path: of the box, for the message.

    Raises:
        ParameterError: it is another kind of image, refers to other files, or has another size.
        MachineError: qemu-img failed.
    """
    command = ["qemu-img", "info", "--output=json", "-f", "qcow2", str(image)]
    try:
        found = json.loads(run(command, "qemu-img info", STEP_LIMIT_S))
    except MachineError as error:
        raise ParameterError(f"{path} holds no disk image that can be used ({error}); {_HOW}") from None
    more = found.get("format-specific", {}).get("data", {})
    if "backing-filename" in found or "data-file" in more or more.get("encrypt"):
        raise ParameterError(f"{path} holds a disk image that refers to another file, so it is refused; {_HOW}")
    if found.get("virtual-size") != DISK_GIB * 1024 * MIB:
        raise ParameterError(f"{path} holds a disk of another size than {DISK_GIB} GiB; {_HOW}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def metadata(recipe: str) -> str:
    """Return the metadata of a box as Vagrant reads it."""
    return json.dumps({"provider": "libvirt", "format": "qcow2", "virtual_size": DISK_GIB, RECIPE_KEY: recipe})
