"""When `repeats: auto` has enough: synthetic results of a real plan, and the file that says so."""

import json
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from campaign_factory import FakeTrial, make_notebook, make_record, make_samples
from command_line import picolab_here

from picolab.campaign.stopping import interval_widths, watched_in_words, watched_metrics, why_enough
from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.plan import Plan, PlannedTrial, make_plan
from picolab.config.project import outputs_dir
from picolab.config.sizes import MIB
from picolab.exit_codes import ExitCode
from picolab.record.metrics import METRICS
from picolab.record.outcomes import Outcome
from picolab.record.record import RECORD_SCRAP, SAMPLES_SCRAP
from picolab.results.begun_file import builds_of, write_beginning
from picolab.results.ledger import Ledger, LedgerEntry
from picolab.results.stop_file import STOPPED_FILE, note_stop, stopped_after

Row = dict[str, Any]
RULE = {"target_percent": 3, "least_blocks": 10, "most_blocks": 20}


def plan_of(labels: list[str], sizes: list[str], stopping: dict[str, Any] | None = RULE, **fixed: Any) -> Plan:
    wanted = {
        "matrix": {"ram_mb": [128], "file_size": sizes},
        "builds": {label: {"build": "calibration"} for label in labels},
        "repeats": "auto" if stopping is not None else 20,
        "stopping": stopping,
        "parameters": fixed,
    }
    return make_plan(CampaignParameters.model_validate(wanted), "test", "test.yaml")


def rows_of(plan: Plan, blocks: int, spread: float | Callable[[str], float] = 0.005) -> list[Row]:
    """Return ok results up to a block; the rates of single trials vary by `spread`, which may depend on the scenario.

    The whole block runs at a random speed between 1 and 4 times the slowest, so that only pairs are steady.
    """
    generator = random.Random(1)
    speed = {block: generator.uniform(10, 40) for block in range(1, blocks + 1)}
    rows: list[Row] = []
    for trial in plan.trials:
        if trial.block <= blocks:
            share = spread(trial.scenario) if callable(spread) else spread
            rate = speed[trial.block] * (1 + generator.uniform(-share, share))
            download = trial.parameters.direction == "download"
            rows.append(
                {
                    "scenario": trial.scenario,
                    "build": trial.parameters.build_label,
                    "block": trial.block,
                    "direction": trial.parameters.direction,
                    "outcome": Outcome.OK,
                    "upload_outcome": Outcome.OK,
                    "download_outcome": Outcome.OK,
                    "throughput_mib_s": 1.0 if download else rate,
                    "download_mib_s": None if trial.parameters.direction == "upload" else rate,
                    "peak_anon_bytes": MIB * 100 * (1 + generator.uniform(-0.001, 0.001)),
                    "download_peak_anon_bytes": MIB * 50 * (1 + generator.uniform(-0.001, 0.001)),
                }
            )
    return rows


def enough_at(plan: Plan, block: int, spread: float | Callable[[str], float] = 0.005) -> str | None:
    return why_enough(plan, rows_of(plan, block, spread), block, running_s=60.0)


def test_narrow_pairs_are_enough_after_five_looks_and_not_before() -> None:
    plan = plan_of(["old", "new"], ["8M"])
    # The first look is after ten pairs, and five in a row must find the interval narrow.
    assert [block for block in range(1, 21) if enough_at(plan, block)] == list(range(14, 21))
    assert enough_at(plan, 14) == "every interval was within 3 % of its middle"


def test_wide_pairs_are_never_enough_up_to_the_last_block() -> None:
    plan = plan_of(["old", "new"], ["8M"])
    assert max(trial.block for trial in plan.trials) == RULE["most_blocks"], "the plan itself ends there"
    assert not any(enough_at(plan, block, spread=0.5) for block in range(1, 21))


def test_what_is_measured_makes_no_difference_only_how_well() -> None:
    plan = plan_of(["old", "new"], ["8M"])
    rows = rows_of(plan, 14)
    for row in rows:
        row["throughput_mib_s"] *= 2 if row["build"] == "new" else 1
    assert why_enough(plan, rows, 14, 60.0)


def test_every_scenario_and_every_candidate_must_be_known() -> None:
    plan = plan_of(["old", "new"], ["8M", "4M"])
    assert enough_at(plan, 20)
    assert not enough_at(plan, 20, lambda scenario: 0.5 if "4M" in scenario else 0.005)

    three = plan_of(["old", "new", "newer"], ["8M"])
    rows = rows_of(three, 20)
    assert why_enough(three, rows, 20, 60.0)
    unsteady = [
        {**row, "throughput_mib_s": row["throughput_mib_s"] * (1 + row["block"] % 3)}
        if row["build"] == "newer"
        else row
        for row in rows
    ]
    assert not why_enough(three, unsteady, 20, 60.0)


def test_not_before_the_least_number_of_blocks() -> None:
    plan = plan_of(["old", "new"], ["8M"], {**RULE, "least_blocks": 18})
    assert not enough_at(plan, 17)
    assert enough_at(plan, 18)


@pytest.mark.parametrize(("blocks", "enough"), [(15, False), (16, True)])
def test_a_block_without_a_pair_does_not_count(blocks: int, enough: bool) -> None:
    plan = plan_of(["old", "new"], ["8M"])
    rows = rows_of(plan, blocks)
    for row in rows:
        if row["build"] == "new" and row["block"] in (2, 9):
            row.update(outcome=Outcome.OOM_KILLED, upload_outcome=Outcome.OOM_KILLED, throughput_mib_s=None)
    assert bool(why_enough(plan, rows, blocks, 60.0)) is enough, "14 pairs are needed"


def test_a_failed_trial_with_a_rate_is_no_pair() -> None:
    plan = plan_of(["old", "new"], ["8M"])
    rows = rows_of(plan, 14)
    rows[0].update(outcome=Outcome.HTTP_ERROR, upload_outcome=Outcome.HTTP_ERROR)
    assert not why_enough(plan, rows, 14, 60.0)


def test_the_time_limit_ends_it_whatever_is_known() -> None:
    plan = plan_of(["old", "new"], ["8M"], {**RULE, "time_limit_h": 0.5})
    rows = rows_of(plan, 2, spread=0.5)
    assert why_enough(plan, rows, 2, running_s=1799.0) is None
    words = "the time limit of 0.5 h was reached, whatever the intervals"
    assert why_enough(plan, rows, 2, running_s=1801.0) == words


@pytest.mark.parametrize("without", [["old"], ["new"], ["old", "new"]])
def test_a_scenario_without_any_rate_does_not_keep_it_going(without: list[str]) -> None:
    plan = plan_of(["old", "new"], ["8M", "4M"])
    rows = rows_of(plan, 14)
    for row in rows:
        if "4M" in row["scenario"] and row["build"] in without:
            row.update(outcome=Outcome.OOM_KILLED, upload_outcome=Outcome.OOM_KILLED, throughput_mib_s=None)
    assert why_enough(plan, rows, 14, 60.0)


def test_downloads_are_judged_by_their_own_rate() -> None:
    plan = plan_of(["old", "new"], ["8M"], direction="download")
    assert enough_at(plan, 14)
    assert not enough_at(plan, 20, spread=0.5), "the rate of the upload is steady, and is not asked"


def unsteady(rows: list[Row], name: str) -> list[Row]:
    """Return rows in which one metric differs from trial to trial."""
    generator = random.Random(2)
    return [{**row, name: row[name] * generator.uniform(0.5, 2)} if row[name] else row for row in rows]


@pytest.mark.parametrize("labels", [["old", "new"], ["only"]])
@pytest.mark.parametrize("direction", ["upload", "download", "both"])
def test_every_metric_that_decides_must_be_known_and_no_other(direction: str, labels: list[str]) -> None:
    plan = plan_of(labels, ["8M"], direction=direction)
    deciding = [metric.name for metric in METRICS.values() if direction in metric.gates]
    assert len(deciding) == (4 if direction == "both" else 2), "a rate and a peak of each measured step"
    assert [metric.name for found in watched_metrics(plan).values() for metric in found] == deciding
    rows = rows_of(plan, 20)
    for row in rows:
        row.update(throughput_mib_s=40.0, download_mib_s=30.0)
    assert why_enough(plan, rows, 20, 60.0)
    for name in ("throughput_mib_s", "download_mib_s", "peak_anon_bytes", "download_peak_anon_bytes"):
        assert bool(why_enough(plan, unsteady(rows, name), 20, 60.0)) is (name not in deciding), name


def test_memory_that_needs_more_pairs_continues_the_campaign() -> None:
    plan = plan_of(["old", "new"], ["8M"])
    rows = rows_of(plan, 20)
    for row in rows:
        # Both builds agree from the fourth block on only.
        if row["block"] <= 3 and row["build"] == "new":
            row["peak_anon_bytes"] *= 1.2 if row["block"] % 2 else 0.8
    enough = [
        block for block in range(1, 21) if why_enough(plan, [row for row in rows if row["block"] <= block], block, 60.0)
    ]
    assert enough and enough[0] > 14, "the rate alone would have been enough at block 14"


def test_a_metric_without_any_value_does_not_keep_it_going() -> None:
    plan = plan_of(["old", "new"], ["8M"])
    rows = [{**row, "peak_anon_bytes": None} for row in rows_of(plan, 14)]
    assert why_enough(plan, rows, 14, 60.0)


def test_an_upload_counts_although_its_download_failed() -> None:
    plan = plan_of(["old", "new"], ["8M"], direction="both")
    rows = rows_of(plan, 20)
    for row in rows:
        row.update(outcome=Outcome.OOM_KILLED, download_outcome=Outcome.OOM_KILLED, download_mib_s=None)
    by_name = {width.metric: width for width in interval_widths(plan, rows)}
    assert by_name["throughput_mib_s"].n == 20 and by_name["throughput_mib_s"].enough
    assert by_name["download_mib_s"].n == by_name["download_peak_anon_bytes"].n == 0
    assert why_enough(plan, rows, 20, 60.0)


def test_each_width_is_written_down(tmp_path: Path) -> None:
    plan = plan_of(["old", "new", "newer"], ["8M", "4M"])
    widths = interval_widths(plan, rows_of(plan, 14))
    note_stop(tmp_path, 14, "reason", [asdict(width) for width in widths])

    watched = json.loads((tmp_path / STOPPED_FILE).read_text())["watched"]
    assert len(watched) == 2 * 2 * 2, "scenarios, candidates, metrics"
    assert {one["build"] for one in watched} == {"new", "newer"}
    assert all(one["n"] == 14 and one["enough"] and 0 < one["reach"] <= 0.03 for one in watched)
    assert stopped_after(tmp_path) == 14


def test_the_plan_says_what_is_watched() -> None:
    assert watched_in_words(plan_of(["old", "new"], ["8M"], direction="both")) == (
        "Stops when the intervals of the ratios of upload, download, peak memory and peak memory of the download are "
        "all within 3 % of their middle, in every scenario."
    )
    assert "the medians of upload and peak memory are" in watched_in_words(plan_of(["only"], ["8M"]))
    assert watched_in_words(plan_of(["old", "new"], ["8M"], stopping=None)) == ""


def test_one_build_is_judged_by_its_median() -> None:
    plan = plan_of(["only"], ["8M"])
    assert plan.baseline is None
    steady = [{**row, "throughput_mib_s": 40.0 + row["block"] / 10} for row in rows_of(plan, 10)]
    assert why_enough(plan, steady, 10, 60.0)
    assert not why_enough(plan, steady[:9], 9, 60.0)
    assert not enough_at(plan, 20), "a speed that differs from block to block"
    assert not why_enough(plan, steady[:1], 10, 60.0), "one value says nothing about spread"
    assert why_enough(plan, [], 10, 60.0), "one that never gives a rate never will"


def test_a_plan_without_a_rule_never_stops() -> None:
    assert enough_at(plan_of(["old", "new"], ["8M"], stopping=None), 20) is None


def test_the_stop_is_written_down_and_read(tmp_path: Path) -> None:
    assert stopped_after(tmp_path) is None
    note_stop(tmp_path, 14, "every interval was within 3 % of its middle")
    assert stopped_after(tmp_path) == 14
    content = json.loads((tmp_path / STOPPED_FILE).read_text())
    reason = "every interval was within 3 % of its middle"
    assert content == {"after_block": 14, "reason": reason, "watched": []}
    assert [path.name for path in tmp_path.iterdir()] == [STOPPED_FILE], "nothing else is left"


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b"14", b"null", b"{}", b'{"after_block": null}', b'{"after_block": "x"}', b"\xff\xfe"]
)
def test_a_damaged_file_is_no_stop(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / STOPPED_FILE).write_bytes(damage)
    assert stopped_after(tmp_path) is None


# A campaign


def file_result(folder: Path, trial: PlannedTrial, speed: float, sha256: str) -> None:
    """File an invented result of a planned trial as a campaign does."""
    parameters = trial.parameters
    fake = FakeTrial(
        parameters.ram_mb,
        parameters.file_size,
        block=trial.block,
        label=parameters.label,
        build_sha256=sha256,
        speed=speed,
    )
    record, samples = make_record(fake, trial.position, folder.name), make_samples(fake, trial.position)
    record["identity"]["trial_id"] = samples["trial_id"] = trial.trial_id
    record["parameters"] = parameters.model_dump(mode="json")
    place = f"trials/{trial.trial_id}"
    (folder / "trials").mkdir(exist_ok=True)
    (folder / f"{place}.record.json").write_text(json.dumps(record))
    notebook = make_notebook(**{RECORD_SCRAP: record, SAMPLES_SCRAP: samples})
    (folder / f"{place}.ipynb").write_text(json.dumps(notebook))
    at = record["identity"]["started_at"]
    Ledger(folder).append(
        LedgerEntry(
            trial_id=trial.trial_id,
            attempt=1,
            outcome=Outcome.OK,
            outcome_detail="all well",
            started_at=at,
            ended_at=at,
            duration_s=2.0,
            notebook=f"{place}.ipynb",
            record=f"{place}.record.json",
        )
    )


def test_a_campaign_stops_when_it_knows_enough() -> None:
    """The 14th pair is measured. Whatever it says, one of 14 cannot make the interval wide."""
    wanted = {
        "matrix": {"ram_mb": [128], "file_size": ["8M"]},
        "builds": {label: {"build": "calibration"} for label in ("base", "again")},
        "repeats": "auto",
        "stopping": {"target_percent": 5, "least_blocks": 10, "most_blocks": 16},
        "idle_limit_s": 0,
    }
    plan = make_plan(CampaignParameters.model_validate(wanted), "known", "known.yaml")
    folder = outputs_dir() / "known"
    folder.mkdir(parents=True)
    plan.save(folder)
    write_beginning(folder, plan)
    (sha256,) = builds_of(plan).values()
    chance = random.Random(3)
    for trial in plan.trials:
        if trial.block < 14:
            file_result(folder, trial, chance.uniform(0.99, 1.01), sha256)

    done = picolab_here("resume", "known")

    assert done.returncode == ExitCode.OK, done.stdout + done.stderr
    stopped = json.loads((folder / STOPPED_FILE).read_text())
    assert stopped["after_block"] == 14, "five narrow looks, the first after ten pairs, and not the end of the plan"
    assert "5 %" in stopped["reason"]
    ledger = (folder / "ledger.jsonl").read_bytes()
    assert len(ledger.splitlines()) == 2 * 14
    assert "Stopped after block 14 of at most 16" in done.stdout

    status = picolab_here("status", "known")
    assert status.returncode == 0
    assert "28 of 28 trials have a result" in status.stdout and "resume" not in status.stdout
    again = picolab_here("resume", "known")
    assert again.returncode == ExitCode.OK, again.stdout + again.stderr
    assert (folder / "ledger.jsonl").read_bytes() == ledger

    verdict = json.loads(picolab_here("verdict", "known", "--json").stdout)
    (found,) = [one for one in verdict["metrics"] if one["metric"] == "throughput_mib_s"]
    assert found["verdict"] == "equivalent" and len(found["pairs"]) == 14
    assert "unfinished" not in {caveat["code"] for caveat in verdict["caveats"]}
