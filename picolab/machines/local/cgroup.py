"""Memory cgroups: the kernel's way to limit a process's memory, in the forms that hosts offer.

    cgroup_v1                 a `memory` hierarchy of its own, writable (older hosts, some containers)
    cgroup_v2                 the unified hierarchy, as root
    cgroup_v2_systemd_user    the unified hierarchy without root: systemd delegates a scope to the user

Sources: the kernel's admin-guide/cgroup-v1/memory.rst and admin-guide/cgroup-v2.rst; systemd.resource-control(5).
"""

import contextlib
import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from picolab.errors import MachineError, MemoryLimitUnavailable

Method = Literal["cgroup_v1", "cgroup_v2", "cgroup_v2_systemd_user", "none"]

REMEDIES = (
    "run picolab as root, or on a host with systemd and cgroup v2 (where no root is needed), "
    "or accept an unlimited run, labelled as such, with memory_limit: none"
)


@dataclass(frozen=True)
class MemoryCgroup:
    """A cgroup of ours with a memory limit. The folder exists from `create` to `remove`."""

    method: Method
    path: Path

    @property
    def _v1(self) -> bool:
        return self.method == "cgroup_v1"

    def create(self, limit_bytes: int) -> None:
        """Make the cgroup and set its limit; no swap for it where the kernel can tell.

        Raises:
            MachineError: the kernel refused.
        """
        # An empty one is what a machine left whose state somebody has deleted.
        with contextlib.suppress(OSError):
            self.path.rmdir()
        try:
            self.path.mkdir()
        except OSError as error:
            raise MachineError(
                f"the cgroup {self.path} could not be made ({error.strerror}); "
                f"look at the processes in {self.path / 'cgroup.procs'}"
            ) from None
        try:
            if self._v1:
                self._write("memory.limit_in_bytes", limit_bytes)
                if (self.path / "memory.memsw.limit_in_bytes").exists():
                    self._write("memory.memsw.limit_in_bytes", limit_bytes)
                self._write("memory.swappiness", 0)
            else:
                self._write("memory.max", limit_bytes)
                if (self.path / "memory.swap.max").exists():
                    self._write("memory.swap.max", 0)
        except OSError as error:
            with contextlib.suppress(OSError):
                self.path.rmdir()
            raise MachineError(
                f"the memory limit of {limit_bytes >> 20} MiB could not be set in {self.path}: {error.strerror}"
            ) from None

    def lift(self) -> None:
        """Take the limit away, until `limit_again`.

        Raises:
            OSError: the kernel refused.
        """
        if not self._v1:
            self._write("memory.max", "max")
            return
        # The limit of memory and swap together may never be below that of memory.
        if (self.path / "memory.memsw.limit_in_bytes").exists():
            self._write("memory.memsw.limit_in_bytes", -1)
        self._write("memory.limit_in_bytes", -1)

    def limit_again(self, limit_bytes: int) -> bool:
        """Put the limit back, if what is left fits when the kernel has taken back page cache; nobody is killed.

        Returns:
            whether the limit holds; when it does not, trying again may help: dirty pages are written meanwhile.
        """
        try:
            if self._v1:
                self._write("memory.limit_in_bytes", limit_bytes)
                if (self.path / "memory.memsw.limit_in_bytes").exists():
                    self._write("memory.memsw.limit_in_bytes", limit_bytes)
                return True
            # Lowering memory.max below the usage would have the OOM killer make room; memory.high takes back gently.
            self._write("memory.high", limit_bytes)
            try:
                if (self._read_int("memory.current") or 0) > limit_bytes:
                    return False
                self._write("memory.max", limit_bytes)
            finally:
                self._write("memory.high", "max")
        except OSError:
            return False
        return True

    def _write(self, name: str, value: int | Literal["max"]) -> None:
        (self.path / name).write_text(f"{value}\n")

    def _read_int(self, name: str) -> int | None:
        try:
            return int((self.path / name).read_text())
        except (OSError, ValueError):
            return None

    @property
    def limit_bytes(self) -> int | None:
        """The limit as the kernel reports it."""
        return self._read_int("memory.limit_in_bytes" if self._v1 else "memory.max")

    @property
    def swap_is_off(self) -> bool:
        """True when the kernel gives this cgroup no swap, or when the host has none."""
        if self._v1:
            if self._read_int("memory.memsw.limit_in_bytes") == self.limit_bytes:
                return True
        elif self._read_int("memory.swap.max") == 0:
            return True
        return len(Path("/proc/swaps").read_text().splitlines()) <= 1

    @property
    def oom_kills(self) -> int | None:
        """Processes that the OOM killer ended in this cgroup; None when the kernel does not count them."""
        try:
            text = (self.path / ("memory.oom_control" if self._v1 else "memory.events")).read_text()
        except OSError:
            return None
        for line in text.splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
        return None

    def add(self, pid: int) -> None:
        """Move a process into the cgroup."""
        self._write("cgroup.procs", pid)

    @property
    def pids(self) -> set[int]:
        """The processes in the cgroup now; none when it is gone."""
        try:
            return {int(pid) for pid in (self.path / "cgroup.procs").read_text().split()}
        except OSError:
            return set()

    def kill_all(self) -> None:
        """SIGKILL every process in the cgroup, and no other that gets the pid of one which has just ended."""
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                watch = os.pidfd_open(pid)
                try:
                    # Whoever has the pid now is held by the pidfd; is it in here?
                    if pid in self.pids:
                        signal.pidfd_send_signal(watch, signal.SIGKILL)
                finally:
                    os.close(watch)

    def remove(self, patience_s: float = 10.0) -> None:
        """End everything in the cgroup and remove it. Nothing happens when it is already gone.

        Raises:
            MachineError: a process in it cannot be ended.
        """
        deadline = time.monotonic() + patience_s
        while self.path.exists():
            self.kill_all()
            try:
                self.path.rmdir()
            except FileNotFoundError:
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    raise MachineError(
                        f"the cgroup {self.path} cannot be removed ({error.strerror}); "
                        f"look at the processes in {self.path / 'cgroup.procs'}"
                    ) from None
                time.sleep(0.005)


def _mount_of(filesystem: str, option: str | None = None) -> Path | None:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == filesystem and (option is None or option in options.split(",")):
            return Path(where)
    return None


def _own_group(controller: str) -> str:
    """Return this process's place in a hierarchy, from /proc/self/cgroup (`controller` is empty for v2)."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if controller in controllers.split(","):
            return group.strip("/")
    return ""


def v1_parent() -> Path | None:
    """Return the folder in which a v1 memory cgroup can be made, or None."""
    mount = _mount_of("cgroup", "memory")
    if mount is None:
        return None
    own = mount / _own_group("memory")
    # Inside a container the path in /proc may lie outside of what is mounted.
    parent = own if own.is_dir() else mount
    return parent if os.access(parent, os.W_OK) and os.geteuid() == 0 else None


def v2_parent() -> Path | None:
    """Return the folder in which a v2 cgroup with the memory controller can be made as root, or None.

    Nothing is changed: where children do not have the controller yet, `plan_cgroup` switches it on.
    """
    mount = _mount_of("cgroup2")
    if mount is None or os.geteuid() != 0 or not os.access(mount, os.W_OK):
        return None
    try:
        if "memory" not in (mount / "cgroup.controllers").read_text().split():
            return None
    except OSError:
        return None
    return mount if v2_memory_is_on(mount) or _v2_memory_may_be_switched_on(mount) else None


def v2_memory_is_on(parent: Path) -> bool:
    """Return whether children of a v2 cgroup have the memory controller."""
    try:
        return "memory" in (parent / "cgroup.subtree_control").read_text().split()
    except OSError:
        return False


def _v2_memory_may_be_switched_on(parent: Path) -> bool:
    if not os.access(parent / "cgroup.subtree_control", os.W_OK):
        return False
    # Only the root of all may have processes of its own beside children with controllers; the others have a type.
    try:
        return not (parent / "cgroup.type").exists() or not (parent / "cgroup.procs").read_text().strip()
    except OSError:
        return False


def _runtime_dir() -> Path:
    return Path(f"/run/user/{os.geteuid()}")


def systemd_user_available() -> bool:
    """Return whether systemd can delegate a memory cgroup to this user without root."""
    uid = os.geteuid()
    mount = _mount_of("cgroup2")
    if uid == 0 or mount is None or shutil.which("systemd-run") is None:
        return False
    if not (_runtime_dir() / "systemd" / "private").exists():
        return False
    controllers = mount / f"user.slice/user-{uid}.slice/user@{uid}.service/cgroup.controllers"
    try:
        return "memory" in controllers.read_text().split()
    except OSError:
        return False


def in_systemd_scope(command: list[str], *options: str) -> list[str]:
    """Return the command that runs `command`, in the same process, in a scope that systemd delegates to this user.

    Args:
        options: further ones for systemd-run.
    """
    # A job of cron or `su` may have none, or another user's: then systemd-run would not find the user's manager.
    runtime_dir = f"XDG_RUNTIME_DIR={_runtime_dir()}"
    scope = ("systemd-run", "--user", "--scope", "--quiet", "--collect", "--property=Delegate=yes")
    return ["env", runtime_dir, *scope, *options, "--", *command]


def find_method() -> Method:
    """Return the best way to limit memory on this host. Nothing is changed: it only looks.

    Raises:
        MemoryLimitUnavailable: there is none; the message names the remedies.
    """
    if v1_parent() is not None:
        return "cgroup_v1"
    if v2_parent() is not None:
        return "cgroup_v2"
    if systemd_user_available():
        return "cgroup_v2_systemd_user"
    raise MemoryLimitUnavailable(f"this host offers no way to limit a process's memory: {REMEDIES}")


def plan_cgroup(method: Method, name: str) -> MemoryCgroup | None:
    """Return the cgroup of that name, not yet made; None for no limit. What it takes to make it is set up here.

    With `cgroup_v2_systemd_user` the caller must already run in the delegated scope: the caller is moved
    into a leaf of its own, because a v2 cgroup with children may hold no process itself.

    Raises:
        MemoryLimitUnavailable: the method does not work here (any more).
    """
    if method == "none":
        return None
    if method == "cgroup_v2_systemd_user":
        mount = _mount_of("cgroup2")
        assert mount is not None
        scope = mount / _own_group("")
        try:
            (scope / "keeper").mkdir(exist_ok=True)
            (scope / "keeper" / "cgroup.procs").write_text(f"{os.getpid()}\n")
            (scope / "cgroup.subtree_control").write_text("+memory\n")
        except OSError as error:
            raise MemoryLimitUnavailable(
                f"systemd did not delegate the memory controller in {scope} ({error.strerror}): {REMEDIES}"
            ) from None
        return MemoryCgroup(method, scope / name)
    parent = v1_parent() if method == "cgroup_v1" else v2_parent()
    if parent is None:
        raise MemoryLimitUnavailable(f"{method} does not work on this host (any more): {REMEDIES}")
    if method == "cgroup_v2" and not v2_memory_is_on(parent):
        try:
            (parent / "cgroup.subtree_control").write_text("+memory\n")
        except OSError as error:
            raise MemoryLimitUnavailable(
                f"the memory controller could not be switched on in {parent} ({error.strerror}): {REMEDIES}"
            ) from None
    return MemoryCgroup(method, parent / name)
