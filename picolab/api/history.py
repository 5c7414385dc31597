"""The history as pandas frames and charts: `pl.open_history()`."""

from collections.abc import Sequence

import pandas as pd

from picolab.charts import history as charts
from picolab.charts.figure import Figure
from picolab.history.changes import changes
from picolab.history.database import Database
from picolab.history.series import Series, chosen_metrics, read_series
from picolab.history.store import open_store
from picolab.record.metric import Metric
from picolab.report.campaign_page import figure
from picolab.text.markup import Html

_POINT_COLUMNS = ("host", "case", "started", "build", "sha256", "campaign", "trials", "ok")
_CHANGE_COLUMNS = ("metric", "host", "case", "started", "before", "after", "ratio", "verdict", "not_the_build")


class HistoryResults:
    """All campaigns of a site. Made by `pl.open_history()`.

    A series is one case on one host. Hosts, kernels and cases are never pooled.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        """Runs queries of DuckDB: `.rows("SELECT ... FROM trials")`."""

    def __repr__(self) -> str:
        return f"<history in {self.database.store.place}>"

    def _series(self, names: Sequence[str]) -> tuple[list[Metric], list[Series]]:
        metrics = chosen_metrics(names)
        return metrics, read_series(self.database, metrics)

    def points(self, *metrics: str) -> pd.DataFrame:
        """Return a row for each build of each campaign in each series, with a column for each metric.

        Bytes are in MiB. `started` is UTC.

        Args:
            metrics: columns of docs/record.md, or `floor_bytes`; default: the usual ones.

        Raises:
            ParameterError: there is no such metric.
        """
        chosen, found = self._series(metrics)
        rows = [
            {
                "host": series.host_words,
                "case": series.case,
                **{name: getattr(point, name) for name in _POINT_COLUMNS[2:]},
                **{metric.name: metric.in_unit(point.values.get(metric.name)) for metric in chosen},
            }
            for series in found
            for point in series.points
        ]
        return pd.DataFrame(rows, columns=[*_POINT_COLUMNS, *(metric.name for metric in chosen)])

    def changes(self, *metrics: str) -> pd.DataFrame:
        """Return a row for each change point; `not_the_build` says why the build is not the reason, else it is empty.

        Args:
            metrics: as in `points`.

        Raises:
            ParameterError: there is no such metric.
        """
        chosen, found = self._series(metrics)
        rows = [
            {
                "metric": metric.name,
                "host": series.host_words,
                "case": series.case,
                "started": change.after.started,
                "before": change.before.build,
                "after": change.after.build,
                "ratio": change.ratio,
                "verdict": change.verdict,
                "not_the_build": change.other_reason,
            }
            for series in found
            for metric in chosen
            for change in changes(series, metric)
        ]
        return pd.DataFrame(rows, columns=list(_CHANGE_COLUMNS))

    def plot(self, metric: str) -> Figure | Html:
        """Show a metric by build over time, a panel for each case on each host, with its change points.

        Raises:
            ParameterError: there is no such metric.
        """
        (chosen,), found = self._series([metric])
        caption = (
            "Each point is a build in one campaign. The line follows the newest build of each campaign. A dashed line "
            "marks a change point: red where the build changed, grey where the host or the instrument did."
        )
        if len(found) > charts.MOST_PANELS:
            caption += f" The first {charts.MOST_PANELS} of {len(found)} series are shown."
        empty = f"The history has no value of {chosen.title}."
        return figure(charts.over_time(found, chosen), caption, empty)


def open_history(place: str = "") -> HistoryResults:
    """Open the history.

    Args:
        place: folder, or `s3://BUCKET/FOLDER`; default: `PICOLAB_HISTORY`, or `outputs/_history`.

    Raises:
        ParameterError: there can be no history there.

    Example:
        >>> import picolab as pl
        >>> pl.open_history().points("throughput_mib_s").empty  # nothing was added yet
        True
    """
    return HistoryResults(Database(open_store(place or None)))
