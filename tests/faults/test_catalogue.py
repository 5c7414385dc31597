"""The catalogue itself: every fault has a test that exists, and docs/faults.md is in step with it."""

from __future__ import annotations

from picolab.record.outcomes import Outcome

from . import catalogue


def test_every_fault_names_an_outcome_and_a_test_that_exists() -> None:
    for one in catalogue.load():
        assert one.outcome in {*(word.value for word in Outcome), catalogue.REFUSED}, one
        assert one.see and one.do, one
        file, _, name = one.test.partition("::")
        assert name in catalogue.functions(catalogue.TESTS / file), one


def test_every_test_of_a_fault_is_in_the_catalogue() -> None:
    tests = {one.test for one in catalogue.load()}
    for path in sorted((catalogue.TESTS / "faults").glob("test_*.py")):
        if path.stem != "test_catalogue":
            names = {name for name in catalogue.functions(path) if name.startswith("test_")}
            assert names <= {test.partition("::")[2] for test in tests if test.startswith(f"faults/{path.name}::")}


def test_there_are_at_least_sixty() -> None:
    assert len(catalogue.load()) >= 60


def test_the_document_is_what_the_catalogue_says() -> None:
    written = catalogue.DOCUMENT.read_text()
    assert written == catalogue.document(catalogue.load()), f"regenerate docs/faults.md: {catalogue.COMMAND}"
