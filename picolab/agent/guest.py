#!/usr/bin/env python3
"""The agent in a guest: starts the server there, watches it, and says how it is.

One file without any import from picolab, for Python >= 3.9, so that it can be copied into a guest and run there:

    guest.py --home FOLDER --user NAME

It reads one JSON object a line from standard input and answers each with one JSON object a line, {"ok": true, ...}
or {"ok": false, "error": "a sentence"}. It ends when standard input is closed. It keeps nothing in its head: the
server runs on without it, and whatever agent comes next finds the server through the files in FOLDER. Times are
seconds of the guest's CLOCK_MONOTONIC, sizes are bytes.

    {"do": "clock"}                                  -> monotonic_s
    {"do": "set_clock", "wall_s": float}             -> moved_s, by how much the wall clock was wrong
    {"do": "facts"}                                  -> what the guest is and has left, see `Agent.facts`
    {"do": "fresh_folders"}                          -> data, tmp: paths of empty folders
    {"do": "free_port"}                              -> port
    {"do": "listener", "port": int}                  -> listener: "nobody" | "server" | "other"
    {"do": "launch", "argv": [...], "env": {...}, "launcher": "screen" | "systemd" | null}    -> status
    {"do": "status"}                                 -> status
    {"do": "stop", "grace_s": float}                 -> status
    {"do": "anon_bytes"}                             -> anon_bytes of the server now
    {"do": "log", "bytes": int}                      -> text: the end of what this server has printed
    {"do": "drop_page_cache"}                        -> reason: null when it is dropped, else a sentence
    {"do": "sync_data"}                              -> sync_s, until the files of the server were on the disk
    {"do": "reset"}                                  -> facts, after everything of the last server was removed

status: pid, running, exit_code, exit_signal, started_monotonic_s, ended_monotonic_s, stop_s, oom_kills,
oom_evidence, launcher; each null when it is not known or has not happened. `oom_kills` is by how much the kernel's
count has grown since the launch, `oom_evidence` the line of the kernel's log that names the server.

A shell runs the server and notes how it ended. To a shell an exit code above 128 looks like a signal; they are told
apart by what it prints about a signal, which it does not do for SIGINT, SIGPIPE and SIGTERM: exit codes 130, 141 and
143 count as these.

Files in FOLDER:

    data/, tmp/      the server's folders
    server.log       what the server prints
    launch.json      which launch is the last one
    launch-XXXXXXXX/ what the wrapper notes: wrapper and pid (lines of /proc/PID/stat), exit; from an agent: stopped

The local machine uses `drop_page_cache` and `sync_folder` as well, so that both kinds of machine do the same.

Sources: proc(5) for stat, status, vmstat and net; the kernel's admin-guide/sysctl/vm.rst for drop_caches; mincore(2);
fsync(2); the kernel's ABI/testing/dev-kmsg; screen(1); systemd-run(1).
"""

# It is light on purpose, because a guest may have 128 MB in all: no pathlib, no subprocess, and rare imports are late.
# ruff: noqa: PTH100, PTH102, PTH103, PTH105, PTH106, PTH108, PTH110, PTH112, PTH113, PTH114, PTH115
# ruff: noqa: PTH116, PTH117, PTH119, PTH120, PTH123, PTH208

from __future__ import annotations

import json
import os
import re
import select
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

LAUNCHERS = ("screen", "systemd")
"""What may run the server, the best first: with screen a person can look at the server's output live."""

SESSION = "picoshare"
"""Name of the screen session: `screen -r picoshare` as the user shows the server's output."""

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

LAUNCH_LIMIT_S = 60.0
END_LIMIT_S = 30.0
NOTE_LIMIT_S = 5.0
RESET_GRACE_S = 5.0
POLL_S = 0.005
MIB = 1 << 20
CACHED_SHARE = 0.01
"""What may stay in the page cache of a server's files: the server maps a little of them, and goes on running."""
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
TCP_LISTEN = "0A"
PROGRAM_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
NAME_OF_A_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
SILENT_SIGNALS = (signal.SIGINT, signal.SIGPIPE, signal.SIGTERM)
"""A shell says nothing when one of these ended what it ran."""

WRAPPER = """\
# Runs the server and notes its pid and how it ended. $1: the folder of this launch, $2: the server's log.
# Its environment was empty, so the server has no more than `start` gives it.
cd "$1" || exit
# `said` and `exit` hold blanks that are overwritten: a server that has filled the disk cannot keep them from being
# written. What goes to `said` is what the shell says when a signal ends the server.
exec 2<>said
# What ends a session or comes from a keyboard is not for the wrapper: it notes the end in any case.
trap : HUP INT QUIT TERM
PATH={path}
read -r own </proc/$$/stat
read -r parent </proc/$PPID/stat
printf '%s\\n' "$own" "$parent" >wrapper
if [ -t 1 ]; then tail -n +1 -f --pid=$$ "$2" 2>/dev/null & fi
# It holds the secret: it is gone before the server starts.
exec 3<start
rm start
(. /proc/self/fd/3)
code=$?
read -r uptime idle </proc/uptime
# What the server has started ends with it. Its number means nobody else as long as one of them is there.
read -r pid rest <pid && kill -s KILL -- "-$pid" 2>/dev/null
printf '%s %s\\n' "$code" "$uptime" 1<>exit
"""


class Refusal(Exception):
    """A request that cannot be met; the text is the sentence of the answer."""


def read_text(path: str) -> str | None:
    """Return what is in a file, or None when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None


def write_text(path: str, text: str) -> None:
    """Write a private file so that a reader sees either all of it or what was there before."""
    descriptor = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(os.fsencode(text))
    os.replace(f"{path}.new", path)


def boot_id() -> str:
    """Return the kernel's id of this boot: pids and times mean nothing beyond it."""
    return (read_text("/proc/sys/kernel/random/boot_id") or "").strip()


def program(name: str) -> str | None:
    """Return the path of a program, or None when the guest does not have it."""
    paths = (f"{folder}/{name}" for folder in PROGRAM_FOLDERS)
    return next((path for path in paths if os.access(path, os.X_OK)), None)


def remove_tree(folder: str) -> None:
    """Remove a folder if it is there; a link to a folder is removed and not followed."""
    for parent, folders, files in os.walk(folder, topdown=False):
        for name in files:
            os.unlink(f"{parent}/{name}")
        for name in folders:
            path = f"{parent}/{name}"
            (os.unlink if os.path.islink(path) else os.rmdir)(path)
    if os.path.isdir(folder):
        os.rmdir(folder)


def files_in(folder: str) -> Iterator[str]:
    """Return the paths of the regular files below a folder. Raises OSError if it is not there or cannot be read."""

    def fail(error: OSError) -> None:
        if error.filename == folder or not isinstance(error, FileNotFoundError):
            raise error

    for parent, _, files in os.walk(folder, onerror=fail):
        for name in files:
            path = f"{parent}/{name}"
            if os.path.isfile(path) and not os.path.islink(path):
                yield path


def sync_path(path: str) -> None:
    """Wait until a file, or a folder's list of names, is on the disk; nothing happens if it has just been removed."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: str) -> float:
    """Put what lies in a folder on the disk: fsync of every file and of every folder. Return the seconds it took.

    Not syncfs: that waits for whatever any program has written to the file system. On ext4, 16 MiB took 9 ms with
    fsync, alone or beside 512 MiB of another program's dirty pages, for which syncfs took 300 ms more. What fsync
    shares with others is the file system's journal.

    Raises:
        Refusal: a file or folder cannot be read, or the disk has failed.
    """
    begun = time.monotonic()
    try:
        for path in files_in(folder):
            sync_path(path)
        for parent, _, _ in os.walk(folder, topdown=False):
            sync_path(parent)
    except OSError as error:
        why = f"{error.strerror}: {error.filename or folder}"
        raise Refusal(f"what the server has written could not be brought to the disk ({why})") from None
    return time.monotonic() - begun


def cached_and_size(path: str) -> tuple[int, int]:
    """Return the bytes of a file that are in the page cache (whole pages), and its size; nothing of it is read.

    Both are 0 for a file that has just been removed. Raises OSError.
    """
    import ctypes
    import mmap

    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return 0, 0
    try:
        size = ctypes.c_size_t(os.fstat(descriptor).st_size)
        if not size.value:
            return 0, 0
        place = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, ctypes.c_long(0))
        if place == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), "mmap failed", path)
    finally:
        os.close(descriptor)
    pages = ctypes.create_string_buffer(-(-size.value // mmap.PAGESIZE))
    failed = libc.mincore(ctypes.c_void_p(place), size, pages)
    error = ctypes.get_errno()
    libc.munmap(ctypes.c_void_p(place), size)
    if failed:
        raise OSError(error, "mincore failed", path)
    return sum(page & 1 for page in pages.raw) * mmap.PAGESIZE, size.value


def write_drop_caches() -> None:
    """Have the kernel drop the page cache, directory entries and inodes. Raises Refusal if this user may not."""
    # Dirty pages cannot be dropped.
    os.sync()
    try:
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
            file.write("3")
    except OSError as error:
        raise Refusal(f"the page cache could not be dropped ({error.strerror}); it needs root") from None


def drop_page_cache(folder: str) -> str | None:
    """Drop the page cache and look whether the files below a folder are out of it.

    Returns:
        None when they are, but for CACHED_SHARE of them or 1 MiB; else a sentence that says why not.
    """
    try:
        write_drop_caches()
        found = [cached_and_size(path) for path in files_in(folder)]
    except Refusal as refusal:
        return str(refusal)
    except (OSError, ImportError) as error:
        return f"whether the page cache was dropped could not be found out ({error})"
    cached, size = sum(one[0] for one in found), sum(one[1] for one in found)
    if cached > max(MIB, CACHED_SHARE * size):
        return (
            f"{cached / MIB:.0f} of {size / MIB:.0f} MiB of the server's files stayed in the page cache; "
            f"they are in use, or {folder} does not lie on a disk"
        )
    return None


def quoted(word: str) -> str:
    """Return a word for a shell."""
    return "'" + word.replace("'", "'\\''") + "'"


def on_monotonic(since_boot_s: float) -> float:
    """Return a time that the kernel counts since boot, sleep included, on CLOCK_MONOTONIC. It is good to 10 ms."""
    return round(since_boot_s - (time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()), 3)


def until(condition: Callable[[], object], limit_s: float) -> bool:
    """Wait until a condition is true, at most `limit_s` seconds; tell whether it is."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


class Process:
    """One process, not just a pid: pids are used again, start times are not."""

    def __init__(self, stat: str) -> None:
        """Take a line of /proc/PID/stat. Raises ValueError if it is none."""
        # The command's name is in parentheses and may hold blanks.
        fields = stat.rpartition(")")[2].split()
        self.pid = int(stat.partition(" ")[0])
        try:
            self.state, self.parent, self.start_ticks = fields[0], int(fields[1]), int(fields[19])
        except IndexError:
            raise ValueError(stat) from None

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """Return the process that has this pid now, or None when there is none; a zombie counts as none."""
        text = read_text(f"/proc/{pid}/stat")
        found = cls(text) if text else None
        return None if found is None or found.state in "ZX" else found

    @classmethod
    def all(cls) -> Iterator[Process]:
        """Return all processes of the guest."""
        for name in os.listdir("/proc"):
            found = cls.of(int(name)) if name.isdigit() else None
            if found is not None:
                yield found

    @property
    def alive(self) -> bool:
        now = Process.of(self.pid)
        return now is not None and now.start_ticks == self.start_ticks

    @property
    def command_line(self) -> bytes:
        try:
            with open(f"/proc/{self.pid}/cmdline", "rb") as file:
                return file.read()
        except OSError:
            return b""

    def signal(self, number: int) -> None:
        """Send a signal if the process is still this one."""
        try:
            watch = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        except OSError:  # a kernel before 5.3
            if self.alive:
                os.kill(self.pid, number)
            return
        try:
            # Whoever has the pid now is held by the pidfd.
            if self.alive:
                signal.pidfd_send_signal(watch, number)
        except ProcessLookupError:
            return
        finally:
            os.close(watch)

    def wait(self, limit_s: float) -> bool:
        """Wait until it is gone, at most `limit_s` seconds; tell whether it is."""
        try:
            watch = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        except OSError:  # a kernel before 5.3
            return until(lambda: not self.alive, limit_s)
        try:
            return not self.alive or bool(select.select([watch], [], [], limit_s)[0])
        finally:
            os.close(watch)


def kill_group(leader: int) -> None:
    """SIGKILL what a process that has just ended left of its group."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return


def descendants(pid: int) -> list[int]:
    """Return the pids of the processes that descend from one."""
    children: dict[int, list[int]] = {}
    for process in Process.all():
        children.setdefault(process.parent, []).append(process.pid)
    found: list[int] = []
    queue = [pid]
    while queue:
        next_ones = children.get(queue.pop(), [])
        found += next_ones
        queue += next_ones
    return found


def anonymous_bytes(pids: list[int]) -> int | None:
    """Return the anonymous memory of some processes together; None when the kernel shows it of none."""
    texts = (read_text(f"/proc/{pid}/status") or "" for pid in pids)
    found = [re.search(r"^RssAnon:\s+(\d+) kB$", text, re.MULTILINE) for text in texts]
    amounts = [int(match[1]) * 1024 for match in found if match]
    return sum(amounts) if amounts else None


def listening_sockets(port: int) -> set[str]:
    """Return the inodes of the sockets that listen on a TCP port of any address."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in (read_text(table) or "").splitlines()[1:]:
            fields = line.split()
            if fields[3] == TCP_LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(fields[9])
    return inodes


def sockets_of(pid: int) -> set[str]:
    """Return the inodes of a process's sockets; none when it is gone or another user's."""
    inodes = set()
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return set()
    for descriptor in descriptors:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[len("socket:[") : -1])
    return inodes


def mounted_at(folder: str) -> tuple[str | None, str | None]:
    """Return the file system that a folder lies on, and what was mounted there; None when the kernel does not say."""
    descriptor = os.open(folder, os.O_PATH)
    try:
        found = re.search(r"^mnt_id:\s*(\d+)$", read_text(f"/proc/self/fdinfo/{descriptor}") or "", re.MULTILINE)
    finally:
        os.close(descriptor)
    for line in (read_text("/proc/self/mountinfo") or "").split("\n"):
        words = line.split(" ")
        if found and words[0] == found[1] and "-" in words[6:]:
            file_system, source = words[words.index("-", 6) + 1 :][:2]
            return file_system, source
    return None, None


def oom_kills() -> int | None:
    """Return how many processes the kernel has killed for want of memory since boot; None before Linux 4.13."""
    found = re.search(r"^oom_kill (\d+)$", read_text("/proc/vmstat") or "", re.MULTILINE)
    return int(found[1]) if found else None


def kernel_log() -> Iterator[tuple[int, str]]:
    """Return (number, line) for all lines of the kernel's log that are still there; none when it may not be read."""
    try:
        log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return
    try:
        while True:
            try:
                record = os.read(log, 8192)
            except BrokenPipeError:  # the kernel has just overwritten this one
                continue
            except OSError:
                return
            head, _, rest = record.decode("utf-8", "replace").partition(";")
            yield int(head.split(",")[1]), rest.partition("\n")[0]
    finally:
        os.close(log)


def protect_the_instrument() -> None:
    """Keep the kernel's OOM killer off the agent and off the ssh session that it is spoken to through.

    The server shall be what it takes, for its memory is what is measured. Only root may do so; without that it is
    left as it is.
    """
    process: Process | None = Process.of(os.getpid())
    name = "agent"
    while process is not None and process.pid > 1:
        if name in ("agent", "sudo", "sshd", "sshd-session"):
            set_oom_score(process.pid, -1000)
        elif name not in ("sh", "dash", "bash"):
            return
        process = Process.of(process.parent)
        name = (read_text(f"/proc/{process.pid}/comm") or "").strip() if process else ""


def set_oom_score(pid: int, score: int) -> None:
    """Set how readily the OOM killer takes a process (-1000: never), if this user may."""
    try:
        with open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(score))
    except OSError:
        return


class Launch:
    """The last launch of a server: which it was, and what is known of its processes.

    Args:
        told: the contents of launch.json.
    """

    def __init__(self, told: dict[str, Any]) -> None:
        self.told = told
        self.folder: str = told["folder"]
        self.launcher: str = told["launcher"]

    def _processes(self, name: str) -> list[Process]:
        text = read_text(f"{self.folder}/{name}") or ""
        return [Process(line) for line in text.splitlines()] if text.endswith("\n") else []

    @property
    def server(self) -> Process | None:
        """The server, alive or not; None when it has not been started yet."""
        return next(iter(self._processes("pid")), None)

    @property
    def wrapper(self) -> Process | None:
        return next(iter(self._processes("wrapper")), None)

    @property
    def screen(self) -> Process | None:
        """The screen session, alive or not."""
        found = self._processes("wrapper")
        return found[1] if self.launcher == "screen" and len(found) > 1 else None

    @property
    def wrapper_is_alive(self) -> bool:
        wrapper = self.wrapper
        return wrapper is not None and wrapper.alive

    @property
    def server_runs(self) -> bool:
        server = self.server
        return server is not None and server.alive

    @property
    def end(self) -> tuple[int, float] | None:
        """What the wrapper noted at the server's end: the shell's exit code, and when it was on CLOCK_MONOTONIC."""
        text = read_text(f"{self.folder}/exit") or ""
        words = text.partition("\n")[0].split()
        return (int(words[0]), on_monotonic(float(words[1]))) if len(words) == 2 else None

    @property
    def said(self) -> str:
        """What the wrapper's shell said."""
        return (read_text(f"{self.folder}/said") or "").strip()

    def exit(self) -> tuple[int | None, str | None]:
        """Return (exit code, name of the signal) of a server that has ended; one of them, or none, is known."""
        if self.end is None:
            return None, None
        code = self.end[0]
        number = code - 128
        if number <= 0 or not (self.said or number in SILENT_SIGNALS):
            return code, None
        try:
            return None, signal.Signals(number).name
        except ValueError:  # a real-time signal
            return None, f"SIG{number}"

    def await_note(self) -> None:
        """Give the wrapper of a server that has ended the moment that it takes to note so."""
        until(lambda: self.end is not None or not self.wrapper_is_alive, NOTE_LIMIT_S)

    def oom_evidence(self) -> str | None:
        """Return the line of the kernel's log that says that it killed the server, or None when there is none."""
        server = self.server
        if server is None:
            return None
        killed = re.compile(rf"\bKilled process {server.pid}\b")
        since = self.told["kernel_log_number"]
        lines = (line for number, line in kernel_log() if number > since and killed.search(line))
        return next(lines, None)


class Agent:
    """What the agent does; it holds no state but where things are.

    Args:
        home: folder for everything; made if it is not there.
        user: who the server runs as; must be the caller's own name unless that is root.

    Raises:
        Refusal: there is no such user, or the agent may not act for it.
    """

    def __init__(self, home: str, user: str) -> None:
        import pwd

        self.home = os.path.abspath(home)
        try:
            self.account = pwd.getpwnam(user)
        except KeyError:
            raise Refusal(f"--user {user}: there is no such user") from None
        if os.geteuid() not in (0, self.account.pw_uid):
            raise Refusal(f"--user {user}: only root may run a server as another user; run the agent with sudo")
        if not os.path.isdir(self.home):
            os.makedirs(self.home, 0o755)
            self._give(self.home)
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
            "drop_page_cache": self.drop_page_cache,
            "sync_data": self.sync_data,
            "reset": self.reset,
        }

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

    # The guest

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
        space = os.statvfs(self.home)
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
            "systemd": self._has_systemd(),
            "python": sys.version.split()[0],
        }

    def _disk(self) -> dict[str, Any]:
        device_number = os.stat(self.home).st_dev
        file_system, source = mounted_at(self.home)
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

    def _has_systemd(self) -> bool:
        return os.path.isdir("/run/systemd/system") and program("systemd-run") is not None

    def _give(self, path: str) -> None:
        """Make the user the owner of a path."""
        if os.geteuid() == 0:
            os.chown(path, self.account.pw_uid, self.account.pw_gid)

    def _file(self, path: str, text: str = "") -> str:
        write_text(path, text)
        self._give(path)
        return path

    def _lock(self) -> Any:
        """Return a file that holds a lock until it is closed: an agent that was left behind may still be at work."""
        import fcntl

        lock = open(f"{self.home}/lock", "w", encoding="ascii")  # noqa: SIM115
        fcntl.flock(lock, fcntl.LOCK_EX)
        return lock

    def fresh_folders(self, _request: dict[str, Any]) -> dict[str, Any]:
        """Empty the server's folders, or make them."""
        with self._lock():
            launch = self._launch()
            if launch is not None and launch.server_runs:
                raise Refusal(f"the folders are in use: {self._running(launch)}; stop it first")
            folders = {name: f"{self.home}/{name}" for name in ("data", "tmp")}
            for folder in folders.values():
                remove_tree(folder)
                os.mkdir(folder, 0o700)
                self._give(folder)
            return folders

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
        """Tell who listens on a port."""
        sockets = listening_sockets(int(request["port"]))
        if not sockets:
            return {"listener": "nobody"}
        launch = self._launch()
        server = launch.server if launch is not None else None
        if server is not None and server.alive:
            for pid in (server.pid, *descendants(server.pid)):
                if sockets & sockets_of(pid):
                    return {"listener": "server"}
        return {"listener": "other"}

    # The server

    def _launch(self) -> Launch | None:
        """Return the last launch, or None when there was none since the guest booted."""
        text = read_text(f"{self.home}/launch.json")
        launch = Launch(json.loads(text)) if text else None
        return launch if launch is not None and launch.told["boot_id"] == boot_id() else None

    @staticmethod
    def _running(launch: Launch) -> str:
        server = launch.server
        return f"a server is already running in this guest (pid {server.pid if server else None})"

    def status(self, _request: dict[str, Any]) -> dict[str, Any]:
        """Return how the server of the last launch is."""
        launch = self._launch()
        if launch is None:
            return {**STATUS_OF_NOTHING, "running": False}
        server = launch.server
        running = server is not None and server.alive
        if server is not None and not running:
            launch.await_note()
        stopped = json.loads(read_text(f"{launch.folder}/stopped") or "{}")
        exit_code, exit_signal = launch.exit()
        before, now = launch.told["oom_kills"], oom_kills()
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
        launcher = self._launcher(request.get("launcher"))
        with self._lock():
            old = self._launch()
            if old is not None and old.server_runs:
                raise Refusal(f"{self._running(old)}; stop it first")
            self._forget()
            launch = self._prepare(argv, environment, launcher)
            try:
                self._begin(launch)
            except BaseException:
                self._forget()
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

    def _launcher(self, wanted: Any) -> str:
        has = {"screen": program("screen") is not None, "systemd": self._has_systemd() and os.geteuid() == 0}
        if wanted is None:
            found = next((name for name in LAUNCHERS if has[name]), None)
            if found is None:
                raise Refusal("the guest has neither screen nor systemd to run a server with; install screen")
            return found
        if wanted not in LAUNCHERS:
            raise Refusal(f"launcher {wanted!r} must be one of {', '.join(LAUNCHERS)}, or null")
        if not has[wanted]:
            raise Refusal(f"the guest has no {wanted} to run a server with")
        return str(wanted)

    def _prepare(self, argv: list[str], environment: dict[str, str], launcher: str) -> Launch:
        """Write the files of a new launch."""
        mark = os.urandom(4).hex()
        folder = f"{self.home}/launch-{mark}"
        log = f"{self.home}/server.log"
        setsid = program("setsid")
        if setsid is None:
            raise Refusal("the guest has no setsid to detach a server with; install util-linux")
        os.mkdir(folder, 0o700)
        self._give(folder)
        for name in ("said", "exit"):
            self._file(f"{folder}/{name}", " " * 200)
        self._file(f"{folder}/wrapper.sh", WRAPPER.format(path=":".join(PROGRAM_FOLDERS)))
        lines = [
            # In a session of its own: nothing that happens to the wrapper's terminal reaches the server.
            "read -r picolab_stat </proc/self/stat",
            "printf '%s\\n' \"$picolab_stat\" >pid",
            f"cd {quoted(self.home)}",
            "unset PWD OLDPWD SHLVL",
            *(f"export {name}={quoted(value)}" for name, value in environment.items()),
            f"exec {setsid} {' '.join(map(quoted, argv))} </dev/null >>{quoted(log)} 2>&1 3<&-",
        ]
        self._file(f"{folder}/start", "\n".join(lines) + "\n")
        self._file(log)
        told = {
            "folder": folder,
            "launcher": launcher,
            "unit": f"picolab-server-{mark}" if self._has_systemd() and os.geteuid() == 0 else None,
            "boot_id": boot_id(),
            "oom_kills": oom_kills(),
            "kernel_log_number": max((number for number, _ in kernel_log()), default=-1),
        }
        write_text(f"{self.home}/launch.json", json.dumps(told))
        return Launch(told)

    def _begin(self, launch: Launch) -> None:
        """Have the launcher run the wrapper; return when the server runs or has already ended."""
        wrapper = ["/usr/bin/env", "-i", "/bin/sh", f"{launch.folder}/wrapper.sh", launch.folder]
        wrapper.append(f"{self.home}/server.log")
        command = [*self._screen("-dmS", SESSION), *wrapper] if launch.launcher == "screen" else wrapper
        unit = launch.told["unit"]
        if unit is not None:
            command = [*self._in_unit(unit, launch.launcher), *command]
        child = self._run(command, f"{launch.folder}/launcher", as_user=unit is None)
        code: int | None = None
        deadline = time.monotonic() + LAUNCH_LIMIT_S
        try:
            while True:
                code = self._exit_code_of(child) if code is None else code
                wrapper_is_gone = launch.wrapper is not None and not launch.wrapper_is_alive
                if self._began(launch):
                    break
                if code or wrapper_is_gone or time.monotonic() > deadline:
                    raise Refusal(f"the server could not be started with {launch.launcher}: {self._why(launch)}")
                time.sleep(POLL_S)
        finally:
            if code is None:
                self._reap(child)
        if launch.end is not None and launch.end[0] in (126, 127):
            raise Refusal(f"the server ended at once with exit code {launch.end[0]}: {self._why(launch)}")

    def _in_unit(self, unit: str, launcher: str) -> list[str]:
        """Return what has systemd run the command that follows.

        A screen, too, gets a unit of its own if there is systemd: in that of the ssh session it would end with the
        session, and when the kernel kills a process of a service for want of memory, systemd stops the whole service.
        """
        settings = (
            f"Type={'forking' if launcher == 'screen' else 'simple'}",
            "KillMode=process",  # the wrapper may be killed without the server
            "OOMPolicy=continue",  # and the server without the wrapper
            "OOMScoreAdjust=0",
            "IgnoreSIGPIPE=no",
            f"WorkingDirectory={self.home}",
        )
        return [
            *(program("systemd-run") or "", "--quiet", "--collect", f"--unit={unit}", f"--uid={self.account.pw_name}"),
            *(f"--property={setting}" for setting in settings),
            *(f"--setenv={name}={value}" for name, value in self._environment().items()),
        ]

    def _environment(self) -> dict[str, str]:
        """Return the environment of a screen; the server's own is another."""
        return {
            "PATH": ":".join(PROGRAM_FOLDERS),
            "HOME": self.account.pw_dir,
            "USER": self.account.pw_name,
            "LOGNAME": self.account.pw_name,
            "SHELL": self.account.pw_shell or "/bin/sh",
            "LANG": "C.UTF-8",
            "TERM": "linux",
        }

    @staticmethod
    def _began(launch: Launch) -> bool:
        """Tell whether the server itself runs (not what starts it), or has ended and its end is known."""
        server = launch.server
        if server is None:
            return False
        if launch.end is not None:
            return True
        words = server.command_line.split(b"\0")
        is_wrapper = os.fsencode(f"{launch.folder}/wrapper.sh") in words[:2]
        return words != [b""] and not is_wrapper and os.path.basename(words[0]) != b"setsid" and server.alive

    def _why(self, launch: Launch) -> str:
        """Return the last line that one of those says who may know why a launch failed."""
        for path in (f"{launch.folder}/launcher", f"{launch.folder}/said", f"{self.home}/server.log"):
            lines = [line.strip() for line in (read_text(path) or "").splitlines() if line.strip()]
            if lines:
                return lines[-1]
        return "it said nothing"

    def _screen(self, *options: str) -> list[str]:
        return [program("screen") or "", "-c", "/dev/null", *options]

    def _run(self, command: list[str], output: str, as_user: bool) -> int:
        """Start a program that shares nothing with this agent: no terminal, no open file. Return its pid.

        Args:
            output: file that gets what it prints.
            as_user: run it as the user instead of as this agent.
        """
        account = self.account
        self._file(output)
        pid = os.fork()
        if pid:
            return pid
        try:
            os.setsid()
            # Of all that this agent has, its protection from the OOM killer is not for others.
            set_oom_score(os.getpid(), 0)
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these
                signal.signal(number, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(os.open(output, os.O_WRONLY | os.O_APPEND), 1)
            os.dup2(1, 2)
            os.umask(0o022)
            os.chdir(self.home)
            if as_user and os.geteuid() == 0:
                os.initgroups(account.pw_name, account.pw_gid)
                os.setgid(account.pw_gid)
                os.setuid(account.pw_uid)
            os.execve(command[0], command, self._environment())
        except OSError as error:
            os.write(2, f"{command[0]}: {error.strerror}\n".encode())
        finally:
            os._exit(127)

    @staticmethod
    def _exit_code_of(child: int) -> int | None:
        """Return the exit code of a child (negative: a signal) once it has ended; None while it runs."""
        ended, status = os.waitpid(child, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if ended else None

    def _reap(self, child: int) -> None:
        """Wait for a child that should be about to end, and kill it if it is not."""
        if not until(lambda: self._exit_code_of(child) is not None, END_LIMIT_S):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    def stop(self, request: dict[str, Any]) -> dict[str, Any]:
        """End the server and whatever ran it."""
        grace_s = float(request["grace_s"])
        with self._lock():
            launch = self._launch()
            if launch is not None:
                self._stop(launch, grace_s)
        return self.status({})

    def _stop(self, launch: Launch, grace_s: float) -> None:
        if launch.server is None:
            self._prevent(launch)
        server = launch.server
        if server is not None and server.alive:
            begun = time.monotonic()
            server.signal(signal.SIGTERM)
            if not server.wait(grace_s):
                server.signal(signal.SIGKILL)
                if not server.wait(END_LIMIT_S):
                    raise Refusal(f"the server (pid {server.pid}) did not end within {END_LIMIT_S:.0f} s after SIGKILL")
            ended = time.monotonic()
            stopped = {"stop_s": ended - begun, "ended_monotonic_s": ended}
            write_text(f"{launch.folder}/stopped", json.dumps(stopped))
            if not launch.wrapper_is_alive:
                # The wrapper would have done so.
                kill_group(server.pid)
        launch.await_note()
        self._close(launch)

    @staticmethod
    def _prevent(launch: Launch) -> None:
        """Keep a server from being started whose launch was not finished, because its agent was killed."""
        try:
            os.unlink(f"{launch.folder}/start")
        except FileNotFoundError:
            # The wrapper has it already: then the server is about to be known.
            until(lambda: launch.server is not None or not launch.wrapper_is_alive, NOTE_LIMIT_S)

    def _close(self, launch: Launch) -> None:
        """End the wrapper, if it still runs, and the screen session or the unit."""
        wrapper, screen = launch.wrapper, launch.screen
        if wrapper is not None and wrapper.alive and not wrapper.wait(NOTE_LIMIT_S):
            wrapper.signal(signal.SIGKILL)
        output = f"{launch.folder}/launcher"
        if screen is not None and not screen.wait(1.0):
            # Somebody has opened another window in it.
            command = self._screen("-S", f"{screen.pid}.{SESSION}", "-X", "quit")
            self._reap(self._run(command, output, as_user=True))
        if launch.told["unit"] is not None:
            command = [program("systemctl") or "", "--quiet", "stop", f"{launch.told['unit']}.service"]
            self._reap(self._run(command, output, as_user=False))
        if screen is not None and not screen.wait(NOTE_LIMIT_S):
            screen.signal(signal.SIGKILL)

    def _forget(self, grace_s: float = 0.0) -> None:
        """End the last launch and remove all that is left of it and of former ones."""
        launch = self._launch()
        if launch is not None:
            self._stop(launch, grace_s)
        for name in os.listdir(self.home):
            if name.startswith("launch-"):
                remove_tree(f"{self.home}/{name}")
        if os.path.exists(f"{self.home}/launch.json"):
            os.unlink(f"{self.home}/launch.json")

    def anon_bytes(self, _request: dict[str, Any]) -> dict[str, Any]:
        """Return the anonymous memory of the server and of what it has started."""
        launch = self._launch()
        server = launch.server if launch is not None else None
        alive = server is not None and server.alive
        return {"anon_bytes": anonymous_bytes([server.pid, *descendants(server.pid)]) if server and alive else None}

    def log(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the end of the server's log."""
        size = int(request["bytes"])
        try:
            with open(f"{self.home}/server.log", "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - size))
                return {"text": file.read().decode("utf-8", "replace")}
        except FileNotFoundError:
            return {"text": ""}

    def drop_page_cache(self, _request: dict[str, Any]) -> dict[str, Any]:
        """Drop the guest's page cache."""
        return {"reason": drop_page_cache(f"{self.home}/data")}

    def sync_data(self, _request: dict[str, Any]) -> dict[str, Any]:
        """Put what the server has written on the disk."""
        return {"sync_s": sync_folder(f"{self.home}/data")}

    def reset(self, request: dict[str, Any]) -> dict[str, Any]:
        """Bring the guest back to the state before its first server, as far as that goes without a reboot."""
        with self._lock():
            self._forget(RESET_GRACE_S)
            for name in ("data", "tmp"):
                if os.path.isdir(f"{self.home}/{name}"):
                    remove_tree(f"{self.home}/{name}")
                    os.mkdir(f"{self.home}/{name}", 0o700)
                    self._give(f"{self.home}/{name}")
            if os.path.exists(f"{self.home}/server.log"):
                os.unlink(f"{self.home}/server.log")
            write_drop_caches()
        return self.facts(request)


def main() -> None:
    """Answer requests until standard input is closed."""
    words = sys.argv[1:]
    if len(words) != 4 or words[0] != "--home" or words[2] != "--user":
        sys.exit("usage: guest.py --home FOLDER --user NAME")
    try:
        agent = Agent(words[1], words[3])
    except (Refusal, OSError) as error:
        sys.exit(str(error))
    protect_the_instrument()
    try:
        for line in sys.stdin.buffer:
            sys.stdout.write(json.dumps(agent.answer(line)) + "\n")
            sys.stdout.flush()
    except (BrokenPipeError, KeyboardInterrupt):
        # Whoever asked is gone.
        os._exit(0)


if __name__ == "__main__":
    main()
