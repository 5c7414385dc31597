"""Export of a history for Apache Otava: a CSV file and a test in `otava.yaml` for each series and metric.

A file has one metric, because Otava takes no empty cell. Source of the format: docs/CSV.md of Apache Otava 0.8.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from picolab.errors import ParameterError
from picolab.files.foreign import refuse_links
from picolab.files.writing import not_written, write_atomically
from picolab.history.series import Series
from picolab.record.metric import Metric
from picolab.text.foreign import csv_cell

CONFIG_FILE, TESTS_FOLDER = "otava.yaml", "tests"
_ELSEWHERE = "or name another folder by --output"
ATTRIBUTES = ("build", "sha256", "campaign", "trials")
_OURS = re.compile(r"[A-Za-z0-9._-]{0,80}-[0-9a-f]{6,12}-[0-9a-f]{6,12}\.[a-z0-9_]+\.csv")
"""Files of an export; those of earlier versions have the first six digits of host and case."""


def export_otava(series: Sequence[Series], metrics: Sequence[Metric], folder: Path) -> list[Path]:
    """Write the points of each series, in order of time, and the configuration that reads them.

    CSV files of an earlier export that the configuration no longer names are removed.

    Returns:
        The configuration, then the CSV files, each written whole.

    Raises:
        ParameterError: the folder is a file.
        UnsafePath: a link in the folder would lead out of it.
        FileNotWritten: the file system is full or read-only.
    """
    import yaml

    if folder.exists() and not folder.is_dir():
        raise ParameterError(f"{folder} is a file; name a folder")
    if folder.is_dir():
        refuse_links(folder, [CONFIG_FILE, TESTS_FOLDER])
    try:
        (folder / TESTS_FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_written(folder, error, _ELSEWHERE) from None
    tests: dict[str, object] = {}
    files = []
    for one in series:
        for metric in metrics:
            if not one.of(metric):
                continue
            name = _name(one, metric)
            path = folder / TESTS_FOLDER / f"{name}.csv"
            write_atomically(path, _table(one, metric), elsewhere=_ELSEWHERE)
            files.append(path)
            tests[name] = {
                "type": "csv",
                "file": f"{TESTS_FOLDER}/{name}.csv",
                "time_column": "time",
                "attributes": list(ATTRIBUTES),
                "metrics": {metric.name: {"direction": 1 if metric.higher_is_better else -1, "scale": 1}},
                "csv_options": {"delimiter": ",", "quote_char": '"'},
            }
    config = folder / CONFIG_FILE
    write_atomically(config, yaml.safe_dump({"tests": tests}, sort_keys=False), elsewhere=_ELSEWHERE)
    kept = {path.name for path in files}
    for old in (folder / TESTS_FOLDER).iterdir():
        if _OURS.fullmatch(old.name) and old.name not in kept:
            with suppress(OSError):
                old.unlink()
    return [config, *files]


def _name(series: Series, metric: Metric) -> str:
    words = re.sub(r"[^A-Za-z0-9._-]+", "-", series.case).strip("-")[:80]
    return f"{words}-{series.host}-{series.key}.{metric.name}"


def _table(series: Series, metric: Metric) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["time", *ATTRIBUTES, metric.name])
    for point in sorted(series.of(metric), key=lambda point: point.started):
        words = [csv_cell(word) for word in (point.build, point.sha256, point.campaign)]
        value = metric.in_unit(point.values[metric.name])
        writer.writerow([f"{point.started:%Y-%m-%d %H:%M:%S +0000}", *words, point.counts[metric.name], value])
    return text.getvalue()
