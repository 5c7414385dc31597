"""The base of every part of a record."""

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """Refuses unknown fields, NaN and infinity."""

    # JSON has no NaN and no infinity: a measurement that is missing is null, with a reason.
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
