"""The registry of checks. To add one: an entry in the module of its group, and a knob of the calibration server.

`python -m picolab.examine.registry` prints the table of checks for docs/examine.md.
"""

from picolab.examine import configuration, crash, disk, http, load, start_stop
from picolab.examine.check import Check

GROUPS = (start_stop, crash, configuration, disk, http, load)
CHECKS: dict[str, Check] = {check.id: check for group in GROUPS for check in group.CHECKS}
"""By id, in the order in which they are made."""


def documentation_table() -> list[list[str]]:
    """Return the cells of the table of checks in docs/examine.md, its head first."""
    rows = [
        [f"`{check.id}`", check.severity.word, check.title, check.action, check.threshold] for check in CHECKS.values()
    ]
    return [["check", "severity", "finding", "action", "threshold"], *rows]


if __name__ == "__main__":
    head, *rows = documentation_table()
    for cells in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(cells)} |")
