"""Numbers and lists in words."""

import pytest

from picolab.text.wording import change, change_and_interval, counted, duration, listed, listed_few, moment, percent


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (1.048, "+4.8 %"),
        (0.952, "−4.8 %"),
        (1.0001, "0.0 %"),
        (0.99999, "0.0 %"),
        (1.9995, "+100 %"),
        (3.4, "+240 %"),
        (13.0, "+1,200 %"),
        (0.01, "−99.0 %"),
        (None, "–"),
    ],
)
def test_a_change_has_its_sign(ratio: float | None, words: str) -> None:
    assert change(ratio) == words


def test_a_change_has_its_interval() -> None:
    assert change_and_interval(1.052, 1.039, 1.066) == "+5.2 % [+3.9, +6.6]"
    assert change_and_interval(0.9999, 0.5, 2.5) == "0.0 % [−50.0, +150]"
    assert change_and_interval(0.9, None, None) == "−10.0 %"
    assert change_and_interval(None, None, None) == "–"


def test_names_are_listed_as_in_a_sentence() -> None:
    assert [listed("abc"[:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
    assert listed_few("abcdef") == "a, b, c, d, e and f"
    assert listed_few("abcdefgh") == "a, b, c, d, e, f and 2 more"


def test_numbers_have_their_unit() -> None:
    assert (counted(1, "trial"), counted(0, "trial")) == ("1 trial", "0 trials")
    assert (percent(0.05), percent(0.125), percent(0.125, 0)) == ("5 %", "12.5 %", "12 %")
    assert moment("2026-01-31T10:00:05Z") == "2026-01-31 10:00 UTC"
    assert moment(None) == "at an unknown time"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")]
)
def test_a_duration_is_in_whole_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words
