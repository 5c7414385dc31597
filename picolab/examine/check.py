"""A check of the examination, its observation, and its result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from picolab.examine.bench import Bench

State = Literal["found", "absent", "not_examined"]


class Severity(IntEnum):
    """How much a finding matters."""

    LOW = 1
    """An inconvenience."""
    MEDIUM = 2
    """Operators stumble over it, or lose time or disk space."""
    HIGH = 3
    """Users lose files or uploads, or the server is open or down without a sign of it."""

    @property
    def word(self) -> str:
        return self.name.lower()


class NotExamined(Exception):
    """A check could not be made; the text is the reason."""


@dataclass(frozen=True)
class Observation:
    """The observation of a check.

    Attributes:
        found: the weakness is there.
        seen: a sentence with the numbers; may quote the server.
    """

    found: bool
    seen: str


@dataclass(frozen=True)
class Check:
    """A check of the examination: one entry of `CHECKS`.

    Attributes:
        id: for `--only`, and stable from version to version.
        title: the weakness, as a claim that is true when it is found.
        action: what the check does.
        threshold: from where on the weakness is found, a sentence; its numbers are those of `thresholds`.
        matters: why the weakness matters.
        remedy: what the server's author can do.
        examine: does it; raises NotExamined or a PicolabError when it cannot be done.
    """

    id: str
    title: str
    action: str
    threshold: str
    matters: str
    remedy: str
    severity: Severity
    examine: Callable[[Bench], Observation]


@dataclass(frozen=True)
class Result:
    """The result of a check.

    Attributes:
        seen: what was observed, or why nothing could be.
        took_s: seconds that the check took.
    """

    check: Check
    state: State
    seen: str
    took_s: float

    @property
    def paragraph(self) -> str:
        """The finding as a paragraph for an issue, in plain text."""
        check = self.check
        return f"{check.title}. {check.action} {self.seen} {check.matters} {check.remedy}"
