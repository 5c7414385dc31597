"""The boots, the restores and the time that trials need, before they run."""

import csv
import io
import itertools
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from picolab.campaign.together import Share, together_s
from picolab.config.order import machine_key, ways
from picolab.config.plan import LARGEST_PLAN_BYTES, PLAN_FILE, Plan, PlannedTrial, together
from picolab.config.sizes import MIB
from picolab.config.trial_parameters import BUILD_PARAMETERS, SCENARIO_PARAMETERS, TrialParameters
from picolab.errors import PicolabError, UnreadableFile
from picolab.files.foreign import read_text
from picolab.machines.kinds import kind_of
from picolab.record.machine import REACHED_WITHOUT_BOOT
from picolab.results.folders import all_campaigns
from picolab.results.ledger import LEDGER_FILE, read_ledger
from picolab.results.standing import LARGEST_RESULTS_BYTES, RESULTS_FILE

ASSUMED_MIB_S = 50.0
"""Of an upload, and of the download that verifies it, where no trial of the case was measured."""
_MOST_CAMPAIGNS = 20
_MOST_PLANS_BYTES = LARGEST_PLAN_BYTES
"""Of campaigns that are looked at, the newest ones, and of their plans together: a plan is shown at once."""


@dataclass
class EarlierTimes:
    """Seconds that earlier trials took, by case and by machine."""

    trials_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """By `_case_key`: of each trial, without the boot or restore of its machine and its wait for its turn."""
    sections_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """By `_case_key`: of the measured section of each trial, as far as it is known."""
    boots_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """By the text of `machine_key`: of each boot."""
    restores_s: dict[tuple[str, bool], list[float]] = field(default_factory=lambda: defaultdict(list))
    """By the text of `machine_key`, and whether that of the trial before was another: of each restored saved state."""


@dataclass(frozen=True)
class Estimate:
    """The boots, the restores and the time that trials need.

    Attributes:
        boots: of virtual machines; None when no trial needs one.
        restores: of saved states of virtual machines; None when no trial needs such a machine.
        boot_s: seconds of all boots together.
        restore_s: seconds of all restores together.
        total_s: seconds from begin to end, boots and restores included.
        measured: trials of a case that earlier campaigns have timed.
        trials: how many they are.
        machines_measured: boots and restores of a machine that earlier campaigns have timed.
        overhead_s: assumed seconds of a trial besides its machine and transfers, by the kinds that were assumed.
        machines: that work at the same time.
        work_s: seconds of everything, those of all machines added up.
    """

    boots: int | None
    restores: int | None
    boot_s: float
    restore_s: float
    total_s: float
    measured: int
    trials: int
    machines_measured: int
    overhead_s: tuple[float, ...]
    machines: int
    work_s: float

    @property
    def machine_share(self) -> float:
        """The share of the work that boots and restores are, 0 to 1."""
        return (self.boot_s + self.restore_s) / self.work_s if self.work_s else 0.0


def estimate(
    plan: Plan, left: Sequence[PlannedTrial] | None = None, earlier: EarlierTimes | None = None, hosts: int = 0
) -> Estimate:
    """Return the boots, the restores and the time that trials of a plan need, in its order.

    A trial takes the median time of earlier trials of the same case, or else the time that its transfers take at
    `ASSUMED_MIB_S` and the overhead that its kind of machine assumes; likewise for each boot and each
    restore. Several machines share them as `picolab.campaign.together` says; each takes every so many of those that
    belong together, as far as boots are concerned.

    Args:
        left: those that are to run; default: all.
        earlier: default: as this project's campaigns have measured.
        hosts: how many machines on hosts of their own share them, and are made anew for trials that belong together;
            0: those of the plan, on this host.
    """
    earlier = earlier_times() if earlier is None else earlier
    machines = hosts or plan.machines
    groups = together(plan, plan.trials if left is None else left)
    lanes = groups if hosts else [list(itertools.chain(*groups[first::machines])) for first in range(machines)]
    found = _Sum()
    for lane in lanes:
        _add_lane(found, lane, earlier, hosts > 0)
    longest_s = max((sum(found.shared_s.get(trial.trial_id, 0.0) for trial in group) for group in groups), default=0.0)
    is_virtual = any(machine_key(trial.parameters) is not None for lane in lanes for trial in lane)
    return Estimate(
        boots=found.boots if is_virtual else None,
        restores=found.restores if is_virtual else None,
        boot_s=found.boot_s,
        restore_s=found.restore_s,
        total_s=together_s(found.shares, machines, longest_s),
        measured=found.measured,
        trials=sum(map(len, lanes)),
        machines_measured=found.machines_measured,
        overhead_s=tuple(sorted(found.assumed)),
        machines=machines,
        work_s=sum(share.each_s for share in found.shares),
    )


@dataclass
class _Sum:
    """The sums of `estimate`; `shared_s` has the seconds of each trial that does not run alone, by its id."""

    shares: list[Share] = field(default_factory=list)
    shared_s: dict[str, float] = field(default_factory=dict)
    boots: int = 0
    restores: int = 0
    boot_s: float = 0.0
    restore_s: float = 0.0
    measured: int = 0
    machines_measured: int = 0
    assumed: set[float] = field(default_factory=set)


def _add_lane(found: _Sum, lane: Sequence[PlannedTrial], earlier: EarlierTimes, on_hosts: bool) -> None:
    """Add the trials that run on one machine, in their order."""
    before = ""
    for one, way in zip(lane, ways([one.parameters for one in lane], [one.block for one in lane]), strict=True):
        trial = one.parameters
        kind = kind_of(trial.machine)
        transfer_s = trial.uploaded_bytes / MIB / ASSUMED_MIB_S
        times_s = earlier.trials_s.get(_case_key(trial))
        if times_s:
            found.measured += 1
            each_s = statistics.median(times_s)
        else:
            found.assumed.add(kind.assumed_overhead_s)
            each_s = kind.assumed_overhead_s + 2 * transfer_s
        sections_s = earlier.sections_s.get(_case_key(trial))
        assumed_section_s = transfer_s if trial.direction == "upload" else 2 * transfer_s
        section_s = min(each_s, statistics.median(sections_s) if sections_s else assumed_section_s)
        key = str(machine_key(trial))
        if way == "boot":
            of_boots_s = earlier.boots_s.get(key)
            found.machines_measured += bool(of_boots_s)
            reach_s = statistics.median(of_boots_s) if of_boots_s else kind.assumed_boot_s
            found.boots += 1
            found.boot_s += reach_s
            each_s += reach_s
        elif way == "restore":
            of_restores_s = earlier.restores_s.get((key, key != before))
            found.machines_measured += bool(of_restores_s)
            assumed_s = kind.assumed_restore_s if key == before else kind.assumed_change_s
            reach_s = statistics.median(of_restores_s) if of_restores_s else assumed_s
            found.restores += 1
            found.restore_s += reach_s
            each_s += reach_s
        before = key
        share = Share("measurements" if on_hosts else trial.overlap, each_s, section_s)
        found.shares.append(share)
        if share.overlap != "none":
            found.shared_s[one.trial_id] = each_s


def earlier_times() -> EarlierTimes:
    """Return the times of trials in this project's newest campaigns; what cannot be read is left out."""
    times = EarlierTimes()
    left_bytes = _MOST_PLANS_BYTES
    for folder in reversed(all_campaigns()[-_MOST_CAMPAIGNS:]):
        with suppress(PicolabError, OSError):
            left_bytes -= _read_times(folder, times, left_bytes)
    return times


def _read_times(folder: Path, times: EarlierTimes, most_bytes: int) -> int:
    """Add the times of a campaign, unless its plan is larger than `most_bytes`; return the size of the plan if read."""
    entries = [
        entry
        for entry in read_ledger(folder / LEDGER_FILE)[0]
        if entry.duration_s is not None and not entry.outcome.is_fault
    ]
    size_bytes = (folder / PLAN_FILE).stat().st_size
    if not entries or size_bytes > most_bytes:
        return 0
    planned = {trial.trial_id: trial.parameters for trial in Plan.load(folder).trials}
    parts = _parts(folder)
    before = ""
    for entry in entries:
        trial = planned.get(entry.trial_id)
        if trial is None or entry.duration_s is None:
            continue
        reached_by, reached_s, waited_s, section_s = parts.get(entry.trial_id, ("reset", 0.0, 0.0, 0.0))
        times.trials_s[_case_key(trial)].append(max(0.0, entry.duration_s - reached_s - waited_s))
        if section_s:
            times.sections_s[_case_key(trial)].append(section_s)
        key = str(machine_key(trial))
        if reached_by == "restored":
            times.restores_s[key, key != before].append(reached_s)
        elif reached_by not in REACHED_WITHOUT_BOOT:
            times.boots_s[key].append(reached_s)
        before = key
    return size_bytes


def _parts(folder: Path) -> dict[str, tuple[str, float, float, float]]:
    """Return how the machine of each trial was reached, and the seconds of that, of its wait and of its section."""
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(folder / RESULTS_FILE, LARGEST_RESULTS_BYTES))))
    except (FileNotFoundError, UnreadableFile, csv.Error):
        return {}
    found = {}
    for row in rows:
        reached_by = row.get("reached_by") or "reset"
        reached_s = _seconds(row.get("reached_s")) if reached_by != "reset" else 0.0
        found[row.get("trial_id", "")] = (
            reached_by if reached_s else "reset",
            reached_s,
            _seconds(row.get("waited_s")),
            _seconds(row.get("measured_section_s")),
        )
    return found


def _seconds(text: str | None) -> float:
    """Return the time in a cell; 0 where there is none."""
    with suppress(ValueError):
        time_s = float(text or 0.0)
        if math.isfinite(time_s) and time_s > 0:
            return time_s
    return 0.0


def _case_key(trial: TrialParameters) -> str:
    return json.dumps([getattr(trial, name) for name in (*SCENARIO_PARAMETERS, *BUILD_PARAMETERS)], sort_keys=True)
