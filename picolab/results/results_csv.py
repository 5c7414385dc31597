"""`results.csv`: one row a result. Rows are appended while a campaign runs; a damaged file is written anew."""

import csv
import io
import os
from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from picolab.errors import UnreadableFile
from picolab.files.foreign import read_text
from picolab.files.set_aside import set_aside
from picolab.files.writing import not_written, write_atomically
from picolab.results.rows import csv_row, row_columns
from picolab.results.standing import LARGEST_RESULTS_BYTES, RESULTS_FILE


def write_results(folder: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Make the file hold these rows and no others, in the order of the plan.

    A file that holds something else is set aside: it may be all that is left of a trial. A file of an older version
    holds the same rows with fewer columns at the end, and is replaced.
    """
    ordered = sorted(rows, key=lambda row: (row["position"] or 0, row["trial_id"]))
    path, text = folder / RESULTS_FILE, _text(ordered, heading=True)
    try:
        old: str | None = read_text(path, LARGEST_RESULTS_BYTES)
    except FileNotFoundError:
        old = None
        if not ordered:
            return
    except UnreadableFile:
        old = ""
    if old == text and not path.is_symlink():
        return
    if old is not None and (path.is_symlink() or not old or not _contains(text, old)):
        set_aside(folder, path)
    write_atomically(path, text)


def append_result(folder: Path, row: dict[str, Any]) -> None:
    """Append a row. The next `write_results` fixes a row that a crash has torn.

    Raises:
        FileNotWritten: it could not be written.
    """
    path = folder / RESULTS_FILE
    try:
        with path.open("a", encoding="utf-8", newline="") as file:
            file.write(_text([row], heading=file.tell() == 0))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise not_written(path, error) from None


def _contains(text: str, old: str) -> bool:
    """Report whether each line of the old text is a line of the new one, or begins one that has further columns."""
    lines = sorted(set(text.splitlines()))

    def is_kept(line: str, beginning: str) -> bool:
        first = bisect_left(lines, beginning)
        return line in known or (first < len(lines) and lines[first].startswith(beginning))

    known = set(lines)
    return all(is_kept(line, f"{line},") for line in set(old.splitlines()))


def _text(rows: Iterable[dict[str, Any]], heading: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(row_columns()), lineterminator="\n")
    if heading:
        writer.writeheader()
    for row in rows:
        writer.writerow(csv_row(row))
    return text.getvalue()
