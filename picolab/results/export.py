"""Export of a campaign for other programs: CSV and Parquet."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from picolab.config.invalid_input import unknown_name
from picolab.errors import ParameterError, UnsafePath
from picolab.files.foreign import refuse_links
from picolab.files.set_aside import SET_ASIDE
from picolab.files.writing import not_written
from picolab.results.folders import locked
from picolab.results.load import read_campaign
from picolab.results.results_csv import write_results
from picolab.results.rows import record_row
from picolab.results.standing import read_standing
from picolab.text.foreign import csv_cell

FORMATS = ("csv", "parquet")
DEFAULT_FOLDER = "export"


def export_campaign(folder: Path, out_dir: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write the tidy frames of a campaign: `trials` (one row a trial) and `samples` (one row a sample).

    Only trials whose outcome is a result are in it; missing values are empty (CSV) or null (Parquet). Parquet holds
    texts as they came; in CSV what a spreadsheet would run as a formula has a quote before it.

    Returns:
        The files, each written whole.

    Raises:
        CampaignNotFound: no such folder.
        ParameterError: a format that does not exist, or a folder that cannot be made.
        UnsafePath: `export/` in the campaign is a link to another place.
        FileNotWritten: the file system is full or read-only.
    """
    if out_dir == folder / DEFAULT_FOLDER:
        refuse_links(folder, [DEFAULT_FOLDER])
    for name in formats:
        if name not in FORMATS:
            raise ParameterError(f"format: {unknown_name(name, list(FORMATS))}")
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ParameterError(f"{out_dir} is a file; name a folder") from None
    except OSError as error:
        raise ParameterError(
            f"{out_dir}: cannot be made ({error.strerror}); name a folder that you can write"
        ) from None
    data = read_campaign(folder)
    renew_results(folder)
    files = []
    for name in formats:
        for stem, frame in (("trials", data.trials), ("samples", data.samples)):
            target = out_dir / f"{stem}.{name}"
            _write(frame, target, name)
            files.append(target)
    return files


def _write(frame: pd.DataFrame, target: Path, kind: str) -> None:
    temporary = target.with_name(f".{target.name}.new")
    try:
        if kind == "csv":
            texts = [str(name) for name, kind in frame.dtypes.items() if kind == "string"]
            safe = frame.assign(**{name: frame[name].map(csv_cell, na_action="ignore") for name in texts})
            safe.to_csv(temporary, index=False)
        else:
            frame.to_parquet(temporary, index=False)
        temporary.replace(target)
    except OSError as error:
        raise not_written(target, error) from None
    finally:
        temporary.unlink(missing_ok=True)


def renew_results(folder: Path) -> None:
    """Rewrite `results.csv` from the results, unless the campaign is running (it does so itself) or is read-only."""
    with suppress(OSError, UnsafePath), locked(folder) as got:
        refuse_links(folder, [SET_ASIDE])
        if got:
            # Read under the lock: a trial may have ended since an earlier reading.
            write_results(folder, map(record_row, read_standing(folder).results.values()))
