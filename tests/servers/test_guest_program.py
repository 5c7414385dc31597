"""Programs that a guest cannot start are refused before it is booted: processor, interpreter, libraries, glibc."""

import json
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import picolab_here
from hypothesis import given
from hypothesis import strategies as st
from test_executable import elf
from virsh_stub import add_box

from picolab.config.trial_parameters import TrialParameters
from picolab.errors import BuildError
from picolab.exit_codes import ExitCode
from picolab.machines import registry
from picolab.machines.kind import GuestSystem
from picolab.machines.vagrant import boxes
from picolab.servers.calibration.program import server_path
from picolab.servers.guest_program import why_unfit
from picolab.trial.trial import Trial

TRUE = Path(shutil.which("true") or "/bin/true").resolve()
LOADER = "/usr/lib64/ld-linux-x86-64.so.2"
FILES = frozenset({LOADER, "/usr/lib/x86_64-linux-gnu/libc.so.6", "/usr/bin/sh", "/usr/bin/env", "/usr/bin/python3"})
GUEST = GuestSystem("x86_64", FILES, complete=True, glibc=(2, 99))
x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the guest of these tests is one for x86-64")


def with_other_loader() -> bytes:
    """Return a program for another libc, as far as its headers show."""
    content = TRUE.read_bytes()
    assert content.count(b"/lib64/ld-linux-x86-64.so.2\0") == 1
    return content.replace(b"/lib64/ld-linux-x86-64.so.2\0", b"/lib/ld-musl-x86_64.so.1\0\0\0\0")


@x86_64
@pytest.mark.parametrize(
    ("guest", "words"),
    [
        (GUEST, ""),
        (replace(GUEST, processor="aarch64"), "a program for another processor (x86-64), and the guest has aarch64"),
        (replace(GUEST, files=FILES - {LOADER}), "its interpreter /lib64/ld-linux-x86-64.so.2 is not in the guest"),
        (replace(GUEST, files=frozenset({LOADER})), "its library libc.so.6 is not in the guest"),
        (replace(GUEST, glibc=(2, 3)), "or newer, and the guest has 2.3; build it for the guest's system, or static"),
        (GuestSystem("x86_64", frozenset({LOADER})), ""),
        (GuestSystem("x86_64"), ""),
    ],
)
def test_a_program_of_this_host(guest: GuestSystem, words: str) -> None:
    found = why_unfit(TRUE, guest)
    assert words in found if words else found == ""


@x86_64
def test_a_program_for_another_libc(program: Callable[[bytes], Path]) -> None:
    path = program(with_other_loader())
    for guest in (GUEST, GuestSystem("x86_64", frozenset({LOADER}))):
        assert "its interpreter /lib/ld-musl-x86_64.so.1 is not in the guest; build it" in why_unfit(path, guest)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"#!/bin/sh\n", ""),
        (b"#!/usr/bin/env python3\n", ""),
        (b"#!/usr/bin/env -S ruby -w\n", ""),
        (b"#!/usr/bin/env ruby\n", "its interpreter 'ruby' is not in the guest"),
        (b"#!/bin/zsh\n", "its interpreter /bin/zsh is not in the guest; use a box that has it"),
    ],
)
def test_scripts(line: bytes, words: str, program: Callable[[bytes], Path]) -> None:
    found = why_unfit(program(line), GUEST)
    assert words in found if words else found == ""
    assert why_unfit(program(line), GuestSystem("x86_64", frozenset({LOADER}))) == ""


def test_static_programs_and_the_calibration_server_fit(program: Callable[[bytes], Path]) -> None:
    assert why_unfit(program(elf()), GUEST) == ""
    assert why_unfit(server_path(), GUEST) == ""


@given(st.integers(0, 4000), st.binary(min_size=1, max_size=8))
def test_any_damage_is_judged(at: int, change: bytes) -> None:
    content = TRUE.read_bytes()
    path = Path(os.environ["TMPDIR"]) / "damaged"
    path.write_bytes(content[:at] + change + content[at + len(change) :])
    assert isinstance(why_unfit(path, GUEST), str)


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """picolab's own box, as Vagrant has it; its folder."""
    monkeypatch.setenv("VAGRANT_HOME", str(tmp_path))
    return add_box(tmp_path, **{boxes.RECIPE_KEY: "0123456789ab"}).parent


def test_the_box_says_what_is_in_it(box: Path) -> None:
    assert boxes.guest_system("picolab", "libvirt") == GuestSystem("x86_64", frozenset({LOADER}))
    (box / boxes.GUEST_FILE).write_text(json.dumps({"processor": "x86_64", "glibc": [2, 36], "files": sorted(FILES)}))
    assert boxes.guest_system("picolab", "libvirt") == replace(GUEST, glibc=(2, 36))
    assert boxes.guest_system("debian/bookworm64", "libvirt") is None


@x86_64
@pytest.mark.usefixtures("box")
@pytest.mark.parametrize("command", ["trial", "matrix"])
def test_it_is_refused_before_anything_starts(command: str, program: Callable[[bytes], Path], tmp_path: Path) -> None:
    path = program(with_other_loader())
    words = ["trial", "--machine", "vagrant", "--build", str(path)]
    if command == "matrix":
        file = tmp_path / "one.yaml"
        file.write_text("matrix: {ram_mb: [256]}\nrepeats: 1\nidle_limit_s: 0\n")
        words = ["matrix", str(file), "--machine", "vagrant", "--build", str(path)]
    done = picolab_here(*words)
    assert done.returncode == ExitCode.BAD_PARAMETERS, done.stderr
    assert "build 'program': cannot run in the virtual machine: its interpreter /lib/ld-musl-x86_64.so.1" in done.stderr
    assert "Traceback" not in done.stderr


@x86_64
@pytest.mark.usefixtures("box")
def test_a_notebook_is_refused_before_a_machine_is_made(program: Callable[[bytes], Path]) -> None:
    trial = Trial.open(TrialParameters(machine="vagrant", ram_mb=256, build=str(program(with_other_loader()))))
    with pytest.raises(BuildError, match="cannot run in the virtual machine: its interpreter"):
        trial.provision()
    assert registry.existing() == []
