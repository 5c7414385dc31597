"""An answer from rows of trials: the verdict, what is measured or extrapolated, refusals, and rows that do not fit."""

from typing import Any

import pytest
from campaign_factory import FakeTrial, make_record

from picolab.analysis.answer import Answer, answer
from picolab.config.answer_request import AnswerRequest
from picolab.config.trial_parameters import TrialParameters
from picolab.exit_codes import ExitCode
from picolab.record.outcomes import Outcome
from picolab.record.record import Record
from picolab.report.answer_lines import exit_code, headline, how_known, reason, size_words
from picolab.results.rows import record_row

SIZES = ("16M", "64M", "256M")


def rows_of(sizes: tuple[str, ...] = SIZES, **trial: Any) -> list[dict[str, Any]]:
    trials = [FakeTrial(file_size=size, ram_mb=128, direction="both", **trial) for size in sizes for _ in range(3)]
    return [record_row(Record.model_validate(make_record(one, place))) for place, one in enumerate(trials, 1)]


def answered(rows: list[dict[str, Any]], file_size: str, ram_mb: int = 128, **request: Any) -> Answer:
    asked = TrialParameters(file_size=file_size, ram_mb=ram_mb, direction="both")
    values = {"build": "calibration", "build_sha256": "c" * 64, "sizes": list(SIZES), "repeats": 3, "budget_s": 60}
    return answer(AnswerRequest.model_validate({"parameters": asked, **values, **request}), rows)


@pytest.mark.parametrize(
    ("file_size", "ram_mb", "verdict", "code", "words"),
    [
        ("256M", 128, "yes", ExitCode.OK, "3 of 3 trials of 256M survived. Nothing is extrapolated."),
        ("512M", 128, "likely", ExitCode.OK, "512M was not measured. 9 of 9 trials of 16M, 64M and 256M survived"),
        ("1G", 45, "uncertain", ExitCode.UNDECIDED, "the predicted peak memory is 42"),
        ("1G", 30, "unlikely", ExitCode.TRIALS_FAILED, "of 30 MiB of RAM"),
        ("2G", 128, "refused", ExitCode.UNDECIDED, "more than 4 times the largest of them, so nothing is predicted"),
    ],
)
def test_verdict_and_its_reason(file_size: str, ram_mb: int, verdict: str, code: ExitCode, words: str) -> None:
    found = answered(rows_of(speed=1.0), file_size, ram_mb)

    assert found.verdict == verdict
    assert exit_code(found) is code
    assert words in reason(found)
    assert file_size in headline(found)


def test_deaths_decide_before_any_prediction() -> None:
    rows = rows_of(("16M", "64M")) + rows_of(("256M",), outcome=Outcome.OOM_KILLED)

    assert answered(rows, "256M").verdict == "no"
    assert answered(rows, "512M").verdict == "unlikely"
    assert reason(answered(rows, "512M")).endswith("survived, but none of 3 trials of 256M.")
    assert answered(rows[:-1] + rows_of(("256M",))[:1], "256M").verdict == "uncertain"
    assert answered([], "256M").verdict == "unknown"


def test_quantities_say_how_they_are_known_or_why_they_are_missing() -> None:
    found = answered(rows_of(speed=1.0), "512M")
    memory = found.quantity("peak_anon_bytes")
    assert memory is not None
    assert memory.prediction is not None
    assert size_words(memory.prediction.middle) == "32.2 MiB"
    assert how_known(found, memory) == "extrapolated 2 times beyond 256M"
    here = answered(rows_of(), "64M").quantity("duration_s")
    assert here is not None
    assert len(here.here) == 3
    refused = answered(rows_of(), "2G").quantity("duration_s")
    assert refused is not None
    assert refused.prediction is None
    assert refused.missing == "2G is more than 4 times 256M, the largest size that gave a value"
    few = answered(rows_of(("16M",)), "16M").quantity("download_s")
    assert few is not None
    assert "there are 3 trials of 1 size" in few.missing


def test_trials_of_another_way_to_limit_memory_are_not_pooled() -> None:
    others = rows_of(facts={"machine.memory_limit.method": "cgroup_v2"})
    found = answered([*others, *rows_of()], "512M")

    assert found.unused == 9
    assert found.trials == 9


def test_uploads_at_the_same_time_do_not_change_the_size_lines() -> None:
    more = [row for n in (2, 4, 8) for row in rows_of(("16M",), parameters_too={"parallel_uploads": n})]
    found = answered([*rows_of(), *more], "512M", parallel=[1, 2, 4, 8], parallel_size="16M")

    assert found.trials == 9
    assert found.scalability is not None
    assert {n: len(rates) for n, rates in found.levels.items()} == {1: 3, 2: 3, 4: 3, 8: 3}
