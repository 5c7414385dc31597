"""Decisions from statistics: the verdict of a comparison, the exclusion of a regression, the end of `repeats: auto`."""

from collections.abc import Sequence
from typing import Literal

from picolab.analysis.statistics import LEAST_PAIRS, SIGNIFICANCE, PairedRatio, paired_ratio
from picolab.text.wording import percent

LEAST_PAIRS_TO_STOP = 10
"""Pairs before the first look of `repeats: auto`."""
LOOKS_TO_STOP = 5
"""Looks in a row that must find a narrow interval."""
UNSTABLE_SPREAD = 0.20
"""Spread of the ratios of pairs above which pairs that were measured back to back do not agree."""

Judgement = Literal["higher", "lower", "equivalent", "undecided", "unstable"]


def judge(paired: PairedRatio, adjusted_p: float, margin: float) -> tuple[Judgement, str]:
    """Return the judgement of a candidate, and the reason in one sentence.

    Args:
        adjusted_p: p-value after `holm`.
        margin: relative change that does not matter, such as 0.05.

    Raises:
        ValueError: fewer than `LEAST_PAIRS` pairs, which allow no judgement.
    """
    if paired.n < LEAST_PAIRS:
        raise ValueError(f"{paired.n} pairs allow no verdict; {LEAST_PAIRS} are needed")
    interval = f"the interval {paired.low:.3f} to {paired.high:.3f}"
    if 1.0 / (1.0 + margin) <= paired.low and paired.high <= 1.0 + margin:
        return "equivalent", f"{interval} lies within the margin of {percent(margin)}"
    if adjusted_p < SIGNIFICANCE:
        if paired.ratio > 1.0:
            return "higher", f"higher by {percent(paired.ratio - 1.0, 1)}, adjusted p = {adjusted_p:.2g}"
        return "lower", f"lower by {percent(1.0 - paired.ratio, 1)}, adjusted p = {adjusted_p:.2g}"
    if paired.spread is not None and paired.spread > UNSTABLE_SPREAD:
        return (
            "unstable",
            f"the ratios of the pairs vary by {percent(paired.spread, 0)}, more than {percent(UNSTABLE_SPREAD)}",
        )
    return (
        "undecided",
        f"{interval} allows changes beyond the margin of {percent(margin)}, adjusted p = {adjusted_p:.2g}",
    )


def no_regression(paired: PairedRatio, margin: float, higher_is_better: bool) -> bool:
    """Return whether the interval excludes a change for the worse beyond the margin; never with too few pairs.

    Args:
        margin: relative change that does not matter, such as 0.05.
        higher_is_better: True for a rate, False for memory.
    """
    if paired.n < LEAST_PAIRS:
        return False
    return paired.low >= 1.0 / (1.0 + margin) if higher_is_better else paired.high <= 1.0 + margin


def narrow_enough(paired: PairedRatio, target: float) -> bool:
    """Return whether an interval is narrow enough to stop at: one look of `repeats: auto`.

    Looks at the width of the interval alone, never at where it lies: who stops when the result is welcome finds
    something in the end, whatever there is. Never with fewer than `LEAST_PAIRS_TO_STOP` pairs.

    Args:
        target: how far the interval may reach from its middle, relative, such as 0.03.
    """
    return paired.n >= LEAST_PAIRS_TO_STOP and paired.high / paired.low <= (1.0 + target) ** 2


def enough_pairs(baseline: Sequence[float], candidate: Sequence[float], target: float) -> bool:
    """Return whether a campaign with `repeats: auto` has enough pairs of this case: the stopping rule.

    The interval must have been narrow enough at each of the last `LOOKS_TO_STOP` looks, one after each pair. A single
    look would stop when the pairs happen to agree too well, and then the interval is too narrow: benchmarks/power.py
    measures what that does to false positives.

    Args:
        baseline: a value of each pair so far, in order of time.
        candidate: the other value of each pair.
        target: as of `narrow_enough`.

    Raises:
        ValueError: as of `paired_ratio`.
    """
    looks = range(len(baseline), len(baseline) - LOOKS_TO_STOP, -1)
    if looks[-1] < LEAST_PAIRS_TO_STOP:
        return False
    # The newest first: as long as it is too wide, the others need not be computed.
    return all(
        narrow is not None and narrow_enough(narrow, target)
        for narrow in (paired_ratio(baseline[:n], candidate[:n]) for n in looks)
    )
