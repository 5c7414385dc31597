"""The boots, the restores and the time that trials need, before they run."""

import csv
import io
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from picolab.config.order import machine_key, ways
from picolab.config.plan import LARGEST_PLAN_BYTES, PLAN_FILE, Plan, PlannedTrial
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
        total_s: seconds of everything, boots and restores included.
        measured: trials of a case that earlier campaigns have timed.
        trials: how many they are.
        machines_measured: boots and restores of a machine that earlier campaigns have timed.
        overhead_s: assumed seconds of a trial besides its machine and transfers, by the kinds that were assumed.
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

    @property
    def machine_share(self) -> float:
        """The share of the time that boots and restores take, 0 to 1."""
        return (self.boot_s + self.restore_s) / self.total_s if self.total_s else 0.0


def estimate(trials: Sequence[PlannedTrial], earlier: EarlierTimes | None = None) -> Estimate:
    """Return the boots, the restores and the time that trials need in this order.

    A trial takes the median time of earlier trials of the same case, or else the time that its transfers take at
    `ASSUMED_MIB_S` and the overhead that its kind of machine assumes; likewise for each boot and each
    restore.

    Args:
        earlier: default: as this project's campaigns have measured.
    """
    earlier = earlier_times() if earlier is None else earlier
    wanted = [trial.parameters for trial in trials]
    reached_by = ways(wanted, [trial.block for trial in trials])
    total_s = boot_s = restore_s = 0.0
    measured = machines_measured = 0
    assumed: set[float] = set()
    before = ""
    for trial, way in zip(wanted, reached_by, strict=True):
        kind = kind_of(trial.machine)
        times_s = earlier.trials_s.get(_case_key(trial))
        if times_s:
            measured += 1
            total_s += statistics.median(times_s)
        else:
            assumed.add(kind.assumed_overhead_s)
            total_s += kind.assumed_overhead_s + 2 * trial.uploaded_bytes / MIB / ASSUMED_MIB_S
        key = str(machine_key(trial))
        if way == "boot":
            of_boots_s = earlier.boots_s.get(key)
            machines_measured += bool(of_boots_s)
            boot_s += statistics.median(of_boots_s) if of_boots_s else kind.assumed_boot_s
        elif way == "restore":
            of_restores_s = earlier.restores_s.get((key, key != before))
            machines_measured += bool(of_restores_s)
            assumed_s = kind.assumed_restore_s if key == before else kind.assumed_change_s
            restore_s += statistics.median(of_restores_s) if of_restores_s else assumed_s
        before = key
    is_virtual = any(machine_key(trial) is not None for trial in wanted)
    return Estimate(
        boots=reached_by.count("boot") if is_virtual else None,
        restores=reached_by.count("restore") if is_virtual else None,
        boot_s=boot_s,
        restore_s=restore_s,
        total_s=total_s + boot_s + restore_s,
        measured=measured,
        trials=len(trials),
        machines_measured=machines_measured,
        overhead_s=tuple(sorted(assumed)),
    )


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
        reached_by, reached_s, waited_s = parts.get(entry.trial_id, ("reset", 0.0, 0.0))
        times.trials_s[_case_key(trial)].append(max(0.0, entry.duration_s - reached_s - waited_s))
        key = str(machine_key(trial))
        if reached_by == "restored":
            times.restores_s[key, key != before].append(reached_s)
        elif reached_by not in REACHED_WITHOUT_BOOT:
            times.boots_s[key].append(reached_s)
        before = key
    return size_bytes


def _parts(folder: Path) -> dict[str, tuple[str, float, float]]:
    """Return of each trial how its machine was reached, the seconds of its boot or restore, and those of its wait."""
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
