"""Campaigns of paired trials, invented, to compare builds."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from campaign_factory import FakeTrial, write_campaign

from picolab.record.outcomes import Outcome
from picolab.results.load import CampaignData, read_campaign

SHA = {"old": "a" * 64, "new": "b" * 64, "newer": "c" * 64}


def paired_trials(
    ratios: Sequence[float],
    labels: Sequence[str] = ("old", "new"),
    speed: Callable[[int], float] = lambda block: 1.0,
    more_anon_mib: float = 0.0,
    **special: Any,
) -> list[FakeTrial]:
    """Return the trials of a campaign in which each block runs all builds back to back, the first of them in turn.

    Args:
        ratios: of the speed of all builds but the first, one for each block.
        speed: of the first build, by block.
        more_anon_mib: what all builds but the first need more.
    """
    trials = []
    for block, ratio in enumerate(ratios, start=1):
        together = [
            FakeTrial(
                build="1.5.4",
                label=label,
                build_sha256=SHA.get(label, "d" * 64),
                block=block,
                speed=speed(block) * (ratio if label != labels[0] else 1.0),
                more_anon_mib=more_anon_mib + 0.02 * (block % 3) if label != labels[0] else 0.0,
                **special,
            )
            for label in labels
        ]
        turn = block % len(labels)
        trials += together[turn:] + together[:turn]
    return trials


def around(ratio: float, n: int = 10, noise: float = 0.01, seed: int = 1) -> list[float]:
    """Return ratios with noise, of which half lie above and half below."""
    chance = random.Random(seed)
    steps = [noise * (index + 0.5) / n for index in range(n)]
    ratios = [ratio * (1 + step * (1 if index % 2 else -1)) for index, step in enumerate(steps)]
    chance.shuffle(ratios)
    return ratios


def read(folder: Path, trials: list[FakeTrial], planned: list[FakeTrial] | None = None, **plan: Any) -> CampaignData:
    """Write a campaign, and read it as any other."""
    write_campaign(folder, trials, planned)
    path = folder / "plan.json"
    said = json.loads(path.read_text()) | {"baseline": "old", "margin_percent": 5.0} | plan
    path.write_text(json.dumps(said))
    return read_campaign(folder)


def killed(trials: list[FakeTrial], label: str, blocks: Sequence[int]) -> list[FakeTrial]:
    for trial in trials:
        if trial.label == label and trial.block in blocks:
            trial.outcome = Outcome.OOM_KILLED
    return trials
