"""Charts of an answer: what is extrapolated looks different, RAM is a line, uploads at the same time have a curve."""

import json

from campaign_factory import FakeTrial, make_record

from picolab.analysis.answer import Answer, answer
from picolab.analysis.scalability import fit_scalability
from picolab.charts import answer as charts
from picolab.config.answer_request import AnswerRequest
from picolab.config.trial_parameters import TrialParameters
from picolab.record.record import Record
from picolab.results.rows import record_row


def answered(file_size: str) -> Answer:
    trials = [FakeTrial(file_size=size, ram_mb=128) for size in ("16M", "64M", "256M") for _ in range(3)]
    rows = [record_row(Record.model_validate(make_record(one, place))) for place, one in enumerate(trials, 1)]
    asked = TrialParameters(file_size=file_size, ram_mb=128)
    request = AnswerRequest(parameters=asked, build="x", build_sha256="c", sizes=["16M"], repeats=3, budget_s=1)
    return answer(request, rows)


def drawn(found: Answer, name: str) -> str:
    shown = found.quantity(name)
    assert shown is not None
    chart = charts.quantity(found, shown, "Title")
    assert chart is not None
    return json.dumps(chart.to_dict())


def test_extrapolated_part_and_ram_stand_out() -> None:
    memory = drawn(answered("1G"), "peak_anon_bytes")

    assert '"part": "extrapolated"' in memory
    assert '"RAM, 128 MiB"' in memory
    assert '"shape": "diamond"' in memory
    assert "strokeDash" in memory


def test_measured_size_has_no_extrapolated_part() -> None:
    time = drawn(answered("256M"), "duration_s")

    assert '"part": "extrapolated"' not in time
    assert "RAM, 128 MiB" not in time


def test_refused_size_ends_where_predictions_end() -> None:
    found = answered("4G")
    time = drawn(found, "duration_s")

    assert '"diamond"' not in time
    assert '"size": 1024.0' in time or '"size": 1.0' in time


def test_uploads_at_the_same_time_have_a_band() -> None:
    law = fit_scalability([(n, 50.0 * n / (1 + 0.1 * (n - 1))) for n in (1, 2, 4, 8) for _ in range(2)])

    assert '"uploads": 8.0' in json.dumps(charts.parallel(law).to_dict())
