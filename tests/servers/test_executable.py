"""Files that the kernel cannot start are refused before the first trial, and those that it can are not."""

import os
import platform
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from picolab.config.project import outputs_dir, project_root
from picolab.errors import BuildError
from picolab.servers.executable import why_no_program
from picolab.servers.picoshare.builds import find_build

TRUE = Path(shutil.which("true") or "/bin/true").resolve()
LIBRARY = next(Path("/lib").glob("*/libz.so.1"), None) or next(Path("/usr/lib").glob("*/lib*.so.*"))
SHELL = "#!/bin/sh\nexit 0\n"


def elf(**change: int) -> bytes:
    """Return the head of an ELF program of 64 bit that is loaded and has no interpreter, with some fields changed."""
    fields = {
        "wide": 2,
        "order": 1,
        "kind": 2,
        "machine": 62,
        "entry": 0x400078,
        "segment": 1,
        "length": 120,
        "count": 1,
    }
    fields |= change
    ident = b"\x7fELF" + bytes([fields["wide"], fields["order"], 1]) + bytes(9)
    order = "<" if fields["order"] == 1 else ">"
    head = struct.pack(
        f"{order}HHIQQQIHHHHHH",
        *(fields["kind"], fields["machine"], 1, fields["entry"], 64, 0, 0, 64, 56, fields["count"], 0, 0, 0),
    )
    return ident + head + struct.pack(f"{order}IIQQQQQQ", fields["segment"], 5, 0, 0, 0, fields["length"], 0, 0)


REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "text": (b"hello\n", "begins neither with the ELF header nor with #!"),
    "blank line before #!": (b"\n#!/bin/sh\n", "begins neither"),
    "byte order mark before #!": (b"\xef\xbb\xbf#!/bin/sh\n", "begins neither"),
    "web page": (b"<!DOCTYPE html>", "begins neither"),
    "Windows": (b"MZ\x90\x00", "a program for Windows"),
    "macOS": (b"\xcf\xfa\xed\xfe\x07", "a program for macOS"),
    "gzip": (b"\x1f\x8b\x08\x00", "a gzip archive"),
    "zip": (b"PK\x03\x04", "a zip archive"),
    "no interpreter": (b"#!\nexit 0\n", "names no interpreter"),
    "blank interpreter": (b"#!   \n", "names no interpreter"),
    "missing interpreter": (b"#!/nowhere/sh\n", "its interpreter /nowhere/sh is not there"),
    "CR LF": (b"#!/bin/sh\r\nexit 0\r\n", "ends with CR LF"),
    "CR LF with an option": (b"#!/bin/sh -e\r\nexit 0\r\n", "ends with CR LF"),
    "relative interpreter": (b"#!sh\n", "its interpreter 'sh' is not named from the root"),
    "interpreter is a folder": (b"#!/etc\n", "its interpreter /etc may not be executed"),
    "interpreter without x": (b"#!/etc/passwd\n", "its interpreter /etc/passwd may not be executed"),
    "NUL before the interpreter": (b"#!\0/bin/sh\n", "names no interpreter"),
    "endless first line": (b"#!/" + b"x" * 5000, "longer than 256 bytes"),
    "env finds nothing": (
        b"#!/usr/bin/env no-such-word\n",
        "its interpreter 'no-such-word' is in none of",
    ),
    "only the magic": (b"\x7fELF", "was cut off"),
    "half a header": (elf()[:60], "was cut off"),
    "no table": (elf()[:64], "was cut off"),
    "half a table": (elf()[:100], "was cut off"),
    "cut off behind the table": (elf(length=121), "was cut off"),
    "wrong class": (elf(wide=9), "is damaged"),
    "wrong order": (elf(order=7), "is damaged"),
    "no segments": (elf(count=0), "is damaged"),
    "nothing to load": (elf(segment=6), "nothing to load"),
    "object file": (elf(kind=1), "an object file"),
    "core dump": (elf(kind=4), "a core dump"),
    "other kind": (elf(kind=999), "an ELF file of type 999"),
    "for ARM": (elf(machine=183), "for another processor (AArch64, 64 bit)"),
    "for RISC-V": (elf(machine=243), "for another processor (RISC-V, 64 bit)"),
    "for PowerPC": (elf(machine=21, order=2), "for another processor (PowerPC 64, 64 bit)"),
    "for nobody": (elf(machine=4711), "for another processor (ELF machine 4711, 64 bit)"),
    "library": (elf(kind=3, entry=0), "a shared library"),
}
x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the made programs are for x86-64")


@x86_64
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_run_is_refused_in_one_sentence(name: str, program: Callable[[bytes], Path]) -> None:
    content, words = REFUSED[name]
    path = program(content)
    with pytest.raises(BuildError) as caught:
        find_build(str(path), "x", "")
    sentence = str(caught.value)
    assert words in sentence and "\n" not in sentence and sentence.startswith(f"build '{path}': cannot run here: ")
    # The kernel agrees.
    if content:
        with pytest.raises((OSError, subprocess.CalledProcessError)):
            subprocess.run([path], check=True, capture_output=True, timeout=10)


def test_what_runs_is_not_refused(program: Callable[[bytes], Path], tmp_path: Path) -> None:
    (tmp_path / "nested").write_text(f"#!{sys.executable}\n")
    (tmp_path / "nested").chmod(0o755)
    for content in (
        SHELL,
        "#! /bin/sh\nexit 0\n",
        "#!/bin/sh -e\nexit 0\n",
        "#!/usr/bin/env sh\nexit 0\n",
        "#!/usr/bin/env -S sh -e\nexit 0\n",
        f"#!{sys.executable}\n",
        "#!/bin/true",
        "#!/bin/true\0\n",
        f"#!{tmp_path / 'nested'}\n",
    ):
        path = program(content.encode())
        assert why_no_program(path) == "", content
        subprocess.run([path], check=True, timeout=30)
    for path in (TRUE, Path(sys.executable).resolve(), Path("/bin/sh").resolve()):
        assert why_no_program(path) == ""
        copy = program(path.read_bytes())
        assert find_build(str(copy), "x", "").path == copy


@x86_64
def test_programs_of_every_link_are_told_from_libraries(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    (tmp_path / "a.c").write_text("int main(void) { return 0; }\n")
    for flags in (["-no-pie"], ["-pie"], ["-static"], ["-static-pie"]):
        done = subprocess.run(
            [compiler, tmp_path / "a.c", "-o", tmp_path / "a", *flags], capture_output=True, timeout=60
        )
        if done.returncode == 0:
            assert why_no_program(tmp_path / "a") == "", flags
            subprocess.run([tmp_path / "a"], check=True, timeout=10)
    for flags, kind in ((["-shared", "-fPIC"], "shared library"), (["-c"], "object file")):
        subprocess.run([compiler, tmp_path / "a.c", "-o", tmp_path / "b", *flags], check=True, timeout=60)
        assert kind in why_no_program(tmp_path / "b")


def test_a_library_of_this_host_is_refused() -> None:
    assert "shared library" in why_no_program(LIBRARY.resolve())


@pytest.mark.parametrize("size", [1, 3, 63, 64, 65, 300, 4096, 20_000])
def test_a_program_that_was_cut_off_is_refused(size: int, program: Callable[[bytes], Path]) -> None:
    assert why_no_program(program(TRUE.read_bytes()[:size]))


@x86_64
def test_an_interpreter_of_an_elf_program_that_is_missing(program: Callable[[bytes], Path]) -> None:
    content = TRUE.read_bytes()
    assert content.count(b"/lib64/ld-linux-x86-64.so.2\0") == 1
    path = program(content.replace(b"/lib64/ld-linux-x86-64.so.2\0", b"/lib64/ld-musl-nowhere.so.1\0"))

    assert "its interpreter /lib64/ld-musl-nowhere.so.1 is not there" in why_no_program(path)
    # Nobody knows what a guest has; its processor is this host's.
    assert why_no_program(path, in_guest=True) == ""
    assert find_build(str(path), "x", "", in_guest=True).path == path
    assert "another processor" in why_no_program(program(elf(machine=183)), in_guest=True)


@given(st.binary(max_size=400), st.sampled_from([b"", b"\x7fELF", b"\x7fELF\x02\x01\x01", b"#!", elf()[:64]]))
def test_any_bytes_are_judged(content: bytes, begin: bytes) -> None:
    path = Path(os.environ["TMPDIR"]) / "any"
    path.write_bytes(begin + content)
    assert isinstance(why_no_program(path), str)


@given(st.integers(0, 119), st.integers(0, 255))
def test_any_damage_of_a_header_is_judged(at: int, value: int) -> None:
    path = Path(os.environ["TMPDIR"]) / "any"
    path.write_bytes(elf()[:at] + bytes([value]) + elf()[at + 1 :])
    assert isinstance(why_no_program(path), str)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    for path in (Path("/dev/null"), tmp_path / "fifo", tmp_path):
        with pytest.raises(BuildError, match=r"that is (no ordinary file|a folder)"):
            find_build(str(path), "x", "")
    for path in (tmp_path / "loop", tmp_path / ("x" * 300)):
        with pytest.raises(BuildError, match=r"cannot be read|there is no such file"):
            find_build(str(path), "x", "")


QUICK = str(project_root() / "parameters" / "quick.yaml")


@pytest.mark.parametrize("door", ["matrix", "trial", "compare", "papermill"])
def test_every_door_refuses_before_the_first_trial(door: str, program: Callable[[bytes], Path], tmp_path: Path) -> None:
    path = program(b"hello\n")
    notebook = str(project_root() / "notebooks" / "trial.ipynb")
    words = {
        "matrix": ["picolab", "matrix", QUICK, "--build", str(path)],
        "trial": ["picolab", "trial", "--build", str(path)],
        "compare": ["picolab", "compare", "--self", str(path)],
        "papermill": ["papermill", notebook, "out.ipynb", "-p", "build", str(path)],
    }[door]
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )

    assert "the file is no program" in done.stderr
    if door != "papermill":
        assert (done.returncode, done.stderr.count("\n")) == (4, 1)
        assert not outputs_dir().exists()
