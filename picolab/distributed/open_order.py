"""An order that the client has given, or will give, to the scheduler."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from picolab.config.plan import PlannedTrial
from picolab.config.sizes import MIB
from picolab.distributed.call import Call
from picolab.distributed.cluster import Begun
from picolab.distributed.order import Order
from picolab.record.hosts import HostIdentity
from picolab.text.wording import counted

_PARCEL_S = 600.0
"""For a parcel of the largest size on its way through the scheduler."""
_PROMPT_S = 0.2
"""A parcel that takes longer is filed when it has come, and others meanwhile."""


@dataclass(eq=False)
class OpenOrder:
    """Trials that belong together and have no result yet.

    Attributes:
        whole: the trials that it had when its process died at a worker, which keeps its files; empty: as `trials`.
        refused_by: the workers that could not run them, by address.
        failures: how often the task itself failed, or was stopped by somebody at its worker.
        only: the workers that may run it, by address; empty: all.
        host: where the block has begun: its rest runs there; None: anywhere.
        coming: its parcel, on its way from the worker; None: not yet.
        begun: at which worker it has begun; None: at none, as far as that is known.
    """

    trials: list[PlannedTrial]
    whole: list[PlannedTrial] = field(default_factory=list)
    refused_by: set[str] = field(default_factory=set)
    failures: int = 0
    only: set[str] = field(default_factory=set)
    host: HostIdentity | None = None
    future: Any = None
    key: str = ""
    order: Order | None = None
    coming: Call[Any] | None = None
    begun: Begun | None = None

    @property
    def is_pending(self) -> bool:
        """Whether it waits or runs: Dask itself runs one again whose results were lost with their worker."""
        return self.future.status in ("pending", "lost")

    @property
    def has_come(self) -> bool:
        """Whether its parcel is here, or has failed to come."""
        return self.coming is not None and self.coming.has_ended()

    @property
    def ram_bytes(self) -> float:
        """RAM of its machine: its trials run one by one."""
        return float(max(trial.parameters.ram_mb for trial in self.trials) * MIB)

    def parcel(self) -> Any:
        """Return what has come, or raise the error of the attempt; then it may be fetched again."""
        assert self.coming is not None
        coming, self.coming = self.coming, None
        return coming.result()

    def take_back(self) -> None:
        """Forget its future and what comes from there: it may be given again."""
        self.future, self.coming, self.only = None, None, set()


def fetch(orders: Iterable[OpenOrder], then: Callable[[], None]) -> None:
    """Have the parcels of orders come from their workers, all at once, and wait a moment for those that begin now.

    Args:
        then: called in another thread when one is here, or has failed to come.
    """
    new = [one for one in orders if one.coming is None]
    deadline = time.monotonic() + _PROMPT_S
    for one in new:
        one.coming = Call(partial(one.future.result, timeout=_PARCEL_S), then)
    for one in new:
        assert one.coming is not None
        one.coming.has_ended(max(0.0, deadline - time.monotonic()))


def named(trials: Sequence[PlannedTrial]) -> str:
    """Return trials that run together in words."""
    first = trials[0].trial_id
    return first if len(trials) == 1 else f"{first} and {counted(len(trials) - 1, 'other trial')} of its block"
