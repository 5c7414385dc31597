"""The requests that the agent answers."""

# ruff: noqa: PTH108, PTH110, PTH112, PTH113
# ruff: noqa: PTH116, PTH117, PTH119, PTH120, PTH123

from __future__ import annotations

import json
import os
import re
import sys
import time

from picolab.agent.home import Home, has_systemd, program
from picolab.agent.kernel_log import oom_kills
from picolab.agent.procfs import (
    TICKS_PER_S,
    anonymous_bytes,
    boot_id,
    descendants,
    listening_sockets,
    mounted_at,
    read_text,
    sockets_of,
)
from picolab.agent.refusal import Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from picolab.agent.launch import Launch
    from picolab.agent.launcher import Launcher


STATUS_OF_NOTHING: dict[str, Any] = dict.fromkeys(
    (
        "pid",
        "exit_code",
        "exit_signal",
        "started_monotonic_s",
        "ended_monotonic_s",
        "stop_s",
        "oom_kills",
        "oom_evidence",
        "launcher",
    )
)

RESET_GRACE_S = 5.0

NAME_OF_A_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def _running(launch: Launch) -> str:
    server = launch.server
    return f"a server is already running in this guest (pid {server.pid if server else None})"


class Agent:
    """The requests that the agent answers; it holds no state but paths.

    Args:
        home: folder for everything; made if it does not exist.
        user: who the server runs as; must be the caller's own name unless that is root.

    Raises:
        Refusal: there is no such user, or the agent may not act for it.
    """

    def __init__(self, home: str, user: str) -> None:
        self.home = Home(home, user)
        self._launcher: Launcher | None = None
        self.requests: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "clock": self.clock,
            "set_clock": self.set_clock,
            "facts": self.facts,
            "fresh_folders": self.fresh_folders,
            "free_port": self.free_port,
            "listener": self.listener,
            "launch": self.launch,
            "status": self.status,
            "stop": self.stop,
            "anon_bytes": self.anon_bytes,
            "log": self.log,
            "whole_log": self.whole_log,
            "is_installed": self.is_installed,
            "drop_page_cache": self.drop_page_cache,
            "sync_data": self.sync_data,
            "space": self.space,
            "reset": self.reset,
        }

    @property
    def launcher(self) -> Launcher:
        # Late, so that the first answer does not wait for it.
        from picolab.agent.launcher import Launcher

        if self._launcher is None:
            self._launcher = Launcher(self.home)
        return self._launcher

    def answer(self, line: bytes) -> dict[str, Any]:
        """Return the answer to one line of standard input. Raises nothing."""
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise Refusal("the agent takes JSON objects only")
            do = request.get("do")
            act = self.requests.get(do) if isinstance(do, str) else None
            if act is None:
                raise Refusal(f"the agent knows no request {do!r}; it knows {', '.join(self.requests)}")
            return {"ok": True, **act(request)}
        except KeyError as error:
            return {"ok": False, "error": f"the request lacks {error}"}
        except Exception as error:
            return {"ok": False, "error": str(error) or type(error).__name__}

    def clock(self, _request: dict[str, Any]) -> dict[str, Any]:
        """Return the guest's clock now."""
        return {"monotonic_s": time.monotonic()}

    def set_clock(self, request: dict[str, Any]) -> dict[str, Any]:
        """Set the wall clock, which is late by its age in a guest whose snapshot was restored."""
        wall_s = float(request["wall_s"])
        moved_s = wall_s - time.time()
        try:
            time.clock_settime(time.CLOCK_REALTIME, wall_s)
        except OSError as error:
            raise Refusal(f"the guest's clock could not be set to {wall_s} ({error.strerror}); it needs root") from None
        return {"moved_s": moved_s}

    def facts(self, _request: dict[str, Any]) -> dict[str, Any]:
        """Return what the guest is, and what it has left now."""
        meminfo = dict(re.findall(r"^(\S+):\s+(\d+) kB$", read_text("/proc/meminfo") or "", re.MULTILINE))
        sizes = {name: int(kib) * 1024 for name, kib in meminfo.items()}
        system = re.search(r'^PRETTY_NAME="?(.*?)"?$', read_text("/etc/os-release") or "", re.MULTILINE)
        space = os.statvfs(self.home.path)
        return {
            "kernel": os.uname().release,
            "operating_system": system[1] if system else None,
            "boot_id": boot_id(),
            "cpu_count": os.cpu_count(),
            "ram_bytes": sizes.get("MemTotal"),
            "mem_available_bytes": sizes.get("MemAvailable"),
            "swap_total_bytes": sizes.get("SwapTotal"),
            "swap_free_bytes": sizes.get("SwapFree"),
            "free_disk_bytes": space.f_bavail * space.f_frsize,
            **self._disk(),
            "screen": program("screen") is not None,
            "systemd": has_systemd(),
            "python": sys.version.split()[0],
        }

    def _disk(self) -> dict[str, Any]:
        device_number = os.stat(self.home.path).st_dev
        file_system, source = mounted_at(self.home.path)
        device = rotational = None
        place = f"/sys/dev/block/{os.major(device_number)}:{os.minor(device_number)}"
        if not os.path.exists(place) and source is not None and os.path.exists(source):
            # A subvolume of btrfs has a number of its own that is no device's.
            device_number = os.stat(source).st_rdev
            place = f"/sys/dev/block/{os.major(device_number)}:{os.minor(device_number)}"
        if os.path.exists(place):
            place = os.path.realpath(place)
            device = os.path.basename(place)
            kinds = (read_text(f"{folder}/queue/rotational") for folder in (place, os.path.dirname(place)))
            rotational = next((kind.strip() == "1" for kind in kinds if kind is not None), None)
        return {"file_system": file_system, "disk_device": device, "disk_rotational": rotational}

    def fresh_folders(self, _request: dict[str, Any]) -> dict[str, Any]:
        """Empty the server's folders, or make them."""
        with self.home.lock():
            launch = self.launcher.current()
            if launch is not None and launch.server_runs:
                raise Refusal(f"the folders are in use: {_running(launch)}; stop it first")
            return {name: self.home.make_empty(name) for name in ("data", "tmp")}

    def free_port(self, _request: dict[str, Any]) -> dict[str, Any]:
        """Return a port that nobody has on any address of the guest."""
        import socket

        family, address = (socket.AF_INET6, "::") if os.path.exists("/proc/net/tcp6") else (socket.AF_INET, "")
        with socket.socket(family) as probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            probe.bind((address, 0))
            return {"port": probe.getsockname()[1]}

    def listener(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return who listens on a port."""
        sockets = listening_sockets(int(request["port"]))
        if not sockets:
            return {"listener": "nobody"}
        launch = self.launcher.current()
        server = launch.server if launch is not None else None
        if server is not None and server.alive:
            for pid in (server.pid, *descendants(server.pid)):
                if sockets.keys() & sockets_of(pid):
                    return {"listener": "server"}
        return {"listener": "other"}

    def status(self, _request: dict[str, Any]) -> dict[str, Any]:
        """Return how the server of the last launch is."""
        from picolab.agent.launch import on_monotonic

        launch = self.launcher.current()
        if launch is None:
            return {**STATUS_OF_NOTHING, "running": False}
        server = launch.server
        running = server is not None and server.alive
        if server is not None and not running:
            launch.await_note()
        stopped = json.loads((read_text(f"{launch.folder}/stopped") or "").strip() or "{}")
        exit_code, exit_signal = launch.exit()
        before, now = launch.note["oom_kills"], oom_kills()
        return {
            "pid": server.pid if server else None,
            "running": running,
            "exit_code": exit_code,
            "exit_signal": exit_signal,
            "started_monotonic_s": on_monotonic(server.start_ticks / TICKS_PER_S) if server else None,
            "ended_monotonic_s": launch.end[1] if launch.end else stopped.get("ended_monotonic_s"),
            "stop_s": stopped.get("stop_s"),
            "oom_kills": None if before is None or now is None else now - before,
            "oom_evidence": None if running else launch.oom_evidence(),
            "launcher": launch.launcher,
        }

    def launch(self, request: dict[str, Any]) -> dict[str, Any]:
        """Start the server, detached from this agent, and return when its process is known."""
        argv, environment = self._checked(request["argv"], request["env"])
        launcher = self.launcher.choose(request.get("launcher"))
        with self.home.lock():
            old = self.launcher.current()
            if old is not None and old.server_runs:
                raise Refusal(f"{_running(old)}; stop it first")
            self.launcher.forget()
            launch = self.launcher.prepare(argv, environment, launcher)
            try:
                self.launcher.begin(launch)
            except BaseException:
                self.launcher.forget()
                raise
        return self.status({})

    def _checked(self, argv: Any, environment: Any) -> tuple[list[str], dict[str, str]]:
        if not isinstance(argv, list) or not argv or not all(isinstance(word, str) for word in argv):
            raise Refusal("argv must be a list of words, the first of them the path of the server")
        if not isinstance(environment, dict) or not all(isinstance(value, str) for value in environment.values()):
            raise Refusal("env must be an object of words")
        for name in environment:
            if not NAME_OF_A_VARIABLE.match(name):
                raise Refusal(f"env: {name!r} cannot be the name of a variable")
        if any("\0" in word for word in (*argv, *environment.values())):
            raise Refusal("argv and env may not hold a NUL character")
        if not os.path.isabs(argv[0]) or not os.path.isfile(argv[0]):
            raise Refusal(f"there is no server at {argv[0]}")
        if not os.access(argv[0], os.X_OK):
            raise Refusal(f"the server {argv[0]} is not executable")
        return argv, environment

    def stop(self, request: dict[str, Any]) -> dict[str, Any]:
        """End the server and whatever ran it."""
        grace_s = float(request["grace_s"])
        with self.home.lock():
            launch = self.launcher.current()
            if launch is not None:
                self.launcher.stop(launch, grace_s)
        return self.status({})

    def anon_bytes(self, _request: dict[str, Any]) -> dict[str, Any]:
        """Return the anonymous memory of the server and of what it has started."""
        launch = self.launcher.current()
        server = launch.server if launch is not None else None
        alive = server is not None and server.alive
        return {"anon_bytes": anonymous_bytes([server.pid, *descendants(server.pid)]) if server and alive else None}

    def log(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the end of the server's log."""
        size = int(request["bytes"])
        try:
            with open(f"{self.home.path}/server.log", "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - size))
                return {"text": file.read().decode("utf-8", "replace")}
        except FileNotFoundError:
            return {"text": ""}

    def whole_log(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the size of the server's log, and its bytes in base64 where they are no more than the limit."""
        import base64

        try:
            with open(f"{self.home.path}/server.log", "rb") as file:
                size = os.fstat(file.fileno()).st_size
                whole = file.read(size) if size <= int(request["limit_bytes"]) else None
        except FileNotFoundError:
            return {"size_bytes": None, "base64": None}
        return {"size_bytes": size, "base64": None if whole is None else base64.b64encode(whole).decode()}

    def is_installed(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return whether a build is in the guest."""
        return {"installed": os.path.isfile(request["path"]) and os.access(request["path"], os.X_OK)}

    def drop_page_cache(self, _request: dict[str, Any]) -> dict[str, Any]:
        """Drop the guest's page cache."""
        from picolab.agent.disk import drop_page_cache

        return {"reason": drop_page_cache(f"{self.home.path}/data")}

    def sync_data(self, _request: dict[str, Any]) -> dict[str, Any]:
        """Put what the server has written on the disk."""
        from picolab.agent.disk import sync_folder

        return {"sync_s": sync_folder(f"{self.home.path}/data")}

    def space(self, _request: dict[str, Any]) -> dict[str, Any]:
        """Return the disk space of the server's files."""
        from picolab.agent.disk import space_of

        try:
            return {"files_bytes": space_of([f"{self.home.path}/data", f"{self.home.path}/tmp"])}
        except OSError as error:
            raise Refusal(f"the server's files could not be counted ({error.strerror}: {error.filename})") from None

    def reset(self, request: dict[str, Any]) -> dict[str, Any]:
        """Bring the guest back to the state before its first server, as far as that goes without a reboot."""
        from picolab.agent.disk import trim, write_drop_caches

        with self.home.lock():
            self.launcher.forget(RESET_GRACE_S)
            for name in ("data", "tmp"):
                if os.path.isdir(f"{self.home.path}/{name}"):
                    self.home.make_empty(name)
            if os.path.exists(f"{self.home.path}/server.log"):
                os.unlink(f"{self.home.path}/server.log")
            os.sync()
            trim(self.home.path)
            write_drop_caches()
        return self.facts(request)
