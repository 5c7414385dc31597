"""What the host does beside a trial: real processes that burn CPU time, and files as other hosts have them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from conftest import eventually

from picolab.config.trial_parameters import TrialParameters
from picolab.errors import MachineError
from picolab.host import conditions, idleness
from picolab.host.conditions import Own, Reading, between, own_of, read
from picolab.host.idleness import IDLE_BUSY_SHARE, IDLE_READINGS, wait_for_idle
from picolab.machines import registry
from picolab.machines.base import Machine
from picolab.record import host_caveats
from picolab.record.conditions import ConditionsRecord
from picolab.record.outcomes import Outcome
from picolab.record.validation import validate_record
from picolab.trial.trial import Trial

BURN = "while True: pass"
PROCESSORS = os.cpu_count() or 1
MIB = 1 << 20


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def me() -> Own:
    return Own(frozenset({os.getpid()}))


@pytest.fixture
def burners() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Keep a third of all processors busy, at least one."""
    started = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(max(1, PROCESSORS // 3))]
    yield started
    for process in started:
        process.kill()
        process.wait()


def burnt(burners: list[subprocess.Popen[bytes]]) -> float:
    return sum(cpu_s(burner.pid) for burner in burners)


def burn_for(burners: list[subprocess.Popen[bytes]], seconds: float) -> None:
    """Return when each burner has used so much CPU time more."""
    before = burnt(burners)
    eventually(lambda: burnt(burners) - before >= seconds * len(burners), "the burners burn")


# Real processes


def test_programs_beside_a_trial_are_seen_and_named(burners: list[subprocess.Popen[bytes]]) -> None:
    used_before = burnt(burners)
    before = read(me())
    burn_for(burners, 0.8)
    after = read(me())
    used = burnt(burners) - used_before
    found, missing = between(before, after)

    truth = used / (PROCESSORS * found.duration_s)
    assert found.other_busy_share is not None
    # Others may be busy too; less than the burners used cannot be true. Ticks of the counters may differ.
    assert found.other_busy_share > truth - 0.1
    assert found.busiest_other is not None and "of a processor" in found.busiest_other
    assert found.own_busy_share is not None and found.own_busy_share < 0.5
    assert not {"other_busy_share", "steal_share", "iowait_share"} & set(missing)
    (caveat,) = [one for one in host_caveats.of_conditions(found) if one.code == "host_busy_during_trial"]
    assert caveat.value == found.other_busy_share


def test_own_processes_and_their_children_are_no_others(burners: list[subprocess.Popen[bytes]]) -> None:
    script = f"{sys.executable} -c '{BURN}' & echo $!; wait"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout is not None
        grandchild = int(shell.stdout.readline())
        try:
            own = Own(frozenset({os.getpid()}), trees=frozenset({shell.pid, burners[0].pid}))
            before, used_before = read(own), cpu_s(grandchild) + cpu_s(burners[0].pid)
            burn_for(burners, 0.8)
            eventually(lambda: cpu_s(grandchild) > 0.3, "the grandchild burns")
            used = cpu_s(grandchild) + cpu_s(burners[0].pid) - used_before
            after = read(own)
        finally:
            os.kill(grandchild, 9)

    assert not {shell.pid, grandchild, burners[0].pid} & set(after.others)
    assert after.own_s - before.own_s >= used - 0.02
    found, _ = between(before, after)
    assert found.own_busy_share is not None and found.own_busy_share > 0.5 * used / (PROCESSORS * found.duration_s)


def test_a_child_that_ended_meanwhile_was_our_own() -> None:
    before = read(me())
    subprocess.run(
        [sys.executable, "-c", "import time\nwhile time.process_time() < 0.4: pass"], check=True, timeout=120
    )
    after = read(me())

    assert after.own_s - before.own_s >= 0.35


def test_processes_between_a_trial_and_its_caller_are_its_own() -> None:
    program = (
        "import os; from picolab.host.conditions import _between; "
        f"print(sorted(_between({os.getpid()})) == sorted([{os.getpid()}, os.getppid()]), _between(2 ** 22 + 1))"
    )
    # The shell lies between: without the second command it would become the program.
    done = subprocess.run(
        ["sh", "-c", f'{sys.executable} -c "{program}"; true'], capture_output=True, text=True, timeout=120, check=True
    )

    assert done.stdout.strip() == "True frozenset()"


def test_short_step_has_no_shares_and_says_why() -> None:
    before, after = read(me()), read(me())
    found, missing = between(before, Reading(**{**vars(after), "t_s": before.t_s + 0.4}))

    assert found.duration_s < conditions.LEAST_DURATION_S
    for name in ("other_busy_share", "own_busy_share", "kernel_busy_share", "steal_share", "iowait_share"):
        assert getattr(found, name) is None and "too short" in missing[name]


def test_unknown_own_processes_are_null_with_a_reason() -> None:
    def own_processes() -> frozenset[int]:
        raise MachineError("nobody knows")

    unknown = own_of(cast(Machine, SimpleNamespace(own_processes=own_processes)))

    assert not unknown.trees and unknown.unknown == "nobody knows"
    record, missing = between(*_half_a_second(unknown))
    assert record.other_busy_share is None and missing["other_busy_share"] == unknown.unknown
    assert record.steal_share is not None


def _half_a_second(own: Own) -> tuple[Reading, Reading]:
    before = read(own)
    eventually(lambda: time.monotonic() - before.t_s > conditions.LEAST_DURATION_S, "time passes")
    return before, read(own)


@pytest.fixture
def trial() -> Iterator[Trial]:
    parameters = {"ram_mb": 128, "file_size": "20M", "keep_machine": "never", "direction": "both"}
    rates = {"transfer_mib_s": 20, "download_mib_s": 25}
    begun = Trial.open(TrialParameters.model_validate({**parameters, "calibration": rates}))
    for stage in (begun.provision, begun.start, begun.authenticate):
        stage()
    yield begun
    registry.release_by_name("local")


def test_trial_on_a_busy_host_says_so(trial: Trial, burners: list[subprocess.Popen[bytes]]) -> None:
    trial.upload()
    trial.verify()
    record = trial.collect()
    trial.release()

    assert record.outcome is Outcome.OK
    validate_record(record.model_dump(mode="json"), "here")
    assert record.upload and record.conditions and record.download and record.download.conditions
    assert record.conditions.duration_s >= (record.upload.duration_s or 0)
    for found in (record.conditions, record.download.conditions):
        assert found.other_busy_share is not None
        # Server, client and burners share the processors; the burners get a good part of theirs.
        assert found.other_busy_share > 0.3 * len(burners) / PROCESSORS
        assert found.own_busy_share is not None and found.own_busy_share > 0.001
        assert found.disk_free_share is not None and 0 < found.disk_free_share <= 1
    (caveat,) = [one for one in record.caveats if one.code == "host_busy_during_trial"]
    assert caveat.value == record.conditions.other_busy_share


def test_trial_without_an_upload_says_why_it_has_no_conditions() -> None:
    parameters = {"ram_mb": 128, "file_size": "1M", "keep_machine": "never", "ready_limit_s": 0.2}
    trial = Trial.open(TrialParameters.model_validate({**parameters, "calibration": {"startup_delay_s": 600}}))
    try:
        trial.provision()
        trial.start()
        record = trial.collect()
    finally:
        registry.release_by_name("local")

    assert record.outcome is Outcome.TIMEOUT and record.conditions is None
    assert record.missing["conditions"] == "not reached: timeout in stage start"
    assert "run picolab calibrate" in record.missing["instrument"]


# Waiting for an idle host


def test_busy_host_is_waited_for_but_not_for_ever(burners: list[subprocess.Popen[bytes]]) -> None:
    said: list[str] = []
    result = wait_for_idle(1.5, said.append)

    assert not result.idle and not result.stopped
    assert result.busy_share is not None and result.busy_share > IDLE_BUSY_SHARE
    assert result.waited_s >= 1.5
    assert said and "waiting for an idle host" in said[0] and "s left" in said[0]
    assert "was not idle" in result.line


def test_wait_can_be_stopped(burners: list[subprocess.Popen[bytes]]) -> None:
    result = wait_for_idle(1e9, stop_requested=lambda: True)

    assert result.stopped and not result.idle and result.busy_share is None
    assert "stopped" in result.line


@pytest.mark.parametrize(
    ("shares", "idle", "reported"),
    [
        ([0.0, 0.05, 0.1], True, 0),
        # A pause of what keeps the host busy is no idle host.
        ([0.5, 0.0, 0.0, 0.5, 0.02, 0.02, 0.02], True, 2),
    ],
)
def test_host_is_idle_after_some_quiet_readings(
    monkeypatch: pytest.MonkeyPatch, shares: list[float], idle: bool, reported: int
) -> None:
    left = iter(shares)
    monkeypatch.setattr(idleness, "IDLE_READING_S", 0.01)
    monkeypatch.setattr(idleness, "_busy_share", lambda *_: next(left))
    said: list[str] = []
    result = wait_for_idle(1e9, said.append)

    assert result.idle is idle and result.busy_share == shares[-1]
    assert list(left) == [] and len(said) == reported
    assert IDLE_READINGS == 3


def test_quiet_readings_that_have_begun_are_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    left = iter([0.05, 0.05, 0.05])
    monkeypatch.setattr(idleness, "IDLE_READING_S", 0.01)
    monkeypatch.setattr(idleness, "_busy_share", lambda *_: next(left))

    assert wait_for_idle(0.0).idle


# Files as other hosts have them


@dataclass
class FakeHost:
    """Folders like /proc and /sys of a host with two processors."""

    root: Path

    def write(self, path: str, text: object) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def cpu(self, user: int, system: int, idle: int, steal: int = 0, iowait: int = 0, softirq: int = 0) -> None:
        self.write("proc/stat", f"cpu  {user} 0 {system} {idle} {iowait} 0 {softirq} {steal} 0 0\ncpu0 1 1 1 1")

    def process(self, pid: int, parent: int, ticks: int, name: str = "a) b", kernel: bool = False) -> None:
        flags = 0x00200000 if kernel else 0
        rest = f"S {parent} 1 1 0 -1 {flags} 0 0 0 0 {ticks} 0 0 0 20 0 1 0 {pid * 10} 0"
        self.write(f"proc/{pid}/stat", f"{pid} ({name}) {rest}")

    def processor(self, name: str, value: object, number: int = 0) -> None:
        self.write(f"sys/devices/system/cpu/cpu{number}/{name}", value)


@pytest.fixture
def fake(tmp_path: Path) -> FakeHost:
    host = FakeHost(tmp_path / "host")
    host.cpu(1000, 500, 9000)
    host.write("proc/loadavg", "0.50 0.40 0.30 1/100 1234")
    host.write("proc/meminfo", "MemTotal: 1000 kB\nCached: 200 kB\nDirty: 30 kB")
    host.write("proc/vmstat", "pgpgin 5\npswpin 10\npswpout 20")
    for number in (0, 1):
        host.processor("cpufreq/scaling_governor", "performance", number)
        host.processor("cpufreq/scaling_cur_freq", 3000000, number)
        host.processor("cpufreq/cpuinfo_max_freq", 4000000, number)
        host.processor("thermal_throttle/core_throttle_count", 7, number)
    host.write("sys/class/thermal/thermal_zone0/temp", 45000)
    host.write("sys/class/thermal/thermal_zone1/temp", 61500)
    for resource in ("cpu", "io", "memory"):
        host.write(f"proc/pressure/{resource}", "some avg10=0.00 avg60=0.00 avg300=0.00 total=1000000\nfull total=9")
    return host


Change = Callable[[FakeHost], None]


def during(fake: FakeHost, change: Change, own: Own | None = None, seconds: float = 2.0) -> ConditionsRecord:
    """Return what two readings say when the host's files change in between."""
    return _during(fake, change, own, seconds)[0]


def _during(
    fake: FakeHost, change: Change, own: Own | None = None, seconds: float = 2.0
) -> tuple[ConditionsRecord, dict[str, str]]:
    own = own or Own(frozenset({42}))
    before = read(own, fake.root, fake.root)
    change(fake)
    after = read(own, fake.root, fake.root)
    return between(before, Reading(**{**vars(after), "t_s": before.t_s + seconds}))


def codes(found: ConditionsRecord) -> list[str]:
    return [caveat.code for caveat in host_caveats.of_conditions(found)]


def test_quiet_host_gives_no_caveat_and_misses_nothing(fake: FakeHost) -> None:
    found, missing = _during(fake, lambda host: host.cpu(1001, 501, 9398))

    assert missing == {} and codes(found) == []
    assert (found.governor, found.frequency_share, found.temperature_c) == ("performance", 0.75, 61.5)
    assert (found.cached_bytes_before, found.dirty_bytes_before) == (200 * 1024, 30 * 1024)
    assert (found.load_1min_before, found.throttle_events, found.swapped_bytes) == (0.5, 0, 0)
    assert found.cpu_pressure_share == found.io_pressure_share == found.memory_pressure_share == 0.0


def test_shares_of_others_own_kernel_and_hypervisor(fake: FakeHost) -> None:
    def change(host: FakeHost) -> None:
        host.cpu(1000 + 150, 500 + 90, 9000 + 100, steal=40, iowait=12, softirq=8)
        for pid, parent, ticks in ((42, 1, 70), (43, 42, 50), (50, 1, 60)):
            host.process(pid, parent, ticks)
        host.process(2, 0, 20, kernel=True)

    for pid, parent in ((42, 1), (43, 42), (50, 1)):
        fake.process(pid, parent, 0)
    fake.process(2, 0, 0, kernel=True)
    # 400 ticks: 70 + 50 of our own, 20 of the kernel's threads, so 240 - 140 of others.
    found = during(fake, change, Own(frozenset({42}), trees=frozenset({42})), seconds=2.0)

    assert found.own_busy_share == pytest.approx(120 / 400)
    assert found.other_busy_share == pytest.approx(100 / 400)
    assert found.kernel_busy_share == pytest.approx(28 / 400)
    assert found.steal_share == pytest.approx(40 / 400)
    assert found.iowait_share == pytest.approx(12 / 400)
    assert found.busiest_other == "a) b (pid 50), 0.30 of a processor"
    assert codes(found) == ["host_busy_during_trial", "cpu_steal"]


def test_a_pid_that_was_used_again_is_another_process(fake: FakeHost) -> None:
    def change(host: FakeHost) -> None:
        host.process(50, 1, 40)
        text = (host.root / "proc/50/stat").read_text().replace(" 500 0\n", " 777 0\n")
        host.write("proc/50/stat", text.strip())

    fake.process(50, 1, 30)
    assert during(fake, change).busiest_other == "a) b (pid 50), 0.20 of a processor"


@pytest.mark.parametrize(
    ("steal", "expected"), [(8, []), (9, ["cpu_steal"])], ids=["two per cent", "a little more than two per cent"]
)
def test_steal_has_a_threshold(fake: FakeHost, steal: int, expected: list[str]) -> None:
    assert codes(during(fake, lambda host: host.cpu(1000, 500, 9000 + 400 - steal, steal=steal))) == expected


def test_others_have_a_threshold(fake: FakeHost) -> None:
    fake.process(50, 1, 0)
    assert codes(during(fake, lambda host: host.cpu(1040, 500, 9360))) == []
    assert codes(during(fake, lambda host: host.cpu(1040 + 41, 500, 9360 + 359))) == ["host_busy_during_trial"]


@pytest.mark.parametrize(("name", "code"), [("powersave", "governor_not_performance"), ("performance", None)])
def test_governor(fake: FakeHost, name: str, code: str | None) -> None:
    found = during(fake, lambda host: host.processor("cpufreq/scaling_governor", name, 1))

    assert codes(found) == ([code] if code else [])
    assert found.governor == ("performance, powersave" if code else "performance")


def test_processor_slowed_down_by_its_heat(fake: FakeHost) -> None:
    found = during(fake, lambda host: host.processor("thermal_throttle/core_throttle_count", 9, 1))

    assert found.throttle_events == 2
    (caveat,) = host_caveats.of_conditions(found)
    assert (caveat.code, caveat.value) == ("cpu_throttled", 2)
    assert "2 times because of their heat" in caveat.message


@pytest.mark.parametrize(
    ("khz", "governor", "throttled"),
    [(2390000, "performance", True), (2410000, "performance", False), (2390000, "schedutil", False)],
)
def test_processor_slower_than_its_governor_wants(fake: FakeHost, khz: int, governor: str, throttled: bool) -> None:
    for number in (0, 1):
        fake.processor("cpufreq/scaling_cur_freq", khz, number)
        fake.processor("cpufreq/scaling_governor", governor, number)
    assert ("cpu_throttled" in codes(during(fake, lambda host: None))) is throttled


def test_idle_processor_may_be_slow(fake: FakeHost) -> None:
    fake.processor("cpufreq/scaling_cur_freq", 800000, 1)
    assert codes(during(fake, lambda host: None)) == []


def test_host_that_swapped(fake: FakeHost) -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    little = during(fake, lambda host: host.write("proc/vmstat", f"pswpin 10\npswpout {20 + MIB // page}"))
    much = during(fake, lambda host: host.write("proc/vmstat", f"pswpin 11\npswpout {20 + 2 * MIB // page}"))

    assert little.swapped_bytes == MIB and codes(little) == []
    assert much.swapped_bytes == MIB + page and codes(much) == ["host_swapped"]


def test_pressure_is_a_share_of_the_duration(fake: FakeHost) -> None:
    found = during(fake, lambda host: host.write("proc/pressure/io", "some avg10=0.00 total=1500000"), seconds=2.0)
    assert (found.io_pressure_share, found.cpu_pressure_share) == (0.25, 0.0)


def test_nearly_full_disk(fake: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk(available: int) -> Any:
        # 50 blocks are kept for root.
        return lambda path: SimpleNamespace(f_blocks=1050, f_bfree=50 + available, f_bavail=available)

    monkeypatch.setattr(os, "statvfs", disk(100))
    assert codes(during(fake, lambda host: None)) == []
    monkeypatch.setattr(os, "statvfs", disk(99))
    found = during(fake, lambda host: None)
    assert (found.disk_free_share, codes(found)) == (0.099, ["disk_nearly_full"])


def test_host_that_shows_nothing_says_why(tmp_path: Path) -> None:
    empty = FakeHost(tmp_path / "empty")
    empty.cpu(1, 1, 1)
    found, missing = _during(empty, lambda host: host.cpu(1, 1, 400))

    nulls = {name for name, value in found.model_dump().items() if value is None} - {"busiest_other"}
    assert nulls == set(missing) >= {"throttle_events", "governor", "temperature_c", "frequency_share"}
    assert all(len(why) > 10 for why in missing.values())
    assert codes(found) == []


def test_folder_that_is_gone_has_no_free_share(tmp_path: Path) -> None:
    gone = read(me(), tmp_path / "gone")

    assert gone.disk_free_share is None and "cannot be looked at" in gone.missing["disk_free_share"]
