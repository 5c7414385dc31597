"""The loop of `picolab watch`: looks for a reason to measure, and runs one campaign at a time.

A reason is a difference between what is there and what the last campaign measured: the SHA-256 of a build file, the
newest release, the last time of the schedule. Nothing counts events, so a reason that came while the watch was down or
busy is found by the next look, and two of them lead to one campaign.

The state names a campaign before its folder is made. Whenever the watch dies, the next start finds the campaign there,
completes it, and only then notes what it has measured.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from picolab.campaign.preflight import check_plan
from picolab.campaign.progress import Watcher
from picolab.campaign.runner import Campaign
from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.parameter_file import load_campaign_parameters
from picolab.config.plan import PLAN_FILE, Plan, make_plan
from picolab.config.project import in_command, outputs_dir
from picolab.config.watch_parameters import (
    WatchParameters,
    build_files,
    check_release,
    load_watch_parameters,
    with_builds,
)
from picolab.errors import (
    BuildError,
    CampaignBusy,
    CampaignChanged,
    HostBusy,
    HostUnfit,
    ParameterError,
    PicolabError,
    UnreadableFile,
    UnsafePath,
)
from picolab.exit_codes import ExitCode
from picolab.files.foreign import refuse_links
from picolab.history.store import open_store
from picolab.host.locks import holders_of, in_words, try_lock
from picolab.machines.kinds import kind_of
from picolab.publish.site import check_target
from picolab.results.folders import dated_name
from picolab.servers.build import sha256_of
from picolab.servers.registry import server_of
from picolab.text.foreign import one_line
from picolab.text.wording import listed
from picolab.watch.afterwards import add_to_history, adding, publish_site, write_pages
from picolab.watch.retention import complete_removals, plan_sha256, remove_oldest
from picolab.watch.settling import Settling
from picolab.watch.state import LOCK_FILE, MOST_TRIES, Begun, Made, WatchFolder, watches_dir

_BUSY_FILE = ".running.lock"
"""In the folder of all watches, held while one of them looks or runs a campaign: two would disturb each other."""
_LONGEST_SLEEP_S = 1.0
_SHORTEST_WAIT_S = 1.0
_GIVEN_UP = (CampaignChanged, ParameterError, UnreadableFile, UnsafePath)
"""Errors that another try at the same campaign would meet again."""


class Watch:
    """One watch.

    Args:
        file: describes the watch, see `WatchParameters`.
        run_campaign: runs a campaign while its progress is shown.
        note: receives a line for the user.
        stop_requested: returns whether somebody asked the watch to end.

    Raises:
        ParameterError: the file, or the parameter file that it names, makes no sense.
        HostUnfit: the packages for the history's URL are not installed.
        UnsafePath: a file of the site is a link.
    """

    def __init__(
        self,
        file: Path,
        run_campaign: Callable[[Campaign], ExitCode],
        note: Callable[[str], None],
        stop_requested: Callable[[], bool],
    ) -> None:
        self.file = file
        self.wanted: WatchParameters = load_watch_parameters(file)
        self._run_campaign, self._note, self._stop_requested = run_campaign, note, stop_requested
        self._place = WatchFolder(file, self.wanted.name)
        self._settling = Settling(self.wanted.settle_s)
        self._newest: str | None = None
        self._said: dict[str, str] = {}
        self._pending = False
        self._refused = 0
        self._is_tidy = False
        self._check()

    def _check(self) -> None:
        wanted = self._parameters()
        make_plan(wanted, self.wanted.name, self.wanted.parameters)
        if not (build_files(wanted) or self.wanted.release or self.wanted.every):
            raise ParameterError(
                f"{self.file}: nothing would begin a campaign: no build in {self.wanted.parameters} is a file; set "
                f"release or every, or give the path of a build there"
            )
        if self.wanted.history:
            open_store(self.wanted.history)
        if self.wanted.publish:
            check_target(Path(self.wanted.publish))

    def _parameters(self) -> CampaignParameters:
        wanted = load_campaign_parameters(Path(self.wanted.parameters))
        if self.wanted.release:
            check_release(wanted, self.wanted.release, str(self.file), self.wanted.parameters)
        return wanted

    def reasons_in_words(self) -> str:
        """Return what begins a campaign, as the end of a sentence."""
        files = build_files(self._parameters()) if self.wanted.build_changes else []
        words = [f"a change of {listed(files)}"] if files else []
        words += [f"a new release ({self.wanted.release})"] if self.wanted.release else []
        words += [f"the time (every {self.wanted.every}, UTC)"] if self.wanted.every else []
        return " or ".join(words)

    def run(self, once: bool = False) -> ExitCode:
        """Run campaigns until somebody asks for the end.

        Args:
            once: end when there is no reason for another campaign.

        Returns:
            The code of the last campaign; `OK` when it ended between two campaigns because somebody asked for it.

        Raises:
            CampaignBusy: another process has this watch.
            UnreadableFile: the state cannot be read.
            PicolabError: with `once`, why a campaign could not begin or continue.
        """
        last = ExitCode.OK
        with self._alone():
            self._state = self._place.read()
            schedule = self.wanted.schedule
            if schedule is not None and self._state.time is None:
                # The first campaign is for the first time from now on.
                self._state.time = schedule.last(datetime.now(UTC)).isoformat()
            while not self._stop_requested():
                self._pending = False
                try:
                    code = self._step()
                except (PicolabError, OSError) as error:
                    if once:
                        raise
                    self._say("step", str(error), _problem(error))
                    code = None
                else:
                    if not self._pending:
                        self._say("step", "")
                if code is ExitCode.INTERRUPTED:
                    return code
                if code is not None:
                    last = code
                elif once and not self._pending:
                    return last
                else:
                    self._wait()
        return ExitCode.OK

    @contextmanager
    def _alone(self) -> Iterator[None]:
        folder = self._place.path
        folder.mkdir(parents=True, exist_ok=True)
        refuse_links(folder, [LOCK_FILE, "state.json", "builds"])
        with _locked(folder / LOCK_FILE) as others:
            if others is not None:
                raise CampaignBusy(f"{self.file}: {others} watches it already; end that one first")
            yield

    def _wait(self) -> None:
        """Sleep until the next look, in short pieces: a signal only sets a flag."""
        wait_s = max(self.wanted.settle_s, _SHORTEST_WAIT_S) if self._pending else self.wanted.poll_s
        end = time.monotonic() + min(wait_s, self.wanted.poll_s)
        while (left_s := end - time.monotonic()) > 0 and not self._stop_requested():
            time.sleep(min(left_s, _LONGEST_SLEEP_S))

    def _say(self, about: str, line: str, problem: str = "") -> None:
        """Note a line unless it is about the same problem as the last one; an empty one says that all is well again.

        Args:
            problem: what stays the same in it from look to look; empty: all of it.
        """
        problem = problem or line
        if line and self._said.get(about) != problem:
            self._note(line)
        self._said[about] = problem

    def _step(self) -> ExitCode | None:
        """Run the campaign that is unfinished or has a reason; return its code, None when there was none to run."""
        with _locked(watches_dir() / _BUSY_FILE) as others:
            if others is not None:
                self._pending = True
                self._refused += 1
                # A look takes a moment, and is over by the next try.
                if self._refused > 1:
                    self._say("busy", f"Waits: {others} works for another watch.")
                return None
            self._refused = 0
            self._say("busy", "")
            if not self._is_tidy:
                complete_removals(self._place, self._state, self._note)
                self._follow_up()
                self._is_tidy = True
            begun = self._state.current or self._look()
            if begun is None:
                return None
            if self._state.current is None:
                plan = self._plan(begun)
                self._check_copies(plan, begun)
                check_plan(plan)
                self._state.current = begun
                self._place.write(self._state)
                self._say("campaign", f"Campaign {begun.campaign} begins: {listed(begun.triggers)}.", begun.campaign)
            else:
                self._say("campaign", f"Campaign {begun.campaign} continues.", begun.campaign)
            return self._run(begun)

    # Reasons

    def _look(self) -> Begun | None:
        """Return the campaign that should begin now, its builds copied; None: there is no reason, or not yet."""
        wanted = self._parameters()
        files = self._files(wanted)
        if files is None:
            return None
        named = wanted.builds[self.wanted.release].build.removeprefix("v") if self.wanted.release else None
        release = self._newest_release(wanted) or self._state.release or named
        schedule = self.wanted.schedule
        due = schedule.last(datetime.now(UTC)).isoformat() if schedule is not None else None
        triggers = [
            f"{file} has changed" if file in self._state.files else f"{file} is new to this watch"
            for file, sha256 in files.items()
            if self.wanted.build_changes and self._state.files.get(file) != sha256
        ]
        if release is not None and (self._state.release is None or _numbers(release) > _numbers(self._state.release)):
            triggers.append(f"release {release} is new")
        if due is not None and (self._state.time is None or due > self._state.time):
            triggers.append(f"it is time (every {self.wanted.every})")
        if not triggers:
            return None
        for file, sha256 in files.items():
            if not self._place.keep_copy(file, sha256):
                self._pending = True
                return None
        return Begun(
            campaign=self._free_name(),
            outputs=str(outputs_dir()),
            triggers=triggers,
            files=files,
            release=release,
            time=due or self._state.time,
        )

    def _files(self, wanted: CampaignParameters) -> dict[str, str] | None:
        """Return the SHA-256 of each build file, by its path; None when one may still be written.

        Raises:
            BuildError: one is missing or cannot be read.
        """
        found: dict[str, str] = {}
        for file in build_files(wanted):
            try:
                sha256 = self._settling.sha256(file)
            except OSError as error:
                raise BuildError(
                    f"build {file!r}: cannot be read ({error.strerror}); build it, or correct its path in "
                    f"{self.wanted.parameters}"
                ) from None
            if sha256 is None:
                self._pending = True
                return None
            found[file] = sha256
        return found

    def _newest_release(self, wanted: CampaignParameters) -> str | None:
        """Return the newest release; the last one known while nobody answers, None when none is known."""
        label = self.wanted.release
        if not label:
            return None
        plan = make_plan(wanted, self.wanted.name, self.wanted.parameters)
        trial = next((trial.parameters for trial in plan.trials if trial.parameters.build_label == label), None)
        if trial is None:
            raise ParameterError(
                f"{self.file}: release: no trial of {self.wanted.parameters} runs {label!r}; change its exclude"
            )
        try:
            self._newest = server_of(trial.server).newest_release(trial)
        except PicolabError as error:
            self._say("release", f"{error}. The next look asks again.")
        else:
            self._say("release", "")
        return self._newest

    def _free_name(self) -> str:
        """Return a name that no campaign has: two may begin in one second when they fail at once."""
        name = dated_name(self.wanted.name)
        taken = {made.campaign for made in self._state.made}
        names = (name, *(f"{name}-{number}" for number in range(2, 100)))
        return next(name for name in names if name not in taken and not (outputs_dir() / name).exists())

    # The campaign

    def _plan(self, begun: Begun) -> Plan:
        wanted = self._parameters()
        copies = {file: str(self._place.copy_of(file, sha256)) for file, sha256 in begun.files.items()}
        if set(copies) != set(build_files(wanted)):
            raise ParameterError(f"{self.wanted.parameters}: has other builds than when {begun.campaign} began")
        why = f"Begun by picolab watch ({self.wanted.name}): {listed(begun.triggers)}."
        replaced = with_builds(wanted, copies, self.wanted.release, begun.release)
        replaced = replaced.model_copy(update={"description": f"{wanted.description} {why}".strip()})
        return make_plan(replaced, begun.campaign, self.wanted.parameters)

    def _check_copies(self, plan: Plan, begun: Begun) -> None:
        """Refuse a script of an installed package: neither its content nor its copy says which package it starts.

        Raises:
            ParameterError: a build is one.
            BuildError: a build is missing, or cannot run here.
        """
        files = {str(self._place.copy_of(file, sha256)): file for file, sha256 in begun.files.items()}
        for trial in {trial.parameters.build: trial.parameters for trial in plan.trials}.values():
            if trial.build not in files:
                continue
            file, in_guest = files[trial.build], kind_of(trial.machine).is_virtual
            find_build = server_of(trial.server).find_build
            # First, so that an error names the file that its user knows.
            original = find_build(trial.model_copy(update={"build": file}), in_guest=in_guest)
            copy = find_build(trial, in_guest=in_guest)
            if original.identity.sha256 != copy.identity.sha256 and sha256_of(Path(file)) == begun.files[file]:
                raise ParameterError(
                    f"{self.wanted.parameters}: build {file!r} starts an installed package, whose changes its own "
                    f"content does not show; give a single file, such as a zipapp"
                )

    def _run(self, begun: Begun) -> ExitCode | None:
        try:
            if (begun.folder / PLAN_FILE).exists():
                campaign = Campaign.load(begun.folder)
            else:
                begun.outputs = str(outputs_dir())
                campaign = Campaign.create(self._plan(begun), Watcher())
            if not begun.plan_sha256:
                begun.plan_sha256 = plan_sha256(begun.folder)
            self._place.write(self._state)
            code = self._run_campaign(campaign)
        except _GIVEN_UP:
            self._end(begun, complete=False)
            self._note(f"Campaign {begun.campaign} is given up, and what it has stays.")
            raise
        if code is ExitCode.INTERRUPTED:
            return code
        self._state.files, self._state.release, self._state.time = begun.files, begun.release, begun.time
        # Noted before its pages are written: whatever goes wrong there, the campaign does not continue.
        self._end(begun, complete=code is not ExitCode.INSTRUMENT_FAULT, tries=0)
        self._follow_up()
        return code

    def _end(self, begun: Begun, complete: bool, tries: int | None = None) -> None:
        """Note that a campaign has ended; only then is there another one."""
        self._state.current = None
        if begun.plan_sha256 and begun.folder.exists():
            self._state.made.append(Made(**begun.model_dump(), complete=complete, tries=tries))
        self._place.write(self._state)
        self._place.drop_copies(self._state)

    def _follow_up(self) -> None:
        """Write the pages of campaigns that have ended, fill history and site, and remove the oldest campaigns."""
        due = self._tried([made for made in self._state.made if made.is_due])
        if not due:
            return
        for made in due:
            write_pages(made.folder, self.wanted, self._note)
        self._add_to_history(due)
        if self.wanted.publish:
            kept = [made for made in self._state.made if not made.removing]
            publish_site(kept, self.wanted, self._note)
        late = self._not_in_history() if self.wanted.history else []
        self._finished(due)
        for made in late:
            # One at a time: what kills the watch here is no try of another campaign.
            self._add_to_history(self._tried([made]))
            self._finished([made])
        remove_oldest(self._place, self._state, self.wanted, self._note)

    def _tried(self, campaigns: Sequence[Made]) -> list[Made]:
        """Count a try at the steps after some campaigns, and return those that have not had too many."""
        for made in campaigns:
            made.tries = (made.tries or 0) + 1
            if made.left_out:
                commands = [f"picolab report {in_command(made.folder)}"]
                if self.wanted.history and made.in_history != self.wanted.history:
                    commands.append(adding(made, self.wanted.history))
                self._note(
                    f"Pages, history and site of {made.campaign} are left out: the watch ended there {MOST_TRIES} "
                    f"times; make them with {listed(commands)}"
                )
        if campaigns:
            self._place.write(self._state)
        return [made for made in campaigns if made.is_due]

    def _finished(self, campaigns: Sequence[Made]) -> None:
        """Note that the steps after some campaigns have ended."""
        for made in campaigns:
            made.tries = None
        self._place.write(self._state)

    def _not_in_history(self) -> list[Made]:
        """Return complete campaigns that the history still lacks, but for those whose steps are tried or left out."""
        ended = [made for made in self._state.made if made.complete and made.tries is None and not made.removing]
        return [made for made in ended if made.in_history != self.wanted.history and made.folder.exists()]

    def _add_to_history(self, campaigns: Sequence[Made]) -> None:
        if self.wanted.history:
            add_to_history(campaigns, self.wanted.history, self._note)
            self._place.write(self._state)


def _problem(error: Exception) -> str:
    """Return what stays the same in an error from look to look: of an unfit host the numbers vary."""
    if isinstance(error, HostBusy):
        return HostBusy.__name__  # shares, seconds and programs vary
    if isinstance(error, HostUnfit):
        return re.sub(r"\d+", "", str(error))
    return str(error)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


@contextmanager
def _locked(path: Path) -> Iterator[str | None]:
    """Lock a file; yield None, or who has the lock, in words."""
    refuse_links(path.parent, [path.name])
    with path.open("ab") as file:
        yield None if try_lock(file) else one_line(in_words(holders_of([path])))
