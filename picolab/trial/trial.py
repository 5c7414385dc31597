"""One trial: its stages, each of which can be run again, also from another kernel.

    provision -> start -> authenticate -> upload -> verify -> collect -> release

A *result* (the server was killed, the upload stalled, ...) is not an error: the stage says it in a line, later
stages have nothing to do, and `collect` makes the record. A *fault of the instrument* is an error: the stage
publishes the record, then raises. What a stage has done is kept in the trial's folder and in the machine, so
that running a finished stage again changes nothing, and a new kernel goes on where another one was.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from picolab.config.parameters import DISK_FACTOR, TrialParameters
from picolab.config.sizes import MIB
from picolab.errors import (
    BuildError,
    HostUnfit,
    MachineBusy,
    MachineError,
    ParameterError,
    PicolabError,
    ProbeError,
    StageError,
)
from picolab.files import reserve
from picolab.files.writing import write_atomically
from picolab.host import conditions, facts
from picolab.host.facts import FILE_SYSTEMS_IN_MEMORY
from picolab.host.processes import this_process
from picolab.instrument import store
from picolab.jupyter import kernel_folders
from picolab.jupyter.live_line import LiveLine
from picolab.jupyter.trial_context import TrialContext
from picolab.machines import registry
from picolab.machines.base import Holder, Machine, MachineWish, ProcessStatus
from picolab.machines.folders import TRIAL_FILE
from picolab.record import caveats
from picolab.record.models import (
    NOT_ASKED_FOR,
    NOT_VERIFIED,
    RECORD_SCRAP,
    SAMPLES_SCRAP,
    STAGES,
    Caveat,
    ConditionsRecord,
    DownloadRecord,
    LimitDuringStep,
    MachineRecord,
    MemoryRecord,
    Outcome,
    PageCache,
    Progress,
    Record,
    ServerRecord,
    Stage,
    Step,
    UploadedFile,
    UploadRecord,
    VerifyRecord,
)
from picolab.record.samples import MOST_SCRAP_SAMPLES, read_samples, samples_scrap, summarise
from picolab.servers.build import Build, find_build
from picolab.servers.exchange import redacted
from picolab.servers.payload import seed_of_file
from picolab.servers.picoshare.client import (
    DELETE_LIMIT_S,
    DownloadMeasurement,
    Limits,
    PayloadFile,
    PicoShareClient,
    TransferProgress,
    UploadMeasurement,
    UploadsMeasurement,
    payload_files,
    peak_rss_bytes,
)
from picolab.servers.picoshare.server import SECRET_FILE, start_server, store_private
from picolab.slow_imports import decline_slow_imports
from picolab.text.foreign import visible
from picolab.text.quantities import in_mib, in_seconds
from picolab.trial.state import (
    DOWNLOAD_SAMPLES_FILE,
    PROGRESS_FILE,
    RECORD_FILE,
    SAMPLES_FILE,
    SERVER_LOG_FILE,
    VAGRANT_LOG_FILE,
    TrialState,
    claim_folder,
)

COOKIE_FILE = "cookie"
SERVER_END_LIMIT_S = 3.0
STOP_GRACE_S = 10.0
_DISK_FULL_SENTENCES = ("database or disk is full", "no space left on device")
_END_POLL_S = 0.01
_SAMPLE_BYTES, _MOST_SAMPLES = 320, 50_000
_POINT_BYTES, _MOST_POINTS, _PROGRESS_POINTS_PER_S = 48, 50_000, 5
_RECORD_BYTES = 128 << 10
"""What a sample, a point of the progress and the rest of a record take on the disk at most; longer uploads than the
other numbers stand for find room on the disk or do not."""
_UNFINISHED_DOWNLOAD = "the download did not get to its end"


class _Found(Exception):
    """A result other than ok: ends the stage, not the trial."""

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail


class Trial:
    """One measured execution of a case. Make one with `Trial.open`, then call the stages in order."""

    def __init__(self, state: TrialState, folder: Path, context: TrialContext | None) -> None:
        self.state = state
        self.folder = folder
        self._context = context
        self._machine: Machine | None = None

    @classmethod
    def open(cls, parameters: TrialParameters) -> "Trial":
        """Begin a trial, or go on with the one of the same parameters whose machine is still up.

        Raises:
            MachineBusy: somebody else who is alive holds the machine of that name.
            MachineKept: a trial of other parameters left it up for debugging.
        """
        context = TrialContext.from_environment()
        kernel_folders.note_connection_file()
        registry.check_free(_machine_name(parameters))
        machine = registry.attach(_machine_name(parameters))
        folder = context.folder if context else None
        if machine is not None and folder is None:
            folder = registry.trial_folder_of(machine.folder)
        state = TrialState.load(folder) if folder is not None and machine is not None else None
        if state is not None and state.parameters == parameters and folder is not None:
            trial = cls(state, folder, context)
            trial._machine = machine
            trial._say(f"Re-attached to trial {state.identity.trial_id}: {trial._summary()}")
            if all(stage.done for stage in state.stages.values()) and state.outcome is Outcome.OK:
                trial._say(f"To measure anew, first: picolab machines remove {_machine_name(parameters)}")
            return trial
        registry.check_not_kept(_machine_name(parameters))
        state = TrialState.begin(parameters, context)
        trial = cls(state, context.folder if context else claim_folder(state), context)
        trial.state.save(trial.folder)
        trial._say(f"New trial {state.identity.trial_id}; its files go to {trial.folder}")
        return trial

    # The stages

    def provision(self) -> None:
        """Reach a machine with the wanted memory and find the build; what is already there is used."""
        self._run("provision", self._provision)

    def start(self) -> None:
        """Start the server with fresh folders and a fresh secret, and wait until it answers.

        When the server of a failed upload is gone, this starts a new one, and the later stages begin again.
        """
        if self.state.stages["start"].done and self._wants_new_server():
            self.state.begins_again_at("start")
        self._run("start", self._start)

    def authenticate(self) -> None:
        """Log in."""
        self._run("authenticate", self._authenticate)

    def upload(self) -> None:
        """Upload the files (at the same time, if there are several) while the memory probe samples the server.

        With direction download it is not measured, and runs without the memory limit where that can be lifted.
        """
        self._run("upload", self._upload)

    def verify(self) -> None:
        """Download every file and compare it with what was sent; with direction download or both, measured.

        When nobody asked to measure it, it runs without the memory limit where that can be lifted, and decides nothing
        but whether a byte differs.
        """
        self._run("verify", self._verify)

    def collect(self) -> Record:
        """Stop the server (unless it will be kept), make the record, write it and glue it into the notebook."""
        self._run("collect", self._collect)
        record = self.state.record()
        self._publish(record)
        return record

    def release(self) -> None:
        """Give the machine back: take it down, or leave it up when `keep_machine` says so."""
        self._run("release", self._release)

    # What may be asked in between

    def samples(self) -> dict[str, Any]:
        """Return the samples as they are glued: `columns` holds a list a column; `t_s` counts from the first byte.

        Raises:
            ProbeError: there are none.
        """
        samples = read_samples(self.folder / SAMPLES_FILE)
        upload = self.state.upload
        zero_s = upload.first_byte_monotonic_s if upload else None
        first = samples.rows[0][0] if samples.rows else None
        return samples_scrap(samples, self.state.identity.trial_id, zero_s if zero_s is not None else first or 0.0)

    def chart(self) -> Any:
        """Return the chart of the server's memory over time, or a sentence when there is none.

        In a campaign there is none: drawing takes more than a second a trial, and the report has it for all.
        """
        if self.state.identity.campaign is not None:
            return f"Not drawn in a campaign; see: picolab report {self.state.identity.campaign}"
        from picolab.charts.figure import Figure
        from picolab.charts.memory import memory_over_time

        try:
            samples = self.samples()
        except ProbeError as error:
            return f"No chart: {error}"
        limit = self.state.machine.memory_limit.limit_bytes if self.state.machine else None
        upload = self.state.upload
        chart = memory_over_time(samples, limit, (upload and upload.outcome) or self.state.outcome)
        return Figure([chart], "Memory of the server over time")

    # How a stage is run

    def _run(self, stage: Stage, action: Callable[[], str]) -> None:
        progress = self.state.stages[stage]
        later_than_finding = (
            self.state.outcome_stage is not None
            and STAGES.index(stage) > STAGES.index(self.state.outcome_stage)
            and stage in ("start", "authenticate", "upload", "verify")
        )
        if later_than_finding:
            self._say(f"{stage}: nothing to do, because {self.state.outcome_stage} found {self.state.outcome}")
            return
        verify_again = stage == "verify" and self._unverified() and not self.state.stages["collect"].done
        if progress.done and self.state.outcome_stage != stage and not verify_again:
            self._say(f"{stage}: already done")
            return
        if self.state.outcome_stage == stage:
            self.state.begins_again_at(stage)
        progress.attempts += 1
        begun = time.monotonic()
        try:
            line = action()
            progress.done = True
        except _Found as finding:
            if self._context is not None and not self._context.owner_process.alive:
                # Then the keeper ended the server, and what looks like a result is none.
                self._fault(Outcome.INTERRUPTED, stage, "the process that this trial belonged to is gone", begun)
                raise StageError("the process that this trial belonged to is gone; run the trial again") from None
            self.state.found(finding.outcome, stage, finding.detail)
            line = f"{finding.outcome}: {finding.detail}"
        except KeyboardInterrupt:
            self._fault(Outcome.INTERRUPTED, stage, f"interrupted in stage {stage}", begun)
            raise
        except (StageError, ParameterError, BuildError, HostUnfit, MachineBusy) as error:
            if isinstance(error, HostUnfit) and self.state.upload is not None:
                self._fault(Outcome.MACHINE_FAILED, stage, str(error), begun)
                raise
            # The order of the cells, a value, or the host: nothing was measured, so nothing was found.
            progress.attempts -= 1
            with suppress(OSError):
                self.state.save(self.folder)
            raise
        except ProbeError as error:
            self._fault(Outcome.INVALID, stage, str(error), begun)
            raise
        except PicolabError as error:
            self._fault(Outcome.MACHINE_FAILED, stage, str(error), begun)
            raise
        except Exception as error:
            self._fault(Outcome.INVALID, stage, f"{type(error).__name__}: {error}", begun)
            raise
        progress.duration_s += time.monotonic() - begun
        # When a kept machine is released its folder is the trial's only home; a finished trial keeps its state too.
        self.state.save(self.folder)
        if stage == "release":
            reserve.free(self.folder)
        self._say(f"{stage}: {line}")

    def _fault(self, outcome: Outcome, stage: Stage, detail: str, begun: float) -> None:
        """Keep what was found out before a fault, in the notebook and on disk; the caller raises."""
        self.state.stages[stage].duration_s += time.monotonic() - begun
        if stage == "release" and self.state.outcome is not None:
            # The measurement is complete and published: what goes wrong now does not change what was found.
            self.state.save(self.folder)
            return
        self.state.found(outcome, stage, detail)
        with suppress(OSError):
            self.state.save(self.folder)
        self._publish(self.state.record())
        reserve.free(self.folder)
        if self._machine is not None:
            with suppress(PicolabError):
                self._machine.save_log()
        by_command = self._context is not None and self._context.campaign is None
        if by_command and self._machine is not None and outcome is not Outcome.INTERRUPTED and self._keeps():
            # The notebook ends here, and somebody wants to look at the machine.
            with suppress(PicolabError):
                self._machine.hold(Holder(self._holder().process, keep=True))

    def _say(self, text: str) -> None:
        print(visible(text), flush=True)

    def _summary(self) -> str:
        done = [stage for stage in STAGES if self.state.stages[stage].done]
        found = f", {self.state.outcome_stage} found {self.state.outcome}" if self.state.outcome_stage else ""
        return f"{', '.join(done) or 'nothing'} done{found}"

    # What each stage does; each returns a line for the reader

    def _holder(self) -> Holder:
        if self._context is not None:
            return Holder(self._context.owner_process, keep=False)
        return Holder(this_process(), keep=self.state.parameters.keep_machine != "never")

    def _reach(self) -> Machine:
        """Return the machine, re-attaching to it if this kernel has not done so yet.

        Raises:
            MachineError, MachineBusy: it cannot be reached, or somebody else holds it.
        """
        if self._machine is None:
            live = LiveLine("provision", self.folder / PROGRESS_FILE)
            wish = MachineWish(
                name=_machine_name(self.state.parameters),
                ram_mb=self.state.parameters.ram_mb,
                memory_limit=self.state.parameters.memory_limit,
                work_dir=self.state.parameters.work_dir,
                kind=self.state.parameters.machine,
                cpus=self.state.parameters.cpus,
                box=self.state.parameters.box,
                provider=self.state.parameters.provider,
                boot_limit_s=self.state.parameters.boot_limit_s,
                fresh_for=self._fresh_for(),
                log=self.folder / VAGRANT_LOG_FILE,
                report=live.show,
            )
            # A local machine is there before anybody could read a line.
            with live if wish.kind == "vagrant" else nullcontext():
                self._machine = registry.obtain(wish, self._holder())
        else:
            self._machine.hold(self._holder())
        return self._machine

    def _fresh_for(self) -> str:
        """Return what the machine shall be fresh for; the same name as at the trial before: it need not be."""
        identity = self.state.identity
        match self.state.parameters.fresh_machine:
            case "per_trial":
                return f"trial {identity.trial_id}, attempt {identity.attempt}"
            case "per_block" if identity.block is not None:
                return f"block {identity.block}"
        return ""

    def _provision(self) -> str:
        parameters = self.state.parameters
        self._add_caveats(caveats.of_parameters(parameters))
        in_guest = parameters.machine != "local"
        build = find_build(parameters.build, parameters.build_label, parameters.release_base_url, in_guest=in_guest)
        self.state.build, self.state.build_path = build.identity, build.path
        self._add_caveats(caveats.of_build(build.identity))
        self._look_at_instrument()
        machine = self._reach()
        write_atomically(machine.folder / TRIAL_FILE, json.dumps({"folder": str(self.folder)}))
        self.state.machine = machine.describe()
        others = [other["name"] for other in registry.existing() if other["held"] and other["name"] != machine.name]
        self._add_caveats(caveats.of_neighbours(others))
        self._add_caveats(caveats.of_machine(self.state.machine))
        _check_guest_disk(self.state.machine, parameters)
        return f"{_in_words(self.state.machine)}; build {build.identity.label} (sha256 {build.identity.sha256[:12]})"

    def _look_at_instrument(self) -> None:
        """Note which calibration of the instrument holds for this trial."""
        self.state.instrument, why_not = store.reference(self.state.parameters.machine)
        if self.state.instrument is None:
            self.state.missing["instrument"] = why_not
        else:
            for name, why in store.unexplained(self.state.instrument).items():
                self.state.missing[f"instrument.{name}"] = why

    def _wants_new_server(self) -> bool:
        if self.state.stages["collect"].done or self._machine is None:
            return False
        verified = self.state.stages["verify"].done and not self._unverified()
        return not verified and not self._machine.process_status().running

    def _unverified(self) -> bool:
        """Tell whether the upload was answered, and the download that nobody measures was not completed."""
        return any(caveat.code == NOT_VERIFIED for caveat in self.state.caveats)

    def _start(self) -> str:
        machine = self._attached("provision")
        build = self.state.build
        assert build is not None and self.state.build_path is not None
        machine.stop_process(STOP_GRACE_S)
        started = start_server(
            machine,
            Build(self.state.build_path, build),
            self.state.parameters.calibration,
            self.folder / SERVER_LOG_FILE,
            self.state.parameters.ready_limit_s,
            self.state.parameters.environment,
        )
        # The data folder is empty: what an earlier server had stored is gone.
        self.state.entry_ids = []
        self.state.base_url = started.base_url
        # How the server was started, and by which way it is reached, is known only now.
        self.state.machine = machine.describe()
        self.state.server = ServerRecord(
            ready_s=started.ready_s,
            idle_anon_bytes=None,
            exit_code=None,
            exit_signal=None,
            stop_s=None,
            oom_kills=None,
            oom_evidence=None,
        )
        if started.ready_s is None:
            self.state.missing["server.ready_s"] = "the server never answered"
            self.state.missing["server.idle_anon_bytes"] = "the server never answered"
            if started.status.running:
                limit = f"ready_limit_s = {self.state.parameters.ready_limit_s:g} s"
                why_not = f"; at last {started.why_not_ready}" if started.why_not_ready else ""
                raise _Found(Outcome.TIMEOUT, f"the server did not answer within {limit}{why_not}")
            raise self._server_ended(started.status, "before it answered")
        self.state.server.idle_anon_bytes = machine.process_anon_bytes()
        if self.state.server.idle_anon_bytes is None:
            self.state.missing["server.idle_anon_bytes"] = "the kernel shows no RssAnon of the process"
        self._add_caveats(caveats.of_network(machine.exposed_addresses(started.port), self.state.machine.network))
        return f"the server answers at {started.base_url} after {started.ready_s:.3f} s"

    def _authenticate(self) -> str:
        machine = self._attached("start")
        limit_s = self.state.parameters.ready_limit_s
        with PicoShareClient(self._base_url()) as client:
            login = client.authenticate((machine.folder / SECRET_FILE).read_text(), limit_s)
        if login.ending == "connection_lost":
            raise self._lost(f"the log-in was cut off ({login.detail})")
        if login.ending != "response":
            self._require_running(machine, "in the log-in")
            raise _Found(Outcome.TIMEOUT, f"the log-in took longer than ready_limit_s = {limit_s:g} s")
        if login.cookie is None:
            raise _Found(Outcome.HTTP_ERROR, f"the log-in was answered with {login.http_status}: {login.detail}")
        store_private(machine.folder / COOKIE_FILE, login.cookie)
        return "logged in"

    def _measures(self, step: Step) -> bool:
        return self.state.parameters.direction in (step, "both")

    def _upload(self) -> str:
        machine = self._attached("authenticate")
        self._require_running(machine, "before the upload")
        if self._measures("upload"):
            return self._upload_under(machine, self._limit_in_force(machine))
        not_restored: list[str] = []
        with self._limit_lifted(machine, not_restored) as limit:
            line = self._upload_under(machine, limit)
        if not not_restored:
            return line
        # A download by this server would be measured under another limit than the trial's.
        self._say(f"upload: {not_restored[0]}; a new server is started, and the upload is done again under the limit")
        self._start()
        self._authenticate()
        return self._upload_under(machine, self._limit_in_force(machine))

    def _limit_in_force(self, machine: Machine) -> LimitDuringStep:
        """Return how the memory limit is in a step that is measured.

        Raises:
            MachineError: an earlier kernel had lifted it, and it cannot be put back.
        """
        if not self._has_limit():
            return "none"
        why_not = machine.restore_memory_limit()
        if why_not is not None:
            raise MachineError(f"machine {machine.name!r}: {why_not}; run the notebook again from its first cell")
        return "kept"

    def _has_limit(self) -> bool:
        return self.state.machine is not None and self.state.machine.memory_limit.method != "none"

    @contextmanager
    def _limit_lifted(self, machine: Machine, not_restored: list[str]) -> Iterator[LimitDuringStep]:
        """Have a step that is not measured run without the memory limit, where that can be, and put it back after it.

        Args:
            not_restored: gets a sentence when the limit could not be put back.
        """
        if not self._has_limit():
            yield "none"
            return
        lifted = False
        try:
            lifted = machine.lift_memory_limit() is None
            yield "lifted" if lifted else "kept"
        finally:
            # Without its keeper there is no limit any more, and whoever asks for the server's status is told so.
            with suppress(MachineError):
                why_not = machine.restore_memory_limit() if lifted else None
                not_restored += [why_not] if why_not else []

    def _upload_under(self, machine: Machine, limit: LimitDuringStep) -> str:
        parameters = self.state.parameters
        self._put_aside(SAMPLES_FILE)
        self._reserve("upload", SAMPLES_FILE)
        self._add_caveats(caveats.of_attempts(self.state.stages["upload"].attempts))
        sync_s = None
        with self._client(machine) as client:
            for entry_id in filter(None, self.state.entry_ids):
                # A file of an earlier attempt would only fill the disk.
                client.delete(entry_id, min(DELETE_LIMIT_S, parameters.upload_limit_s))
            self.state.entry_ids = []
            cache = self._page_cache(machine, "upload")
            before = self._conditions_now(machine)
            probe = machine.probe(parameters.sample_interval_s, self.folder / SAMPLES_FILE)
            if self.state.machine is not None and self.state.machine.kind == "vagrant":
                # The guest's clock was read anew: this reading maps the samples.
                self.state.machine = machine.describe()
            try:
                with LiveLine("upload", self.folder / PROGRESS_FILE) as live:

                    def report(progress: TransferProgress) -> None:
                        live.show(progress.line())

                    limits = Limits(parameters.stall_limit_s, parameters.upload_limit_s)
                    measurement = client.upload_files(self._files(), limits, report)
                    self.state.entry_ids = [measured.entry_id for measured in measurement.files]
                    if measurement.succeeded and self._why_no_sync() is None:
                        sync_s = machine.sync_data()
            finally:
                probe_exit = probe.finish()
                reserve.give_back(self.folder / SAMPLES_FILE)
                self._add_caveats(caveats.of_clock(probe.clock_drift_s))
        self.state.conditions = self._conditions_since(before, machine, "conditions")
        self._add_caveats(caveats.of_conditions(self.state.conditions))
        self.state.upload = self._upload_record(measurement, cache, sync_s, limit)
        self._add_caveats(caveats.of_instrument(self.state.instrument, self.state.upload.transfer_mib_s, None))
        zero_s = measurement.first_byte_s if measurement.first_byte_s is not None else 0.0
        self.state.memory, missing, whole = self._memory(SAMPLES_FILE, zero_s)
        self.state.missing.update(missing)
        self._add_caveats(caveats.of_memory(self.state.memory))
        if not whole:
            raise self._probe_ended_early(machine, probe_exit, self.state.memory)
        self._judge_upload(measurement)
        upload = self.state.upload
        synced = "" if upload.sync_s is None else f", sync {in_seconds(upload.sync_s)}"
        return (
            f"{_files_in_words(parameters)} in {upload.duration_s:.2f} s = {upload.throughput_mib_s:.1f} MiB/s "
            f"(transfer {in_seconds(upload.transfer_s)}, commit {in_seconds(upload.commit_s)}{synced}), "
            f"peak anonymous memory {in_mib(self.state.memory.peak_anon_bytes)}"
        )

    def _reserve(self, step: Step, samples_file: str) -> None:
        """Take room on the disk for what a step that begins now will find.

        Raises:
            HostUnfit: there is not as much.
        """
        parameters = self.state.parameters
        samples = parameters.upload_limit_s / parameters.sample_interval_s
        points = parameters.upload_limit_s * _PROGRESS_POINTS_PER_S
        slot_bytes = _RECORD_BYTES + int(min(points, _MOST_POINTS) * _POINT_BYTES)
        notebook_bytes = 2 * slot_bytes + int(min(samples, MOST_SCRAP_SAMPLES) * _SAMPLE_BYTES)
        reserve.take(self.folder, slot_bytes, notebook_bytes, step)
        reserve.hold_back(self.folder / samples_file, int(min(samples, _MOST_SAMPLES) * _SAMPLE_BYTES), step)

    def _conditions_now(self, machine: Machine) -> conditions.Reading:
        """Read what the host does at this moment: right before a measured step, or right after it."""
        caller = self._context.owner_process.pid if self._context is not None else None
        return conditions.read(conditions.own_of(machine, caller), machine.work_folder)

    def _conditions_since(self, before: conditions.Reading, machine: Machine, path: str) -> ConditionsRecord:
        """Return what the host did since a reading, and note what is missing in it under `path` of the record."""
        found, missing = conditions.between(before, self._conditions_now(machine))
        self.state.missing.update({f"{path}.{name}": why for name, why in missing.items()})
        return found

    def _client(self, machine: Machine) -> PicoShareClient:
        """Return a client that is logged in."""
        cookie, secret = ((machine.folder / name).read_text() for name in (COOKIE_FILE, SECRET_FILE))
        return PicoShareClient(self._base_url(), cookie, secret)

    def _secrets(self) -> list[str]:
        """Return what no message may show."""
        assert self._machine is not None
        paths = [self._machine.folder / name for name in (SECRET_FILE, COOKIE_FILE)]
        return [path.read_text() for path in paths if path.exists()]

    def _why_no_sync(self) -> str | None:
        """Return why the data are not brought to the disk after the upload; None when they are."""
        if self.state.parameters.sync == "skip":
            return f"{NOT_ASKED_FOR} (sync: skip)"
        machine = self.state.machine
        if machine is not None and machine.data_folder_file_system in FILE_SYSTEMS_IN_MEMORY:
            return f"the data folder lies in memory ({machine.data_folder_file_system}): its data are never on a disk"
        return None

    def _page_cache(self, machine: Machine, step: Literal["upload", "download"]) -> PageCache:
        """Drop the page cache before a step if it is to be measured with a cold one; return how the cache is."""
        parameters = self.state.parameters
        if parameters.cache == "warm" or parameters.direction not in (step, "both"):
            return "warm"
        why_not = machine.drop_page_cache()
        self._add_caveats(caveats.of_cache(why_not))
        return "dropped" if why_not is None else "unknown"

    def _memory(self, samples_file: str, zero_s: float) -> tuple[MemoryRecord, dict[str, str], bool]:
        """Sum up the samples of a step.

        Args:
            zero_s: the moment that counts as zero, on the host's monotonic clock.

        Returns:
            the record; the reasons for what is missing in it; whether the probe ran to its end.
        """
        samples = read_samples(self.folder / samples_file)
        memory, missing = summarise(samples, self.state.parameters.sample_interval_s, zero_s)
        return memory, missing, samples.end is not None

    def _probe_ended_early(self, machine: Machine, probe_exit: int | None, memory: MemoryRecord) -> ProbeError:
        # When the machine itself is gone, that is the fault, and this says so.
        machine.process_status()
        return ProbeError(
            f"the memory probe ended too early (exit code {probe_exit}) after {memory.samples} samples, so "
            f"the memory of this step is not known; run the cell again"
        )

    def _upload_record(
        self,
        measured: UploadsMeasurement,
        cache: PageCache = "warm",
        sync_s: float | None = None,
        limit: LimitDuringStep = "kept",
    ) -> UploadRecord:
        parameters = self.state.parameters
        size_mib = parameters.uploaded_bytes / MIB
        first_s = measured.first_byte_s
        times, why = _times(measured)
        transfer_s, commit_s, duration_s = times["transfer_s"], times["commit_s"], times["duration_s"]
        last_s = measured.last_byte_s
        overlap = last_s is not None and any(m.response_s is not None and m.response_s < last_s for m in measured.files)
        failed = measured.failed
        record = UploadRecord(
            outcome=None,
            outcome_detail="",
            memory_limit=limit,
            file_size_bytes=parameters.file_size_bytes,
            first_byte_monotonic_s=first_s,
            **times,
            throughput_mib_s=size_mib / duration_s if duration_s else None,
            transfer_mib_s=size_mib / transfer_s if transfer_s else None,
            commit_mib_s=size_mib / commit_s if commit_s and not overlap else None,
            delivered_bytes=measured.delivered_bytes,
            http_status=failed[0].http_status if failed else 200,
            server_message=failed[0].server_message if failed else None,
            client_peak_rss_bytes=peak_rss_bytes(),
            progress=Progress(
                t_s=[round(t - (first_s or 0.0), 4) for t, _ in measured.progress],
                delivered_bytes=[delivered for _, delivered in measured.progress],
            ),
            cache=cache,
            sync_s=sync_s,
            durable_mib_s=size_mib / (duration_s + sync_s) if duration_s and sync_s is not None else None,
            parallel_uploads=parameters.parallel_uploads,
            files=[self._uploaded_file(index, one, first_s) for index, one in enumerate(measured.files)],
        )
        unsynced = self._why_no_sync() or why["duration_s"]
        why |= {
            "first_byte_monotonic_s": "no byte was sent",
            "throughput_mib_s": why["duration_s"],
            "transfer_mib_s": why["transfer_s"],
            "commit_mib_s": "a file was answered while another one was still transferred"
            if commit_s is not None
            else why["commit_s"],
            "http_status": "the server gave no answer",
            "sync_s": unsynced,
            "durable_mib_s": unsynced,
        }
        self._explain("upload", record, why)
        return record

    def _uploaded_file(self, index: int, measured: UploadMeasurement, zero_s: float | None) -> UploadedFile:
        """Return what the record says about one file; `zero_s` is when the first byte of any was sent."""
        parameters = self.state.parameters
        first_s = measured.first_byte_s
        times, why = _times(measured)
        duration_s = times["duration_s"]
        said = measured.ending_detail or measured.server_message or measured.ending
        record = UploadedFile(
            seed=seed_of_file(parameters.seed, index),
            first_byte_s=first_s - zero_s if first_s is not None and zero_s is not None else None,
            **times,
            throughput_mib_s=parameters.file_size_bytes / MIB / duration_s if duration_s else None,
            delivered_bytes=measured.delivered_bytes,
            http_status=measured.http_status,
            ending=measured.ending,
            ending_detail="" if measured.succeeded else said,
        )
        why |= {
            "first_byte_s": "no byte was sent",
            "throughput_mib_s": why["duration_s"],
            "http_status": "the server gave no answer",
        }
        self._explain(f"upload.files.{index}", record, why)
        return record

    def _explain(self, path: str, part: BaseModel, why: dict[str, str]) -> None:
        """Keep the reason of each null in a part of the record."""
        for name, reason in why.items():
            if getattr(part, name) is None:
                self.state.missing[f"{path}.{name}"] = reason

    def _judge_upload(self, measured: UploadsMeasurement) -> None:
        """Note what the upload found, and raise it unless every file was answered with success.

        Of several that failed the first counts.
        """
        assert self.state.upload is not None
        failed = measured.failed
        if not failed:
            self.state.upload.outcome = Outcome.OK
            self.state.upload.outcome_detail = "the upload was answered with success"
            return
        found = self._failed_upload(failed, measured.delivered_bytes)
        several = f"{len(failed)} of {len(measured.files)} uploads failed, the first of them so: "
        found = _Found(found.outcome, (several if len(measured.files) > 1 else "") + found.detail)
        self.state.upload.outcome, self.state.upload.outcome_detail = found.outcome, found.detail
        raise found

    def _failed_upload(self, failed: list[UploadMeasurement], delivered_bytes: int) -> _Found:
        """Return what the first of the failed uploads means.

        Args:
            delivered_bytes: of all files.
        """
        assert self.state.upload is not None
        first = failed[0]
        delivered = f"after {delivered_bytes / MIB:.1f} of {self.state.parameters.uploaded_bytes / MIB:.1f} MiB"
        status = self._settled_status(wait=any(one.ending == "connection_lost" for one in failed))
        if not status.running or self._was_oom_killed(status):
            return self._server_ended(status, delivered, self.state.upload.memory_limit)
        if first.ending == "timeout":
            limit = f"{self.state.parameters.upload_limit_s:g} s"
            return _Found(Outcome.TIMEOUT, f"the upload took longer than its limit of {limit}, {delivered}")
        if first.ending == "stalled":
            limit = f"{self.state.parameters.stall_limit_s:g} s"
            return _Found(Outcome.STALLED, f"no byte was delivered for stall_limit_s = {limit}, {delivered}")
        if first.http_status is not None:
            sentence = first.server_message or ""
            full = any(words in sentence.lower() for words in _DISK_FULL_SENTENCES)
            return _Found(
                Outcome.DISK_FULL if full else Outcome.HTTP_ERROR,
                f"the server answered {first.http_status}: {sentence}",
            )
        if first.server_message is not None:
            return _Found(Outcome.HTTP_ERROR, f"the upload failed, {delivered}: {first.server_message}")
        return _Found(
            Outcome.HTTP_ERROR,
            f"the server closed the connection without an answer, {delivered} ({first.ending_detail})",
        )

    def _verify(self) -> str:
        machine = self._attached("upload")
        if not self.state.entry_ids or None in self.state.entry_ids:
            raise StageError("there is nothing to verify yet; run the upload cell first")
        self.state.caveats = [caveat for caveat in self.state.caveats if caveat.code != NOT_VERIFIED]
        if not self._measures("download"):
            return self._compare(machine)
        self._require_running(machine, "after the upload was answered")
        limit = self._limit_in_force(machine)
        with self._client(machine) as client:
            downloads = self._measured_downloads(machine, client)
        assert self.state.download is not None
        self.state.verify = self._verify_record(downloads, limit)
        found = self._failed_downloads(downloads)
        self.state.download.outcome = found.outcome if found else Outcome.OK
        self.state.download.outcome_detail = found.detail if found else "every byte came back"
        if found is not None:
            raise found
        peak = f"peak anonymous memory {in_mib(self.state.download.memory.peak_anon_bytes)}"
        return f"every byte came back, {self.state.verify.download_mib_s:.1f} MiB/s, {peak}"

    def _compare(self, machine: Machine) -> str:
        """Download every file and compare it, in a step that nobody asked to measure.

        Raises:
            _Found: corrupted. Whatever else happens says nothing about the upload, which was answered with success.
        """
        status = machine.process_status()
        server = self.state.server
        assert server is not None
        if server.oom_kills is None:
            # What happens from here on is not of the measured step.
            server.oom_kills, server.oom_evidence = status.oom_kills, status.oom_evidence
        not_restored: list[str] = []
        downloads: list[DownloadMeasurement] = []
        limit: LimitDuringStep = "kept" if self._has_limit() else "none"
        found = None if status.running else self._server_ended(status, "after the upload was answered")
        if found is None:
            with self._limit_lifted(machine, not_restored) as limit, self._client(machine) as client:
                downloads = self._downloads(client)
        self.state.verify = self._verify_record(downloads, limit)
        differing = [one for one in downloads if one.matched is False]
        found = found or self._failed_downloads(downloads, only=differing)
        if found is not None and found.outcome is Outcome.CORRUPTED:
            raise found
        if found is not None:
            self._add_caveats(caveats.of_verification(found.outcome, found.detail, limit == "kept"))
        said = f"not completed: {found.detail}" if found else "every byte came back"
        return "; ".join([said, *not_restored])

    def _files(self) -> list[PayloadFile]:
        parameters = self.state.parameters
        return payload_files(parameters.seed, parameters.file_size_bytes, parameters.parallel_uploads)

    def _downloads(self, client: PicoShareClient) -> list[DownloadMeasurement]:
        """Download the files one after another, until one does not get to its end."""
        parameters = self.state.parameters
        downloads: list[DownloadMeasurement] = []
        ends_s = time.monotonic() + parameters.upload_limit_s
        for entry_id, file in zip(self.state.entry_ids, self._files(), strict=True):
            assert entry_id is not None
            limits = Limits(parameters.stall_limit_s, ends_s - time.monotonic())
            downloads.append(client.download(entry_id, file.seed, file.size_bytes, limits))
            if downloads[-1].matched is None:
                break
        return downloads

    def _measured_downloads(self, machine: Machine, client: PicoShareClient) -> list[DownloadMeasurement]:
        """Download the files while the memory probe samples the server."""
        self._put_aside(DOWNLOAD_SAMPLES_FILE)
        self._reserve("download", DOWNLOAD_SAMPLES_FILE)
        cache = self._page_cache(machine, "download")
        before = self._conditions_now(machine)
        probe = machine.probe(self.state.parameters.sample_interval_s, self.folder / DOWNLOAD_SAMPLES_FILE)
        begun_s = time.monotonic()
        try:
            downloads = self._downloads(client)
        finally:
            probe_exit = probe.finish()
            reserve.give_back(self.folder / DOWNLOAD_SAMPLES_FILE)
        found = self._conditions_since(before, machine, "download.conditions")
        memory, missing, whole = self._memory(DOWNLOAD_SAMPLES_FILE, begun_s)
        unlimited_upload = self.state.upload is not None and self.state.upload.memory_limit == "lifted"
        if unlimited_upload and read_samples(self.folder / DOWNLOAD_SAMPLES_FILE).growth("vm_hwm_bytes") == 0:
            memory.vm_hwm_bytes = None
            missing["memory.vm_hwm_bytes"] = "it is still that of the upload, which ran without the memory limit"
        self.state.missing.update({f"download.{path}": why for path, why in missing.items()})
        self._add_new_caveats([*caveats.of_memory(memory), *caveats.of_conditions(found)])
        duration_s, throughput_mib_s = self._download_rate(downloads)
        upload_mib_s = self.state.upload.transfer_mib_s if self.state.upload else None
        self._add_caveats(caveats.of_instrument(self.state.instrument, upload_mib_s, throughput_mib_s))
        if cache == "warm":
            self._add_caveats(caveats.of_page_cache(self.state.parameters.uploaded_bytes, self._room_for_cache(memory)))
        asked_s, first_byte_s = downloads[0].sent_request_s, downloads[0].first_byte_s
        self.state.download = DownloadRecord(
            outcome=None,
            outcome_detail="",
            begun_monotonic_s=begun_s,
            duration_s=duration_s,
            throughput_mib_s=throughput_mib_s,
            first_byte_wait_s=first_byte_s - asked_s if first_byte_s is not None and asked_s is not None else None,
            received_bytes=sum(one.received_bytes for one in downloads),
            cache=cache,
            memory=memory,
            conditions=found,
        )
        why = dict.fromkeys(("duration_s", "throughput_mib_s"), _UNFINISHED_DOWNLOAD)
        self._explain("download", self.state.download, why | {"first_byte_wait_s": "no byte came back"})
        if not whole:
            raise self._probe_ended_early(machine, probe_exit, memory)
        return downloads

    def _room_for_cache(self, memory: MemoryRecord) -> int:
        """Return how many bytes the page cache could have while the server used its memory."""
        limit = self.state.machine.memory_limit.limit_bytes if self.state.machine else None
        if limit is None:
            limit = facts.memory_info()["MemTotal"]
        return max(0, limit - (memory.peak_anon_bytes or 0))

    def _download_rate(self, downloads: list[DownloadMeasurement]) -> tuple[float | None, float | None]:
        """Return the seconds and the MiB/s of all downloads together, each None when it is not known."""
        parameters = self.state.parameters
        durations = [one.download_s for one in downloads if one.download_s is not None]
        if len(durations) < parameters.parallel_uploads:
            return None, None
        duration_s = sum(durations)
        whole = all(one.received_bytes == parameters.file_size_bytes for one in downloads)
        return duration_s, parameters.uploaded_bytes / MIB / duration_s if whole and duration_s > 0 else None

    def _verify_record(self, downloads: list[DownloadMeasurement], limit: LimitDuringStep) -> VerifyRecord:
        differing = [one for one in downloads if one.matched is False]
        shown = (differing or downloads or [DownloadMeasurement()])[0]
        complete = len(downloads) == self.state.parameters.parallel_uploads and downloads[-1].matched is not None
        download_s, download_mib_s = self._download_rate(downloads)
        record = VerifyRecord(
            memory_limit=limit,
            matched=False if differing else True if complete else None,
            sent_sha256=shown.sent_sha256,
            received_sha256=shown.received_sha256,
            first_difference_byte=shown.first_difference_byte,
            received_bytes=sum(one.received_bytes for one in downloads),
            download_s=download_s,
            download_mib_s=download_mib_s,
        )
        names = ("matched", "sent_sha256", "received_sha256", "download_s", "download_mib_s")
        self._explain("verify", record, dict.fromkeys(names, _UNFINISHED_DOWNLOAD))
        return record

    def _failed_downloads(
        self, downloads: list[DownloadMeasurement], only: list[DownloadMeasurement] | None = None
    ) -> _Found | None:
        """Return what was found unless every byte of every file came back; of several that failed the first counts.

        Args:
            only: when there are any of these, they alone count.
        """
        failed = [(number, one) for number, one in enumerate(downloads, start=1) if not one.matched]
        if not failed:
            return None
        number, first = next((one for one in failed if only and one[1] is only[0]), failed[0])
        found = self._failed_download(first)
        count = self.state.parameters.parallel_uploads
        several = f"file {number} of {count} ({len(failed)} of {len(downloads)} downloads failed): "
        return _Found(found.outcome, (several if count > 1 else "") + found.detail)

    def _failed_download(self, measured: DownloadMeasurement) -> _Found:
        status = self._settled_status(wait=measured.ending == "connection_lost")
        if (not status.running or self._was_oom_killed(status)) and measured.matched is None:
            limit = self.state.verify.memory_limit if self.state.verify else None
            return self._server_ended(status, "in the download", limit)
        if measured.matched is False:
            return _Found(
                Outcome.CORRUPTED,
                f"the download differs from byte {measured.first_difference_byte} on "
                f"({measured.received_bytes} bytes received, {self.state.parameters.file_size_bytes} sent)"
                + (f"; {measured.ending_detail}" if measured.ending_detail else ""),
            )
        if measured.http_status not in (None, 200):
            return _Found(
                Outcome.HTTP_ERROR,
                f"the download was answered with {measured.http_status}: {measured.server_message}",
            )
        if measured.ending in ("stalled", "timeout"):
            return _Found(Outcome(measured.ending), f"the download ended after {measured.received_bytes / MIB:.1f} MiB")
        return _Found(Outcome.HTTP_ERROR, f"the server closed the download ({measured.ending_detail})")

    def _collect(self) -> str:
        missing_stages = [stage for stage in STAGES[:5] if not self.state.stages[stage].done]
        if self.state.outcome is None and missing_stages:
            raise StageError(f"there is nothing to collect yet; run the {missing_stages[0]} cell first")
        if self.state.outcome is None:
            not_known = "the upload was answered with success; whether every byte came back is not known"
            self.state.found(
                Outcome.OK, None, not_known if self._unverified() else "every byte was stored and came back"
            )
        server = self.state.server
        if server is not None and self._machine is not None:
            self.state.missing.pop("server.stop_s", None)
            if self._keeps():
                status = self._machine.process_status()
                self._machine.save_log()
                self.state.missing["server.stop_s"] = "the server was kept running"
            else:
                status = self._machine.stop_process(STOP_GRACE_S)
            server.exit_code, server.exit_signal = status.exit_code, status.exit_signal
            if self.state.verify is None or self._measures("download"):
                server.oom_kills, server.oom_evidence = status.oom_kills, status.oom_evidence
            if server.oom_kills is None:
                self.state.missing["server.oom_kills"] = "nobody counts OOM kills where this server ran"
            if status.stop_s is not None:
                server.stop_s = status.stop_s
            else:
                self.state.missing.setdefault("server.stop_s", "the server ended by itself")
        (self.folder / PROGRESS_FILE).unlink(missing_ok=True)
        return f"{self.state.outcome}: {self.state.outcome_detail}"

    def _keeps(self) -> bool:
        keep = self.state.parameters.keep_machine
        return keep == "always" or (keep == "on_failure" and self.state.outcome not in (None, Outcome.OK))

    def _release(self) -> str:
        machine = self._machine or registry.attach(_machine_name(self.state.parameters))
        if machine is None:
            return "the machine is already gone"
        if self._keeps():
            machine.hold(Holder(self._holder().process, keep=True))
            return (
                f"machine {machine.name!r} is kept (keep_machine: {self.state.parameters.keep_machine}). Its server: "
                f"{self.state.base_url}, log: {self.folder / SERVER_LOG_FILE}. "
                + (f"To get in: {machine.way_in}. " if machine.way_in else "")
                + "Mend the cause and run the cells again from the failing one; to take the machine down: "
                f"picolab machines remove {machine.name}"
            )
        self._machine = None
        if self.state.identity.campaign is not None:
            machine.hand_back()
            return f"machine {machine.name!r} given back to the campaign"
        machine.release()
        return f"machine {machine.name!r} taken down"

    # Small things that several stages need

    def _attached(self, earlier: Stage) -> Machine:
        """Return the machine, if the stage before was done and the machine still exists.

        Raises:
            StageError: it was not, or it does not.
        """
        if not self.state.stages[earlier].done:
            raise StageError(f"the stage {earlier} has not been done yet; run its cell first")
        name = _machine_name(self.state.parameters)
        if self._machine is None:
            registry.check_free(name)
            self._machine = registry.attach(name)
        if self._machine is None:
            raise StageError("the machine of this trial is gone; run the notebook again from its first cell")
        self._machine.hold(self._holder())
        return self._machine

    def _require_running(self, machine: Machine, when: str) -> None:
        """Raise _Found when the server has ended since the stage before."""
        status = machine.process_status()
        if not status.running:
            raise self._server_ended(status, when)

    def _base_url(self) -> str:
        assert self.state.base_url is not None
        return self.state.base_url

    def _settled_status(self, wait: bool) -> ProcessStatus:
        """Return how the server is; after a lost connection give a dying process a moment to be dead."""
        assert self._machine is not None
        deadline = time.monotonic() + (SERVER_END_LIMIT_S if wait else 0.0)
        status = self._machine.process_status()
        while status.running and time.monotonic() < deadline:
            time.sleep(_END_POLL_S)
            status = self._machine.process_status()
        return status

    def _server_ended(self, status: ProcessStatus, when: str, limit: LimitDuringStep | None = None) -> _Found:
        if self._was_oom_killed(status):
            evidence = f'; the kernel says "{status.oom_evidence}"' if status.oom_evidence else ""
            where = f"at the limit of {self.state.parameters.ram_mb} MiB"
            if limit == "lifted":
                where = "because this host ran out of memory while the server's limit was lifted"
            return _Found(Outcome.OOM_KILLED, f"the kernel killed the server {where}, {when}{evidence}")
        ended = f"signal {status.exit_signal}" if status.exit_signal else f"exit code {status.exit_code}"
        last_words = self._machine.process_log().strip().splitlines()[-1:] if self._machine else []
        said = f'; its log ends with "{redacted(last_words[0], self._secrets())[:200]}"' if last_words else ""
        return _Found(Outcome.SERVER_DIED, f"the server ended with {ended}, {when}{said}")

    def _was_oom_killed(self, status: ProcessStatus) -> bool:
        if self.state.machine is not None and self.state.machine.kind == "vagrant":
            # A guest counts the kills of all of its processes: there the line that names the server decides.
            return status.oom_evidence is not None
        # However it ended, or not at all: a script that has started the real server may live on or end in its own way.
        return bool(status.oom_kills)

    def _lost(self, what: str) -> _Found:
        status = self._settled_status(wait=True)
        if not status.running or self._was_oom_killed(status):
            return self._server_ended(status, what)
        return _Found(Outcome.HTTP_ERROR, what)

    def _add_caveats(self, new: list[Caveat]) -> None:
        """Add caveats; of a stage that is run again, the new ones count."""
        codes = {caveat.code for caveat in new}
        self.state.caveats = [caveat for caveat in self.state.caveats if caveat.code not in codes] + new

    def _add_new_caveats(self, new: list[Caveat]) -> None:
        """Add those whose code is not there yet: of a trial's measured steps the first one that warns is enough."""
        known = {caveat.code for caveat in self.state.caveats}
        self._add_caveats([caveat for caveat in new if caveat.code not in known])

    def _put_aside(self, name: str) -> None:
        """Keep a file of an earlier attempt under another name: nothing that was measured is overwritten."""
        path = self.folder / name
        if path.exists():
            number = 1
            while (aside := path.with_name(f"{path.stem}.attempt{number}{path.suffix}")).exists():
                number += 1
            path.rename(aside)

    def _publish(self, record: Record) -> None:
        """Write the record beside the samples, and glue both when this is a notebook."""
        reserve.write(self.folder / RECORD_FILE, record.model_dump_json(indent=1))
        # The record is safe: what was kept for the notebook is for the notebook now.
        reserve.free(self.folder, notebook_only=True)
        if _in_notebook():
            decline_slow_imports()
            import scrapbook

            scrapbook.glue(RECORD_SCRAP, json.loads(record.model_dump_json()), "json")
            if (self.folder / SAMPLES_FILE).exists():
                scrapbook.glue(SAMPLES_SCRAP, self.samples(), "json")


def _check_guest_disk(machine: MachineRecord, parameters: TrialParameters) -> None:
    """Refuse an upload that cannot fit: the server would be blamed for it.

    Raises:
        HostUnfit: the guest's disk is too small.
    """
    needed = parameters.needed_disk_bytes
    if machine.kind == "vagrant" and machine.free_disk_bytes < needed:
        raise HostUnfit(
            f"an upload of {_files_in_words(parameters)} needs {DISK_FACTOR} times its size on disk, "
            f"{needed / MIB:,.0f} MiB, and the guest has {machine.free_disk_bytes / MIB:,.0f} MiB free; choose smaller "
            f"files, or a box with a larger disk"
        )


def _files_in_words(parameters: TrialParameters) -> str:
    several = f"{parameters.parallel_uploads} x " if parameters.parallel_uploads > 1 else ""
    return several + parameters.file_size


def _times(measured: UploadMeasurement | UploadsMeasurement) -> tuple[dict[str, float | None], dict[str, str]]:
    """Return the durations of an upload's phases, and for each why it is missing if it is."""
    first_s, last_s, response_s = measured.first_byte_s, measured.last_byte_s, measured.response_s
    answered = measured.succeeded
    times = {
        "transfer_s": last_s - first_s if first_s is not None and last_s is not None else None,
        "commit_s": response_s - last_s if answered and last_s is not None and response_s is not None else None,
        "duration_s": response_s - first_s if answered and first_s is not None and response_s is not None else None,
    }
    # A server may answer before it has acknowledged the end of the body: then nobody saw the phases part.
    unseen = "the answer came before the last byte was acknowledged"
    unanswered = "the upload was not answered with success"
    why = {
        "transfer_s": unseen if answered else "not every byte was delivered",
        "commit_s": unseen if answered else unanswered,
        "duration_s": unanswered,
    }
    return times, why


def _in_words(machine: MachineRecord) -> str:
    """Return what the provision cell says about the machine."""
    limit, virtual = machine.memory_limit, machine.virtual_machine
    if virtual is not None:
        return (
            f"machine {machine.name!r} {virtual.reached_by} in {virtual.reached_s:.1f} s: {virtual.box}, "
            f"{virtual.nominal_ram_bytes // MIB} MiB of RAM, of which the guest can use "
            f"{virtual.usable_ram_bytes / MIB:.0f} and has {virtual.available_ram_bytes / MIB:.0f} available, "
            f"{virtual.acceleration}" + "".join(f"; {sentence}" for sentence in virtual.mended)
        )
    enforced = f"{in_mib(limit.limit_bytes)} enforced by {limit.method}" if limit.limit_bytes else "NO memory limit"
    return f"machine {machine.name!r} {'re-used' if machine.reused else 'made'}, {enforced}"


def _machine_name(parameters: TrialParameters) -> str:
    return parameters.machine_name or parameters.machine


def _in_notebook() -> bool:
    if "JPY_PARENT_PID" not in os.environ:
        return False
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    return shell is not None and getattr(shell, "kernel", None) is not None
