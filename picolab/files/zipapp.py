"""Some of picolab's modules as one executable file, for a machine that has Python and nothing else."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_FIRST_LINE = b"#!/usr/bin/env python3\n"
_EARLIEST = (1980, 1, 1, 0, 0, 0)
_UNIX = 3


def zipapp(entry: str, modules: Sequence[str]) -> bytes:
    """Return an executable zip archive that runs `main()` of a module.

    The same sources give the same bytes. The archive is not compressed: so importing needs no zlib, and less memory.

    Args:
        entry: dotted name of the module with `main()`, such as `picolab.agent.guest`.
        modules: dotted names of all modules that it needs, itself included. Their packages are empty in the archive.
    """
    files = {f"{name.replace('.', '/')}.py": _source(name) for name in modules}
    for name in modules:
        words = name.split(".")[:-1]
        files |= {f"{'/'.join(words[:count])}/__init__.py": b"" for count in range(1, len(words) + 1)}
    files["__main__.py"] = f"from {entry} import main\n\nmain()\n".encode()
    archive = io.BytesIO()
    archive.write(_FIRST_LINE)
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_STORED) as content:
        for name in sorted(files):
            member = zipfile.ZipInfo(name, _EARLIEST)
            member.create_system, member.external_attr = _UNIX, 0o644 << 16
            content.writestr(member, files[name])
    return archive.getvalue()


def _source(module: str) -> bytes:
    return _PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py").read_bytes()
