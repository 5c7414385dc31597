"""The registry of checks. To add one: an entry in the module of its group, and a knob of the calibration server."""

from picolab.examine import configuration, crash, disk, http, life, load
from picolab.examine.check import Check

GROUPS = (life, crash, configuration, disk, http, load)
CHECKS: dict[str, Check] = {check.id: check for group in GROUPS for check in group.CHECKS}
"""By id, in the order in which they are made."""
