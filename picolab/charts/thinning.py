"""Thins many trials of one case for a chart: its extreme trials, and a band that holds most of the others."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from picolab.charts.style import grouped

MOST_POINTS = 40
"""Up to so many trials of a case have a point each; of more only the lowest and the highest."""
BAND = (0.05, 0.95)
"""Between these quantiles of all its trials lies the band where not every trial has a point or a line."""

Rows = list[dict[str, Any]]


def thinned(rows: Rows, *names: str) -> tuple[Rows, Rows]:
    """Return the rows that have a point, and a row for each band.

    Args:
        rows: with a number in `value`.
        names: the fields that rows of one case have in common. A band has them too, and `low`, `high` and `trials`.
    """
    points: Rows = []
    bands: Rows = []
    for key, cell in grouped(rows, *names).items():
        if len(cell) <= MOST_POINTS:
            points += cell
            continue
        ordered = sorted(cell, key=lambda row: row["value"])
        points += [ordered[0], ordered[-1]]
        low, high = np.quantile([row["value"] for row in cell], BAND).round(4).tolist()
        bands.append(dict(zip(names, key, strict=True)) | {"low": low, "high": high, "trials": len(cell)})
    return points, bands


def is_thinned(rows: Sequence[dict[str, Any]], *names: str) -> bool:
    """Return True when some case has more trials than a chart draws."""
    return any(len(cell) > MOST_POINTS for cell in grouped(rows, *names).values())


THINNED_WORDS = (
    f" Of a case with more than {MOST_POINTS} trials, only the lowest and the highest have a point; the pale band "
    f"holds the middle {BAND[1] - BAND[0]:.0%} of all of them."
)
