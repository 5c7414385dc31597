"""Which workers may run an order now."""

from collections.abc import Sequence
from enum import Enum
from itertools import islice

from picolab.config.sizes import MIB
from picolab.distributed.capacity import Capacity, Host
from picolab.distributed.open_order import OpenOrder, named
from picolab.text.wording import listed_few


class Nobody(Enum):
    """Why no worker may run an order now."""

    WILLING = "each has refused"
    LARGE_ENOUGH = "none offers the RAM"
    THERE = "none runs on the host where its block has begun"
    FREE = "those that could share a kernel with one that may run a trial"


def able(
    one: OpenOrder, known: Capacity, given: frozenset[str], others: Sequence[OpenOrder]
) -> Sequence[Host] | Nobody:
    """Return the workers that may run an order, at least one, or why there is none.

    Args:
        given: addresses of the workers that may run orders now, one of each kernel. The only one returned may be
            another one, on a kernel where no order can be: it takes that place.
        others: the orders that the scheduler has.
    """
    willing = known.fit(one.host, refused_by=one.refused_by)
    if not willing:
        return Nobody.THERE if one.host and not known.fit(one.host) else Nobody.WILLING
    # Dask would wait forever for a worker with enough.
    fit = known.fit(one.host, one.ram_bytes, one.refused_by) if known.counts_ram else willing
    if not fit:
        return Nobody.LARGE_ENOUGH
    if not known.is_shared:
        return fit
    chosen = [host for host in fit if host.address in given]
    if not chosen:
        chosen = list(islice((host for host in fit if _is_idle(host, known, others)), 1))
    return chosen or Nobody.FREE


def why_given_up(one: OpenOrder, known: Capacity, why: Nobody, again: str) -> str:
    """Return in words why no worker can run an order, neither now nor later.

    Args:
        again: the command that continues the campaign.
    """
    if why is Nobody.LARGE_ENOUGH:
        willing = known.fit(one.host, refused_by=one.refused_by)
        only = f"of {listed_few(host.address for host in willing)}"
        whose = f"any {'worker' if len(willing) == len(known.hosts) else only}"
        return (
            f"No worker can run {named(one.trials)}: a machine of {one.ram_bytes / MIB:.10g} MiB is larger than the "
            f"RAM that {whose} offers; start a worker with more of it, and continue with: {again}"
        )
    where = f" of the host {one.host.name}, where its block has begun," if one.host else ""
    return (
        f"No worker{where} can run {named(one.trials)}: each has refused; remove the cause, and continue with: {again}"
    )


def _is_idle(host: Host, known: Capacity, others: Sequence[OpenOrder]) -> bool:
    """Return whether no order can be at any worker on the kernel of a worker."""
    there = {other.address for other in known.hosts if other.kernel == host.kernel}
    return all(one.only and not one.only & there for one in others)
