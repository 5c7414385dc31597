"""The order of a campaign's trials: random blocks, in which builds of a scenario run back to back."""

import itertools
import random
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

from picolab.config.trial_parameters import TrialParameters
from picolab.machines.kind import Foreseen
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
    "Not fully random: inside a block the scenarios that need the same virtual machine (RAM, processors, box, "
    "provider) run one after the other in random order, since another one costs a boot, or a restore of the state that "
    "was saved after its boot."
)


ORDER_OF_VIRTUAL_MACHINES = (
    "A block begins with the virtual machine that the block before ended with. Otherwise the order of virtual machines "
    "is random, anew for each block, and each of them begins a block equally often."
)
"""With one machine at a time."""


ORDER_WITH_OTHER_MACHINES = "Scenarios without a virtual machine run where no boot is added, in random order."


def order_of_blocks(
    cases: Sequence[TrialParameters], names: Sequence[str], blocks: int, chance: random.Random
) -> list[list[int]]:
    """Return the numbers of the cases in the order of each block.

    Cases that need the same virtual machine stay together, and inside of that the builds of a scenario: what
    drifts over minutes or hours then hits the builds of a pair alike. Each build has each place among its
    neighbours equally often, so that a steady drift within a pair cancels. As few virtual machines are booted as a
    block that holds every case allows.

    Args:
        names: of each case's scenario.
    """
    scenarios: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        scenarios.setdefault(name, []).append(index)
    squares = {scenario: _balanced_orders(indices, blocks, chance) for scenario, indices in scenarios.items()}
    groups: dict[Hashable, list[str]] = {}
    for scenario, indices in scenarios.items():
        groups.setdefault(machine_key(cases[indices[0]]), []).append(scenario)
    free = groups.pop(None, [])
    if groups:
        order = _orders_with_few_boots(list(groups.values()), free, blocks, chance)
    else:
        order = [_shuffled(free, chance) for _ in range(blocks)]
    return [
        [index for scenario in of_block for index in squares[scenario][block]] for block, of_block in enumerate(order)
    ]


def alone_apart(cases: Sequence[TrialParameters], order: list[list[int]], chance: random.Random) -> list[list[int]]:
    """Return the order with the cases that run alone apart from those that run next to others, in each block.

    A case that runs next to others has such neighbours, also across the border of two blocks, and either part begins
    a block equally often. Nothing changes unless there are both.
    """
    if len({case.runs_alone for case in cases}) < 2:
        return order
    alone_first = chance.random() < 0.5
    found = []
    for block in order:
        parts = (
            [index for index in block if cases[index].runs_alone],
            [index for index in block if not cases[index].runs_alone],
        )
        first, second = parts if alone_first else parts[::-1]
        found.append([*first, *second])
        alone_first = not alone_first
    return found


def _orders_with_few_boots(
    groups: list[list[str]], free: list[str], blocks: int, chance: random.Random
) -> list[list[str]]:
    """Return the scenarios in the order of each block, so that a machine is changed as rarely as possible.

    Args:
        groups: scenarios that need the same virtual machine.
        free: scenarios that need none. They take the virtual machine down, so each runs where the next trial needs
            another virtual machine anyway.
    """
    if len(groups) == 1 and free:
        return _alternating(groups[0], free, blocks, chance)
    ends = _ends_of_blocks(len(groups), blocks, chance)
    order = []
    for first, last in itertools.pairwise(ends):
        middle = [number for number in range(len(groups)) if number not in (first, last)]
        numbers = list(dict.fromkeys([first, *_shuffled(middle, chance), last]))
        between: list[list[str]] = [[] for _ in numbers]
        for scenario in _shuffled(free, chance):
            between[chance.randrange(1, len(numbers))].append(scenario)
        order.append(
            [
                scenario
                for number, before in zip(numbers, between, strict=True)
                for scenario in (*before, *_shuffled(groups[number], chance))
            ]
        )
    return order


def _alternating(one: list[str], other: list[str], blocks: int, chance: random.Random) -> list[list[str]]:
    """Return the scenarios of two groups, of which only the first needs a machine, in the order of each block."""
    # With an even number of blocks, to begin with the machine would cost one boot more.
    other_first = blocks % 2 == 0 or chance.random() < 0.5
    order = []
    for _ in range(blocks):
        pair = (other, one) if other_first else (one, other)
        order.append([scenario for group in pair for scenario in _shuffled(group, chance)])
        other_first = not other_first
    return order


def _ends_of_blocks(groups: int, blocks: int, chance: random.Random) -> list[int]:
    """Return the group at each border of blocks, the beginning and the end included.

    Neighbours differ, so that a block can begin with one and end with the other. Random orders of all groups follow
    each other, so that each group is at a border equally often.
    """
    if groups == 1:
        return [0] * (blocks + 1)
    ends: list[int] = []
    while len(ends) <= blocks:
        following = _shuffled(range(groups), chance)
        if ends and following[0] == ends[-1]:
            other = chance.randrange(1, groups)
            following[0], following[other] = following[other], following[0]
        ends += following
    return ends[: blocks + 1]


def _shuffled(items: Sequence[Any], chance: random.Random) -> list[Any]:
    shuffled = list(items)
    chance.shuffle(shuffled)
    return shuffled


def _balanced_orders(items: list[int], blocks: int, chance: random.Random) -> list[list[int]]:
    """Return an order of the items for each block: random Latin squares, one after the other."""
    orders: list[list[int]] = []
    while len(orders) < blocks:
        first = _shuffled(items, chance)
        square = [first[shift:] + first[:shift] for shift in range(len(first))]
        chance.shuffle(square)
        orders += square
    return orders[:blocks]


def machine_key(case: TrialParameters) -> tuple[Any, ...] | None:
    """Return a value that differs when the machine must be rebooted or made anew; None when that costs nothing."""
    key = kind_of(case.machine).change_key(case)
    return None if key is None else (case.machine, *key)


def fresh_for(trial: TrialParameters, trial_words: str, block: int | None) -> str:
    """Return what needs a fresh machine for a trial, in words; with the same words the machine is reused.

    Args:
        trial_words: what this trial is called, and nothing else.
        block: of the trial; None outside a campaign.
    """
    match trial.fresh_machine:
        case "per_trial":
            return trial_words
        case "per_block" if block is not None:
            return f"block {block}"
    return ""


def ways(trials: Sequence[TrialParameters], blocks: Sequence[int]) -> list[str]:
    """Return how the machine of each trial will be reached when they run in this order: `Foreseen.way`.

    Args:
        blocks: the block of each trial.
    """
    found: list[Foreseen] = []
    for number, (trial, block) in enumerate(zip(trials, blocks, strict=True)):
        # The machine of another kind takes the place of this one, which has the same name.
        before = found[-1] if found and trials[number - 1].machine == trial.machine else None
        found.append(kind_of(trial.machine).foresee(trial, fresh_for(trial, f"trial {number}", block), before))
    return [foreseen.way for foreseen in found]


ORDER_APART = (
    "A block has two parts, the cases that run alone and those that run next to others; the part that begins "
    "alternates from block to block, and the order above holds inside each part."
)


ORDER_ON_SEVERAL_MACHINES = "Trials begin in this order as machines become idle, so they may end in another one."


def order_in_words(cases: Sequence[TrialParameters], names: Sequence[str], machines: int = 1) -> str:
    """Return how trials are ordered, for the plan and the report.

    Args:
        names: of each case's scenario.
        machines: that run at the same time.
    """
    most = max(Counter(names).values())
    words = ORDER if most == 1 else ORDER_OF_BUILDS.format(builds=most)
    grouped = {machine_key(case) is not None for case in cases}
    if True in grouped:
        words = f"{words} {ORDER_WITH_VIRTUAL_MACHINES}"
        if machines == 1:
            words = f"{words} {ORDER_OF_VIRTUAL_MACHINES}"
        if False in grouped:
            words = f"{words} {ORDER_WITH_OTHER_MACHINES}"
    if len({case.runs_alone for case in cases}) == 2:
        words = f"{words} {ORDER_APART}"
    if machines > 1:
        words = f"{words} {ORDER_ON_SEVERAL_MACHINES}"
    return words
