"""RAM and processors of this host that machines may use at the same time."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from picolab.config.plan import Plan
from picolab.config.sizes import MIB
from picolab.config.trial_parameters import TrialParameters
from picolab.errors import HostUnfit
from picolab.host.facts import memory_info
from picolab.machines.kinds import kind_of
from picolab.text.wording import counted

CLIENT_MB = 256.0
"""Of a trial besides its machine: papermill, the kernel with the client, the probe and the keeper. On one host all
processes of a campaign used at most 157 MiB, a small server included (`benchmarks/several_machines.py`)."""


@dataclass(frozen=True)
class Budget:
    """RAM and processors that all machines of a campaign may use together.

    Attributes:
        ram_mb: MiB that were free before the first of them.
        processors: that this process may use.
    """

    ram_mb: float
    processors: int

    @classmethod
    def of_host(cls) -> "Budget":
        """Return what is free now."""
        return cls(memory_info()["MemAvailable"] / MIB, len(os.sched_getaffinity(0)))

    def fits(self, trials: Iterable[TrialParameters], idle_mb: float = 0.0) -> bool:
        """Return whether some trials may run at the same time.

        Args:
            idle_mb: MiB of RAM of machines that are up meanwhile without a trial.
        """
        ram_mb, processors = needs(trials)
        return ram_mb + idle_mb <= self.ram_mb and processors <= self.processors

    @property
    def words(self) -> str:
        """The budget in words."""
        return f"{self.ram_mb:,.0f} MiB of free RAM and {counted(self.processors, 'processor')}"


def needs(trials: Iterable[TrialParameters]) -> tuple[float, int]:
    """Return the MiB of RAM and the processors that trials need which run at the same time, with their clients."""
    ram_mb, processors = 0.0, 0
    for trial in trials:
        ram_mb += trial.ram_mb + CLIENT_MB
        processors += kind_of(trial.machine).processors(trial)
    return ram_mb, processors


def check_budget(plan: Plan, budget: Budget) -> None:
    """Refuse a number of machines that could never run at the same time; larger trials than the smallest wait.

    Raises:
        HostUnfit: not even the smallest machines of the plan fit together.
    """
    if plan.machines == 1:
        return
    shared = [trial.parameters for trial in plan.trials if not trial.parameters.runs_alone]
    smallest = _smallest(shared, plan.machines)
    if budget.fits(smallest):
        return
    ram_mb, processors = needs(smallest)
    able = next(count for count in range(plan.machines - 1, -1, -1) if budget.fits(_smallest(shared, count)))
    remedy = f"use at most {able} machines" if able > 1 else "use one machine"
    raise HostUnfit(
        f"machines = {plan.machines}: {len(smallest)} of the smallest machines of the plan need {ram_mb:,.0f} MiB of "
        f"RAM (with {CLIENT_MB:.0f} MiB each for the client) and {counted(processors, 'processor')}, and this host has "
        f"{budget.words}; {remedy}, or choose smaller ones"
    )


def _smallest(trials: Sequence[TrialParameters], count: int) -> list[TrialParameters]:
    return sorted(trials, key=lambda trial: (trial.ram_mb, trial.cpus))[:count]


_MAY = {
    "none": "run alone: no other trial runs at the same time",
    "preparation": "measure one at a time, from the server's start to the end of the measured steps; boots, "
    "verification and clean-up of others may run meanwhile",
    "measurements": "measure at the same time",
}


def machines_in_words(plan: Plan) -> str:
    """Return how many machines run at the same time, and what may overlap; empty for one machine."""
    if plan.machines == 1:
        return ""
    counts: Counter[str] = Counter(trial.parameters.overlap for trial in plan.trials)
    parts = "; ".join(f"{counts[level]} of {len(plan.trials)} trials {_MAY[level]}" for level in _MAY if counts[level])
    blocks = " A block stays on one machine." if plan.baseline is not None else ""
    return f"{plan.machines} machines at the same time, as RAM and processors allow: {parts}.{blocks}"
