"""What machines, a pull request and a terminal are told about a comparison."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from campaign_factory import BUSY_CAVEAT
from comparison_campaigns import around, killed, paired_trials, read

from picolab.analysis.comparison.compare import compare
from picolab.analysis.comparison.models import Comparison
from picolab.config.sizes import MIB
from picolab.record.metrics import METRICS
from picolab.report.comparison_json import as_json
from picolab.report.comparison_lines import as_lines
from picolab.report.comparison_markdown import as_markdown
from picolab.report.comparison_words import value_words

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def slower(tmp_path: Path) -> Comparison:
    """A candidate that is slower, needs more memory, and was killed twice."""
    trials = killed(paired_trials(around(0.8, n=12), more_anon_mib=20), "new", [2, 5])
    trials[0].caveats = [BUSY_CAVEAT]
    return compare(read(tmp_path / "c", trials))


def cells(markdown: str) -> list[list[str]]:
    """Return the rows of the table, without head and rule."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_json_is_complete_and_valid(slower: Comparison) -> None:
    told = json.loads(json.dumps(as_json(slower), allow_nan=False))

    assert told["gate"]["exit_code"] == 1 and told["gate"]["word"] == "regression"
    assert told["gate"]["reason"] == slower.gate_reason.replace("−", "-")
    assert len(told["metrics"]) == len(slower.metrics)
    first = told["metrics"][0]
    assert (first["metric"], first["verdict"], first["gates"]) == ("throughput_mib_s", "slower", True)
    assert first["ratio"] == pytest.approx(0.8, rel=0.01)
    assert len(first["pairs"]) == 10 and first["incomplete"] == [
        "block 2: new ended oom_killed",
        "block 5: new ended oom_killed",
    ]
    assert first["pairs"][0]["candidate_value"] == pytest.approx(slower.metrics[0].pairs[0].candidate_value, rel=1e-5)
    assert told["outcomes"][0]["candidate_outcomes"] == {"ok": 10, "oom_killed": 2}
    assert {caveat["code"] for caveat in told["caveats"]} >= {"host_busy"}
    assert told["builds"][0]["n"] == 12


def test_json_has_every_field_of_a_comparison(slower: Comparison) -> None:
    told = as_json(slower)
    for part, found in (
        (told, slower),
        (told["metrics"][0], slower.metrics[0]),
        (told["metrics"][0]["pairs"][0], slower.metrics[0].pairs[0]),
        (told["outcomes"][0], slower.outcomes[0]),
        (told["builds"][0], slower.builds[0]),
    ):
        assert set(vars(found)) - {"gate_reason"} <= set(part)


def test_json_has_no_nan(slower: Comparison) -> None:
    broken = replace(slower.metrics[0], ratio=math.nan, high=math.inf, low=None)
    told = as_json(replace(slower, metrics=(broken,)))
    assert [told["metrics"][0][name] for name in ("ratio", "low", "high")] == [None] * 3


def test_fields_of_the_json_are_documented(slower: Comparison) -> None:
    text = (ROOT / "docs" / "comparison.md").read_text().split("\n## JSON\n")[1].split("\n## ")[0]
    documented = re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)
    told = as_json(slower)
    parts = (told, told["gate"], told["metrics"][0], told["metrics"][0]["pairs"][0], told["outcomes"][0])

    assert documented == [name for part in (*parts, told["builds"][0]) for name in part]


def test_markdown_has_the_verdicts_in_a_table(slower: Comparison) -> None:
    text = as_markdown(slower)
    rows = cells(text)
    head, *others = [part for part in text.split("\n\n") if part]

    assert head == "### new against old in c, margin 5 %"
    assert others[0].startswith("| scenario | build | metric | verdict |")
    assert [row[2] for row in rows] == ["upload", "peak memory", "transfer \\*", "commit \\*", "download \\*"]
    assert rows[0][3] == "**slower**" and re.fullmatch(r"−\d\d\.\d % \[−\d\d\.\d, −\d\d\.\d\]", rows[0][4])
    assert rows[0][5:8] == ["99.0 MiB/s", "79.1 MiB/s", "10 of 12"]
    assert rows[1][3] == "**more memory**" and rows[1][4].startswith("+83.4 % [+83.")
    assert rows[1][5:7] == ["24.0 MiB", "44.0 MiB"]
    assert "**Gate:** exit code 1: regression: upload of new" in text
    assert "oom\\_killed 2 of 12 against 0 of 12" in text
    assert "- `host_busy`: " in text
    assert "block 2: new ended oom\\_killed" in text


def test_names_from_outside_do_not_break_the_markdown(slower: Comparison) -> None:
    evil = "a|b*c*<script>`x`\n[link](http://elsewhere)"
    found = tuple(replace(c, candidate=evil) for c in slower.metrics)
    text = as_markdown(replace(slower, metrics=found, candidates=(evil,), campaign=evil))
    rows = cells(text)

    assert all(len(row) == 9 for row in rows)
    assert "<script>" not in text.replace("\\<", "") and "](http" not in text


def test_terminal_says_the_gate_first(slower: Comparison) -> None:
    lines = as_lines(slower)

    assert lines[0] == f"exit code 1: {slower.gate_reason}"
    (upload,) = [line for line in lines if re.search(r"  upload  ", line)]
    assert upload.split()[:4] == ["local-512mb-100M", "new", "upload", "slower"]
    assert not any("\n" in line for line in lines)


def test_too_few_pairs_promise_less(tmp_path: Path) -> None:
    text = as_markdown(compare(read(tmp_path / "c", paired_trials(around(0.8, n=4)))))
    rows = cells(text)

    assert rows[0][3] == "**no verdict**" and rows[0][4].endswith("] at 88 %") and rows[0][8] == "–"
    assert "4 pairs; at least 6 are needed" in text
    assert "exit code 2: undecided" in text


def test_what_is_not_comparable_says_so_before_the_table(tmp_path: Path) -> None:
    trials = paired_trials(around(0.8))
    for trial in trials:
        trial.block += 10 if trial.label == "new" else 0
    comparison = compare(read(tmp_path / "c", sorted(trials, key=lambda trial: trial.block)))
    text = as_markdown(comparison)

    assert text.index("Not comparable in time: no block holds both builds") < text.index("| scenario |")
    assert {row[3] for row in cells(text)} == {"**no verdict**", "no verdict"}
    assert {row[4] for row in cells(text) if row[2] == "upload"} == {"−20.0 %"}


def test_self_comparison_says_that_it_should_find_nothing(tmp_path: Path) -> None:
    comparison = compare(read(tmp_path / "c", paired_trials(around(1.0), labels=("a", "b")), baseline="a"))
    words = "It should find nothing"
    assert words in as_markdown(comparison) and any(words in line for line in as_lines(comparison))


def test_values_have_their_unit() -> None:
    assert value_words(METRICS["throughput_mib_s"], 99.04) == "99.0 MiB/s"
    assert value_words(METRICS["peak_anon_bytes"], 24.5 * MIB) == "24.5 MiB"
    assert value_words(METRICS["peak_anon_bytes"], None) == "–"
