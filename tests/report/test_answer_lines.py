"""An answer in words and as JSON: facts with their origin, missing numbers with a reason, and a floor that is known."""

import json
import shlex
from pathlib import Path
from typing import Any

from campaign_factory import FakeTrial, make_record, write_campaign

from picolab.analysis.answer import Answer, answer
from picolab.config.answer_request import AnswerRequest
from picolab.config.plan import Plan
from picolab.config.project import outputs_dir
from picolab.config.trial_parameters import TrialParameters
from picolab.record.outcomes import Outcome
from picolab.record.record import Record
from picolab.report.answer_lines import as_json, facts, floor_command, notes, reason
from picolab.results.begun_file import write_beginning
from picolab.results.rows import record_row


def answered(
    file_size: str,
    last: Outcome = Outcome.OK,
    older: bool = False,
    parameters: dict[str, Any] | None = None,
    **request: Any,
) -> Answer:
    """Return an answer from trials of 16M to 256M.

    Args:
        older: their records have no disk space.
    """
    trials = [FakeTrial(file_size=size, ram_mb=128) for size in ("16M", "64M", "256M") for _ in range(3)]
    trials[-1].outcome = last
    records = [make_record(one, place) for place, one in enumerate(trials, 1)]
    for record in records if older else ():
        del record["memory"]["peak_disk_bytes"]
    rows = [record_row(Record.model_validate(record)) for record in records]
    values = {"build": "./my server", "build_sha256": "c" * 64, "sizes": ["16M"], "repeats": 3, "budget_s": 1}
    asked = TrialParameters(file_size=file_size, ram_mb=128, **(parameters or {}))
    return answer(AnswerRequest.model_validate({"parameters": asked, **values, **request}), rows)


def by_name(found: Answer, folder: Path) -> dict[str, tuple[str, str]]:
    return {name: (value, note) for name, value, note in facts(found, folder)}


def test_facts_say_where_each_number_comes_from(tmp_path: Path) -> None:
    found = by_name(answered("512M"), tmp_path)

    assert found["survival"][0] == "9 of 9 trials of the measured sizes"
    assert "at least 72 % of such uploads survive, with 95 % confidence; 59 of 59" in found["survival"][1]
    assert found["time of the upload"][1] == "extrapolated 2 times beyond 256M"
    assert found["disk space of the upload"][0].startswith("1.0 GiB (90 %: ")
    assert found["disk space of the upload"][1] == "extrapolated 2 times beyond 256M"
    assert found["RAM floor"][1] == "find it with: picolab floor './my server' --file-size 512M --step upload"
    assert found["measured"] == ("9 trials of 16M, 64M and 256M", "2026-11-22; nothing beyond 256M was measured")
    assert "time of the download" not in found


def test_disk_space_of_records_without_it_is_a_rule(tmp_path: Path) -> None:
    found = answered("512M", older=True)
    value, note = by_name(found, tmp_path)["disk space of the upload"]

    assert value == "1.1 GiB"
    assert note.startswith("a rule: 2.2 times the file")
    assert note.endswith("since a line needs 6 trials of 3 sizes, and there are 0 trials of 0 sizes")
    assert found.verdict == "likely", "disk space is no memory"


def test_disk_space_is_not_held_against_the_memory(tmp_path: Path) -> None:
    found = answered("512M")
    disk = found.quantity("peak_disk_bytes")

    assert disk is not None and disk.prediction is not None and disk.prediction.middle > found.ram_bytes
    assert found.verdict == "likely"
    assert "peak memory is" in reason(found) and "1.0 GiB" not in reason(found)


def test_deaths_are_counted_by_outcome(tmp_path: Path) -> None:
    survival = by_name(answered("256M", Outcome.OOM_KILLED), tmp_path)["survival"]

    assert survival[0] == "2 of 3 trials of 256M"
    assert survival[1].endswith("with 95 % confidence; the others: 1 oom_killed")
    other = by_name(answered("512M", Outcome.OOM_KILLED), tmp_path)["survival"]
    assert other == ("8 of 9 trials of the measured sizes", "the others: 1 oom_killed")


def test_missing_numbers_are_null_with_a_reason(tmp_path: Path) -> None:
    plan = Plan.load(write_campaign(outputs_dir() / "c", [FakeTrial()]))
    found = as_json(plan, answered("2G"), tmp_path)

    assert found["verdict"] == "refused"
    time = found["quantities"]["duration_s"]
    assert time["predicted"] is None
    assert time["missing"] == "2G is more than 4 times 256M, the largest size that gave a value"
    assert found["floor_missing"].startswith("run: picolab floor")
    assert found["parallel_missing"] == "not asked for; give --parallel 8"
    few = as_json(plan, answered("256M", parallel=[1, 2], parallel_size="16M"), tmp_path)
    assert "too few for a law" in few["parallel_missing"]
    json.dumps(found, allow_nan=False)


def test_floor_of_the_same_upload_is_quoted() -> None:
    folder = write_campaign(outputs_dir() / "search", [FakeTrial(file_size="512M", ram_mb=64)])
    plan = Plan.load(folder)
    write_beginning(folder, plan)
    sha256 = next(iter(json.loads((folder / "begun.json").read_text())["builds"].values()))
    build = {"build": "calibration", "headline": "At 40 MiB 95 % survive.", "floor_mb": 40.0}
    (folder / "floor.json").write_text(json.dumps({"builds": [build]}))

    known = answered("512M", build_sha256=sha256)

    assert by_name(known, outputs_dir() / "c")["RAM floor"] == ("At 40 MiB 95 % survive.", "campaign search")
    assert as_json(plan, known, outputs_dir() / "c")["floor_mb"] == 40.0
    assert by_name(answered("256M", build_sha256=sha256), outputs_dir() / "c")["RAM floor"][0] == "not searched yet"
    assert by_name(answered("512M"), outputs_dir() / "c")["RAM floor"][0] == "not searched yet"
    other = answered("512M", build_sha256=sha256, parameters={"direction": "download"})
    assert by_name(other, outputs_dir() / "c")["RAM floor"][0] == "not searched yet"


def test_the_command_of_a_floor_has_the_parameters_of_the_answer() -> None:
    asked = {"server": "copyparty", "build": "copyparty", "environment": {"A": "1 2"}, "memory_limit": "none"}
    words = shlex.split(floor_command(answered("512M", parameters=asked)))
    assert words[:2] == ["picolab", "floor"] and words[words.index("--server") + 1] == "copyparty"
    given = {words[n + 1]: words[n + 2] for n, word in enumerate(words) if word == "-p"}
    assert given["memory_limit"] == "none" and json.loads(given["environment"]) == {"A": "1 2"}
    assert not {"ram_mb", "file_size", "direction"} & set(given)


def test_an_answer_from_emulated_machines_says_so(tmp_path: Path) -> None:
    found = answered("512M")
    assert not any("emulated" in line for line in notes(found, tmp_path))
    found.rows[0]["acceleration"] = "emulation"
    (line,) = [line for line in notes(found, tmp_path) if "emulated" in line]
    assert line.startswith("1 of 9 trials ran in a virtual machine that was emulated by software: times say little")
