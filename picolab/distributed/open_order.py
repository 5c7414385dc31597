"""An order that the client has given, or will give, to the scheduler."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from picolab.config.plan import PlannedTrial
from picolab.distributed.cluster import Begun
from picolab.distributed.order import Order
from picolab.record.hosts import HostIdentity
from picolab.text.wording import counted


@dataclass
class OpenOrder:
    """Trials that belong together and have no result yet.

    Attributes:
        refused_by: the workers that could not run them, by address.
        failures: how often the task itself failed, or was stopped by somebody at its worker.
        only: the workers that may run it, by address; empty: all.
        host: where the block has begun: its rest runs there; None: anywhere.
        begun: at which worker it has begun; None: at none, as far as that is known.
    """

    trials: list[PlannedTrial]
    refused_by: set[str] = field(default_factory=set)
    failures: int = 0
    only: set[str] = field(default_factory=set)
    host: HostIdentity | None = None
    future: Any = None
    key: str = ""
    order: Order | None = None
    begun: Begun | None = None


def named(trials: Sequence[PlannedTrial]) -> str:
    """Return trials that run together in words."""
    first = trials[0].trial_id
    return first if len(trials) == 1 else f"{first} and {counted(len(trials) - 1, 'other trial')} of its block"
