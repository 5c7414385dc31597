"""Imports that are slow, made faster in the one place that knows how.

jsonschema imports `rfc3987_syntax`, when that is installed, for the string formats `iri` and `iri-reference`. Its
import compiles a grammar and takes more than a second. No schema that picolab or the notebook format
uses has such a string, so the import is declined: `None` in `sys.modules` is Python's documented way to say
that a module cannot be imported. papermill, scrapbook and nbformat import jsonschema: import this module first,
and a trial saves about two seconds.
"""

import sys

sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

import jsonschema  # noqa: E402

__all__ = ["jsonschema"]
