"""The compiled schema, which takes the place of jsonschema where many records are read: it refuses no less."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from campaign_factory import CALIBRATION_CAVEAT, FakeTrial, make_record

from picolab.errors import RecordError
from picolab.record import validation
from picolab.record.outcomes import Outcome
from picolab.record.schema import SCHEMA_PATH

SCHEMA = json.loads(SCHEMA_PATH.read_text())
ODD: list[Any] = [None, True, -1, 0.5, 1e300, "", "x", "12", [], [None], {}, {"odd": 1}]


def places(part: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for name, value in items:
        yield (*way, name)
        yield from places(value, (*way, name))


def changed(record: dict[str, Any], way: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
    """Yield records with another value, or none, at one place."""
    for value in (*ODD, ...):
        other = copy.deepcopy(record)
        part: Any = other
        for name in way[:-1]:
            part = part[name]
        if value is ...:
            del part[way[-1]]
        else:
            part[way[-1]] = value
        yield other


def test_the_compiled_schema_accepts_nothing_that_the_schema_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "_FEW", 0)
    slow = jsonschema.Draft202012Validator(SCHEMA)
    record = make_record(FakeTrial(direction="both", caveats=[CALIBRATION_CAVEAT]), 1)
    counts = {True: 0, False: 0}
    # Each way of a list once: its first entry stands for the others.
    for way in [way for way in places(record) if not any(isinstance(name, int) and name > 0 for name in way)]:
        for other in changed(record, way):
            accepted = validation._has_shape(other)
            counts[accepted] += 1
            if accepted:
                assert slow.is_valid(other), way
    assert counts[True] > 200 and counts[False] > 1000


def test_it_accepts_what_is_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "_FEW", 0)
    for trial in (FakeTrial(direction="both"), FakeTrial(machine="vagrant"), FakeTrial(outcome=Outcome.OOM_KILLED)):
        assert validation._has_shape(make_record(trial, 1))


def test_no_reference_has_a_condition_beside_it() -> None:
    """The compiled schema follows draft 7, in which what stands beside a `$ref` does not count."""
    words = {"$ref", "description", "default", "title"}

    def beside(part: Any) -> Iterator[set[str]]:
        if isinstance(part, dict):
            if "$ref" in part:
                yield set(part) - words
            for value in part.values():
                yield from beside(value)
        elif isinstance(part, list):
            for value in part:
                yield from beside(value)

    assert set().union(*beside(SCHEMA)) == set()


def test_the_sentence_about_a_wrong_record_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    record = make_record(FakeTrial(), 1) | {"outcome": "splendid"}
    sentences = []
    for few in (10**9, 0):
        monkeypatch.setattr(validation, "_FEW", few)
        with pytest.raises(RecordError) as caught:
            validation.validate_record(record, "here")
        sentences.append(str(caught.value))
    assert sentences[0] == sentences[1] and "splendid" in sentences[0]
