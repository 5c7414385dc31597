"""Runs picolab's command line in the test's own process, which takes a fraction of a second."""

import signal
from subprocess import CompletedProcess

from click.testing import CliRunner

from picolab.cli.main import main

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def picolab_here(*words: str) -> "CompletedProcess[str]":
    """Run a command as `python -m picolab` would, and return its exit code and what it printed.

    Use a real process for signals, closed streams, pipes and the environment that Python starts with.
    """
    handlers = [signal.getsignal(number) for number in SIGNALS]
    try:
        result = CliRunner().invoke(main, words, prog_name="picolab")
    finally:
        for number, handler in zip(SIGNALS, handlers, strict=True):
            signal.signal(number, handler)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return CompletedProcess(words, result.exit_code, result.stdout, result.stderr)
