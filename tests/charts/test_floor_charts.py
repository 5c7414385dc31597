"""Charts of the memory floor: a panel for each build, every trial in it, and the floors as lines."""

from typing import Any

import altair as alt
import pytest
from vl_convert import vegalite_to_vega

from picolab.analysis.floor_search import Floor, look
from picolab.analysis.floor_trials import FloorTrial
from picolab.charts import floor as charts
from picolab.charts.floor import _ticks
from picolab.config.floor_search import FloorSearch

SEARCH = FloorSearch(low_mb=16, high_mb=256, confirm=2, slowdown=0.1, precision=0.3)


def searched(need: float) -> Floor:
    trials: list[FloorTrial] = []
    while (found := look(SEARCH, trials)).next_mb is not None:
        lives, took_s = found.next_mb >= need, 1.0 if found.next_mb >= 2 * need else 3.0
        name, outcome = f"{need}-{len(trials)}", "ok" if lives else "oom_killed"
        trials.append(FloorTrial(name, found.next_mb, found.next_purpose, lives, outcome, took_s if lives else None))
    return found


def points_of(panel: alt.LayerChart) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = panel.layer[-1].data.values
    return rows


def test_each_build_has_a_panel_with_all_of_its_trials() -> None:
    floors = {"old": searched(30), "<b>new": searched(50)}

    survival, speed = charts.survival(floors), charts.speed(floors)

    for panels in (survival, speed):
        assert [panel.to_dict()["title"] for panel in panels] == list(floors)
        assert len({str(panel.to_dict()["layer"][-1]["encoding"]["x"]) for panel in panels}) == 1
        for panel in panels:
            vegalite_to_vega(panel.to_dict())
    for panel, floor in zip(survival, floors.values(), strict=True):
        assert [point["trial"] for point in points_of(panel)] == [trial.trial_id for trial in floor.trials]
    for panel, floor in zip(speed, floors.values(), strict=True):
        assert {point["fate"] for point in points_of(panel)} == {"fast", "too slow"}
        assert len(points_of(panel)) == sum(trial.survived for trial in floor.trials)


def test_chart_of_nothing_is_empty() -> None:
    floors = {"old": look(SEARCH, [])}

    assert charts.survival(floors) == charts.speed(floors) == []


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (8.6, 61.6, [10, 15, 25, 40, 60]),
        (4, 128, [4, 8, 16, 32, 64, 128]),
        (60, 61, [60]),
    ],
)
def test_ticks_of_ram_are_readable(low: float, high: float, ticks: list[float]) -> None:
    assert _ticks(low, high) == ticks
