"""When a campaign with `repeats: auto` has enough blocks. It looks at widths of intervals, never at who is ahead."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from picolab import statistics
from picolab.errors import UnreadableFile
from picolab.foreign_files import MIB, read_json
from picolab.paths import write_atomically
from picolab.plan import Plan
from picolab.record import Outcome

STOPPED_FILE = "stopped.json"
_LARGEST_BYTES = MIB


def stopped_after(folder: Path) -> int | None:
    """Return the block after which the rule ended a campaign; None when it did not, or not yet."""
    with suppress(FileNotFoundError, UnreadableFile):
        said = read_json(folder / STOPPED_FILE, _LARGEST_BYTES)
        block = said.get("after_block") if isinstance(said, dict) else None
        if isinstance(block, int) and not isinstance(block, bool) and block >= 1:
            return block
    return None


def note_stop(folder: Path, block: int, reason: str) -> None:
    """Write that the rule ended a campaign after a block, and why."""
    write_atomically(folder / STOPPED_FILE, json.dumps({"after_block": block, "reason": reason}, indent=1) + "\n")


def why_enough(plan: Plan, rows: Sequence[dict[str, Any]], block: int, ran_s: float) -> str | None:
    """Return why no block is needed after this one, one sentence; None when one is, or when the plan has no rule.

    Args:
        rows: of `record_row`, results up to this block.
        ran_s: seconds that the trials up to this block took.
    """
    rule = plan.stopping
    if rule is None:
        return None
    if rule.time_limit_h is not None and ran_s > rule.time_limit_h * 3600:
        return f"the time limit of {rule.time_limit_h:g} h was reached, whatever the intervals"
    if block < rule.least_blocks:
        return None
    target = rule.target_percent / 100
    if all(_is_narrow(plan, scenario, rows, target) for scenario in {trial.scenario for trial in plan.trials}):
        if not any(row["outcome"] == Outcome.OK for row in rows):
            return f"no trial of {block} blocks gave a rate, and more of them would not"
        return f"every interval was within {rule.target_percent:g} % of its middle"
    return None


def _is_narrow(plan: Plan, scenario: str, rows: Sequence[dict[str, Any]], target: float) -> bool:
    """Tell whether the rates of a scenario are known well enough. One that never gives a rate never will."""
    by_build: dict[str, dict[int, float]] = {}
    for row in rows:
        name = "download_mib_s" if row["direction"] == "download" else "throughput_mib_s"
        if row["scenario"] == scenario and row["outcome"] == Outcome.OK and row[name]:
            by_build.setdefault(row["build"], {})[row["block"]] = row[name]
    labels = list(dict.fromkeys(t.parameters.build_label for t in plan.trials if t.scenario == scenario))
    if plan.baseline is None or plan.baseline not in labels or len(labels) == 1:
        return all(_median_is_narrow(list(by_build.get(label, {}).values()), target) for label in labels)
    baseline = by_build.get(plan.baseline, {})
    for label in labels:
        common = sorted(set(baseline) & set(by_build.get(label, {})))
        values = [baseline[block] for block in common], [by_build[label][block] for block in common]
        if label != plan.baseline and common and not statistics.enough_pairs(*values, target):
            return False
    return True


def _median_is_narrow(values: Sequence[float], target: float) -> bool:
    interval = statistics.median_interval(values)
    if interval is None:
        return not values
    return (interval.high - interval.low) / 2 <= target * statistics.median(values)
