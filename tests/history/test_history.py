"""The history: a trial is in it once, whoever adds it; hosts stay apart; old files are read and newer ones refused."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from campaign_factory import FakeTrial, make_record, quick_matrix, write_campaign
from command_line import picolab_here
from history_campaigns import night

from picolab.config.project import outputs_dir
from picolab.errors import FileNotWritten, ParameterError, UnreadableFile
from picolab.history.add import add_campaign
from picolab.history.database import CAMPAIGN_COLUMNS, Database
from picolab.history.schema import MERGED_VERSION, columns, history_row, host_key, series_key
from picolab.history.series import chosen_metrics, read_series
from picolab.history.store import CAMPAIGNS, TRIALS, FolderStore, open_store
from picolab.record.factors import FACTORS, Factor
from picolab.record.metric import Metric
from picolab.record.metrics import METRICS
from picolab.record.outcomes import Outcome
from picolab.record.record import Record
from picolab.results.rows import case_value, record_row, row_columns
from picolab.results.standing import read_standing

TRIALS_OF_A_NIGHT = 3


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "history")


def files(store: FolderStore) -> dict[str, bytes]:
    return {
        str(path.relative_to(store.folder)): path.read_bytes() for path in store.folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("name", ["it's", "a [1] *?", "FROM trials", "hostname=evil"])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    store = FolderStore(tmp_path / name)
    add_campaign(store, night(0, {"build-a": 1.0}))
    assert count(store) == TRIALS_OF_A_NIGHT
    assert {row["hostname"] for row in Database(store).rows("SELECT hostname FROM trials")} == {"bench"}


def count(store: FolderStore) -> int:
    return int(Database(store).rows("SELECT count(*) AS n FROM trials")[0]["n"])


def test_a_row_holds_every_column_and_the_record(store: FolderStore) -> None:
    folder = night(0, {"build-a": 1.0})
    assert add_campaign(store, folder).new == TRIALS_OF_A_NIGHT
    rows = Database(store).rows("SELECT * FROM trials ORDER BY position")
    records = list(read_standing(folder).results.values())

    assert set(rows[0]) == set(columns())
    assert {name: rows[0][name] for name in row_columns()} == record_row(records[0])
    assert [Record.model_validate_json(row["record"]) for row in rows] == records


def test_adding_twice_or_from_a_copy_changes_nothing(store: FolderStore, tmp_path: Path) -> None:
    folder = night(0, {"build-a": 1.0})
    add_campaign(store, folder)
    before = files(store)
    again = add_campaign(store, folder)
    copy = shutil.copytree(folder, tmp_path / "another-name")

    assert (again.new, again.known) == (0, TRIALS_OF_A_NIGHT)
    assert add_campaign(store, copy).new == 0
    assert files(store) == before


def test_a_campaign_that_grew_adds_its_new_trials_alone(store: FolderStore) -> None:
    trials = quick_matrix()
    add_campaign(store, write_campaign(outputs_dir() / "demo", trials[:5], planned=trials[5:]))
    shutil.rmtree(outputs_dir() / "demo")
    added = add_campaign(store, write_campaign(outputs_dir() / "demo", trials))

    assert (added.new, added.known) == (len(trials) - 5, 5)
    assert count(store) == len(trials)
    keys = Database(store).rows("SELECT DISTINCT campaign_key FROM trials")
    (campaign,) = Database(store).rows("SELECT * FROM campaigns")
    assert [row["campaign_key"] for row in keys] == [campaign["campaign_key"]]
    assert campaign["trials"] == len(trials)


def test_processes_add_at_the_same_time(store: FolderStore) -> None:
    folders = [night(number, {"build-a": 1.0}) for number in range(3)]
    code = (
        "import pathlib, sys\n"
        "from picolab.history.add import add_campaign\n"
        "from picolab.history.store import FolderStore\n"
        "[add_campaign(FolderStore(pathlib.Path(sys.argv[1])), pathlib.Path(name)) for name in sys.argv[2:]]\n"
    )
    words = [sys.executable, "-c", code, str(store.folder), *map(str, folders)]
    processes = [subprocess.Popen(words) for _ in range(2)]

    assert [process.wait(120) for process in processes] == [0, 0]
    assert count(store) == 3 * TRIALS_OF_A_NIGHT


def test_a_trial_in_two_files_counts_once(store: FolderStore) -> None:
    add_campaign(store, night(0, {"build-a": 1.0}))
    (name,) = store.names(TRIALS)
    table = pq.read_table(store.address(TRIALS, name))
    pq.write_table(table.slice(0, 2), store.address(TRIALS, f"{name.partition('-')[0]}-{'0' * 16}.v1.parquet"))
    assert count(store) == TRIALS_OF_A_NIGHT


def test_a_trial_in_two_campaigns_is_always_of_the_same_one(store: FolderStore) -> None:
    add_campaign(store, night(0, {"build-a": 1.0}))
    (name,) = store.names(TRIALS)
    table = pq.read_table(store.address(TRIALS, name))
    place, begin = table.schema.names.index("campaign_key"), name.partition("-")[0]
    Path(store.address(TRIALS, name)).unlink()
    for keys in (("a", "b"), ("b", "a")):
        for file, key in zip("01", keys, strict=True):
            changed = table.set_column(place, table.schema.field(place), pa.array([key] * len(table)))
            pq.write_table(changed, store.address(TRIALS, f"{begin}-{file * 16}.v1.parquet"))
        assert Database(store).rows("SELECT DISTINCT campaign_key FROM trials") == [{"campaign_key": "a"}]


def test_a_campaign_is_the_same_whichever_trials_come_first(tmp_path: Path) -> None:
    trials, keys = quick_matrix(), set()
    for part in (slice(0, 5), slice(5, None)):
        store = FolderStore(tmp_path / f"history-{part.start}")
        folder = write_campaign(outputs_dir() / "demo", trials)
        notebooks = sorted((folder / "trials").glob("*.ipynb"))
        for path in set(notebooks) - set(notebooks[part]):
            path.unlink()
        add_campaign(store, folder)
        keys |= {row["campaign_key"] for row in Database(store).rows("SELECT campaign_key FROM campaigns")}
        shutil.rmtree(folder)
    assert len(keys) == 1


def test_a_value_that_no_column_holds_is_named(store: FolderStore) -> None:
    odd = FakeTrial(facts={"provenance.host.cpu_count": "two"})
    folder = write_campaign(outputs_dir() / "demo", [odd])
    with pytest.raises(UnreadableFile, match=r"demo: a record has a value that its column cannot hold"):
        add_campaign(store, folder)
    assert files(store) == {}


def test_an_older_file_without_a_later_column_is_read(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    add_campaign(store, night(0, {"build-a": 1.0}))
    before = read_series(Database(store), chosen_metrics([]))
    late = Metric("late_s", "upload.duration_s", "late", "s", "a later metric", "never", "upload")
    monkeypatch.setitem(METRICS, "late_s", late)
    monkeypatch.setitem(FACTORS, "late_fact", Factor("late_fact", source="build.version"))
    assert read_series(Database(store), [late]) == []
    add_campaign(store, night(1, {"build-b": 1.0}))

    values = [point.values for series in read_series(Database(store), [late]) for point in series.points]
    assert len(values) == 1 and values[0]["late_s"] > 0
    assert {series.key for series in before} <= {s.key for s in read_series(Database(store), chosen_metrics([]))}


def test_a_newer_file_is_refused_in_one_sentence(store: FolderStore) -> None:
    add_campaign(store, night(0, {"build-a": 1.0}))
    newer = f"{'a' * 12}-{'b' * 16}.v{MERGED_VERSION + 1}.parquet"
    store.write(TRIALS, newer, b"")
    done = picolab_here("history", "show", "--history", str(store.folder))

    assert done.returncode == 4
    assert done.stderr.endswith(
        f"{newer} has schema {MERGED_VERSION + 1}, and this picolab reads schemas up to {MERGED_VERSION}; install a "
        f"newer picolab\n"
    )


def test_a_damaged_file_is_named(store: FolderStore) -> None:
    add_campaign(store, night(0, {"build-a": 1.0}))
    (name,) = store.names(TRIALS)
    store.write(TRIALS, name, b"PAR1 damaged")
    with pytest.raises(UnreadableFile, match=name):
        Database(store).rows("SELECT * FROM trials")


def test_a_folder_that_cannot_be_read_is_no_empty_history(store: FolderStore) -> None:
    store.folder.mkdir()
    (store.folder / TRIALS).symlink_to(TRIALS)  # nobody can read it, root included
    with pytest.raises(UnreadableFile, match=r"cannot be read .+ look at its permissions"):
        Database(store).rows("SELECT * FROM trials")


def test_what_cannot_be_written_names_the_option(store: FolderStore) -> None:
    (store.folder / TRIALS / "x.parquet").mkdir(parents=True)
    with pytest.raises(FileNotWritten, match="or name another folder by --history"):
        store.write(TRIALS, "x.parquet", b"")


@pytest.mark.parametrize("text", ["{", "[]", "", None], ids=["cut off", "a list", "empty", "missing"])
def test_a_damaged_plan_is_named(store: FolderStore, text: str | None) -> None:
    with pytest.raises(UnreadableFile, match=r"plan and ledger of the campaign .night. are damaged"):
        Database(store).parsed("night", "plan and ledger", text, dict)


def test_values_are_those_of_the_campaign(store: FolderStore) -> None:
    trials = [*quick_matrix(), FakeTrial(ram_mb=256, file_size="100M", outcome=Outcome.OOM_KILLED, block=4)]
    folder = write_campaign(outputs_dir() / "demo", trials)
    add_campaign(store, folder)
    metrics = list(METRICS.values())
    cases: dict[str, list[dict[str, Any]]] = {}
    for record in read_standing(folder).results.values():
        row = record_row(record)
        cases.setdefault(series_key(row), []).append(row)
    series = read_series(Database(store), metrics)

    assert {one.key for one in series} == set(cases)
    for one in series:
        expected = {metric.name: case_value(metric, cases[one.key]) for metric in metrics}
        assert one.points[0].values == pytest.approx({name: v for name, v in expected.items() if v is not None})


@pytest.fixture
def record() -> Iterator[dict[str, Any]]:
    yield make_record(FakeTrial(), 1)


@pytest.mark.parametrize(
    ("fact", "value", "same"),
    [
        ("hostname", "other", False),
        ("kernel", "6.1.1", False),
        ("cpu_count", 4, False),
        ("cpu_model", "X", False),
        ("ram_bytes", 4 << 30, False),
        ("ram_bytes", int((8 << 30) * 0.985), True),
        ("load_1min_at_start", 9.0, True),
    ],
)
def test_a_changed_host_is_another_host(record: dict[str, Any], fact: str, value: object, same: bool) -> None:
    host = record["provenance"]["host"]
    assert (host_key(host) == host_key(host | {fact: value})) is same


def test_series_differ_in_every_factor_but_the_build() -> None:
    row = record_row(Record.model_validate(make_record(FakeTrial(), 1)))
    for name, factor in FACTORS.items():
        changed = series_key(row | {name: "another"}) != series_key(row)
        assert changed is (factor.shown != "build"), name


def test_own_columns_hide_no_column_of_a_trial() -> None:
    row = history_row(Record.model_validate(make_record(FakeTrial(), 1)), "key", "case")
    assert set(row) == set(columns())
    assert len(columns()) == len(row_columns()) + len(set(columns()) - set(row_columns()))
    assert not {"host", "series", "record", "purpose"} & set(row_columns())


def test_labels_are_data(store: FolderStore) -> None:
    evil = "' FROM campaigns ? '); SELECT 1; --"
    write_campaign(outputs_dir() / "x'y", [FakeTrial(build="1.5.4", facts={"build.label": evil})])
    add_campaign(store, outputs_dir() / "x'y")
    assert add_campaign(store, outputs_dir() / "x'y").known == 1
    done = picolab_here("history", "compare", evil, "\x1b[31m'", "--history", str(store.folder))
    assert done.returncode == 4 and "\x1b" not in done.stderr
    assert "no trial of such a build" in done.stderr and "it has " in done.stderr


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for place, words in (
        (str(tmp_path / "file"), "is a file"),
        ("gs://bucket/x", "an s3:// URL"),
        ("s3://", "is no URL of a bucket"),
    ):
        with pytest.raises(ParameterError, match=words):
            open_store(place)
    assert open_store(None).place == str(outputs_dir() / "_history")
    monkeypatch.setenv("PICOLAB_HISTORY", str(tmp_path))
    assert open_store(None).place == str(tmp_path)


def test_add_and_show_on_the_command_line() -> None:
    night(0, {"build-a": 1.0})
    night(1, {"build-b": 1.0})
    (night(2, {"build-b": 1.0}) / "plan.json").write_text("{")
    done = picolab_here("history", "add")
    assert done.returncode == 3, done.stderr
    assert "bench-02: not added: " in done.stderr and "plan.json: cannot be read; repair it" in done.stderr
    assert "bench-00: 3 trials added\nbench-01: 3 trials added\n" in done.stdout
    assert "3 were there already" in picolab_here("history", "add", "bench-01").stdout

    shown = picolab_here("history", "show", "--metric", "throughput_mib_s", "--metric", "peak_anon_bytes").stdout
    assert "Host bench (2 x Some CPU, kernel 6.1.0" in shown and "peak memory, MiB" in shown
    assert picolab_here("history", "show", "--build", "aaaaaa").stdout.count("bench-0") == 1
    missing = picolab_here("history", "show", "--host", "elsewhere")
    assert missing.returncode == 4 and "no value of this build, host and metric" in missing.stderr
    assert "did you mean throughput_mib_s?" in picolab_here("history", "show", "--metric", "throughput").stderr


def test_an_empty_history_says_how_to_fill_it() -> None:
    done = picolab_here("history", "show")
    assert done.returncode == 4 and "add campaigns with picolab history add" in done.stderr


def test_campaign_rows_are_typed(store: FolderStore) -> None:
    add_campaign(store, night(0, {"build-a": 1.0}))
    (name,) = store.names(CAMPAIGNS)
    schema = pq.read_schema(store.address(CAMPAIGNS, name))
    assert schema.names == list(CAMPAIGN_COLUMNS) and schema.field("trials").type == pa.int64()
    (row,) = Database(store).rows("SELECT files FROM campaigns")
    assert set(json.loads(row["files"])) == {"plan.json", "ledger.jsonl"}
