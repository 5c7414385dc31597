"""Commands about the project folder."""

from pathlib import Path

import click

from picolab.cli.echo import echo
from picolab.text.foreign import visible


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=".")
def init(folder: Path) -> None:
    """Make a project folder.

    It gets notebooks, parameters, a Vagrantfile and a place for results. Adds missing files and overwrites nothing.
    Without FOLDER it is the current folder.

    \b
    Examples:
      picolab init mybench
      picolab init
    """
    from picolab.config.new_project import make_project

    made, kept = make_project(folder)
    for name in kept:
        echo(f"Kept {name}: it exists already")
    is_here = folder.resolve() == Path.cwd()
    where = "this folder" if is_here else visible(str(folder))
    if not made:
        echo(f"{where.capitalize() if is_here else where} has every file of a project; nothing was changed")
        return
    echo(f"Made {len(made)} files in {where}. Next:")
    if not is_here:
        echo(visible(f"  cd {folder}"))
    echo("  picolab matrix parameters/quick.yaml")
