"""How a campaign stands: whatever happened to its files, all answers are one answer, and nothing is lost or removed."""

import csv
import inspect
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from campaign_factory import FakeTrial, make_record, make_samples, write_campaign
from conftest import folder_on_disk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from picolab.campaign.runner import Campaign
from picolab.campaign.slots import Slots
from picolab.cli.campaign_view import print_status
from picolab.cli.main import main
from picolab.config.plan import Plan
from picolab.config.project import outputs_dir
from picolab.errors import ParameterError, PicolabError, UnsafePath
from picolab.exit_codes import ExitCode
from picolab.record.outcomes import Outcome
from picolab.report.campaign_page import how_to_repeat
from picolab.results import begun_file
from picolab.results.begun_file import BEGUN_FILE, write_beginning
from picolab.results.export import export_campaign
from picolab.results.ledger import LedgerEntry
from picolab.results.load import CampaignData, read_campaign
from picolab.results.rows import plain_rows, record_row, trial_rows
from picolab.results.standing import read_standing

TRIALS = [
    FakeTrial(ram_mb=128, file_size="4M"),
    FakeTrial(ram_mb=64, file_size="4M", outcome=Outcome.OOM_KILLED),
    FakeTrial(ram_mb=128, file_size="4M", block=2),
]
FAULTY = FakeTrial(ram_mb=64, file_size="4M", block=2, outcome=Outcome.MACHINE_FAILED)
PLANNED = [FakeTrial(ram_mb=128, file_size="4M", block=3), FakeTrial(ram_mb=64, file_size="4M", block=3)]


def new_campaign(folder: Path) -> Path:
    """Write a campaign of six trials: three results, a fault, two that have not run; with all files of a real one."""
    write_campaign(folder, [*TRIALS, FAULTY], PLANNED)
    for position, trial in enumerate(TRIALS, start=1):
        record = make_record(trial, position, folder.name)
        stem = folder / "trials" / record["identity"]["trial_id"]
        stem.with_name(f"{stem.name}.record.json").write_text(json.dumps(record))
    write_beginning(folder, Plan.load(folder))
    export_campaign(folder, folder / "export", ("csv",))
    return folder


@pytest.fixture(scope="module")
def whole() -> Iterator[Path]:
    """Write the campaign once; tests damage a copy of it."""
    with tempfile.TemporaryDirectory(prefix="picolab-test-", dir=folder_on_disk()) as folder:
        yield new_campaign(Path(folder) / "c")


@pytest.fixture
def campaign(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "c"))


Damage = Callable[[Path], object]


class Described:
    """A damage that says what it does when a test fails."""

    def __init__(self, damage: Damage, **what: Any) -> None:
        self.damage, self.what = damage, what

    def __repr__(self) -> str:
        line = inspect.getsource(self.damage).strip() if inspect.isfunction(self.damage) else "?"
        return f"<{line} with {self.what}>"


def notebook(folder: Path, index: int) -> Path:
    return folder / "trials" / f"{trial_ids(folder)[index]}.ipynb"


def side_file(folder: Path, index: int) -> Path:
    return folder / "trials" / f"{trial_ids(folder)[index]}.record.json"


def trial_ids(folder: Path) -> list[str]:
    return [f"00{n}-local-{ram}mb-4M-calibration" for n, ram in enumerate((128, 64, 128, 64, 128, 64), start=1)]


def is_odd(path: Path) -> bool:
    """Return whether an earlier damage has put something there that must not be opened, such as a pipe."""
    return path.is_symlink() or (path.exists() and not path.is_file())


def truncated(path: Path) -> None:
    if path.exists() and not is_odd(path):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def swapped(one: Path, other: Path) -> None:
    if one != other and one.exists() and other.exists():
        between = one.with_name("between")
        one.rename(between)
        other.rename(one)
        between.rename(other)


def edited(path: Path, change: Callable[[Any], object]) -> None:
    if is_odd(path):
        return
    try:
        data = json.loads(path.read_text())
        change(data)
    except (OSError, ValueError, LookupError, TypeError):
        return  # damaged before
    path.write_text(json.dumps(data))


def replaced_by(path: Path, make: Callable[[Path], object]) -> None:
    path.parent.mkdir(exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    make(path)


def in_ledger(folder: Path, line: bytes) -> None:
    ledger = folder / "ledger.jsonl"
    if not is_odd(ledger):
        with ledger.open("ab") as file:
            file.write(line)


def ledger_line(folder: Path, **changes: Any) -> bytes:
    entry = {
        "trial_id": trial_ids(folder)[0],
        "attempt": 7,
        "outcome": "ok",
        "outcome_detail": "all well",
        "started_at": None,
        "ended_at": "2026-11-22T10:00:00+00:00",
        "duration_s": 1.5,
        "notebook": None,
        "record": None,
    }
    return json.dumps(entry | changes).encode() + b"\n"


def set_path(data: Any, value: Any, *names: str) -> None:
    for name in names[:-1]:
        data = data[name]
    data[names[-1]] = value


index = st.integers(0, 2)
FILES = st.sampled_from(["ledger.jsonl", "results.csv", "starts.jsonl", "stopped.json", BEGUN_FILE, "plan.json"])
CONTENTS = st.sampled_from(
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"[" * 200_000,
        b'{"after_block": 1}',
        b'{"after_block": 1' + b"0" * 30 + b"}",
        b"\xff\xfe\x00",
        b'"\\ud800"\n',
        b"1e999\n",
        b'{"at": 1, "waited_s": "x", "idle": false, "busy_share": []}\n',
        b'trial_id,case\n"\n',
        b"trial_id\n" + b"x\n" * 50,
    ]
)
LINES: list[Callable[[Path], bytes]] = [
    lambda f: ledger_line(f, trial_id="999-nobody"),
    lambda f: ledger_line(f, trial_id=["x"]),
    lambda f: ledger_line(f, trial_id="/etc"),
    lambda f: ledger_line(f, outcome="splendid"),
    lambda f: ledger_line(f, outcome="stalled"),
    lambda f: ledger_line(f, outcome="interrupted"),
    lambda f: ledger_line(f, attempt=10**30),
    lambda f: ledger_line(f, attempt="one"),
    lambda f: ledger_line(f, duration_s=float("nan")),
    lambda f: ledger_line(f, duration_s=1e308) * 2,
    lambda f: ledger_line(f, outcome_detail="\ud800"),
    lambda f: ledger_line(f, notebook="/etc/passwd"),
    lambda f: ledger_line(f, trial_id=trial_ids(f)[4]),
    lambda f: ledger_line(f, trial_id=trial_ids(f)[5], outcome="oom_killed") * 2,
    lambda f: b'{"trial_id": "001',
    lambda f: b"[]\n{}\nnull\n\x00\n",
    lambda f: b"x\n" * 100,
]


@st.composite
def damages(draw: st.DrawFn) -> Described:
    i, j = draw(index), draw(index)
    value = draw(st.sampled_from([10**30, -(10**30), 2**63, "x", None, [], float("inf"), "\ud800", 77]))
    field = draw(
        st.sampled_from(
            [
                ("memory", "peak_anon_bytes"),
                ("parameters", "ram_mb"),
                ("parameters", "file_size"),
                ("parameters", "seed"),
                ("identity", "trial_id"),
                ("identity", "campaign"),
                ("identity", "block"),
                ("identity", "attempt"),
                ("provenance", "host", "ram_bytes"),
                ("outcome",),
                ("outcome_detail",),
            ]
        )
    )
    file, content, line = draw(FILES), draw(CONTENTS), draw(st.sampled_from(LINES))
    odd = draw(st.sampled_from([os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")]))
    which = draw(st.sampled_from([notebook, side_file]))
    damage: Damage = draw(
        st.sampled_from(
            [
                lambda f: shutil.rmtree(f / "trials", ignore_errors=True),
                lambda f: shutil.rmtree(f / "faults", ignore_errors=True),
                lambda f: which(f, i).unlink(missing_ok=True),
                lambda f: truncated(which(f, i)),
                lambda f: swapped(which(f, i), which(f, j)),
                lambda f: edited(side_file(f, i), lambda data: set_path(data, value, *field)),
                lambda f: edited(
                    notebook(f, i),
                    lambda data: set_path(
                        data["cells"][1]["outputs"][0]["data"]["application/scrapbook.scrap.json+json"]["data"],
                        value,
                        *field,
                    ),
                ),
                lambda f: in_ledger(f, line(f)),
                lambda f: (f / "ledger.jsonl").unlink(missing_ok=True),
                lambda f: truncated(f / "ledger.jsonl"),
                lambda f: truncated(f / file),
                lambda f: replaced_by(f / file, lambda path: path.write_bytes(content)),
                lambda f: replaced_by(which(f, i), lambda path: path.write_bytes(content)),
                lambda f: edited(f / "plan.json", lambda data: data["trials"][i]["parameters"].update(ram_mb=77)),
                lambda f: edited(f / "plan.json", lambda data: data["trials"].pop(i)),
                lambda f: edited(f / "plan.json", lambda data: data["trials"][i].update(trial_id=str(f))),
                lambda f: replaced_by(f / "trials" / f"{trial_ids(f)[i]}.ipynb", odd),
                lambda f: replaced_by(f / file, odd),
            ]
        )
    )
    what = {"i": i, "j": j, "value": value, "field": field, "file": file, "content": content[:40], "which": which}
    return Described(damage, **what, line=inspect.getsource(line), odd=odd)


def what_is_measured(folder: Path) -> list[bytes]:
    """Return the contents of all files of trials, wherever they lie by now."""
    names = ("trials", "faults", "running", "set-aside")
    files = [path for name in names for path in (folder / name).rglob("*") if path.is_file() and not path.is_symlink()]
    return sorted(path.read_bytes() for path in files)


def check_all_answers(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = read_standing(folder)
    results = set(found.results)
    assert results <= set(trial_ids(folder))
    assert not results & set(found.lost)

    data = read_campaign(folder)
    assert set(data.records) == set(data.trials["trial_id"]) == results
    assert set(data.samples["trial_id"]) <= results
    assert set(data.lost) == set(found.lost)
    assert not data.problems["problem"].str.contains("\n").any()

    capsys.readouterr()
    code = print_status(folder)
    said = " ".join(capsys.readouterr().out.split())
    words = f"{len(results)} of {len(found.needed)} trials have" if found.plan else f"{len(results)} trials have"
    assert f"{words} a result" in said
    if found.plan is None:
        assert code is ExitCode.BAD_PARAMETERS
    else:
        assert code is (ExitCode.INSTRUMENT_FAULT if found.lost else ExitCode.OK)
    assert all(trial_id in said for trial_id in found.lost)

    files = export_campaign(folder, folder / "export", ("csv",))
    exported = list(csv.DictReader(files[0].read_text().splitlines()))
    assert {row["trial_id"] for row in exported} == results
    if results or (folder / "results.csv").exists():
        listed = [row["trial_id"] for row in csv.DictReader((folder / "results.csv").read_text().splitlines())]
        assert sorted(listed) == sorted(results)

    check_resume(folder, results, monkeypatch)


def check_resume(folder: Path, results: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Resume without running anything: it would run what has no result, and what there was is still there."""
    before = what_is_measured(folder)
    asked_for: list[str] = []
    monkeypatch.setattr(
        Slots, "run", lambda _, groups, *__: asked_for.extend(one.trial_id for group in groups for one in group)
    )
    try:
        campaign = Campaign.load(folder)
        assert set(campaign.tally.rows) == results
        campaign.run(accept_changes=True)
    except PicolabError as error:
        assert "\n" not in str(error)
        assert what_is_measured(folder) == before
        return
    assert set(asked_for) == {trial.trial_id for trial in campaign.needed} - results
    after = what_is_measured(folder)
    for content in before:
        assert content in after, "nothing measured may be lost"
    assert set(read_standing(folder).results) == results
    assert not read_standing(folder).results.keys() - {entry.trial_id for entry in campaign.ledger.entries()}
    assert not (folder / "running").exists()


@settings(
    max_examples=40,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(done=st.lists(damages(), min_size=1, max_size=3))
def test_all_answers_agree_whatever_was_damaged(
    done: list[Described],
    whole: Path,
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with tempfile.TemporaryDirectory(dir=scratch) as place:
        folder = Path(place) / "c"
        shutil.copytree(whole, folder)
        for damage in done:
            damage.damage(folder)
        with monkeypatch.context() as patch:
            check_all_answers(folder, patch, capsys)


def test_whole_campaign_has_no_problem_but_what_has_not_run(campaign: Path) -> None:
    found = read_standing(campaign)
    assert list(found.results) == trial_ids(campaign)[:3]
    assert [problem.problem[:9] for problem in found.problems] == ["no result"] * 3
    assert found.lost == {}


def test_rows_without_a_frame_are_those_of_the_frame(campaign: Path) -> None:
    data = read_campaign(campaign)
    assert trial_rows(record_row(record) for record in data.records.values()) == plain_rows(data.trials)


def test_removed_results_are_named_and_measured_again(
    campaign: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(campaign / "trials")
    assert print_status(campaign) is ExitCode.INSTRUMENT_FAULT
    said = capsys.readouterr().out
    assert "0 of 6 trials have a result" in said
    assert "3 results that the ledger names are gone" in said and trial_ids(campaign)[1] in said
    check_all_answers(campaign, monkeypatch, capsys)
    assert [path.name for path in (campaign / "set-aside").iterdir()] == ["results.csv"], "all that is left of them"


def test_record_with_other_parameters_than_planned_is_no_result(campaign: Path) -> None:
    for path in (side_file(campaign, 0), notebook(campaign, 0)):
        path.write_text(path.read_text().replace('"ram_mb": 128', '"ram_mb": 512'))
    found = read_standing(campaign)
    assert trial_ids(campaign)[0] in found.lost
    (problem,) = [p for p in found.problems if p.path.endswith("001-local-128mb-4M-calibration.record.json")]
    assert problem.problem == "was measured with ram_mb = 512 where the plan says 128: not counted"


@pytest.mark.parametrize("name", ["seed", "file_size", "cache", "build", "environment", "direction", "stall_limit_s"])
def test_any_parameter_that_differs_is_named(campaign: Path, name: str) -> None:
    values = {"seed": 5, "file_size": "8M", "cache": "cold", "build": "/x", "environment": {"A": "1"}}
    value = values.get(name, {"direction": "both"}.get(name, 3.5))
    edited(side_file(campaign, 0), lambda data: data["parameters"].update({name: value}))
    notebook(campaign, 0).unlink()
    problems = " ".join(problem.problem for problem in read_standing(campaign).problems)
    assert f"was measured with {name} = " in problems or "the record is not valid" in problems
    assert trial_ids(campaign)[0] in read_standing(campaign).lost


def test_a_machine_of_another_name_is_no_difference(campaign: Path) -> None:
    for path in (side_file(campaign, 0), notebook(campaign, 0)):
        path.write_text(path.read_text().replace('"machine_name": ""', '"machine_name": "c"'))
    assert not read_standing(campaign).lost


def test_the_notebook_counts_where_the_side_file_is_damaged(campaign: Path) -> None:
    side_file(campaign, 0).write_text("{")
    found = read_standing(campaign)
    assert len(found.results) == 3
    assert "cut off or damaged" in found.problems[0].problem


def test_samples_that_no_column_holds_cost_only_themselves(campaign: Path) -> None:
    samples = make_samples(TRIALS[0], 1)
    samples["columns"]["anon_bytes"][3] = 10**400
    path = notebook(campaign, 0)
    content = json.loads(path.read_text())
    content["cells"][1]["outputs"][1]["data"]["application/scrapbook.scrap.json+json"]["data"] = samples
    path.write_text(json.dumps(content))
    data = read_campaign(campaign)
    assert len(data.trials) == 3 and data.samples["trial_id"].nunique() == 2
    assert data.problems["problem"].str.contains("more than 64").any()


# What changed since the beginning


def refusal(folder: Path) -> str:
    with pytest.raises(PicolabError) as caught:
        Campaign.load(folder).run()
    assert caught.value.exit_code is ExitCode.BAD_PARAMETERS
    return str(caught.value)


def test_an_edited_plan_is_refused_and_named(campaign: Path) -> None:
    before = what_is_measured(campaign)
    edited(campaign / "plan.json", lambda data: data["trials"][2]["parameters"].update(ram_mb=256))
    edited(campaign / "plan.json", lambda data: data["trials"].pop())
    said = refusal(campaign)
    assert "trial 003-local-128mb-4M-calibration: ram_mb was 128 and is 256" in said
    assert "trial 006-local-64mb-4M-calibration is not in the plan any more" in said
    assert said.endswith(f"with: picolab resume {campaign} --accept-changes")
    assert what_is_measured(campaign) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.update(seed=7), "seed was 42 and is 7"),
        (lambda data: data["trials"][0].update(block=3), "block was 1 and is 3"),
        (lambda data: data["trials"].reverse(), "the order of the trials is another"),
        (lambda data: data["trials"][5].update(trial_id="006-new"), "trial 006-new was not in the plan"),
    ],
)
def test_any_change_of_the_plan_is_named(campaign: Path, change: Callable[[Any], object], words: str) -> None:
    edited(campaign / "plan.json", change)
    assert words in refusal(campaign)


def test_a_plan_that_is_only_laid_out_anew_is_the_same(campaign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = campaign / "plan.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=7, sort_keys=True))
    check_resume(campaign, set(trial_ids(campaign)[:3]), monkeypatch)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("cpu_model", "Another CPU", "the processor was"),
        ("cpu_count", 999, "the number of processors was"),
        ("ram_bytes", 1 << 30, "the host's RAM in bytes was"),
        ("kernel", "0.1", "the kernel was"),
        ("hashed_machine_id", "another", "the host's identity (/etc/machine-id) was"),
    ],
)
def test_another_host_is_refused(campaign: Path, name: str, value: Any, words: str) -> None:
    edited(campaign / BEGUN_FILE, lambda data: data["host"].update({"hashed_machine_id": "this"}))
    edited(campaign / BEGUN_FILE, lambda data: data["host"].update({name: value}))
    here = begun_file.host_identity() | {"hashed_machine_id": "this"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(begun_file, "host_identity", lambda: here)
        assert words in refusal(campaign)


def test_a_little_more_ram_is_the_same_host(campaign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edited(campaign / BEGUN_FILE, lambda data: data["host"].update(ram_bytes=data["host"]["ram_bytes"] + 4096))
    check_resume(campaign, set(trial_ids(campaign)[:3]), monkeypatch)


def test_another_executable_is_refused_or_accepted_on_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = tmp_path / "server"
    build.write_text("#!/bin/sh\nexit 1\n")
    build.chmod(0o755)
    folder = write_campaign(tmp_path / "c", [], [FakeTrial(build=str(build), ram_mb=64, file_size="4M")])
    write_beginning(folder, Plan.load(folder))
    build.write_text("#!/bin/sh\nexit 2\n")
    assert f"build {build}: its SHA-256 was " in refusal(folder)

    notes: list[str] = []
    monkeypatch.setattr(Slots, "run", lambda *_: None)
    campaign = Campaign.load(folder)
    campaign.watcher.note = notes.append
    campaign.run(accept_changes=True)
    assert "its SHA-256 was" in notes[0]
    Campaign.load(folder).run()
    (accepted,) = read_campaign(folder).accepted
    assert "although this had changed: build" in accepted
    assert accepted in set(read_campaign(folder).problems["problem"])


@pytest.mark.parametrize("has_begun", [True, False])
def test_a_finished_campaign_needs_its_builds_no_more(tmp_path: Path, has_begun: bool) -> None:
    build = tmp_path / "server"
    build.write_text("#!/bin/sh\nexit 1\n")
    build.chmod(0o755)
    folder = write_campaign(tmp_path / "c", [FakeTrial(build=str(build), ram_mb=64, file_size="4M")])
    if has_begun:
        write_beginning(folder, Plan.load(folder))
    build.unlink()
    assert Campaign.load(folder).run() is ExitCode.OK


def test_blocks_that_are_not_needed_are_left_where_they_are(tmp_path: Path) -> None:
    folder = new_campaign(tmp_path / "c")
    edited(folder / "plan.json", lambda data: data.update(stopping={}))
    (folder / BEGUN_FILE).unlink()
    write_beginning(folder, Plan.load(folder))
    (folder / "stopped.json").write_text('{"after_block": 1}')
    before = sorted((folder / "trials").iterdir())
    Campaign.load(folder).run()
    assert sorted((folder / "trials").iterdir()) == before


@pytest.mark.parametrize("attempt", [1_000_001, 999_999_999, (1 << 31) - 1])
@pytest.mark.parametrize("place", ["ledger", "faults"])
def test_there_is_a_number_for_the_next_attempt(campaign: Path, attempt: int, place: str) -> None:
    if place == "ledger":
        in_ledger(campaign, ledger_line(campaign, attempt=attempt, outcome="machine_failed"))
    else:
        (campaign / "faults" / f"{trial_ids(campaign)[4]}.attempt{attempt}.ipynb").touch()
    assert max(read_standing(campaign).last_attempts().values()) < attempt
    assert any(str(attempt) in f"{one.path} {one.problem}" for one in read_standing(campaign).problems)


def test_the_longest_name_of_a_plan_fits_into_the_ledger() -> None:
    name = "x" * 200
    entry = LedgerEntry(
        trial_id=name,
        attempt=12,
        outcome=Outcome.INVALID,
        outcome_detail="",
        started_at=None,
        ended_at="",
        duration_s=None,
        notebook=f"faults/{name}.attempt12.ipynb",
        record=f"faults/{name}.attempt12.record.json",
    )
    assert entry.trial_id == name


@pytest.mark.parametrize("moment", ["yesterday", "", "2026-11-22", "2026-11-22T10:00:00", "99999-01-01T00:00:00Z"])
def test_a_record_of_no_moment_is_no_result(campaign: Path, moment: str) -> None:
    trial_id = trial_ids(campaign)[0]
    notebook(campaign, 0).unlink()
    edited(side_file(campaign, 0), lambda data: set_path(data, moment, "identity", "started_at"))
    found = read_standing(campaign)
    assert trial_id not in found.results
    assert any("started_at" in one.problem for one in found.problems)


@pytest.mark.parametrize(
    ("name", "value"), [("margin_percent", -5), ("margin_percent", 1e9), ("fault_retries", -1), ("idle_limit_s", -1)]
)
def test_a_plan_with_a_value_that_no_file_may_have_is_refused(campaign: Path, name: str, value: float) -> None:
    edited(campaign / "plan.json", lambda data: data.update({name: value}))
    with pytest.raises(ParameterError, match=f"this picolab cannot read the plan: {name}: "):
        Plan.load(campaign)


def test_a_plan_whose_name_can_be_no_machine_is_refused_at_once(campaign: Path) -> None:
    (campaign / BEGUN_FILE).unlink()
    edited(campaign / "plan.json", lambda data: data.update(campaign="\N{SNOWMAN}".join("ab")))
    assert "a name has up to 51 letters" in refusal(campaign)


def test_a_campaign_that_lies_elsewhere_is_named_by_its_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command that picolab prints can be given as it stands."""
    for folder, name in ((tmp_path / "a b" / "c", f"'{tmp_path}/a b/c'"), (outputs_dir() / "c", "c")):
        print_status(new_campaign(folder))
        assert f"Resume with: picolab resume {name}\n" in capsys.readouterr().out
        assert f"picolab resume {name}\n" in how_to_repeat(read_campaign(folder)).text + "\n"


def test_export_follows_no_link_out_of_a_campaign(campaign: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "trials.csv").write_text("precious")
    shutil.rmtree(campaign / "export")
    (campaign / "export").symlink_to(tmp_path / "mine")
    with pytest.raises(UnsafePath, match="is a link to another place"):
        export_campaign(campaign, campaign / "export", ("csv",))
    assert (tmp_path / "mine" / "trials.csv").read_text() == "precious"
    export_campaign(campaign, tmp_path / "mine", ("csv",))


def test_a_result_filed_during_an_export_stays_in_the_table(campaign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_and_go_on(folder: Path) -> CampaignData:
        data = read_campaign(folder)
        moved.rename(side_file(folder, 2))
        return data

    moved = campaign / "later"
    side_file(campaign, 2).rename(moved)
    notebook(campaign, 2).unlink()
    monkeypatch.setattr("picolab.results.export.read_campaign", read_and_go_on)
    export_campaign(campaign, campaign / "export", ("csv",))
    assert len((campaign / "results.csv").read_text().splitlines()) == 1 + 3


def test_a_campaign_of_an_older_picolab_goes_on_with_a_note(campaign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (campaign / BEGUN_FILE).unlink()
    notes: list[str] = []
    monkeypatch.setattr(Slots, "run", lambda *_: None)
    resumed = Campaign.load(campaign)
    resumed.watcher.note = notes.append
    resumed.run()
    assert notes == ["An older picolab began this campaign: it is not known whether something changed since."]
    assert (campaign / BEGUN_FILE).exists()
    edited(campaign / "plan.json", lambda data: data.update(seed=1))
    assert "seed was 42 and is 1" in refusal(campaign)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"at": 1}', '{"x": 1' + "0" * 40 + "}"])
def test_a_damaged_beginning_is_refused_and_set_aside(
    campaign: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (campaign / BEGUN_FILE).write_text(content)
    assert "it is not known what changed since the campaign began" in refusal(campaign)
    monkeypatch.setattr(Slots, "run", lambda *_: None)
    Campaign.load(campaign).run(accept_changes=True)
    assert (campaign / "set-aside" / BEGUN_FILE).read_text() == content
    Campaign.load(campaign).run()


# The commands, over whatever a file may be


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run a command of picolab's in this process; return its exit code and what it said."""
    capsys.readouterr()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        with pytest.raises(SystemExit) as ended:
            main(list(words))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    return int(str(ended.value.code)), said.out + said.err


def large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 33)


MAKES: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "in a circle": lambda path: path.symlink_to(path.name),
    "8 GiB": large,
    "nested": lambda path: path.write_bytes(b"[" * 200_000),
    "a list": lambda path: path.write_bytes(b"[[], {}, 1]"),
    "a surrogate": lambda path: path.write_bytes(b'{"outcome": "\\ud800", "description": "\\ud800"}'),
    "an escape": lambda path: path.write_bytes(b"\x1b[31m[red]\n\x07"),
    "a bomb": lambda path: path.write_bytes(b"[" + b"[]," * 100_000 + b"[]]"),
}
PLACES = [
    "plan.json",
    "ledger.jsonl",
    "starts.jsonl",
    "stopped.json",
    "results.csv",
    BEGUN_FILE,
    "a record",
    "a notebook",
]


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("place", PLACES)
def test_no_file_takes_the_others_with_it(
    campaign: Path, place: str, make: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = {"a record": side_file(campaign, 0), "a notebook": notebook(campaign, 0)}
    path = paths.get(place, campaign / place)
    replaced_by(path, MAKES[make])
    is_campaign = path.is_file() or place != "plan.json"
    code, said = command(capsys, "status", str(campaign))
    if place == "plan.json":
        assert code == ExitCode.BAD_PARAMETERS
        assert ("3 trials have a result" in said) if is_campaign else ("there is no such campaign" in said)
    else:
        assert code == ExitCode.OK
        assert "3 of 6 trials have a result" in " ".join(said.split())
    assert "\x1b[31m" not in said and "\x07" not in said
    if is_campaign:
        assert command(capsys, "export", str(campaign), "--format", "csv")[0] == 0
        with (campaign / "export" / "trials.csv").open(newline="") as file:
            assert len(list(csv.DictReader(file))) == 3
    asked_for: list[str] = []
    monkeypatch.setattr(
        Slots, "run", lambda _, groups, *__: asked_for.extend(one.trial_id for group in groups for one in group)
    )
    code, said = command(capsys, "resume", str(campaign))
    assert code in (ExitCode.INSTRUMENT_FAULT, ExitCode.BAD_PARAMETERS)
    assert code == ExitCode.BAD_PARAMETERS or asked_for == trial_ids(campaign)[3:]


def test_status_and_resume_say_which_results_are_gone(
    campaign: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(campaign / "trials")
    code, said = command(capsys, "status", str(campaign))
    assert code == ExitCode.INSTRUMENT_FAULT and "results that the ledger names are gone" in said
    assert "and some of its results are gone" in command(capsys, "status")[1] or campaign.parent != outputs_dir()
    asked_for: list[str] = []
    monkeypatch.setattr(
        Slots, "run", lambda _, groups, *__: asked_for.extend(one.trial_id for group in groups for one in group)
    )
    code, said = command(capsys, "resume", str(campaign))
    assert code == ExitCode.INSTRUMENT_FAULT
    assert "3 results that the ledger names are gone, and measured again" in " ".join(said.split())
    assert asked_for == trial_ids(campaign)


def test_resume_names_the_option_that_goes_on(
    campaign: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Slots, "run", lambda *_: None)
    edited(campaign / "plan.json", lambda data: data["trials"][0]["parameters"].update(ram_mb=256))
    code, said = command(capsys, "resume", str(campaign))
    assert code == ExitCode.BAD_PARAMETERS and "ram_mb was 128 and is 256" in said
    code, said = command(capsys, "resume", str(campaign), "--accept-changes")
    assert code == ExitCode.INSTRUMENT_FAULT and "Continues although" in said
    assert command(capsys, "resume", str(campaign))[0] == ExitCode.INSTRUMENT_FAULT
