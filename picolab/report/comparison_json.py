"""A comparison as JSON for programs: its dataclasses field by field, with numbers that JSON can hold."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from picolab.analysis.comparison.models import Comparison, MetricComparison
from picolab.exit_codes import ExitCode
from picolab.record.metric import Metric
from picolab.record.record import Caveat
from picolab.text.wording import MINUS

VERSION = 1
GATE_WORDS = {ExitCode.OK: "ok", ExitCode.REGRESSION: "regression", ExitCode.UNDECIDED: "undecided"}


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return everything in a comparison as plain JSON: stable names, null for unknown values, and no NaN.

    Ratios are candidate over baseline; changes and spreads are relative (0.05 is 5 %); values are in the unit named.
    """
    found = _json(comparison)
    found["gate"] = {
        "exit_code": int(comparison.exit_code),
        "word": GATE_WORDS[comparison.gate],
        "reason": _json(comparison.exit_reason),
    }
    del found["gate_reason"]
    return {"comparison_version": VERSION, **found}


def _json(value: Any) -> Any:
    if isinstance(value, Caveat):
        return _json(value.model_dump())
    if dataclasses.is_dataclass(value):
        found: dict[str, Any] = {}
        for field in dataclasses.fields(value):
            part = getattr(value, field.name)
            found |= _metric(part) if isinstance(part, Metric) else {field.name: _json(part)}
            if isinstance(part, Metric) and isinstance(value, MetricComparison):
                found["higher_is_better"] = part.higher_is_better
        return found
    if isinstance(value, dict):
        return {name: _json(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_json(part) for part in value]
    if isinstance(value, str):
        return value.replace(MINUS, "-")  # programs search sentences for ASCII
    return _finite(value) if isinstance(value, float) else value


def _metric(metric: Metric) -> dict[str, str]:
    return {"metric": metric.name, "unit": metric.unit}


def _finite(value: float) -> float | None:
    """Return a number with six digits; None for NaN and infinity, which JSON does not have."""
    if not math.isfinite(value):
        return None
    return float(f"{value:.6g}") if abs(value) < 1e6 else round(value, 1)
