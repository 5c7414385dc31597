"""Runs the examination: a machine of its own, one check after the other, and everything taken down at the end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from picolab.config.trial_parameters import TrialParameters
from picolab.errors import ParameterError, PicolabError
from picolab.examine.bench import Bench
from picolab.examine.check import Check, NotExamined, Result, Severity, State
from picolab.host.processes import this_process
from picolab.machines import registry
from picolab.machines.base import Holder, MachineWish
from picolab.machines.kinds import kind_of
from picolab.record.machine import BuildUnderTest, MachineRecord
from picolab.servers.build import check_in_guest
from picolab.servers.exchange import Unanswered
from picolab.servers.registry import server_of
from picolab.text.foreign import one_line

MACHINE_NAME = "examine"
RAM_MB = 512


@dataclass(frozen=True)
class Examination:
    """An examination of one build.

    Attributes:
        server: title of the server.
        machine: where it ran, in a few words, such as `local, no memory limit`.
        begun_at: wall clock time, ISO 8601, UTC.
        results: in the order of the checks; fewer than those when it was stopped.
        stopped: somebody ended it before the last check.
    """

    server: str
    build: BuildUnderTest
    begun_at: str
    machine: str
    results: Sequence[Result]
    stopped: bool = False

    def found(self, at_least: Severity = Severity.LOW) -> list[Result]:
        """Return the findings of this severity or above."""
        return [result for result in self.results if result.state == "found" and result.check.severity >= at_least]

    @property
    def not_examined(self) -> list[Result]:
        return [result for result in self.results if result.state == "not_examined"]


def examine(
    parameters: TrialParameters,
    checks: Sequence[Check],
    report: Callable[[str], None] = lambda line: None,
    stop_requested: Callable[[], bool] = lambda: False,
    keep: Callable[[Examination], None] = lambda examination: None,
) -> Examination:
    """Examine a build on a machine of its own.

    Args:
        parameters: server, build, machine and the settings of both are used; RAM, file size and limits are not.
        report: is called with a line before each check, and with those of a boot.
        stop_requested: ends it between two checks when it returns true.
        keep: is called after each check with the examination so far, and at the end.

    Returns:
        The examination; that so far when KeyboardInterrupt ended it in the middle of a check.

    Raises:
        BuildError: there is no such build, or it cannot run in the machine.
        ParameterError: the parameters do not fit the machine or the server.
        HostUnfit: this host cannot make the machine.
        MachineError: the machine could not be made, or somebody holds one of its name.
    """
    server = server_of(parameters.server)
    kind = kind_of(parameters.machine)
    why_unfit = server.why_unfit(parameters) or kind.why_unfit(parameters)
    if why_unfit is not None:
        raise ParameterError(why_unfit)
    build = server.find_build(parameters, in_guest=kind.is_virtual)
    check_in_guest(build, kind.guest_system(parameters))
    registry.check_free(MACHINE_NAME)
    registry.check_not_kept(MACHINE_NAME)
    wish = MachineWish(
        *(MACHINE_NAME, RAM_MB, parameters.memory_limit, parameters.work_dir, parameters.machine),
        *(parameters.cpus, parameters.box, parameters.provider, parameters.boot_limit_s),
        report=report,
    )
    settings = {name: getattr(parameters, name) for name in server.heeds}
    results: list[Result] = []
    begun_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    with contextlib.ExitStack() as stack:
        machine = registry.obtain(wish, Holder(this_process(), keep=False))
        stack.callback(machine.release)
        # The machine's folder is removed with the machine, also when this process is killed.
        bench = Bench(machine, server, build, settings, machine.folder)
        so_far = Examination(
            server.title, build.identity, begun_at, _in_words(machine.describe()), results, stopped=True
        )
        for number, check in enumerate(checks, 1):
            if stop_requested():
                return so_far
            report(f"check {number} of {len(checks)}, {check.id}: {check.action}")
            try:
                results.append(_result(check, bench))
            except KeyboardInterrupt:
                return so_far
            keep(so_far)
    whole = replace(so_far, stopped=False)
    keep(whole)
    return whole


def _in_words(machine: MachineRecord) -> str:
    words = [machine.kind]
    if machine.virtual_machine is not None:
        words.append(machine.virtual_machine.acceleration)
    if machine.memory_limit.method == "none":
        words.append("no memory limit")
    return ", ".join(words)


def _result(check: Check, bench: Bench) -> Result:
    begun = time.monotonic()
    try:
        observed = check.examine(bench)
        state: State = "found" if observed.found else "absent"
        seen = observed.seen
    except NotExamined as reason:
        state, seen = "not_examined", f"Not examined: {reason}."
    except Unanswered as error:
        state, seen = "not_examined", f"Not examined: a request ended with {error.ending} ({error.detail})."
    except (PicolabError, OSError) as error:
        state, seen = "not_examined", f"Not examined: {error}."
    return Result(check, state, one_line(seen), time.monotonic() - begun)
