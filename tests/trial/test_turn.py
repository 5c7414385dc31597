"""The turn of a trial: who may measure at the same time, and what it sees of the others."""

import json
import resource
import signal
import threading
import time
from pathlib import Path

import pytest
from conftest import eventually

from picolab.config.trial_parameters import TrialParameters
from picolab.host.processes import this_process
from picolab.jupyter.trial_context import TrialContext
from picolab.record import host_caveats
from picolab.record.outcomes import Outcome
from picolab.record.timeline import Timeline
from picolab.record.validation import validate_record
from picolab.trial.engine import run_stage
from picolab.trial.run import NotOk, TrialRun
from picolab.trial.state import TrialState
from picolab.trial.turn import NEIGHBOUR_TIMES, Activity, Board, Turn, covered_s, measured_section, note_neighbours


def turn_of(folder: Path | None, name: str, **parameters: object) -> tuple[Turn, Timeline]:
    timeline = Timeline(boot_id="boot")
    return Turn(TrialParameters.model_validate(parameters), name, timeline, folder, name), timeline


@pytest.mark.parametrize(("level", "waits"), [("preparation", True), ("measurements", False)])
def test_a_measured_section_waits_unless_overlap_was_asked_for(tmp_path: Path, level: str, waits: bool) -> None:
    first, _ = turn_of(tmp_path, "first", overlap=level)
    second, timeline = turn_of(tmp_path, "second", overlap=level)
    first.begin("start")
    thread = threading.Thread(target=second.begin, args=("start",))
    thread.start()
    try:
        if waits:
            lines = tmp_path / "second.lines"
            eventually(lambda: lines.exists() and "sleeps" in lines.read_text(), "it waits for its turn")
            assert timeline.measured_from_s is None
        else:
            thread.join()
    finally:
        first.end("start", over=True)
        thread.join()
    second.end("start", over=True)
    assert (timeline.waited_s > 0.0 and timeline.others_measured_s == 0.0) is waits


def test_a_trial_sees_what_others_did_and_not_that_they_waited(tmp_path: Path) -> None:
    other = Board(tmp_path, "m-2")
    turn, timeline = turn_of(tmp_path, "m-1")
    other.works("002-b", "provision")
    turn.begin("start")
    other.sleeps("002-b")
    other.measures("002-b", "start")
    other.works("002-b", "verify")
    turn.end("start", over=False)
    turn.begin("upload")
    turn.end("upload", over=False)
    other.idle("002-b")
    assert {(one.trial_id, one.machine, one.doing, one.measured) for one in timeline.neighbours} == {
        ("002-b", "m-2", "provision", False),
        ("002-b", "m-2", "start", True),
        ("002-b", "m-2", "verify", False),
    }
    assert [span.stage for span in timeline.stages] == ["start", "upload"]
    assert turn.siblings() == {"m-1"}, "the other one is idle"


def test_without_others_nothing_is_written_and_times_are_kept() -> None:
    turn, timeline = turn_of(None, "alone")
    for stage in ("provision", "start", "authenticate", "upload"):
        turn.begin(stage)
        turn.end(stage, over=False)
    assert (timeline.others_worked_s, timeline.others_measured_s, timeline.waited_s) == (0.0, 0.0, 0.0)
    assert timeline.measured_from_s == pytest.approx(timeline.stages[1].begun_monotonic_s, abs=0.01)
    assert timeline.measured_until_s == timeline.stages[-1].ended_monotonic_s


def test_a_long_file_is_read_from_its_end(tmp_path: Path) -> None:
    board = Board(tmp_path, "m-2")
    begun_s = time.monotonic()
    lines = "".join(f"{begun_s - 20_000 + number:.6f} works verify {number:05}-case\n" for number in range(20_000))
    (tmp_path / "m-2.lines").write_text(lines + "torn")
    seen = list(Board(tmp_path, "m-1").others(begun_s - 5_000.5, begun_s))
    assert [one.trial_id for one in (seen[0], seen[-1])] == ["14999-case", "19999-case"]
    assert len(seen) == 5_001 and seen[-1].until_s is None
    assert list(board.others(0.0, begun_s)) == []


def test_what_a_full_disk_kept_from_being_noted_is_unknown(tmp_path: Path) -> None:
    other = Board(tmp_path, "m-2")
    other.idle("001-a")
    turn, timeline = turn_of(tmp_path, "m-1", direction="both")
    turn.begin("start")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # A few bytes more than the file has: the first note is torn.
        resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "m-2.lines").stat().st_size + 5, limits[1]))
        other.works("002-b", "provision")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    other.works("002-b", "verify")
    turn.end("start", over=True)
    assert (timeline.others_worked_s, timeline.others_measured_s, timeline.others_s) == (None, None, None)
    assert turn.why_unknown == "a note about the machine m-2 could not be written"
    (caveat,) = host_caveats.of_overlap(timeline, turn.why_unknown)
    assert caveat.code == "overlap_unknown"

    turn.begin("start")
    turn.end("start", over=True)
    assert turn.why_unknown == "" and [one.doing for one in timeline.neighbours] == ["verify"]


def test_a_record_says_why_it_does_not_know_the_others(tmp_path: Path) -> None:
    (tmp_path / "m-2.lines").touch()
    context = TrialContext(folder=tmp_path, trial_id="001-a", owner=this_process().to_json(), board=tmp_path)
    state = TrialState.begin(TrialParameters(machine_name="m-1", overlap="preparation"), context)

    def action(_: TrialRun) -> str:
        raise NotOk(Outcome.TIMEOUT, "it was never ready")

    run_stage(TrialRun(state, tmp_path, context), "start", action)
    record = validate_record(json.loads(state.record().model_dump_json()), "the record")
    assert record.outcome is Outcome.TIMEOUT and record.timeline is not None and record.timeline.others_s is None
    why = "a note about the machine m-2 could not be written"
    assert [record.missing[f"timeline.{name}"] for name in NEIGHBOUR_TIMES] == [why] * 3
    assert [caveat.code for caveat in record.caveats] == ["overlap_unknown"]


def test_a_link_in_place_of_a_machines_file_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_text("")
    (tmp_path / "m-1.lines").symlink_to(target)
    Board(tmp_path, "m-1").works("001-a", "provision")
    assert target.read_text() == ""


def test_seconds_with_at_least_one_other_are_counted_once() -> None:
    timeline = Timeline(boot_id="boot", measured_from_s=10.0, measured_until_s=20.0)
    others = [
        Activity("a", "m-2", "verify", False, 8.0, 12.0),
        Activity("b", "m-3", "verify", False, 11.0, 13.0),
        Activity("c", "m-4", "upload", True, 19.0, None),
        Activity("d", "m-2", "upload", True, 12.0, 12.5),
    ]
    note_neighbours(timeline, others)
    assert (timeline.others_worked_s, timeline.others_measured_s, timeline.others_s) == (3.0, 1.5, 4.0)
    assert [(one.trial_id, one.overlap_s) for one in timeline.neighbours] == [
        ("a", 2.0),
        ("b", 2.0),
        ("c", 1.0),
        ("d", 0.5),
    ]
    assert covered_s([]) == 0.0


def test_the_section_ends_with_the_last_measured_step() -> None:
    assert measured_section(TrialParameters())[-1] == "upload"
    assert measured_section(TrialParameters(direction="both"))[-1] == "verify"


def test_a_stage_that_was_stopped_while_it_waited_has_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    turn, timeline = turn_of(tmp_path, "m-1", overlap="preparation")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("fcntl.flock", interrupted)
        turn.begin("start")
    turn.end("start", over=True)
    assert timeline.stages == [] and timeline.measured_until_s is None
