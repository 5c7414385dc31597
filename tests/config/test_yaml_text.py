"""YAML that keeps the text of every scalar, and whose cost is bounded."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.invalid_input import validate
from picolab.config.parameter_file import load_campaign_parameters
from picolab.config.plan import make_plan
from picolab.config.trial_parameters import TrialParameters
from picolab.config.yaml_text import (
    DEEPEST,
    LARGEST_FILE_BYTES,
    MOST_NODES,
    YamlProblem,
    read_value,
    read_yaml,
    read_yaml_file,
)
from picolab.errors import ParameterError

LOOK_LIKE_NUMBERS = [
    *(
        "1.10",
        "007",
        "1e3",
        "0x10",
        "1_000",
        "12:30",
        "190:20:30",
        "0b11",
        "0o17",
        "010",
        "08",
        "+5",
        "-0",
        "0.0",
        "1.",
    ),
    *(".5", "1.0e+3", "1E400", "9" * 90, "2026-11-26", "2026-11-26T10:00:00Z", "1.5.4", "v1.5.4", "1.10.0"),
]
LOOK_LIKE_WORDS = [
    "yes",
    "no",
    "on",
    "off",
    "y",
    "n",
    "true",
    "False",
    "null",
    "~",
    "Null",
    ".inf",
    "-.INF",
    ".nan",
    "NaN",
]
PLAIN = [*LOOK_LIKE_NUMBERS, *LOOK_LIKE_WORDS, "=", "<<", "a b", "x#y", "a:b", "None", "inf", "1,000", "1 000"]

plain_texts = st.one_of(
    st.sampled_from(PLAIN),
    st.from_regex(r"[-+.0-9_:eExXoObBaAfFnN]{1,12}", fullmatch=True),
    st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20),
)


def stands_there(text: str) -> bool:
    """Tell whether a text may stand in a flow mapping without quotes, and is all that stands there."""
    try:
        node = yaml.compose(f"{{a: {text}}}")
        scalar = node.value[0][1]
    except (yaml.YAMLError, ValueError, IndexError, AttributeError, TypeError):
        return False
    whole = len(node.value) == 1 and isinstance(scalar, yaml.ScalarNode)
    return whole and scalar.style is None and scalar.value == text and "!" not in text[:1] and "&" not in text[:1]


def accepted(get: Any, text: str) -> Any:
    """Return what a text has become behind a door, or None when it was refused in one sentence."""
    try:
        return get(text)
    except (ParameterError, YamlProblem) as error:
        assert "\n" not in str(error) and len(str(error)) < 700
        return None


def through_a_matrix(text: str) -> tuple[str, ...]:
    data = read_yaml(
        f"{{description: {text}, matrix: {{ram_mb: [32], box: [{text}], include: [{{ram_mb: 64, box: {text}}}]}}}}"
    )
    wanted = validate(CampaignParameters, data, "here")
    plan = make_plan(wanted, "c", "here")
    boxes = {trial.parameters.box for trial in plan.trials}
    return wanted.description, *plan.factors["box"], *boxes, wanted.matrix.include[0]["box"]


def through_builds(text: str) -> tuple[str, ...]:
    data = read_yaml(f"{{builds: {{{text}: {{build: {text}, environment: {{A: {text}}}}}}}, matrix: {{ram_mb: [64]}}}}")
    wanted = validate(CampaignParameters, data, "here")
    (label, build), *_ = wanted.builds.items()
    (trial, *_) = make_plan(wanted, "c", "here").trials
    return label, build.build, build.environment["A"], trial.parameters.environment["A"], trial.parameters.build


def through_parameters(text: str) -> tuple[str, ...]:
    data = read_yaml(
        f"{{matrix: {{ram_mb: [64]}}, parameters: {{build: {text}, box: {text}, environment: {{A: {text}}}}}}}"
    )
    (trial, *_) = make_plan(validate(CampaignParameters, data, "here"), "c", "here").trials
    return trial.parameters.build, trial.parameters.box, trial.parameters.environment["A"]


def through_p(text: str) -> tuple[str, ...]:
    values = {name: read_yaml(f"{{a: {text}}}")["a"] for name in ("build", "box", "work_dir", "release_base_url")}
    trial = validate(TrialParameters, values, "picolab trial")
    return trial.build, trial.box, trial.work_dir, trial.release_base_url


@pytest.mark.parametrize("door", [through_a_matrix, through_builds, through_parameters, through_p])
@given(text=plain_texts.filter(stands_there))
def test_a_text_stays_what_it_was_or_is_refused(door: Any, text: str) -> None:
    found = accepted(door, text)
    assert found is None or set(found) == {text}


@pytest.mark.parametrize("text", [text for text in PLAIN if stands_there(text)])
@pytest.mark.parametrize("door", [through_a_matrix, through_parameters, through_p])
def test_what_looks_like_a_number_is_taken_as_the_text(door: Any, text: str) -> None:
    refused = text in ("true", "False", "null", "~", "Null")
    assert (accepted(door, text) is None) == refused


@pytest.mark.parametrize("text", LOOK_LIKE_NUMBERS)
def test_labels_too(text: str) -> None:
    label = accepted(lambda text: validate(TrialParameters, {"label": read_yaml(text)}, "here").label, text)
    assert label == text or (label is None and re.search(r"^[^0-9v]|:|e\+|.{41}", text))


@given(st.from_regex(r"[-+]?[0-9]{1,6}(\.[0-9]{1,4})?(e[0-9])?", fullmatch=True))
def test_numbers_stay_numbers_where_numbers_are_meant(text: str) -> None:
    knobs = read_yaml(f"{{calibration: {{transfer_mib_s: {text}}}, limit: {text}}}")
    trial = validate(TrialParameters, {"calibration": knobs["calibration"]}, "here")
    assert trial.calibration == {"transfer_mib_s": float(text)}
    assert type(trial.calibration["transfer_mib_s"]) in (int, float)
    assert json.loads(trial.model_dump_json())["calibration"] == {"transfer_mib_s": float(text)}
    if 0.0001 < float(text) < 3600:
        limited = validate(TrialParameters, {"ready_limit_s": knobs["limit"]}, "here")
        assert limited.ready_limit_s == float(text) and type(limited.ready_limit_s) is float


@pytest.mark.parametrize("value", [1.1, 7, True, None, float("inf")])
@pytest.mark.parametrize("name", ["build", "label", "box", "work_dir", "machine_name", "release_base_url"])
def test_a_number_without_its_text_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ParameterError, match=r"quotes|should be a text"):
        validate(TrialParameters, {name: value}, "here")
    with pytest.raises(ParameterError, match="the parameters cell"):
        TrialParameters.from_namespace({name: value})
    with pytest.raises(ValueError, match=name):
        TrialParameters.model_validate_json(json.dumps({name: value}))
    if isinstance(value, int | float):
        with pytest.raises(ParameterError, match=f"-r {name} TEXT instead of -p"):
            TrialParameters.from_namespace({name: value})


def test_a_number_in_the_environment_without_its_text_is_refused() -> None:
    with pytest.raises(ParameterError, match="put quotes around it"):
        TrialParameters.from_namespace({"environment": {"A": 1.1}})


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("{a: &x [1, 2], b: *x}", {"a": [1, 2], "b": [1, 2]}),
        ("{a: &x {b: 1}, c: {<<: *x, d: 2}}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
        ("{a: &x {b: 1}, c: {d: 2, <<: *x, b: 3}}", {"a": {"b": 1}, "c": {"b": 3, "d": 2}}),
        (
            "{a: &x {b: 1}, e: &y {b: 2, f: 3}, c: {<<: [*x, *y]}}",
            {"a": {"b": 1}, "e": {"b": 2, "f": 3}, "c": {"b": 1, "f": 3}},
        ),
        ("!!str 1.10", "1.10"),
        ("'1.10'", "1.10"),
        ('"\\ud83d\\ude00"', "\N{GRINNING FACE}"),
        ("1.10: 007", {"1.10": 7}),
        ("yes: no", {"yes": "no"}),
        ("null: ~", {"null": None}),
        ("", None),
        ("--- a\n...\n", "a"),
        ("|\n  a\n  b\n", "a\nb\n"),
    ],
)
def test_what_is_fine_stays_fine(text: str, meaning: Any) -> None:
    assert read_yaml(text) == meaning


def bomb(width: int, depth: int, begin: str = "lol") -> str:
    lines = [f"a0: &a0 [{', '.join([begin] * width)}]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, depth)]
    return "\n".join(lines)


def merge_bomb() -> str:
    lines = ["a0: &a0 {x: 1, y: 2}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}], k{n}: 1}}" for n in range(1, 9)]
    return "\n".join(lines)


HOSTILE = {
    "alias bomb": bomb(9, 9),
    "wide bomb": bomb(150, 3),
    "long chain": bomb(1, 3000),
    "merge bomb": merge_bomb(),
    "bomb inside environment": "\n".join(
        ["matrix: {ram_mb: [64]}", "parameters:", "  environment:", "    A0: &a0 [x, x, x]"]
        + [f"    A{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    ),
    "itself": "a: &a [*a]",
    "itself as a mapping": "a: &a {b: *a}",
    "nested lists": "[" * 100_000,
    "nested mappings": "{a: " * 50_000,
    "nested blocks": "\n".join(" " * n + "a:" for n in range(400)),
    "nested dashes": "- " * 60_000,
    "many values": "[" + "1," * 100_000 + "]",
    "many names": "\n".join(f"a{n}: 1" for n in range(30_000)),
    "many anchors": "\n".join(f"a{n}: &a{n} 1" for n in range(15_000)),
    "long comment": "#" * (LARGEST_FILE_BYTES - 10),
    "long scalar": "a: " + "x" * (LARGEST_FILE_BYTES - 10),
    "long escapes": 'a: "' + "\\x41" * ((LARGEST_FILE_BYTES - 10) // 4) + '"',
    "long indent": " " * (LARGEST_FILE_BYTES - 10) + "a",
    "long key": "? " + "x" * (LARGEST_FILE_BYTES - 10),
    "colons": ":" * 100_000,
    "question marks": "? " * 50_000,
    "questions": "?\n" * 50_000,
    "exclamation": "!" * 100_000,
    "tag": "!!python/object/apply:os.system [ls]",
    "object": "a: !!python/object:os.system {}",
    "name": "a: !!python/name:os.system",
    "binary": "a: !!binary aGVsbG8=",
    "set": "!!set {a, b}",
    "own tag": "a: !mine x",
    "tagged int": "a: !!int 0x10",
    "tagged float": "a: !!float abc",
    "tagged time": "a: !!timestamp 2020-13-45",
    "surrogate": 'a: "\\ud800"',
    "surrogate name": '"\\udc00": 1',
    "wrong halves": 'a: "\\ude00\\ud83d"',
    "nul": 'a: "x\\0y"',
    "raw nul": "a: x\0y",
    "escape": "a: \x1b[31m",
    "beyond unicode": 'a: "\\UFFFFFFFF"',
    "twice": "{a: 1, a: 2}",
    "twice in quotes": "{a: 1, 'a': 2}",
    "twice deep": "{x: [{a: {b: 1, b: 1}}]}",
    "two merges": "{x: &x {a: 1}, y: &y {a: 2}, z: {<<: *x, <<: *y}}",
    "merge of a text": "{<<: x}",
    "merge of texts": "{<<: [x]}",
    "list as name": "{[a]: 1}",
    "mapping as name": "{{a: 1}: 1}",
    "two documents": "a: 1\n---\nb: 2",
    "directive": "%YAML 9.9\n---\na: 1",
    "tab": "a:\n\tb: 1",
    "no anchor": "*x",
    "anchor twice": "[&a 1, &a 2, *b]",
    "half": "{a: [1, ",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_one_sentence_with_few_steps(name: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_text(HOSTILE[name], encoding="utf-8")
    with pytest.raises(ParameterError) as caught:
        load_campaign_parameters(path)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}: ") and "\n" not in sentence and len(sentence) < 600
    assert sentence.isprintable()


@pytest.mark.parametrize(
    "content", [b"\xff\xfea\0:\0", b"\xfe\xff\0a\0:", "a: 1".encode("utf-16"), b"a: \xff", b"\0" * 99]
)
def test_another_encoding_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_bytes(content)
    with pytest.raises(YamlProblem, match=r"not a text file in UTF-8|is not valid YAML"):
        read_yaml_file(path)


def test_limits_are_not_reached_by_what_somebody_writes(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    rows = "\n".join(f"    - {{ram_mb: {64 + n}, file_size: {n + 1}M}}" for n in range(1500))
    path.write_text(f"\ufeffmatrix:\n  ram_mb: [64]\n  include:\n{rows}\n", encoding="utf-8")
    assert len(load_campaign_parameters(path).matrix.include) == 1500
    assert read_yaml("[" * (DEEPEST - 1) + "]" * (DEEPEST - 1))
    assert len(read_yaml("[" + "1," * (MOST_NODES - 1) + "]")) == MOST_NODES - 1


def bounded(path: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `picolab matrix` on a file with little memory, and a time that only a hang needs."""

    def little() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))

    return subprocess.run(
        [sys.executable, "-m", "picolab", "matrix", path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=little,
        cwd=folder,
    )


@pytest.mark.parametrize(
    "what", ["/dev/zero", "/dev/tty", "fifo", "folder", "socket", "large", "sparse", "loop", "/proc/kmsg"]
)
def test_what_is_no_file_is_refused_at_once(what: str, tmp_path: Path, scratch: Path) -> None:
    import socket

    path = tmp_path / what if "/" not in what else Path(what)
    with socket.socket(socket.AF_UNIX) as made:
        if what == "fifo":
            os.mkfifo(path)
        elif what == "folder":
            path.mkdir()
        elif what == "socket":
            made.bind(os.path.relpath(path))
        elif what == "loop":
            path.symlink_to(path)
        elif "/" not in what:
            with path.open("wb") as file:
                file.truncate(1 << 30 if what == "sparse" else LARGEST_FILE_BYTES + 1)
        done = bounded(str(path), tmp_path)

    assert done.returncode == 4, done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith(f"Error: {path}: ")
    assert not (scratch / "outputs").exists()


@pytest.mark.parametrize("more", [(), ("--plan",)])
@pytest.mark.parametrize(
    "text", ['description: "\\ud800"', 'parameters: {environment: {A: "\\ud800"}}', HOSTILE["alias bomb"]]
)
def test_plan_and_run_refuse_alike(text: str, more: tuple[str, ...], tmp_path: Path, scratch: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(f"matrix: {{ram_mb: [64]}}\n{text}\n")
    done = subprocess.run(
        [sys.executable, "-m", "picolab", "matrix", str(path), *more],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (4, "") and done.stderr.count("\n") == 1
    assert not (scratch / "outputs").exists()


@pytest.mark.parametrize("text", ["./picoshare #2", "#x", "'a' # b", "{a: 1} # b", "1 # b", "a # b\n"])
def test_a_value_of_the_command_line_with_a_comment_is_refused(text: str) -> None:
    """Else another build than `./picoshare #2` would be measured."""
    with pytest.raises(YamlProblem, match="has a comment in it"):
        read_value(text)


@pytest.mark.parametrize(
    ("text", "value"), [("a#b", "a#b"), ("'./x #2'", "./x #2"), ("", None), ("{a: '# b'} ", {"a": "# b"}), ("1", 1)]
)
def test_a_value_of_the_command_line_is_whole(text: str, value: Any) -> None:
    assert read_value(text) == value
