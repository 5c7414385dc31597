"""The order of a campaign's trials: random blocks, in which builds of a scenario run back to back."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from picolab.config.trial_parameters import TrialParameters
from picolab.machines.kinds import kind_of

ORDER = (
    "Each block holds every case once; the order of cases inside a block is random, drawn from the seed; "
    "every trial has a fresh server, data folder and TMPDIR."
)


ORDER_OF_BUILDS = (
    "Each block holds every case once. Inside a block all builds of a scenario run back to back; over {builds} blocks "
    "each build runs once at each place among them, in random order. The scenarios of a block are in random order. All "
    "is drawn from the seed; every trial has a fresh server, data folder and TMPDIR."
)


ORDER_WITH_VIRTUAL_MACHINES = (
    "Not fully random: inside a block the scenarios that need the same virtual machine (RAM, processors, "
    "box, provider) run one after the other in random order, since another one costs a boot; {groups} in random order "
    "too, anew for each block."
)


def order_of_blocks(
    cases: Sequence[TrialParameters], names: Sequence[str], blocks: int, chance: random.Random
) -> list[list[int]]:
    """Return the numbers of the cases in the order of each block.

    Cases that need the same virtual machine stay together, and inside of that the builds of a scenario: what
    drifts over minutes or hours then hits the builds of a pair alike. Each build has each place among its
    neighbours equally often, so that a steady drift within a pair cancels.

    Args:
        names: of each case's scenario.
    """
    scenarios: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        scenarios.setdefault(name, []).append(index)
    squares = {scenario: _balanced_orders(indices, blocks, chance) for scenario, indices in scenarios.items()}
    order = []
    for block in range(blocks):
        groups: dict[Any, list[str]] = {}
        for scenario, indices in scenarios.items():
            groups.setdefault(_machine_key(cases[indices[0]]) or scenario, []).append(scenario)
        shuffled = list(groups.values())
        chance.shuffle(shuffled)
        for group in shuffled:
            chance.shuffle(group)
        order.append([index for group in shuffled for scenario in group for index in squares[scenario][block]])
    return order


def _balanced_orders(items: list[int], blocks: int, chance: random.Random) -> list[list[int]]:
    """Return an order of the items for each block: random Latin squares, one after the other."""
    orders: list[list[int]] = []
    while len(orders) < blocks:
        first = list(items)
        chance.shuffle(first)
        square = [first[shift:] + first[:shift] for shift in range(len(first))]
        chance.shuffle(square)
        orders += square
    return orders[:blocks]


def _machine_key(case: TrialParameters) -> tuple[Any, ...] | None:
    """Return a value that differs when the machine must be rebooted or made anew; None when that costs nothing."""
    key = kind_of(case.machine).change_key(case)
    return None if key is None else (case.machine, *key)


def order_in_words(cases: Sequence[TrialParameters], names: Sequence[str]) -> str:
    """Return how trials are ordered, for the plan and the report; `names` are those of each case's scenario."""
    most = max(Counter(names).values())
    words = ORDER if most == 1 else ORDER_OF_BUILDS.format(builds=most)
    grouped = {_machine_key(case) is not None for case in cases}
    if True in grouped:
        groups = "these groups and the other scenarios run" if len(grouped) > 1 else "these groups run"
        words = f"{words} {ORDER_WITH_VIRTUAL_MACHINES.format(groups=groups)}"
    return words
