"""The doctor, run for real; what this host cannot show is faked at the boundary."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

import pytest

from picolab.agent import bundle
from picolab.cli.main import main
from picolab.config.new_project import make_project
from picolab.doctor import diagnosis, tools
from picolab.doctor import host as doctor_host
from picolab.doctor.diagnosis import Finding, examine
from picolab.errors import MachineError, MemoryLimitUnavailable
from picolab.exit_codes import ExitCode
from picolab.host import facts
from picolab.host.processes import ProcessIdentity, this_process
from picolab.machines import folders
from picolab.machines.base import Holder, MachineWish
from picolab.machines.folders import KEEPER, SPEC
from picolab.machines.local import checks as local_checks
from picolab.machines.local import machine as local
from picolab.machines.local.cgroup import REMEDIES, MemoryCgroup, v1_parent, v2_parent

needs_cgroup = pytest.mark.skipif(v1_parent() is None and v2_parent() is None, reason="this host has no cgroup for us")


def the(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


def test_everything_is_looked_at() -> None:
    findings = examine()

    assert list(dict.fromkeys(finding.what for finding in findings)) == [
        "memory limit",
        "private network",
        "swap",
        "memory probe",
        "memory pressure (PSI)",
        "RAM",
        "work disk",
        "outputs",
        "processors",
        "CPU governor",
        "Jupyter kernel",
        "notebooks",
        "machines",
        "leftovers",
        "virtual machines",
        "KVM",
        # Where no systemd runs.
        *(finding.what for finding in findings if finding.what == "libvirt's user"),
        "libvirt",
        *(finding.what for finding in findings if finding.what == "libvirt's reaper"),
        *(finding.what for finding in findings if finding.what.startswith("VM ")),
        "box",
    ]
    assert all(finding.state in ("good", "gap", "bad") and finding.text for finding in findings)
    assert not any(finding.blocks for finding in findings)
    assert not any(finding.remedy for finding in findings if finding.state == "good")
    assert not any("\n" in finding.text + finding.remedy for finding in findings)


def test_command_shows_the_findings() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("picolab"), "doctor"], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == ExitCode.OK, done.stderr
    assert "memory limit: " in done.stdout and "virtual machines: " in done.stdout


def test_finding_that_blocks_is_told_to_the_shell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    findings = [Finding("one", "bad", "is not there", "mend --it", blocks=True), Finding("other", "good", "is there")]
    monkeypatch.setattr(diagnosis, "examine", lambda: findings)
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])

    assert ended.value.code == ExitCode.HOST_UNFIT
    assert capsys.readouterr().out == "!!  one: is not there\n      mend --it\nok  other: is there\n"


@needs_cgroup
def test_memory_limit_is_proved_and_nothing_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[MemoryCgroup] = []
    create = MemoryCgroup.create

    def watched(self: MemoryCgroup, limit_bytes: int) -> None:
        create(self, limit_bytes)
        made.append(self)
        assert self.limit_bytes == limit_bytes

    monkeypatch.setattr(MemoryCgroup, "create", watched)
    finding = the(local_checks.memory_limit())

    assert finding.state == "good" and made[0].method in finding.text
    assert not made[0].path.exists()


def test_no_memory_limit_is_bad_but_does_not_block(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> NoReturn:
        raise MemoryLimitUnavailable(f"this host offers no way: {REMEDIES}")

    monkeypatch.setattr(local_checks, "find_method", unavailable)
    findings = {finding.what: finding for finding in examine()}

    limit = findings["memory limit"]
    assert limit.state == "bad" and not limit.blocks
    assert "run picolab as root" in limit.text and "memory_limit: none" in limit.text
    probe = findings["memory probe"]
    assert probe.state == "gap" and "cgroup_bytes" in probe.text and "no memory cgroup" in probe.text


def test_cgroup_that_the_kernel_refuses_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_self: MemoryCgroup, _limit_bytes: int) -> NoReturn:
        raise MachineError("the memory limit of 16 MiB could not be set: Permission denied")

    monkeypatch.setattr(local_checks, "find_method", lambda: "cgroup_v1")
    monkeypatch.setattr(local_checks, "plan_cgroup", lambda method, name: MemoryCgroup(method, Path("/nowhere") / name))
    monkeypatch.setattr(MemoryCgroup, "create", refused)

    finding = the(local_checks.memory_limit())
    assert finding.state == "bad" and "Permission denied" in finding.text


def test_without_root_the_remedy_names_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable() -> NoReturn:
        raise MemoryLimitUnavailable("no way")

    monkeypatch.setattr(local_checks, "find_method", unavailable)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    remedy = the(local_checks.memory_limit()).remedy.split()

    assert remedy[0] == "sudo" and remedy[2] == "doctor"
    assert os.access(remedy[1], os.X_OK)


@pytest.mark.parametrize(("kept_out", "state"), [(True, "good"), (False, "gap")])
def test_swap(monkeypatch: pytest.MonkeyPatch, kept_out: bool, state: str) -> None:
    monkeypatch.setattr(facts, "memory_info", lambda: {"SwapTotal": 1 << 30})
    monkeypatch.setattr(MemoryCgroup, "swap_is_off", property(lambda _: kept_out))
    finding = the(local_checks.swap())

    assert "1,024 MiB" in finding.text
    if v1_parent() or v2_parent():
        assert finding.state == state
    if finding.state == "gap":
        assert finding.remedy.endswith("swapoff -a")


def test_little_memory_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "memory_info", lambda: {"MemTotal": 1 << 30, "MemAvailable": 256 << 20})
    finding = the(doctor_host.ram())

    assert finding.state == "gap" and "256 of 1,024 MiB" in finding.text


@pytest.mark.parametrize(
    ("file_system", "free_bytes", "rotational", "state", "words", "blocks"),
    [
        ("ext4", 100 << 30, False, "good", "ext4, vda (ssd)", False),
        ("ext4", 100 << 30, True, "gap", "wide spread", False),
        ("ext4", 5 << 30, False, "gap", "too little for the 5G", False),
        ("ext4", 1 << 20, False, "bad", "1 MiB free", True),
        ("tmpfs", 100 << 30, None, "bad", "lies in memory", False),
    ],
)
def test_work_disk(
    monkeypatch: pytest.MonkeyPatch,
    file_system: str,
    free_bytes: int,
    rotational: bool | None,
    state: str,
    words: str,
    blocks: bool,
) -> None:
    device = None if file_system == "tmpfs" else "vda"
    disk = facts.Disk(file_system, device, rotational, free_bytes)
    monkeypatch.setattr(facts, "disk_of", lambda _: disk)
    finding = the(doctor_host.work_disk())

    assert (finding.state, finding.blocks) == (state, blocks)
    assert words in finding.text
    if state == "bad":
        assert finding.remedy == "export PICOLAB_STATE_DIR=/var/tmp/picolab"


def test_folders_that_may_not_be_written_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)

    for finding in (the(doctor_host.work_disk()), the(doctor_host.outputs())):
        assert finding.state == "bad" and finding.blocks and finding.remedy.startswith("export PICOLAB_")


@pytest.mark.parametrize(
    ("processors", "load", "state"), [(4, 0.5, "good"), (4, 4.01, "gap"), (1, 0.0, "gap"), (None, 0.0, "gap")]
)
def test_processors(monkeypatch: pytest.MonkeyPatch, processors: int | None, load: float, state: str) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load))

    assert the(doctor_host.processors()).state == state


@pytest.mark.parametrize(("governor", "state"), [(None, "good"), ("performance", "good"), ("powersave", "gap")])
def test_governor(monkeypatch: pytest.MonkeyPatch, governor: str | None, state: str) -> None:
    monkeypatch.setattr(facts, "governor", lambda: governor)
    finding = the(doctor_host.governor())

    assert finding.state == state
    assert bool(finding.remedy) == (state == "gap")


def test_probe_that_cannot_run_blocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "memory_probe.py").write_text("raise SystemExit('no such counter')")
    monkeypatch.setattr(bundle, "words", lambda module: [str(tmp_path / f"{module}.py")])
    finding = the(local_checks.counters())

    assert finding.blocks and finding.state == "bad" and "no such counter" in finding.text


def test_missing_pressure_is_a_gap_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    head = {"columns": ["t_s", "rss_bytes"], "missing": {"psi_memory_some_us": "/proc/pressure/memory: not there"}}
    (tmp_path / "memory_probe.py").write_text(f"print({json.dumps(json.dumps(head))})")
    monkeypatch.setattr(bundle, "words", lambda module: [str(tmp_path / f"{module}.py")])
    probe, pressure = local_checks.counters()

    assert probe.state == "good"
    assert pressure.state == "gap" and "psi=1" in pressure.text and "not there" in pressure.text


def test_jupyter_kernel_of_another_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kernel = tmp_path / "kernels" / "python3"
    kernel.mkdir(parents=True)
    spec = {"argv": ["/usr/bin/python2", "-m", "ipykernel_launcher"], "display_name": "old", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    finding = the(tools.jupyter_kernel())

    assert finding.state == "bad" and "/usr/bin/python2" in finding.text
    assert finding.remedy == f"{sys.executable} -m ipykernel install --sys-prefix"


def test_no_jupyter_kernel_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    def none(_self: Any, name: str) -> NoReturn:
        raise NoSuchKernel(name)

    monkeypatch.setattr(KernelSpecManager, "get_kernel_spec", none)
    assert the(tools.jupyter_kernel()).blocks


@pytest.mark.parametrize("content", [None, "{", "{}", "[]"])
def test_notebook_that_cannot_be_used_blocks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    analysis = tmp_path / "notebooks" / "analysis.ipynb"
    if content is None:
        analysis.unlink()
    else:
        analysis.write_text(content)
    finding = the(tools.notebooks())

    assert finding.blocks and str(analysis) in finding.text
    assert finding.remedy == f"rm -f {analysis} && picolab init {tmp_path}"


def test_machine_that_is_held_and_one_that_nobody_holds() -> None:
    wish = MachineWish(name="doctor-test", ram_mb=64, memory_limit="none", work_dir="")
    machine = local.LocalMachine.obtain(wish, Holder(this_process(), keep=True))
    try:
        held = the(tools.machines())
        assert held.state == "good" and f"held by pid {os.getpid()}" in held.text and "64 MiB" in held.text
        assert the(tools.leftovers()).text == "none", "a living machine is no leftover"

        me = this_process()
        machine.hold(Holder(ProcessIdentity(me.pid, me.start_ticks + 1, me.boot_id), keep=True))
        free = the(tools.machines())
        assert free.state == "gap" and "held by nobody" in free.text
        assert free.remedy == "picolab machines remove doctor-test"
    finally:
        machine.release()
    assert the(tools.machines()).text == "none is up"


def test_leftovers_of_a_dead_keeper(scratch: Path) -> None:
    machines = folders.machines_dir()
    work = scratch / "state" / "work"
    dead = machines / "dead"
    mark = folders.state_mark(machines)
    dead.mkdir(parents=True)
    mine, stray = work / f"picolab-dead-{mark}", work / f"picolab-lost-{mark}"
    for folder in (mine, stray, work / "picolab-another-checkout"):
        folder.mkdir(parents=True)
    me = this_process()
    gone = ProcessIdentity(me.pid, me.start_ticks + 1, me.boot_id)
    (dead / SPEC).write_text(json.dumps({"name": "dead", "work": str(mine)}))
    (dead / KEEPER).write_text(json.dumps({"process": gone.to_json(), "cgroup": None}))
    try:
        keeper, folder = tools.leftovers()
        assert keeper.text == "machines without a keeper: dead" and keeper.remedy == "picolab machines list"
        assert folder.remedy == f"rm -r {stray}"
    finally:
        shutil.rmtree(machines)
        shutil.rmtree(work)


@needs_cgroup
def test_cgroup_of_no_machine_is_a_leftover() -> None:
    parent = v1_parent() or v2_parent()
    assert parent is not None
    stray = parent / f"picolab-lost-{folders.state_mark(folders.machines_dir())}"
    stray.mkdir()
    try:
        finding = the(tools.leftovers())
        assert finding.state == "gap" and finding.remedy == f"rmdir {stray}"
    finally:
        stray.rmdir()


def test_check_that_fails_or_hangs_becomes_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def fails() -> NoReturn:
        raise RuntimeError("a strange host")

    def hangs() -> list[Finding]:
        over.wait()
        return []

    checks = (("broken", fails), ("stuck", hangs), ("fine", lambda: [Finding("fine", "good", "yes")]))
    monkeypatch.setattr(diagnosis, "checks", lambda: checks)
    monkeypatch.setattr(diagnosis, "TIME_LIMIT_S", 0.5)
    try:
        broken, stuck, fine = examine()
    finally:
        over.set()
    assert broken == Finding("broken", "gap", "is not known: RuntimeError: a strange host")
    assert stuck == Finding("stuck", "gap", "is not known: the host gave no answer within 0.5 s")
    assert fine.state == "good"
