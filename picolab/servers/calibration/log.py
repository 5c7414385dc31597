"""The calibration server's log."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import NoReturn


def log(message: str) -> None:
    """Write one line of the application log. As with Go's, a disk that is too full for it is no reason to fail."""
    with suppress(OSError):
        sys.stderr.write(f"{time.strftime('%Y/%m/%d %H:%M:%S')} {message}\n")
        sys.stderr.flush()


def die(message: str) -> NoReturn:
    """Log why the server cannot continue, and exit with code 1 at once."""
    log(message)
    os._exit(1)
