"""Starts a server in the guest so that it outlives the agent and its ssh session, and ends it.

Sources: screen(1); systemd-run(1).
"""

# ruff: noqa: PTH102, PTH108, PTH110, PTH112
# ruff: noqa: PTH119, PTH208

from __future__ import annotations

import json
import os
import signal
import time

from picolab.agent.home import PROGRAM_FOLDERS, Home, has_systemd, overwrite, program, remove_tree, write_text
from picolab.agent.kernel_log import kernel_log, oom_kills, set_oom_score
from picolab.agent.launch import NOTE_LIMIT_S, WRAPPER, Launch
from picolab.agent.process import POLL_S, kill_group, until
from picolab.agent.procfs import boot_id, read_text
from picolab.agent.refusal import Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


LAUNCHERS = ("screen", "systemd")
"""What may run the server, the best first: with screen a person can look at the server's output live."""

SESSION = "server"
"""Name of the screen session: `screen -r server` as the user shows the server's output."""

LAUNCH_LIMIT_S = 60.0

END_LIMIT_S = 30.0

SERVICES = ("/sys/fs/cgroup/system.slice", "/sys/fs/cgroup/systemd/system.slice")
"""Where systemd has the cgroups of units, with version 2 and version 1 of cgroups."""

UNIT_END_LIMIT_S = 0.5


def quoted(word: str) -> str:
    """Return a word for a shell."""
    return "'" + word.replace("'", "'\\''") + "'"


class Launcher:
    """Launches in one home. It keeps no state of its own: `current` finds the last launch in the files there."""

    def __init__(self, home: Home) -> None:
        self.home = home

    def current(self) -> Launch | None:
        """Return the last launch, or None when there was none since the guest booted."""
        text = read_text(f"{self.home.path}/launch.json")
        launch = Launch(json.loads(text)) if text else None
        return launch if launch is not None and launch.note["boot_id"] == boot_id() else None

    def choose(self, wanted: Any) -> str:
        has = {"screen": program("screen") is not None, "systemd": has_systemd() and os.geteuid() == 0}
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

    def prepare(self, argv: list[str], environment: dict[str, str], launcher: str) -> Launch:
        """Write the files of a new launch."""
        mark = os.urandom(4).hex()
        folder = f"{self.home.path}/launch-{mark}"
        log = f"{self.home.path}/server.log"
        setsid = program("setsid")
        if setsid is None:
            raise Refusal("the guest has no setsid to detach a server with; install util-linux")
        os.mkdir(folder, 0o700)
        self.home.give(folder)
        for name in ("said", "exit", "stopped"):
            self.home.write(f"{folder}/{name}", " " * 200)
        self.home.write(f"{folder}/wrapper.sh", WRAPPER.format(path=":".join(PROGRAM_FOLDERS)))
        lines = [
            # In a session of its own: nothing that happens to the wrapper's terminal reaches the server.
            "read -r picolab_stat </proc/self/stat",
            "printf '%s\\n' \"$picolab_stat\" >pid",
            f"cd {quoted(self.home.path)}",
            "unset PWD OLDPWD SHLVL",
            *(f"export {name}={quoted(value)}" for name, value in environment.items()),
            f"exec {setsid} {' '.join(map(quoted, argv))} </dev/null >>{quoted(log)} 2>&1 3<&-",
        ]
        self.home.write(f"{folder}/start", "\n".join(lines) + "\n")
        self.home.write(log)
        note = {
            "folder": folder,
            "launcher": launcher,
            "unit": f"picolab-server-{mark}" if has_systemd() and os.geteuid() == 0 else None,
            "boot_id": boot_id(),
            "oom_kills": oom_kills(),
            "kernel_log_number": max((number for number, _ in kernel_log()), default=-1),
        }
        write_text(f"{self.home.path}/launch.json", json.dumps(note))
        return Launch(note)

    def begin(self, launch: Launch) -> None:
        """Have the launcher run the wrapper; return when the server runs or has already ended."""
        wrapper = ["/usr/bin/env", "-i", "/bin/sh", f"{launch.folder}/wrapper.sh", launch.folder]
        wrapper.append(f"{self.home.path}/server.log")
        command = [*self._screen("-dmS", SESSION), *wrapper] if launch.launcher == "screen" else wrapper
        unit = launch.note["unit"]
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
        session, and when the kernel OOM-kills a process of a service, systemd stops the whole service.
        """
        settings = (
            f"Type={'forking' if launcher == 'screen' else 'simple'}",
            "KillMode=process",  # the wrapper may be killed without the server
            "OOMPolicy=continue",  # and the server without the wrapper
            "OOMScoreAdjust=0",
            "IgnoreSIGPIPE=no",
            f"WorkingDirectory={self.home.path}",
        )
        return [
            *(
                program("systemd-run") or "",
                "--quiet",
                "--collect",
                f"--unit={unit}",
                f"--uid={self.home.account.pw_name}",
            ),
            *(f"--property={setting}" for setting in settings),
            *(f"--setenv={name}={value}" for name, value in self._environment().items()),
        ]

    def _environment(self) -> dict[str, str]:
        """Return the environment of a screen; the server's own is another."""
        return {
            "PATH": ":".join(PROGRAM_FOLDERS),
            "HOME": self.home.account.pw_dir,
            "USER": self.home.account.pw_name,
            "LOGNAME": self.home.account.pw_name,
            "SHELL": self.home.account.pw_shell or "/bin/sh",
            "LANG": "C.UTF-8",
            "TERM": "linux",
        }

    @staticmethod
    def _began(launch: Launch) -> bool:
        """Return whether the server itself runs (not what starts it), or has ended and its end is known."""
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
        for path in (f"{launch.folder}/launcher", f"{launch.folder}/said", f"{self.home.path}/server.log"):
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
        account = self.home.account
        self.home.write(output)
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
            os.chdir(self.home.path)
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

    def stop(self, launch: Launch, grace_s: float) -> None:
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
            overwrite(f"{launch.folder}/stopped", json.dumps(stopped))
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
        unit = launch.note["unit"]
        # Under emulation systemctl takes longer than all the rest, and most units have ended with what ran in them.
        is_over = wrapper is not None and until(lambda: self._is_over(unit), UNIT_END_LIMIT_S)
        if unit is not None and not is_over:
            command = [program("systemctl") or "", "--quiet", "stop", f"{unit}.service"]
            self._reap(self._run(command, output, as_user=False))
        if screen is not None and not screen.wait(NOTE_LIMIT_S):
            screen.signal(signal.SIGKILL)

    @staticmethod
    def _is_over(unit: str | None) -> bool:
        """Return whether a unit that ran is known to have ended: systemd removes a cgroup without processes."""
        places = [place for place in SERVICES if os.path.isdir(place)]
        return bool(places) and not any(os.path.exists(f"{place}/{unit}.service") for place in places)

    def forget(self, grace_s: float = 0.0) -> None:
        """End the last launch and remove all that is left of it and of former ones."""
        launch = self.current()
        if launch is not None:
            self.stop(launch, grace_s)
        for name in os.listdir(self.home.path):
            if name.startswith("launch-"):
                remove_tree(f"{self.home.path}/{name}")
        if os.path.exists(f"{self.home.path}/launch.json"):
            os.unlink(f"{self.home.path}/launch.json")
