"""The section of a report with the findings in its builds: shown for the same build alone, and as text."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import EVIL
from campaign_factory import SHA, FakeTrial, write_campaign

from picolab.examine.check import Result, State
from picolab.examine.registry import CHECKS
from picolab.examine.run import Examination
from picolab.examine.stored import path_of, store
from picolab.record.machine import BuildUnderTest
from picolab.report.examination import findings
from picolab.results.load import CampaignData, read_campaign


def keep(time: str, *states: tuple[str, State], seen: str = "Seen.", sha256: str = SHA["calibration"]) -> Path:
    """Store an examination of a build."""
    build = BuildUnderTest(label=EVIL, kind="file", version=None, sha256=sha256, size_bytes=1)
    results = [Result(CHECKS[name], state, seen, 0.1) for name, state in states]
    examination = Examination("PicoShare", build, f"2026-11-20T{time}.000+00:00", "local", results)
    store(examination)
    return path_of(examination)


@pytest.fixture
def data(scratch: Path) -> CampaignData:
    return read_campaign(write_campaign(scratch / "outputs" / "demo", [FakeTrial()]))


def test_nothing_is_shown_without_an_examination_of_the_build(data: CampaignData) -> None:
    keep("10:00:00", ("head", "found"), sha256="d" * 64)
    # The names of the files begin alike.
    keep("11:00:00", ("head", "found"), sha256="c" * 63 + "d")

    assert findings(data) is None


def test_findings_are_shown_as_text_the_worst_first(data: CampaignData) -> None:
    keep("10:00:00", ("head", "found"), ("port-taken", "found"), ("range", "absent"), seen=EVIL)
    shown = findings(data)

    assert shown is not None
    assert "calibration server (not PicoShare): 2 findings (1 high, 1 low) in 3 checks" in shown.markup
    assert "Examined 2026-11-20 10:00 UTC by picolab" in shown.markup
    assert "<script" not in shown.markup and "<img" not in shown.markup and "&lt;/script&gt;" in shown.markup
    assert shown.markup.index("port-taken") < shown.markup.index("<code>head</code>")
    assert CHECKS["range"].title not in shown.markup


def test_the_newest_result_of_each_check_counts(data: CampaignData) -> None:
    keep("11:00:00", ("head", "not_examined"), ("range", "found"), ("dot-names", "not_examined"))
    keep("10:00:00", ("head", "found"), ("range", "absent"))
    shown = findings(data)

    assert shown is not None
    assert "2 findings (1 medium, 1 low) in 3 checks" in shown.markup
    assert "in 2 examinations" in shown.markup
    assert "1 check could not be made" in shown.markup and "<code>dot-names</code>" in shown.markup


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "is cut off or damaged"),
        ("[]", "is no examination (the whole: "),
        ('{"results": [{"severity": "extreme"}]}', "is no examination (picolab_version: Field required)"),
        ('{"server": 1e999}', "server is no finite number"),
    ],
)
def test_a_file_that_is_no_examination_is_named(data: CampaignData, content: str, why: str) -> None:
    path = keep("10:00:00", ("head", "found"))
    path.write_text(content)
    shown = findings(data)

    assert shown is not None
    assert f"{path.name}: {why}" in shown.markup
