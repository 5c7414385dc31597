"""The formats of an examination: Markdown, JUnit XML, SARIF and JSON. Text of the server is data in each of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from picolab import __version__
from picolab.examine.check import Result, Severity
from picolab.examine.run import Examination
from picolab.text.foreign import markdown_line, one_line

_LEVELS = {Severity.LOW: "note", Severity.MEDIUM: "warning", Severity.HIGH: "error"}
SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
STATE_WORDS = {"found": "found", "absent": "absent", "not_examined": "not examined"}


def summary(examination: Examination) -> str:
    """Return one sentence with the counts."""
    found = len(examination.found())
    skipped = len(examination.not_examined)
    absent = len(examination.results) - found - skipped
    text = f"{found} found, {absent} absent, {skipped} not examined"
    return f"{text}; stopped before the end" if examination.stopped else text


def as_markdown(examination: Examination) -> str:
    """Return a table of all checks, and each finding as a section to paste into an issue."""
    build = examination.build
    lines = [
        f"# Examination of {markdown_line(examination.server)} (build {markdown_line(build.label)})",
        "",
        f"SHA-256 of the build: `{build.sha256}`. Machine: {markdown_line(examination.machine)}. "
        f"{summary(examination)}.",
        "",
        "| check | result | severity | seen |",
        "|---|---|---|---|",
    ]
    for result in examination.results:
        check = result.check
        cells = (f"`{check.id}`", STATE_WORDS[result.state], check.severity.word, markdown_line(result.seen))
        lines.append(f"| {' | '.join(cells)} |")
    for result in examination.found():
        lines += ["", f"## {result.check.title}", "", *_section(result)]
    return "\n".join(lines) + "\n"


def _section(result: Result) -> list[str]:
    check = result.check
    return [
        markdown_line(f"{check.action} {result.seen} {check.matters} {check.remedy}"),
        "",
        f"Severity: {check.severity.word}. Check: `{check.id}`.",
    ]


def as_junit(examination: Examination) -> str:
    """Return JUnit XML: a finding is a failure, and a check that could not be made is skipped."""
    results = examination.results
    root = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(
        root,
        "testsuite",
        name=f"picolab examine {one_line(examination.build.label)}",
        tests=str(len(results)),
        failures=str(len(examination.found())),
        errors="0",
        skipped=str(len(examination.not_examined)),
        time=f"{sum(result.took_s for result in results):.3f}",
        timestamp=examination.begun_at[:19],
    )
    for result in results:
        check = result.check
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"examine.{check.severity.word}", name=check.id, time=f"{result.took_s:.3f}"
        )
        if result.state == "found":
            failure = ElementTree.SubElement(case, "failure", type=check.severity.word, message=check.title)
            failure.text = _xml(result.paragraph)
        elif result.state == "not_examined":
            ElementTree.SubElement(case, "skipped", message=_xml(result.seen))
        else:
            ElementTree.SubElement(case, "system-out").text = _xml(result.seen)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _xml(text: str) -> str:
    """Return text without the characters that XML 1.0 cannot hold, even escaped."""
    return re.sub(r"[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", one_line(text))


def as_sarif(examination: Examination) -> str:
    """Return SARIF 2.1.0: a rule for each check that was made, a result for each, `notApplicable` if it was not.

    Each result names the build as a relative path with line 1, and has a fingerprint: GitHub's code scanning refuses
    results without a physical location, and shows one without a fingerprint again with each upload.
    """
    kinds = {"found": "fail", "absent": "pass", "not_examined": "notApplicable"}
    rules = [
        {
            "id": result.check.id,
            "shortDescription": {"text": result.check.title},
            "fullDescription": {"text": result.check.matters},
            "help": {"text": result.check.remedy},
            "defaultConfiguration": {"level": _LEVELS[result.check.severity]},
        }
        for result in examination.results
    ]
    build = examination.build
    place = {"artifactLocation": {"uri": quote(one_line(build.label), safe="")}, "region": {"startLine": 1}}
    logical = [{"name": build.label, "kind": "module"}]
    results = [
        {
            "ruleId": result.check.id,
            "ruleIndex": index,
            "kind": kinds[result.state],
            # SARIF has a level for failures alone.
            "level": _LEVELS[result.check.severity] if result.state == "found" else "none",
            "message": {"text": result.paragraph if result.state == "found" else result.seen},
            "locations": [{"physicalLocation": place, "logicalLocations": logical}],
            "partialFingerprints": {"picolabCheck/v1": result.check.id},
        }
        for index, result in enumerate(examination.results)
    ]
    driver = {"name": "picolab examine", "version": __version__, "rules": rules}
    run = {"tool": {"driver": driver}, "results": results}
    return _json({"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]})


def as_json(examination: Examination) -> str:
    """Return all results as JSON."""
    results = [
        {
            "id": result.check.id,
            "state": result.state,
            "severity": result.check.severity.word,
            "threshold": result.check.threshold,
            "title": result.check.title,
            "action": result.check.action,
            "seen": result.seen,
            "matters": result.check.matters,
            "remedy": result.check.remedy,
            "issue": result.paragraph if result.state == "found" else None,
            "took_s": round(result.took_s, 3),
        }
        for result in examination.results
    ]
    return _json(
        {
            "picolab_version": __version__,
            "begun_at": examination.begun_at,
            "server": examination.server,
            "machine": examination.machine,
            "build": examination.build.model_dump(mode="json"),
            "stopped": examination.stopped,
            "results": results,
        }
    )


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=True) + "\n"


FORMATS: Mapping[str, Callable[[Examination], str]] = {
    "markdown": as_markdown,
    "junit": as_junit,
    "sarif": as_sarif,
    "json": as_json,
}
