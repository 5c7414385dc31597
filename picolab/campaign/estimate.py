"""The boots and the time that trials need, before they run."""

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

from picolab.config.order import is_boot, machine_key
from picolab.config.plan import PLAN_FILE, Plan
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
"""That are looked at, the newest ones: a plan is shown at once."""
_LARGEST_PLAN_BYTES = 4 * MIB


@dataclass
class EarlierTimes:
    """Seconds that earlier trials took, by case and by machine."""

    trials_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """By `_case_key`: of each trial, without the boot of its machine."""
    boots_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """By the text of `machine_key`: of each boot."""


@dataclass(frozen=True)
class Estimate:
    """The boots and the time that trials need.

    Attributes:
        boots: of virtual machines; None when no trial needs one.
        fresh: some machines have to be fresh, so a snapshot may replace a boot.
        boot_s: seconds of all boots together.
        total_s: seconds of everything, boots included.
        measured: trials of a case that earlier campaigns have timed.
        trials: how many they are.
        boots_measured: boots of a machine that earlier campaigns have timed.
        overhead_s: assumed seconds besides boot and transfers, the range over the kinds of machine that were assumed.
    """

    boots: int | None
    fresh: bool
    boot_s: float
    total_s: float
    measured: int
    trials: int
    boots_measured: int
    overhead_s: tuple[float, ...]


def estimate(trials: Sequence[TrialParameters], earlier: EarlierTimes | None = None) -> Estimate:
    """Return the boots and the time that trials need in this order.

    A trial takes the median time of earlier trials of the same case, or else the time that its transfers take at
    `ASSUMED_MIB_S` and the overhead that its kind of machine assumes; likewise for each boot.

    Args:
        earlier: default: as this project's campaigns have measured.
    """
    earlier = earlier_times() if earlier is None else earlier
    total_s = boot_s = 0.0
    measured = boots_measured = 0
    assumed: set[float] = set()
    boots = is_boot(trials)
    for trial, boots_now in zip(trials, boots, strict=True):
        kind = kind_of(trial.machine)
        times_s = earlier.trials_s.get(_case_key(trial))
        if times_s:
            measured += 1
            total_s += statistics.median(times_s)
        else:
            assumed.add(kind.assumed_overhead_s)
            total_s += kind.assumed_overhead_s + 2 * trial.uploaded_bytes / MIB / ASSUMED_MIB_S
        if boots_now:
            of_boots_s = earlier.boots_s.get(str(machine_key(trial)))
            boots_measured += bool(of_boots_s)
            boot_s += statistics.median(of_boots_s) if of_boots_s else kind.assumed_boot_s
    virtual = [trial for trial in trials if machine_key(trial) is not None]
    return Estimate(
        boots=sum(boots) if virtual else None,
        fresh=any(trial.fresh_machine != "per_campaign" for trial in virtual),
        boot_s=boot_s,
        total_s=total_s + boot_s,
        measured=measured,
        trials=len(trials),
        boots_measured=boots_measured,
        overhead_s=tuple(sorted(assumed)),
    )


def earlier_times() -> EarlierTimes:
    """Return the times of trials in this project's newest campaigns; what cannot be read is left out."""
    times = EarlierTimes()
    for folder in all_campaigns()[-_MOST_CAMPAIGNS:]:
        with suppress(PicolabError, OSError):
            _read_times(folder, times)
    return times


def _read_times(folder: Path, times: EarlierTimes) -> None:
    entries = [
        entry
        for entry in read_ledger(folder / LEDGER_FILE)[0]
        if entry.duration_s is not None and not entry.outcome.is_fault
    ]
    if not entries or (folder / PLAN_FILE).stat().st_size > _LARGEST_PLAN_BYTES:
        return
    planned = {trial.trial_id: trial.parameters for trial in Plan.load(folder).trials}
    boots_s = _boots_s(folder)
    for entry in entries:
        trial = planned.get(entry.trial_id)
        if trial is None or entry.duration_s is None:
            continue
        boot_s = boots_s.get(entry.trial_id, 0.0)
        times.trials_s[_case_key(trial)].append(max(0.0, entry.duration_s - boot_s))
        if boot_s:
            times.boots_s[str(machine_key(trial))].append(boot_s)


def _boots_s(folder: Path) -> dict[str, float]:
    """Return the seconds of the boot before each trial that had one."""
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(folder / RESULTS_FILE, LARGEST_RESULTS_BYTES))))
    except (FileNotFoundError, UnreadableFile, csv.Error):
        return {}
    found = {}
    for row in rows:
        if row.get("reached_by") and row["reached_by"] not in REACHED_WITHOUT_BOOT:
            with suppress(KeyError, TypeError, ValueError):
                boot_s = float(row["reached_s"])
                if math.isfinite(boot_s) and boot_s > 0:
                    found[row["trial_id"]] = boot_s
    return found


def _case_key(trial: TrialParameters) -> str:
    return json.dumps([getattr(trial, name) for name in (*SCENARIO_PARAMETERS, *BUILD_PARAMETERS)], sort_keys=True)
