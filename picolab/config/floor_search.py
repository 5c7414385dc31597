"""The settings of a search for the memory floor, and the amounts of RAM that its trials may have."""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from picolab.config.sizes import RAM_STEPS_PER_MIB, SMALLEST_RAM_MB, parse_ram_mib

_LEVELS_IN_PRECISION = 4
_FINEST = 0.01
"""Levels are rounded to the largest power of two that changes them by at most this share: 12.5 instead of 12.5625."""


class FloorSearch(BaseModel):
    """A search for the smallest RAM at which a share of all trials survives a step."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    step: Literal["upload", "download", "both"] = Field("upload", description="the measured step that has to survive")
    share: Annotated[float, Field(ge=0.5, le=0.999)] = Field(0.95, description="share of trials that must survive")
    precision: Annotated[float, Field(ge=0.01, le=0.5)] = Field(
        0.1, description="how far the interval may reach from its middle, relative"
    )
    limit: Annotated[int, Field(ge=1, le=500)] = Field(80, description="trials of the search at most")
    confirm: Annotated[int, Field(ge=0, le=300)] = Field(
        20, description="survivors in a row at the recommended RAM; 0: confirm nothing"
    )
    slowdown: Annotated[float, Field(ge=0.01, le=10)] | None = Field(
        None, description="how much longer than at full speed a trial may take, relative; None: time does not matter"
    )
    references: Annotated[int, Field(ge=3, le=100)] = Field(
        5, description="trials at the largest RAM at least, whose median time is that of full speed"
    )
    low_mb: Annotated[float, Field(ge=SMALLEST_RAM_MB, le=1 << 20)] = Field(description="smallest RAM, MiB")
    high_mb: Annotated[float, Field(ge=SMALLEST_RAM_MB, le=1 << 20)] = Field(description="largest RAM, MiB")
    step_mb: Annotated[float, Field(ge=1 / RAM_STEPS_PER_MIB, le=1024)] = Field(
        1 / RAM_STEPS_PER_MIB, description="RAM is a multiple of this, MiB"
    )

    @model_validator(mode="after")
    def _is_a_range(self) -> "FloorSearch":
        if self.low_mb * (1 + self.precision) >= self.high_mb:
            raise ValueError(
                f"RAM from {self.low_mb:.10g} to {self.high_mb:.10g} MiB is no range for a precision of "
                f"{self.precision:.0%}; begin lower or end higher"
            )
        return self

    def levels(self) -> list[float]:
        """Return the MiB that a trial may have, ascending, each within about a quarter of the precision of the next."""
        count = math.ceil(math.log(self.high_mb / self.low_mb) / math.log1p(self.precision / _LEVELS_IN_PRECISION))
        wanted = [self.low_mb * (self.high_mb / self.low_mb) ** (place / count) for place in range(count + 1)]
        inside = [self._rounded(mib) for mib in wanted[1:-1]]
        return sorted({float(self.low_mb), float(self.high_mb), *(m for m in inside if self.low_mb < m < self.high_mb)})

    def _rounded(self, mib: float) -> float:
        step = max(self.step_mb, 2.0 ** math.floor(math.log2(mib * _FINEST)))
        return math.ceil(mib / step) * step


def as_ram_mb(mib: float) -> int | float:
    """Return MiB as the parameter `ram_mb` has it: an int when it is whole."""
    found = parse_ram_mib(float(mib))
    assert isinstance(found, int | float)
    return found
