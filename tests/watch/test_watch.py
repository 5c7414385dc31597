"""Campaigns that begin by themselves: none is lost, none runs twice, and only this watch's own are removed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from command_line import picolab_here
from conftest import eventually
from watching import SMALL, Looks, change, copy_build, die, write_watch

from picolab.campaign.runner import Campaign
from picolab.config.project import outputs_dir
from picolab.errors import BuildError, HostBusy, HostUnfit, ParameterError, UnreadableFile
from picolab.exit_codes import ExitCode
from picolab.host.processes import this_process
from picolab.results.folders import locked
from picolab.results.standing import read_standing
from picolab.servers.calibration.program import server_path
from picolab.servers.picoshare import builds
from picolab.watch import retention
from picolab.watch import watch as watch_module
from picolab.watch.settling import Settling
from picolab.watch.state import Made, WatchFolder, WatchState
from picolab.watch.watch import Watch


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return copy_build(tmp_path)


# Reasons


def test_content_counts_and_nothing_else(tmp_path: Path, build: Path) -> None:
    looks = Looks(write_watch(tmp_path))
    assert [looks.look(), looks.look()] == [1, 0]

    os.utime(build, (1, 1))
    assert looks.look() == 0
    size = build.stat().st_size
    build.write_bytes(build.read_bytes()[:-1] + b"\1")
    os.utime(build, (1, 1))
    assert build.stat().st_size == size and looks.look() == 1
    assert looks.begun[1].description == f"Begun by picolab watch (nightly): {build} has changed."


def test_a_change_during_a_campaign_is_measured_once_after_it(tmp_path: Path, build: Path) -> None:
    looks = Looks(write_watch(tmp_path))

    def two_changes() -> None:
        change(build)
        change(build)

    looks.meanwhile = two_changes
    assert [looks.look(), looks.look()] == [2, 0]
    copies = [Path(plan.trials[0].parameters.build) for plan in looks.begun]
    assert [copy.name for copy in copies] == ["picoshare", "picoshare"]
    assert copies[0].read_bytes() + b"xx" == copies[1].read_bytes() == build.read_bytes()


def test_a_file_counts_when_it_has_settled(tmp_path: Path) -> None:
    now_s = 0
    settling = Settling(10, lambda: now_s)
    file = tmp_path / "picoshare"
    file.write_bytes(b"half")
    assert settling.sha256(str(file)) is None
    now_s = 9
    file.write_bytes(b"the whole")
    assert settling.sha256(str(file)) is None
    now_s = 18
    assert settling.sha256(str(file)) is None
    now_s = 19
    assert settling.sha256(str(file)) == builds.sha256_of(file)


def test_a_pipe_is_no_build(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="no ordinary file"):
        Settling(10).sha256(str(pipe))


def test_a_copy_becomes_executable_with_its_file(tmp_path: Path, build: Path) -> None:
    place = WatchFolder(tmp_path / "nightly.yaml", "nightly")
    sha256 = hashlib.sha256(build.read_bytes()).hexdigest()
    build.chmod(0o644)
    assert place.keep_copy(str(build), sha256)
    build.chmod(0o755)
    assert place.keep_copy(str(build), sha256)
    assert os.access(place.copy_of(str(build), sha256), os.X_OK)


def test_a_build_that_cannot_run_waits_for_its_next_content(tmp_path: Path, build: Path) -> None:
    good = build.read_bytes()
    build.write_bytes(b"")
    looks = Looks(write_watch(tmp_path))
    with pytest.raises(BuildError, match="the file is empty"):
        looks.look()
    assert looks.state.current is None and not outputs_dir().exists()
    build.write_bytes(good)
    assert looks.look() == 1


def test_a_script_of_a_package_is_refused(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("copyparty")
    looks = Looks(write_watch(tmp_path, {"parameters": {"server": "copyparty", "build": str(script)}}))
    with pytest.raises(ParameterError, match=r"copyparty' starts an installed package, .*; give a single file"):
        looks.look()


def test_a_problem_that_lasts_is_said_once(tmp_path: Path, build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = build.read_bytes()
    build.unlink()
    looks = Looks(write_watch(tmp_path))
    pauses = 0

    def pause(_watch: Watch) -> None:
        nonlocal pauses
        pauses += 1
        if pauses == 3:
            build.write_bytes(b"")
            build.chmod(0o755)
        if pauses == 6:
            build.write_bytes(good)

    monkeypatch.setattr(Watch, "_wait", pause)
    code = Watch(looks.file, looks._run, looks.notes.append, lambda: pauses == 7).run()

    assert code is ExitCode.OK and len(looks.begun) == 1
    assert looks.notes[0].startswith(f"build '{build}': cannot be read (No such file or directory); build it, or ")
    assert looks.notes[1].startswith(f"build '{build}': cannot run here: the file is empty")
    assert [note.partition(" begins: ")[2] for note in looks.notes[2:]] == [f"{build} is new to this watch."]


def test_a_campaign_that_cannot_go_on_is_said_once(
    tmp_path: Path, build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(range(60, 100))

    def refuse(_: Campaign) -> None:
        taken = next(seconds)
        raise HostBusy(
            f"the host was not idle for {taken} s: {taken} % of all processors busy, most of it {chr(taken)}"
        )

    def pause(_: Watch) -> None:
        if next(seconds) > 64:
            raise KeyboardInterrupt

    monkeypatch.setattr(Campaign, "run", refuse)
    monkeypatch.setattr(Watch, "_wait", pause)
    output = picolab_here("watch", str(write_watch(tmp_path))).stdout
    (folder,) = outputs_dir().iterdir()
    assert next(seconds) == 66, "three looks"
    for words in (f"Campaign {folder.name} begins:", f"Campaign {folder.name}: 1 trial", "the host was not idle"):
        assert output.count(words) == 1, output
    assert f"Campaign {folder.name} continues." not in output


def test_another_problem_of_the_host_is_said_too(tmp_path: Path, build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = [
        "ram_mb = 9 is more than 8",
        "ram_mb = 9 is more than 7",
        "an upload needs 9 MiB",
        "an upload needs 8 MiB",
    ]
    left = list(problems)

    def refuse(_: object) -> None:
        raise HostUnfit(f"{tmp_path}/small.yaml: {left.pop(0)}")

    monkeypatch.setattr(watch_module, "check_plan", refuse)
    monkeypatch.setattr(Watch, "_wait", lambda _watch: None)
    looks = Looks(write_watch(tmp_path))
    Watch(looks.file, looks._run, looks.notes.append, lambda: not left).run()
    assert looks.notes == [f"{tmp_path}/small.yaml: {problem}" for problem in problems[::2]]


def test_watches_of_other_files_wait(tmp_path: Path, build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = Looks(write_watch(tmp_path))
    other = Looks(tmp_path / "other.yaml")
    other.file.write_text(looks.file.read_text())
    pauses: list[int] = []
    monkeypatch.setattr(Watch, "_wait", lambda _watch: pauses.append(1))
    hashed: list[str] = []
    hashed_meanwhile: list[str] = []
    sha256 = Settling.sha256

    def counted(settling: Settling, file: str) -> str | None:
        hashed.append(file)
        return sha256(settling, file)

    monkeypatch.setattr(Settling, "sha256", counted)

    def meanwhile() -> None:
        Watch(other.file, other._run, other.notes.append, lambda: len(pauses) == 1).run()
        assert other.notes == [], "the first one may only be looking"
        Watch(other.file, other._run, other.notes.append, lambda: len(pauses) == 4).run()
        hashed_meanwhile.extend(hashed[1:])

    looks.meanwhile = meanwhile
    assert looks.look() == 1
    assert other.begun == [] and hashed_meanwhile == [], "reading a large build would disturb a measured step"
    assert other.notes == [f"Waits: pid {os.getpid()} ({this_process().command}) works for another watch."]
    assert other.look() == 1


def test_new_releases_are_measured_and_a_silent_network_is_one_line(
    tmp_path: Path, build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = "1.5.4"

    def answer(_url: str) -> str:
        if not newest:
            raise BuildError("the newest release: nobody answers")
        return newest

    monkeypatch.setattr(builds, "newest_release", answer)
    monkeypatch.setattr(builds, "_released", lambda _version, _url: server_path())
    two = {"builds": {"mine": {"build": "./picoshare"}, "theirs": {"build": "1.5.3"}}}
    looks = Looks(write_watch(tmp_path, two, release="theirs", compare=False))
    assert looks.look() == 1
    newest = ""
    assert looks.look() == 0
    assert looks.notes[-1] == "the newest release: nobody answers. The next look asks again."
    change(build)
    assert looks.look() == 1, "a change of a build needs no network"
    newest = "1.5.10"
    assert [looks.look(), looks.look()] == [1, 0]
    newest = "1.5.9"
    assert looks.look() == 0, "a withdrawn release"

    used = [{trial.parameters.label: trial.parameters.build for trial in plan.trials} for plan in looks.begun]
    assert [found["theirs"] for found in used] == ["1.5.4", "1.5.4", "1.5.10"]
    assert looks.state.made[-1].triggers == ["release 1.5.10 is new"]


def test_a_release_that_no_trial_runs_is_refused(tmp_path: Path, build: Path) -> None:
    two = {"builds": {"mine": {"build": "./picoshare"}, "theirs": {"build": "1.5.3"}}}
    looks = Looks(
        write_watch(
            tmp_path, two | {"matrix": {**SMALL, "exclude": [{"build": "theirs"}]}}, release="theirs", compare=False
        )
    )
    with pytest.raises(ParameterError, match=r"no trial of .* runs 'theirs'; change its exclude"):
        looks.look()


def test_missed_times_lead_to_one_campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 11, 27, 13, 20, tzinfo=UTC)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return now

    monkeypatch.setattr(watch_module, "datetime", Clock)
    looks = Looks(write_watch(tmp_path, {"parameters": {"build": "calibration"}}, every="day at 03:00"))
    assert looks.look() == 0, "the first time is after the first start"
    now += timedelta(days=3)
    assert [looks.look(), looks.look()] == [1, 0]
    now += timedelta(hours=13)
    assert looks.look() == 0
    now += timedelta(hours=1)
    assert looks.look() == 1


def test_a_watch_without_a_reason_is_refused(tmp_path: Path) -> None:
    done = picolab_here("watch", str(write_watch(tmp_path, {"parameters": {"build": "calibration"}})))

    assert done.returncode == ExitCode.BAD_PARAMETERS
    assert "nothing would begin a campaign: no build in" in done.stderr


# Campaigns and state


def test_an_incomplete_campaign_is_not_tried_again(tmp_path: Path, build: Path) -> None:
    looks = Looks(write_watch(tmp_path, keep=1))
    looks.code = ExitCode.INSTRUMENT_FAULT
    assert [looks.look(), looks.look()] == [1, 0]
    assert [made.complete for made in looks.state.made] == [False]


def test_a_campaign_that_cannot_continue_begins_anew(tmp_path: Path, build: Path) -> None:
    looks = Looks(write_watch(tmp_path))
    looks.code = ExitCode.INTERRUPTED
    assert looks.look() == 1
    current = looks.state.current
    assert current is not None
    (current.folder / "plan.json").write_text("{")
    looks.code = ExitCode.OK
    with pytest.raises(ParameterError):
        looks.look()
    assert looks.notes[-1] == f"Campaign {current.campaign} is given up, and what it has stays."
    assert looks.look() == 1
    assert [made.complete for made in looks.state.made] == [False, True]


def test_a_campaign_is_noted_before_its_folder_is_made(
    tmp_path: Path, build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(write_watch(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(watch_module.Campaign, "create", die)
        with pytest.raises(KeyboardInterrupt):
            looks.look()
    change(build)
    assert looks.look() == 2
    first, second = (Path(plan.trials[0].parameters.build) for plan in looks.begun)
    assert first.read_bytes() + b"x" == second.read_bytes()


def test_a_damaged_state_is_one_sentence(tmp_path: Path, build: Path) -> None:
    looks = Looks(write_watch(tmp_path))
    assert looks.look() == 1
    state = WatchFolder(looks.file, "nightly").path / "state.json"
    whole = json.loads(state.read_text())
    for content, words in (("{", "is cut off or damaged"), (json.dumps(whole | {"more": 1}), "more: Extra inputs")):
        state.write_text(content)
        with pytest.raises(UnreadableFile, match=f"{words}.*; move it away: the watch then begins anew"):
            looks.look()


# Retention


def test_campaigns_that_are_not_finished_or_not_its_own_stay(tmp_path: Path, build: Path) -> None:
    looks = Looks(write_watch(tmp_path, keep=1))
    looks.look()
    (unfinished,) = outputs_dir().iterdir()
    change(build)
    looks.look()
    assert f"Campaign {unfinished.name} is not removed: not every trial has a result." in looks.notes
    # Somebody else's files under the name of one of ours: a link, then another plan.
    moved = unfinished.rename(tmp_path / "moved")
    unfinished.symlink_to(moved)
    change(build)
    looks.look()
    assert f"Campaign {unfinished.name} is not removed: it is a link or no folder." in looks.notes
    unfinished.unlink()
    moved.rename(unfinished)
    (unfinished / "plan.json").write_text("{}")
    change(build)
    looks.look()
    assert f"Campaign {unfinished.name} is not removed: its plan is not the one that this watch made." in looks.notes
    assert (unfinished / "plan.json").read_text() == "{}"
    assert len(list(outputs_dir().iterdir())) == 4


def test_a_removal_is_completed_on_its_own_campaign_alone(tmp_path: Path) -> None:
    place = WatchFolder(tmp_path / "nightly.yaml", "nightly")
    folder = outputs_dir() / "one"
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text("{}")
    begun = {
        "campaign": "one",
        "outputs": str(outputs_dir()),
        "triggers": [],
        "files": {},
        "release": None,
        "time": None,
    }
    made = Made.model_validate(begun | {"complete": True, "removing": True, "plan_sha256": "a" * 64})
    state = WatchState(config="x", made=[made])
    retention.complete_removals(place, state, print)
    assert folder.is_dir() and state.made == [made] and not made.removing, "another campaign has its name"

    made.removing, made.plan_sha256 = True, hashlib.sha256(b"{}").hexdigest()
    with locked(folder):
        retention.complete_removals(place, state, print)
        assert folder.is_dir() and made.removing, "somebody runs it"
    retention.complete_removals(place, state, print)
    assert not folder.exists() and state.made == []


# Real campaigns


def test_measures_writes_the_report_and_removes_the_oldest(
    tmp_path: Path, build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_watch(tmp_path, keep=1)
    assert picolab_here("watch", str(file), "--once").returncode == ExitCode.OK
    (first,) = outputs_dir().iterdir()
    foreign = shutil.copytree(first, outputs_dir() / f"{first.name}-copy")
    assert not (first / "report.html").exists()

    change(build)
    file.write_text(file.read_text().replace('"report": false', '"report": true'))
    with monkeypatch.context() as patch:
        patch.setattr(retention, "remove_tree_inside", die)
        done = picolab_here("watch", str(file), "--once")
    assert done.returncode == ExitCode.INTERRUPTED
    (second,) = set(outputs_dir().iterdir()) - {first, foreign}
    assert f"Report: {second}/report.html" in done.stdout and (second / "report.html").is_file()

    (first / "plan.json").unlink()
    done = picolab_here("watch", str(file), "--once")
    assert done.returncode == ExitCode.OK
    assert f"Removed campaign {first.name}: there are newer ones." in done.stdout, "a removal is completed"
    assert set(outputs_dir().iterdir()) == {second, foreign}
    (copy,) = WatchFolder(file, "nightly").path.glob("builds/*/*")
    assert copy.read_bytes() == build.read_bytes()


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(file: Path, *options: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "picolab", "watch", str(file), *options]
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def lines(folder: Path) -> int:
    ledger = folder / "ledger.jsonl"
    return len(ledger.read_text().splitlines()) if ledger.exists() else 0


def test_killed_in_a_campaign_it_completes_that_one_first(
    tmp_path: Path, build: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    content = {"parameters": {"build": "./picoshare"}, "repeats": 6}
    file = write_watch(tmp_path, content, poll_s=1)
    killed = start(file)
    (first,) = eventually(lambda: list(outputs_dir().glob("*/ledger.jsonl")), "a trial has ended")
    first = first.parent
    second_watch = picolab_here("watch", str(file), "--once")
    assert second_watch.returncode == ExitCode.HOST_UNFIT
    assert f"pid {killed.pid} (" in second_watch.stderr and "watches it already" in second_watch.stderr
    killed.kill()
    killed.wait()
    had = lines(first)
    assert had < 6
    change(build)
    write_watch(tmp_path, poll_s=1)

    stopped = start(file)
    eventually(lambda: lines(first) > had and list(first.glob("running/*/state.json")), "another trial has begun")
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait() == ExitCode.INTERRUPTED
    assert list(outputs_dir().iterdir()) == [first]

    again = start(file)
    state = WatchFolder(file, "nightly")
    eventually(lambda: len(state.read().made) == 2, "both campaigns have ended")
    again.send_signal(signal.SIGTERM)
    output, _ = again.communicate()
    assert again.returncode == ExitCode.OK
    assert f"Campaign {first.name} continues." in output
    found = sorted(outputs_dir().iterdir())
    assert [made.folder for made in state.read().made] == found == [first, found[1]]
    for folder, trials in zip(found, (6, 1), strict=True):
        standing = read_standing(folder)
        assert len(standing.results) == trials and not standing.lost
    used = [Path(Campaign.load(folder).plan.trials[0].parameters.build).read_bytes() for folder in found]
    assert used[0] + b"x" == used[1], "the first campaign kept the build that it began with"
