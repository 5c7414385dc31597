"""The doctor: what this host can and cannot do for a benchmark, and the command that fixes each gap.

Nothing is changed: a tiny cgroup is made and removed again to prove that memory can be limited here, and so is a pair
of network devices in a namespace of its own, where nobody else sees it.
"""

import threading
import time
from collections.abc import Callable

from picolab.doctor import host, tools
from picolab.host.finding import Check, Finding
from picolab.machines.kinds import DEFAULT_KIND, KINDS

__all__ = ["Finding", "examine"]

TIME_LIMIT_S = 2.0
"""For all checks together; one that hangs becomes a finding of its own."""

_OF_THE_HOST: tuple[Check, ...] = (
    ("RAM", host.ram),
    ("work disk", host.work_disk),
    ("outputs", host.outputs),
    ("processors", host.processors),
    ("CPU governor", host.governor),
    ("Jupyter kernel", tools.jupyter_kernel),
    ("notebooks", tools.notebooks),
    ("machines", tools.machines),
    ("leftovers", tools.leftovers),
)


def checks() -> list[Check]:
    """Return what is looked at, in the order of importance: what only some kinds of machines need comes last."""
    others = (kind for name, kind in KINDS.items() if name != DEFAULT_KIND)
    return [*KINDS[DEFAULT_KIND].checks(), *_OF_THE_HOST, *(check for kind in others for check in kind.checks())]


def examine() -> list[Finding]:
    """Look at everything, and return what was found in the order of importance. Raises nothing."""
    wanted = checks()
    results: list[list[Finding]] = [[] for _ in wanted]
    threads = [
        # Daemons: a check that hangs (a dead network disk, a keeper that was stopped) must not hold anybody up.
        threading.Thread(target=_run, args=(what, check, found), daemon=True)
        for (what, check), found in zip(wanted, results, strict=True)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + TIME_LIMIT_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    unknown = f"is not known: the host gave no answer within {TIME_LIMIT_S:g} s"
    return [
        finding
        for (what, _), found in zip(wanted, results, strict=True)
        for finding in tuple(found) or (Finding(what, "gap", unknown),)
    ]


def _run(what: str, check: Callable[[], list[Finding]], found: list[Finding]) -> None:
    try:
        found.extend(check())
    except Exception as error:
        found.append(Finding(what, "gap", f"is not known: {type(error).__name__}: {error}"))
