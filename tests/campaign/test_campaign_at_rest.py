"""While a trial runs its campaign sleeps: it opens nothing, computes nothing, and is woken by nothing but the end."""

import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from campaign_factory import FakeTrial, make_notebook, make_record, make_samples, write_campaign

from picolab.agent.memory_probe import COLUMNS
from picolab.campaign import filing, slots
from picolab.campaign import runner as campaign_module
from picolab.campaign.progress import Progress, Watcher
from picolab.campaign.runner import Campaign
from picolab.campaign.tally import Tally
from picolab.cli.campaign_view import print_status
from picolab.config.plan import Plan
from picolab.config.project import outputs_dir
from picolab.config.trial_parameters import TrialParameters
from picolab.errors import ParameterError, UnsafePath
from picolab.exit_codes import ExitCode
from picolab.jupyter.fork_server import ForkServer
from picolab.jupyter.live_line import LiveLine
from picolab.jupyter.trial_context import TrialContext
from picolab.jupyter.trial_template import check_trial_notebook, trial_notebook
from picolab.record.outcomes import Outcome
from picolab.results.begun_file import write_beginning
from picolab.results.standing import read_standing
from picolab.results.trial_files import read_scraps

DONE = [FakeTrial(ram_mb=64, file_size="4M", block=block) for block in (1, 2, 3)]
LEFT = [FakeTrial(ram_mb=ram, file_size="4M", block=4) for ram in (64, 128)]

_opened: list[str] | None = None
"""Paths opened by this process while this is a list."""


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if (
        _opened is not None
        and not isinstance(arguments[0], int)
        and event in ("open", "os.listdir", "os.scandir", "subprocess.Popen")
    ):
        _opened.append(f"{event} {arguments[0]}")


sys.addaudithook(_note)


class FakeProcess:
    """Stands for papermill: it wakes its campaign as often as a test wants, and leaves the files of a trial."""

    lost_fork_server = False
    ended = False
    wakes = 0
    waits: ClassVar[list[float]] = []
    opened: ClassVar[list[str]] = []

    def __init__(
        self, parameters: TrialParameters, context: TrialContext, fork_server: ForkServer, on_step: object
    ) -> None:
        self.folder = context.folder
        self.folder.mkdir(parents=True)
        self._context, self._woken = context, 0
        (self.folder / "progress.json").write_text('{"line": "upload 1 of 4 MiB"}')

    def wait(self, limit_s: float) -> bool:
        global _opened
        self.opened.extend(_opened or [])
        _opened = []
        self.waits.append(limit_s)
        if self._woken < self.wakes:
            self._woken += 1
            return False
        _opened = None
        assert self._context.position is not None
        trial = [*DONE, *LEFT][self._context.position - 1]
        record = make_record(trial, self._context.position, "c")
        (self.folder / "record.json").write_text(json.dumps(record))
        notebook = make_notebook(record=record, samples=make_samples(trial, self._context.position))
        (self.folder / "trial.ipynb").write_text(json.dumps(notebook))
        return True

    def ended_by(self) -> str:
        return ""

    def kill(self) -> None:
        return None


def wait_for_one(processes: Sequence[FakeProcess], limit_s: float) -> list[FakeProcess]:
    for process in processes:
        process.ended = process.wait(limit_s)
    return [process for process in processes if process.ended]


@pytest.fixture
def resting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = write_campaign(tmp_path / "c", DONE, LEFT)
    write_beginning(folder, Plan.load(folder))
    monkeypatch.setattr(slots, "TrialProcess", FakeProcess)
    monkeypatch.setattr(slots, "wait_for_one", wait_for_one)
    monkeypatch.setattr(FakeProcess, "waits", [])
    monkeypatch.setattr(FakeProcess, "opened", [])
    return folder


def test_one_long_sleep_a_trial(resting: Path) -> None:
    assert Campaign.load(resting).run() is ExitCode.OK
    assert len(FakeProcess.waits) == len(LEFT)
    assert min(FakeProcess.waits) > 200, "as long as a trial may take at all"


def test_nothing_is_opened_while_a_trial_runs(resting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeProcess, "wakes", 5)
    assert Campaign.load(resting).run() is ExitCode.OK
    assert len(FakeProcess.waits) == 6 * len(LEFT)
    assert FakeProcess.opened == []


def test_a_terminal_gets_one_line_a_second_and_reads_only_it(resting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeProcess, "wakes", 3)
    shown: list[Progress] = []
    Campaign.load(resting, Watcher(progress=shown.append, refresh_s=1.0)).run()
    assert {round(wait) for wait in FakeProcess.waits} == {1}
    assert {progress.line for progress in shown} == {"upload 1 of 4 MiB"}
    assert {path.rpartition("/")[2] for path in FakeProcess.opened} == {"progress.json"}


class Enough(Exception):
    """Ends a campaign in mid-trial."""


class SleepingProcess(FakeProcess):
    """A trial that never ends, and notes how much CPU time its campaign has used each time it goes to sleep."""

    used_s: ClassVar[list[float]] = []

    def wait(self, limit_s: float) -> bool:
        self.used_s.append(time.process_time())
        if len(self.used_s) > 40:
            raise Enough
        return False


def test_a_second_of_an_upload_costs_next_to_nothing_at_ten_thousand_trials(
    resting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal wakes the campaign once a second; without one it sleeps through the upload."""
    plan = json.loads((resting / "plan.json").read_text())
    last = plan["trials"][-1]
    plan["trials"] += [last | {"trial_id": f"{n:05d}-{last['case']}", "position": n} for n in range(6, 10_001)]
    (resting / "plan.json").write_text(json.dumps(plan))
    (resting / "begun.json").unlink()
    monkeypatch.setattr(slots, "TrialProcess", SleepingProcess)
    monkeypatch.setattr(SleepingProcess, "used_s", [])
    campaign = Campaign.load(resting, Watcher(progress=lambda _: None, refresh_s=1.0))

    with pytest.raises(Enough):
        campaign.run()
    seconds = sorted(later - earlier for earlier, later in itertools.pairwise(SleepingProcess.used_s))
    assert len(campaign.plan.trials) == 10_000
    assert seconds[len(seconds) // 2] <= 0.005, "0.5 % of a processor"


def test_after_a_trial_only_its_own_record_is_looked_at(resting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    real = filing.read_side_file
    monkeypatch.setattr(filing, "read_side_file", lambda path: (read.append(path), real(path))[1])
    campaign = Campaign.load(resting)
    readings: list[Path] = []
    reading = campaign_module.read_standing
    monkeypatch.setattr(campaign_module, "read_standing", lambda folder: (readings.append(folder), reading(folder))[1])
    campaign.run()
    assert [path.parent.name for path in read] == [trial.trial_id for trial in campaign.plan.trials[3:]]
    assert readings == [resting]


def test_results_are_appended_and_whole_at_the_end(resting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    watcher = Watcher(
        ended=lambda entry, progress: sizes.append(len((resting / "results.csv").read_text().split("\n")))
    )
    Campaign.load(resting, watcher).run()
    assert sizes == [6, 7], "head, rows and the end of the last line"
    text = (resting / "results.csv").read_text()
    for torn in (text[:-30], "", text + "x", text.split("\n", 1)[1]):
        (resting / "results.csv").write_text(torn)
        assert Campaign.load(resting).run() is ExitCode.OK
        assert (resting / "results.csv").read_text() == text


def test_rows_of_what_was_measured_are_never_thrown_away(resting: Path) -> None:
    Campaign.load(resting).run()
    text = (resting / "results.csv").read_text()
    (resting / "results.csv").write_text(text + text.splitlines()[-1].replace("005-", "006-") + "\n")
    Campaign.load(resting).run()
    assert (resting / "results.csv").read_text() == text
    assert "006-" in (resting / "set-aside" / "results.csv").read_text()


def test_cells_that_a_spreadsheet_would_run_are_disarmed(resting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LEFT[0], "server_message", "=HYPERLINK(1)")
    Campaign.load(resting).run()
    assert "'=HYPERLINK(1)" in (resting / "results.csv").read_text()


def test_the_time_left_is_that_of_each_case(resting: Path) -> None:
    standing = read_standing(resting)
    tally = Tally(standing)
    assert (tally.done, tally.total) == (3, 5)
    assert tally.left_s() == pytest.approx(4.2 + 4.2), "one of the same case, one of the same size"
    left = tally.needed - tally.rows.keys()
    for seconds in (4.2, 0.0):
        tally._add(left.pop(), next(iter(standing.results.values())), 4.2)
        assert tally.left_s() == pytest.approx(seconds)
    assert Tally(read_standing(write_campaign(resting.parent / "d", [], LEFT))).left_s() is None


def test_machines_share_the_time_of_what_does_not_run_alone(
    resting: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for trial in (*DONE, LEFT[0]):
        monkeypatch.setattr(trial, "parameters_too", {"overlap": "preparation"})
    folder = write_campaign(resting.parent / "two", DONE, LEFT)
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps({**plan, "machines": 2}))
    campaign = Campaign.load(folder)
    assert campaign.tally.left_s() == campaign.progress().eta_s == pytest.approx(4.2 + 4.2), "one alone"
    print_status(folder)
    assert "about 8 s left" in capsys.readouterr().out


@pytest.mark.parametrize("asked", [None, '{"folder": "/x"}'])
def test_a_kernel_without_a_reader_sends_no_updates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str | None
) -> None:
    sent: list[object] = []
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    monkeypatch.setattr("IPython.display.display", lambda *words, **rest: sent.append(words))
    if asked is not None:
        monkeypatch.setenv("PICOLAB_TRIAL", asked)
    with LiveLine("upload", tmp_path / "progress.json"):
        pass
    assert bool(sent) is (asked is None)


# Parameters that were not the plan's, and names that are paths


def with_record(change: Callable[[dict[str, Any]], object]) -> type[FakeProcess]:
    class Changed(FakeProcess):
        def wait(self, limit_s: float) -> bool:
            super().wait(limit_s)
            record = json.loads((self.folder / "record.json").read_text())
            change(record)
            (self.folder / "record.json").write_text(json.dumps(record))
            return True

    return Changed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r["parameters"].update(seed=9), "was measured with seed = 9 where the plan says 1"),
        (lambda r: r["parameters"].update(cache="cold"), "cache = 'cold' where the plan says 'warm'"),
        (lambda r: r["parameters"].update(ram_mb=512), "ram_mb = 512 where the plan says"),
        (lambda r: r["identity"].update(trial_id="001-x"), "holds the record of another trial (001-x)"),
        (lambda r: r["identity"].update(campaign="other"), "holds the record of another campaign (other)"),
        (lambda r: r["identity"].update(block=9), "holds a record of block 9 where the plan says 4"),
        (lambda r: r["memory"].update(peak_anon_bytes=10**30), "a number of 100 bits, more than 64"),
    ],
)
def test_a_record_that_is_not_what_was_planned_is_invalid(
    resting: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    monkeypatch.setattr(slots, "TrialProcess", with_record(change))
    campaign = Campaign.load(resting)
    assert campaign.run() is ExitCode.INSTRUMENT_FAULT
    faults = [entry for entry in campaign.ledger.entries() if entry.outcome.is_fault]
    assert {entry.outcome for entry in faults} == {Outcome.INVALID}
    assert len(faults) == 2 * len(LEFT), "tried again, as any fault"
    assert all(words in entry.outcome_detail for entry in faults)
    assert len(read_standing(resting).results) == 3


def test_samples_that_a_dead_kernel_did_not_glue_come_from_their_file(
    resting: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unglued(FakeProcess):
        def wait(self, limit_s: float) -> bool:
            super().wait(limit_s)
            record = json.loads((self.folder / "record.json").read_text())
            (self.folder / "trial.ipynb").write_text(json.dumps(make_notebook(record=record)))
            head, sample = {"columns": COLUMNS, "missing": {}}, [0.0] + [1] * (len(COLUMNS) - 1)
            (self.folder / "samples.jsonl").write_text(f"{json.dumps(head)}\n{json.dumps(sample)}\n")
            return True

    monkeypatch.setattr(slots, "TrialProcess", Unglued)
    campaign = Campaign.load(resting)
    campaign.run()
    filed = [entry.notebook for entry in campaign.ledger.entries()][-len(LEFT) :]
    columns = [read_scraps(resting / notebook)["samples"]["columns"]["rss_bytes"] for notebook in filed if notebook]
    assert columns == [[1]] * len(LEFT)


@pytest.mark.parametrize("signalled", ["papermill was killed by SIGKILL", "the kernel was killed by SIGSEGV"])
def test_a_trial_that_a_signal_has_ended_says_so(
    resting: Path, monkeypatch: pytest.MonkeyPatch, signalled: str
) -> None:
    class Killed(FakeProcess):
        def wait(self, limit_s: float) -> bool:
            return True

        def ended_by(self) -> str:
            return signalled

    monkeypatch.setattr(slots, "TrialProcess", Killed)
    campaign = Campaign.load(resting)
    campaign.run()
    assert campaign.ledger.entries()[-1].outcome_detail == f"the trial's process ended without a record: {signalled}"


@pytest.mark.parametrize(
    "place", ["running", "running/trial", "trials", "faults", "set-aside", "ledger.jsonl", ".lock"]
)
def test_a_link_out_of_the_campaign_is_never_followed(resting: Path, place: str) -> None:
    precious = resting.parent / "precious"
    (precious / "deep").mkdir(parents=True)
    (precious / "deep" / "file").write_text("precious")
    trial_id = Plan.load(resting).trials[3].trial_id
    path = resting / place.replace("trial", trial_id) if place == "running/trial" else resting / place
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        path.rename(resting.parent / "moved")
    path.symlink_to(precious / "deep" / "file" if "." in place else precious)
    try:
        code: ExitCode | None = Campaign.load(resting).run()
    except UnsafePath as error:
        code = None
        assert "is a link to another place" in str(error)
    assert (code is ExitCode.OK) is (place == "running/trial")
    assert [str(p.relative_to(precious)) for p in sorted(precious.rglob("*"))] == ["deep", "deep/file"]
    assert (precious / "deep" / "file").read_text() == "precious"


@pytest.mark.parametrize("made", ["an absolute path", "upwards", "empty", "with a NUL", "a list", "very long"])
def test_a_plan_with_a_path_for_a_name_touches_nothing(resting: Path, made: str) -> None:
    precious = resting.parent / "precious"
    precious.mkdir()
    (precious / "file").write_text("precious")
    names: dict[str, Any] = {
        "an absolute path": str(precious),
        "upwards": "../../precious",
        "empty": "",
        "with a NUL": "a\0b",
        "a list": ["x"],
        "very long": "x" * 5000,
    }
    plan = json.loads((resting / "plan.json").read_text())
    (resting / "running").mkdir()
    before = sorted(resting.rglob("*"))
    for change in (lambda: plan["trials"][3].update(trial_id=names[made]), lambda: plan.update(campaign=names[made])):
        change()
        (resting / "plan.json").write_text(json.dumps(plan))
        with pytest.raises(ParameterError) as caught:
            Campaign.load(resting)
        assert "cannot read the plan" in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(resting.rglob("*")) == before
    assert (precious / "file").read_text() == "precious"


@pytest.mark.parametrize("number", [1, 2])
def test_an_attempt_never_takes_the_name_of_another(
    resting: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial_id = Plan.load(resting).trials[3].trial_id
    old = resting / "faults" / f"{trial_id}.attempt{number}.ipynb"
    old.write_text("old")
    (resting / "trials" / f"{trial_id}.server.log").write_text("older")
    monkeypatch.setattr(slots, "TrialProcess", with_record(lambda r: r["parameters"].update(seed=9)))
    Campaign.load(resting).run()
    assert old.read_text() == "old"
    assert (resting / "set-aside" / f"{trial_id}.server.log").read_text() == "older"
    assert (resting / "faults" / f"{trial_id}.attempt{number + 2}.ipynb").exists()


# A trial notebook that takes no parameters


def without_tag(notebook: dict[str, Any]) -> None:
    for cell in notebook["cells"]:
        cell["metadata"] = {}


def tag_on(kind: str) -> Callable[[dict[str, Any]], None]:
    def change(notebook: dict[str, Any]) -> None:
        without_tag(notebook)
        next(c for c in notebook["cells"] if c["cell_type"] == kind)["metadata"] = {"tags": ["parameters"]}

    return change


NOTEBOOKS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no tag": (without_tag, "no code cell with the tag `parameters`"),
    "another tag": (
        lambda n: [c["metadata"].update(tags=["parameter"]) for c in n["cells"]],
        "no code cell with the tag `parameters`",
    ),
    "on a text": (tag_on("markdown"), "no code cell with the tag `parameters`"),
    "twice": (lambda n: [c["metadata"].update(tags=["parameters"]) for c in n["cells"][:2]], "2 cells with the tag"),
    "tags of another type": (
        lambda n: n["cells"][1]["metadata"].update(tags="parameters"),
        "no code cell with the tag",
    ),
    "executed": (lambda n: n["cells"][2]["metadata"].update(tags=["injected-parameters"]), "of an earlier run"),
    "no cells": (lambda n: n.pop("cells"), "has no list of cells"),
    "cells of another type": (lambda n: n.update(cells=[1]), "has no list of cells"),
}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_that_takes_no_parameters_is_refused(tmp_path: Path, name: str) -> None:
    change, words = NOTEBOOKS[name]
    notebook = json.loads(trial_notebook().read_text())
    change(notebook)
    path = tmp_path / "trial.ipynb"
    path.write_text(json.dumps(notebook))
    with pytest.raises(ParameterError) as caught:
        check_trial_notebook(path)
    assert words in str(caught.value) and str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "[" * 100_000])
def test_a_trial_notebook_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "trial.ipynb"
    path.write_text(content)
    with pytest.raises(ParameterError, match="put back the notebook that came with picolab"):
        check_trial_notebook(path)
    with pytest.raises(ParameterError, match="is not there"):
        check_trial_notebook(tmp_path / "none.ipynb")


def test_the_own_notebook_is_taken() -> None:
    check_trial_notebook()


def test_no_campaign_begins_or_resumes_with_such_a_notebook(
    resting: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    notebook = json.loads(trial_notebook().read_text())
    without_tag(notebook)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "trial.ipynb").write_text(json.dumps(notebook))
    monkeypatch.setattr("picolab.jupyter.trial_template.project_root", lambda: tmp_path)
    with pytest.raises(ParameterError, match="would not get the parameters"):
        Campaign.load(resting).run()
    plan = Plan.load(resting).model_copy(update={"campaign": "new"})
    with pytest.raises(ParameterError, match="would not get the parameters"):
        Campaign.create(plan, Watcher())
    assert FakeProcess.waits == [] and not (outputs_dir() / "new").exists()
