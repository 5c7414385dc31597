"""Text from outside (a server's words, labels, file names, others' records), made safe at the sink that shows it.

Such text is data: it is stored as it came, and changed only where it is shown. `visible` is for people (terminals,
HTML, SVG; escape markup afterwards as the sink needs it), `markdown_line` for Markdown, `csv_cell` for files that a
spreadsheet may open.
"""

import re
import reprlib
from typing import Any

# Everything that a terminal obeys, XML forbids or UTF-8 cannot hold: C0 and C1 controls (tab and line feed stay), lone
# surrogates, non-characters, and the marks that turn the direction of what follows (trojansource.codes).
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff]"
)
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 3, 12, 12
_SHORT.maxstring = _SHORT.maxother = 100
_LONGEST_SHOWN = 200
_REFERENCE = re.compile(r"@|#(?=\d)|\bgh-(?=\d)", re.IGNORECASE)
_MARKDOWN = re.compile(r"[\\`*_{}<>#~$&]|\[(?=[ xX^])|(?<=\])[(\[:]|(?<=\bwww)\.|:(?=//)")
_FORMULA_BEGINS = ("=", "+", "-", "@", "\t", "\r")


def visible(text: str) -> str:
    r"""Return a text in which each character that is obeyed and not seen stands as an escape such as `\x1b`."""
    return _INVISIBLE.sub(lambda match: _escape(ord(match[0])), text)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def one_line(text: str) -> str:
    r"""Return `visible` text without line breaks and tabs, which stand as `\n` and `\t`."""
    return visible(text).replace("\n", r"\n").replace("\t", r"\t")


def markdown_line(text: str) -> str:
    """Return text that Markdown shows unchanged, in one line: no markup, link, mention, formula or end of a cell.

    A space of no width breaks each `@name`, `#1` and `GH-1`: forges resolve backslashes before they look for these.
    """
    line = " ".join(visible(text).split())
    escaped = _REFERENCE.sub(r"\g<0>&#8203;", _MARKDOWN.sub(r"\\\g<0>", line))
    # A pipe would end its cell; whether a backslash before it counts depends on the reader.
    return escaped.replace("|", "&#124;")


def csv_cell(text: str) -> str:
    """Return a text for a CSV cell: what a spreadsheet would run as a formula gets a quote before it.

    Source: OWASP, CSV injection.
    """
    safe = visible(text)
    return f"'{safe}" if safe.startswith(_FORMULA_BEGINS) else safe


def shown(value: Any) -> str:
    """Return a value as messages quote it: a `repr` of at most 200 characters."""
    text = _SHORT.repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
