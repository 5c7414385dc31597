"""HTML for a notebook: text from outside is escaped, once, here."""

import html
import re
from typing import Any

from picolab.text.foreign import visible

_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:[KMG]iB(?:/s)?|s|min|h|%)(?!\w))")


class Html:
    """A piece of HTML that a notebook shows, and the text that is shown where there is no HTML."""

    def __init__(self, markup: str, text: str = "") -> None:
        self.markup = markup
        self.text = visible(text)

    def __repr__(self) -> str:
        return self.text or "(shown as HTML)"

    def _repr_html_(self) -> str:
        return self.markup


def escape(value: Any) -> str:
    """Return text that is safe in an element and in a quoted attribute, and of which every character is seen."""
    return html.escape(visible(str(value)), quote=True)


def unbroken(value: Any) -> str:
    """Return text as `escape` does, in which no line ends between a number and its unit."""
    return _BEFORE_UNIT.sub("&nbsp;", escape(value))


def bar(share: float, colour: str) -> str:
    """Return a horizontal bar whose filled part is `share` (0 to 1) of it."""
    filled = 100 * min(1.0, max(0.0, share))
    return (
        '<div style="background:rgba(128,128,128,.25);height:.6em;border-radius:.3em;overflow:hidden">'
        f'<div style="background:{colour};width:{filled:.1f}%;height:100%"></div></div>'
    )
