"""The files of a trial, read with tolerance: scraps of the executed notebook, record, samples.

The wire format is scrapbook's (github.com/nteract/scrapbook): a cell output whose data has the mime type
`application/scrapbook.scrap.<encoder>+json` and the payload `{"name", "data", "encoder", "version"}`.
scrapbook's own reader gives up on the first notebook that it cannot read; this one reports it and continues.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from picolab.config.sizes import MIB
from picolab.errors import PicolabError, ProbeError, RecordError, UnreadableFile
from picolab.files.foreign import parse_json, read_json, unfit_value
from picolab.record.record import RECORD_SCRAP, Record
from picolab.record.samples import read_samples, samples_scrap
from picolab.record.validation import validate_record
from picolab.results.rows import record_row

if TYPE_CHECKING:  # numpy is slow to import, and a trial that only reads a record does not need it.
    import numpy as np
    from numpy.typing import NDArray

LARGEST_NOTEBOOK_BYTES = 32 * MIB
LARGEST_RECORD_BYTES = 8 * MIB
LARGEST_SAMPLES_BYTES = 128 * MIB
"""More than seven hours of samples, for reading what lies about; a trial reads its own file whole."""
_SCRAP_MIME_PREFIX = "application/scrapbook.scrap."


def read_scraps(path: Path) -> dict[str, Any]:
    """Return the scraps of an executed notebook by name; of two with one name the last wins.

    Raises:
        RecordError: the file cannot be read or is no notebook.
    """
    try:
        notebook = read_json(path, LARGEST_NOTEBOOK_BYTES)
    except FileNotFoundError:
        raise RecordError(f"{path}: is not there") from None
    except UnreadableFile as error:
        what = str(error).removeprefix(f"{path}: ")
        raise RecordError(
            f"{path}: {what if what.startswith('cannot') else f'is not a notebook: the file {what}'}"
        ) from None
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list):
        raise RecordError(f"{path}: is not a notebook: it has no list of cells")
    scraps: dict[str, Any] = {}
    for payload in (payload for cell in cells for payload in _payloads(cell)):
        if isinstance(payload, dict) and isinstance(payload.get("name"), str) and "data" in payload:
            scraps[payload["name"]] = _decode(payload["data"], payload.get("encoder"))
    return scraps


def _payloads(cell: Any) -> list[Any]:
    outputs = cell.get("outputs") if isinstance(cell, dict) else None
    if not isinstance(outputs, list):
        return []
    bundles = [output.get("data") for output in outputs if isinstance(output, dict)]
    return [
        payload
        for bundle in bundles
        if isinstance(bundle, dict)
        for mime, payload in bundle.items()
        if mime.startswith(_SCRAP_MIME_PREFIX)
    ]


def _decode(data: Any, encoder: Any) -> Any:
    if encoder == "json" and isinstance(data, str):
        # scrapbook parses a string glued as JSON once more, and keeps it as it is when it is not JSON.
        try:
            return parse_json(data)
        except (ValueError, RecursionError, MemoryError):
            return data
    return data


def read_record(path: Path) -> Record:
    """Return the valid record of a trial's executed notebook.

    Raises:
        RecordError: the notebook cannot be read, has no record, or the record is not valid.
    """
    return record_of(read_scraps(path), path)


def record_of(scraps: dict[str, Any], path: Path) -> Record:
    """Return the valid record among the scraps of a notebook.

    Raises:
        RecordError: there is none, or it is not valid.
    """
    return checked_row(record_data(scraps, path), path)[0]


def record_data(scraps: dict[str, Any], path: Path) -> Any:
    """Return the parsed JSON of the record among the scraps of a notebook, which may not be valid.

    Raises:
        RecordError: there is none.
    """
    if RECORD_SCRAP not in scraps:
        raise RecordError(f"{path}: holds no record: the trial ended before its collect stage")
    return scraps[RECORD_SCRAP]


def checked_row(data: Any, path: Path) -> tuple[Record, dict[str, Any]]:
    """Return parsed JSON as a valid record, and its row, whose values every column and file can hold.

    Raises:
        RecordError: it is none.
    """
    unfit = unfit_value(data)
    if unfit is not None:
        raise RecordError(f"{path}: the record is not valid: {unfit}")
    try:
        record = validate_record(data, str(path))
        row = record_row(record)
        unfit = unfit_value(row)
    except RecordError:
        raise
    except (ValueError, TypeError, ArithmeticError, LookupError, RecursionError, PicolabError) as error:
        raise RecordError(f"{path}: the record is not valid: {error}") from None
    if unfit is not None:
        raise RecordError(f"{path}: the record is not valid: {unfit}")
    return record, row


def side_data(path: Path) -> Any:
    """Return the parsed JSON of a file that should hold a record.

    Raises:
        FileNotFoundError: there is none.
        UnreadableFile: there is no JSON in it; one sentence.
    """
    return read_json(path, LARGEST_RECORD_BYTES)


def read_side_file(path: Path) -> Record:
    """Return the valid record in a file that a trial wrote itself.

    Raises:
        FileNotFoundError: there is none.
        UnreadableFile, RecordError: there is no valid record in it; one sentence.
    """
    return checked_row(side_data(path), path)[0]


def samples_of(path: Path, record: Record, most_bytes: int = LARGEST_SAMPLES_BYTES) -> Any:
    """Return the samples scrap made anew from a trial's side file, or None when there is none that can be used."""
    first = record.upload.first_byte_monotonic_s if record.upload else None
    try:
        samples = read_samples(path, most_bytes)
        zero_s = first if first is not None else float((samples.rows[0][0] if samples.rows else 0.0) or 0.0)
        return samples_scrap(samples, record.identity.trial_id, zero_s)
    except (ProbeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError):
        # Whatever a file may hold that is not what the probe writes.
        return None


def sample_columns(scrap: Any) -> tuple[dict[str, NDArray[np.float64]], str | None]:
    """Return the columns of a samples scrap, NaN where there is no value, and a sentence about what is wrong with it.

    The columns of a trial are parts of one array.
    """
    import numpy as np

    if scrap is None:
        return {}, "holds no samples: memory over time cannot be shown for this trial"
    columns = scrap.get("columns") if isinstance(scrap, dict) else None
    if not isinstance(columns, dict) or not all(isinstance(values, list) for values in columns.values()):
        return {}, "its samples are damaged: there are no columns"
    # All at once: a trial has 20 lists, most of them short. Half of them hold None alone where a probe could not look.
    held = {name: values for name, values in columns.items() if values.count(None) < len(values)}
    values = list(itertools.chain.from_iterable(held.values()))
    kinds = set(map(type, values))
    packed = _packed(values) if kinds <= _NUMBERS else None
    if packed is None or not all(map(str.isascii, columns)):
        # The slow way, for its words.
        unfit = unfit_value(columns)
        if unfit is not None:
            return {}, f"its samples are damaged: {unfit}"
    if len({len(values) for values in columns.values()}) > 1 or "t_s" not in columns:
        return {}, "its samples are damaged: the columns have different lengths or no t_s"
    if not kinds <= _NUMBERS:
        return {}, "its samples are damaged: a value is no number"
    count = len(columns["t_s"])
    block = np.array(values, dtype=np.float64) if packed is None else packed
    shown = dict.fromkeys(columns, np.full(count, np.nan))
    shown |= dict(zip(held, block.reshape(len(held), count), strict=True))
    return shown, None if columns["t_s"] else "holds no samples: the memory probe delivered none"


_NUMBERS = {int, float, NoneType}
_LARGEST = float(1 << 53)


def _packed(values: list[Any]) -> NDArray[np.float64] | None:
    """Return numbers and None as an array; None when one of them is not finite, or large."""
    import numpy as np

    numbers = (math.nan if value is None else value for value in values) if None in values else values
    try:
        packed = np.fromiter(numbers, dtype=np.float64, count=len(values))
    except OverflowError:
        return None
    # NaN stands for None alone, and no comparison with it is true.
    plain = int(np.count_nonzero(np.abs(packed) < _LARGEST)) + values.count(None) == len(values)
    return packed if plain else None
