"""Plain text on the terminal, without the time that it takes to import rich."""

import os
import sys

import click


def echo(text: str, *, nl: bool = True, err: bool = False) -> None:
    """Print a text unchanged. Once its reader is gone, as with `| head`, the command continues in silence.

    `click.echo` would end the command with exit code 1, which a gate takes for a regression.
    """
    try:
        click.echo(text, nl=nl, err=err)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), (sys.stderr if err else sys.stdout).fileno())
