"""picolab's own box: what the recipe writes, what a failed build leaves, which boxes there are; and a real one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import eventually

from picolab.errors import FileNotWritten, HostUnfit, MachineBusy, MachineError, ParameterError
from picolab.machines.vagrant import box as box_module
from picolab.machines.vagrant import box_disk, box_packages, box_tools, boxes
from picolab.machines.vagrant.acceleration import guest_to_try, prove
from picolab.machines.vagrant.base_volumes import BaseVolume
from picolab.machines.vagrant.box import (
    build_box,
    list_boxes,
    recipe_version,
    remove_box,
)
from picolab.machines.vagrant.box_disk import boot_sector, cpio
from picolab.machines.vagrant.box_packages import apt_sources

MIB = 1 << 20
SECTOR = 512
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def home(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Vagrant without boxes."""
    folder = scratch / "vagrant"
    monkeypatch.setenv("VAGRANT_HOME", str(folder))
    return folder


def add_box(home: Path, name: str, version: str = "0", provider: str = "libvirt", recipe: str | None = None) -> Path:
    """Put a box where Vagrant would have it."""
    folder = home / "boxes" / name.replace("/", "-VAGRANTSLASH-") / version / provider
    folder.mkdir(parents=True)
    metadata = {"provider": provider, "format": "qcow2", "virtual_size": 8}
    (folder / "metadata.json").write_text(json.dumps(metadata | ({boxes.RECIPE_KEY: recipe} if recipe else {})))
    (folder / "box.img").write_bytes(b"x" * 1000)
    os.utime(folder / "box.img", (1_700_000_000.7, 1_700_000_000.7))
    return folder


# What the disk begins with


def members(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Read a cpio archive by the kernel's document, initramfs-buffer-format.rst."""
    found, place = {}, 0
    while True:
        header = archive[place : place + 110]
        assert header[:6] == b"070701" and place % 4 == 0
        mode, size, name_size = (int(header[at : at + 8], 16) for at in (14, 54, 94))
        name = archive[place + 110 : place + 110 + name_size - 1].decode()
        assert archive[place + 109 + name_size] == 0
        place = (place + 110 + name_size + 3) & ~3
        content = archive[place : place + size]
        place = (place + size + 3) & ~3
        if name == "TRAILER!!!":
            assert place == len(archive)
            return found
        found[name] = (mode, content)


def test_cpio_holds_what_was_given() -> None:
    entries = [
        ("bin", 0o40755, b""),
        ("bin/sh", 0o100755, b"\x7fELF\0"),
        ("empty", 0o100644, b""),
        ("x", 0o100644, b"1"),
    ]

    assert members(cpio(entries)) == {name: (mode, content) for name, mode, content in entries}


def test_boot_sector_divides_the_disk_without_overlap() -> None:
    sector = boot_sector(b"\xfa" * 440)
    parts = [struct.unpack("<B3sB3sII", sector[at : at + 16]) for at in range(446, 510, 16)]
    (active, _, kind, _, begin, length), (root_active, _, root_kind, _, root_begin, root_length), *rest = parts

    assert len(sector) == SECTOR and sector[510:] == b"\x55\xaa" and sector[:440] == b"\xfa" * 440
    assert (active, kind) == (0x80, 0x0E) and (root_active, root_kind) == (0, 0x83)
    assert begin >= 1 and begin + length <= root_begin
    assert root_begin + root_length == box_disk.DISK_GIB * 1024 * MIB // SECTOR
    assert all(part[5] == 0 for part in rest)


def test_boot_code_never_runs_into_the_table() -> None:
    assert boot_sector(b"\xff" * SECTOR)[440:446] == b"\0" * 6


def test_initrd_holds_busybox_the_modules_in_order_and_init(tmp_path: Path) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "busybox").write_bytes(b"busybox")
    for name in ("102-virtio.ko", "101-virtio_ring.ko"):
        (tmp_path / "modules" / name).write_bytes(name.encode())
    done = subprocess.run(["gzip", "-dc"], input=box_disk.initrd(tmp_path), capture_output=True, check=True, timeout=60)
    found = members(done.stdout)

    assert [name for name in found if name.endswith(".ko")] == ["modules/101-virtio_ring.ko", "modules/102-virtio.ko"]
    assert found["bin/busybox"] == (0o100755, b"busybox")
    assert found["init"] == (0o100755, (box_disk.GUEST / "initrd_init.sh").read_bytes())
    assert list(found).index("modules") < list(found).index("modules/101-virtio_ring.ko")


SCRIPTS = [path for path in box_disk.GUEST.rglob("*") if path.is_file() and path.read_text().startswith("#!")]


@pytest.mark.parametrize("script", sorted(SCRIPTS), ids=lambda path: str(path.name))
def test_scripts_of_the_guest_are_whole(script: Path) -> None:
    subprocess.run(["sh", "-n", str(script)], check=True, timeout=60)


# The recipe


def test_recipe_changes_with_every_file_and_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = recipe_version()
    copy = tmp_path / "guest"
    shutil.copytree(box_disk.GUEST, copy)
    monkeypatch.setattr(box_module, "GUEST", copy)
    versions = [before]

    assert recipe_version() == before
    with (copy / "root" / "etc" / "sudoers.d" / "vagrant").open("a") as file:
        file.write("#\n")
    versions.append(recipe_version())
    (copy / "masked").rename(copy / "masks")
    versions.append(recipe_version())
    monkeypatch.setattr(box_module, "PACKAGES", (*box_module.PACKAGES, "rsync"))
    versions.append(recipe_version())
    assert len(set(versions)) == len(versions)


def test_box_is_current_while_its_recipe_is(home: Path) -> None:
    assert not box_module.is_current("mine")
    add_box(home, "mine", recipe=recipe_version())
    assert box_module.is_current("mine")
    add_box(home, "older", recipe="0123456789ab")
    assert not box_module.is_current("older")


def test_sources_are_debians_own_and_nothing_else() -> None:
    host = textwrap.dedent("""\
        http://mirror/debian/ bookworm main Debian
        http://mirror/debian/ bookworm main Debian
        http://mirror/debian/ bookworm contrib Debian
        http://mirror/debian/ bookworm-updates main Debian
        http://mirror/security/ bookworm-security main Debian
        http://mirror/debian/ bookworm-backports main Debian
        http://new/debian/ bookworm main $(ORIGIN)
        https://elsewhere/node nodistro main . nodistro
        https://elsewhere/docker bookworm stable Docker
        https://elsewhere/third bookworm main Somebody Else
        """)
    lines = [
        "deb http://mirror/debian/ bookworm main",
        "deb http://mirror/debian/ bookworm-updates main",
        "deb http://mirror/security/ bookworm-security main",
        "deb http://new/debian/ bookworm main",
    ]

    assert box_packages.select_sources(host, "bookworm", "bookworm") == lines
    assert box_packages.select_sources(host, "bookworm", "trixie") == [
        line.replace("bookworm", "trixie") for line in lines
    ]


def test_a_mirror_that_was_named_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box_packages, "_debian_codename", lambda: "bookworm")

    assert apt_sources("http://mirror/debian", "trixie") == ("trixie", ["http://mirror/debian"])
    assert apt_sources("http://mirror/debian", None) == ("bookworm", ["http://mirror/debian"])


def test_elsewhere_than_on_debian_the_mirrors_are_mmdebstraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box_packages, "_debian_codename", lambda: None)

    assert apt_sources(None, None) == ("bookworm", [])


# Which boxes there are


def test_boxes_are_found_on_the_disk(home: Path) -> None:
    add_box(home, "debian/bookworm64", version="12.2.0")
    add_box(home, "debian/bookworm64", version="12.10.0")
    add_box(home, "debian/bookworm64", version="12.10.0", provider="virtualbox")
    folder = add_box(home, "picolab", recipe="abc")
    (home / "boxes" / "debian-VAGRANTSLASH-bookworm64" / "metadata_url").write_text("https://somewhere")
    newest = boxes.installed_box("debian/bookworm64")
    own = boxes.installed_box("picolab")

    assert newest is not None and (newest.version, newest.provider, newest.recipe) == ("12.10.0", "libvirt", None)
    assert own is not None and (own.folder, own.recipe, own.version) == (folder, "abc", "0")
    assert own.size_bytes == 1000 + (folder / "metadata.json").stat().st_size
    assert boxes.installed_box("debian") is None
    assert len(boxes.installed_boxes()) == 4


def test_picolabs_own_box_is_the_default_where_it_was_built(home: Path) -> None:
    assert boxes.default_box() == "debian/bookworm64"
    add_box(home, "picolab")
    assert boxes.default_box() == "picolab"


def test_base_volume_is_named_as_vagrant_libvirt_names_it(home: Path) -> None:
    image = add_box(home, "picolab") / "box.img"
    add_box(home, "debian/bookworm64", version="12.2.0")

    assert boxes.base_volume("picolab") == "picolab_vagrant_box_image_0_1700000000_box.img"
    assert boxes.base_volume("debian/bookworm64") == ("debian-VAGRANTSLASH-bookworm64_vagrant_box_image_12.2.0_box.img")
    assert boxes.box_of_base_volume(str(boxes.base_volume("debian/bookworm64"))) == "debian/bookworm64"
    assert boxes.base_volume("none") is None and boxes.box_image("none") is None
    assert boxes.box_image("picolab") == image


def test_vagrantfile_takes_the_names_that_picolab_knows() -> None:
    text = (ROOT / "Vagrantfile").read_text()
    box_text = (box_disk.GUEST / "box.Vagrantfile").read_text()

    for word in (boxes.PICOLAB_BOX, boxes.PUBLIC_BOX, boxes.RECIPE_KEY):
        assert f'"{word}"' in text
    for file in (text, box_text):
        assert "insert_key = false" in file and "disabled: true" in file


def test_vagrantfile_is_ruby() -> None:
    ruby = shutil.which("ruby")
    if ruby is None:
        pytest.skip("there is no Ruby to check the Vagrantfile with")
    for file in (ROOT / "Vagrantfile", box_disk.GUEST / "box.Vagrantfile"):
        subprocess.run([ruby, "-c", str(file)], check=True, capture_output=True, timeout=60)


# What goes wrong


@pytest.fixture
def program(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Put a program of that name and those lines of shell in front of the PATH."""
    folder = scratch / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def write(name: str, lines: str) -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{lines}\n")
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def tools(home: Path, program: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this host look like one on which a box can be built, but nothing is."""
    for tool in box_tools._TOOLS:
        program(tool, "exit 0")
    (tmp_path / "mbr.bin").write_bytes(b"code")
    monkeypatch.setattr(box_tools, "_MBR_PLACES", (str(tmp_path / "mbr.bin"),))
    monkeypatch.setattr(box_tools.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(box_packages, "apt_sources", lambda mirror, suite: ("bookworm", []))
    monkeypatch.setattr(box_packages, "_apt_settings", lambda: "")


def left_of_builds(scratch: Path) -> list[Path]:
    return list((scratch / "tmp").glob("picolab-box-*"))


def nothing(_: str) -> None:
    """Report to nobody."""


def test_missing_programs_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box_tools.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(box_tools.os, "geteuid", lambda: 0)
    monkeypatch.setattr(box_tools, "_SYSTEM_PATH", "")
    monkeypatch.setattr(box_tools, "_MBR_PLACES", ())
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(HostUnfit) as refused:
        box_tools.check_tools()
    command = str(refused.value).rpartition("apt-get install --no-install-recommends ")[2].split()
    assert {"mmdebstrap", "mtools", "syslinux", "syslinux-common", "qemu-utils", "e2fsprogs"} <= set(command)
    assert len(command) == len(set(command)) and "uidmap" not in command


@pytest.mark.usefixtures("tools")
def test_without_root_user_namespaces_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    box_tools.check_tools()
    monkeypatch.setattr(box_tools, "which", lambda tool: None if tool == "newuidmap" else f"/bin/{tool}")
    monkeypatch.setattr(box_tools.os, "geteuid", lambda: 1000)

    with pytest.raises(HostUnfit, match=r"sudo apt-get install --no-install-recommends uidmap$"):
        box_tools.check_tools()


def test_other_architectures_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box_tools.platform, "machine", lambda: "aarch64")

    with pytest.raises(HostUnfit, match=r"aarch64.*public"):
        build_box(report=nothing)


@pytest.mark.usefixtures("tools")
def test_a_failed_build_names_the_cause_and_leaves_nothing(
    scratch: Path, home: Path, program: Callable[[str, str], Path]
) -> None:
    program("mmdebstrap", "echo some progress >&2; echo 'E: the mirror is on fire' >&2; exit 25")

    with pytest.raises(MachineError, match=r"mmdebstrap ended with exit code 25; it said: .*the mirror is on fire"):
        build_box("mine", report=nothing)
    assert left_of_builds(scratch) == []
    assert boxes.installed_box("mine") is None


@pytest.fixture
def small_disk(scratch: Path) -> Iterator[Path]:
    """The folder of builds, of 1 MiB."""
    place = scratch / "tmp"
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this host mounts no tmpfs for this user")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.usefixtures("tools")
def test_a_full_disk_in_a_build_is_named(small_disk: Path, program: Callable[[str, str], Path]) -> None:
    fill = "head -c 700000 /dev/urandom > $work/boot/busybox"
    program("mmdebstrap", f"work=$TMPDIR; mkdir -p $work/boot/modules; {_BOOT_FILES}; {fill}")
    with pytest.raises(
        FileNotWritten, match=rf"mounted at {small_disk} is full .*; free some space there, or set TMPDIR"
    ):
        build_box("mine", report=nothing)
    assert list(small_disk.iterdir()) == []


@pytest.mark.usefixtures("tools")
def test_a_program_that_fills_a_disk_is_told_with_what_is_free(
    small_disk: Path, home: Path, program: Callable[[str, str], Path]
) -> None:
    program("mmdebstrap", "exec head -c 2000000 /dev/zero > $TMPDIR/package")
    with pytest.raises(
        MachineError, match=rf"No space left on device; free are 0 MiB in {small_disk}/.* in {home}: free"
    ):
        build_box("mine", report=nothing)


@pytest.mark.usefixtures("tools")
def test_build_that_hangs_is_ended_with_all_that_it_has_started(
    scratch: Path, program: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    program("mmdebstrap", "echo 'I: waiting for ever' >&2; sleep 600 & wait")
    monkeypatch.setattr(box_packages, "_INSTALL_LIMIT_S", 5.0)

    with pytest.raises(MachineError, match=r"did not end within .*waiting for ever"):
        build_box("mine", report=nothing)
    assert left_of_builds(scratch) == []


@pytest.mark.usefixtures("tools")
def test_vagrant_that_adds_nothing_is_noticed(program: Callable[[str, str], Path]) -> None:
    program("mmdebstrap", f'for last in "$@"; do :; done; work=$TMPDIR; mkdir -p $work/boot/modules; {_BOOT_FILES}')
    program("qemu-img", 'for last in "$@"; do :; done; echo image > "$last"')

    with pytest.raises(MachineError, match=r"vagrant box add said nothing, but the box 'mine' is not in"):
        build_box("mine", report=nothing)


_BOOT_FILES = (
    "cd $work/boot; echo 2.36-9 > guest-files; echo busybox > busybox; echo kernel > vmlinuz; echo x > modules/1-x.ko"
)


@pytest.mark.usefixtures("tools")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_build_leaves_nothing(
    scratch: Path, program: Callable[[str, str], Path], tmp_path: Path, number: signal.Signals
) -> None:
    begun = tmp_path / "begun"
    program("mmdebstrap", f"touch {begun}; sleep 600 & wait")
    # Whoever runs the tests in the background may have had SIGINT ignored.
    script = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    script += "from picolab.machines.vagrant import box, box_packages, box_tools; "
    script += "box_packages.apt_sources = lambda mirror, suite: ('bookworm', []); "
    script += f"box_tools._MBR_PLACES = ({str(tmp_path / 'mbr.bin')!r},); box.build_box('mine', report=print)"
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    eventually(begun.exists, "the build has begun")
    process.send_signal(number)

    assert process.wait(timeout=60) != 0
    assert left_of_builds(scratch) == []


@pytest.mark.usefixtures("tools")
def test_what_killed_builds_left_is_removed_running_ones_stay(
    scratch: Path, program: Callable[[str, str], Path]
) -> None:
    killed, running = (scratch / "tmp" / f"picolab-box-{os.geteuid()}-{name}" for name in ("killed", "running"))
    (killed / "inner").mkdir(parents=True)
    running.mkdir()
    program("mmdebstrap", "exit 1")

    with box_module._locked(running) as ours:
        assert ours
        with pytest.raises(MachineError, match="and said nothing"):
            build_box("mine", report=nothing)
    assert left_of_builds(scratch) == [running]


@pytest.mark.usefixtures("tools")
def test_second_build_is_refused(home: Path) -> None:
    home.mkdir()
    with box_module._locked(home), pytest.raises(MachineBusy, match="another build"):
        build_box("mine", report=nothing)


# libvirt's copies


@pytest.fixture
def libvirt(program: Callable[[str, str], Path], scratch: Path) -> Iterator[Callable[[dict[str, str]], Path]]:
    """Answer as virsh does; call it with {volume: path of what it is a difference to, or nothing}."""
    pool, log = scratch / "pool", scratch / "virsh.log"
    pool.mkdir()

    def set_up(volumes: dict[str, str]) -> Path:
        for name, base in volumes.items():
            backing = f"<backingStore><path>{base}</path></backingStore>" if base else ""
            (pool / name).write_text(
                f"<volume><name>{name}</name><capacity unit='bytes'>8589934592</capacity>"
                f"<allocation unit='bytes'>226496512</allocation>"
                f"<target><path>/images/{name}</path></target>{backing}</volume>"
            )
        program(
            "virsh",
            f"""
            shift 2
            echo "$@" >> {log}
            case $1 in
            pool-list) echo default; echo ;;
            vol-list)
                echo " Name   Path"; echo "------------"
                for volume in $(ls {pool}); do echo " $volume   /images/$volume"; done; echo ;;
            vol-dumpxml) cat {pool}/$4 ;;
            vol-delete) rm {pool}/$4 ;;
            esac
            """,
        )
        return pool

    yield set_up
    with contextlib.suppress(FileNotFoundError):
        assert not [line for line in log.read_text().splitlines() if line.startswith("vol-delete") and "domain" in line]


COPY = "picolab_vagrant_box_image_0_1700000000_box.img"


def test_boxes_are_listed_with_libvirts_copies(home: Path, libvirt: Callable[[dict[str, str]], Path]) -> None:
    add_box(home, "picolab", recipe=recipe_version())
    add_box(home, "debian/bookworm64", version="12.2.0")
    gone = "gone_vagrant_box_image_0_5_box.img"
    libvirt({COPY: "", gone: "", "domain_default.img": f"/images/{COPY}", "somebody-elses.img": ""})
    debian, left, own = list_boxes()

    assert (debian.name, debian.current, debian.base_volumes) == ("debian/bookworm64", False, ())
    assert (left.name, left.boxes) == ("gone", ()) and left.base_volumes is not None
    assert [volume.name for volume in left.base_volumes] == [gone]
    assert own.current and own.base_volumes is not None
    assert own.base_volumes[0] == BaseVolume(COPY, "picolab", 226496512, f"/images/{COPY}", ("domain_default.img",))


def test_boxes_are_listed_when_libvirt_does_not_answer(home: Path, program: Callable[[str, str], Path]) -> None:
    add_box(home, "picolab")
    program("virsh", "echo 'error: failed to connect to the hypervisor' >&2; exit 1")

    assert [(box.name, box.base_volumes) for box in list_boxes()] == [("picolab", None)]
    with pytest.raises(MachineError, match="failed to connect to the hypervisor"):
        remove_box("picolab")


def test_box_is_removed_with_libvirts_copies(
    home: Path, libvirt: Callable[[dict[str, str]], Path], program: Callable[[str, str], Path]
) -> None:
    add_box(home, "picolab")
    pool = libvirt({COPY: "", "picolab-dev_vagrant_box_image_0_1_box.img": "", "domain_default.img": "/images/other"})
    program(
        "vagrant", f'[ "$*" = "box remove --force --all --provider libvirt picolab" ] && rm -r {home}/boxes/picolab'
    )

    assert remove_box("picolab") == [f"box picolab ({home}/boxes/picolab/0/libvirt)", f"base volume {COPY}"]
    assert sorted(path.name for path in pool.iterdir()) == [
        "domain_default.img",
        "picolab-dev_vagrant_box_image_0_1_box.img",
    ]
    assert boxes.installed_boxes() == []


def test_box_that_a_machine_uses_is_not_removed(home: Path, libvirt: Callable[[dict[str, str]], Path]) -> None:
    folder = add_box(home, "picolab")
    pool = libvirt({COPY: "", "domain_default.img": f"/images/{COPY}"})

    with pytest.raises(MachineBusy, match=r"'picolab' is still the base of domain_default\.img"):
        remove_box("picolab")
    assert folder.is_dir() and (pool / COPY).is_file()


def test_box_that_is_not_there_cannot_be_removed(home: Path, libvirt: Callable[[dict[str, str]], Path]) -> None:
    libvirt({})

    with pytest.raises(ParameterError, match="no box 'picolab'"):
        remove_box("picolab")


def test_copies_of_older_boxes_go_when_no_machine_uses_them(libvirt: Callable[[dict[str, str]], Path]) -> None:
    used, unused, current = (f"picolab_vagrant_box_image_0_{number}_box.img" for number in (1, 2, 3))
    pool = libvirt({used: "", unused: "", current: "", "domain_default.img": f"/images/{used}"})
    said: list[str] = []
    box_module._remove_unused_base_volumes("picolab", keep=current, report=said.append)

    assert sorted(path.name for path in pool.iterdir()) == ["domain_default.img", used, current]
    assert len(said) == 1 and unused in said[0]


# A real one


@pytest.mark.vm
def test_real_box_is_current_and_whole(box: str) -> None:
    found = boxes.installed_box(box)

    assert found is not None and found.recipe == recipe_version()
    image = boxes.box_image(box)
    assert image is not None
    done = subprocess.run(
        ["qemu-img", "info", "--output=json", str(image)], capture_output=True, check=True, timeout=60
    )
    info = json.loads(done.stdout)
    assert (info["format"], info["virtual-size"]) == ("qcow2", box_disk.DISK_GIB << 30)
    assert "backing-filename" not in info


@pytest.mark.vm
def test_real_box_holds_no_key_and_nothing_of_its_birthplace(box: str, tmp_path: Path) -> None:
    image = boxes.box_image(box)
    assert image is not None
    disk = tmp_path / "disk.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", str(image), str(disk)], check=True, timeout=120)
    root = f"{disk}?offset={box_disk.ROOT_BEGIN_MIB * MIB}"

    def names(folder: str) -> set[str]:
        done = subprocess.run(
            ["debugfs", "-R", f"ls -p {folder}", root],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
        )
        return {line.split("/")[5] for line in done.stdout.splitlines() if line.count("/") > 5} - {".", ".."}

    assert "sshd_config" in names("/etc/ssh")
    assert not {name for name in names("/etc/ssh") if name.startswith("ssh_host_")}
    assert "apt" not in names("/etc")
    assert [names(folder) for folder in ("/var/log", "/proc", "/sys", "/tmp")] == [set()] * 4
    assert {"screen", "python3", "sudo"} <= names("/usr/bin")
    assert not {"rsync", "curl"} & names("/usr/bin")


@pytest.mark.vm
def test_real_box_holds_a_kernel_that_boots(box: str) -> None:
    guest = guest_to_try()

    assert guest is not None
    assert prove(*guest, ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "qemu64"], limit_s=120) is None


def test_an_agent_that_is_not_installed_ends_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box_packages, "GUEST_HOME", str(tmp_path))
    monkeypatch.setattr(box_packages, "AGENT_ZIPAPP", str(tmp_path / "agent.pyz"))
    monkeypatch.setattr(box_packages, "USER", str(os.geteuid()))
    monkeypatch.setattr(box_packages, "agent_mark", lambda _: str(tmp_path / "mark"))
    for command, code in (("true && true", 0), ("false && true", 1)):
        monkeypatch.setattr(box_packages, "unpack_agent", lambda command=command: command)
        assert subprocess.run(["sh", "-c", box_packages._install_agent()], input=b"", check=False).returncode == code
