"""The examples: picolab's own command line and parsers accept each of them."""

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import picolab_here
from test_docs import parse, table_rows

from picolab.config.parameter_file import load_campaign_parameters
from picolab.config.plan import make_plan
from picolab.config.watch_parameters import WatchParameters, check_release, load_watch_parameters
from picolab.config.yaml_text import plain, read_yaml_file
from picolab.exit_codes import ExitCode
from picolab.servers.calibration.program import server_path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
# Not PyYAML's loader, for which the name `on` is a bool.
WORKFLOW: dict[str, Any] = plain(read_yaml_file(EXAMPLES / "github-actions" / "benchmark.yml"))


def steps() -> list[dict[str, Any]]:
    (job,) = WORKFLOW["jobs"].values()
    return list(job["steps"])


def scripts() -> str:
    return "\n".join(step.get("run", "") for step in steps())


def command_lines() -> list[list[str]]:
    """Return the words behind `picolab` of each command line in the workflow."""
    found = re.findall(r"^\s*picolab (.+?)(?: \|\| .*)?$", scripts(), re.MULTILINE)
    return [shlex.split(line) for line in found]


def test_the_workflow_has_one_job_without_rights_for_forks() -> None:
    assert list(WORKFLOW["on"]) == ["pull_request"]
    assert WORKFLOW["permissions"] == {"contents": "read", "pull-requests": "write"}
    assert "${{" not in scripts(), "a title of a pull request would become code"
    assert [words[0] for words in command_lines()] == ["init", "compare", "compare", "verdict", "verdict"]
    assert scripts().count("picolab ") - scripts().count("of picolab") == len(command_lines())


@pytest.mark.parametrize("words", command_lines(), ids=" ".join)
def test_each_command_line_of_the_workflow_is_accepted(words: list[str]) -> None:
    parse(words)


def test_the_comparisons_of_the_workflow_make_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert picolab_here("init", str(tmp_path / "bench")).returncode == ExitCode.OK
    monkeypatch.chdir(tmp_path / "bench")
    for name in ("picoshare-base", "picoshare-head"):
        shutil.copy(server_path(), name)
    compared = [words for words in command_lines() if words[0] == "compare"]
    for words, labels in zip(compared, (("base", "base-again"), ("base", "head")), strict=True):
        done = picolab_here(*words, "--plan")
        assert done.returncode == ExitCode.OK, done.stderr
        assert "20 trials = 2 cases x 10 repeats" in done.stdout
        for label in labels:
            assert f"local-256mb-100M-{label}\n" in re.sub(r" +\n", "\n", done.stdout)
    campaigns = [words[words.index("--campaign") + 1] for words in compared]
    assert sorted(words[1] for words in command_lines() if words[0] == "verdict") == sorted(campaigns)


@pytest.mark.parametrize(
    ("self_code", "code", "gate"),
    [
        ("0", "0", 0),
        ("0", "1", 1),
        ("0", "2", 0),
        ("0", "3", 3),
        ("1", "1", 0),
        ("1", "0", 0),
        ("2", "1", 1),
        ("3", "0", 0),
        ("5", "0", 0),
        ("4", "1", 1),
    ],
)
def test_gate_of_the_workflow(self_code: str, code: str, gate: int) -> None:
    step = next(step for step in steps() if step.get("name") == "Gate")
    assert set(step["env"]) == {"SELF", "COMPARE"}
    done = subprocess.run(
        ["bash", "-e", "-c", step["run"]], env={"SELF": self_code, "COMPARE": code}, capture_output=True, check=False
    )
    assert done.returncode == gate
    if self_code in "345" and code == "0":
        assert done.stdout.startswith(b"::warning::"), "nobody knows how noisy the runner is"


GH = """#!/bin/sh
printf '%s\\n' "$*" >> calls
case "$*" in "api --paginate "*) printf '%b' "$FOUND" ;; esac
"""


@pytest.mark.parametrize(
    ("found", "call"),
    [
        ("", "pr comment 7 --body-file comment.md"),
        ("41\\n43\\n", "api --silent --method PATCH repos/me/it/issues/comments/41 -F body=@comment.md"),
    ],
)
def test_the_workflow_edits_its_own_comment_alone(tmp_path: Path, found: str, call: str) -> None:
    step = next(step for step in steps() if step.get("name") == "Comment")
    assert set(step["env"]) == {"GH_TOKEN", "GH_REPO", "NUMBER"}
    (tmp_path / "gh").write_text(GH)
    (tmp_path / "gh").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.defpath}", "GH_REPO": "me/it", "NUMBER": "7", "FOUND": found}
    subprocess.run(["bash", "-e", "-c", step["run"]], env=environment, cwd=tmp_path, check=True)
    asked, done = (tmp_path / "calls").read_text().splitlines()
    marker = next(step["run"] for step in steps() if step.get("name") == "Write the table").split('"')[1]
    assert marker.startswith("<!--") and f'startswith("{marker}")' in asked
    assert asked.startswith("api --paginate repos/me/it/issues/7/comments --jq ")
    assert done == call


def test_the_example_of_a_watch() -> None:
    wanted = load_watch_parameters(EXAMPLES / "watch.yaml")
    parameters = load_campaign_parameters(Path(wanted.parameters))

    check_release(parameters, wanted.release, "watch.yaml", wanted.parameters)
    assert len(make_plan(parameters, wanted.name, wanted.parameters).trials) == 20


def test_the_systemd_unit_runs_a_command_that_exists() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(EXAMPLES / "systemd" / "picolab-watch.service")
    service = unit["Service"]
    program, *words = shlex.split(service["ExecStart"])

    assert Path(program).name == "picolab"
    parse(words)
    assert int(service["SuccessExitStatus"]) == ExitCode.INTERRUPTED
    assert service["RestartPreventExitStatus"].split() == [
        str(int(code)) for code in (ExitCode.BAD_PARAMETERS, ExitCode.HOST_UNFIT)
    ]
    assert service["KillMode"] == "mixed"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_knows_every_word_of_the_unit(tmp_path: Path) -> None:
    program = tmp_path / "mybench" / ".venv" / "bin" / "picolab"
    program.parent.mkdir(parents=True)
    program.symlink_to(sys.executable)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", "--man=no", EXAMPLES / "systemd" / "picolab-watch.service"],
        env={"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "PATH": os.defpath},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_keys_of_a_watch_are_documented() -> None:
    rows = table_rows("watch.md", "## The file of a watch")

    assert [row[0].strip("`") for row in rows] == list(WatchParameters.model_fields)
    assert [row[2] for row in rows] == [field.description for field in WatchParameters.model_fields.values()]
