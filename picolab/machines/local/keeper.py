"""The keeper of a local machine: a small process of its own that outlives kernels and notebooks.

It makes the memory cgroup, the private network and the work folder, starts the server in them, watches it and removes
everything at the end. A notebook's kernel cannot do that: it may be killed at any moment and then cleans nothing up.

The keeper lives as long as its machine. It ends and leaves nothing behind
- on `release`,
- when its holder is gone and the machine was not meant to be kept,
- when the machine was kept and nobody used it for `KEEP_LEASE_S`.
If the keeper itself is killed, the kernel kills the server with it, and the next start sweeps the rest.

It listens on `keeper.sock` in the machine's folder for one JSON object a connection:

    {"do": "start", "argv": [...], "env": {...}, "cwd": str, "log": str,
     "on_loopback": bool}                                                  -> the process's status
    {"do": "stop", "grace_s": float}                                       -> the process's status
    {"do": "status"}                                                       -> the process's status
    {"do": "hold", "holder": {...}, "keep": bool}                          -> {}
    {"do": "lift_limit"}                                                   -> {}
    {"do": "restore_limit"}                                                -> {"restored": bool}
    {"do": "release"}                                                      -> {}

An answer is {"ok": true, ...} or {"ok": false, "error": "a sentence"}.
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from picolab.agent.procfs import descendants
from picolab.errors import MachineError, PicolabError
from picolab.host.processes import ProcessIdentity, this_process
from picolab.machines.folders import KEEPER, SPEC, note_unheld, worked_before
from picolab.machines.local import network
from picolab.machines.local.cgroup import MemoryCgroup, plan_cgroup
from picolab.machines.local.network import NoPrivateNetwork, PrivateNetwork

KEEP_LEASE_S = 12 * 3600.0
_POLL_S = 1.0
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_ORPHANS_LIMIT_S = 10.0

SOCKET = "keeper.sock"


class Keeper:
    """The state of one local machine.

    Args:
        folder: the machine's folder; `machine.json` in it says what is wanted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec: dict[str, Any] = json.loads((folder / SPEC).read_text())
        self.work = Path(self.spec["work"])
        self.cgroup: MemoryCgroup | None = None
        self.network: PrivateNetwork | None = None
        self.server: subprocess.Popen[bytes] | None = None
        self.server_pidfd: int | None = None
        self.started_monotonic_s: float | None = None
        self.ended_monotonic_s: float | None = None
        self.stop_s: float | None = None
        self.oom_kills_before = 0
        self.limit_is_lifted = False
        self.holder = ProcessIdentity.from_json(self.spec["holder"])
        self.keep: bool = self.spec["keep"]
        self.lease_ends_s: float | None = None
        self.released = False
        self.is_subreaper = False
        self.is_taken_down = False

    def become_subreaper(self) -> None:
        """Become the parent of orphaned processes of the server, so that they can be ended."""
        self.is_subreaper = ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0

    def set_up(self) -> socket.socket:
        """Make cgroup, network, work folder and socket, in an order in which a sweep can always find them."""
        cgroup = plan_cgroup(self.spec["method"], self.spec["place"])
        state = {"process": this_process().to_json(), "cgroup": str(cgroup.path) if cgroup else None}
        self._write_state(state)
        if cgroup is not None:
            cgroup.create(self.spec["limit_bytes"])
            self.cgroup = cgroup
        self._write_state({**state, "network": self._make_network()})
        self.work.mkdir(mode=0o700, parents=True)
        # Relative, because the path of a unix socket may not be longer than 107 bytes.
        os.chdir(self.folder)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{SOCKET}.new")
        listener.listen()
        Path(f"{SOCKET}.new").replace(SOCKET)
        return listener

    def _write_state(self, state: dict[str, Any]) -> None:
        (self.folder / f"{KEEPER}.new").write_text(json.dumps(state))
        (self.folder / f"{KEEPER}.new").replace(self.folder / KEEPER)

    def _make_network(self) -> dict[str, Any]:
        """Make the private network if there can be one, and return what others need to know about it.

        Raises:
            MachineError: one could be made earlier since this host booted, so other trials had one.
        """
        reason = self.spec["no_private_network"]
        if reason is None:
            before = worked_before("private_network")
            try:
                self.network = network.make(self.spec["place"])
            except NoPrivateNetwork as error:
                if before.worked:
                    raise MachineError(
                        f"there is no private network for the server any more, and trials that had one cannot be "
                        f"compared with others: {error}; fix that, or remove {before.file} to continue without it"
                    ) from None
                reason = str(error)
            else:
                before.note()
        if self.network is None:
            return {"kind": "host", "reason": reason, "address": "127.0.0.1", "namespace": None}
        address, namespace = self.network.server_address, self.network.inode
        return {"kind": "private", "reason": None, "address": address, "namespace": namespace}

    def run(self, listener: socket.socket) -> None:
        """Serve requests until the machine is released."""
        while not self.released:
            waiting: list[Any] = [listener]
            if self.server_pidfd is not None:
                waiting.append(self.server_pidfd)
            ready, _, _ = select.select(waiting, [], [], _POLL_S)
            if self.server_pidfd in ready:
                self._reap()
            self._bury_orphans()
            if listener in ready:
                self._answer(listener)
            # On each turn, so that frequent requests do not keep a machine whose holder is gone.
            if not self.released:
                self._look_after_holder()

    def end(self, *_: object) -> None:
        """Make `run` return within a second. A signal handler must do no more: its exceptions can be lost."""
        self.released = True

    def _look_after_holder(self) -> None:
        if not (self.folder / SPEC).exists():
            # Somebody has deleted the state folder: nobody can find this machine any more.
            self.released = True
        elif self.holder.alive:
            self.lease_ends_s = None
        elif not self.keep:
            self.released = True
        elif self.limit_is_lifted and self._restore_limit():
            # The process that lifted it was killed.
            return
        elif self.lease_ends_s is None:
            note_unheld(self.folder, self.holder)
            self.lease_ends_s = time.monotonic() + KEEP_LEASE_S
        elif time.monotonic() > self.lease_ends_s:
            self.released = True

    def _answer(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.settimeout(10)
            with connection.makefile("rw", encoding="utf-8") as stream:
                try:
                    request = json.loads(stream.readline())
                    if not isinstance(request, dict):
                        raise MachineError("the keeper accepts JSON objects only")
                    answer = {"ok": True, **self._do(request)}
                except (PicolabError, OSError, subprocess.SubprocessError, LookupError, TypeError, ValueError) as error:
                    answer = {"ok": False, "error": str(error) or type(error).__name__}
                stream.write(json.dumps(answer) + "\n")
                stream.flush()

    def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        match request.get("do"):
            case "start":
                self._start(request)
            case "stop":
                self._stop(float(request["grace_s"]))
            case "status":
                pass
            case "hold":
                self.holder = ProcessIdentity.from_json(request["holder"])
                self.keep = bool(request["keep"])
                self.lease_ends_s = None
                self._restore_limit()
                return {}
            case "lift_limit":
                if self.cgroup is None:
                    raise MachineError("this machine has no memory limit")
                self.limit_is_lifted = True
                self.cgroup.lift()
                return {}
            case "restore_limit":
                return {"restored": self._restore_limit()}
            case "release":
                # Removed before the answer, so that the caller can rely on it.
                self.take_down()
                self.released = True
                return {}
            case other:
                raise MachineError(f"the keeper knows no request {other!r}")
        return self._status()

    def _restore_limit(self) -> bool:
        """Put a lifted memory limit back; return whether it holds."""
        if self.limit_is_lifted and self.cgroup is not None:
            self.limit_is_lifted = not self.cgroup.limit_again(self.spec["limit_bytes"])
        return not self.limit_is_lifted

    def _start(self, request: dict[str, Any]) -> None:
        if self.server is not None and self.ended_monotonic_s is None:
            raise MachineError(f"a server is already running in this machine (pid {self.server.pid}); stop it first")
        if not self._restore_limit():
            raise MachineError("the memory limit that was lifted for the last server could not be put back")
        private = None if request.get("on_loopback") else self.network
        cgroup, keeper = self.cgroup, os.getpid()

        def enter_machine() -> None:
            if cgroup is not None:
                cgroup.add(os.getpid())
            if private is not None:
                private.enter()
            # If the keeper is killed, the server must not live on without a watcher.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != keeper:
                os._exit(1)

        oom_kills_before = (cgroup.oom_kills or 0) if cgroup else 0
        begun = time.monotonic()
        with Path(request["log"]).open("ab") as log:
            self.server = subprocess.Popen(
                request["argv"],
                env=request["env"],
                cwd=request["cwd"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=enter_machine,
            )
        self.server_pidfd = os.pidfd_open(self.server.pid)
        self.started_monotonic_s, self.oom_kills_before = begun, oom_kills_before
        self.ended_monotonic_s = self.stop_s = None

    def _reap(self) -> None:
        if self.server is None or self.server_pidfd is None:
            return
        self.ended_monotonic_s = time.monotonic()
        # Its children end with it. Until it is waited for, the kernel does not reuse its pid.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.server.pid, signal.SIGKILL)
        self.server.wait()
        os.close(self.server_pidfd)
        self.server_pidfd = None
        self._end_orphans()

    def _end_orphans(self) -> None:
        """End what the server has started in sessions of their own; they are children of this process now."""
        deadline = time.monotonic() + _ORPHANS_LIMIT_S
        while time.monotonic() < deadline:
            if self.cgroup is not None:
                self.cgroup.kill_all()
            orphans = [ProcessIdentity.of(pid) for pid in descendants(os.getpid())] if self.is_subreaper else []
            for orphan in orphans:
                if orphan is not None:
                    orphan.signal(signal.SIGKILL)
            self._bury_orphans()
            if not any(orphans) and not (self.cgroup and self.cgroup.pids):
                return
            time.sleep(0.002)

    def _bury_orphans(self) -> None:
        """Wait for children that have ended, but for the server, whose end is another matter."""
        server = self.server.pid if self.server is not None and self.server_pidfd is not None else None
        while self.is_subreaper:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None or ended.si_pid == server:
                return
            os.waitpid(ended.si_pid, 0)

    def _stop(self, grace_s: float) -> None:
        if self.server is None or self.server_pidfd is None:
            return
        begun = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.server_pidfd, signal.SIGTERM)
            if not select.select([self.server_pidfd], [], [], grace_s)[0]:
                signal.pidfd_send_signal(self.server_pidfd, signal.SIGKILL)
        self._reap()
        self.stop_s = time.monotonic() - begun

    def _status(self) -> dict[str, Any]:
        code = self.server.returncode if self.server else None
        counted = self.cgroup.oom_kills if self.cgroup else None
        oom_kills = counted - self.oom_kills_before if counted is not None else None
        return {
            "pid": self.server.pid if self.server else None,
            "running": self.server is not None and self.ended_monotonic_s is None,
            "exit_code": code if code is not None and code >= 0 else None,
            "exit_signal": _signal_name(-code) if code is not None and code < 0 else None,
            "started_monotonic_s": self.started_monotonic_s,
            "ended_monotonic_s": self.ended_monotonic_s,
            "stop_s": self.stop_s,
            "oom_kills": oom_kills,
            # The count of the server's own cgroup is evidence enough.
            "oom_evidence": None,
            "limit_bytes": self.cgroup.limit_bytes if self.cgroup else None,
            "swap_is_off": self.cgroup.swap_is_off if self.cgroup else None,
            "cgroup": str(self.cgroup.path) if self.cgroup else None,
        }

    def take_down(self) -> None:
        """End the server and remove cgroup, work folder and the machine's folder.

        May be called twice: once all is done nothing more happens, because another machine may be in the same places.
        """
        if self.is_taken_down:
            return
        # Without patience: nothing that the server could still save is kept.
        self._stop(grace_s=0)
        # The files first: when systemd ends a whole session there may be no time for the rest, which it removes itself.
        shutil.rmtree(self.work, ignore_errors=True)
        if self.cgroup is not None:
            self.cgroup.remove()
        if self.network is not None:
            self.network.close()
            self.network = None
        shutil.rmtree(self.folder, ignore_errors=True)
        self.is_taken_down = True


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"SIG{number}"


def main() -> None:
    """Run the keeper of the machine whose folder is the first argument."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    keeper = Keeper(Path(sys.argv[1]))
    keeper.become_subreaper()
    signal.signal(signal.SIGTERM, keeper.end)
    try:
        listener = keeper.set_up()
        print("ready", flush=True)
        # Whoever started the keeper reads the line above and then goes away.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        keeper.run(listener)
    except (PicolabError, OSError) as error:
        with contextlib.suppress(OSError):
            print(str(error), flush=True)
        sys.exit(1)
    finally:
        keeper.take_down()


if __name__ == "__main__":
    main()
