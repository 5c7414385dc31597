"""`starts.jsonl`: for each start of a campaign, how long it waited for an idle host and whether it found one."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from picolab.errors import UnreadableFile
from picolab.files.foreign import parse_json, read_text, unfit_value
from picolab.files.writing import append_line
from picolab.host.idleness import IdleResult

STARTS_FILE = "starts.jsonl"
_LARGEST_BYTES = 4 << 20
_LONGEST_LINE = 1000


def note_start(folder: Path, found: IdleResult) -> None:
    """Append what the start that happens now has found.

    Raises:
        FileNotWritten: the file could not be written.
    """
    line = {"at": datetime.now(UTC).isoformat(timespec="seconds"), **asdict(found)}
    append_line(folder / STARTS_FILE, json.dumps(line))


def read_starts(folder: Path) -> tuple[list[IdleResult], list[str]]:
    """Return what each start of a campaign found, and a sentence for what cannot be read of it."""
    try:
        text = read_text(folder / STARTS_FILE, _LARGEST_BYTES)
    except FileNotFoundError:
        return [], []
    except UnreadableFile as error:
        return [], [str(error)]
    found, damaged = [], 0
    for line in text.split("\n"):
        if not line.strip():
            continue
        try:
            start = parse_json(line)
            start.pop("at")
            result = IdleResult(**start)
            # Formatting the line here finds values that could not be shown later.
            if unfit_value(start) is None and len(result.line) < _LONGEST_LINE:
                found.append(result)
            else:
                damaged += 1
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError):
            damaged += 1
    return found, [f"{damaged} of its lines are damaged: ignored"] if damaged else []


def busy_starts(folder: Path) -> tuple[str, ...]:
    """Return a sentence for each start of a campaign that found no idle host; damaged lines are left out."""
    return tuple(result.line for result in read_starts(folder)[0] if not result.idle)
