"""What tests of servers share."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def program(tmp_path: Path) -> Callable[[bytes], Path]:
    """Write a file that may be executed, and return its path; the next one replaces it."""

    def make(content: bytes) -> Path:
        path = tmp_path / "program"
        path.write_bytes(content)
        path.chmod(0o755)
        return path

    return make
