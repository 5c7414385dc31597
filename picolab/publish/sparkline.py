"""A small line chart of numbers, as SVG that needs no script."""

from collections.abc import Sequence

WIDTH, HEIGHT = 120, 28
_EDGE = 3.0
LEAST_RANGE = 0.2
"""Relative: values that differ by less do not use the whole height, so that noise looks like noise."""
MOST_POINTS = 120
"""More values than pixels are thinned: each point then is the lowest or the highest of its share."""


def sparkline(values: Sequence[float], title: str) -> str:
    """Return the values as a line from left to right, its height at least `LEAST_RANGE`; empty for no value.

    Args:
        title: says the same in words, escaped already.
    """
    if not values:
        return ""
    thinned = _thinned(values)
    low, high = _ends(thinned)
    step = (WIDTH - 2 * _EDGE) / max(1, len(thinned) - 1)
    places = [(_EDGE + index * step, _y(value, low, high)) for index, value in enumerate(thinned)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    x, y = places[-1]
    return (
        f'<svg class="spark" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{title}"><polyline points="{line}"/><circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/></svg>'
    )


def _ends(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    middle, reach = (low + high) / 2, max((high - low) / 2, LEAST_RANGE / 2 * abs(low + high) / 2)
    return middle - reach, middle + reach


def _y(value: float, low: float, high: float) -> float:
    share = (value - low) / (high - low) if high > low else 0.5
    return HEIGHT - _EDGE - share * (HEIGHT - 2 * _EDGE)


def _thinned(values: Sequence[float]) -> list[float]:
    """Return at most `MOST_POINTS` values, with every extreme of their share in the order of time."""
    if len(values) <= MOST_POINTS:
        return list(values)
    shares = MOST_POINTS // 2
    kept: list[float] = []
    for index in range(shares):
        part = values[index * len(values) // shares : (index + 1) * len(values) // shares]
        lowest, highest = min(range(len(part)), key=part.__getitem__), max(range(len(part)), key=part.__getitem__)
        kept += [part[place] for place in sorted((lowest, highest))]
    return kept
