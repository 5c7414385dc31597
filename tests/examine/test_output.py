"""The formats of an examination are well formed, whatever a server says, and the documents list the checks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from picolab.cli.main import main
from picolab.examine import thresholds
from picolab.examine.check import Check, NotExamined, Observation, Result, Severity, State
from picolab.examine.output import FORMATS, as_json, as_junit, as_markdown, as_sarif
from picolab.examine.registry import CHECKS, documentation_table
from picolab.examine.run import Examination
from picolab.exit_codes import ExitCode
from picolab.record.machine import BuildUnderTest

HOSTILE = 'a|b <script>alert("x")</script> ]]> \x1b[31m \x00 \ufffe [l](http://x) `c` @team'
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "examine.md"


def result(name: str, state: State, seen: str = HOSTILE) -> Result:
    return Result(CHECKS[name], state, seen, 0.5)


@pytest.fixture
def examination() -> Examination:
    build = BuildUnderTest.model_validate(
        {"label": "a|b", "kind": "file", "version": None, "sha256": "0" * 64, "size_bytes": 1}
    )
    results = [result("head", "found"), result("range", "absent"), result("port-taken", "not_examined")]
    return Examination("PicoShare", build, "2026-11-20T10:00:00.000+00:00", "local", results)


def test_markdown_shows_the_servers_words_as_text(examination: Examination) -> None:
    text = as_markdown(examination)
    rows = [line for line in text.splitlines() if line.startswith("| `")]

    assert [row.count("|") for row in rows] == [5, 5, 5]
    assert "@&#8203;team" in text, "an issue notifies nobody"
    assert not re.search(r"(?<!\\)<script>", text) and "[l](" not in text and "\x1b" not in text and "\x00" not in text
    assert f"## {CHECKS['head'].title}\n" in text and "## Range" not in text


def test_junit_tells_findings_from_skipped_checks(examination: Examination) -> None:
    root = ElementTree.fromstring(as_junit(examination))
    (suite,) = root

    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    counts = {"tests": "3", "failures": "1", "errors": "0", "skipped": "1"}
    assert suite.attrib == counts | {
        "name": "picolab examine a|b",
        "time": "1.500",
        "timestamp": "2026-11-20T10:00:00",
    }
    assert [sorted(case.attrib) for case in suite] == [["classname", "name", "time"]] * 3
    assert [[child.tag for child in case] for case in suite] == [["failure"], ["system-out"], ["skipped"]]
    assert '<script>alert("x")</script>' in (suite[0][0].text or "")


def test_sarif_has_a_rule_and_a_result_for_each_check(examination: Examination) -> None:
    (run,) = json.loads(as_sarif(examination))["runs"]

    rules = run["tool"]["driver"]["rules"]
    assert [(found["kind"], found["level"]) for found in run["results"]] == [
        ("fail", "note"),
        ("pass", "none"),
        ("notApplicable", "none"),
    ]
    assert [rules[found["ruleIndex"]]["id"] for found in run["results"]] == ["head", "range", "port-taken"]


def test_sarif_has_the_fields_that_readers_require(examination: Examination) -> None:
    """The required properties of SARIF 2.1.0 (sections 3.13 to 3.28), and those of GitHub's code scanning."""
    log = json.loads(as_sarif(examination))
    (run,) = log["runs"]
    driver = run["tool"]["driver"]

    assert (log["version"], driver["name"]) == ("2.1.0", "picolab examine")
    assert len({rule["id"] for rule in driver["rules"]}) == len(driver["rules"])
    for rule in driver["rules"]:
        assert all(rule[name]["text"] for name in ("shortDescription", "fullDescription", "help"))
        assert rule["defaultConfiguration"]["level"] in ("note", "warning", "error")
    for found in run["results"]:
        assert found["message"]["text"] and found["partialFingerprints"] == {"picolabCheck/v1": found["ruleId"]}
        (place,) = found["locations"]
        assert place["physicalLocation"] == {"artifactLocation": {"uri": "a%7Cb"}, "region": {"startLine": 1}}


def test_json_has_a_paragraph_for_each_finding(examination: Examination) -> None:
    content = json.loads(as_json(examination))

    assert [entry["state"] for entry in content["results"]] == ["found", "absent", "not_examined"]
    assert [entry["issue"] is not None for entry in content["results"]] == [True, False, False]
    assert content["results"][0]["issue"].startswith(CHECKS["head"].title)


def made(outcome: Callable[[], Observation]) -> Check:
    return Check(
        "toy", "A toy is broken", "It was used.", "It breaks.", "Why.", "Fix it.", Severity.MEDIUM, lambda _: outcome()
    )


def refuse() -> Observation:
    raise NotExamined("nobody was there")


@pytest.mark.parametrize(
    ("outcome", "options", "code", "shown"),
    [
        (lambda: Observation(True, "Broken."), [], ExitCode.FINDINGS, "A toy is broken"),
        (lambda: Observation(True, "Broken."), ["--fail-on", "high"], ExitCode.OK, "1 found, 0 absent"),
        (lambda: Observation(False, "Whole."), [], ExitCode.OK, "0 found, 1 absent, 0 not examined"),
        (refuse, [], ExitCode.INSTRUMENT_FAULT, "Not examined: nobody was there."),
    ],
)
def test_the_exit_code_says_what_was_found(
    outcome: Callable[[], Observation],
    options: list[str],
    code: ExitCode,
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(CHECKS, "toy", made(outcome))
    done = CliRunner().invoke(main, ["examine", "calibration", "--only", "toy", *options])

    assert done.exit_code == code
    assert shown in done.output + capfd.readouterr().out


@pytest.mark.parametrize("form", FORMATS)
def test_a_result_is_written_to_a_file(form: str, scratch: Path) -> None:
    path = scratch / "result"
    words = ["examine", "calibration", "--only", "login-before-body", "--format", form, "--output", str(path)]

    assert CliRunner().invoke(main, words).exit_code == ExitCode.OK
    assert "login-before-body" in path.read_text()


def test_parameters_of_the_machine_are_heeded(scratch: Path) -> None:
    words = ["examine", "calibration", "--only", "head", "--format", "json", "-p", "memory_limit", "none"]
    path = scratch / "result"

    assert CliRunner().invoke(main, [*words, "--output", str(path)]).exit_code == ExitCode.OK
    assert json.loads(path.read_text())["machine"] == "local, no memory limit"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("file_size", "1G"), "-p file_size: an examination takes memory_limit, cpus, box, provider, boot_limit_s"),
        (("cpus", "many"), "cpus"),
        (("cpus", "[1"), "-p cpus: '[1'"),
    ],
)
def test_wrong_parameters_are_refused(words: tuple[str, str], sentence: str) -> None:
    done = CliRunner().invoke(main, ["examine", "calibration", "--only", "head", "-p", *words])

    assert done.exit_code == ExitCode.BAD_PARAMETERS and sentence in done.output


def test_an_unknown_check_is_named() -> None:
    done = CliRunner().invoke(main, ["examine", "calibration", "--only", "nonsense"])

    assert done.exit_code == ExitCode.BAD_PARAMETERS
    assert "--only 'nonsense': there is no such check; picolab examine --list shows all" in done.output


def test_the_document_lists_all_checks() -> None:
    text = DOCUMENT.read_text().split("## Checks\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]

    head, *checks = documentation_table()
    assert rows == [head, ["---"] * len(head), *checks]
    assert len(checks) == len(CHECKS)


def test_every_threshold_is_in_the_document() -> None:
    numbers = {
        name: value for name, value in vars(thresholds).items() if name.isupper() and isinstance(value, int | float)
    }
    said = " ".join(check.threshold for check in CHECKS.values())
    words = {"_S": "{:g} s", "_SHARE": "{:.0%}", "_BYTES": "{:,.0f}", "STARTS": "{} starts"}
    for name, value in numbers.items():
        form = next(form for end, form in words.items() if name.endswith(end))
        shown = form.format(value / 1024 if name.endswith("_BYTES") else value).replace("%", " %")
        assert re.search(rf"(?<![\d.]){re.escape(shown)}", said), f"{name} = {value}: {shown!r} is in no threshold"


def test_texts_of_checks_are_sentences() -> None:
    for name, check in CHECKS.items():
        assert name == check.id and re.fullmatch(r"[a-z-]+", name)
        assert not check.title.endswith(".")
        for text in (check.action, check.threshold, check.matters, check.remedy):
            assert (text[0].isupper() or text[0].isdigit()) and text.endswith("."), text
