"""The group of all commands: errors become one sentence and an exit code."""

import errno
import io
import os
import sys
import traceback
from contextlib import suppress
from typing import Any

import click

from picolab.errors import PicolabError
from picolab.exit_codes import ExitCode
from picolab.text.foreign import visible


class Group(click.Group):
    """Prints an error of picolab or click as one sentence, and exits with its code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["standalone_mode"] = False
        _make_streams_usable()
        try:
            code = super().main(*args, **kwargs)
            sys.stdout.flush()
            sys.exit(int(code) if code is not None else 0)
        except click.exceptions.Exit as error:
            sys.exit(error.exit_code)
        except click.ClickException as error:
            vars(error)["message"] = visible(error.message)
            error.show()
            sys.exit(int(ExitCode.BAD_PARAMETERS))
        except click.exceptions.Abort:
            sys.exit(int(ExitCode.INTERRUPTED))
        except PicolabError as error:
            print_error(str(error))
            sys.exit(int(error.exit_code))
        except KeyboardInterrupt:
            sys.exit(int(ExitCode.INTERRUPTED))
        except BrokenPipeError:
            # The reader is gone, as with `| head`: no error, and Python must not complain about it at exit.
            sys.stdout = None
            sys.exit(0)
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            more = ""
            if error.errno == errno.ENOSPC:
                more = "; free some space, then run the command again"
            print_error(f"{place}{error.strerror or error}{more}")
            _forget_unwritten_output()
            sys.exit(int(ExitCode.HOST_UNFIT))
        except Exception:
            # A bug in picolab. Python would exit with 1, which a script takes for a regression.
            click.echo(visible(traceback.format_exc()), err=True, nl=False)
            sys.exit(int(ExitCode.INSTRUMENT_FAULT))


def print_error(text: str) -> None:
    """Print an error to stderr; a closed stderr is ignored."""
    with suppress(OSError):
        click.secho(f"Error: {visible(text)}", fg="red", err=True)


def _make_streams_usable() -> None:
    """Open /dev/null for each closed standard stream, and make every character writable in any encoding.

    Otherwise the next file that is opened gets the number of the closed stream, and output is written into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _forget_unwritten_output() -> None:
    """Drop output that could not be written: Python would try again at exit and print an error of its own."""
    try:
        sys.stdout.flush()
    except OSError:
        sys.stdout = None
