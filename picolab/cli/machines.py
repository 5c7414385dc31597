"""Commands about the machines that exist now."""

from collections.abc import Sequence
from typing import Any

import click

from picolab.errors import ParameterError


@click.group()
def machines() -> None:
    """List the machines that exist, or take one down."""


@machines.command("list")
def machines_list() -> None:
    """List the machines that exist.

    Leftovers of dead machines are removed first.

    \b
    Example:
      picolab machines list
    """
    from picolab.machines import registry

    registry.sweep()
    print_machines(registry.existing())


def print_machines(existing: Sequence[dict[str, Any]]) -> None:
    """Print a line for each machine."""
    from picolab.cli.terminal import print_lines

    lines = []
    for machine in existing:
        way_in = f"  get in: {machine['way_in']}" if machine["way_in"] else ""
        lines.append(
            f"{machine['name']}  {machine['kind']}  {machine['ram_mb']} MiB  held by {machine['holder']}  "
            f"server: {machine['server']}{way_in}"
        )
    print_lines(lines or ["There are no machines."])


@machines.command("remove")
@click.argument("name")
def machines_remove(name: str) -> None:
    """Take a machine down, even if a process holds it.

    Its server is stopped; a virtual machine is destroyed.

    \b
    Example:
      picolab machines remove local
    """
    from picolab.machines import registry
    from picolab.machines.folders import machine_folders

    if name not in {folder.name for folder in machine_folders()} or not registry.release_by_name(name):
        names = ", ".join(machine["name"] for machine in registry.existing()) or "none"
        raise ParameterError(f"machine {name!r}: there is no such machine; existing machines: {names}")
    click.echo(f"Machine {name!r} taken down.")
