"""The paired check of overlap: the same cases alone and next to others, in the same block."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from picolab.analysis.statistics import PairedRatio, paired_ratio
from picolab.record.factors import FACTORS
from picolab.record.metric import Metric
from picolab.record.metrics import METRICS
from picolab.record.record import Record
from picolab.results.rows import counting_values, measured_outcomes


def quiet_trials(records: Mapping[str, Record]) -> frozenset[str]:
    """Return the trials during whose measured section no other one is known to have worked, by trial_id."""
    return frozenset(name for name, record in records.items() if record.timeline and not record.timeline.neighbours)


@dataclass(frozen=True)
class OverlapRatio:
    """A metric of a case that ran next to others, over the same alone.

    Attributes:
        alone: the row of one of its trials that ran alone.
        level: of `overlap`, of those that ran next to others.
        metric: what is compared.
        ratio: of the pairs.
        unpaired: trials next to others that have no pair: one of the two has no value, or nothing ran meanwhile.
    """

    alone: Mapping[str, Any]
    level: str
    metric: Metric
    ratio: PairedRatio
    unpaired: int


def overlap_ratios(rows: Sequence[Mapping[str, Any]], quiet: frozenset[str] = frozenset()) -> list[OverlapRatio]:
    """Return the ratio of each case, level and metric that builds are compared in; none without both kinds of trials.

    A pair is a trial alone and one next to others, of the same block and with the same level of every other factor.
    Numbers of a step that is not measured are left out.

    Args:
        rows: of trials, as in `results.csv`.
        quiet: the trials during whose measured steps nothing ran. They are left out.
    """
    alone: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    others: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        case = tuple(row.get(name) for name in FACTORS if name != "overlap")
        if row["overlap"] == "none":
            alone[case, row["block"]] = row
        elif row["overlap"] is not None:
            others.setdefault((case, row["overlap"]), []).append(row)
    found = []
    for (case, level), trials in others.items():
        for metric in METRICS.values():
            if metric.verdicts is None:
                continue
            partners: list[Mapping[str, Any]] = []
            pairs: list[list[float]] = []
            for row in trials:
                partner = alone.get((case, row["block"]))
                is_measured = metric.step is None or metric.step in measured_outcomes(row)
                if partner is None or not is_measured or row["trial_id"] in quiet:
                    continue
                both = [value for one in (partner, row) for value in counting_values(metric, [one])]
                if len(both) == 2 and min(both) > 0:
                    partners.append(partner)
                    pairs.append(both)
            ratio = paired_ratio([pair[0] for pair in pairs], [pair[1] for pair in pairs])
            if ratio is not None:
                found.append(OverlapRatio(partners[0], level, metric, ratio, len(trials) - len(pairs)))
    return found
