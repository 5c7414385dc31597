"""Trials and campaigns in virtual machines, with the real command line, papermill, kernels and guests."""

import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import papermill
import pytest
import yaml
from conftest import MIB, eventually
from virtual_machines import domains

from picolab.config.plan import Plan
from picolab.config.project import outputs_dir, project_root
from picolab.exit_codes import ExitCode
from picolab.machines import registry
from picolab.machines.folders import keeper_of, machine_folders, machines_dir
from picolab.machines.vagrant import libvirt
from picolab.machines.vagrant.domain import domain_prefix
from picolab.record.record import Record
from picolab.record.validation import validate_record
from picolab.report.render import render_report
from picolab.results.folders import find_campaign
from picolab.results.load import read_campaign, read_record

pytestmark = pytest.mark.vm

CLI_LIMIT_S = 600


def picolab(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "picolab", *words], capture_output=True, text=True, timeout=CLI_LIMIT_S, check=False
    )


def the_only_record() -> tuple[Record, Path]:
    (path,) = (outputs_dir() / "single-trials").glob("*/record.json")
    return validate_record(json.loads(path.read_text()), str(path)), path.parent


def test_a_new_kernel_resumes_with_the_kept_machine(box: str) -> None:
    done = picolab(
        "trial", "--machine", "vagrant", "--ram", "512", "--file-size", "20M", "-p", "box", box, "--keep-machine"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ssh -F" in done.stdout and "picolab machines remove vagrant" in done.stdout
    assert "Waiting for domain to get an IP address" in done.stderr, "without a terminal, each step has a line"
    record, folder = the_only_record()
    assert record.outcome == "ok" and record.verify is not None and record.verify.matched
    assert record.machine is not None and record.machine.virtual_machine is not None
    assert record.machine.virtual_machine.usable_ram_bytes < 512 * MIB
    assert record.memory is not None and record.memory.samples_per_s is not None and record.memory.samples_per_s >= 10
    assert record.memory.peak_anon_bytes is not None and record.memory.peak_anon_bytes > MIB
    codes = {caveat.code for caveat in record.caveats}
    assert ("emulated" in codes) == (record.machine.virtual_machine.acceleration == "emulation")
    assert (folder / "server.log").read_text().strip()
    listed = picolab("machines", "list").stdout
    assert "vagrant  vagrant  512 MiB" in listed and "ssh -F" in listed

    # As somebody would in JupyterLab: the same notebook in a new kernel.
    output = folder / "again.ipynb"
    papermill.execute_notebook(
        str(project_root() / "notebooks" / "trial.ipynb"),
        str(output),
        parameters=record.parameters.model_dump(),
        kernel_name="python3",
        progress_bar=False,
    )
    text = output.read_text()
    assert "Re-attached to trial" in text and "upload: already done" in text
    assert read_record(output).upload == record.upload
    machine = registry.attach("vagrant")
    assert machine is not None and machine.process_status().running, "the server still runs in the guest"
    assert picolab("machines", "remove", "vagrant").returncode == 0
    assert not domains()
    home = Path(os.environ["VAGRANT_HOME"])
    assert list(machines_dir().iterdir()) == [], "neither its folder nor its lock"
    assert list(home.glob("picolab-*")) == []
    assert json.loads((home / "data" / "machine-index" / "index").read_text())["machines"] == {}
    assert not (project_root() / ".vagrant").exists()
    assert libvirt.network() == "active", "another project's machine may need it next"
    # Dry, since network and pool are for all machines. This one has found them and made neither.
    assert picolab("clean", "--dry-run").stdout.splitlines() == ["There is nothing to remove."]


def test_a_boot_that_takes_too_long_names_the_limit(box: str, tmp_path: Path) -> None:
    file = tmp_path / "short.yaml"
    values = {"machine": "vagrant", "box": box, "file_size": "4M", "boot_limit_s": 4}
    wanted = {"matrix": {"ram_mb": [256]}, "parameters": values, "repeats": 1, "fault_retries": 0, "idle_limit_s": 0}
    file.write_text(yaml.safe_dump(wanted))
    done = picolab("matrix", str(file), "--campaign", "short")

    assert done.returncode == ExitCode.INSTRUMENT_FAULT, done.stdout + done.stderr
    assert "Expected: 1 boot (" in done.stdout
    (sentence,) = [line.strip() for line in done.stdout.splitlines() if "boot_limit_s" in line]
    assert "the machine did not boot within boot_limit_s = 4 s (" in sentence
    assert "; set boot_limit_s to more: under emulation a boot takes 20 to 40 s" in sentence
    assert "Traceback" not in done.stdout + done.stderr
    assert not domains() and list(machines_dir().iterdir()) == []


def campaign_file(folder: Path, box: str, **more: object) -> Path:
    path = folder / "vms.yaml"
    matrix = {"machine": ["vagrant"], "ram_mb": [512, 256], "file_size": ["10M", "20M"]}
    text = {"matrix": matrix, "repeats": 1, "idle_limit_s": 0, "parameters": {"box": box}} | more
    path.write_text(yaml.safe_dump(text))
    return path


def test_a_matrix_of_two_blocks_boots_each_ram_size_once(box: str, tmp_path: Path) -> None:
    """The second block begins with the memory that the first one ended with, and goes back to the other one."""
    matrix = {"machine": ["local"], "ram_mb": [512, 256], "file_size": ["10M"]}
    file = str(campaign_file(tmp_path, box, matrix=matrix, repeats=2))
    done = picolab("matrix", file, "--machine", "vagrant", "--campaign", "vms")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Expected: 2 boots (" in done.stdout and " and 1 restore (" in done.stdout
    boots = ("Waiting for domain to get an IP address", "Booting the machine with")
    steps = [line for line in done.stdout.splitlines() if any(boot in line for boot in boots)]
    assert [line.partition("-")[0] for line in steps] == ["001", "002"], "each boot is seen, in its trial"
    assert not domains(), "the campaign takes its machine down"
    folder = find_campaign("vms")
    levels = [trial.parameters.ram_mb for trial in Plan.load(folder).trials]
    assert levels in ([512, 256, 256, 512], [256, 512, 512, 256])
    records = [read_record(path) for path in sorted((folder / "trials").glob("*.ipynb"))]
    assert [record.outcome for record in records] == ["ok"] * 4
    found = [record.machine.virtual_machine for record in records if record.machine is not None]
    assert [machine.reached_by for machine in found if machine] == ["created", "reloaded", "reset", "restored"]
    usable = [machine.usable_ram_bytes // MIB for machine in found if machine]
    assert [value > 400 for value in usable] == [level == 512 for level in levels]
    assert len(read_campaign(folder).trials) == 4
    report = render_report(folder, None).read_text()
    assert "emulat" in report or found[0] is None or found[0].acceleration == "kvm"


def test_a_killed_campaign_is_swept_and_resumed(box: str, tmp_path: Path) -> None:
    """With two machines at the same time. The keepers are killed as well, so the next start takes the machines down."""
    matrix = {"machine": ["vagrant"], "ram_mb": [256], "file_size": ["8M"]}
    path = campaign_file(tmp_path, box, matrix=matrix, repeats=4)
    words = [sys.executable, "-m", "picolab", "matrix", str(path), "--machines", "2", "--campaign", "killed"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as campaign:
        running = outputs_dir() / "killed" / "running"

        def two_ended_and_one_runs() -> bool:
            return len(trials_of_the_killed()) >= 2 and bool(list(running.glob("*/state.json")))

        eventually(two_ended_and_one_runs, "two trials have ended and another one runs", give_up_s=300)
        keepers = [keeper for folder in machine_folders() if (keeper := keeper_of(folder)) is not None]
        for keeper in keepers:
            # The one of a machine that no trial needs any more may just have ended.
            keeper.signal(signal.SIGKILL)
        campaign.kill()
    eventually(lambda: not any(keeper.alive for keeper in keepers), "the keepers are dead")
    assert "running" in domains().values() and {one["holder"] for one in registry.existing()} == {"nobody"}

    def is_swept() -> bool:
        registry.sweep()
        return not registry.existing()

    # The kernel of a trial ends with the campaign, and may hold the machine's lock until then.
    eventually(is_swept, "the machines are taken down", give_up_s=300)
    assert not domains() and not any(libvirt.leftovers(domain_prefix(name)) for name in ("killed-1", "killed-2"))
    kept = {notebook: notebook.stat().st_mtime_ns for notebook in trials_of_the_killed()}
    done = picolab("resume", "killed")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {notebook: notebook.stat().st_mtime_ns for notebook in kept} == kept
    records = [read_record(notebook) for notebook in trials_of_the_killed()]
    assert [record.outcome for record in records] == ["ok"] * 4
    machines = {record.machine.name for record in records if record.machine is not None}
    assert machines == {"killed-1", "killed-2"}, "both ran at the same time"
    sections = sorted(measured_section(record) for record in records)
    assert all(end <= begin for (_, end), (begin, _) in pairwise(sections)), "measured sections take turns"
    assert not domains() and list(machines_dir().iterdir()) == []


def trials_of_the_killed() -> list[Path]:
    return sorted((outputs_dir() / "killed" / "trials").glob("*.ipynb"))


def measured_section(record: Record) -> tuple[float, float]:
    assert record.timeline is not None
    assert record.timeline.measured_from_s is not None and record.timeline.measured_until_s is not None
    return record.timeline.measured_from_s, record.timeline.measured_until_s


def test_a_box_that_is_not_there_is_one_sentence(box: str) -> None:
    done = picolab(
        "trial", "--machine", "vagrant", "-p", "box", "picolab/no-such-box", "--file-size", "10M", "--ram", "256"
    )
    assert done.returncode == 3, done.stdout
    record, _ = the_only_record()
    assert record.outcome == "machine_failed" and "picolab/no-such-box" in record.outcome_detail
    assert "Traceback" not in done.stdout + done.stderr
    registry.release_by_name("vagrant")
