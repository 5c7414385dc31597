"""Several machines at the same time: turns, the budget, the order, and campaigns that are interrupted or killed."""

import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from campaign_factory import FakeTrial, write_campaign
from conftest import eventually

from picolab.agent.procfs import descendants
from picolab.campaign import runner as runner_module
from picolab.campaign import slots as slots_module
from picolab.campaign.budget import CLIENT_MB, Budget, check_budget, machines_in_words
from picolab.campaign.progress import Watcher
from picolab.campaign.runner import Campaign
from picolab.campaign.slots import Slots, _Attempt
from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.plan import Plan, make_plan, together
from picolab.config.project import outputs_dir
from picolab.errors import HostUnfit, MachineError, ParameterError
from picolab.exit_codes import ExitCode
from picolab.host.processes import ProcessIdentity
from picolab.machines import folders, registry
from picolab.record.outcomes import Outcome
from picolab.record.record import Record
from picolab.results.load import read_campaign


def plan_of(matrix: dict[str, object] | None = None, repeats: int = 2, **rest: object) -> Plan:
    wanted = {
        "matrix": {"ram_mb": [128], "file_size": ["4M"]} | (matrix or {}),
        "repeats": repeats,
        "idle_limit_s": 0,
        "machines": 2,
    }
    return make_plan(CampaignParameters.model_validate(wanted | rest), "two", "test.yaml")


def section(record: Record) -> tuple[float, float]:
    timeline = record.timeline
    assert timeline is not None and timeline.measured_from_s is not None and timeline.measured_until_s is not None
    return timeline.measured_from_s, timeline.measured_until_s


def meanwhile_s(record: Record, other: Record, *, measured: bool) -> float:
    """Return for how long the stages of another trial overlap the measured section, from the times in both records."""
    from_s, until_s = section(record)
    begun_s, ended_s = section(other)
    assert other.timeline is not None
    spans = [(span.begun_monotonic_s, span.ended_monotonic_s) for span in other.timeline.stages]
    inside = [span for span in spans if (begun_s <= span[0] and span[1] <= ended_s) is measured]
    return sum(max(0.0, min(until_s, end) - max(from_s, begin)) for begin, end in inside)


def test_each_level_of_overlap_is_kept_and_records_say_what_ran() -> None:
    campaign = Campaign.create(plan_of({"overlap": ["none", "preparation", "measurements"]}, 1), Watcher())
    assert campaign.run() is ExitCode.OK

    records = list(read_campaign(campaign.folder).records.values())
    assert len(records) == 3
    assert {record.parameters.machine_name for record in records} == {"two-1", "two-2"}
    for record in records:
        assert record.timeline is not None
        others = [other for other in records if other is not record]
        worked_s, measured_s = (
            sum(meanwhile_s(record, other, measured=measured) for other in others) for measured in (False, True)
        )
        # More than the stages: kernels that begin, files that are put in their place, the time between two stages.
        assert (record.timeline.others_worked_s or 0) >= worked_s - 0.001
        assert (record.timeline.others_measured_s or 0) >= measured_s - 0.001
        assert record.timeline.others_s is not None and record.timeline.others_s >= worked_s - 0.001
        if record.parameters.overlap == "none":
            assert record.timeline.neighbours == []
        if record.parameters.overlap != "measurements":
            assert record.timeline.others_measured_s == 0
        assert any(caveat.code == "overlapped" for caveat in record.caveats) is bool(record.timeline.neighbours)
        strangers = [caveat.value for caveat in record.caveats if caveat.code == "other_machines"]
        assert not any("two-" in str(names) for names in strangers), "machines of the campaign are no strangers"
    assert any(record.timeline and record.timeline.neighbours for record in records)
    assert sorted(entry.trial_id for entry in campaign.ledger.entries()) == sorted(
        trial.trial_id for trial in campaign.plan.trials
    )
    assert not (campaign.folder / "running").exists()
    assert not registry.existing()


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


def two_run() -> bool:
    """Return whether two trials run at the same time, and one of them uploads."""
    running = outputs_dir() / "two" / "running"
    return len(list(running.glob("*/request.json"))) == 2 and bool(list(running.glob("*/progress.json")))


def family(pid: int, word: str = "") -> list[ProcessIdentity]:
    found = [identity for child in descendants(pid) if (identity := ProcessIdentity.of(child))]
    return [identity for identity in found if word in identity.command]


def test_kills_of_a_part_ctrl_c_and_kill_lose_nothing(
    command: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    path = tmp_path / "slow.yaml"
    content = {
        "matrix": {"ram_mb": [128], "file_size": ["8M"]},
        "repeats": 3,
        "idle_limit_s": 0,
        "parameters": {"calibration": {"transfer_mib_s": 4}},
    }
    path.write_text(json.dumps(content))
    words = ("matrix", str(path), "--campaign", "two", "--machines", "2")
    process = command(*words)
    eventually(two_run, "two trials run at the same time")
    eventually(lambda: family(process.pid, "ipykernel_launcher"), "a kernel runs")[0].signal(signal.SIGKILL)
    ledger = outputs_dir() / "two" / "ledger.jsonl"
    eventually(lambda: ledger.exists() and Outcome.INVALID in ledger.read_text(), "the killed trial is a fault")
    eventually(two_run, "two trials run again")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == ExitCode.INTERRUPTED, output
    assert not registry.existing()
    entries = Campaign.load(outputs_dir() / "two").ledger.entries()
    assert [entry.outcome for entry in entries].count(Outcome.INTERRUPTED) in (1, 2), "both were asked to end"

    process = command("resume", "two")
    eventually(two_run, "two trials run after the resume")
    members = family(process.pid)
    process.kill()
    process.wait()
    eventually(lambda: not any(member.alive for member in members), "its processes end by themselves")
    eventually(lambda: not list(folders.machines_dir().glob("two-*")), "both machines are taken down")

    process = command("resume", "two")
    server = "picolab.jupyter.fork_server"
    # It begins after the folders of the killed trials are gone.
    (found,) = eventually(lambda: two_run() and family(process.pid, server), "two trials run after the kill")
    before = len(Campaign.load(outputs_dir() / "two").ledger.entries())
    found.signal(signal.SIGKILL)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == ExitCode.OK, output
    assert "2 machines at the same time" in output, "a resumed campaign says so too"
    campaign = Campaign.load(outputs_dir() / "two")
    faults = [entry for entry in campaign.ledger.entries()[before:] if entry.outcome.is_fault]
    lost = "the fork server was killed, and so the trial ended"
    assert [entry.outcome_detail for entry in faults] == [lost, lost], "one attempt of each, and none after that"
    results = [entry.trial_id for entry in campaign.ledger.entries() if not entry.outcome.is_fault]
    assert sorted(results) == sorted(trial.trial_id for trial in campaign.plan.trials)
    sections = sorted(section(record) for record in read_campaign(campaign.folder).records.values())
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(sections)), "they took turns"
    assert not (campaign.folder / "running").exists()


# The budget


def test_machines_that_never_fit_are_refused() -> None:
    plan = plan_of({"ram_mb": [512, 1024]}, machines=3)
    check_budget(plan, Budget(ram_mb=2816, processors=3))
    with pytest.raises(HostUnfit, match=r"machines = 3: .* need 2,816 MiB of RAM .* 2,000 MiB .* at most 2"):
        check_budget(plan, Budget(ram_mb=2000, processors=3))
    with pytest.raises(HostUnfit, match=r"and 3 processors, and this host has .* and 1 processor; use one machine"):
        check_budget(plan, Budget(ram_mb=9000, processors=1))


def test_processors_of_virtual_machines_count() -> None:
    plan = plan_of({"machine": ["vagrant"], "ram_mb": [512]}, parameters={"cpus": 4})
    with pytest.raises(HostUnfit, match="8 processors, and this host has"):
        check_budget(plan, Budget(ram_mb=9000, processors=7))
    check_budget(plan, Budget(ram_mb=9000, processors=8))


def test_a_trial_waits_for_room_and_alone_for_all() -> None:
    plan = plan_of({"ram_mb": [128, 512], "overlap": ["none", "preparation"]}, repeats=1)
    campaign = Campaign.create(plan, Watcher())
    slots = Slots(campaign, campaign.machines)
    slots._budget = Budget(ram_mb=2 * 128 + 2 * CLIENT_MB + 100, processors=2)
    trials = {(trial.parameters.ram_mb, trial.parameters.overlap): trial for trial in plan.trials}
    small, large = trials[128, "preparation"], trials[512, "preparation"]
    assert slots._may_begin(large, []), "a trial that is larger than the budget runs by itself"
    assert slots._may_begin(small, [small])
    assert not slots._may_begin(large, [small])
    assert not slots._may_begin(trials[128, "none"], [small])
    assert not slots._may_begin(small, [trials[128, "none"]])


def test_machines_that_are_up_count_and_are_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = {"machine": ["vagrant"], "ram_mb": [256, 512], "overlap": ["none", "preparation"]}
    campaign = Campaign.create(plan_of(matrix, repeats=1, machines=3), Watcher())
    slots = Slots(campaign, campaign.machines)
    trials = {(trial.parameters.ram_mb, trial.parameters.overlap): trial for trial in campaign.plan.trials}
    small, large = trials[256, "preparation"], trials[512, "preparation"]
    released: list[str] = []
    monkeypatch.setattr(slots_module, "_release", released.append)
    first, second, third = slots._slots
    first.up, second.up = small, large
    slots._waiting.append([large])
    assert slots._free([first, second, third]) is second, "its machine has that RAM"
    assert slots._free([first, third]) is third, "the machine of the first may be used again"
    second.up = None
    slots._budget = Budget(ram_mb=512 + CLIENT_MB + 256, processors=4)
    slots._make_room([large])
    assert released == []
    slots._budget = Budget(ram_mb=512 + CLIENT_MB + 255, processors=4)
    slots._make_room([large])
    assert released == ["two-1"] and first.up is None
    slots._budget = Budget(ram_mb=9000, processors=4)
    first.up = small
    slots._make_room([trials[512, "none"]])
    assert released == ["two-1", "two-1"], "nothing is up next to a trial that runs alone"

    def fail(_: str) -> None:
        raise MachineError("the daemon does not answer")

    monkeypatch.setattr(slots_module, "_release", fail)
    notes: list[str] = []
    monkeypatch.setattr(campaign, "watcher", Watcher(note=notes.append))
    first.up = small
    slots._make_room([trials[512, "none"]])
    (note,) = notes
    assert note.startswith("The machine two-1 could not be taken down") and "the daemon does not answer" in note


def test_machines_that_cannot_be_taken_down_spoil_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise MachineError("the daemon does not answer")

    monkeypatch.setattr(slots_module, "_release", fail)
    notes: list[str] = []
    campaign = Campaign.create(plan_of(repeats=1), Watcher(note=notes.append))
    try:
        assert campaign.run() is ExitCode.OK
    finally:
        for name in campaign.machines:
            registry.release_by_name(name)
    assert len(read_campaign(campaign.folder).trials) == 1
    for name in campaign.machines:
        assert notes[-2:].count(
            f"The machine {name} could not be taken down: the daemon does not answer; do it with: picolab machines "
            f"remove {name}."
        ), notes


# The end of a trial, and of a campaign with enough repeats


class Hung:
    """Stands for a trial that never ends."""

    ended = lost_fork_server = False

    def ended_by(self) -> str:
        return ""

    def kill(self) -> None:
        pass


def test_a_wait_for_a_hung_trial_makes_no_trial_late(monkeypatch: pytest.MonkeyPatch) -> None:
    campaign = Campaign.create(plan_of(), Watcher())
    slots = Slots(campaign, campaign.machines)
    slots._board_folder.mkdir(parents=True)
    monkeypatch.setattr(slots_module, "interrupt", lambda _: None)
    now_s = time.monotonic()
    for slot, trial, limit_s in zip(slots._slots, campaign.plan.trials, (99.0, 50.0), strict=True):
        slot.trials.append(trial)
        slot.attempt = _Attempt(trial, 1, Hung(), datetime.now(UTC), now_s - 100, limit_s)  # type: ignore[arg-type]
    hung, other = slots._slots
    notes = [(hung, now_s - 100, "measures"), (other, now_s - 100, "works"), (other, now_s - 60, "sleeps")]
    for slot, at_s, how in notes:
        with (slots._board_folder / f"{slot.machine}.lines").open("a") as file:
            file.write(f"{at_s:.6f} {how} start {slot.trials[0].trial_id}\n")
    boards: list[str] = []
    assert slots._has_ended(hung) and not slots._has_ended(other), "its limit is shorter, and it only waited"
    hung.tries = campaign.plan.fault_retries
    slots._end(hung, lambda: boards.append((slots._board_folder / "two-1.lines").read_text()))
    assert [" ends " in text and " idle " not in text for text in boards] == [True], "a look at the results is work"


def test_blocks_that_were_measured_count_when_another_was_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_campaign(tmp_path / "c", [FakeTrial(block=block) for block in (1, 2, 3)], [FakeTrial(block=4)])
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps({**plan, "stopping": {}, "machines": 2}))
    monkeypatch.setattr(runner_module, "why_enough", lambda *_: "it is enough")
    campaign = Campaign.load(folder)
    campaign._look_at(1)
    assert campaign.tally.needed == campaign.tally.rows.keys(), "three blocks"


# The plan


def test_alone_and_shared_trials_are_apart_and_blocks_alternate() -> None:
    plan = plan_of({"ram_mb": [128, 160], "overlap": ["none", "measurements"]}, repeats=4)
    levels = [trial.parameters.overlap for trial in plan.trials]
    runs = [level for index, level in enumerate(levels) if index == 0 or levels[index - 1] != level]
    assert len(runs) == 5, "a block begins as the one before has ended"
    assert sorted(trial.case for trial in plan.trials[:4]) == sorted(trial.case for trial in plan.trials[4:8])
    assert machines_in_words(plan).startswith("2 machines at the same time, as RAM and processors allow: 8 of 16")


def test_a_block_of_a_comparison_stays_on_one_machine() -> None:
    builds = {"old": {"build": "calibration"}, "new": {"build": "calibration"}}
    pairs = plan_of(builds=builds, baseline="old")
    assert [len(group) for group in together(pairs, pairs.trials)] == [2, 2]
    both = plan_of({"overlap": ["none", "preparation"]}, repeats=1, builds=builds, baseline="old")
    assert [len(group) for group in together(both, both.trials)] == [2, 2]


def test_overlap_is_set_for_several_machines_only() -> None:
    assert {trial.parameters.overlap for trial in plan_of().trials} == {"preparation"}
    assert {trial.parameters.overlap for trial in plan_of(machines=1).trials} == {"none"}
    with pytest.raises(ParameterError, match="overlap = 'measurements' needs several machines"):
        plan_of({"overlap": ["none", "measurements"]}, machines=1)
