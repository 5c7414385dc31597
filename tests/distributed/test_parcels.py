"""What comes from a worker is data: names and sizes are checked, and each trial gets one result."""

import builtins
import hashlib
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from picolab.campaign.progress import Watcher
from picolab.campaign.runner import Campaign
from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.plan import Plan, make_plan, together
from picolab.distributed import cluster as clusters
from picolab.distributed import order as orders
from picolab.distributed import worker
from picolab.distributed.campaign import with_cluster
from picolab.distributed.checks import check_distributed
from picolab.distributed.cluster import Cluster
from picolab.distributed.order import Attempt, Order, Parcel, SentBuild, pack, part_of, unpack
from picolab.errors import BuildError, HostUnfit, ParameterError
from picolab.files import writing
from picolab.record.outcomes import Outcome
from picolab.results.ledger import LedgerEntry


def plan_of(**rest: Any) -> Plan:
    wanted = {"matrix": {"ram_mb": [128], "file_size": ["1M"]}, "repeats": 2, "idle_limit_s": 0}
    return make_plan(CampaignParameters.model_validate(wanted | rest), "far", "test.yaml")


def entry(trial_id: str, attempt: int = 1, outcome: Outcome = Outcome.MACHINE_FAILED) -> LedgerEntry:
    return LedgerEntry(
        trial_id=trial_id,
        attempt=attempt,
        outcome=outcome,
        outcome_detail="it failed",
        started_at=f"2026-01-01T00:00:0{attempt}.000+00:00",
        ended_at="2026-01-01T00:01:00.000+00:00",
        duration_s=1.0,
        notebook=None,
        record=None,
    )


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"../../trials/x.ipynb": zlib.compress(b"x")}, "which no file of a trial has"),
        ({"ledger.jsonl": zlib.compress(b"x")}, "which no file of a trial has"),
        ({"record.json": b"no zlib"}, "came damaged"),
        ({"record.json": zlib.compress(b"x" * 100)[:-6]}, "came damaged"),
        ({"record.json": zlib.compress(b"x" * 2000)}, "has more than"),
        ({f"samples.attempt{n}.jsonl": b"" for n in range(100)}, "100 files came"),
    ],
    ids=["path", "another file", "no zlib", "cut off", "too large", "too many"],
)
def test_hostile_files_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], words: str
) -> None:
    monkeypatch.setattr(orders, "MOST_FILE_BYTES", 1000)
    folder = tmp_path / "running"

    assert words in unpack(Attempt(entry=entry("one"), files=files), folder)
    assert not folder.exists()


def test_files_arrive_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "faults").mkdir()
    for name in ("one.attempt1.record.json", "one.attempt1.samples.attempt1.jsonl", "one.attempt2.record.json"):
        (tmp_path / "faults" / name).write_text(name)
    (tmp_path / "ledger.jsonl").write_text(entry("one").model_dump_json() + "\n")

    synced: list[int] = []
    monkeypatch.setattr(writing.os, "fsync", synced.append)
    (attempt,) = pack(tmp_path)
    assert unpack(attempt, tmp_path / "home") == ""
    assert {path.name: path.read_text() for path in (tmp_path / "home").iterdir()} == {
        "record.json": "one.attempt1.record.json",
        "samples.attempt1.jsonl": "one.attempt1.samples.attempt1.jsonl",
    }
    assert len(synced) >= 2, "the worker removes its own copies"


def test_each_attempt_is_filed_once_and_nothing_that_was_not_ordered() -> None:
    plan, notes = plan_of(), []
    campaign = with_cluster(Campaign.create(plan, Watcher(note=notes.append)), None)  # type: ignore[arg-type]
    first, second = plan.trials
    came = [Attempt(entry=entry(name), files={}) for name in (first.trial_id, first.trial_id, second.trial_id)]
    parcel = Parcel(ending="ran", worker="tcp://w", attempts=came)

    campaign._accept([first], parcel)
    campaign._accept(
        [first], Parcel(ending="ran", worker="tcp://w", attempts=[Attempt(entry=entry(first.trial_id, 2), files={})])
    )
    assert [(e.trial_id, e.attempt) for e in campaign.ledger.entries()] == [(first.trial_id, 1), (first.trial_id, 2)]
    assert len(notes) == 1 and "was not ordered" in notes[0], "what comes again is no news"
    campaign.tally.rows[first.trial_id] = {}
    campaign._accept(
        [first], Parcel(ending="ran", worker="tcp://w", attempts=[Attempt(entry=entry(first.trial_id, 3), files={})])
    )
    assert "a second result" in notes[1] and len(campaign.ledger.entries()) == 2


def test_blocks_of_a_comparison_stay_together() -> None:
    alone = plan_of()
    assert [len(one) for one in together(alone, alone.trials)] == [1, 1]
    pairs = plan_of(builds={"old": {"build": "calibration"}, "new": {"build": "calibration"}}, baseline="old")
    assert [len(one) for one in together(pairs, pairs.trials)] == [2, 2]
    assert part_of(pairs, pairs.trials[:2]).model_dump_json() == part_of(pairs, pairs.trials[:2]).model_dump_json()


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        (
            {"repeats": "auto", "matrix": {"build": ["a", "b"]}, "builds": {n: {"build": "calibration"} for n in "ab"}},
            "number of repeats",
        ),
        ({"parameters": {"keep_machine": "on_failure"}}, "set it to never"),
    ],
    ids=["auto", "kept machine"],
)
def test_plans_that_need_one_host(rest: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        check_distributed(plan_of(**rest))


def test_a_missing_build_is_found_at_home(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="there is no such file"):
        check_distributed(plan_of(parameters={"build": str(tmp_path / "nothing")}))


def test_another_version_refuses() -> None:
    plan = plan_of()
    order = Order(session="s", software="0.0.1", plan=plan, attempts={}, builds={})
    for text in (order.model_dump_json(), '{"software": "0.0.1", "a field of": "another version"}'):
        parcel = worker._run(text, "tcp://w")
        assert parcel.ending == "refused"
        words = f"it has picolab {worker.software()} and the client 0.0.1; install the same version on both"
        assert words in parcel.sentence


@pytest.mark.usefixtures("scratch")
def test_a_build_that_went_while_its_order_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = hashlib.sha256(b"code").hexdigest()
    worker.store_chunk(sha256, 4, 0, b"code")
    builds = {"./new": SentBuild(sha256=sha256, size_bytes=4)}
    order = Order(session="s", software=worker.software(), plan=plan_of(), attempts={}, builds=builds)

    @contextmanager
    def cleaned(_is_stopped: object) -> Iterator[int]:
        (worker.builds_dir() / sha256).unlink()
        yield 0

    monkeypatch.setattr(worker, "_HOST_LOCK", SimpleNamespace(held=cleaned))
    parcel = worker._run(order.model_dump_json(), "tcp://w")
    assert (parcel.ending, parcel.missing) == ("needs_builds", [sha256])


def test_a_build_that_arrives_damaged_is_not_kept(scratch: Path) -> None:
    with pytest.raises(ValueError, match="arrived with another one"):
        worker.store_chunk("a" * 64, 4, 0, b"code")
    with pytest.raises(ValueError, match="more than may be sent"):
        worker.store_chunk("a" * 64, 4, 0, b"too long")
    assert not list((scratch / "state" / "received-builds").iterdir())


def another_version(*_: object, **__: object) -> None:
    raise ImportError("Mismatched versions found")


def test_a_worker_that_removes_its_copies_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, asked = threading.Event(), threading.Event()

    def run(*_: object, **__: object) -> None:
        goes_on.wait(5)
        asked.set()

    client = SimpleNamespace(run=run, close=lambda timeout: None, subscribe_topic=lambda *_: None)
    monkeypatch.setattr("distributed.Client", lambda *_, **__: client)
    with Cluster("tcp://127.0.0.1:1") as cluster:
        cluster.forget("tcp://a", "key")
        assert not asked.is_set()
        goes_on.set()
        assert asked.wait(5)


def test_the_package_and_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParameterError, match="tcp://HOST:PORT"):
        Cluster("nowhere")
    monkeypatch.setattr(clusters, "_CONNECT_S", 0.2)
    with pytest.raises(HostUnfit, match="no scheduler answers there"):
        Cluster("tcp://127.0.0.1:1")
    with pytest.raises(ParameterError, match="Dask has no certificates"):
        Cluster("tls://127.0.0.1:1")
    with monkeypatch.context() as patch, pytest.raises(HostUnfit, match="install the same version of distributed"):
        patch.setattr("distributed.Client", another_version)
        Cluster("tcp://127.0.0.1:1")
    real = builtins.__import__

    def missing(name: str, *rest: Any, **named: Any) -> Any:
        if name == "distributed":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ParameterError, match=r"install it with: pip install 'picolab\[distributed\]'"):
        Cluster("tcp://127.0.0.1:1")
