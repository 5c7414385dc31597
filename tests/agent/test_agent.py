"""The agent of a guest as the zipapp that is shipped: run on this host, with real screens and real servers."""

from __future__ import annotations

import base64
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import MIB, SECRET, alive, eventually
from throttled_disk import throttled

from picolab.agent import __main__ as agent_main
from picolab.agent import bundle, disk
from picolab.agent.procfs import descendants
from picolab.errors import MemoryLimitUnavailable
from picolab.host.facts import disk_of, memory_info
from picolab.host.processes import ProcessIdentity
from picolab.machines.local.cgroup import find_method, plan_cgroup
from picolab.servers.calibration.program import server_path

ME = pwd.getpwuid(os.geteuid()).pw_name
NOBODY = "nobody"

needs_screen = pytest.mark.skipif(shutil.which("screen") is None, reason="the program screen is not installed")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do so")

STATUS = {"pid", "running", "exit_code", "exit_signal", "started_monotonic_s", "ended_monotonic_s", "stop_s"}
STATUS |= {"oom_kills", "oom_evidence", "launcher"}


def own(status: dict[str, Any]) -> dict[str, Any]:
    """Return a status without the OOM kills, which the kernel counts for the whole host: other tests have some."""
    return {name: value for name, value in status.items() if name != "oom_kills"}


def _zipapp(folder: Path) -> Path:
    path = folder / "agent.pyz"
    path.write_bytes(bundle.zipapp())
    return path


class RunningAgent:
    """An agent, and a way to speak to it."""

    def __init__(self, home: Path, user: str = ME, **how: Any) -> None:
        self.home = home
        python = shutil.which("python3", path=os.defpath) if how else sys.executable
        zipapp = how.pop("zipapp", None) or _zipapp(home.parent)
        self.process = subprocess.Popen(
            [python or "", "-I", "-S", str(zipapp), "--home", str(home), "--user", user],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **how,
        )

    def send(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return dict(json.loads(self.process.stdout.readline()))

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Return the answer to a request that is expected to be met."""
        answer = self.send(json.dumps({"do": do, **request}))
        assert answer.pop("ok") is True, answer
        return answer

    def refusal(self, do: str, **request: Any) -> str:
        """Return the sentence with which a request is refused."""
        answer = self.send(json.dumps({"do": do, **request}))
        assert answer["ok"] is False and set(answer) == {"ok", "error"}, answer
        return str(answer["error"])

    def launch(self, *argv: str, env: dict[str, str] | None = None) -> dict[str, Any]:
        # The environment mentions the test's folder, so that the fixture `scratch` finds what is left behind.
        return self.ask("launch", argv=argv, env=env or {"HOME": str(self.home)}, launcher="screen")

    def ended(self) -> dict[str, Any]:
        """Return the status once the server has ended."""
        return eventually(lambda: (now := self.ask("status"))["running"] is False and now, "the server ends") or {}

    def folder(self) -> Path:
        """Return the folder of the last launch."""
        return Path(json.loads((self.home / "launch.json").read_text())["folder"])

    def noted(self, name: str, line: int = 0) -> int:
        """Return a pid that the wrapper has noted."""
        return int((self.folder() / name).read_text().splitlines()[line].split()[0])

    def close(self) -> tuple[int, str, str]:
        """Close its input; return its exit code, and what is left of its output and errors."""
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=60)


StartAgent = Callable[..., RunningAgent]


@pytest.fixture
def start_agent(tmp_path: Path) -> Iterator[StartAgent]:
    """Start agents with one home, `home`; stop what they have launched at the end."""
    home = tmp_path / "home"
    started: list[RunningAgent] = []

    def start(**how: Any) -> RunningAgent:
        started.append(RunningAgent(how.pop("home", home), **how))
        return started[-1]

    yield start
    for agent in started:
        if agent.process.poll() is None:
            agent.kill()
    if started and started[0].home.exists():
        last = RunningAgent(started[0].home)
        last.ask("stop", grace_s=0)
        assert last.close() == (0, "", "")


@pytest.fixture
def agent(start_agent: StartAgent) -> RunningAgent:
    return start_agent()


def shell(code: str) -> tuple[str, str, str]:
    return "/bin/sh", "-c", code


def python(code: str) -> tuple[str, ...]:
    return sys.executable, "-I", "-S", "-c", code


def screen(*arguments: str) -> str:
    done = subprocess.run(["screen", *arguments], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


# The agent


def test_it_outlives_nonsense(agent: RunningAgent) -> None:
    for line in (
        "",
        "not json",
        "[]",
        "7",
        "{}",
        '{"do": null}',
        '{"do": ["clock"]}',
        '{"do": "stop", "grace_s": "x"}',
    ):
        answer = agent.send(line)
        assert answer["ok"] is False and answer["error"], line
        assert "\n" not in answer["error"] and "Traceback" not in answer["error"]
    assert agent.refusal("dance").startswith("the agent knows no request 'dance'; it knows clock, ")
    assert agent.refusal("stop") == "the request lacks 'grace_s'"
    assert agent.ask("clock").keys() == {"monotonic_s"}
    assert agent.close() == (0, "", "")


def test_all_requests_are_documented_and_known(agent: RunningAgent) -> None:
    documented = set(re.findall(r'^    \{"do": "(\w+)"', agent_main.__doc__ or "", re.MULTILINE))
    assert documented == set(agent.refusal("dance").partition("it knows ")[2].split(", "))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "usage: agent.pyz --home FOLDER --user NAME"),
        (["--user", "x", "--home", "y"], "usage: agent.pyz --home FOLDER --user NAME"),
        (["--home", "/proc/nothing", "--user", ME], "No such file or directory: '/proc/nothing'"),
        (["--home", "x", "--user", "no-such-user"], "--user no-such-user: there is no such user"),
    ],
)
def test_wrong_use_is_one_sentence(arguments: list[str], says: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, *bundle.words("__main__"), *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert says in done.stderr and done.stderr.count("\n") == 1
    assert [*tmp_path.iterdir()] == []


def test_the_clock_is_the_monotonic_one(agent: RunningAgent) -> None:
    before = time.monotonic()
    now = agent.ask("clock")["monotonic_s"]
    assert before <= now <= time.monotonic()


def test_facts_agree_with_an_independent_reading(agent: RunningAgent) -> None:
    facts = agent.ask("facts")
    disk, memory = disk_of(agent.home), memory_info()
    assert facts["kernel"] == os.uname().release
    assert facts["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert facts["cpu_count"] == os.cpu_count()
    assert facts["ram_bytes"] == memory["MemTotal"]
    assert facts["swap_total_bytes"] == memory["SwapTotal"]
    assert facts["mem_available_bytes"] == pytest.approx(memory["MemAvailable"], rel=0.25)
    assert facts["swap_free_bytes"] == pytest.approx(memory["SwapFree"], rel=0.25)
    assert facts["free_disk_bytes"] == pytest.approx(disk.free_bytes, rel=0.1)
    assert (facts["file_system"], facts["disk_device"]) == (disk.file_system, disk.device)
    assert facts["disk_rotational"] == disk.rotational
    assert facts["screen"] == (shutil.which("screen") is not None)
    assert facts["systemd"] == Path("/run/systemd/system").is_dir()
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert f'"{facts["operating_system"]}"' in Path("/etc/os-release").read_text()


def test_fresh_folders_are_empty_and_private(agent: RunningAgent, tmp_path: Path) -> None:
    assert agent.ask("fresh_folders") == {"data": str(agent.home / "data"), "tmp": str(agent.home / "tmp")}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("x")
    (agent.home / "data" / "deep" / "deeper").mkdir(parents=True)
    (agent.home / "data" / "deep" / "store.db").write_text("x")
    (agent.home / "data" / "link").symlink_to(elsewhere)
    (agent.home / "tmp" / "multipart-1").write_text("x")
    agent.ask("fresh_folders")
    for name in ("data", "tmp"):
        folder = agent.home / name
        assert [*folder.iterdir()] == [] and folder.stat().st_mode & 0o777 == 0o700
        assert folder.owner() == ME
    assert (elsewhere / "precious").exists()


def test_it_says_that_only_root_may_act_for_another_user(agent: RunningAgent) -> None:
    if os.geteuid() == 0:
        return  # It may.
    other = RunningAgent(agent.home, "root")
    code, out, err = other.close()
    assert (code, out) == (1, "") and "only root may run a server as another user" in err


# A server


@needs_screen
def test_a_launched_server_outlives_its_agents(start_agent: StartAgent) -> None:
    first = start_agent()
    status = first.launch("/bin/sleep", "1000")
    assert status.keys() == STATUS
    assert status["running"] is True and status["launcher"] == "screen" and alive(status["pid"])
    assert status["started_monotonic_s"] <= time.monotonic()
    # What was launched holds none of the agent's pipes open: reading them to their end returns.
    assert first.close() == (0, "", "")
    second = start_agent()
    assert own(second.ask("status")) == own(status)
    second.kill()
    third = start_agent()
    assert own(third.ask("status")) == own(status)
    ended = third.ask("stop", grace_s=30)
    assert ended == {
        **status,
        "running": False,
        "exit_signal": "SIGTERM",
        "ended_monotonic_s": ended["ended_monotonic_s"],
        "stop_s": ended["stop_s"],
        # Of this whole host, where other tests have their servers killed.
        "oom_kills": ended["oom_kills"],
    }
    assert status["started_monotonic_s"] <= ended["ended_monotonic_s"] <= time.monotonic()
    assert 0 < ended["stop_s"] < 30
    assert not alive(status["pid"])
    # Later, too, and when there is nothing to stop.
    assert own(start_agent().ask("stop", grace_s=0)) == own(ended)


@needs_screen
@pytest.mark.parametrize(
    ("code", "exit_code", "exit_signal"),
    [
        ("exit 0", 0, None),
        ("exit 3", 3, None),
        ("exit 137", 137, None),
        ("exit 255", 255, None),
        ("kill -KILL $$", None, "SIGKILL"),
        ("kill -SEGV $$", None, "SIGSEGV"),
        ("kill -TERM $$", None, "SIGTERM"),
        ("kill -INT $$", None, "SIGINT"),
        ("kill -37 $$", None, "SIG37"),
    ],
)
def test_how_a_server_ended(agent: RunningAgent, code: str, exit_code: int | None, exit_signal: str | None) -> None:
    agent.launch(*shell(f"ulimit -c 0; {code}"))
    status = agent.ended()
    assert (status["exit_code"], status["exit_signal"], status["stop_s"]) == (exit_code, exit_signal, None)
    assert status["started_monotonic_s"] <= status["ended_monotonic_s"]
    assert status["oom_evidence"] is None


@needs_screen
def test_a_server_that_ignores_sigterm_is_killed_after_the_grace(agent: RunningAgent) -> None:
    pid = agent.launch(*shell("trap '' TERM; echo up; while :; do sleep 0.01; done"))["pid"]
    eventually(lambda: "up" in agent.ask("log", bytes=100)["text"], "the trap is set")
    status = agent.ask("stop", grace_s=0.2)
    assert status["exit_signal"] == "SIGKILL" and status["stop_s"] >= 0.2
    assert not alive(pid)


@needs_screen
def test_the_surroundings_of_a_server(agent: RunningAgent) -> None:
    code = (
        "import json, os, signal\n"
        "fd = {n: os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd') if int(n) < 3}\n"
        "more = [n for n in os.listdir('/proc/self/fd') if int(n) > 2 and os.path.exists(f'/proc/self/fd/{n}')]\n"
        "ignored = [s.name for s in signal.valid_signals() if signal.getsignal(s) == signal.SIG_IGN]\n"
        "tty = open('/proc/self/stat').read().rpartition(')')[2].split()[4]\n"
        "print(json.dumps([dict(os.environ), os.getcwd(), fd, more, ignored, tty, os.getsid(0) == os.getpid()]))"
    )
    values = {"A": 'it\'s "x" $HOME `id` \\ * ü', "LINES": "two\nlines ", "IFS": ":", "EMPTY": "", "PATH": os.defpath}
    agent.launch(*python(code), env=values)
    agent.ended()
    environment, folder, descriptors, more, ignored, tty, leads = json.loads(agent.ask("log", bytes=1 << 16)["text"])
    environment.pop("LC_CTYPE", None)  # Python's own
    assert environment == values
    assert folder == str(agent.home)
    assert descriptors == {"0": "/dev/null", **dict.fromkeys("12", str(agent.home / "server.log"))}
    assert more == []
    assert set(ignored) <= {"SIGPIPE", "SIGXFSZ"}  # Python's own
    assert tty == "0" and leads


@needs_screen
def test_a_secret_is_in_no_argument_and_no_file(agent: RunningAgent) -> None:
    pid = agent.launch("/bin/sleep", "1000", env={"PS_SHARED_SECRET": SECRET})["pid"]
    assert f"PS_SHARED_SECRET={SECRET}\0" in Path(f"/proc/{pid}/environ").read_text()
    ours = {pid, agent.process.pid, agent.noted("wrapper"), agent.noted("wrapper", 1)}
    ours |= {child for one in [*ours] for child in descendants(one)}
    assert len(ours) >= 5  # tail, too
    for one in ours:
        assert SECRET not in Path(f"/proc/{one}/cmdline").read_text()
        assert one == pid or SECRET not in Path(f"/proc/{one}/environ").read_text()
    files = [path for path in agent.home.rglob("*") if path.is_file()]
    assert files and not any(SECRET in path.read_text() for path in files)


@needs_screen
def test_the_screen_shows_the_servers_output_live(agent: RunningAgent, tmp_path: Path) -> None:
    line = "a line that a person may see"
    agent.launch(*shell(f"echo {line}; exec sleep 1000"))
    session = f"{agent.noted('wrapper', 1)}.server"
    assert session in screen("-ls")
    shot = tmp_path / "window"

    def shown() -> str:
        screen("-S", session, "-p", "0", "-X", "hardcopy", str(shot))
        return shot.read_text() if shot.exists() else ""

    eventually(lambda: line in shown(), "the window shows the line")
    assert agent.ask("log", bytes=1000)["text"] == f"{line}\n"
    agent.ask("stop", grace_s=30)
    assert session not in screen("-ls")


@needs_screen
def test_a_person_who_closes_the_screen_does_not_end_the_server(agent: RunningAgent) -> None:
    status = agent.launch("/bin/sleep", "1000")
    session = agent.noted("wrapper", 1)
    screen("-S", f"{session}.server", "-X", "quit")
    eventually(lambda: not alive(session), "the session ends")
    assert own(agent.ask("status")) == own(status) and alive(status["pid"])
    # And how it ended is noted nevertheless.
    assert agent.ask("stop", grace_s=30)["exit_signal"] == "SIGTERM"


@needs_screen
def test_stop_ends_a_session_with_a_persons_own_window(agent: RunningAgent) -> None:
    agent.launch("/bin/sleep", "1000")
    session = agent.noted("wrapper", 1)
    screen("-S", f"{session}.server", "-X", "screen", "sleep", "1001")
    eventually(lambda: len(descendants(session)) >= 4, "the window opens")
    agent.ask("stop", grace_s=30)
    assert not alive(session) and f"{session}.server" not in screen("-ls")


@needs_screen
def test_what_a_server_has_started_ends_with_it(agent: RunningAgent) -> None:
    agent.launch(*shell("sleep 1000 & echo $!; exec sleep 1000"))
    child = int(eventually(lambda: agent.ask("log", bytes=100)["text"].strip(), "the child's pid"))
    agent.ask("stop", grace_s=30)
    eventually(lambda: not alive(child), "the child ends")


@needs_screen
def test_a_server_without_its_wrapper_is_found_and_stopped(start_agent: StartAgent) -> None:
    agent = start_agent()
    status = agent.launch(*shell("sleep 1000 & echo $!; exec sleep 1000"))
    child = int(eventually(lambda: agent.ask("log", bytes=100)["text"].strip(), "the child's pid"))
    wrapper = agent.noted("wrapper")
    os.kill(wrapper, signal.SIGKILL)
    eventually(lambda: not alive(wrapper), "the wrapper ends")
    assert own(agent.ask("status")) == own(status) and alive(status["pid"])
    assert "already running" in agent.refusal("launch", argv=["/bin/sleep", "1000"], env={}, launcher=None)
    stopped = start_agent().ask("stop", grace_s=30)
    # Nobody has seen how it ended, only when.
    assert (stopped["exit_code"], stopped["exit_signal"]) == (None, None)
    assert stopped["started_monotonic_s"] == status["started_monotonic_s"] <= stopped["ended_monotonic_s"]
    assert stopped["stop_s"] > 0 and not alive(status["pid"])
    eventually(lambda: not alive(child), "the child ends")


@needs_screen
def test_what_nobody_has_seen_is_not_known(agent: RunningAgent) -> None:
    status = agent.launch("/bin/sleep", "1000")
    for pid in (agent.noted("wrapper"), status["pid"]):
        os.kill(pid, signal.SIGKILL)
    unknown = agent.ended()
    for name in ("exit_code", "exit_signal", "ended_monotonic_s", "stop_s"):
        assert unknown[name] is None, name
    assert unknown["started_monotonic_s"] == status["started_monotonic_s"]


@needs_screen
def test_a_reused_pid_is_not_the_server(agent: RunningAgent) -> None:
    agent.launch("/bin/true")
    agent.ended()
    with subprocess.Popen(["sleep", "1000"]) as bystander:
        stat = Path(f"/proc/{bystander.pid}/stat").read_text()
        ticks = stat.rpartition(")")[2].split()[19]
        (agent.folder() / "pid").write_text(stat.replace(f" {ticks} ", f" {int(ticks) - 1} "))
        status = agent.ask("stop", grace_s=0)
        assert status["pid"] == bystander.pid and status["running"] is False and status["stop_s"] is None
        assert agent.ask("anon_bytes") == {"anon_bytes": None}
        assert bystander.poll() is None
        bystander.kill()


@needs_screen
def test_a_server_of_another_boot_is_none(agent: RunningAgent) -> None:
    agent.launch("/bin/true")
    agent.ended()
    file = agent.home / "launch.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "boot_id": "another"}))
    status = agent.ask("status")
    assert status["running"] is False and {status[name] for name in STATUS - {"running"}} == {None}
    agent.launch("/bin/true")
    assert agent.ended()["exit_code"] == 0


@needs_screen
def test_one_server_at_a_time(agent: RunningAgent) -> None:
    pid = agent.launch("/bin/sleep", "1000")["pid"]
    refused = agent.refusal("launch", argv=["/bin/sleep", "1000"], env={}, launcher=None)
    assert refused == f"a server is already running in this guest (pid {pid}); stop it first"
    assert f"pid {pid}" in agent.refusal("fresh_folders")
    agent.ask("stop", grace_s=30)
    assert agent.launch("/bin/sleep", "1000")["pid"] != pid
    # Nothing is left of the first.
    assert len([*agent.home.glob("launch-*")]) == 1


@needs_screen
def test_a_launch_of_a_killed_agent_leaves_one_server_or_none(start_agent: StartAgent, tmp_path: Path) -> None:
    for _ in range(4):
        doomed = start_agent()
        assert doomed.process.stdin is not None
        environment = {"HOME": str(doomed.home)}
        request = {"do": "launch", "argv": ["/bin/sleep", "1000"], "env": environment, "launcher": None}
        before = {*doomed.home.glob("launch-*")}
        doomed.process.stdin.write(json.dumps(request) + "\n")
        doomed.process.stdin.flush()
        eventually(lambda home=doomed.home, old=before: {*home.glob("launch-*")} - old, "it begins")
        doomed.kill()
        agent = start_agent()
        agent.ask("stop", grace_s=0)
        pid = agent.launch("/bin/sleep", "1000")["pid"]
        agent.ask("stop", grace_s=0)
        agent.close()
        assert not alive(pid)
    # The fixture `scratch` finds any other that would be left.


@needs_screen
def test_launches_that_fail_say_why(agent: RunningAgent, tmp_path: Path) -> None:
    def refusal(argv: Any, env: Any = None, launcher: Any = None) -> str:
        return agent.refusal("launch", argv=argv, env={} if env is None else env, launcher=launcher)

    no_interpreter, plain = (tmp_path / name for name in ("no-interpreter", "plain"))
    no_interpreter.write_text("#!/nowhere/python3\n")
    plain.write_text("x")
    no_interpreter.chmod(0o755)
    assert refusal(["/nowhere/picoshare"]) == "there is no server at /nowhere/picoshare"
    assert refusal([str(tmp_path)]) == f"there is no server at {tmp_path}"
    assert refusal(["sleep", "1"]) == "there is no server at sleep"
    assert refusal([str(plain)]) == f"the server {plain} is not executable"
    said = refusal([str(no_interpreter)])
    assert said.startswith("the server ended at once with exit code 127: ") and "No such file" in said
    for wrong in ([], "sleep", [7], None):
        assert "argv must be" in refusal(wrong)
    assert refusal(["/bin/true"], {"A B": "x"}) == "env: 'A B' cannot be the name of a variable"
    assert "env must be" in refusal(["/bin/true"], {"A": 7})
    assert "NUL" in refusal(["/bin/true"], {"A": "\0"})
    assert refusal(["/bin/true"], None, "tmux") == "launcher 'tmux' must be one of screen, systemd, or null"
    if not Path("/run/systemd/system").is_dir():
        assert refusal(["/bin/true"], None, "systemd") == "the guest has no systemd to run a server with"
    # None of them is said to be a server, and none has left anything.
    assert agent.ask("status")["pid"] is None
    assert [*agent.home.glob("launch*")] == []


@needs_screen
def test_what_is_no_program_ends_at_once(agent: RunningAgent, tmp_path: Path) -> None:
    no_program = tmp_path / "no-program"
    no_program.write_bytes(b"\x7fELF" + bytes(100))
    no_program.chmod(0o755)
    answer = agent.send(json.dumps({"do": "launch", "argv": [str(no_program)], "env": {}, "launcher": None}))
    # What the kernel refuses, execvp(3) gives to a shell, which may be seen running before it fails.
    if answer["ok"]:
        assert agent.ended()["exit_code"] in (126, 127)
    else:
        assert answer["error"].startswith("the server ended at once with exit code 12")
        assert str(no_program) in answer["error"]


@needs_screen
def test_the_log_is_that_of_the_last_server(agent: RunningAgent) -> None:
    assert agent.ask("log", bytes=10) == {"text": ""}
    assert agent.ask("whole_log", limit_bytes=10) == {"size_bytes": None, "base64": None}
    agent.launch(*shell("echo first"))
    agent.ended()
    agent.launch(*shell("printf 'second, out\\n'; printf 'second, err \\377\\n' >&2"))
    agent.ended()
    assert agent.ask("log", bytes=1000) == {"text": "second, out\nsecond, err \N{REPLACEMENT CHARACTER}\n"}
    assert agent.ask("log", bytes=3) == {"text": "r \N{REPLACEMENT CHARACTER}\n"[-3:]}
    whole = b"second, out\nsecond, err \377\n"
    answer = agent.ask("whole_log", limit_bytes=len(whole))
    assert (answer["size_bytes"], base64.b64decode(answer["base64"])) == (len(whole), whole)
    assert agent.ask("whole_log", limit_bytes=len(whole) - 1) == {"size_bytes": len(whole), "base64": None}
    assert agent.home.joinpath("server.log").owner() == ME


def test_a_build_is_installed_when_it_can_run(agent: RunningAgent, tmp_path: Path) -> None:
    build = tmp_path / "build"
    found = []
    for change in (lambda: None, build.touch, lambda: build.chmod(0o755), lambda: (build.unlink(), build.mkdir())):
        change()
        found.append(agent.ask("is_installed", path=str(build))["installed"])
    assert found == [False, False, True, False]


@needs_screen
def test_the_calibration_server(agent: RunningAgent) -> None:
    data = agent.ask("fresh_folders")["data"]
    port = agent.ask("free_port")["port"]
    assert agent.ask("listener", port=port) == {"listener": "nobody"}
    environment = {"PORT": str(port), "PS_SHARED_SECRET": SECRET, "TMPDIR": str(agent.home / "tmp")}
    argv = [sys.executable, "-I", "-S", str(server_path()), "-db", f"{data}/store.db"]
    assert agent.ask("anon_bytes") == {"anon_bytes": None}
    pid = agent.launch(*argv, env=environment)["pid"]
    eventually(lambda: agent.ask("listener", port=port)["listener"] == "server", "it listens")
    assert f"listening on 127.0.0.1:{port}" in agent.ask("log", bytes=1000)["text"]
    rss_anon = re.search(r"^RssAnon:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert rss_anon and agent.ask("anon_bytes") == {"anon_bytes": int(rss_anon[1]) * 1024}
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert agent.ask("listener", port=other.getsockname()[1]) == {"listener": "other"}
    status = agent.ask("stop", grace_s=30)
    assert (status["exit_code"], status["exit_signal"]) == (0, None)
    assert agent.ask("listener", port=port) == {"listener": "nobody"}


@needs_screen
def test_a_child_of_the_server_is_the_server(agent: RunningAgent) -> None:
    code = (
        "import os, socket, time\n"
        "if os.fork() == 0:\n"
        "    s = socket.create_server(('127.0.0.1', 0))\n"
        "    print(s.getsockname()[1], flush=True)\n"
        "time.sleep(1000)"
    )
    agent.launch(*python(code))
    port = int(eventually(lambda: agent.ask("log", bytes=100)["text"].strip(), "the port"))
    assert agent.ask("listener", port=port) == {"listener": "server"}


def test_a_free_port_is_free_on_all_addresses(agent: RunningAgent) -> None:
    port = agent.ask("free_port")["port"]
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", port))


@pytest.fixture
def agent_on_small_disk(start_agent: StartAgent, tmp_path: Path) -> Iterator[RunningAgent]:
    """An agent whose home is a file system of 1 MiB."""
    home = tmp_path / "small"
    home.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(home)], check=False, timeout=60)
    if mounted.returncode:
        pytest.skip("this host does not let its root mount a file system")
    agent = start_agent(home=home)
    try:
        yield agent
    finally:
        agent.ask("stop", grace_s=0)
        agent.close()
        eventually(lambda: not subprocess.run(["umount", str(home)], check=False, timeout=60).returncode, "unmounted")
        home.rmdir()


@needs_root
@needs_screen
def test_a_full_disk_does_not_hide_how_the_server_ended(agent_on_small_disk: RunningAgent, tmp_path: Path) -> None:
    agent = agent_on_small_disk
    fill = "cat /dev/zero >filler; i=0; while echo x >filler-$i; do i=$((i+1)); done"
    agent.launch(*shell(f"{fill}; kill -KILL $$"))
    status = agent.ended()
    assert (tmp_path / "small" / "filler").stat().st_size > MIB // 2
    assert (status["exit_code"], status["exit_signal"]) == (None, "SIGKILL")
    assert status["ended_monotonic_s"] is not None


@needs_root
@needs_screen
def test_a_server_is_stopped_on_a_full_disk(agent_on_small_disk: RunningAgent, tmp_path: Path) -> None:
    agent = agent_on_small_disk
    agent.launch(*shell("cat /dev/zero >filler; exec sleep 1000"))
    eventually(lambda: os.statvfs(tmp_path / "small").f_bavail == 0, "the disk is full")
    stopped = agent.ask("stop", grace_s=10)
    assert not stopped["running"] and stopped["exit_signal"] == "SIGTERM"
    assert stopped["stop_s"] is not None and stopped["ended_monotonic_s"] is not None


# The page cache and the disk


@needs_root
@needs_screen
@pytest.mark.alone
def test_the_servers_files_leave_the_page_cache(agent: RunningAgent) -> None:
    store = Path(agent.ask("fresh_folders")["data"]) / "store.db"
    agent.launch(*shell(f"head -c {8 * MIB} /dev/urandom >{store}; echo written; exec sleep 1000"))
    eventually(lambda: "written" in agent.ask("log", bytes=100)["text"], "the server has written")
    assert disk.cached_and_size(str(store)) == (8 * MIB, 8 * MIB)
    assert agent.ask("drop_page_cache") == {"reason": None}
    assert disk.cached_and_size(str(store)) == (0, 8 * MIB)
    assert agent.ask("status")["running"], "the server is left alone"


def check_the_time_of_a_sync(agent: RunningAgent) -> None:
    rate = 16 * MIB
    store = Path(agent.ask("fresh_folders")["data"]) / "store.db"
    store.write_bytes(os.urandom(24 * MIB))
    with throttled(agent.home, rate, agent.process.pid):
        begun_s = time.monotonic()
        took_s = agent.ask("sync_data")["sync_s"]
        elapsed_s = time.monotonic() - begun_s
        again_s = agent.ask("sync_data")["sync_s"]
    # A busy host makes it longer and never shorter; the kernel's throttle lets 0.1 s of its rate pass at once.
    assert 0.92 * 24 * MIB / rate <= took_s <= elapsed_s
    assert again_s < took_s / 2, "all of it was on the disk before"


@pytest.mark.alone
def test_bringing_data_to_the_disk_takes_what_the_disk_takes(agent: RunningAgent) -> None:
    check_the_time_of_a_sync(agent)


def test_what_cannot_be_brought_to_the_disk_is_told(agent: RunningAgent) -> None:
    missing = agent.home / "data"
    said = f"what the server has written could not be brought to the disk (No such file or directory: {missing})"
    assert agent.refusal("sync_data") == said


# The OOM killer


@needs_root
@needs_screen
def test_an_oom_kill_has_evidence(agent: RunningAgent) -> None:
    try:
        group = plan_cgroup(find_method(), f"picolab-guest-{os.getpid()}")
    except MemoryLimitUnavailable as error:
        pytest.skip(str(error))
    assert group is not None
    code = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)\nx = bytearray(200 << 20)"
    group.create(64 * MIB)
    try:
        agent.ask("fresh_folders")
        pid = agent.launch(*python(code))["pid"]
        before = agent.ask("status")["oom_kills"]
        group.add(pid)
        (agent.home / "go").touch()
        status = agent.ended()
        assert (status["exit_code"], status["exit_signal"]) == (None, "SIGKILL")
        assert status["oom_kills"] > before
        assert status["oom_evidence"] is not None, "the kernel's log names it"
        assert re.search(rf"out of memory: Killed process {pid} \(", status["oom_evidence"], re.IGNORECASE)
    finally:
        agent.ask("stop", grace_s=0)
        group.remove()


@needs_screen
def test_a_server_killed_by_somebody_else_has_no_evidence(agent: RunningAgent) -> None:
    os.kill(agent.launch("/bin/sleep", "1000")["pid"], signal.SIGKILL)
    status = agent.ended()
    assert status["exit_signal"] == "SIGKILL" and status["oom_evidence"] is None


@needs_screen
def test_the_oom_killer_shall_take_the_server_and_not_the_agent(start_agent: StartAgent) -> None:
    def score(pid: int | str) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    before = score(os.getpid()), score(os.getppid())
    agent = start_agent()
    pid = agent.launch("/bin/sleep", "1000")["pid"]
    attempt = ["sh", "-c", "echo -1000 2>/dev/null >/proc/self/oom_score_adj"]
    may = subprocess.run(attempt, stderr=subprocess.DEVNULL, timeout=60, check=False).returncode == 0
    assert score(agent.process.pid) == (-1000 if may else score("self"))
    assert score(pid) == (0 if may else score("self"))
    # Only what belongs to an ssh session is the instrument's, not whoever else has started it.
    assert (score(os.getpid()), score(os.getppid())) == before


# Without root


@needs_root
@needs_screen
def test_an_agent_without_root_says_what_it_may_not(start_agent: StartAgent, scratch: Path, tmp_path: Path) -> None:
    if shutil.which("python3", path=os.defpath) is None:
        pytest.skip("this host has no python3 of its own")
    nobody = pwd.getpwnam(NOBODY)
    scratch.chmod(0o711)
    zipapp = _zipapp(tmp_path)
    zipapp.chmod(0o644)
    home = tmp_path / "nobodys"
    home.mkdir()
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    how: dict[str, Any] = {"home": home, "zipapp": zipapp, "user": NOBODY}
    by = {"preexec_fn": lambda: (os.setgroups([]), os.setgid(nobody.pw_gid), os.setuid(nobody.pw_uid))}
    code, _, said = start_agent(**{**how, "user": "root"}, **by).close()
    assert code == 1 and "only root may run a server as another user; run the agent with sudo" in said
    agent = start_agent(**how, **by)
    agent.ask("fresh_folders")
    pid = agent.launch("/bin/sleep", "1000")["pid"]
    assert Path(f"/proc/{pid}").owner() == NOBODY
    # The time that it is: nothing would be changed by it.
    assert "it needs root" in agent.refusal("set_clock", wall_s=time.time())
    (home / "data" / "store.db").write_text("x")
    assert agent.ask("sync_data")["sync_s"] > 0
    refused = "the page cache could not be dropped (Permission denied); it needs root"
    assert agent.ask("drop_page_cache") == {"reason": refused}
    assert agent.refusal("reset") == refused
    # All the rest of the reset was done.
    assert not alive(pid) and agent.ask("status")["pid"] is None
    assert {path.name for path in home.rglob("*")} == {"data", "tmp", "lock"}
    agent.close()


@needs_root
@needs_screen
def test_root_runs_the_server_as_the_user(start_agent: StartAgent, scratch: Path, tmp_path: Path) -> None:
    scratch.chmod(0o711)
    agent = start_agent(user=NOBODY)
    data = Path(agent.ask("fresh_folders")["data"])
    pid = agent.launch(*shell("id -un; id -G; touch data/mine; exec sleep 1000"))["pid"]
    eventually(lambda: (data / "mine").exists(), "the server writes to its folder")
    assert (data / "mine").owner() == data.owner() == NOBODY
    assert {Path(f"/proc/{one}").owner() for one in (pid, agent.noted("wrapper"))} == {NOBODY}
    group = pwd.getpwnam(NOBODY).pw_gid
    assert agent.ask("log", bytes=100)["text"] == f"{NOBODY}\n{group}\n"
    agent.ask("stop", grace_s=30)
    assert ProcessIdentity.of(pid) is None
