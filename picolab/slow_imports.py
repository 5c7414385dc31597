"""Imports that are slow, made faster in the one place that knows how."""

import sys


def decline_slow_imports() -> None:
    """Keep jsonschema from importing `rfc3987_syntax`; call it before papermill, scrapbook or nbformat is imported.

    jsonschema imports that package, when it is installed, for the string formats `iri` and `iri-reference`. The
    import compiles a grammar and takes more than a second. No schema that picolab or the notebook format
    uses has such a string. `None` in `sys.modules` is Python's documented way to say that a module cannot be
    imported ("The import system" in Python's language reference). A trial saves more than two seconds.
    """
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
