"""Reading executed notebooks: the wire format against the real scrapbook, and what may be broken."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from campaign_factory import (
    CALIBRATION_CAVEAT,
    FakeTrial,
    make_notebook,
    make_record,
    make_samples,
    quick_matrix,
    trial_id,
    virtual_matrix,
    write_campaign,
)

from picolab.agent.memory_probe import COLUMNS
from picolab.config.sizes import MIB
from picolab.errors import CampaignNotFound, ParameterError, RecordError
from picolab.record.outcomes import FAULTS, Outcome
from picolab.record.record import Record
from picolab.results import rows
from picolab.results.export import export_campaign
from picolab.results.load import read_campaign, read_record, read_scraps, record_row
from picolab.results.rows import row_columns


def write(path: Path, notebook: Any) -> Path:
    path.write_text(json.dumps(notebook))
    return path


def problems_of(folder: Path) -> dict[str, str]:
    frame = read_campaign(folder).problems
    return dict(zip(frame["path"], frame["problem"], strict=True))


GLUE = """
import scrapbook
values = {"number": 1.5, "mapping": {"a": [1, None, True]}, "list": [1, 2], "text": "words", "flag": True}
for name, value in values.items():
    scrapbook.glue(name, value, encoder="json" if name != "text" else None)
scrapbook.glue("number", 2.5, encoder="json")
"""

RUN = """
import sys, warnings
warnings.simplefilter("ignore")
import papermill
papermill.execute_notebook(sys.argv[1], sys.argv[2], kernel_name="python3", progress_bar=False)
"""


def test_reads_what_the_real_scrapbook_glued_in_a_real_kernel(tmp_path: Path) -> None:
    source = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(GLUE)])
    nbformat.write(source, tmp_path / "in.ipynb")
    # A process of its own: the warnings of scrapbook and its friends are not ours.
    command = [sys.executable, "-c", RUN, str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb")]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert read_scraps(tmp_path / "out.ipynb") == {
        "number": 2.5,
        "mapping": {"a": [1, None, True]},
        "list": [1, 2],
        "text": "words",
        "flag": True,
    }


def test_outputs_that_are_no_scraps_are_passed_over(tmp_path: Path) -> None:
    notebook = make_notebook(record={"a": 1})
    notebook["cells"][1]["outputs"] += [
        {"output_type": "stream", "name": "stdout", "text": "words"},
        {"output_type": "display_data", "data": {"text/plain": "x"}, "metadata": {}},
        {"output_type": "display_data", "data": {"application/scrapbook.scrap.json+json": "damaged"}},
        "no output at all",
    ]
    notebook["cells"] += [None, {"cell_type": "code", "outputs": 7}]
    assert read_scraps(write(tmp_path / "n.ipynb", notebook)) == {"record": {"a": 1}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (json.dumps(make_notebook(record={})).encode()[:90], "cut off or damaged"),
        (b"\xff\xfe\x00", "not text in UTF-8"),
        (b"[]", "has no list of cells"),
        (b'{"cells": {}}', "has no list of cells"),
        (b"[" * 100_000, "cut off or damaged"),
    ],
)
def test_a_notebook_that_cannot_be_read_is_one_sentence(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "broken.ipynb"
    path.write_bytes(content)
    with pytest.raises(RecordError) as caught:
        read_scraps(path)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["\ud800", "[" * 100_000, "{"], ids=["half a pair", "deep", "cut"])
def test_a_text_that_is_no_json_stays_a_text(tmp_path: Path, text: str) -> None:
    assert read_scraps(write(tmp_path / "n.ipynb", make_notebook(note=text))) == {"note": text}


def test_a_notebook_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="is not there"):
        read_scraps(tmp_path / "none.ipynb")


def test_read_record(tmp_path: Path) -> None:
    record = make_record(FakeTrial(), 1)
    assert read_record(write(tmp_path / "n.ipynb", make_notebook(record=record))) == Record.model_validate(record)
    with pytest.raises(RecordError, match="holds no record"):
        read_record(write(tmp_path / "n.ipynb", make_notebook()))
    record["outcome"] = "splendid"
    with pytest.raises(RecordError, match="outcome"):
        read_record(write(tmp_path / "n.ipynb", make_notebook(record=record)))


def test_row_of_a_record() -> None:
    trial = FakeTrial(ram_mb=256, file_size="100M", caveats=[CALIBRATION_CAVEAT, CALIBRATION_CAVEAT])
    record = make_record(trial, 7)
    row = record_row(Record.model_validate(record))
    assert list(row) == list(row_columns())
    assert row["case"] == "local-256mb-100M-calibration"
    assert (row["position"], row["block"], row["attempt"]) == (7, 1, 1)
    assert row["file_size_bytes"] == 100 * MIB
    assert row["memory_limit_bytes"] == 256 * MIB
    assert row["caveats"] == "calibration_server"
    for part, names in {
        "upload": ("throughput_mib_s", "transfer_s", "commit_mib_s", "http_status", "client_peak_rss_bytes"),
        "verify": ("download_mib_s", "received_bytes"),
        "server": ("ready_s", "exit_code", "stop_s"),
        "memory": ("peak_anon_bytes", "vm_hwm_bytes", "samples_per_s", "oom_kills"),
    }.items():
        assert {name: row[name] for name in names} == {name: record[part][name] for name in names}


def test_row_of_a_trial_that_never_reached_its_upload() -> None:
    row = record_row(Record.model_validate(make_record(FakeTrial(outcome=Outcome.MACHINE_FAILED), 1)))
    assert row["throughput_mib_s"] is None
    assert row["file_size_bytes"] == 100 * MIB


def test_every_row_column_is_filled_from_a_full_record() -> None:
    limited = {"total_limit_s": 100.0}
    trial = FakeTrial(server_message="words", machine="vagrant", direction="both", parameters_too=limited)
    record = make_record(trial, 1)
    record["upload"] |= {"sync_s": 0.1, "durable_mib_s": 90.0, "memory_limit": "kept", "stored_disk_bytes": 1}
    record["verify"] |= {"memory_limit": "lifted"}
    record["server"] |= {"stop_s": 0.1, "exit_signal": "SIGTERM", "oom_evidence": "Killed process 345"}
    record["build"]["version"] = "1"
    record["provenance"]["host"] |= {"host_id": "0123", "boot_id": "boot"}
    record["timeline"] = {"boot_id": "boot", "waited_s": 0.5, "measured_from_s": 1.0, "measured_until_s": 2.5}
    # Of a local machine, and the other facts are of a virtual one: no trial has both.
    record["machine"]["network"] = {"kind": "private", "reason": None}
    row = record_row(Record.model_validate(record))
    # The host is a factor only where trials of several are together.
    assert [name for name, value in row.items() if value is None] == ["outcome_stage", "measured_on"]


def test_hosts_are_told_apart_in_time_that_grows_with_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []

    class Names(list[str | None]):
        def __iter__(self) -> Iterator[str | None]:
            passes.append(len(self))
            return super().__iter__()

    monkeypatch.setattr(rows, "host_names", lambda found: Names(identity.name for identity in found))
    made = [make_record(FakeTrial(facts={"provenance.host.hostname": f"h{n % 2}"}), n) for n in range(1, 9)]
    shown = rows.trial_rows(record_row(Record.model_validate(record)) for record in made)

    assert [row["measured_on"] for row in shown] == ["h1", "h0"] * 4
    assert passes == [8, 8]


def test_row_of_a_trial_in_a_virtual_machine() -> None:
    record = make_record(FakeTrial(ram_mb=256, machine="vagrant"), 3)
    row = record_row(Record.model_validate(record))
    names = ("acceleration", "box", "cpus", "provider", "reached_by", "reached_s", "route", "usable_ram_bytes")

    assert (row["machine"], row["memory_limit_method"], row["ram_mb"]) == ("vagrant", "virtual_machine", 256)
    assert {name: row[name] for name in names} == {name: record["machine"]["virtual_machine"][name] for name in names}
    local = record_row(Record.model_validate(make_record(FakeTrial(), 1)))
    assert {local[name] for name in names} == {None}


def test_samples_of_an_emulated_machine_say_so(tmp_path: Path) -> None:
    data = read_campaign(write_campaign(tmp_path / "c", virtual_matrix()))

    assert set(data.samples["acceleration"]) == set(data.trials["acceleration"]) == {"emulation"}


def test_a_whole_campaign(tmp_path: Path) -> None:
    data = read_campaign(write_campaign(tmp_path / "c", quick_matrix()))
    assert len(data.trials) == 12
    assert list(data.trials["position"]) == list(range(1, 13))
    assert len(data.samples) == 12 * 60
    assert set(data.samples["case"]) == set(data.trials["case"])
    assert data.samples["psi_memory_some_us"].isna().all()
    assert data.problems.empty
    assert data.faults.empty
    assert data.plan["seed"] == 42


def test_no_such_campaign(tmp_path: Path) -> None:
    with pytest.raises(CampaignNotFound, match="no such campaign"):
        read_campaign(tmp_path / "none")
    with pytest.raises(CampaignNotFound, match="is no campaign"):
        read_campaign(tmp_path)


def test_an_unfinished_campaign_names_each_trial_that_is_missing(tmp_path: Path) -> None:
    trials = quick_matrix()
    folder = write_campaign(tmp_path / "c", trials[:5], planned=trials[5:7])
    assert problems_of(folder) == {
        f"trials/{trial_id(6, trials[5])}.ipynb": "no result yet: planned and not run",
        f"trials/{trial_id(7, trials[6])}.ipynb": "no result yet: planned and not run",
    }


def test_a_campaign_that_has_not_begun(tmp_path: Path) -> None:
    data = read_campaign(write_campaign(tmp_path / "c", [], planned=quick_matrix()))
    assert data.trials.empty
    assert data.samples.empty
    assert len(data.problems) == 12


def test_only_results_are_trials_and_only_faults_are_faults(tmp_path: Path) -> None:
    trials = [FakeTrial(outcome=outcome) for outcome in Outcome]
    data = read_campaign(write_campaign(tmp_path / "c", trials))
    assert set(data.trials["outcome"]) == set(Outcome) - FAULTS
    assert set(data.faults["outcome"]) == FAULTS
    assert set(data.samples["outcome"]) == set(Outcome) - FAULTS
    assert all("no result: only faults of the instrument" in words for words in data.problems["problem"])
    assert data.faults["notebook"].str.startswith("faults/").all()


def test_a_fault_without_a_notebook_comes_from_the_ledger(tmp_path: Path) -> None:
    folder = write_campaign(tmp_path / "c", [FakeTrial()])
    entry = {
        "trial_id": trial_id(1, FakeTrial()),
        "attempt": 1,
        "outcome": "machine_failed",
        "started_at": None,
        "ended_at": "2026-11-22T10:00:00+00:00",
        "duration_s": 1.5,
        "notebook": None,
        "record": None,
    }
    entry["outcome_detail"] = "the kernel died"
    ledger = folder / "ledger.jsonl"
    ledger.write_text(json.dumps(entry) + "\n" + ledger.read_text().replace('"attempt": 1', '"attempt": 2'))
    data = read_campaign(folder)
    assert list(data.faults["outcome_detail"]) == ["the kernel died"]
    assert list(data.trials["outcome"]) == ["ok"]
    assert data.problems.empty


def test_a_fault_whose_notebook_is_still_among_the_trials(tmp_path: Path) -> None:
    folder = write_campaign(tmp_path / "c", [FakeTrial(outcome=Outcome.INVALID)])
    fault = next((folder / "faults").glob("*.ipynb"))
    fault.rename(folder / "trials" / fault.name.replace(".attempt1", ""))
    (folder / "ledger.jsonl").unlink()
    data = read_campaign(folder)
    assert data.trials.empty
    assert list(data.faults["outcome"]) == ["invalid"]


def broken(folder: Path, position: int) -> Path:
    return sorted((folder / "trials").glob("*.ipynb"))[position]


def test_everything_broken_is_listed_and_the_rest_counts(tmp_path: Path) -> None:
    trials = quick_matrix()
    folder = write_campaign(tmp_path / "c", trials)
    torn, invalid, strange, copied, gone, silent = (broken(folder, position) for position in range(6))
    torn.write_text(torn.read_text()[:500])
    record = make_record(trials[1], 2)
    record["upload"]["transfer_s"] = None
    write(invalid, make_notebook(record=record))
    write(
        strange,
        make_notebook(record=make_record(trials[2], 3), samples={"columns": {"t_s": [1], "rss_bytes": []}}),
    )
    copied.write_text(torn.with_name(gone.name).read_text())
    gone.unlink()
    write(silent, make_notebook(record=make_record(trials[5], 6)))
    write(folder / "trials" / "extra.ipynb", make_notebook())
    with (folder / "ledger.jsonl").open("a") as ledger:
        ledger.write('{"trial_id": "013')
    data = read_campaign(folder)
    found = dict(zip(data.problems["path"], data.problems["problem"], strict=True))
    expected = {
        str(torn.relative_to(folder)): "cut off or damaged",
        str(invalid.relative_to(folder)): "upload.transfer_s is null",
        str(strange.relative_to(folder)): "different lengths",
        str(copied.relative_to(folder)): "holds the record of another trial",
        str(gone.relative_to(folder)): "is gone: the ledger says that this trial ended ok",
        str(silent.relative_to(folder)): "holds no samples",
        "trials/extra.ipynb": "is not in the plan: not counted",
        "ledger.jsonl": "line 13 is torn",
    }
    assert set(found) == set(expected)
    for path, words in expected.items():
        assert words in found[path]
        assert str(folder) not in found[path]
    # Without samples a trial still counts; without a valid record it does not.
    assert list(data.trials["position"]) == [3, 6, 7, 8, 9, 10, 11, 12]
    assert set(data.samples["trial_id"]) == set(data.trials["trial_id"]) - {strange.stem, silent.stem}


def test_a_trial_that_is_not_in_the_plan_does_not_count(tmp_path: Path) -> None:
    folder = write_campaign(tmp_path / "c", quick_matrix()[:2])
    plan = json.loads((folder / "plan.json").read_text())
    plan["trials"].pop()
    (folder / "plan.json").write_text(json.dumps(plan))
    (folder / "ledger.jsonl").write_text("")
    data = read_campaign(folder)
    assert len(data.trials) == 1
    assert list(data.problems["problem"]) == ["is not in the plan: not counted"]


def test_a_damaged_line_and_a_damaged_plan_are_listed(tmp_path: Path) -> None:
    folder = write_campaign(tmp_path / "c", quick_matrix()[:2])
    (folder / "plan.json").write_text("{")
    ledger = folder / "ledger.jsonl"
    ledger.write_text("[]\n" + ledger.read_text())
    data = read_campaign(folder)
    assert len(data.trials) == 2
    assert [re.split(" \\(|: ", words)[0] for words in data.problems["problem"]] == [
        "the plan is damaged, so it is unknown which trials are missing",
        "line 1 is damaged",
    ]


def test_a_notebook_run_again_by_hand_is_listed_not_counted(tmp_path: Path) -> None:
    trial = FakeTrial(outcome=Outcome.HTTP_ERROR)
    folder = write_campaign(tmp_path / "c", [trial])
    path = broken(folder, 0)
    own = path.with_name(f"{path.stem}.record.json")
    own.write_text(json.dumps(make_record(trial, 1)))
    write(path, make_notebook(record=make_record(FakeTrial(), 1), samples=make_samples(FakeTrial(), 1)))

    data = read_campaign(folder)

    assert list(data.trials["outcome"]) == ["http_error"]
    assert data.problems["problem"].iloc[0] == (
        "holds another record than the trial made (was it run again by hand?); the trial's own files count"
    )


def test_a_trial_with_a_lost_notebook_counts_by_its_own_files(tmp_path: Path) -> None:
    folder = write_campaign(tmp_path / "c", [FakeTrial()])
    path = broken(folder, 0)
    record = make_record(FakeTrial(), 1)
    path.with_name(f"{path.stem}.record.json").write_text(json.dumps(record))
    zero_s = record["upload"]["first_byte_monotonic_s"]
    rows = [[zero_s + t if name == "t_s" else 1 for name in COLUMNS] for t in (-0.05, 0.0, 0.05)]
    lines = [{"columns": COLUMNS, "missing": {}}, *rows]
    samples = path.with_name(f"{path.stem}.samples.jsonl")
    samples.write_text("".join(json.dumps(line) + "\n" for line in lines))
    path.write_text("{")

    data = read_campaign(folder)

    assert list(data.trials["outcome"]) == ["ok"]
    assert list(data.samples["t_s"]) == [-0.05, 0.0, 0.05]
    (problem,) = data.problems["problem"]
    assert "is not a notebook" in problem and problem.endswith("; the trial's own files count")


def test_two_executables_of_one_name_are_told_apart(tmp_path: Path) -> None:
    trials = [FakeTrial(build="/a/pico", build_sha256=letter * 64) for letter in "ab"]
    data = read_campaign(write_campaign(tmp_path / "c", trials))
    assert list(data.trials["build"]) == ["pico aaaaaaaa", "pico bbbbbbbb"]
    assert set(data.samples["build"]) == {"pico aaaaaaaa", "pico bbbbbbbb"}


def test_export(tmp_path: Path) -> None:
    trials = quick_matrix()
    trials[0].outcome = Outcome.OOM_KILLED
    folder = write_campaign(tmp_path / "c", trials)
    files = export_campaign(folder, tmp_path / "out")
    assert sorted(path.name for path in files) == [
        "samples.csv",
        "samples.parquet",
        "trials.csv",
        "trials.parquet",
    ]
    assert sorted((tmp_path / "out").iterdir()) == sorted(files)
    data = read_campaign(folder)
    back = pd.read_parquet(tmp_path / "out" / "trials.parquet")
    assert list(back.columns) == list(row_columns())
    assert list(back["peak_anon_bytes"]) == list(data.trials["peak_anon_bytes"])
    assert back["throughput_mib_s"].isna().sum() == 1
    rows = pd.read_csv(tmp_path / "out" / "samples.csv")
    assert len(rows) == 720
    assert rows["anon_bytes"].sum() == data.samples["anon_bytes"].sum()


def test_export_of_a_format_that_does_not_exist(tmp_path: Path) -> None:
    folder = write_campaign(tmp_path / "c", [])
    with pytest.raises(ParameterError, match="did you mean csv"):
        export_campaign(folder, tmp_path / "out", ["cvs"])
    assert not (tmp_path / "out").exists()


def test_reading_a_record_does_not_import_pandas() -> None:
    command = "import sys, picolab.results.load; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0
