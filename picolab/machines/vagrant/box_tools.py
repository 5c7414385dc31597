"""The programs that build the box: whether they are installed, and how they are run."""

import contextlib
import os
import platform
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from picolab.errors import HostUnfit, MachineError
from picolab.host.finding import as_root

STEP_LIMIT_S = 120.0


_TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "mformat": "mtools",
    "mcopy": "mtools",
    "syslinux": "syslinux",
    "qemu-img": "qemu-utils",
    "vagrant": "vagrant vagrant-libvirt",
}


_MBR_PLACES = ("/usr/lib/syslinux/mbr/mbr.bin", "/usr/share/syslinux/mbr.bin", "/usr/lib/syslinux/bios/mbr.bin")


_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


_END_PATIENCE_S = 20.0


_SAID_LINES = 8


def check_tools() -> None:
    """Do nothing if this host can build the box.

    Raises:
        HostUnfit: a tool is missing, or the host has another architecture.
    """
    check_architecture()
    packages = missing_packages()
    if packages:
        raise HostUnfit(
            f"programs that build the box are missing; install them with: "
            f"{as_root(' '.join(['apt-get install --no-install-recommends', *packages]))}"
        )


def check_architecture() -> None:
    """Do nothing if the box can run on this host.

    Raises:
        HostUnfit: the host has another architecture.
    """
    if platform.machine() != "x86_64":
        raise HostUnfit(
            f"picolab's own box is made for x86_64, not for this host's {platform.machine()}; "
            f"use a public one instead: set `box` to its name"
        )


def missing_packages() -> list[str]:
    """Return the packages that build the box and are not installed."""
    packages = [package for tool, package in _TOOLS.items() if which(tool) is None]
    if boot_code() is None:
        packages.append("syslinux-common")
    if os.geteuid() != 0 and which("newuidmap") is None:
        packages.append("uidmap")
    return list(dict.fromkeys(" ".join(packages).split()))


def check_can_add() -> None:
    """Do nothing if this host can add a box from a file.

    Raises:
        HostUnfit: a tool is missing.
    """
    packages = [_TOOLS[tool] for tool in ("qemu-img", "vagrant") if which(tool) is None]
    if packages:
        missing = " ".join(packages)
        raise HostUnfit(
            f"programs that add the box are missing; install them with: "
            f"{as_root(f'apt-get install --no-install-recommends {missing}')}"
        )


def boot_code() -> bytes | None:
    """Return syslinux' code for the first sector of a disk."""
    return next((Path(place).read_bytes() for place in _MBR_PLACES if Path(place).is_file()), None)


def which(tool: str) -> str | None:
    # A user's PATH often lacks the folders of mke2fs.
    return shutil.which(tool, path=f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}")


def run(command: Sequence[str], what: str, limit_s: float, **environment: str) -> str:
    """Run a program to its end and return what it printed to stdout.

    Raises:
        MachineError: it failed, or took longer than `limit_s`; the message holds the last lines that it printed.
    """
    path = f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}"
    # Vagrant makes a folder for its notes, by default `.vagrant/` in the current folder. Those of a box are not needed.
    with tempfile.TemporaryDirectory(prefix=f"picolab-box-{os.geteuid()}-") as notes:
        own = {"PATH": path, "VAGRANT_DOTFILE_PATH": notes, **environment}
        return _run(command, what, limit_s, {**os.environ, **own})


def _run(command: Sequence[str], what: str, limit_s: float, environment: Mapping[str, str]) -> str:
    process = None
    try:
        with _signals_later():
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
                env=environment,
            )
        stdout, stderr = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        assert process is not None
        said = _end(process)
        raise MachineError(f"{what} did not end within {limit_s:.0f} s and was ended{_last_lines(said)}") from None
    except BaseException:
        if process is not None:
            _end(process)
        raise
    if process.returncode:
        raise MachineError(f"{what} ended with exit code {process.returncode}{_last_lines(stderr or stdout)}")
    return stdout


@contextlib.contextmanager
def _signals_later() -> Iterator[None]:
    """Handle signals afterwards: one that comes while a program starts would leave it running, known to nobody."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    replaced = [number for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)]
    for number in replaced:
        signal.signal(number, lambda which, _: came.append(which))
    try:
        yield
    finally:
        for number in replaced:
            signal.signal(number, handlers[number])
        for which in came:
            signal.raise_signal(which)


def _end(process: "subprocess.Popen[str]") -> str:
    """End a program and all that it has started, first so that it can clean up; return what it said."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=_END_PATIENCE_S)[1]
    return ""


def _last_lines(said: str) -> str:
    lines = [line.strip() for line in said.strip().splitlines() if line.strip()]
    return f"; it said: {' | '.join(lines[-_SAID_LINES:])}" if lines else " and said nothing"
