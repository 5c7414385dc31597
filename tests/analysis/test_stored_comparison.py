"""A campaign and its verdict, stored before the package was split into rooms, are read and compared as they were."""

import json
import tarfile
from pathlib import Path
from typing import Any

from picolab.analysis.comparison.compare import compare
from picolab.report.comparison_json import as_json
from picolab.results.load import read_campaign

RECORDS = Path(__file__).parents[1] / "records"
SENTENCES = {"reason", "message", "advice", "independence", "incomplete", "not_comparable_reason", "randomised"}
"""Texts for people, which may be put in better words. All other values are for programs, and stay."""


def without_sentences(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: None if name in SENTENCES else without_sentences(part) for name, part in value.items()}
    return [without_sentences(part) for part in value] if isinstance(value, list) else value


def test_a_stored_campaign_has_the_same_verdict(tmp_path: Path) -> None:
    with tarfile.open(RECORDS / "compared-campaign-before-rooms.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    stored = json.loads((RECORDS / "verdict-before-rooms.json").read_text())
    now = json.loads(json.dumps(as_json(compare(read_campaign(tmp_path / "stored"))), allow_nan=False))

    assert list(now) == list(stored)
    assert without_sentences(now) == without_sentences(stored)
    assert len(stored["metrics"]) == 16 and {row["verdict"] for row in stored["metrics"]} >= {"slower", "unstable"}
