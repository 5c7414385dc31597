"""The doctor's checks of picolab's environment: the Jupyter kernel, notebooks, machines."""

import json
import sys
from pathlib import Path
from typing import Any

from picolab.config.project import project_root, restoring_command, state_dir
from picolab.host.finding import Finding
from picolab.host.processes import ProcessIdentity
from picolab.machines import folders, registry
from picolab.machines.folders import KEEPER, SPEC
from picolab.machines.local import network
from picolab.machines.local.cgroup import v1_parent, v2_parent


def jupyter_kernel() -> list[Finding]:
    """Check whether the kernel `python3` is picolab's own interpreter."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    what, fix = "Jupyter kernel", f"{sys.executable} -m ipykernel install --sys-prefix"
    try:
        program = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        return [Finding(what, "bad", "there is no kernel `python3`, so no notebook can run", fix, blocks=True)]
    # jupyter_client starts its own interpreter for these names.
    own = {"python", f"python{sys.version_info[0]}", f"python{sys.version_info[0]}.{sys.version_info[1]}"}
    if program in own or Path(program) == Path(sys.executable):
        return [Finding(what, "good", f"python3 is {sys.executable}")]
    text = f"python3 is {program}, another interpreter than picolab's {sys.executable}: notebooks may lack packages"
    return [Finding(what, "bad", text, fix)]


def notebooks() -> list[Finding]:
    """Check whether the notebooks are there and whole."""
    what, folder = "notebooks", project_root() / "notebooks"
    for name in ("trial.ipynb", "analysis.ipynb", "compare.ipynb", "floor.ipynb", "answer.ipynb"):
        try:
            json.loads((folder / name).read_text(encoding="utf-8"))["cells"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            fix = restoring_command(folder / name)
            text = f"{folder / name} cannot be used ({type(error).__name__}: {error})"
            return [Finding(what, "bad", text, fix, blocks=True)]
    return [Finding(what, "good", f"trial.ipynb, analysis.ipynb and the notebooks of other pages are in {folder}")]


def machines() -> list[Finding]:
    """List the machines that are up."""
    findings = []
    for machine in registry.existing():
        text = f"{machine['name']!r} ({machine['ram_mb']} MiB) is up, held by {machine['holder']}"
        if machine["held"]:
            findings.append(Finding("machine", "good", text))
        else:
            findings.append(Finding("machine", "gap", text, f"picolab machines remove {machine['name']}"))
    return findings or [Finding("machines", "good", "none is up")]


def leftovers() -> list[Finding]:
    """Report what dead keepers have left: state, work folders, cgroups."""
    machines, work = folders.machines_dir(), state_dir() / "work"
    mark = folders.state_mark(machines)
    # Before the machines are read: one that is being made meanwhile writes its names down first.
    work_folders = sorted(work.glob(f"picolab-*-{mark}"))
    cgroups = sorted(
        path for parent in (v1_parent(), v2_parent()) if parent for path in parent.glob(f"picolab-*-{mark}")
    )
    machine_folders = sorted(folder for folder in machines.glob("*") if folder.is_dir())
    known = {path for folder in machine_folders for path in _places_of(folder)}
    findings = []
    dead = [folder.name for folder in machine_folders if not _keeper_alive(folder)]
    if dead:
        text = f"machines without a keeper: {', '.join(dead)}"
        findings.append(Finding("leftovers", "gap", text, "picolab machines list"))
    for path in work_folders:
        if path not in known:
            findings.append(Finding("leftovers", "gap", f"a work folder of no machine: {path}", f"rm -r {path}"))
    for path in cgroups:
        if path not in known:
            findings.append(Finding("leftovers", "gap", f"a cgroup of no machine: {path}", f"rmdir {path}"))
    places = {_json_of(folder / SPEC).get("place") for folder in machine_folders}
    for device, place in network.devices():
        if place.endswith(f"-{mark}") and place not in places:
            text = f"a network device of no machine: {device}"
            findings.append(Finding("leftovers", "gap", text, "picolab clean"))
    return findings or [Finding("leftovers", "good", "none")]


def _json_of(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def _places_of(folder: Path) -> list[Path]:
    """Return the work folder and the cgroup of a machine."""
    places = (_json_of(folder / SPEC).get("work"), _json_of(folder / KEEPER).get("cgroup"))
    return [Path(place) for place in places if place]


def _keeper_alive(folder: Path) -> bool:
    keeper = _json_of(folder / KEEPER).get("process")
    return keeper is not None and ProcessIdentity.from_json(keeper).alive
