"""The independent unit of a comparison: a trial, or the boot of a virtual machine that several trials share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from picolab.record.record import Caveat
from picolab.text.wording import counted, listed_few

if TYPE_CHECKING:
    from picolab.analysis.comparison.trials import ComparedTrial
    from picolab.record.machine import VirtualMachineRecord

_BOOTS = ("created", "booted", "reloaded")


def independent_unit(trials: Sequence[ComparedTrial]) -> str:
    """Return what the independent unit is, one sentence."""
    unit = "The independent unit is a trial on a fresh server and a fresh data folder"
    virtual = [trial for trial in trials if _virtual_machine(trial) is not None]
    if not virtual:
        return f"{unit}."
    boots = len({boot for found in _boots(virtual).values() for boot in found})
    fresh = " and ".join(dict.fromkeys(trial.record.parameters.fresh_machine for trial in virtual))
    meaning = (
        "the effect of this boot on all its trials cannot be seen"
        if boots == 1
        else "trials of one boot have its effect in common"
    )
    return (
        f"{unit}; the {len(virtual)} trials in virtual machines ran in {counted(boots, 'boot')} (fresh_machine: "
        f"{fresh}), which is a level of its own: {meaning}."
    )


def caveats(trials: Sequence[ComparedTrial]) -> list[Caveat]:
    """Return a caveat when all trials of a scenario ran in one boot of a virtual machine."""
    several = Counter(trial.scenario for trial in trials)
    scenarios = [scenario for scenario, boots in _boots(trials).items() if len(boots) == 1 and several[scenario] > 1]
    if not scenarios:
        return []
    return [
        Caveat(
            code="one_boot",
            value=len(scenarios),
            message="All trials ran in one boot of the virtual machine, so the conclusions hold for that boot only: "
            f"{listed_few(scenarios)}.",
            advice="Run the comparison a second time: each campaign boots its machines anew, and no setting of "
            "fresh_machine does so within a campaign.",
        )
    ]


def _virtual_machine(trial: ComparedTrial) -> VirtualMachineRecord | None:
    return trial.record.machine.virtual_machine if trial.record.machine else None


def _boots(trials: Sequence[ComparedTrial]) -> dict[str, set[tuple[str, int]]]:
    """Return the boots of virtual machines in which the trials of each scenario ran."""
    boots: dict[str, set[tuple[str, int]]] = {}
    number: Counter[str] = Counter()
    boot_of: dict[tuple[str, int, int], int] = {}
    for trial in trials:
        machine = trial.record.machine
        virtual = _virtual_machine(trial)
        if machine is None or virtual is None:
            continue
        # A saved state holds the state after a boot of that RAM: a restored machine is in that boot again.
        size = (machine.name, virtual.nominal_ram_bytes, virtual.cpus)
        if virtual.reached_by in _BOOTS:
            number[machine.name] += 1
            boot_of[size] = number[machine.name]
        boots.setdefault(trial.scenario, set()).add((machine.name, boot_of.setdefault(size, 0)))
    return boots
