"""An answer as a campaign: from the command line, stopped and resumed, asked again, and questions that are refused."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from campaign_factory import FakeTrial, make_record, write_campaign
from command_line import picolab_here

from picolab.campaign.answer import Question, make_answer_plan
from picolab.campaign.answer_growth import next_step
from picolab.campaign.progress import Watcher
from picolab.campaign.runner import Campaign
from picolab.campaign.stopping import why_over_budget
from picolab.cli import answer as answer_module
from picolab.cli import answer_floor
from picolab.cli.main import main
from picolab.config.answer_request import EarlierTrial
from picolab.config.plan import Plan
from picolab.config.project import outputs_dir
from picolab.config.sizes import MIB, parse_size
from picolab.config.trial_parameters import TrialParameters
from picolab.errors import HostUnfit, ParameterError
from picolab.exit_codes import ExitCode
from picolab.record.record import Record
from picolab.results.begun_file import builds_of, write_beginning
from picolab.results.other_campaigns import is_alike
from picolab.results.standing import read_standing

LAW = {"ballast_mib_per_mib": 1, "transfer_mib_s": 60}
KNOBS = ("-p", "calibration", json.dumps(LAW))


def question_of(file_size: str, budget_s: float = 1200, **more: object) -> Question:
    parameters = TrialParameters.model_validate(
        {"file_size": file_size, "ram_mb": 128, "direction": "both", "calibration": LAW, "keep_machine": "never"}
    )
    sha256 = str(more.pop("sha256", "c" * 64))
    return Question(parameters, "calibration", sha256, budget_s, **more)  # type: ignore[arg-type]


def plan_of(file_size: str, budget_s: float = 1200, **more: object) -> Plan:
    return make_answer_plan(question_of(file_size, budget_s, **more), "asked", "picolab answer test", 1, 0)


def sizes_of(plan: Plan) -> list[str]:
    assert plan.answer is not None
    return plan.answer.sizes


def check_the_floor_of(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Check which floor search follows an answer, without running one."""
    searched: list[tuple[Plan, float]] = []

    def run(open_campaign: Callable[[Watcher], Campaign], budget_s: float) -> tuple[Campaign, ExitCode]:
        campaign = open_campaign(Watcher())
        write_beginning(campaign.folder, campaign.plan)
        searched.append((campaign.plan, budget_s))
        return campaign, ExitCode.OK

    monkeypatch.setattr(answer_floor, "run", run)
    answered = Campaign.load(folder)
    ran_s = answered.tally.ran_s
    assert answer_floor.search_floor(answered, ran_s + 5) is ExitCode.OK
    said = " ".join(capsys.readouterr().out.split())
    assert "The RAM floor is not searched: about 40 trials of" in said
    assert "search it with: picolab floor calibration --file-size 8M --step both" in said
    assert not searched

    assert answer_floor.search_floor(answered, ran_s + 600) is ExitCode.OK
    (plan, budget_s), asked = searched.pop(), answered.plan.answer
    assert plan.floor is not None and asked is not None
    assert (plan.campaign, plan.floor.step, budget_s) == ("asked-floor", "both", pytest.approx(600))
    one = plan.trials[0].parameters
    assert one.model_copy(update={"ram_mb": 128, "seed": 1}) == asked.parameters.model_copy(update={"seed": 1})
    assert "No trial of the upload and download of 8M has a result yet" in capsys.readouterr().out

    # That search is unfinished, so it is continued; a finished one is quoted.
    answer_floor.search_floor(answered, ran_s + 600)
    assert searched.pop()[0] == plan
    data = json.loads((outputs_dir() / "asked-floor" / "floor.json").read_text())
    data["builds"][0]["state"] = "found"
    (outputs_dir() / "asked-floor" / "floor.json").write_text(json.dumps(data))
    answer_floor.search_floor(answered, ran_s + 600)
    assert not searched
    assert "The RAM floor is known from campaign asked-floor: nothing is searched." in capsys.readouterr().out
    shutil.rmtree(outputs_dir() / "asked-floor")


def test_answer_is_stopped_resumed_and_asked_again_without_another_trial(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sha256 = next(iter(builds_of(plan_of("8M")).values()))
    plan = plan_of("8M", sha256=sha256)
    ended: list[str] = []
    watcher = Watcher(ended=lambda entry, _: ended.append(entry.trial_id), stop_requested=lambda: len(ended) == 2)
    assert Campaign.create(plan, watcher).run() is ExitCode.INTERRUPTED

    done = picolab_here("resume", "asked")

    assert done.returncode == ExitCode.OK, done.stderr
    folder = outputs_dir() / "asked"
    plan = Plan.load(folder)
    assert list(read_standing(folder).results) == [trial.trial_id for trial in plan.trials]
    assert [trial.parameters.file_size for trial in plan.trials[:3]] == ["512K", "2M", "8M"]
    assert sorted(trial.block for trial in plan.trials) == [1, 2, 3, 4, 4, 4, 5, 5, 5]
    first = json.loads((folder / "answer.json").read_text())
    assert first["verdict"] == "yes"
    assert first["quantities"]["peak_anon_bytes"]["basis"] == "measured: 3 trials"
    assert (
        "Yes: 8M with 128 MiB of RAM worked each time. 3 of 3 trials of 8M survived. Nothing is extrapolated."
        in done.stdout
    )

    check_the_floor_of(folder, monkeypatch, capsys)

    again = picolab_here("answer", "calibration", "--file-size", "32M", "--ram", "128M", "--budget", "0", *KNOBS)

    assert again.returncode == ExitCode.OK, again.stderr
    assert "Uses 9 finished trials of this project." in again.stdout
    other = next(path for path in outputs_dir().glob("answer-*"))
    found = json.loads((other / "answer.json").read_text())
    assert found["verdict"] == "likely"
    assert found["trials"] == [f"asked/{trial.trial_id}" for trial in plan.trials]
    memory = found["quantities"]["peak_anon_bytes"]
    assert memory["law"] == "linear"
    assert 0.6 < memory["per_byte"] < 1.6
    assert memory["basis"] == "extrapolated 4 times beyond 8M"
    assert memory["low"] < memory["predicted"] < memory["high"]
    page = (other / "answer.html").read_text().replace("\xa0", " ")
    for words in (found["headline"], "not searched yet", "How it scales", f"asked/{plan.trials[0].trial_id}"):
        assert words in page
    assert picolab_here("status", "asked").returncode == ExitCode.OK
    assert picolab_here("status", other.name).returncode == ExitCode.OK


def test_sizes_follow_the_budget() -> None:
    assert sizes_of(plan_of("5G")) == ["256M", "1G", "5G"]
    assert sizes_of(plan_of("5G", 500)) == ["128M", "512M", "1G", "2G"]
    assert sizes_of(plan_of("5G", 235)) == ["64M", "256M", "1280M"]
    assert sizes_of(plan_of("32M", largest_bytes=parse_size("16M"))) == ["1M", "4M", "8M", "16M"]


def grown(
    plan: Plan, rate_mib_s: float, fixed_s: float = 0.1, stalls_from: str = "1T", stall_s: float = 0.0
) -> tuple[list[tuple[str, int]], float, str]:
    """Grow a plan with a server of a known speed, in which uploads stall from a size on.

    Returns:
        The file size and the number of uploads of each trial, the seconds of all, and why it ended before its end.
    """
    rows: dict[str, dict[str, object]] = {}
    ran_s, trials = 0.0, list(plan.trials)
    while True:
        for trial in trials:
            size, uploads = trial.parameters.file_size_bytes, trial.parameters.parallel_uploads
            each_s = fixed_s + size * uploads / MIB / rate_mib_s
            stalls = size >= parse_size(stalls_from)
            rows[trial.trial_id] = {
                "file_size_bytes": size,
                "parallel_uploads": uploads,
                "duration_s": None if stalls else each_s,
                "download_s": None if stalls else each_s,
            }
            ran_s += stall_s if stalls else 2 * each_s
        step = next_step(plan, rows, ran_s, outputs_dir())
        if not step.trials:
            order = [(trial.parameters.file_size, trial.parameters.parallel_uploads) for trial in plan.trials]
            return order, ran_s, step.why_over
        trials = step.trials
        plan = plan.model_copy(update={"trials": [*plan.trials, *trials]})
        assert len({trial.trial_id for trial in plan.trials}) == len(plan.trials)


def test_plan_of_an_unknown_server_grows_with_its_speed() -> None:
    assert plan_of("5G").trials[0].parameters.file_size == "4M"
    order, ran_s, why_over = grown(plan_of("5G"), 200)
    assert [size for size, _ in order[:5]] == ["4M", "64M", "256M", "1G", "5G"]
    assert Counter(size for size, _ in order) == {"4M": 1, "64M": 1, "256M": 3, "1G": 3, "5G": 3}
    assert not why_over and ran_s < 1200
    small, _, _ = grown(plan_of("64M"), 200)
    assert Counter(small) == {("4M", 1): 3, ("16M", 1): 3, ("64M", 1): 3}
    parallel, _, _ = grown(plan_of("64M", parallel=4), 200)
    assert Counter(parallel) == Counter(small) | {("4M", uploads): 3 for uploads in (2, 3, 4)}


@pytest.mark.parametrize("rate_mib_s", [0.3, 1.0, 4.0, 15.0, 40.0])
@pytest.mark.parametrize("budget_s", [120, 400, 1200])
def test_slow_server_does_not_exceed_the_budget(rate_mib_s: float, budget_s: float) -> None:
    order, ran_s, why_over = grown(plan_of("1G", budget_s), rate_mib_s)
    assert ran_s <= budget_s or len(order) == 1
    sizes = Counter(size for size, _ in order)
    largest = max(map(parse_size, sizes))
    assert "the budget of" in why_over or (4 * largest >= parse_size("1G") and max(sizes.values()) == 3)


def test_uploads_that_stall_do_not_exceed_the_budget_twice() -> None:
    order, ran_s, why_over = grown(plan_of("64M", 120), 200, stalls_from="64M", stall_s=50)
    assert Counter(order)["64M", 1] <= 2 and ran_s <= 120
    assert "the budget of" in why_over


def test_earlier_trials_of_larger_files_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    known = make_record(FakeTrial(file_size="512M", ram_mb=128, direction="both"), 1)
    plan = plan_of("64M")
    records = {"one": Record.model_validate(known)}
    monkeypatch.setattr("picolab.campaign.answer_growth.read_earlier", lambda *_: SimpleNamespace(records=records))
    order, _, why_over = grown(plan, 200)
    assert not why_over
    assert Counter(order) == {("4M", 1): 3, ("16M", 1): 3, ("64M", 1): 3}


def test_budget_that_is_too_little_for_a_slow_server_says_so() -> None:
    order, _, why_over = grown(plan_of("1G", 400), 1.0)
    assert [size for size, _ in order] == ["4M", "16M"]
    assert why_over.startswith(
        "the budget of 6 min 40 s for these trials is too little for this server: files of up to 256M"
    )
    assert why_over.endswith("more, as upload and download of 16M take about 32.50 s")


def test_known_server_has_a_plan_that_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    known = make_record(FakeTrial(file_size="16M", ram_mb=128, direction="both"), 1)
    trial = EarlierTrial(campaign="earlier", trial_id="001")
    monkeypatch.setattr("picolab.campaign.answer.earlier_trials", lambda *_: [(trial, Record.model_validate(known))])
    parallel = plan_of("64M", parallel=8)
    assert parallel.answer is not None and not parallel.grows
    assert parallel.answer.parallel == [1, 2, 4, 8]
    assert {trial.parameters.file_size for trial in parallel.trials if trial.parameters.parallel_uploads > 1} == {"4M"}
    assert len(parallel.trials) == 3 * (3 + 3) - 1
    assert {trial.block for trial in parallel.trials} == {1, 2, 3}


@pytest.mark.parametrize(
    ("file_size", "budget_s", "more", "sentence"),
    [
        ("100K", 60, {}, "ask for at least 1M"),
        ("5G", 60, {}, "--budget 1 min 00 s is too little: the least for 5G is about"),
        ("5G", 60, {"budget_share": 0.5}, "--budget 2 min 00 s is too little: the least for 5G is about"),
        ("5G", 1200, {"largest_bytes": parse_size("1G")}, "--largest 1G is less than a quarter of 5G"),
        ("5G", 0, {}, "--budget 0: no finished trial of this build has 128 MiB of RAM"),
    ],
)
def test_questions_without_an_answer_are_refused(
    file_size: str, budget_s: float, more: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ParameterError, match=sentence):
        plan_of(file_size, budget_s, **more)


def test_command_refuses_what_makes_no_sense(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--file-size", "64M", "--ram", "128M")
    for words, sentence in (
        (("no-such-build", *asked), "no such file"),
        (("calibration", "--file-size", "64MB", "--ram", "128M"), "MB and GB mean different things"),
        (("calibration", "--file-size", "64M", "--ram", "much"), "--ram: RAM 'much' is not a size"),
        (("calibration", *asked, "--budget", "999999h"), "is more than 30 days"),
        (("calibration", *asked, "--floor", "--budget", "0"), "--floor runs trials, and --budget 0 allows none"),
        (("calibration", *asked, "--floor", "--campaign", "x" * 50), "a name has up to 51 letters"),
        (("calibration", *asked, "--budget", "soon"), "--budget 'soon' is no time"),
        (("calibration", *asked, "--budget", "20"), "--budget '20' is no time"),
        (("calibration", *asked, "-p", "ram_mb", "64"), "picolab answer sets ram_mb itself"),
        (("calibration", *asked, "--largest", "huge"), "--largest: file size 'huge' is not a size"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["answer", *words])
        assert sentence in capsys.readouterr().err
        assert ended.value.code == ExitCode.BAD_PARAMETERS
    assert not outputs_dir().exists()


def test_a_floor_search_that_cannot_begin_costs_no_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise HostUnfit("its folder is on a full disk")

    monkeypatch.setattr("picolab.campaign.preflight.check_plan", lambda _: None)
    monkeypatch.setattr(answer_module, "run", lambda _: (None, ExitCode.OK))
    monkeypatch.setattr(answer_floor, "search_floor", refuse)
    monkeypatch.setattr(answer_module, "end_of_answer", lambda _, code: code)
    with pytest.raises(SystemExit) as ended:
        main(["answer", "calibration", "--file-size", "8M", "--ram", "128M", "--floor"])
    assert ended.value.code == ExitCode.OK
    assert "The RAM floor is not searched: its folder is on a full disk" in capsys.readouterr().out


def test_dry_run_prints_the_plan_and_runs_nothing() -> None:
    done = picolab_here("answer", "calibration", "--file-size", "64M", "--ram", "128M", "--dry-run")

    assert done.returncode == ExitCode.OK, done.stderr
    assert "At 50 MiB/s these would be 3 each of 4M, 16M and 64M. At most 20 min 00 s in all." in done.stdout
    assert not outputs_dir().exists()


def test_trials_of_another_host_are_not_pooled() -> None:
    earlier = FakeTrial(ram_mb=128, direction="both", parameters_too={"calibration": LAW})
    write_campaign(outputs_dir() / "earlier", [earlier])

    plan = plan_of("64M")

    assert plan.answer is not None
    assert plan.answer.earlier == []


def test_alike_trials_differ_in_size_uploads_and_names_alone() -> None:
    one = question_of("64M").parameters
    assert is_alike(one, one.model_copy(update={"file_size": "1G", "parallel_uploads": 4, "label": "x", "seed": 7}))
    for name, value in (("ram_mb", 64), ("direction", "upload"), ("environment", {"A": "1"}), ("calibration", {})):
        assert not is_alike(one, one.model_copy(update={name: value})), name


def test_no_block_begins_that_would_exceed_the_budget() -> None:
    plan = plan_of("64M", 60)

    assert why_over_budget(plan, 1, 20.0, 38.0) is None
    reason = why_over_budget(plan, 1, 40.0, 80.0)
    assert reason is not None
    assert "another block of about 40 s would exceed the budget of 1 min 00 s" in reason
    assert why_over_budget(plan, 3, 400.0, 0.0) is None
