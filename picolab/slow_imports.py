"""Imports that are slow, made faster in the one place that knows how."""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any


def decline_slow_imports() -> None:
    """Keep jsonschema from importing `rfc3987_syntax`; call it before papermill, scrapbook or nbformat is imported.

    jsonschema imports that package, when it is installed, for the string formats `iri` and `iri-reference`. The
    import compiles a grammar and takes more than a second. No schema that picolab or the notebook format
    uses has such a string. `None` in `sys.modules` is Python's documented way to say that a module cannot be
    imported ("The import system" in Python's language reference). A trial saves more than two seconds.
    """
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]


_OF_A_KERNEL = (
    "IPython.core.completerlib",
    "IPython.core.debugger",
    "IPython.core.oinspect",
    "IPython.extensions.storemagic",
    "faulthandler",
    "ipykernel.kernelapp",
    "ipykernel.zmqshell",
    "pdb",
    "sqlite3",
    "tornado.platform.asyncio",
)
"""Modules that ipykernel and IPython import late, when a kernel starts."""


class _Later(ModuleType):
    """Stands for a module in one that refers to it, and imports it when that one uses it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def _instead_of(name: str, stand_in: ModuleType | None) -> Iterator[None]:
    """Let modules that are imported meanwhile find a stand-in, or nothing, unless the real module is there already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = stand_in  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


def import_papermill() -> Any:
    """Import papermill without pyarrow, which it needs for notebooks in HDFS alone, and return it."""
    decline_slow_imports()
    with _instead_of("pyarrow", None):
        import papermill

    return papermill


def import_kernel() -> None:
    """Import what a kernel imports when it starts, but not its debugger: nobody can reach that of a trial."""
    with _instead_of("debugpy", None):
        importlib.import_module("ipykernel.debugger")
    for name in _OF_A_KERNEL:
        importlib.import_module(name)


def import_scrapbook() -> Any:
    """Import scrapbook without pandas, which it imports when it makes a frame of a notebook, and return it.

    With `import_papermill` this saves a third of the imports of a trial: 0.35 s of a processor.
    """
    decline_slow_imports()
    with _instead_of("pandas", _Later("pandas")):
        import scrapbook

    return scrapbook
