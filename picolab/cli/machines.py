"""Commands about the machines that exist now."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from picolab.cli.echo import echo
from picolab.errors import MachineError, ParameterError
from picolab.text.wording import moment

if TYPE_CHECKING:
    from pathlib import Path

    from picolab.machines.kind import MachineKind

_STATES_LIMIT_S = 10.0
"""For the states of all machines: a daemon that hangs shall not hold the list up for long."""
_LEAST_STATE_LIMIT_S = 1.0


@click.group()
def machines() -> None:
    """List the machines that exist, log in to one, shut one down, start it, or remove it."""


@machines.command("list")
def machines_list() -> None:
    """List the machines that exist.

    Each is shown with its state, the process that holds it or the trial that kept it, its server, and the way in.
    Leftovers of dead machines are removed first. A daemon that does not answer within 5 seconds is not waited for: then
    the states of its machines are unknown, and a sentence says why.

    \b
    Example:
      picolab machines list
    """
    from picolab.machines import registry

    silent = registry.silent_kinds(registry.SILENT_AFTER_S)
    registry.sweep(silent)
    existing = registry.existing()
    deadline = time.monotonic() + _STATES_LIMIT_S
    for machine in existing:
        if machine["kind"] in silent:
            machine["state"] = "unknown"
            continue
        limit_s = max(_LEAST_STATE_LIMIT_S, deadline - time.monotonic())
        machine["state"] = registry.state_of(machine["name"], limit_s)
        with suppress(MachineError):
            machine["by_hand"] = registry.by_hand(machine["name"])
    print_machines(existing)
    for kind, why in silent.items():
        if any(machine["kind"] == kind for machine in existing):
            echo(f"picolab: machines of the kind {kind} were not asked for their state: {why}", err=True)


def print_machines(existing: Sequence[dict[str, Any]]) -> None:
    """Print a few lines for each machine."""
    from picolab.cli.terminal import print_lines

    lines = []
    for machine in existing:
        since = moment(machine["since"])
        if machine["trial"]:
            holder = f"kept by the trial {machine['trial']} since {since}"
        else:
            holder = f"held by {machine['holder']} since {since}"
        lines += [
            f"{machine['name']}  {machine['kind']}  {machine['ram_mb']} MiB  {machine['state']}",
            f"  {holder}",
            f"  server: {machine['server']}",
        ]
        if machine["way_in"]:
            lines.append(f"  get in: picolab machines ssh {machine['name']}, or {machine['way_in']}")
        if machine.get("saved_states_mb"):
            sizes = " + ".join(map(str, machine["saved_states_mb"]))
            lines.append(f"  saved states: {sizes} MiB of RAM; removed with the machine")
        if machine.get("by_hand"):
            lines.append(f"  by hand: {machine['by_hand']}")
    print_lines(lines or ["There are no machines."])


@machines.command("ssh", context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
def machines_ssh(name: str, command: tuple[str, ...]) -> None:
    """Log in to a virtual machine, or run a command in it.

    A command of one word is given to the guest's shell as it is; of several, each stays one word. Exits with the
    command's exit code.

    \b
    Examples:
      picolab machines ssh vagrant
      picolab machines ssh vagrant -- free -m
      picolab machines ssh vagrant -- 'journalctl -k | tail'
    """
    folder, kind = _existing(name)
    words = kind.ssh_words(folder)
    rest = ["--", command[0] if len(command) == 1 else shlex.join(command)] if command else []
    sys.stdout.flush()
    os.execvp(words[0], [*words, *rest])


@machines.command("halt")
@click.argument("name")
def machines_halt(name: str) -> None:
    """Shut a virtual machine down, and keep it.

    Its server ends; its disk stays. A machine that a process holds is refused. `picolab machines start` boots it again.

    \b
    Example:
      picolab machines halt vagrant
    """
    folder, kind = _existing(name)
    was_running = kind.halt(folder, _steps())
    echo(f"Machine {name!r} is off." if was_running else f"Machine {name!r} was off already.")


@machines.command("start")
@click.argument("name")
def machines_start(name: str) -> None:
    """Boot a virtual machine that is off, or resume a suspended one.

    Its disk is as it was left: nothing in it is cleaned up, and its server is not started. A machine that a process
    holds is refused.

    \b
    Example:
      picolab machines start vagrant
    """
    folder, kind = _existing(name)
    has_begun = kind.start(folder, _steps())
    if not has_begun:
        echo(f"Machine {name!r} was running already.")
        return
    echo(f"Machine {name!r} is running; get in: picolab machines ssh {shlex.quote(name)}")


def _existing(name: str) -> tuple[Path, MachineKind]:
    """Return the folder of a machine, and its kind.

    Raises:
        ParameterError: there is none of that name.
    """
    from picolab.machines import registry
    from picolab.machines.folders import folder_of

    names = [machine["name"] for machine in registry.existing()]
    if name not in names:
        raise _missing(name, names)
    folder = folder_of(name)
    return folder, registry.kind_in(folder)


@machines.command("remove")
@click.argument("name")
def machines_remove(name: str) -> None:
    """Take a machine down, even if a process holds it.

    Its server is stopped; a virtual machine is destroyed. While another process makes it, that is waited for.

    \b
    Example:
      picolab machines remove local
    """
    from picolab.machines import registry
    from picolab.machines.folders import machine_folders

    if name not in {folder.name for folder in machine_folders()} or not registry.release_by_name(name, _steps()):
        raise _missing(name, [machine["name"] for machine in registry.existing()])
    echo(f"Machine {name!r} taken down.")


def _steps() -> Callable[[str], None]:
    """Return what prints the steps of a boot, and once whom a command waits for, on stderr."""
    from picolab.cli.progress import StepPrinter

    return StepPrinter().show


def _missing(name: str, existing: Sequence[str]) -> ParameterError:
    names = ", ".join(existing) or "none"
    return ParameterError(f"machine {name!r}: there is no such machine; existing machines: {names}")
