"""A robust fit of a sum of terms that are at least 0 to values whose error is relative.

A time of 100 s varies by more seconds than one of 1 s, so residuals are ln(value / fitted). They are weighted as by
Huber with a scale of their own (P. J. Huber, "Robust Statistics", 1981, proposal 2), so that an outlier pulls the fit
by a bounded amount. Intervals follow Student's t, with the variance of the fit and of one more value (delta method).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

_BOUND = 2.0
"""Standard deviations beyond which a residual counts less; 99 % efficient for normal errors. With a smaller bound the
intervals of heavy-tailed times are too narrow."""
_KEPT = 0.9205
"""E[min(z^2, _BOUND^2)] of a standard normal z."""
_LEAST_SPREAD = 1e-3
"""Relative; nothing repeats more exactly than that."""
_ROUNDS, _SCALE_ROUNDS, _CONVERGED = 25, 4, 1e-6


@dataclass(frozen=True)
class RobustLine:
    """A fitted sum of terms.

    Attributes:
        factors: of the terms, at least 0.
        spread: relative standard deviation of one value around the line.
        freedom: number of values minus number of terms.
    """

    factors: tuple[float, ...]
    spread: float
    freedom: int
    _covariance: Values
    """Of the factors, for a spread of 1."""

    def at(self, terms: Sequence[float]) -> float:
        """Return the fitted value."""
        return sum(factor * term for factor, term in zip(self.factors, terms, strict=True))

    def interval(self, terms: Sequence[float], confidence: float) -> tuple[float, float]:
        """Return the interval that one more value there falls into with `confidence`."""
        import numpy as np
        from scipy.special import stdtrit

        middle = self.at(terms)
        gradient = np.array(terms) / middle
        of_line = float(gradient @ self._covariance @ gradient)
        reach = float(stdtrit(self.freedom, (1 + confidence) / 2)) * self.spread * math.sqrt(1 + of_line)
        return middle * math.exp(-reach), middle * math.exp(reach)


def robust_line(terms: Sequence[Sequence[float]], values: Sequence[float]) -> RobustLine:
    """Return the fit of `values[i] = sum(factors[j] * terms[i][j])`.

    Args:
        terms: each at least 0, with a positive one in each row; more rows than columns.
        values: above 0.

    Raises:
        ValueError: a term or value is out of range, or there are too few values.
    """
    import numpy as np
    from scipy.optimize import nnls

    design, found = np.array(terms, dtype=float), np.array(values, dtype=float)
    if len(found) <= design.shape[-1]:
        raise ValueError(f"{len(found)} values are too few for {design.shape[-1]} terms")
    if not (np.isfinite(design).all() and np.isfinite(found).all() and design.min() >= 0 and found.min() > 0):
        raise ValueError("terms should be finite and at least 0, values finite and above 0")
    scale = design.max(axis=0)
    scale[scale == 0] = 1.0
    design = design / scale
    freedom = len(found) - design.shape[1]
    fitted, residuals = found, np.zeros_like(found)
    weights, spread = np.ones_like(found), 1.0
    factors = np.zeros(design.shape[1])
    for _ in range(_ROUNDS):
        # A Gauss-Newton step on ln(value / fitted): the fit is linear where it was, in units of what was fitted.
        before, root = factors, np.sqrt(weights)
        factors, _ = nnls(design / fitted[:, None] * root[:, None], (1 + residuals) * root)
        fitted = np.maximum(design @ factors, 1e-12 * found.max())
        residuals = np.log(found / fitted)
        for _ in range(_SCALE_ROUNDS):
            kept = np.minimum(residuals**2, (_BOUND * spread) ** 2)
            spread = max(_LEAST_SPREAD, float(np.sqrt(kept.sum() / (_KEPT * freedom))))
        weights = np.minimum(1.0, _BOUND * spread / np.maximum(np.abs(residuals), 1e-300))
        if np.abs(factors - before).max() <= _CONVERGED * np.abs(factors).max():
            break
    jacobian = design / fitted[:, None]
    covariance = np.linalg.pinv(jacobian.T @ jacobian) / np.outer(scale, scale)
    return RobustLine(tuple((factors / scale).tolist()), spread, freedom, covariance)
