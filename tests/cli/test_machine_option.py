"""`--machine` and `--machines` of `matrix` and `compare`, whatever the file says."""

import re
from pathlib import Path

import pytest
from command_line import picolab_here

from picolab.cli.running import plan_of
from picolab.config.parameter_file import load_campaign_parameters
from picolab.errors import ParameterError
from picolab.exit_codes import ExitCode

OPTIONS = {"campaign": "c", "servers": (), "memory_limits": None, "file_sizes": None}
OPTIONS |= {"seed": None, "idle_limit": None, "only_plan": True}
OPTIONS |= {"machine": None, "machines": None, "overlap": False, "check_overlap": False}


def write(folder: Path, text: str) -> Path:
    file = folder / "own.yaml"
    file.write_text(text)
    return file


def machines(file: Path, machine: str | None) -> set[str]:
    plan = plan_of(load_campaign_parameters(file).model_dump(), file, {**OPTIONS, "machine": machine})  # type: ignore[typeddict-item]
    return {trial.parameters.machine for trial in plan.trials}


@pytest.mark.parametrize(
    "text",
    [
        "matrix: {ram_mb: [128, 256]}",
        "matrix: {ram_mb: [128]}\nparameters: {machine: local}",
        "matrix: {ram_mb: [128], machine: [local]}",
        "matrix: {ram_mb: [128], machine: [local], include: [{ram_mb: 256, machine: local}]}",
        "matrix: {ram_mb: [128], include: [{ram_mb: 256, machine: local}]}",
    ],
)
def test_it_overrides_the_file(tmp_path: Path, text: str) -> None:
    file = write(tmp_path, text)
    assert machines(file, None) == {"local"}
    assert machines(file, "vagrant") == {"vagrant"}


@pytest.mark.parametrize("command", [("matrix",), ("compare", "calibration", "1.4.4")])
def test_a_file_that_compares_kinds_is_refused(tmp_path: Path, command: tuple[str, ...]) -> None:
    file = write(tmp_path, "matrix: {ram_mb: [128], machine: [local, vagrant]}")
    done = picolab_here(*command, str(file), "--machine", "vagrant", "--plan")
    assert done.returncode == ExitCode.BAD_PARAMETERS
    assert "--machine vagrant: machine is a factor of the matrix" in done.stderr and str(file) in done.stderr
    assert "local, vagrant; leave --machine out, or remove the factor" in done.stderr


@pytest.mark.parametrize("command", [("matrix", "parameters/quick.yaml"), ("compare", "--self", "calibration")])
def test_the_plan_names_the_machine(command: tuple[str, ...]) -> None:
    done = picolab_here(*command, "--machine", "vagrant", "--memory-limits", "128", "--repeats", "2", "--plan")
    assert done.returncode == ExitCode.OK, done.stderr
    assert "vagrant-128mb" in done.stdout and "local-" not in done.stdout


def test_values_that_make_no_sense_there_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path, "matrix: {ram_mb: [64]}")
    done = picolab_here("matrix", str(file), "--machine", "vagrant", "--plan")
    assert done.returncode == ExitCode.BAD_PARAMETERS and "ram_mb = 64 is too little" in done.stderr


@pytest.mark.parametrize(
    ("options", "levels"),
    [
        ({"machines": 1}, {"none"}),
        ({"machines": 2}, {"preparation"}),
        ({"machines": 2, "overlap": True}, {"measurements"}),
        ({"machines": 2, "check_overlap": True}, {"none", "preparation"}),
        ({"machines": 2, "overlap": True, "check_overlap": True}, {"none", "measurements"}),
    ],
)
def test_options_set_the_number_of_machines_and_their_overlap(
    tmp_path: Path, options: dict[str, object], levels: set[str]
) -> None:
    file = write(tmp_path, "matrix: {ram_mb: [128]}")
    plan = plan_of(load_campaign_parameters(file).model_dump(), file, {**OPTIONS, **options})  # type: ignore[typeddict-item]
    assert plan.machines == options["machines"]
    assert {trial.parameters.overlap for trial in plan.trials} == levels


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("", {"overlap": True}, "--overlap is about several machines, and there is one; add --machines 2"),
        ("", {"check_overlap": True, "machines": 1}, "--check-overlap is about several machines"),
        ("parameters: {overlap: none}", {"overlap": True, "machines": 2}, "sets overlap itself; remove it there"),
        ("", {"machines": 65}, "machines = 65"),
    ],
)
def test_options_that_contradict_the_number_of_machines_are_refused(
    tmp_path: Path, text: str, options: dict[str, object], words: str
) -> None:
    file = write(tmp_path, f"matrix: {{ram_mb: [128]}}\n{text}\n")
    with pytest.raises(ParameterError, match=re.escape(words)):
        plan_of(load_campaign_parameters(file).model_dump(), file, {**OPTIONS, **options})  # type: ignore[typeddict-item]


def test_the_plan_says_how_many_machines_and_what_may_overlap(tmp_path: Path) -> None:
    file = write(tmp_path, "matrix: {ram_mb: [128]}\nrepeats: 2\n")
    done = picolab_here("matrix", str(file), "--machines", "2", "--plan")
    assert done.returncode == ExitCode.OK, done.stderr
    said = " ".join(done.stdout.split())
    assert "2 machines at the same time, as RAM and processors allow: 2 of 2 trials measure one at a time" in said
    assert "MiB of free RAM and" in said
