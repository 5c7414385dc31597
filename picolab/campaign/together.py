"""How long trials take together: the estimate before a campaign and the time left while it runs."""

from collections.abc import Iterable
from typing import NamedTuple


class Share(NamedTuple):
    """Trials that take equally long.

    Attributes:
        overlap: what others may do meanwhile, as in `TrialParameters`; `measurements` on hosts of their own, where
            nothing of others can overlap.
        each_s: seconds of one of them, without a wait for its turn.
        measured_s: those of its measured section.
        number: how many they are.
    """

    overlap: str
    each_s: float
    measured_s: float
    number: int = 1


def together_s(shares: Iterable[Share], machines: int, longest_s: float) -> float:
    """Return the seconds that trials take together, when no machine is ever idle without need.

    On one machine they follow one another. On several, trials that run alone still do. The others take as long as the
    longest of three: their work, divided by the machines; their measured sections, where one at a time may measure;
    and what has to follow one another on one machine.

    Args:
        machines: that work at the same time.
        longest_s: of the trials that do not run alone, the most seconds that belong together on one machine.
    """
    alone_s = work_s = turns_s = 0.0
    for overlap, each_s, measured_s, number in shares:
        if overlap == "none":
            alone_s += number * each_s
            continue
        work_s += number * each_s
        # Sections that may overlap keep only those of `preparation` waiting.
        turns_s += number * measured_s / (1 if overlap == "preparation" else machines)
    return alone_s + max(work_s / machines, turns_s, longest_s)
