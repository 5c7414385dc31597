"""The public API: what it offers, that it is lazy, and that its examples work."""

import doctest
import io
import os
import subprocess
import sys
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path

import pytest
from campaign_factory import quick_matrix, write_campaign
from comparison_campaigns import around, paired_trials, read
from IPython.core.interactiveshell import InteractiveShell

import picolab as pl
from picolab.config.floor_search import FloorSearch
from picolab.config.plan import Plan
from picolab.config.project import outputs_dir
from picolab.errors import CampaignNotFound, ParameterError

PACKAGE = Path(pl.__file__).parent
API = sorted(f"picolab.api.{path.stem}" for path in (PACKAGE / "api").glob("*.py") if path.stem != "__init__")
LIGHT = "import sys; before = set(sys.modules); import picolab; print(*sorted(set(sys.modules) - before))"


@pytest.fixture
def demo() -> pl.CampaignResults:
    """Write the campaigns of the examples, demo and pairs."""
    outputs_dir().mkdir(parents=True)
    write_campaign(outputs_dir() / "demo", quick_matrix())
    read(outputs_dir() / "pairs", paired_trials(around(0.9), more_anon_mib=3))
    return pl.load("demo")


def test_public_names() -> None:
    assert pl.__all__ == sorted(pl.__all__)
    assert set(pl.__all__) == {
        "CampaignResults", "ComparisonResults", "HistoryResults", "Trial", "campaigns", "compare", "load",
        "open_history", "open_trial", "resume", "run"
    }  # fmt: skip
    for name in pl.__all__:
        value = getattr(pl, name)
        assert value.__doc__ and value.__name__ == name and name in dir(pl)
    with pytest.raises(AttributeError, match="no attribute 'lod'; public are CampaignResults"):
        pl.lod  # type: ignore[attr-defined]  # noqa: B018


def test_mistakes_in_a_notebook_show_no_traceback() -> None:
    shell = InteractiveShell()
    for cell in ('pl.load("dmeo")', "pl.load(5)", "pl.open_trial(ram=5)", 'pl.compare("dmeo")'):
        shown = io.StringIO()
        with redirect_stdout(shown):
            result = shell.run_cell(f"import picolab as pl; {cell}")
        assert isinstance(result.error_in_exec, ParameterError)
        assert shown.getvalue().strip() == f"{type(result.error_in_exec).__name__}: {result.error_in_exec}"


def test_no_public_name_hides_a_room() -> None:
    assert not set(pl.__all__) & {path.stem for path in PACKAGE.iterdir()}


def test_import_of_picolab_imports_nothing_else() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.split() == ["picolab"]


@pytest.mark.usefixtures("demo")
@pytest.mark.parametrize("name", ["picolab", "picolab.trial.trial", *API])
def test_examples(name: str) -> None:
    module = import_module(name)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, _ = doctest.testmod(module, optionflags=flags, raise_on_error=False)

    assert failed == 0


def test_each_public_function_has_an_example() -> None:
    for name in sorted(set(pl.__all__) - {"ComparisonResults", "HistoryResults"}):
        assert ">>> " in (getattr(pl, name).__doc__ or ""), name


def test_frames_and_charts_are_those_of_the_report(demo: pl.CampaignResults) -> None:
    assert demo.trials is demo.data.trials and demo.samples is demo.data.samples
    assert demo.name == "demo" and demo.folder == outputs_dir() / "demo" and demo.faults.empty
    for name in ("outcomes", "throughput", "phases", "memory", "peak_memory"):
        shown = getattr(demo.plot, name)()._repr_mimebundle_()
        assert shown["text/plain"] and len(shown["image/png"]) > 1000, name


def test_a_campaign_is_loaded_by_its_path(demo: pl.CampaignResults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo.folder.parent)
    for name in (demo.folder, str(demo.folder), "./demo"):
        assert len(pl.load(name).trials) == len(demo.trials)
    (demo.folder / "plan.json").unlink()

    assert len(pl.load(demo.folder).trials) == len(demo.trials)


def test_a_search_for_a_floor_is_resumed_by_its_command(demo: pl.CampaignResults) -> None:
    search = FloorSearch.model_validate({"low_mb": 32, "high_mb": 512})
    Plan.load(demo.folder).model_copy(update={"floor": search}).save(demo.folder)

    with pytest.raises(ParameterError, match="'demo' searches a memory floor; continue it with: picolab resume demo"):
        pl.resume("demo")


@pytest.mark.usefixtures("demo")
def test_a_campaign_that_does_not_exist_is_one_sentence() -> None:
    with pytest.raises(CampaignNotFound, match=r"'dmeo': there is no such campaign in .*; there are: "):
        pl.load("dmeo")


def test_an_empty_campaign_has_sentences_for_charts(tmp_path: Path) -> None:
    run = pl.load(write_campaign(tmp_path / "empty", []))

    assert run.trials.empty and "no throughput to show" in str(run.plot.throughput())


def test_comparison_of_a_loaded_run(demo: pl.CampaignResults) -> None:
    run = pl.load("pairs")
    found = pl.compare(run, margin=0.05)

    assert found.gate == "regression" and "slower" in found.gate_reason
    assert len(found.verdicts) == len(found.comparison.metrics) and "pairs" in found.verdicts
    assert pl.compare(run, margin=0.3).gate == "ok"
    assert pl.compare("pairs", baseline="new").verdicts["baseline"].unique().tolist() == ["new"]
    assert found.pairs()._repr_mimebundle_()["image/png"]
    with pytest.raises(ParameterError, match="a comparison needs two"):
        pl.compare(demo)


def test_campaigns_with_an_unreadable_plan_are_listed(demo: pl.CampaignResults) -> None:
    (demo.folder / "plan.json").write_text("{")
    listed = pl.campaigns().set_index("campaign")

    assert listed.loc["demo", "trials"] == len(demo.trials) and listed.loc["demo", "problem"]
    assert listed.loc["pairs", "planned"] == 20 and listed.loc["pairs", "problem"] == ""


def test_no_campaigns_yet() -> None:
    assert pl.campaigns().empty
    with pytest.raises(CampaignNotFound, match="no campaigns yet"):
        pl.load()


def test_the_newest_campaign_is_the_default(demo: pl.CampaignResults) -> None:
    os.utime(demo.folder / "plan.json", (2e9, 2e9))

    assert pl.load().name == "demo"


def test_open_trial_names_an_unknown_parameter() -> None:
    with pytest.raises(ParameterError, match=r"open_trial\(\): there is no 'ram'; did you mean ram_mb"):
        pl.open_trial(ram=3)
    with pytest.raises(ParameterError, match="parameters cell"):
        pl.open_trial({"ram_mb": 3})


def test_open_trial_takes_a_notebooks_names(capsys: pytest.CaptureFixture[str]) -> None:
    trial = pl.open_trial({"ram_mb": 64, "file_size": "1M", "other": object()}, file_size="2M")

    assert (trial.state.parameters.ram_mb, trial.state.parameters.file_size) == (64, "2M")
    assert "New trial" in capsys.readouterr().out
