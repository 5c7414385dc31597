"""Commands about the box that virtual machines are made from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from picolab.cli.echo import echo
from picolab.config.sizes import MIB
from picolab.text.foreign import visible

if TYPE_CHECKING:
    from picolab.machines.vagrant.box import ListedBox


@click.group()
def box() -> None:
    """Build, share, list or remove the box of virtual machines."""


@box.command("build")
@click.option("--name", default="picolab", show_default=True, help="Name of the box in Vagrant.")
@click.option("--mirror", help="Debian mirror; default: this host's own package sources.")
@click.option("--suite", help="Debian release; default: bookworm.")
def box_build(name: str, mirror: str | None, suite: str | None) -> None:
    """Build a small box, and add it to Vagrant.

    It is made from Debian packages in about half a minute.

    \b
    Examples:
      picolab box build
      picolab box build --mirror http://mirror.example.org/debian
    """
    from picolab.machines.vagrant.box import build_box

    built = build_box(name=name, mirror=mirror, suite=suite, report=lambda line: echo(visible(line)))
    echo(f"Box {built.name!r} {built.version}: {built.size_bytes / MIB:,.0f} MiB in {built.duration_s:.0f} s")


@box.command("list")
def box_list() -> None:
    """List Vagrant's boxes and libvirt's copies.

    libvirt calls the copies base volumes.

    \b
    Example:
      picolab box list
    """
    from picolab.machines.vagrant.box import list_boxes

    print_boxes(list_boxes())


def print_boxes(boxes: Sequence[ListedBox]) -> None:
    """Print a line for each box, and libvirt's copies of it below."""
    from picolab.cli.terminal import print_lines

    lines: list[str] = []
    for box in boxes:
        for version in box.boxes:
            recipe = f"recipe {version.recipe}" if version.recipe else f"version {version.version}"
            by = " (by this version of picolab)" if box.current else ""
            lines.append(f"{box.name}  {version.provider}  {recipe}{by}  {version.size_bytes / MIB:,.0f} MiB")
        if not box.boxes:
            lines.append(f"{box.name}  no longer in Vagrant")
        if box.base_volumes is None:
            lines.append("  libvirt does not answer, so its copies are not known")
        for volume in box.base_volumes or ():
            users = f"used by {', '.join(volume.used_by)}" if volume.used_by else "used by no machine"
            lines.append(f"  base volume {volume.name}  {volume.allocation_bytes / MIB:,.0f} MiB  {users}")
    print_lines(lines or ["There are no boxes. Build one with: picolab box build"])


@box.command("export")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", default="picolab", show_default=True, help="Name of the box in Vagrant.")
def box_export(file: Path, name: str) -> None:
    """Write a box into one file, for others to add.

    The file holds the SHA-256 of each of its parts. An existing file is not replaced.

    \b
    Example:
      picolab box export picolab.box
    """
    from picolab.machines.vagrant.box_file import export_box

    done = export_box(name, file)
    echo(visible(f"{done.path}: {done.size_bytes / MIB:,.0f} MiB, checksum {done.sha256}"))


@box.command("add")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", default="picolab", show_default=True, help="Name that the box gets in Vagrant.")
def box_add(file: Path, name: str) -> None:
    """Add a box that `picolab box export` wrote.

    A damaged file, or one of another origin, is refused. Prints the same checksum as the export: compare the two when
    the file came over an unsafe way.

    \b
    Example:
      picolab box add picolab.box
    """
    from picolab.machines.vagrant.box import add_box

    added = add_box(file, name, report=lambda line: echo(visible(line)))
    echo(f"Box {added.name!r} {added.recipe} added, checksum {added.sha256}")


@box.command("remove")
@click.argument("name")
def box_remove(name: str) -> None:
    """Remove a box and libvirt's copy of it.

    Vagrant alone leaves that copy behind.

    \b
    Example:
      picolab box remove picolab
    """
    from picolab.machines.vagrant.box import remove_box

    remove_box(name)
    echo(f"Box {name!r} removed.")
