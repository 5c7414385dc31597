"""The JavaScript that draws the charts of a page: Vega and its helpers as one script, bundled once and kept.

Bundling takes 1.7 s of a processor and gives the same script for every page.
"""

import hashlib
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from picolab.errors import PicolabError
from picolab.files.foreign import read_text
from picolab.files.writing import write_atomically

_ENTRY = "window.vegaEmbed = vegaEmbed;"
_LARGEST_BYTES = 16 << 20


def script_bundle() -> str:
    """Return the script, from the user's cache folder when it is there and whole.

    A cache that cannot be read or written is no trouble: the script is bundled anew.
    """
    kept = _kept_file(metadata.version("vl-convert-python"))
    with suppress(OSError, PicolabError):
        head, _, script = read_text(kept, _LARGEST_BYTES).partition("\n")
        if head == _head(script):
            return script
    import vl_convert

    script = str(vl_convert.javascript_bundle(_ENTRY))
    with suppress(OSError, PicolabError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, f"{_head(script)}\n{script}")
    return script


def _kept_file(version: str) -> Path:
    import platformdirs

    entry = hashlib.sha256(_ENTRY.encode()).hexdigest()[:8]
    return platformdirs.user_cache_path("picolab") / f"charts-{version}-{entry}.js"


def _head(script: str) -> str:
    """Return the first line of the kept file: it tells a file that was cut off or edited."""
    return f"// sha256 {hashlib.sha256(script.encode()).hexdigest()}"
