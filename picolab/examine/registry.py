"""The registry of checks. To add one: an entry in the module of its group, and a knob of the calibration server."""

from picolab.examine import http, life
from picolab.examine.check import Check

CHECKS: dict[str, Check] = {check.id: check for group in (life, http) for check in group.CHECKS}
"""By id, in the order in which they are made."""
