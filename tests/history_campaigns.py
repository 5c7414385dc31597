"""Invented campaigns of several nights, builds and hosts, for tests of the history."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from campaign_factory import FakeTrial, write_campaign
from comparison_campaigns import paired_trials

from picolab.config.project import outputs_dir

SHA = {name: name[-1] * 64 for name in ("build-a", "build-b", "build-c")}


def night(
    number: int, builds: dict[str, float], host: str = "bench", repeats: int = 3, kernel: str = "6.1.0", **special: Any
) -> Path:
    """Write the campaign of a night: each build with its speed, in a case of its own.

    Args:
        number: days after the first night.
        builds: label -> speed, 1 is usual.
    """
    trials = [
        FakeTrial(
            build="1.5.4",
            label=label,
            build_sha256=SHA[label],
            block=block,
            speed=speed * (1 + 0.002 * ((number * 7 + block * 3) % 5 - 2)),
            started_min=number * 24 * 60 + 10 * block,
            kernel=kernel,
            **special,
        )
        for block in range(1, repeats + 1)
        for label, speed in builds.items()
    ]
    folder = outputs_dir() / f"{host}-{number:02d}"
    write_campaign(folder, trials)
    if host != "bench":
        for path in (folder / "trials").iterdir():
            path.write_text(path.read_text().replace('"hostname": "bench"', f'"hostname": "{host}"'))
    dated(folder, number)
    return folder


def dated(folder: Path, number: int, **more: Any) -> None:
    """Give a campaign's plan its date, and other values."""
    begun = datetime(2026, 11, 22, 10, tzinfo=UTC) + timedelta(days=number)
    plan = json.loads((folder / "plan.json").read_text()) | {"created_at": begun.isoformat(), **more}
    (folder / "plan.json").write_text(json.dumps(plan))


def paired_night(number: int, ratio: float) -> Path:
    """Write a campaign that compares `old` and `new` in ten pairs."""
    folder = outputs_dir() / f"pairs-{number:02d}"
    ratios = [ratio * (1 + 0.004 * ((block * 3) % 5 - 2)) for block in range(10)]
    write_campaign(folder, paired_trials(ratios))
    dated(folder, number, baseline="old", margin_percent=5.0)
    return folder
