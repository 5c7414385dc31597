"""Whatever is killed, and when: after the next start nothing of picolab's is left where others could find it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import picolab_here
from conftest import eventually

from picolab.agent.procfs import boot_id, descendants
from picolab.config.project import outputs_dir, project_root
from picolab.exit_codes import ExitCode
from picolab.host.processes import ProcessIdentity, this_process
from picolab.jupyter import kernel_folders
from picolab.machines import registry

SLOW = {"transfer_mib_s": 2}
MOMENTS = {
    "before papermill": "running/*/request.json",
    "papermill starts": "running/*/papermill.log",
    "the kernel starts": "../../tmp/picolab-kernel-*/s-1",
    "the trial begins": "running/*/state.json",
    "the server runs": "running/*/server.log",
    "the upload": "running/*/progress.json",
}
"""File of the running trial, seen from the campaign's folder, that says that it is so far."""


STAYS = (".lock", ".private_network.worked")
"""Of the state: what keeps processes apart, and what was found out about the host."""


@pytest.fixture(autouse=True)
def home(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = scratch / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    for name in ("JUPYTER_RUNTIME_DIR", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "IPYTHONDIR"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def campaign(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    file = tmp_path / "slow.yaml"
    matrix = {"ram_mb": [128], "file_size": ["8M"]}
    file.write_text(json.dumps({"matrix": matrix, "idle_limit_s": 0, "parameters": {"calibration": SLOW}}))
    process = start("matrix", str(file), "--campaign", "slow", "--repeats", "1")
    yield process
    process.kill()
    process.wait()


def start(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "picolab", *words], stdout=subprocess.DEVNULL)


def next_start() -> None:
    """Start picolab again, with something that does nothing itself."""
    assert picolab_here("machines", "list").returncode == ExitCode.OK


def wait_until(moment: str, process: subprocess.Popen[bytes]) -> None:
    folder = outputs_dir() / "slow"
    eventually(lambda: list(folder.glob(MOMENTS[moment])) or process.poll() is not None, moment)
    assert process.poll() is None, "the campaign still runs"


def family(process: subprocess.Popen[bytes]) -> dict[str, ProcessIdentity]:
    """Return the campaign's processes by what they are."""
    words = {"papermill": "picolab.jupyter.papermill_process", "kernel": "ipykernel_launcher"}
    found = {"campaign": ProcessIdentity.of(process.pid)}
    for pid in descendants(process.pid):
        identity = ProcessIdentity.of(pid)
        for name, word in words.items():
            if identity is not None and word in identity.command:
                found[name] = identity
    return {name: identity for name, identity in found.items() if identity is not None}


def left_over(scratch: Path, home: Path) -> list[str]:
    """Return what lies in TMPDIR, in Jupyter's folder for running kernels, and in the state but for what shall stay."""
    left = [*(scratch / "tmp").rglob("*"), *(home / ".local/share/jupyter/runtime").glob("*")]
    left += [path for path in (scratch / "state").rglob("*") if path.is_file() and path.suffix != ".lock"]
    left += [path for path in (scratch / "state").glob("*/*") if path.is_dir()]
    # Builds are kept for the next campaign, as a downloaded release is.
    builds = scratch / "state" / "builds"
    return sorted(str(path.relative_to(scratch)) for path in left if path.name not in STAYS and path.parent != builds)


def nothing_runs(scratch: Path) -> bool:
    """Return whether no process is left that names the test's folder: the keeper, and whoever was about to start it."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if os.fsencode(scratch) in entry.read_bytes():
                return False
    return True


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("victims", [("campaign",), ("papermill", "campaign", "kernel")], ids="+".join)
def test_sigkill(
    campaign: subprocess.Popen[bytes], victims: tuple[str, ...], moment: str, scratch: Path, home: Path
) -> None:
    wait_until(moment, campaign)
    members = family(campaign)
    for victim in victims:
        if victim in members:
            os.kill(members[victim].pid, signal.SIGKILL)
    campaign.wait()
    eventually(lambda: not any(member.alive for member in members.values()), "its processes end by themselves")
    eventually(lambda: nothing_runs(scratch), "the keeper ends, and the server with it")
    next_start()

    assert left_over(scratch, home) == []


@pytest.mark.parametrize("moment", MOMENTS)
def test_sigint_twice(campaign: subprocess.Popen[bytes], moment: str, scratch: Path, home: Path) -> None:
    wait_until(moment, campaign)
    members = family(campaign)
    campaign.send_signal(signal.SIGINT)
    campaign.send_signal(signal.SIGINT)
    campaign.wait()
    eventually(lambda: not any(member.alive for member in members.values()), "its processes end by themselves")
    eventually(lambda: nothing_runs(scratch), "the keeper ends, and the server with it")
    next_start()

    assert left_over(scratch, home) == []


@pytest.mark.parametrize("victim", ["papermill", "kernel"])
def test_sigkill_of_a_part(campaign: subprocess.Popen[bytes], victim: str, scratch: Path, home: Path) -> None:
    wait_until("the upload", campaign)
    os.kill(family(campaign)[victim].pid, signal.SIGKILL)

    assert campaign.wait() == ExitCode.OK, "the trial is tried again"
    assert left_over(scratch, home) == []


def test_a_normal_end(campaign: subprocess.Popen[bytes], scratch: Path, home: Path) -> None:
    assert campaign.wait() == ExitCode.OK
    assert start("report", "slow").wait() == ExitCode.OK
    assert left_over(scratch, home) == []


def test_sigkill_of_a_report(campaign: subprocess.Popen[bytes], scratch: Path, home: Path) -> None:
    assert campaign.wait() == ExitCode.OK
    report = start("report", "slow")
    try:
        eventually(lambda: list((scratch / "tmp").glob("picolab-kernel-*/s-1")), "its kernel runs")
        members = [ProcessIdentity.of(pid) for pid in descendants(report.pid)]
        report.kill()
        report.wait()
        eventually(lambda: not any(member and member.alive for member in members), "its kernel ends")
    finally:
        report.kill()
        report.wait()
    assert left_over(scratch, home) != []
    next_start()
    assert left_over(scratch, home) == []


@pytest.fixture
def by_hand(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    notebook = project_root() / "notebooks" / "trial.ipynb"
    parameters = tmp_path / "parameters.yaml"
    parameters.write_text(json.dumps({"ram_mb": 128, "file_size": "8M", "calibration": SLOW}))
    command = ["papermill", str(notebook), str(tmp_path / "out.ipynb"), "--no-progress-bar", "-f", str(parameters)]
    process = subprocess.Popen([sys.executable, "-m", *command], cwd=tmp_path, stderr=subprocess.DEVNULL)
    yield process
    process.kill()
    process.wait()
    registry.release_by_name("local")


@pytest.mark.parametrize("kernel_too", [False, True])
def test_sigkill_of_a_notebook_by_hand(
    by_hand: subprocess.Popen[bytes], kernel_too: bool, scratch: Path, home: Path
) -> None:
    eventually(lambda: list(outputs_dir().glob("single-trials/*/progress.json")), "the upload runs")
    members = [identity for pid in descendants(by_hand.pid) if (identity := ProcessIdentity.of(pid))]
    kernels = [member for member in members if "ipykernel_launcher" in member.command]
    by_hand.kill()
    by_hand.wait()
    for kernel in kernels if kernel_too else ():
        kernel.signal(signal.SIGKILL)
    eventually(lambda: not any(kernel.alive for kernel in kernels), "the kernel ends")
    assert picolab_here("machines", "remove", "local").returncode == ExitCode.OK
    assert [path for path in left_over(scratch, home) if path.startswith("tmp/")], "the connection file, with its key"
    next_start()

    assert left_over(scratch, home) == []


def test_a_notebook_by_hand_that_ends_leaves_nothing(
    by_hand: subprocess.Popen[bytes], scratch: Path, home: Path
) -> None:
    assert by_hand.wait() == 0
    assert left_over(scratch, home) == []


# What is no leftover


def name_of(identity: ProcessIdentity, end: str = "0123abcd") -> str:
    return f"picolab-kernel-{identity.pid}-{identity.start_ticks}-{identity.boot_id[:8]}-{end}"


def test_a_folder_of_a_dead_process_is_swept(gone: ProcessIdentity, scratch: Path) -> None:
    folder = scratch / "tmp" / name_of(gone)
    folder.mkdir(mode=0o700)
    (folder / "connection.json").write_text("{}")
    (folder / "s-1").touch()

    assert kernel_folders.sweep() == [str(folder)]
    assert not folder.exists()


@pytest.mark.parametrize(
    "make",
    [
        lambda gone, tmp: (tmp / name_of(this_process())).mkdir(),
        lambda gone, tmp: (tmp / "picolab-kernel-mine").mkdir(),
        lambda gone, tmp: (tmp / f"{name_of(gone)}.bak").mkdir(),
        lambda gone, tmp: (tmp / name_of(gone)).write_text("a file"),
        lambda gone, tmp: (tmp / f"picolab-kernel-{'9' * 40}-1-{boot_id()[:8]}-00000000").write_text("a file"),
    ],
    ids=["alive", "other name", "longer name", "a file", "no such pid"],
)
def test_lookalikes_survive(
    make: Callable[[ProcessIdentity, Path], object], gone: ProcessIdentity, scratch: Path
) -> None:
    make(gone, scratch / "tmp")
    before = sorted((scratch / "tmp").rglob("*"))

    assert kernel_folders.sweep() == []
    assert sorted((scratch / "tmp").rglob("*")) == before
    for path in before:
        path.rmdir() if path.is_dir() else path.unlink()


def test_what_somebody_put_into_a_dead_folder_survives(gone: ProcessIdentity, scratch: Path) -> None:
    folder = scratch / "tmp" / name_of(gone)
    (folder / "results").mkdir(parents=True)
    (folder / "connection.json").write_text("{}")
    try:
        assert kernel_folders.sweep() == []
        assert (folder / "results").is_dir() and not (folder / "connection.json").exists()
    finally:
        (folder / "results").rmdir()
        folder.rmdir()


def test_a_link_is_not_followed(gone: ProcessIdentity, scratch: Path, tmp_path: Path) -> None:
    (tmp_path / "connection.json").write_text("somebody's")
    link = scratch / "tmp" / name_of(gone)
    link.symlink_to(tmp_path)

    assert kernel_folders.sweep() == []
    assert (tmp_path / "connection.json").read_text() == "somebody's"
    link.unlink()


def test_a_folder_held_from_another_container_survives(gone: ProcessIdentity, scratch: Path) -> None:
    """Its pid means nothing here, but its lock does."""
    folder = scratch / "tmp" / name_of(gone)
    folder.mkdir()
    code = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), fcntl.LOCK_EX); print(flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None and holder.stdout.readline()
        assert kernel_folders.sweep() == []
        holder.communicate(b"\n")
    assert kernel_folders.sweep() == [str(folder)]


def note(processes: list[ProcessIdentity], file: Path, digest: str) -> Path:
    place = kernel_folders._notes_dir()
    place.mkdir(parents=True, exist_ok=True)
    text = {"connection_file": str(file), "sha256": digest, "processes": [each.to_json() for each in processes]}
    (place / "kernel-1-2.json").write_text(json.dumps(text))
    return place / "kernel-1-2.json"


def test_a_connection_file_survives_while_its_kernel_may_restart(gone: ProcessIdentity, tmp_path: Path) -> None:
    file = tmp_path / "kernel.json"
    file.write_text("{}")
    noted = note([gone, this_process()], file, kernel_folders._digest(file))

    assert kernel_folders.sweep() == []
    assert file.exists() and noted.exists()


def test_a_file_that_is_not_the_noted_one_any_more_survives(gone: ProcessIdentity, tmp_path: Path) -> None:
    file = tmp_path / "kernel.json"
    file.write_text("somebody's")
    noted = note([gone], file, "0" * 64)

    assert kernel_folders.sweep() == []
    assert file.read_text() == "somebody's" and not noted.exists()


def test_a_start_with_another_tmpdir_finds_the_folder_too(
    scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "from picolab.jupyter.kernel_folders import KernelFolder; print(KernelFolder().path, flush=True); input()"
    elsewhere = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=elsewhere
    ) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert folder.parent == tmp_path and kernel_folders.sweep() == []
        process.kill()
    assert kernel_folders.sweep() == [str(folder)]
    assert not folder.exists() and list(kernel_folders._notes_dir().iterdir()) == []


@pytest.mark.parametrize("place", ["", "relative", "/", "/etc\0", "/nowhere"])
def test_a_note_about_a_folder_that_names_no_place_is_removed(place: str, gone: ProcessIdentity) -> None:
    notes = kernel_folders._notes_dir()
    notes.mkdir(parents=True)
    (notes / name_of(gone)).write_text(place)

    assert kernel_folders.sweep() == []
    assert list(notes.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"connection_file": 1, "sha256": 2, "processes": 3}', "\0"])
def test_a_damaged_note_is_removed_and_nothing_else(text: str, gone: ProcessIdentity, tmp_path: Path) -> None:
    noted = note([gone], tmp_path / "kernel.json", "")
    noted.write_text(text)

    assert kernel_folders.sweep() == []
    assert not noted.exists()


def test_a_long_tmpdir_is_no_obstacle(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = scratch / "tmp" / ("x" * 90)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr("tempfile.tempdir", None)
    folder = kernel_folders.KernelFolder()
    try:
        assert len(os.fsencode(folder.path / "s-99")) <= 107
        assert folder.path.stat().st_mode & 0o777 == 0o700
    finally:
        folder.remove()
        long.rmdir()
    assert not folder.path.exists()
