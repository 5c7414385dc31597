"""Text from outside is shown, never obeyed."""

import xml.etree.ElementTree as ElementTree

import pytest

from picolab.text.foreign import csv_cell, one_line, visible
from picolab.text.markup import unbroken


@pytest.mark.parametrize(
    "code", [*range(0x20), 0x7F, 0x85, 0x9B, 0x202E, 0x2066, 0xD800, 0xDFFF, 0xFEFF, 0xFFFE, 0xFFFF]
)
def test_each_control_or_forbidden_character_is_escaped(code: int) -> None:
    text = visible(f"a{chr(code)}b")
    if chr(code) in "\t\n":
        assert text == f"a{chr(code)}b"
        return
    assert text.startswith("a\\") and text.endswith("b") and text.isprintable()
    ElementTree.fromstring(f"<p>{text}</p>".encode())


def test_ordinary_text_of_any_language_stays() -> None:
    text = "Größe: 100 MiB — 日本語 🙂 [store.db] <b>"
    assert visible(text) == text
    assert one_line("two\nlines") == r"two\nlines"


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_begins_a_formula(begin: str) -> None:
    assert not csv_cell(f"{begin}cmd|' /C calc'!A0").startswith(("=", "+", "-", "@", "\t", "\r"))


def test_no_line_ends_between_a_number_and_its_unit() -> None:
    shown = unbroken("54.4 MiB (90 %: 46 MiB to 64 MiB) <b> in 2 s, 3 sizes and 20 min")
    assert shown == (
        "54.4&nbsp;MiB (90&nbsp;%: 46&nbsp;MiB to 64&nbsp;MiB) &lt;b&gt; in 2&nbsp;s, 3 sizes and 20&nbsp;min"
    )
