"""The memory probe as the lone file it is, beside an independent reading of /proc."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import MIB, alive, eventually

from picolab.agent import bundle, memory_probe
from picolab.agent.disk import space_of
from picolab.agent.procfs import descendants
from picolab.errors import MemoryLimitUnavailable
from picolab.host.facts import disk_of
from picolab.machines.local.cgroup import MemoryCgroup, find_method, plan_cgroup
from picolab.record.samples import Samples, read_samples, summarise

PROBE = bundle.words("memory_probe")
NOT_PERMITTED = ("setpriv", "--bounding-set=-ipc_lock", "prlimit", "--memlock=0")
HOLD = "import sys; x = bytearray(int(sys.argv[1]) << 20); print('up', flush=True); sys.stdin.read()"
HOLD_AND_DROP = (
    "import sys, mmap; x = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
    "for at in range(0, 64 << 20, 4096): x[at] = 1\n"
    "x.close(); print('up', flush=True); sys.stdin.read()"
)


class RunningProbe:
    """A probe and the file that it writes to."""

    def __init__(self, output: Path, command: list[str]) -> None:
        self.output = output
        with output.open("ab") as file:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file)

    def lines(self) -> int:
        return self.output.read_bytes().count(b"\n")

    def until(self, lines: int) -> None:
        eventually(lambda: self.lines() >= lines, f"{lines} lines")

    def finish(self) -> Samples:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(60) == 0
        return read_samples(self.output)


StartProbe = Callable[..., RunningProbe]


@pytest.fixture
def probe(scratch: Path) -> Iterator[StartProbe]:
    """Start probes, each with a file of its own; end them by their pids."""
    started: list[RunningProbe] = []

    def start(
        pid: int, interval: float = 0.02, *more: str, python: tuple[str, ...] = (sys.executable,)
    ) -> RunningProbe:
        options = ["--pid", str(pid), "--interval", str(interval), *more]
        running = RunningProbe(scratch / f"samples-{len(started)}.jsonl", [*python, *PROBE, *options])
        started.append(running)
        running.until(2)
        return running

    yield start
    for running in started:
        running.process.kill()
        running.process.wait()
        assert running.process.stdin is not None
        running.process.stdin.close()


@pytest.fixture
def target() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start processes that print `up` and then live until their input is closed."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str = HOLD, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def cgroup(scratch: Path) -> Iterator[MemoryCgroup]:
    """A memory cgroup of this kernel with 64 MiB."""
    try:
        group = plan_cgroup(find_method(), f"picolab-probe-{os.getpid()}")
    except MemoryLimitUnavailable as error:
        pytest.skip(str(error))
    assert group is not None
    group.create(64 * MIB)
    yield group
    group.remove()


def status_bytes(pid: int, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
    assert found
    return int(found[1]) * 1024


def test_columns_agree_with_an_independent_reading(
    probe: StartProbe, target: Callable[..., subprocess.Popen[str]], scratch: Path
) -> None:
    pid = target(HOLD, "48").pid
    device = disk_of(scratch).device
    running = probe(pid, 0.02, *(("--disk", device) if device else ()))
    running.until(8)
    samples = running.finish()
    assert tuple(samples.columns) == memory_probe.COLUMNS
    assert all(len(row) == len(memory_probe.COLUMNS) for row in samples.rows)
    assert samples.peak("rss_bytes") == status_bytes(pid, "VmRSS")
    assert samples.peak("anon_bytes") == status_bytes(pid, "RssAnon") >= 48 * MIB
    assert samples.peak("vm_hwm_bytes") == status_bytes(pid, "VmHWM")
    assert samples.peak("swap_bytes") == status_bytes(pid, "VmSwap")
    meminfo = dict(re.findall(r"^(\w+):\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.M))
    for column, name in (("mem_available_bytes", "MemAvailable"), ("cached_bytes", "Cached")):
        assert samples.peak(column) == pytest.approx(int(meminfo[name]) * 1024, rel=0.25)
    assert samples.peak("dirty_bytes") is not None and samples.peak("writeback_bytes") is not None
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    cpu_s = samples.column("server_cpu_s")[-1]
    assert cpu_s == (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")
    times = [t for t in samples.column("t_s") if t is not None]
    assert times == sorted(times)
    for counter in ("host_cpu_busy_s", "host_cpu_steal_s"):
        values = [v for v in samples.column(counter) if v is not None]
        assert values == sorted(values) and len(values) == len(times)
    if device:
        (fields,) = [
            line.split() for line in Path("/proc/diskstats").read_text().splitlines() if line.split()[2] == device
        ]
        read, written = samples.peak("disk_read_bytes"), samples.peak("disk_written_bytes")
        assert read is not None and 0 < read <= int(fields[5]) * 512
        assert written is not None and 0 < written <= int(fields[9]) * 512


def test_the_high_water_mark_shows_memory_that_is_gone_again(
    probe: StartProbe, target: Callable[..., subprocess.Popen[str]]
) -> None:
    samples = probe(target(HOLD_AND_DROP).pid).finish()
    hwm, rss = samples.peak("vm_hwm_bytes"), samples.peak("rss_bytes")
    assert hwm is not None and rss is not None
    assert hwm >= 64 * MIB > 48 * MIB > rss


SPIKE = (
    "import sys, mmap; print('up', flush=True); sys.stdin.readline()\n"
    "x = mmap.mmap(-1, 24 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE); x.close()\n"
    "print('over', flush=True); sys.stdin.read()"
)


def test_a_spike_between_two_samples_is_found_within_a_mib(probe: StartProbe, cgroup: MemoryCgroup) -> None:
    """However short it is: the kernel keeps its own peaks, of the process and of the cgroup."""
    inside = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(cgroup.path), sys.executable, "-c", SPIKE]
    with subprocess.Popen(inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None and process.stdout.readline() == b"up\n"
        running = probe(process.pid, 3600, "--cgroup", str(cgroup.path))
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"over\n"
        samples = running.finish()
        process.kill()
    assert len(samples.rows) == 2, "one before it and one after it"
    if "cgroup_peak_bytes" in samples.missing:
        pytest.skip(samples.missing["cgroup_peak_bytes"])
    record, _ = summarise(samples, 3600, 0.0)
    before = {name: samples.column(name)[0] or 0 for name in ("rss_bytes", "cgroup_bytes")}
    assert record.vm_hwm_bytes == pytest.approx(before["rss_bytes"] + 24 * MIB, abs=MIB)
    assert record.peak_cgroup_bytes == pytest.approx(before["cgroup_bytes"] + 24 * MIB, abs=MIB)
    assert record.peak_rss_bytes == pytest.approx(before["rss_bytes"], abs=2 * MIB), "sampling alone misses it"


def test_more_than_ten_samples_a_second_at_the_default_interval(probe: StartProbe) -> None:
    running = probe(os.getpid(), 0.05)
    running.until(25)
    record, _ = summarise(running.finish(), 0.05, 0.0)
    assert record.samples_per_s is not None and record.samples_per_s >= 10
    assert record.probe_cpu_share is not None and 0 < record.probe_cpu_share < 0.5


def test_the_cgroup_and_its_oom_kills(
    probe: StartProbe, target: Callable[..., subprocess.Popen[str]], cgroup: MemoryCgroup
) -> None:
    inside = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(cgroup.path), sys.executable, "-c", HOLD]
    with subprocess.Popen([*inside, "32"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        running = probe(process.pid, 0.02, "--cgroup", str(cgroup.path))
        running.until(4)
        subprocess.run([*inside, "200"], stdin=subprocess.DEVNULL, check=False, timeout=60)
        eventually(lambda: cgroup.oom_kills, "the kernel kills the second")
        running.until(running.lines() + 2)
        killed = cgroup.oom_kills
        samples = running.finish()
        process.kill()
    usage = [v for v in samples.column("cgroup_bytes") if v is not None]
    assert len(usage) == len(samples.rows) and min(usage) > 0 and max(usage) <= 64 * MIB
    anon = samples.column("cgroup_anon_bytes")[0]
    assert anon is not None and 32 * MIB <= anon < 64 * MIB
    kills = [v for v in samples.column("oom_kills") if v is not None]
    assert (kills[0], kills[-1]) == (0, killed) and kills == sorted(kills)
    record, missing = summarise(samples, 0.02, 0.0)
    assert record.oom_kills == killed
    assert {"cgroup_bytes", "cgroup_anon_bytes", "oom_kills"}.isdisjoint(samples.missing)
    assert not any(name.startswith("memory.peak_cgroup") for name in missing)


def oom_kills_of_this_host() -> int:
    found = re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(), re.M)
    assert found
    return int(found[1])


def test_the_whole_machine_and_its_oom_kills(
    probe: StartProbe, target: Callable[..., subprocess.Popen[str]], cgroup: MemoryCgroup
) -> None:
    before = oom_kills_of_this_host()
    running = probe(target(HOLD, "8").pid, 0.02, "--whole-machine")
    inside = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(cgroup.path), sys.executable, "-c", HOLD]
    subprocess.run([*inside, "200"], stdin=subprocess.DEVNULL, check=False, timeout=60)
    eventually(lambda: cgroup.oom_kills, "the kernel kills it")
    running.until(running.lines() + 2)
    samples = running.finish()
    kills = [v for v in samples.column("oom_kills") if v is not None]
    assert len(kills) == len(samples.rows) and kills == sorted(kills)
    assert before <= kills[0] < kills[-1] <= oom_kills_of_this_host()
    assert "oom_kills" not in samples.missing
    assert samples.missing["cgroup_bytes"] == "the machine itself is the limit"
    record, missing = summarise(samples, 0.02, 0.0)
    assert record.oom_kills is not None and record.oom_kills >= 1 and "memory.oom_kills" not in missing


def test_in_a_virtual_machine_the_oom_killer_spares_the_probe(probe: StartProbe) -> None:
    def score(pid: int | str) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    attempt = ["sh", "-c", "echo -1000 2>/dev/null >/proc/self/oom_score_adj"]
    may = subprocess.run(attempt, stderr=subprocess.DEVNULL, timeout=60, check=False).returncode == 0
    assert score(probe(os.getpid(), 0.02, "--whole-machine").process.pid) == (-1000 if may else score("self"))
    # Beside others on a host it has no such privilege.
    assert score(probe(os.getpid()).process.pid) == score("self")


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user may lock only a little memory")
def test_its_pages_are_locked_and_it_grows_by_less_than_a_mib(probe: StartProbe) -> None:
    running = probe(os.getpid())
    running.until(10)
    pid = running.process.pid
    assert status_bytes(pid, "VmLck") > 0.8 * status_bytes(pid, "VmSize")
    locked = status_bytes(pid, "VmRSS")
    assert running.finish().unlocked is None
    free = probe(os.getpid(), python=(*NOT_PERMITTED, sys.executable))
    free.until(10)
    assert locked - status_bytes(free.process.pid, "VmRSS") < MIB


@pytest.mark.skipif(os.geteuid() != 0, reason="a capability is taken from root")
def test_without_permission_to_lock_pages_it_samples_and_says_so(probe: StartProbe) -> None:
    running = probe(os.getpid(), 0.02, "--whole-machine", python=(*NOT_PERMITTED, sys.executable))
    running.until(10)
    assert status_bytes(running.process.pid, "VmLck") == 0
    samples = running.finish()
    assert samples.end is not None and samples.peak("rss_bytes")
    assert samples.unlocked is not None and "locked in memory (Operation not permitted)" in samples.unlocked


def test_a_kernel_that_does_not_count_oom_kills_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("nr_free_pages 7\nnot_oom_kill 9\n")
    sampler = memory_probe.Sampler(os.getpid(), None, None, whole_machine=True)
    monkeypatch.setattr(sampler, "vmstat", memory_probe.KernelFile(str(vmstat)))
    assert sampler.missing()["oom_kills"] == "/proc/vmstat does not show oom_kill (Linux 4.13 or later does)"
    monkeypatch.setattr(sampler, "vmstat", memory_probe.KernelFile(str(tmp_path / "nothing")))
    assert sampler.missing()["oom_kills"] == f"{tmp_path}/nothing: No such file or directory"
    vmstat.write_text("nr_free_pages 7\noom_kill 12\nlast 1\n")
    monkeypatch.setattr(sampler, "vmstat", memory_probe.KernelFile(str(vmstat)))
    assert sampler.sample()["oom_kills"] == 12


def test_a_cgroup_and_the_whole_machine_exclude_each_other(scratch: Path) -> None:
    options = ["--pid", "1", "--interval", "1", "--cgroup", str(scratch), "--whole-machine"]
    done = subprocess.run([sys.executable, *PROBE, *options], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.startswith("usage: memory_probe --pid")


def test_what_is_missing_has_a_reason(probe: StartProbe) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    samples = probe(gone.pid).finish()
    for column in memory_probe.COLUMNS:
        values = set(samples.column(column))
        assert (None in values) == (column in samples.missing), column
    for column in ("rss_bytes", "anon_bytes", "vm_hwm_bytes", "swap_bytes"):
        assert samples.missing[column] == f"/proc/{gone.pid}/status: No such file or directory"
    assert samples.missing["oom_kills"] == "the server runs in no memory cgroup"
    assert samples.missing["disk_written_bytes"] == "no block device"
    if not Path("/proc/pressure/memory").exists():
        assert samples.missing["psi_memory_some_us"] == "/proc/pressure/memory: No such file or directory"
    record, missing = summarise(samples, 0.02, 0.0)
    assert record.peak_anon_bytes is None and "No such file" in missing["memory.peak_anon_bytes"]
    assert missing["memory.oom_kills"] == "the server runs in no memory cgroup"


def test_a_cgroup_and_a_disk_that_do_not_exist_have_reasons(probe: StartProbe, scratch: Path) -> None:
    words = ("--cgroup", str(scratch / "nothing"), "--disk", "nodisk7", "--folder", str(scratch / "gone"))
    samples = probe(os.getpid(), 0.02, *words).finish()
    assert samples.missing["cgroup_bytes"] == f"{scratch}/nothing/memory.current: No such file or directory"
    assert samples.missing["oom_kills"] == f"{scratch}/nothing/memory.events: No such file or directory"
    assert samples.missing["disk_read_bytes"] == "/proc/diskstats does not list nodisk7"
    assert samples.missing["files_bytes"] == f"{scratch}/gone: No such file or directory"


def test_disk_space_is_counted_as_du_counts_it(scratch: Path) -> None:
    (scratch / "data" / "below").mkdir(parents=True)
    (scratch / "data" / "store.db").write_bytes(os.urandom(MIB + 1))
    (scratch / "data" / "below" / "other name").hardlink_to(scratch / "data" / "store.db")
    (scratch / "data" / "elsewhere").symlink_to("/usr")
    with (scratch / "data" / "sparse").open("wb") as file:
        file.truncate(64 * MIB)
    counted = subprocess.run(["du", "-s", "-B1", str(scratch / "data")], check=True, capture_output=True, text=True)
    assert MIB < space_of([str(scratch / "data")]) == int(counted.stdout.split()[0]) < 2 * MIB
    with pytest.raises(FileNotFoundError):
        space_of([str(scratch / "nothing")])


def test_a_peak_of_disk_space_outlives_the_files(probe: StartProbe, scratch: Path) -> None:
    folders = scratch / "data", scratch / "spool"
    for folder in folders:
        folder.mkdir()
    running = probe(os.getpid(), 0.02, *(word for folder in folders for word in ("--folder", str(folder))))
    for folder in folders:
        (folder / "file").write_bytes(os.urandom(2 * MIB))
    running.until(running.lines() + 3)
    for folder in folders:
        (folder / "file").unlink()
    running.until(running.lines() + 2)
    samples = running.finish()
    record, missing = summarise(samples, 0.02, 0.0)
    assert record.peak_disk_bytes is not None and 4 * MIB <= record.peak_disk_bytes < 5 * MIB
    last = samples.column("files_bytes")[-1]
    assert last is not None and last < MIB, "the last sample is never left out"
    assert "memory.peak_disk_bytes" not in missing


def test_looks_at_many_files_are_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, thread = iter([0.0, 0.1, 1.0, 5.05, 5.2, 5.3]), iter([0.0, 0.1, 1.0, 1.1])
    fake = SimpleNamespace(monotonic=lambda: next(clock), thread_time=lambda: next(thread))
    monkeypatch.setattr(memory_probe, "time", fake)
    monkeypatch.setattr(memory_probe, "space_of", lambda _: 7)
    sampler = memory_probe.Sampler(os.getpid(), None, None, folders=("/x",))
    monkeypatch.setattr(sampler, "_look_for_others", lambda _: None)
    # Each look takes 0.1 s, so that the next one is due 5 s after its end.
    assert [sampler.sample()["files_bytes"] for _ in range(3)] == [7, None, None]
    assert sampler.sample()["files_bytes"] == 7


def test_a_process_that_ends_meanwhile(probe: StartProbe, target: Callable[..., subprocess.Popen[str]]) -> None:
    process = target(HOLD, "8")
    running = probe(process.pid)
    process.kill()
    process.wait()
    running.until(running.lines() + 3)
    samples = running.finish()
    assert samples.column("rss_bytes")[-1] is None and samples.column("server_cpu_s")[-1] is None
    assert samples.column("mem_available_bytes")[-1] is not None
    assert samples.peak("anon_bytes") is not None and samples.missing.get("rss_bytes") is None


def test_it_ends_when_its_input_is_closed_and_says_how_it_fared(probe: StartProbe) -> None:
    running = probe(os.getpid(), 30.0)
    samples = running.finish()
    # One at the start and one at the end, however long the interval is.
    assert samples.end is not None and samples.end["samples"] == len(samples.rows) == 2
    assert samples.end["cpu_s"] >= 0 and 0 < samples.end["lifetime_s"] < 30


def test_it_ends_when_its_parent_is_killed(scratch: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        "with open(sys.argv[1], 'wb') as out:\n"
        "    p = subprocess.Popen([sys.executable, *sys.argv[2:], '--pid', '1', '--interval', '0.02'],\n"
        "        stdin=subprocess.PIPE, stdout=out, start_new_session=True)\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(1000)\n"
    )
    output = scratch / "samples.jsonl"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(output), *PROBE], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        eventually(lambda: output.read_bytes().count(b"\n") > 3, "samples")
        assert alive(pid)
        parent.send_signal(signal.SIGKILL)
    eventually(lambda: not alive(pid), "the probe ends")
    assert read_samples(output).end is not None


def test_a_pause_is_reported_as_a_gap(probe: StartProbe) -> None:
    running = probe(os.getpid(), 0.02)
    running.until(5)
    pid = running.process.pid
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", "it is stopped")
    lines = running.lines()
    watch = subprocess.Popen(["sleep", "0.5"])  # what the pause lasts at least; nothing is timed against it
    watch.wait()
    assert running.lines() == lines
    os.kill(pid, signal.SIGCONT)
    running.until(lines + 5)
    samples = running.finish()
    record, _ = summarise(samples, 0.02, samples.rows[0][0] or 0.0)
    assert record.gap_count >= 1
    longest = record.gaps[0]
    assert longest.duration_s >= 0.5 and longest.t_s >= 0
    # No burst afterwards: what is lost is lost.
    times = [t for t in samples.column("t_s") if t is not None]
    assert len(times) <= (times[-1] - times[0] - longest.duration_s) / 0.02 + 4


def test_the_zipapp_runs_under_the_systems_python(scratch: Path) -> None:
    python = "/usr/bin/python3"
    if not Path(python).exists():
        pytest.skip("this host has no python3 of its own")
    zipapp = scratch / "agent.pyz"
    zipapp.write_bytes(bundle.zipapp())
    words = bundle.words("memory_probe", zipapp)
    running = RunningProbe(scratch / "zip.jsonl", [python, *words, "--pid", str(os.getpid()), "--interval", "0.02"])
    running.until(4)
    samples = running.finish()
    assert samples.peak("rss_bytes") and samples.end


def test_the_first_line_is_the_head_and_each_line_is_json(probe: StartProbe) -> None:
    running = probe(os.getpid())
    running.finish()
    lines = [json.loads(line) for line in running.output.read_text().splitlines()]
    assert set(lines[0]) == {"columns", "missing", "unlocked"} and set(lines[-1]) == {"end"}
    assert all(isinstance(line, list) for line in lines[1:-1])


WRAPPERS = {
    "a script": "{python} {hold} {mib} & echo up; wait",
    "a script in a script": 'sh -c "{python} {hold} {mib} & echo up; wait; true"; true',
    "two processes": "{python} {hold} {half} & {python} {hold} {half} & echo up; wait",
    "a session of its own": "setsid {python} {hold} {mib} & echo up; wait",
    "a daemon": "(setsid {python} {hold} {mib} &); echo up; sleep 1000; true",
}


@pytest.mark.parametrize("kind", WRAPPERS)
@pytest.mark.parametrize("limited", [True, False])
def test_what_a_wrapper_has_started_is_the_server(
    kind: str, limited: bool, probe: StartProbe, cgroup: MemoryCgroup, scratch: Path
) -> None:
    if kind == "a daemon" and not limited:
        pytest.skip("who leaves the family before the probe begins is found in a cgroup alone")
    hold = scratch / "hold.py"
    hold.write_text("import sys, time; x = bytearray(int(sys.argv[1]) << 20); time.sleep(1000)")
    script = WRAPPERS[kind].format(python=sys.executable, hold=hold, mib=32, half=16)
    wrapper = subprocess.Popen(
        ["sh", "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=(lambda: cgroup.add(os.getpid())) if limited else None,
    )
    try:
        assert wrapper.stdout is not None and wrapper.stdout.readline() == "up\n"
        running = probe(wrapper.pid, 0.02, *(("--cgroup", str(cgroup.path)) if limited else ()))

        def peak() -> float:
            return read_samples(running.output).peak("anon_bytes") or 0

        eventually(lambda: peak() >= 32 * MIB, "its memory is seen")
        samples = running.finish()
        # Twice the memory of two more interpreters at most.
        for column in ("anon_bytes", "rss_bytes", "vm_hwm_bytes"):
            assert 32 * MIB <= samples.column(column)[-1] < 32 * MIB + 80 * MIB, column
        anon, whole = samples.column("anon_bytes")[-1], samples.column("cgroup_anon_bytes")[-1]
        assert not limited or abs(anon - whole) < 4 * MIB
    finally:
        cgroup_pids = (cgroup.path / "cgroup.procs").read_text().split() if limited else []
        for pid in {*descendants(wrapper.pid), *map(int, cgroup_pids), wrapper.pid}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wrapper.wait()
        assert wrapper.stdout is not None
        wrapper.stdout.close()


def test_cpu_time_of_children_that_have_ended_is_counted(probe: StartProbe, target: Callable[..., Any]) -> None:
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]]); print('up', flush=True)"
    process = target(f"{code}; sys.stdin.read()", busy)
    samples = probe(process.pid).finish()
    # User and system time are each counted in whole ticks.
    assert samples.column("server_cpu_s")[-1] >= 0.3 - 2 / os.sysconf("SC_CLK_TCK")


def test_who_comes_and_goes_is_counted_while_it_lives(probe: StartProbe, target: Callable[..., Any]) -> None:
    code = (
        "import subprocess, sys\n"
        "print('up', flush=True)\n"
        "for line in sys.stdin:\n"
        "    child = subprocess.Popen([sys.executable, '-c', sys.argv[1], '32'], stdin=-1, stdout=-1, text=True)\n"
        "    child.stdout.readline(); print('begun', flush=True); sys.stdin.readline()\n"
        "    child.communicate(); print('ended', flush=True)\n"
    )
    process = target(code, HOLD)
    running = probe(process.pid)

    def anon_now() -> float:
        return read_samples(running.output).column("anon_bytes")[-1]

    for _ in range(2):
        before = anon_now()
        assert before < 32 * MIB
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "begun\n"
        eventually(lambda: anon_now() >= 32 * MIB, "the child is seen")
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ended\n"
        eventually(lambda: anon_now() < 32 * MIB, "it is no longer counted")
    running.finish()


def test_a_file_that_is_gone_before_it_is_read_stays_not_open() -> None:
    """Processes of the host that end while descendants are looked for would use up the probe's descriptors."""
    before = set(Path("/proc/self/fd").iterdir())
    # What it is can be opened, but there is no page at address zero to be read.
    gone = memory_probe.KernelFile("/proc/self/mem")

    assert gone.read() == "" and gone.reason is not None and set(Path("/proc/self/fd").iterdir()) == before
    gone.close()
