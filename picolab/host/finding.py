"""A finding about this host: a measured state, and the command that fixes it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

State = Literal["good", "gap", "bad"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: name of the thing.
        state: `good`; `gap`: something is missing that not everybody needs, or numbers suffer;
            `bad`: an ordinary campaign cannot run like this.
        text: what was found, one sentence with the measured value.
        remedy: the command that fixes it, empty when there is none or none is needed.
        blocks: True when nothing at all can be measured until this is fixed.
    """

    what: str
    state: State
    text: str
    remedy: str = ""
    blocks: bool = False


Check = tuple[str, Callable[[], list[Finding]]]
"""The name of something to look at, and the function that does."""


def as_root(command: str) -> str:
    """Return a command in the form in which this user runs it as root."""
    return command if os.geteuid() == 0 else f"sudo {command}"
