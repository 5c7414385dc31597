"""A line on a terminal that is rewritten in place."""

import sys

from picolab.text.foreign import one_line


def rewrite_line(text: str) -> None:
    """Replace the current line of stderr with a text; an empty one clears it. Nothing happens without a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{one_line(text)}")
        sys.stderr.flush()
