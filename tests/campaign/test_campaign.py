"""A campaign with real papermill processes: outcomes, faults, resume, signals and kills at every stage."""

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import eventually, loaded_server

from picolab.agent.procfs import descendants
from picolab.campaign.preflight import check_plan
from picolab.campaign.progress import Watcher
from picolab.campaign.runner import Campaign
from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.plan import Plan, make_plan
from picolab.config.project import outputs_dir
from picolab.errors import (
    BuildError,
    CampaignBusy,
    HostUnfit,
    MachineBusy,
    MemoryLimitUnavailable,
    ParameterError,
)
from picolab.exit_codes import ExitCode
from picolab.host.processes import ProcessIdentity
from picolab.machines import folders, registry
from picolab.machines.base import Holder, MachineWish
from picolab.machines.local import cgroup
from picolab.machines.local import machine as local
from picolab.record.outcomes import Outcome
from picolab.results.ledger import LedgerEntry
from picolab.results.load import read_campaign, read_record

SLOW = {"transfer_mib_s": 4}
"""Slow enough to catch an upload of 8 MiB in the act."""


def plan_of(matrix: dict[str, object], name: str = "test", repeats: int = 1, **rest: object) -> Plan:
    wanted = {
        "matrix": {"ram_mb": [128], "file_size": ["4M"]} | matrix,
        "repeats": repeats,
        "idle_limit_s": 0,
        "fault_retries": 0,
    }
    return make_plan(CampaignParameters.model_validate(wanted | rest), name, "test.yaml")


def run(plan: Plan, watcher: Watcher | None = None) -> tuple[Campaign, ExitCode]:
    campaign = Campaign.create(plan, watcher or Watcher())
    return campaign, campaign.run()


def files(campaign: Campaign, folder: str) -> list[str]:
    place = campaign.folder / folder
    return sorted(path.name for path in place.iterdir()) if place.is_dir() else []


def test_results_and_their_files() -> None:
    ended: list[LedgerEntry] = []
    plan = plan_of({"calibration": [{}, {"status": 500}]})
    campaign, code = run(plan, Watcher(ended=lambda entry, progress: ended.append(entry)))

    assert code is ExitCode.TRIALS_FAILED
    assert sorted(entry.outcome for entry in ended) == [Outcome.HTTP_ERROR, Outcome.OK]
    for trial in plan.trials:
        record = read_record(campaign.folder / "trials" / f"{trial.trial_id}.ipynb")
        assert record.identity.trial_id == trial.trial_id
        assert record.identity.campaign == "test"
        assert record.parameters.seed == trial.parameters.seed
        for suffix in (".record.json", ".samples.jsonl", ".server.log"):
            assert (campaign.folder / "trials" / f"{trial.trial_id}{suffix}").exists()
    rows = list(csv.DictReader((campaign.folder / "results.csv").read_text().splitlines()))
    assert [row["trial_id"] for row in rows] == [trial.trial_id for trial in plan.trials]
    assert not (campaign.folder / "running").exists()
    data = read_campaign(campaign.folder)
    assert len(data.trials) == 2 and data.problems.empty
    assert not registry.existing()


def test_a_fault_is_retried_listed_and_tried_again_on_resume() -> None:
    plan = plan_of({"calibration": [{"occupy_port_without_listening": True}]}, fault_retries=1)
    campaign, code = run(plan)

    assert code is ExitCode.INSTRUMENT_FAULT
    (trial,) = plan.trials
    assert [(e.attempt, e.outcome) for e in campaign.ledger.entries()] == [
        (1, "machine_failed"),
        (2, "machine_failed"),
    ]
    assert f"{trial.trial_id}.attempt2.ipynb" in files(campaign, "faults")
    assert files(campaign, "trials") == []
    data = read_campaign(campaign.folder)
    assert data.trials.empty and len(data.faults) == 2

    assert Campaign.load(campaign.folder).run() is ExitCode.INSTRUMENT_FAULT
    assert [entry.attempt for entry in campaign.ledger.entries()] == [1, 2, 3, 4]


def test_a_finished_campaign_runs_nothing_again() -> None:
    campaign, code = run(plan_of({}))
    before = (campaign.folder / "ledger.jsonl").read_bytes()

    assert code is ExitCode.OK
    assert Campaign.load(campaign.folder).run() is ExitCode.OK
    assert (campaign.folder / "ledger.jsonl").read_bytes() == before


def test_only_one_process_runs_a_campaign() -> None:
    campaign = Campaign.create(plan_of({}), Watcher())
    with campaign._alone(), pytest.raises(CampaignBusy, match="another process"):
        Campaign.load(campaign.folder).run()


def test_keep_machine_on_failure_stops_with_the_machine_up() -> None:
    plan = plan_of({}, repeats=2, parameters={"keep_machine": "on_failure", "calibration": {"status": 500}})
    campaign, code = run(plan)
    try:
        assert code is ExitCode.INSTRUMENT_FAULT, "the campaign is not complete"
        assert [machine["name"] for machine in registry.existing()] == ["test"]
        assert len(campaign.ledger.results()) == 1
    finally:
        registry.release_by_name("test")


# Killed from outside


@pytest.fixture
def command() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "picolab", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def parameters_file(tmp_path: Path) -> Path:
    path = tmp_path / "slow.yaml"
    content = {
        "matrix": {"ram_mb": [128], "file_size": ["8M"]},
        "repeats": 2,
        "idle_limit_s": 0,
        "parameters": {"calibration": SLOW},
    }
    path.write_text(json.dumps(content))
    return path


def uploading(done: int) -> Path | None:
    """Return the folder of the running trial when `done` trials have a result and it is in its upload."""
    campaign = outputs_dir() / "slow"
    ledger = campaign / "ledger.jsonl"
    if (len(ledger.read_text().splitlines()) if ledger.exists() else 0) != done:
        return None
    return next((path.parent for path in campaign.glob("running/*/progress.json")), None)


def find(pid: int, word: str) -> ProcessIdentity | None:
    for child in descendants(pid):
        identity = ProcessIdentity.of(child)
        if identity is not None and word in identity.command:
            return identity
    return None


def finish(command: Callable[..., subprocess.Popen[str]], words: tuple[str, ...]) -> tuple[int, str]:
    process = command(*words)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def check_complete() -> None:
    campaign = Campaign.load(outputs_dir() / "slow")
    results = [entry for entry in campaign.ledger.entries() if not entry.outcome.is_fault]
    assert sorted(entry.trial_id for entry in results) == sorted(trial.trial_id for trial in campaign.plan.trials)
    assert {entry.outcome for entry in results} == {Outcome.OK}
    assert len(read_campaign(campaign.folder).trials) == 2


def test_ctrl_c_stops_in_order_and_resume_goes_on(
    command: Callable[..., subprocess.Popen[str]], parameters_file: Path
) -> None:
    process = command("matrix", str(parameters_file), "--campaign", "slow")
    eventually(lambda: uploading(done=1), "the second upload runs")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)

    assert process.returncode == ExitCode.INTERRUPTED, output
    assert "Resume with: picolab resume slow" in output
    campaign = Campaign.load(outputs_dir() / "slow")
    assert [entry.outcome for entry in campaign.ledger.entries()] == [Outcome.OK, Outcome.INTERRUPTED]
    interrupted = read_record(campaign.folder / str(campaign.ledger.entries()[1].notebook))
    assert interrupted.outcome is Outcome.INTERRUPTED, "the trial itself published what it had"
    assert not registry.existing()

    code, output = finish(command, ("resume", "slow"))
    assert code == ExitCode.OK, output
    check_complete()


def kill_and_resume(process: subprocess.Popen[str], command: Callable[..., subprocess.Popen[str]]) -> int:
    """SIGKILL a campaign, wait until nothing of it is left, finish it; return how many processes it had."""
    family = [identity for pid in descendants(process.pid) if (identity := ProcessIdentity.of(pid))]
    process.kill()
    process.wait()

    eventually(lambda: not any(member.alive for member in family), "its processes end by themselves")
    eventually(lambda: not folders.machines_dir().joinpath("slow").exists(), "the machine is taken down")
    code, output = finish(command, ("resume", "slow"))
    assert code == ExitCode.OK, output
    return len(family)


def test_a_killed_campaign_leaves_nothing_and_resumes(
    command: Callable[..., subprocess.Popen[str]], parameters_file: Path
) -> None:
    process = command("matrix", str(parameters_file), "--campaign", "slow")
    eventually(lambda: uploading(done=1), "the second upload runs")
    assert kill_and_resume(process, command) >= 4, "papermill, kernel, keeper, server"
    check_complete()


@pytest.mark.parametrize("sign", ["request.json", "papermill.log", "state.json", "server.log"])
def test_a_campaign_killed_at_a_trials_start_resumes(
    command: Callable[..., subprocess.Popen[str]], parameters_file: Path, sign: str
) -> None:
    process = command("matrix", str(parameters_file), "--campaign", "slow", "--repeats", "1")
    eventually(lambda: list((outputs_dir() / "slow").glob(f"running/*/{sign}")), f"the trial has written {sign}")
    kill_and_resume(process, command)
    assert len(Campaign.load(outputs_dir() / "slow").ledger.results()) == 1


@pytest.mark.parametrize(
    "victim",
    [
        "ipykernel_launcher",
        "picolab.jupyter.papermill_process",
        "picolab.jupyter.fork_server",
        "picolab.machines.local.keeper",
    ],
)
def test_a_killed_part_costs_one_attempt(
    command: Callable[..., subprocess.Popen[str]], parameters_file: Path, victim: str
) -> None:
    process = command("matrix", str(parameters_file), "--campaign", "slow")
    eventually(lambda: uploading(done=1), "the second upload runs")
    doomed = find(process.pid, victim)
    assert doomed is not None
    doomed.signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=120)

    assert process.returncode == ExitCode.OK, output
    faults = [entry for entry in Campaign.load(outputs_dir() / "slow").ledger.entries() if entry.outcome.is_fault]
    assert len(faults) == 1, output
    ended = "the trial's process ended without a record: {} was killed by SIGKILL"
    details = {
        "ipykernel_launcher": ended.format("the kernel"),
        "picolab.jupyter.papermill_process": ended.format("papermill"),
        "picolab.jupyter.fork_server": "the fork server was killed, and so the trial ended",
    }
    assert faults[0].outcome_detail == details.get(victim, faults[0].outcome_detail)
    check_complete()


def test_a_killed_server_is_a_result(command: Callable[..., subprocess.Popen[str]], parameters_file: Path) -> None:
    process = command("matrix", str(parameters_file), "--campaign", "slow")
    eventually(lambda: uploading(done=1), "the second upload runs")
    server = find(process.pid, "calibration-server") or find(process.pid, "-I -S")
    assert server is not None
    server.signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=120)

    assert process.returncode == ExitCode.TRIALS_FAILED, output
    outcomes = [entry.outcome for entry in Campaign.load(outputs_dir() / "slow").ledger.entries()]
    assert outcomes == [Outcome.OK, Outcome.SERVER_DIED]


@pytest.mark.parametrize("lost", ["the ledger's line", "the notebook", "the renames", "half of the renames"])
def test_a_measured_trial_survives_a_kill_at_the_worst_moment(lost: str) -> None:
    campaign, _ = run(plan_of({}))
    (trial,) = campaign.plan.trials
    measured = read_record(campaign.folder / "trials" / f"{trial.trial_id}.ipynb")
    (campaign.folder / "ledger.jsonl").write_text('{"trial_id": "torn')
    if lost != "the ledger's line":
        running = campaign.folder / "running" / trial.trial_id
        running.mkdir(parents=True)
        for suffix, name in (
            (".ipynb", "trial.ipynb"),
            (".record.json", "record.json"),
            (".samples.jsonl", "samples.jsonl"),
        ):
            (campaign.folder / "trials" / f"{trial.trial_id}{suffix}").replace(running / name)
        if lost == "half of the renames":
            for suffix, name in ((".record.json", "record.json"), (".samples.jsonl", "samples.jsonl")):
                (running / name).replace(campaign.folder / "trials" / f"{trial.trial_id}{suffix}")
        if lost == "the notebook":
            whole = (running / "trial.ipynb").read_text()
            (running / "trial.ipynb").write_text(whole[: len(whole) // 2])

    assert Campaign.load(campaign.folder).run() is ExitCode.OK

    (entry,) = campaign.ledger.entries()
    assert entry.outcome is Outcome.OK and entry.attempt == 1
    assert entry.duration_s is None, "nobody timed it"
    assert entry.started_at == measured.identity.started_at
    assert len((campaign.folder / "results.csv").read_text().splitlines()) == 2
    assert read_record(campaign.folder / str(entry.notebook)) == measured
    assert len(read_campaign(campaign.folder).samples) == measured.memory.samples  # type: ignore[union-attr]


def test_a_server_that_dies_after_its_answer_is_a_result(tmp_path: Path) -> None:
    build = tmp_path / "dies-after-its-answer"
    build.write_text(
        DIES_AFTER_ITS_ANSWER.format(
            python=sys.executable, loaded=loaded_server(), samples=outputs_dir() / "test-*/running/*/samples.jsonl"
        )
    )
    build.chmod(0o755)

    for direction, outcome in (("upload", Outcome.OK), ("both", Outcome.SERVER_DIED)):
        campaign, code = run(plan_of({"build": [str(build)], "direction": [direction]}, name=f"test-{direction}"))

        measured_both = direction == "both"
        assert code is (ExitCode.TRIALS_FAILED if measured_both else ExitCode.OK), campaign.ledger.entries()
        (entry,) = campaign.ledger.entries()
        record = read_record(campaign.folder / str(entry.notebook))
        assert (record.outcome, record.outcome_stage) == (outcome, "verify" if measured_both else None)
        assert record.upload and record.upload.duration_s and record.upload.outcome is Outcome.OK
        assert ("not_verified" in [caveat.code for caveat in record.caveats]) is not measured_both


DIES_AFTER_ITS_ANSWER = """#!{python} -S
import glob, os, threading, time
{loaded}
def die_when_the_upload_is_over():
    while not any(b'"end"' in open(path, "rb").read() for path in glob.glob("{samples}")):
        time.sleep(0.001)
    os._exit(7)
class Log:
    def write(self, text):
        os.write(2, text.encode())
        if "committed" in text:
            threading.Thread(target=die_when_the_upload_is_over).start()
        return len(text)
    def flush(self):
        pass
sys.stderr = Log()
sys.exit(server.main())
"""


def test_a_campaign_takes_no_machine_that_somebody_else_holds(tmp_path: Path) -> None:
    other = subprocess.Popen(["sleep", "600"])
    try:
        identity = ProcessIdentity.of(other.pid)
        assert identity is not None
        machine = local.LocalMachine.obtain(MachineWish("test", 64, "enforced", ""), Holder(identity, keep=False))
        campaign = Campaign.create(plan_of({}), Watcher())

        with pytest.raises(MachineBusy, match=f"held by process {other.pid}"):
            campaign.run()

        assert [found["name"] for found in registry.existing()] == ["test"]
        assert campaign.ledger.entries() == []
    finally:
        other.kill()
        other.wait()
        machine.release()


def test_hang_up_does_not_stop_what_nohup_started(
    command: Callable[..., subprocess.Popen[str]], parameters_file: Path
) -> None:
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = command("matrix", str(parameters_file), "--campaign", "slow", "--repeats", "1")
    finally:
        signal.signal(signal.SIGHUP, ignored)
    eventually(lambda: uploading(done=0), "the upload runs")
    process.send_signal(signal.SIGHUP)
    output, _ = process.communicate(timeout=120)

    assert process.returncode == ExitCode.OK, output


def test_a_reader_that_goes_away_does_not_stop_a_campaign(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(json.dumps({"matrix": {"file_size": ["1M"]}, "repeats": 2, "idle_limit_s": 0}))
    words = f"{sys.executable} -m picolab matrix {path} --campaign c | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, timeout=120, check=False)

    assert (done.returncode, done.stderr) == (ExitCode.OK, "")
    assert len(Campaign.load(outputs_dir() / "c").ledger.results()) == 2


# Refused before anything is started


def test_a_file_that_does_not_fit_on_the_disk() -> None:
    with pytest.raises(HostUnfit, match=r"an upload of 1T needs 2.2 times its size on disk.*set work_dir"):
        check_plan(plan_of({"file_size": ["1T"]}))


def test_more_ram_than_the_host_has() -> None:
    with pytest.raises(HostUnfit, match="ram_mb = 1048576 is more than this host's"):
        check_plan(plan_of({"ram_mb": [1048576]}))


def test_a_build_that_is_not_there() -> None:
    with pytest.raises(BuildError, match="there is no such file"):
        check_plan(plan_of({"build": ["/no/such/picoshare"]}))


def test_no_memory_limit_is_refused_with_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("v1_parent", "v2_parent"):
        monkeypatch.setattr(cgroup, place, lambda: None)
    monkeypatch.setattr(cgroup, "systemd_user_available", lambda: False)

    with pytest.raises(MemoryLimitUnavailable, match=r"run picolab as root.*memory_limit: none"):
        check_plan(plan_of({}))
    check_plan(plan_of({}, parameters={"memory_limit": "none"}))


def test_a_campaign_is_never_overwritten() -> None:
    Campaign.create(plan_of({}), Watcher())
    with pytest.raises(ParameterError, match="is already there; continue with `picolab resume test`"):
        Campaign.create(plan_of({}), Watcher())
    assert [path.name for path in outputs_dir().iterdir()] == ["test"]
