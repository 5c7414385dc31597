"""The `vagrant` program for one machine: bounded in time, logged, one call at a time, and its errors explained.

Built on python-vagrant, which knows the arguments and the output of each command but neither limits nor locks.
"""

import contextlib
import functools
import json
import logging
import os
import re
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, TextIO

from picolab.config.project import project_root
from picolab.errors import MachineError
from picolab.host.locks import Wait, holders_of, try_lock
from picolab.host.processes import ProcessIdentity, this_process
from picolab.machines.vagrant import libvirt
from picolab.machines.vagrant.boxes import vagrant_home
from picolab.machines.vagrant.call_log import CallLog
from picolab.machines.vagrant.messages import BOOT_LIMIT, BUSY, NOT_INSTALLED, UNKNOWN, Trouble, translate
from picolab.machines.vagrant.versions import gem_version, plugin_version, virtualbox_version

# Where there is no vagrant, python-vagrant says so on stderr as soon as it is imported.
logging.getLogger("vagrant").addHandler(logging.NullHandler())
import vagrant  # noqa: E402

LOG = "vagrant.log"
_LOCK = ".vagrant.lock"
_TURN_LIMIT_S = 120.0
_PATIENCE_S = 45.0
"""From SIGINT, at which vagrant removes a half-made machine, to SIGKILL. Emulated on a busy host that takes 25 s."""
_ORPHAN_PATIENCE_S = 60.0
_KILL_LIMIT_S = 10.0
_POLL_S = 0.1
_RETRIES = 10
_RETRY_PAUSE_S = 1.0
_READ_BYTES = 1 << 16
_TOLD_CHARACTERS = 400
_STEP = re.compile(r"(?:==> [^:]+: (?! )|\s+[^:]+: (?=Progress: ))(.+)")
"""Other lines are details of a step: they are indented."""
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

_LIMITS_S = {
    "up": 600.0,
    "reload": 600.0,
    "halt": 180.0,
    "destroy": 180.0,
    "snapshot": 180.0,
    "status": 60.0,
    "ssh-config": 60.0,
    "--version": 30.0,
}

_BOOTS = ("up", "reload")

_TIED_TO_PARENT = """\
import ctypes, os, signal, sys
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(number, signal.SIG_DFL)
ctypes.CDLL(None).prctl(1, signal.SIGINT)
if os.getppid() != int(sys.argv[1]):
    sys.exit("picolab has ended")
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Becomes vagrant, which then gets SIGINT when its parent dies.

A program of its own and no `preexec_fn`, which may hang in a process with threads. Signals that we ignore, as a keeper
does, would be ignored by vagrant too.
"""


class VagrantError(MachineError):
    """Vagrant failed; the message is one sentence: cause, remedy, where all of its output is.

    Attributes:
        trouble: what it means.
        said: all that vagrant printed.
        vagrant_exit_code: negative: the number of the signal that ended it; None when it was not started.
    """

    def __init__(self, message: str, trouble: Trouble, said: str = "", vagrant_exit_code: int | None = None) -> None:
        super().__init__(message)
        self.trouble = trouble
        self.said = said
        self.vagrant_exit_code = vagrant_exit_code


# One call


@dataclass
class _Call:
    """One run of the program, and what it printed."""

    words: Sequence[str]
    limit_s: float
    on_line: Callable[[str], None] | None
    out: list[str] = field(default_factory=list)
    """Lines of its standard output alone."""
    err: list[str] = field(default_factory=list)
    """Lines of its standard error."""
    said: list[str] = field(default_factory=list)
    """Lines of both, as they came."""
    ended: bool = False
    """It had to be ended at its time limit."""
    exit_code: int = 0

    @property
    def line(self) -> str:
        return shlex.join(["vagrant", *self.words])


class VagrantCommand:
    """The commands of vagrant for one machine. Not for several threads at a time.

    Args:
        folder: the machine's folder; it gets `vagrant/` (vagrant's own state of the machine) and `vagrant.log`.
        environment: what the Vagrantfile reads, on top of this process's environment.

    Each command waits for its turn if another process runs vagrant for the same machine. All of them raise
    VagrantError, and take `limit_s`: seconds after which vagrant gets SIGINT, and some time later SIGKILL.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.name = folder.name
        self.log = folder / LOG
        self._environment = {
            **os.environ,
            **environment,
            "VAGRANT_DOTFILE_PATH": str((folder / "vagrant").resolve()),
            "VAGRANT_CHECKPOINT_DISABLE": "1",
            "VAGRANT_BOX_UPDATE_CHECK_DISABLE": "1",
            "VAGRANT_NO_COLOR": "1",
            # Its messages are recognised by their English words; with plain C, Ruby would choke on other letters.
            "LC_ALL": "C.UTF-8",
            "LANGUAGE": "",
        }
        self._limit_s: float | None = None
        self._on_line: Callable[[str], None] | None = None
        # Any: python-vagrant has no annotations.
        self._vagrant: Any = _Vagrant(self._run)

    def up(self, provider: str, *, limit_s: float | None = None, on_line: Callable[[str], None] | None = None) -> None:
        """Create the machine if there is none, and boot it. Nothing happens to one that runs.

        Args:
            on_line: is called with each step that vagrant prints, and the progress of a download, at once.
        """
        with self._settings(limit_s, on_line):
            self._vagrant.up(provider=provider)

    def reload(self, *, limit_s: float | None = None, on_line: Callable[[str], None] | None = None) -> None:
        """Boot the machine anew, with the memory that the environment says.

        With libvirt the power is cut, as in `halt`.
        """
        if self._is_libvirt:
            self.halt()
            self.up("libvirt", limit_s=limit_s, on_line=on_line)
            return
        with self._settings(limit_s, on_line):
            self._vagrant.reload()

    def halt(self, *, limit_s: float | None = None) -> None:
        """Have the machine not run any more; have the guest write what shall not be lost before.

        With libvirt the power is cut: vagrant-libvirt waits forever for the answer of a guest that has shut down
        faster than it could answer, and fails after a minute with one that does not hear the power button.
        """
        if self._is_libvirt:
            for name in libvirt.domains(self._environment["PICOLAB_PREFIX"]):
                libvirt.power_off(name)
            return
        with self._settings(limit_s):
            self._vagrant.halt()

    def destroy(self, *, limit_s: float | None = None) -> None:
        """Remove the machine with its disk and snapshots; nothing happens when there is none."""
        with self._settings(limit_s):
            self._vagrant.destroy()

    def status(self, *, limit_s: float | None = None) -> str:
        """Return one word: `running`, `not_created`, `poweroff`, `saved`, ... (the same for all providers)."""
        with self._settings(limit_s):
            (status,) = self._vagrant.status()
        return str(status.state)

    def snapshot_save(self, name: str, *, limit_s: float | None = None) -> None:
        """Save disk and memory of the machine, in place of an older snapshot of that name."""
        with self._settings(limit_s):
            self._vagrant.snapshot_save(name)

    def snapshot_restore(self, name: str, *, limit_s: float | None = None) -> None:
        """Put disk and memory back, also their size. The guest's clock then lags by the snapshot's age."""
        with self._settings(limit_s):
            self._vagrant.snapshot_restore(name)

    def ssh_config(self, *, limit_s: float | None = None) -> dict[str, str]:
        """Return how ssh reaches the machine: `HostName`, `Port`, `User`, `IdentityFile` and more. It must be up."""
        with self._settings(limit_s):
            return dict(self._vagrant.conf(self._vagrant.ssh_config()))

    def versions(self) -> dict[str, str]:
        """Return the versions of vagrant and of what it uses for the provider, from files wherever they say so."""
        found = {"vagrant": gem_version("vagrant") or self._asked_version()}
        if self._is_libvirt:
            found["vagrant-libvirt"] = plugin_version("vagrant-libvirt") or gem_version("vagrant-libvirt")
        else:
            found["virtualbox"] = virtualbox_version()
        return {what: version or "unknown" for what, version in found.items()}

    @property
    def _is_libvirt(self) -> bool:
        return self._environment.get("VAGRANT_DEFAULT_PROVIDER") == "libvirt"

    def _asked_version(self) -> str | None:
        with contextlib.suppress(VagrantError), self._settings(None):
            return str(self._vagrant.version())
        return None

    # One call

    @contextlib.contextmanager
    def _settings(self, limit_s: float | None, on_line: Callable[[str], None] | None = None) -> Iterator[None]:
        """Say how the next command is run: python-vagrant's methods have no arguments for that."""
        self._limit_s, self._on_line = limit_s, on_line
        try:
            yield
        finally:
            self._limit_s = self._on_line = None

    def _run(self, words: Sequence[str]) -> str:
        """Run vagrant, again if it was in the way of another one, and return its standard output."""
        limit_s = self._limit_s if self._limit_s is not None else _LIMITS_S[words[0]]
        deadline = time.monotonic() + limit_s
        for attempt in range(_RETRIES + 1):
            call = _Call(words, deadline - time.monotonic(), self._on_line)
            self._run_once(call)
            if call.exit_code == 0 and not call.ended:
                return "\n".join(call.out)
            said = "\n".join(call.said)
            trouble = translate(said, ended=call.ended)
            if not trouble.passes or call.ended or time.monotonic() + _RETRY_PAUSE_S > deadline:
                break
            if attempt < _RETRIES:
                if self._on_line is not None:
                    tries = f"try {attempt + 1} of {_RETRIES + 1}"
                    self._on_line(f"waiting: {trouble.cause}{_owners_of_action_locks()}; {tries}")
                # Nothing reports when the other one is done.
                time.sleep(_RETRY_PAUSE_S)
        raise VagrantError(self._sentence(call, trouble, limit_s), trouble, said, call.exit_code)

    def _sentence(self, call: _Call, trouble: Trouble, limit_s: float) -> str:
        cause = trouble.cause.format(box=self._environment.get("PICOLAB_BOX", "its box"))
        if call.ended and call.words[0] in _BOOTS:
            cause = BOOT_LIMIT.cause.format(limit_s=limit_s, cause=cause)
            trouble = BOOT_LIMIT
        elif call.ended:
            cause += f" (ended after {limit_s:.0f} s)"
        elif trouble is UNKNOWN:
            cause += f" ({_exit_of(call.exit_code)}): {_message_of(call)}"
        elif trouble.passes:
            cause += _owners_of_action_locks()
        remedy = f"; {trouble.remedy.format(machine=self.name)}" if trouble.remedy else ""
        return f"machine {self.name!r}, {call.line}: {cause}{remedy}; all that it said is in {self.log.name}"

    def _run_once(self, call: _Call) -> None:
        program = shutil.which("vagrant", path=self._environment.get("PATH"))
        if program is None:
            raise VagrantError(f"{NOT_INSTALLED.cause}; {NOT_INSTALLED.remedy}", NOT_INSTALLED)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Before the turn: without a Vagrantfile there is nothing to wait for.
        root = project_root()
        with self._turn(call.line) as turn, contextlib.closing(CallLog(self.log)) as log:
            log.add(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {call.line}")
            begun = time.monotonic()
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _TIED_TO_PARENT, str(os.getpid()), program, *call.words],
                cwd=root,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                # Vagrant has it as well: while it cleans up after our death, the machine is not free.
                pass_fds=(turn.fileno(),),
            )
            try:
                _write_holder(turn, process.pid, call.line)
                _follow(process, call, log)
            except BaseException:
                _end_group(process.pid, functools.partial(_is_over, process))
                raise
            finally:
                assert process.stdout is not None and process.stderr is not None
                process.stdout.close()
                process.stderr.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_KILL_LIMIT_S)
                call.exit_code = process.returncode if process.returncode is not None else -signal.SIGKILL
                end = "at its time limit" if call.ended else ""
                log.add(f"-- {_exit_of(call.exit_code)} after {time.monotonic() - begun:.2f} s {end}".rstrip())

    @contextlib.contextmanager
    def _turn(self, line: str) -> Iterator[TextIO]:
        """Hold the machine's lock. A vagrant whose picolab is dead and that does not end is ended."""
        wait = Wait(_TURN_LIMIT_S, self._on_line)
        with (self.folder / _LOCK).open("a+", encoding="utf-8") as turn:
            orphan_since: float | None = None
            while not try_lock(turn):
                holder = _read_holder(turn)
                if holder is not None and not holder.owner.alive and holder.vagrant.alive:
                    orphan_since = orphan_since or time.monotonic()
                    if time.monotonic() - orphan_since > _ORPHAN_PATIENCE_S:
                        _end_group(holder.vagrant.pid, functools.partial(_is_gone, holder.vagrant))
                elif wait.is_over:
                    who = f" (pid {holder.vagrant.pid}: {holder.line})" if holder and holder.vagrant.alive else ""
                    message = (
                        f"machine {self.name!r}, {line}: {BUSY.cause} after {_TURN_LIMIT_S:.0f} s{who}; {BUSY.remedy}"
                    )
                    raise VagrantError(f"{message}; all that it said is in {self.log.name}", BUSY)
                wait.show(functools.partial(_in_words, holder), "it works on this machine")
                time.sleep(_POLL_S)
            yield turn


class _Vagrant(vagrant.Vagrant):
    """python-vagrant, with another way to run the program."""

    def __init__(self, run: Callable[[Sequence[str]], str]) -> None:
        super().__init__(root=str(Path("/")))  # type: ignore[no-untyped-call]
        self._run = run

    def _call_vagrant_command(self, args: Sequence[str | None]) -> None:
        self._run_vagrant_command(args)

    def _run_vagrant_command(self, args: Sequence[str | None]) -> str:
        return self._run([word for word in args if word is not None])


def _follow(process: "subprocess.Popen[bytes]", call: _Call, log: CallLog) -> None:
    """Take what the process prints, line by line, until it has ended; at the time limit, end it."""
    assert process.stdout is not None and process.stderr is not None
    deadline = time.monotonic() + call.limit_s
    rest = {process.stdout: b"", process.stderr: b""}

    def take(stream: IO[bytes]) -> bool:
        data = os.read(stream.fileno(), _READ_BYTES)
        *lines, rest[stream] = (rest[stream] + (data or b"\n")).replace(b"\r", b"\n").split(b"\n")
        for raw in lines:
            line = _ESCAPES.sub("", raw.decode(errors="replace")).rstrip()
            # Progress comes as the same line over and over.
            if line and line != (call.said or [""])[-1]:
                call.said.append(line)
                (call.out if stream is process.stdout else call.err).append(line)
                log.add(line)
                if call.on_line is not None and (step := _STEP.match(line)):
                    call.on_line(step[1])
        return bool(data)

    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        watch = os.pidfd_open(process.pid)
        stack.callback(os.close, watch)
        for stream in rest:
            os.set_blocking(stream.fileno(), False)
            selector.register(stream, selectors.EVENT_READ)
        selector.register(watch, selectors.EVENT_READ)
        over = False
        while not over:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                _signal_group(process.pid, signal.SIGKILL if call.ended else signal.SIGINT)
                deadline = time.monotonic() + (_KILL_LIMIT_S if call.ended else _PATIENCE_S)
                over, call.ended = call.ended, True
                continue
            for key, _ in selector.select(left_s):
                if key.fd == watch:
                    over = True
                elif not take(key.fileobj):  # type: ignore[arg-type]
                    selector.unregister(key.fileobj)
        # What it has started may still have its outputs: only what is there now is its own.
        for stream in rest:
            with contextlib.suppress(BlockingIOError):
                while take(stream):
                    pass


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def _end_group(pid: int, is_over: Callable[[float], bool]) -> None:
    """End vagrant and all that it has started: first so that it can clean up, then for good."""
    try:
        _signal_group(pid, signal.SIGINT)
        if is_over(_PATIENCE_S):
            return
    except KeyboardInterrupt:
        # Somebody is in a hurry; what is left is swept later.
        pass
    _signal_group(pid, signal.SIGKILL)
    is_over(_KILL_LIMIT_S)


def _is_over(process: "subprocess.Popen[bytes]", wait_s: float) -> bool:
    """Wait for our own process, and take away what it prints so that it does not wait for us."""
    deadline = time.monotonic() + wait_s
    while process.poll() is None and time.monotonic() < deadline:
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(BlockingIOError):
                    os.read(stream.fileno(), _READ_BYTES)
        time.sleep(_POLL_S)
    return process.returncode is not None


def _is_gone(process: ProcessIdentity, wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while process.alive and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return not process.alive


# Turns


@dataclass(frozen=True)
class _Holder:
    """Who runs vagrant for a machine: picolab's process and vagrant's own."""

    owner: ProcessIdentity
    vagrant: ProcessIdentity
    line: str


def _write_holder(turn: TextIO, pid: int, line: str) -> None:
    """Note who works on the machine, for the message of whoever waits; on a full disk nobody is named."""
    process = ProcessIdentity.of(pid)
    if process is None:
        return
    holder = {"owner": this_process().to_json(), "vagrant": process.to_json(), "line": line}
    # Past the buffer, which would be written again when the file is closed.
    with contextlib.suppress(OSError):
        os.ftruncate(turn.fileno(), 0)
        os.write(turn.fileno(), json.dumps(holder).encode())


def _read_holder(turn: TextIO) -> _Holder | None:
    """Return who holds the lock, or held it before; None when that cannot be read at this moment."""
    turn.seek(0)
    try:
        found = json.load(turn)
        owner, process = ProcessIdentity.from_json(found["owner"]), ProcessIdentity.from_json(found["vagrant"])
    except (ValueError, KeyError):
        return None
    return _Holder(owner, process, found["line"])


def _owners_of_action_locks() -> str:
    """Return which processes hold vagrant's locks on machines, as far as the kernel says so."""
    owners = holders_of((vagrant_home() / "data").glob("lock.machine-action-*.lock"))
    return f" ({', '.join(f'pid {owner.pid}: {owner.command}' for owner in owners)})" if owners else ""


def _in_words(holder: _Holder | None) -> str:
    if holder is None or not holder.vagrant.alive:
        return "another process"
    return f"pid {holder.vagrant.pid} ({holder.line})"


# Words and versions


def _exit_of(code: int) -> str:
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return f"exit code {code}"


def _message_of(call: _Call) -> str:
    """Return its message as one line: its standard error without the places in Ruby's files, or else its last step."""
    lines = [line for line in call.err if not line.startswith("\tfrom ")] or call.out[-1:]
    return " ".join(" ".join(lines).split())[:_TOLD_CHARACTERS] or "it said nothing"
