"""Which trials of two builds are pairs: one scenario, one block, and close enough in time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from picolab.analysis import statistics
from picolab.analysis.comparison.trials import NOT_RUN, ComparedCampaign, ComparedTrial, PlannedTrial
from picolab.text.wording import duration

APART_FACTOR = 10.0
"""Trials that began so many times further apart than is usual in their scenario are no pair."""
APART_FLOOR_S = 600.0
"""Closer than this they are always a pair: what drifts over hours has not moved."""


@dataclass(frozen=True)
class Pairing:
    """The baseline and one candidate in one scenario."""

    together: tuple[tuple[ComparedTrial, ComparedTrial], ...]
    """Baseline's and candidate's trial of a block, whatever their outcome, in order of time."""
    incomplete: tuple[str, ...]
    """One sentence for each block that without a pair, because a result is missing or the trials ran too far apart."""
    not_comparable: str | None
    """Why the two are not comparable in time; None when they are."""


def pair_up(campaign: ComparedCampaign, scenario: str, baseline: str, candidate: str) -> Pairing:
    """Find the pairs of two builds in a scenario, and whether they ran close enough to be compared."""
    planned = _by_block(trial for trial in campaign.planned if trial.scenario == scenario)
    ran = _by_block(trial for trial in campaign.trials if trial.scenario == scenario)
    builds = {trial.build for trial in campaign.planned if trial.scenario == scenario}
    reason = _why_not_by_plan(planned, baseline, candidate, len(builds))
    if reason:
        return Pairing((), (), reason)
    ranks = _ranks(campaign.trials)
    both: list[tuple[ComparedTrial, ComparedTrial]] = []
    incomplete: dict[int, str] = {}
    for block in sorted(planned):
        old, new = ran[block][baseline], ran[block][candidate]
        if len(old) == len(new) == 1 and old[0].host != new[0].host:
            names = "on hosts with different kernels or processors"
            if old[0].host[0] != new[0].host[0]:
                names = f"on two hosts, {old[0].host[0]} and {new[0].host[0]}"
            incomplete[block] = f"block {block}: {baseline} and {candidate} ran {names}: they are no pair"
        elif len(old) == len(new) == 1:
            both.append((old[0], new[0]))
        elif sentence := _why_no_pair(campaign, block, planned[block], ran[block], (baseline, candidate)):
            incomplete[block] = sentence
    usual_s = statistics.median([_distance_s(pair) for pair in both]) if both else 0.0
    together = []
    for pair in both:
        between = abs(ranks[pair[0].trial_id] - ranks[pair[1].trial_id]) - 1
        distance_s = _distance_s(pair)
        if between < len(builds) and distance_s <= max(APART_FACTOR * usual_s, APART_FLOOR_S):
            together.append(pair)
        else:
            incomplete[pair[0].block] = (
                f"block {pair[0].block}: {baseline} and {candidate} began {duration(distance_s)} apart with {between} "
                f"trials between them: they are no pair"
            )
    if 2 * len(together) < len(both):
        return Pairing(
            (),
            tuple(incomplete[block] for block in sorted(incomplete)),
            f"in {len(both) - len(together)} of {len(both)} blocks {baseline} and {candidate} did not run close "
            f"together, so changes in between cannot be separated from a difference of the builds",
        )
    together.sort(key=lambda pair: min(pair[0].started, pair[1].started))
    return Pairing(tuple(together), tuple(incomplete[block] for block in sorted(incomplete)), None)


def _ranks(trials: Iterable[ComparedTrial]) -> dict[str, int]:
    """Return the place of each trial among those of its host, in order of time."""
    counts: Counter[tuple[str, ...]] = Counter()
    ranks = {}
    for trial in trials:
        ranks[trial.trial_id] = counts[trial.host]
        counts[trial.host] += 1
    return ranks


def _by_block(items: Iterable[Any]) -> dict[int, dict[str, list[Any]]]:
    """Return planned or measured trials by block and build."""
    blocks: dict[int, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        blocks[item.block][item.build].append(item)
    return blocks


def _why_not_by_plan(
    planned: dict[int, dict[str, list[PlannedTrial]]], baseline: str, candidate: str, builds: int
) -> str | None:
    """Return why a plan cannot support a comparison, whatever was measured; None when it can."""
    both = [block for block in planned.values() if block.get(baseline) and block.get(candidate)]
    if not both:
        where = {
            build: blocks_in_words([number for number, block in planned.items() if block.get(build)])
            for build in (baseline, candidate)
        }
        return (
            f"no block holds both builds: {baseline} is in {where[baseline]}, {candidate} in {where[candidate]}, so "
            f"changes in between cannot be separated from a difference of the builds"
        )
    near = [
        block
        for block in both
        if min(abs(old.position - new.position) for old in block[baseline] for new in block[candidate]) <= builds
    ]
    if 2 * len(near) >= len(both):
        return None
    return (
        f"in {len(both) - len(near)} of {len(both)} blocks the plan puts other trials between {baseline} and "
        f"{candidate}, so changes in between cannot be separated from a difference of the builds"
    )


def blocks_in_words(blocks: Sequence[int]) -> str:
    """Return numbers of blocks in words, such as `blocks 1 to 10`."""
    if not blocks:
        return "none"
    if len(blocks) == 1:
        return f"block {blocks[0]}"
    if sorted(blocks) == list(range(min(blocks), max(blocks) + 1)):
        return f"blocks {min(blocks)} to {max(blocks)}"
    return "blocks " + ", ".join(map(str, sorted(blocks)))


def _distance_s(pair: tuple[ComparedTrial, ComparedTrial]) -> float:
    return abs((pair[0].started - pair[1].started).total_seconds())


def _why_no_pair(
    campaign: ComparedCampaign,
    block: int,
    planned: dict[str, list[PlannedTrial]],
    ran: dict[str, list[ComparedTrial]],
    builds: tuple[str, str],
) -> str | None:
    """Return why a block has no pair; None when it has not begun, or was not planned to have both builds."""
    several = [f"{build} has {len(ran[build])} trials" for build in builds if len(ran[build]) > 1]
    if several:
        return f"block {block}: {' and '.join(several)}, and it is unclear which one belongs to the pair"
    missing = {build: _why_no_result(campaign, planned.get(build, [])) for build in builds if not ran[build]}
    if len(missing) == 2 and set(missing.values()) <= {NOT_RUN, None}:
        return None
    words = [f"{build} {f'has no result ({why})' if why else 'is not in the plan'}" for build, why in missing.items()]
    return f"block {block}: {' and '.join(words)}"


def _why_no_result(campaign: ComparedCampaign, planned: Sequence[PlannedTrial]) -> str | None:
    """Return why planned trials have no result; None when none was planned."""
    reasons = [campaign.no_result.get(trial.trial_id, NOT_RUN) for trial in planned]
    return ", ".join(dict.fromkeys(reasons)) or None
