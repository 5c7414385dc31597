"""The cache of what was read: the same frames, and never anything that is not there."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from campaign_factory import FakeTrial, make_record, quick_matrix, write_campaign

from picolab.files.writing import append_line
from picolab.record.outcomes import Outcome
from picolab.results import cache, load
from picolab.results.load import CampaignData, read_campaign
from picolab.results.standing import Standing, read_standing


@pytest.fixture
def campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A campaign with a fault, a trial that has not run and a damaged notebook; caches are made at once."""
    monkeypatch.setattr(cache, "FEWEST_TRIALS", 1)
    monkeypatch.setattr(cache, "SETTLED_S", 0.0)
    trials = [*quick_matrix()[:4], FakeTrial(outcome=Outcome.OOM_KILLED, ram_mb=64), FakeTrial(file_size="1M")]
    folder = write_campaign(
        tmp_path / "c", [*trials, FakeTrial(outcome=Outcome.INTERRUPTED, ram_mb=32)], [FakeTrial(ram_mb=16)]
    )
    next(folder.glob("trials/006-*.ipynb")).write_text("{")
    record = make_record(trials[0], 1, "c")
    (folder / "trials" / f"{record['identity']['trial_id']}.record.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The campaigns that were read from their files."""
    found: list[Path] = []

    def read(folder: Path, with_samples: bool) -> Standing:
        found.append(folder)
        return read_standing(folder, with_samples)

    monkeypatch.setattr(load, "read_standing", read)
    return found


def assert_same(one: CampaignData, other: CampaignData) -> None:
    for place in fields(CampaignData):
        a, b = getattr(one, place.name), getattr(other, place.name)
        if isinstance(a, pd.DataFrame):
            pd.testing.assert_frame_equal(a, b)
        else:
            assert (dict(a) if place.name == "records" else a) == (dict(b) if place.name == "records" else b)


def test_the_second_reading_is_the_same_and_reads_no_trial(campaign: Path, reads: list[Path]) -> None:
    cold, warm = read_campaign(campaign), read_campaign(campaign)

    assert reads == [campaign]
    assert len(warm.trials) == 5 and len(warm.samples) == 300 and len(warm.faults) == 1 and len(warm.problems) == 3
    assert list(warm.records) == list(cold.records)
    assert_same(cold, warm)


def test_samples_are_whole_whatever_was_done_to_the_frame_of_trials(campaign: Path) -> None:
    whole = read_campaign(campaign).samples
    shutil.rmtree(campaign / cache.CACHE_FOLDER)
    for data in (read_campaign(campaign), read_campaign(campaign)):
        data.trials["trial_id"] = "another"
        data.trials["case"] = "another"
        pd.testing.assert_frame_equal(data.samples, whole)


def first(folder: Path, kind: str = "ipynb") -> Path:
    return min((folder / "trials").glob(f"*.{kind}"))


def times_kept(folder: Path) -> None:
    """Other bytes with the size and the time of the old ones."""
    path = first(folder, "record.json")
    status, text = path.stat(), path.read_text()
    path.write_text(text.replace("all well", "ALL WELL"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)


def without_records(folder: Path) -> None:
    shutil.rmtree(folder / "trials")


CHANGES: dict[str, Callable[[Path], Any]] = {
    "other bytes, size and time kept": times_kept,
    "a record gone": lambda folder: first(folder, "record.json").unlink(),
    "a notebook gone": lambda folder: first(folder).unlink(),
    "all records gone": without_records,
    "a line more in the ledger": lambda folder: append_line(folder / "ledger.jsonl", "{"),
    "the plan gone": lambda folder: (folder / "plan.json").unlink(),
    "a fault gone": lambda folder: next((folder / "faults").iterdir()).unlink(),
    "results.csv there": lambda folder: (folder / "results.csv").write_text("trial_id\n"),
    "samples changed": lambda folder: first(folder).with_suffix(".samples.jsonl").write_text("{}"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_any_change_reads_it_again(campaign: Path, reads: list[Path], name: str) -> None:
    read_campaign(campaign)
    CHANGES[name](campaign)
    again = read_campaign(campaign)

    assert len(reads) == 2
    shutil.rmtree(campaign / cache.CACHE_FOLDER)
    assert_same(again, read_campaign(campaign))


def test_a_copied_or_moved_folder_is_read_again(campaign: Path, reads: list[Path]) -> None:
    read_campaign(campaign)
    copy = Path(shutil.copytree(campaign, campaign.with_name("copy")))
    read_campaign(copy)
    moved = campaign.rename(campaign.with_name("moved"))
    read_campaign(moved)

    assert reads == [campaign, copy, moved]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, flipped, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("part", [*cache.PARTS, "key.json"])
def test_a_damaged_cache_is_made_anew(
    campaign: Path, reads: list[Path], part: str, damage: Callable[[Path], Any]
) -> None:
    cold = read_campaign(campaign)
    damage(campaign / cache.CACHE_FOLDER / part)
    assert_same(cold, read_campaign(campaign))
    assert len(reads) == 2
    read_campaign(campaign)
    assert len(reads) == 2, "it was made anew"


def test_another_picolab_reads_it_again(campaign: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    read_campaign(campaign)
    monkeypatch.setattr(cache, "_own_code", lambda: "another")
    read_campaign(campaign)
    assert len(reads) == 2


def test_no_cache_of_what_may_still_change(campaign: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SETTLED_S", 3600.0)
    read_campaign(campaign)
    assert not (campaign / cache.CACHE_FOLDER).exists()
    monkeypatch.setattr(cache, "SETTLED_S", 0.0)
    monkeypatch.setattr(cache, "FEWEST_TRIALS", 6)
    read_campaign(campaign)
    assert not (campaign / cache.CACHE_FOLDER).exists()


def test_a_cache_is_never_written_through_a_link(campaign: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (campaign / cache.CACHE_FOLDER).symlink_to(elsewhere)
    read_campaign(campaign)
    assert list(elsewhere.iterdir()) == []


def test_a_folder_that_takes_no_cache_is_read(campaign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "write_atomically", full)
    assert len(read_campaign(campaign).trials) == 5
    assert not (campaign / cache.CACHE_FOLDER).exists()


def test_a_cache_that_cannot_be_written_takes_nothing_else_along(campaign: Path) -> None:
    place = campaign / cache.CACHE_FOLDER
    (place / cache.PARTS[0]).mkdir(parents=True)
    (place / "notes.txt").write_text("mine")
    cache.write_cache(campaign, "key", dict.fromkeys(cache.PARTS, b"x"))
    assert (place / "notes.txt").read_text() == "mine"
