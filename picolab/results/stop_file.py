"""`stopped.json`: the block after which a rule ended a campaign (`repeats: auto`, or a budget), and why."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from picolab.config.sizes import MIB
from picolab.errors import UnreadableFile
from picolab.files.foreign import read_json
from picolab.files.writing import write_atomically
from picolab.text.foreign import one_line

STOPPED_FILE = "stopped.json"
_LARGEST_BYTES = MIB
_LONGEST_REASON = 500


def stopped_after(folder: Path) -> int | None:
    """Return the block after which the rule ended a campaign; None when it has not ended it."""
    with suppress(FileNotFoundError, UnreadableFile):
        noted = read_json(folder / STOPPED_FILE, _LARGEST_BYTES)
        block = noted.get("after_block") if isinstance(noted, dict) else None
        if isinstance(block, int) and not isinstance(block, bool) and block >= 1:
            return block
    return None


def why_stopped(folder: Path) -> str:
    """Return why the rule ended a campaign, a sentence without a full stop; empty when it has not, or none is known."""
    with suppress(FileNotFoundError, UnreadableFile):
        noted = read_json(folder / STOPPED_FILE, _LARGEST_BYTES)
        reason = noted.get("reason") if isinstance(noted, dict) else None
        if isinstance(reason, str):
            return one_line(reason[:_LONGEST_REASON])
    return ""


def note_stop(folder: Path, block: int, reason: str, watched: Sequence[Mapping[str, Any]] = ()) -> None:
    """Write that the rule ended a campaign.

    Args:
        block: the last one that counts.
        reason: one sentence without a full stop.
        watched: the intervals that the rule watched, as objects of JSON.

    Raises:
        FileNotWritten: the file could not be written.
    """
    noted = {"after_block": block, "reason": reason, "watched": list(watched)}
    write_atomically(folder / STOPPED_FILE, json.dumps(noted, indent=1) + "\n")
