"""A metric: where it stands in the record, how it is shown, and how builds are compared in it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from picolab.config.sizes import MIB

if TYPE_CHECKING:
    from picolab.record.outcomes import Step

Unit = Literal["MiB/s", "s", "bytes", "1/s", "count", "share"]
"""The unit of the stored values. Bytes are shown as MiB; a count and a share have no unit in a heading."""
Place = Literal["case_table", "trial_table", "console", "throughput", "phases", "peaks"]
"""Where a metric is shown: the tables of the report, the table of `picolab status`, and the charts of a campaign."""

_DECIMALS: dict[Unit, int] = {"MiB/s": 1, "s": 3, "bytes": 1, "1/s": 1, "count": 0, "share": 3}
_HEADINGS: dict[Unit, str] = {"bytes": "MiB", "1/s": "per second", "count": "", "share": ""}


@dataclass(frozen=True)
class Metric:
    """A number of a trial."""

    name: str
    """Its column in rows, `results.csv` and the export."""
    source: str
    """The path of its field in the record, such as `upload.commit_s`."""
    title: str
    """A few words for headings, axes and verdicts; the unit follows them."""
    unit: Unit
    description: str
    """One phrase for the documentation."""
    missing: str
    """When it is null, one phrase."""
    step: Step | None = None
    """The measured step it is a number of; None: of the whole trial."""
    higher_is_better: bool = False
    """Matters only to a metric that is compared."""
    verdicts: tuple[str, str] | None = None
    """The verdicts for a candidate that is better and for one that is worse; None: builds are not compared in it."""
    gates: frozenset[str] = frozenset()
    """The directions (`upload`, `download`, `both`) in whose scenarios it decides the gate; elsewhere it is shown."""
    summary: Literal["median", "maximum"] = "median"
    """The number of a case: the median of the trials in which the step is ok, or the maximum of all trials."""
    shown: frozenset[Place] = frozenset()
    otherwise: str = ""
    """The path of the field that stands in where the part of the record with `source` is missing."""

    @property
    def better(self) -> str:
        """The verdict for a candidate that is better, such as `faster`."""
        return self.verdicts[0] if self.verdicts else ""

    @property
    def worse(self) -> str:
        """The verdict for a candidate that is worse."""
        return self.verdicts[1] if self.verdicts else ""

    @property
    def pandas_type(self) -> str:
        """The type of its column."""
        return "Int64" if self.unit in ("bytes", "count") else "Float64"

    @property
    def shown_unit(self) -> str:
        """The unit of shown values; empty for a count and a share."""
        return _HEADINGS.get(self.unit, self.unit)

    @property
    def heading(self) -> str:
        """Title and unit, such as `peak memory, MiB`."""
        return ", ".join(filter(None, (self.title, self.shown_unit)))

    @property
    def decimals(self) -> int:
        """Decimals of a shown value."""
        return _DECIMALS[self.unit]

    def in_unit(self, value: float | None) -> float | None:
        """Return a stored value in the unit in which it is shown."""
        return value if value is None or self.unit != "bytes" else round(value / MIB, 2)

    @functools.cached_property
    def paths(self) -> tuple[str, ...]:
        """The paths of the fields that `value` needs."""
        return (self.source, self._part, self.otherwise) if self.otherwise else (self.source,)

    @functools.cached_property
    def _part(self) -> str:
        return self.source.rpartition(".")[0]

    def value(self, fields: Mapping[str, Any]) -> float | int | None:
        """Return its value; None when it is missing.

        Args:
            fields: of a record, by path, from `picolab.record.fields.values_at`.
        """
        path = self.otherwise if self.otherwise and fields[self._part] is None else self.source
        found: float | int | None = fields[path]
        return found
