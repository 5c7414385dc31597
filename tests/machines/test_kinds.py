"""The registry of machine kinds: nobody else knows their names, and a new kind needs no other change."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from picolab.campaign.preflight import check_plan
from picolab.charts.style import group_label, machine_label
from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.invalid_input import validate
from picolab.config.plan import Plan, make_plan
from picolab.config.trial_parameters import TrialParameters
from picolab.doctor import diagnosis, leftovers
from picolab.errors import HostUnfit, ParameterError
from picolab.host.finding import Check, Finding
from picolab.host.leftovers import LeftoverKind
from picolab.host.processes import this_process
from picolab.machines import folders, registry
from picolab.machines.base import Holder, Machine, MachineWish
from picolab.machines.kind import HostDisk, MachineKind
from picolab.machines.kinds import DEFAULT_KIND, KINDS, kind_of

PACKAGE = Path(folders.__file__).parents[1]


def constants(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


@pytest.mark.parametrize("name", list(KINDS))
def test_a_kinds_name_is_in_its_own_folder_alone(name: str) -> None:
    others = [path for path in PACKAGE.rglob("*.py") if not path.is_relative_to(PACKAGE / "machines" / name)]

    assert [str(path) for path in others if name in constants(path)] == []


@pytest.mark.parametrize("room", ["machines", "agent"])
def test_machines_and_agent_know_no_server(room: str) -> None:
    files = [path for path in (PACKAGE / room).rglob("*") if path.is_file() and path.suffix != ".pyc"]

    assert [str(path) for path in files if b"picoshare" in path.read_bytes().lower()] == []


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_each_kind_is_complete(kind: MachineKind) -> None:
    assert KINDS[kind.name] is kind and kind_of(kind.name) is kind
    for name in MachineKind.__annotations__:
        assert getattr(kind, name) is not None, name
    assert kind.checks() and kind.leftovers()
    assert (PACKAGE / "machines" / kind.name / "kind.py").is_file()


def test_the_declarations_import_no_implementation() -> None:
    code = "import sys, picolab.machines.kinds; print(*(name for name in sys.modules if name.startswith('picolab')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    heavy = {"picolab.machines.base", "picolab.config.trial_parameters", "picolab.record.models"}
    assert not heavy & set(done.stdout.split())


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ParameterError, match=r"machine = 'docker' should be 'local' or 'vagrant'"):
        validate(TrialParameters, {"machine": "docker"}, "a test")


class ToyMachine:
    """As much of a machine as the registry asks for."""

    kept = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder


class ToyKind(MachineKind):
    """A machine that is a folder."""

    name = "toy"
    meaning = "a folder"
    is_virtual = False
    memory_limit_methods = ("none",)
    reused_between_trials = True
    shows_progress = False
    ready_poll_s = 0.01
    assumed_boot_s = 3.0
    assumed_overhead_s = 1.0
    imports = ()

    def __init__(self) -> None:
        self.checked: list[int] = []
        self.free_bytes = 1 << 40

    def why_unfit(self, parameters: TrialParameters) -> str | None:
        return "a toy has 1024 MiB at most" if parameters.ram_mb > 1024 else None

    def change_key(self, parameters: TrialParameters) -> tuple[Any, ...] | None:
        return (parameters.ram_mb,)

    def make_limit_s(self, parameters: TrialParameters) -> float:
        return 1.0

    def check_host(self, wanted: Sequence[TrialParameters]) -> None:
        self.checked.append(len(wanted))

    def checks(self) -> tuple[Check, ...]:
        return (("toys", lambda: [Finding("toys", "good", "are there")]),)

    def disk_key(self, parameters: TrialParameters) -> str:
        return ""

    def host_disk(self, parameters: TrialParameters) -> HostDisk:
        return HostDisk("the toy box", self.free_bytes, ", or tidy up")

    def obtain(self, wish: MachineWish, holder: Holder) -> Machine:
        folder = folders.folder_of(wish.name)
        folder.mkdir(parents=True)
        holding = {"holder": holder.process.to_json(), "keep": holder.keep}
        folders.write_spec(folder, {"kind": self.name, "name": wish.name, "ram_mb": wish.ram_mb, **holding})
        return cast(Machine, ToyMachine(folder))

    def attach(self, folder: Path) -> Machine | None:
        return cast(Machine, ToyMachine(folder)) if folder.is_dir() else None

    def exists(self, folder: Path) -> bool:
        return True

    def server_of(self, folder: Path) -> str:
        return "none"

    def way_in(self, folder: Path) -> str | None:
        return f"cd {folder}"

    def release(self, folder: Path, report: Callable[[str], None] | None = None) -> None:
        (folder / folders.SPEC).unlink()
        folder.rmdir()

    def is_abandoned(self, folder: Path) -> bool:
        return False

    def sweep(self, folder: Path) -> bool:
        return False

    def leftovers(self) -> tuple[LeftoverKind, ...]:
        return (LeftoverKind("lost toy", lambda: iter([("a ball", lambda: None)])),)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> ToyKind:
    """A third kind of machine."""
    kind = ToyKind()
    monkeypatch.setitem(KINDS, kind.name, kind)
    return kind


def plan_with_toys() -> Plan:
    matrix = {"machine": [DEFAULT_KIND, "toy"], "ram_mb": [128, 256], "parallel_uploads": [1, 2]}
    wanted = validate(CampaignParameters, {"matrix": matrix, "parameters": {"file_size": "1M"}, "repeats": 3}, "a test")
    return make_plan(wanted, "toys", "toys.yaml")


def test_a_plan_groups_the_trials_of_a_new_kind(toy: ToyKind) -> None:
    plan = plan_with_toys()

    for block in {trial.block for trial in plan.trials}:
        sizes = [
            trial.parameters.ram_mb
            for trial in plan.trials
            if trial.block == block and trial.parameters.machine == toy.name
        ]
        assert sizes in ([128, 128, 256, 256], [256, 256, 128, 128])


def test_preflight_asks_a_new_kind(toy: ToyKind, scratch: Path) -> None:
    plan = plan_with_toys()
    check_plan(plan)
    toy.free_bytes = 1 << 20

    assert toy.checked == [sum(trial.parameters.machine == toy.name for trial in plan.trials)]
    with pytest.raises(HostUnfit, match=r"the toy box has 1 MiB free; .* or choose smaller files, or tidy up"):
        check_plan(plan)


@pytest.mark.usefixtures("toy")
def test_parameters_of_a_new_kind_are_validated_by_it() -> None:
    assert validate(TrialParameters, {"machine": "toy"}, "a test").scenario.startswith("toy-512mb-")
    with pytest.raises(ParameterError, match="a toy has 1024 MiB at most"):
        validate(TrialParameters, {"machine": "toy", "ram_mb": 2048}, "a test")


@pytest.mark.usefixtures("toy")
def test_charts_name_a_new_kind() -> None:
    assert group_label("1.5.4", machine_label("toy", None), several=False) == "1.5.4 on toy"
    assert group_label("1.5.4", machine_label(DEFAULT_KIND, None), several=False) == "1.5.4"


@pytest.mark.usefixtures("toy", "scratch")
def test_the_registry_obtains_lists_and_releases_a_new_kind() -> None:
    registry.obtain(MachineWish("ball", 64, "none", "", kind="toy"), Holder(this_process(), keep=False))

    assert [(found["name"], found["kind"], found["server"]) for found in registry.existing()] == [
        ("ball", "toy", "none")
    ]
    assert registry.sweep() == [] and registry.attach("ball") is not None
    assert registry.release_by_name("ball") and registry.existing() == []


@pytest.mark.usefixtures("toy", "scratch")
def test_the_doctor_and_clean_ask_a_new_kind() -> None:
    assert diagnosis.checks()[-1][0] == "toys"
    assert ("lost toy", "a ball") in {(leftover.kind, leftover.what) for leftover in leftovers.find()[0]}
