"""A box as one file: what is exported is what is added, and nothing else is ever added."""

import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import picolab_here

from picolab.errors import ParameterError
from picolab.exit_codes import ExitCode
from picolab.machines.vagrant import box_disk, box_file, boxes
from picolab.machines.vagrant.box import add_box
from picolab.machines.vagrant.box_file import check_image, export_box, unpack

RECIPE = "0123456789ab"
Members = list[tuple[tarfile.TarInfo, bytes]]
needs_qemu_img = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not there")


@pytest.fixture
def home(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Vagrant with picolab's box, whose parts are small."""
    folder = scratch / "vagrant"
    monkeypatch.setenv("VAGRANT_HOME", str(folder))
    box = folder / "boxes" / "picolab" / "0" / "libvirt"
    box.mkdir(parents=True)
    (box / "metadata.json").write_text(box_file.metadata(RECIPE))
    (box / "Vagrantfile").write_text("raise 'the Vagrantfile of a box from elsewhere was run'\n")
    (box / "guest.json").write_text(json.dumps({"processor": "x86_64", "glibc": [2, 36], "files": ["/usr/bin/sh"]}))
    (box / "vmlinuz").write_bytes(random.Random(1).randbytes(50_000))
    (box / "initrd").write_bytes(random.Random(2).randbytes(50_000))
    image = box / "box.img"
    if shutil.which("qemu-img"):
        size = f"{box_disk.DISK_GIB}G"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), size], check=True, timeout=60)
    else:
        image.write_bytes(b"QFI\xfb" * 1000)
    return folder


@pytest.fixture
def exported(home: Path, tmp_path: Path) -> Path:
    return export_box("picolab", tmp_path / "team.box").path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "unpacked"
    folder.mkdir()
    return folder


def members_of(path: Path) -> Members:
    with tarfile.open(path) as tar:
        return [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]


def write(path: Path, members: Members) -> Path:
    with tarfile.open(path, "w") as tar:
        for member, content in members:
            member.size = len(content) if member.isreg() else 0
            tar.addfile(member, io.BytesIO(content))
    return path


def test_each_part_comes_back(home: Path, exported: Path, folder: Path) -> None:
    recipe, sha256 = unpack(exported, folder)
    box = home / "boxes" / "picolab" / "0" / "libvirt"
    assert recipe == RECIPE and sha256 == hashlib.sha256(members_of(exported)[0][1]).hexdigest()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in box.iterdir()
    }
    assert [path.name for path in exported.parent.glob("*team*")] == ["team.box"], "no temporary file is left"


def test_the_same_box_has_the_same_checksum(home: Path, exported: Path, tmp_path: Path) -> None:
    again = export_box("picolab", tmp_path / "again.box")
    assert members_of(again.path)[0][1] == members_of(exported)[0][1] and again.size_bytes == again.path.stat().st_size


def refused_or_whole(path: Path, folder: Path, home: Path) -> bool:
    """Return whether a file is refused; if it is not, every part of it is what was exported."""
    try:
        unpack(path, folder)
    except ParameterError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return True
    box = home / "boxes" / "picolab" / "0" / "libvirt"
    assert all((folder / part.name).read_bytes() == part.read_bytes() for part in box.iterdir())
    return False


@pytest.mark.parametrize("part", [0, 0.001, 0.3, 0.6, 0.9, 0.999])
def test_a_file_that_was_cut_off_is_refused(home: Path, exported: Path, folder: Path, part: float) -> None:
    content = exported.read_bytes()
    exported.write_bytes(content[: int(len(content) * part)])
    # Behind the last part come the archive's zeros and gzip's own checksum.
    assert refused_or_whole(exported, folder, home) or part > 0.9


@pytest.mark.parametrize("at", range(0, 100, 7))
def test_a_changed_byte_is_found(home: Path, exported: Path, folder: Path, at: int) -> None:
    content = bytearray(exported.read_bytes())
    # Not in the header of gzip, where the time and the name of the archive are.
    content[32 + (len(content) - 40) * at // 100] ^= 0x55
    exported.write_bytes(content)
    assert refused_or_whole(exported, folder, home) or at > 90


def change(what: Callable[[Members], Members]) -> Callable[[Path], Path]:
    return lambda path: write(path, what(members_of(path)))


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


def with_list(members: Members, **changes: object) -> Members:
    (first, text), *rest = members
    return [(first, json.dumps({**json.loads(text), **changes}).encode()), *rest]


FOREIGN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "text": (lambda path: (path.write_text("hello"), path)[1], "is no box: it is not a tar archive"),
    "a box of others": (change(lambda members: members[1:]), "a box that picolab did not export"),
    "an empty archive": (change(lambda members: []), "no box|did not export"),
    "another order": (change(lambda members: members[::-1]), "did not export"),
    "one part missing": (change(lambda members: members[:-1]), "was cut off: guest.json is missing"),
    "another part": (change(lambda members: [*members, (member("evil"), b"")]), "holds 'evil', which is no part"),
    "a path": (change(lambda members: [*members, (member("../../evil"), b"x")]), "'../../evil', which is no part"),
    "a path from the root": (change(lambda members: [*members, (member("/tmp/evil"), b"x")]), "which is no part"),
    "a part twice": (change(lambda members: [*members, members[-1]]), "holds 'guest.json', which is no part"),
    "a link": (
        change(lambda members: [members[0], (member("metadata.json", tarfile.SYMTYPE, "/etc/passwd"), b"")]),
        "holds 'metadata.json', which is no part",
    ),
    "a device": (
        change(lambda members: [members[0], (member("metadata.json", tarfile.CHRTYPE), b"")]),
        "holds 'metadata.json', which is no part",
    ),
    "other content": (
        change(lambda members: [members[0], *((part, content[::-1]) for part, content in members[1:])]),
        "the SHA-256 of .* is not that in its list",
    ),
    "a part of another size": (
        change(lambda members: [members[0], (members[1][0], members[1][1] + b" "), *members[2:]]),
        r"metadata.json has \d+ bytes and not",
    ),
    "another format": (change(lambda members: with_list(members, format=2)), "that this picolab cannot read"),
    "a recipe that is none": (change(lambda members: with_list(members, recipe="../x")), "cannot read"),
    "a list without files": (change(lambda members: with_list(members, files={})), "cannot read"),
    "a list of words": (change(lambda members: [(members[0][0], b"[" * 100_000)]), "cannot read"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_exported_box_is_refused(name: str, exported: Path, folder: Path, tmp_path: Path) -> None:
    before = sorted(path for path in tmp_path.rglob("*") if folder not in path.parents)
    make, words = FOREIGN[name]
    with pytest.raises(ParameterError, match=words) as caught:
        unpack(make(exported), folder)
    assert "\n" not in str(caught.value) and str(exported) in str(caught.value)
    assert {path.name for path in folder.iterdir()} <= {*box_file._REQUIRED, boxes.GUEST_FILE}
    assert sorted(path for path in tmp_path.rglob("*") if folder not in path.parents) == before


@needs_qemu_img
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-b", "/etc/passwd", "-F", "raw"), "refers to another file"),
        (("-o", "data_file=DATA"), "refers to another file"),
        ((), "a disk of another size than 16 GiB"),
    ],
)
def test_an_image_that_is_no_whole_disk_is_refused(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    image = tmp_path / "box.img"
    options = tuple(option.replace("DATA", str(tmp_path / "data")) for option in options)
    command = ["qemu-img", "create", "-q", "-f", "qcow2", *options, str(image), "1G"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    with pytest.raises(ParameterError, match=words):
        check_image(Path("team.box"), image)


@needs_qemu_img
def test_an_image_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "box.img").write_bytes(bytes(4096))
    with pytest.raises(ParameterError, match="no disk image that can be used"):
        check_image(Path("team.box"), tmp_path / "box.img")


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("export", "EXISTS"), "exists already; remove it, or name another file"),
        (("export", "new.box", "--name", "none"), "there is no box 'none'; build it with: picolab box build"),
        (("add", "nowhere.box"), "nowhere.box: cannot be read (No such file or directory)"),
        (("add", "EXISTS"), "is no box: it is not a tar archive"),
    ],
)
def test_mistakes_are_one_sentence(words: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "exists").write_text("mine")
    done = picolab_here("box", *(word.replace("EXISTS", str(tmp_path / "exists")) for word in words))
    assert done.returncode in (ExitCode.BAD_PARAMETERS, ExitCode.HOST_UNFIT), done.stderr
    if "programs that add the box are missing" not in done.stderr:
        assert sentence in done.stderr
    assert "Traceback" not in done.stderr and (tmp_path / "exists").read_text() == "mine"


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_does_not_fill_the_memory(exported: Path, folder: Path, kind: bytes) -> None:
    header = member("header", kind)
    header.size = 1 << 40
    exported.write_bytes(header.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(ParameterError, match=r"is damaged or was cut off \(a header of 1099511627776 bytes\)"):
        unpack(exported, folder)


def test_a_pipe_and_a_folder_are_no_boxes(tmp_path: Path, folder: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", folder):
        with pytest.raises(ParameterError, match="is no ordinary file; such files are made by: picolab box export"):
            unpack(path, folder)


def test_a_box_of_others_is_not_exported(home: Path, tmp_path: Path) -> None:
    (home / "boxes" / "picolab" / "0" / "libvirt" / "metadata.json").write_text('{"provider": "libvirt"}')
    with pytest.raises(ParameterError, match="was not built by picolab"):
        export_box("picolab", tmp_path / "team.box")


@needs_qemu_img
@pytest.mark.skipif(shutil.which("vagrant") is None, reason="vagrant is not there")
def test_vagrant_gets_the_box_of_a_team(
    home: Path, exported: Path, tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAGRANT_HOME", str(tmp_path / "other home"))
    said: list[str] = []
    added = add_box(exported, "ours", said.append)
    box = boxes.installed_box("ours")
    assert box is not None and box.recipe == added.recipe == RECIPE
    assert added.sha256 == hashlib.sha256(members_of(exported)[0][1]).hexdigest()
    image = home / "boxes" / "picolab" / "0" / "libvirt" / "box.img"
    assert (box.folder / "box.img").read_bytes() == image.read_bytes()
    own = (box_disk.GUEST / "box.Vagrantfile").read_text()
    assert (box.folder / "Vagrantfile").read_text() == own, "the one in the file is never used"
    system = boxes.guest_system("ours", "libvirt")
    assert system is not None and system.glibc == (2, 36)
    assert list((scratch / "tmp").glob("picolab-box-*")) == []
