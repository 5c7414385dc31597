"""Measures the instrument itself, on this host and kind of machine: `picolab calibrate`.

No notebook takes part: a machine, the calibration server or a null sink in it, and the client in this process. All
measurements take turns in rounds, so that a host that becomes slower touches all of them alike.
"""

import contextlib
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from picolab.analysis import statistics
from picolab.config.project import state_dir
from picolab.config.sizes import MIB
from picolab.config.trial_parameters import DISK_FACTOR, TrialParameters
from picolab.errors import HostUnfit, MachineError, MemoryLimitUnavailable, PicolabError
from picolab.host import conditions
from picolab.host.idleness import wait_for_idle
from picolab.host.processes import this_process
from picolab.instrument import room, store
from picolab.instrument.store import Error, HostIdentity, InstrumentCalibration, Pairs, Rate, save
from picolab.machines import registry
from picolab.machines.base import Holder, Machine, MachineWish, ProcessSpec
from picolab.machines.kinds import DEFAULT_KIND, kind_of
from picolab.record import caveats, host_caveats
from picolab.record.record import Caveat
from picolab.record.samples import read_samples
from picolab.results.begun_file import now
from picolab.servers.build import Build
from picolab.servers.calibration.program import SINK_PATH
from picolab.servers.client import Client
from picolab.servers.measurements import Limits, UploadMeasurement
from picolab.servers.picoshare.adapter import PicoShare
from picolab.servers.picoshare.builds import find_build
from picolab.servers.start import SECRET_FILE, start_server

_SERVER = PicoShare()
"""The calibration server and the sink speak its contract."""
MACHINE_NAME = "calibrate"
RAM_MB = 512
IDLE_LIMIT_S = 30.0
TRANSFER_MIB_S, COMMIT_MIB_S, DOWNLOAD_MIB_S = 40.0, 64.0, 64.0
"""The truth of the rates: far below what the instrument can do, so that only its errors are seen."""
BALLAST_MIB = 128.0
"""The truth of the memory: by how much a server with it has more than one without."""
_LIMITS = Limits(stall_s=60.0, total_s=900.0)
_READY_LIMIT_S = 120.0
_READY_POLL_S = 0.02
_STOP_GRACE_S = 10.0
_SEED = 1
_KEPT_FILE = "keep.bin"
_DEFAULTS = TrialParameters.model_validate({})


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        rounds: each measures everything once, and the errors twice.
        file_bytes: of an upload at full speed.
        ceiling_bytes: of an upload to the sink.
        kept_bytes: of a download from the sink, which has it in memory.
        paced_bytes: of an upload with known truth.
    """

    rounds: int
    file_bytes: int
    ceiling_bytes: int
    kept_bytes: int
    paced_bytes: int

    def data_bytes(self, *, is_virtual: bool) -> float:
        """Return by how much the disk of this host may fill up.

        The folders are emptied before each server, but the disk of a guest only grows: what the guest has freed is not
        given back, and its file system prefers blocks that it has not used yet.
        """
        uploads = self.rounds * (3 * self.file_bytes + 2 * self.paced_bytes) if is_virtual else self.file_bytes
        return DISK_FACTOR * uploads


FULL = Sizes(rounds=10, file_bytes=128 * MIB, ceiling_bytes=512 * MIB, kept_bytes=128 * MIB, paced_bytes=32 * MIB)
"""Ten rounds are ten pairs, the usual number of a comparison. An upload at full speed takes most of a second then."""
QUICK = Sizes(rounds=2, file_bytes=8 * MIB, ceiling_bytes=16 * MIB, kept_bytes=8 * MIB, paced_bytes=4 * MIB)


class _Stopped(Exception):
    """The caller ended the calibration."""


@dataclass
class _Measured:
    upload_ceiling: list[float] = field(default_factory=list)
    download_ceiling: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    second: list[float] = field(default_factory=list)
    without_probe: list[float] = field(default_factory=list)
    transfer: list[float] = field(default_factory=list)
    commit: list[float] = field(default_factory=list)
    download: list[float] = field(default_factory=list)
    ballast_mib: list[float] = field(default_factory=list)
    """Peak of a server with ballast less that of one without."""


def calibrate_instrument(
    machine: str = DEFAULT_KIND,
    *,
    quick: bool = False,
    report: Callable[[str], None] = lambda line: None,
    stop_requested: Callable[[], bool] = lambda: False,
    cpus: int = 1,
    box: str = "",
    provider: Literal["libvirt", "virtualbox"] = "libvirt",
    work_dir: str = "",
) -> InstrumentCalibration | None:
    """Measure the instrument on a machine of its own, take the machine down, store the result and return it.

    Args:
        quick: small files and few rounds.
        report: gets a line for each step, with an ETA.
        stop_requested: ends it between two steps when it returns true.
        cpus, box, provider: of a virtual machine, as in a trial.
        work_dir: of a local machine, as in a trial.

    Returns:
        the calibration; None when it was stopped, and then nothing is stored.

    Raises:
        HostUnfit: this host cannot make such a machine, or has too little room; what was complete is stored.
        MachineBusy: a process that is alive holds the machine of the calibration's name.
        MachineKept: a trial has left a machine of that name up for debugging.
        MachineError: the machine or a server in it failed.
    """
    begun = time.monotonic()
    registry.check_free(MACHINE_NAME)
    registry.check_not_kept(MACHINE_NAME, "keep a machine of a trial under another machine_name than this one")
    sizes = QUICK if quick else FULL
    parameters = _DEFAULTS.model_copy(update={"machine": machine, "work_dir": work_dir, "provider": provider})
    with contextlib.ExitStack() as stack:
        where = room.places(Path(tempfile.gettempdir()), state_dir())
        stack.enter_context(room.named_when_full(parameters, where))
        room.check(parameters, sizes.data_bytes(is_virtual=kind_of(machine).is_virtual), where)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="picolab-calibrate-")))
        if not quick:
            waited = wait_for_idle(IDLE_LIMIT_S, report, stop_requested)
            if waited.stopped:
                return None
        wish = MachineWish(
            name=MACHINE_NAME,
            ram_mb=RAM_MB,
            memory_limit="enforced",
            work_dir=work_dir,
            kind=machine,
            cpus=cpus,
            box=box,
            provider=provider,
            log=folder / "vagrant.log",
            report=report,
        )
        obtained = stack.enter_context(_machine(wish, report))
        described = obtained.describe()
        room.check_machine(described.free_disk_bytes, sizes.file_bytes)
        warnings = caveats.of_machine(described)
        before = _conditions_now(obtained)
        bench = _Bench(obtained, find_build("calibration", "calibration", ""), sizes, folder)

        def found(more: list[Caveat]) -> InstrumentCalibration:
            took_s = time.monotonic() - begun
            return _instrument(bench.complete(), sizes, machine, quick, took_s, warnings + more)

        try:
            with room.named_when_full(parameters, where):
                _run_rounds(bench, report, stop_requested)
        except _Stopped:
            return None
        except PicolabError as error:
            raise _incomplete(error, bench, found) from None
        warnings += host_caveats.of_conditions(conditions.between(before, _conditions_now(obtained))[0])
        if described.memory_limit.method == "none":
            warnings += caveats.of_parameters(_DEFAULTS.model_copy(update={"memory_limit": "none", "ram_mb": RAM_MB}))
        instrument = found([])
    save(instrument)
    return instrument


def _incomplete(
    error: PicolabError, bench: "_Bench", found: Callable[[list[Caveat]], InstrumentCalibration]
) -> PicolabError:
    """Keep the complete rounds of a calibration that failed; return the error with a sentence about them."""
    done, rounds = bench.rounds_done, bench.sizes.rounds
    sort = type(error) if isinstance(error, HostUnfit) else MachineError
    if not done:
        return sort(f"{error}; no round was complete, so nothing is stored")
    instrument = found(caveats.of_calibration(done, rounds))
    if store.is_better(instrument):
        try:
            save(instrument)
        except OSError as problem:
            return sort(f"{error}; {done} of {rounds} rounds were complete and could not be stored: {problem}")
        return sort(f"{error}; {done} of {rounds} rounds were complete and are stored, with a caveat")
    return sort(f"{error}; {done} of {rounds} rounds were complete, and the complete calibration from before is kept")


@contextlib.contextmanager
def _machine(wish: MachineWish, report: Callable[[str], None]) -> Iterator[Machine]:
    """Obtain a machine, and take it down whatever happens."""
    holder = Holder(this_process(), keep=False)
    try:
        machine = registry.obtain(wish, holder)
    except MemoryLimitUnavailable as error:
        # Rates do not need it, and a host without limits can make unlimited trials only.
        report(f"no memory limit: {error}")
        machine = registry.obtain(MachineWish(**{**vars(wish), "memory_limit": "none"}), holder)
    try:
        yield machine
    finally:
        try:
            machine.release()
        except (MachineError, OSError) as error:
            report(registry.not_taken_down(wish.name, error))


def _conditions_now(machine: Machine) -> conditions.Reading:
    return conditions.read(conditions.own_of(machine), machine.work_folder)


def _run_rounds(bench: "_Bench", report: Callable[[str], None], stop_requested: Callable[[], bool]) -> None:
    begun = time.monotonic()
    rounds = bench.sizes.rounds
    for number in range(1, rounds + 1):
        taken_s = time.monotonic() - begun
        eta = (
            f"ETA {taken_s / (number - 1) * (rounds - number + 1):.0f} s" if number > 1 else "ETA after the first round"
        )
        for what, step in bench.steps(random.Random(number)):
            if stop_requested():
                raise _Stopped
            report(f"round {number} of {rounds}, {eta}: {what}")
            step()
        bench.rounds_done = number


class _Bench:
    """A machine and what is measured on it."""

    def __init__(self, machine: Machine, build: Build, sizes: Sizes, folder: Path) -> None:
        self.sizes = sizes
        self.measured = _Measured()
        self.rounds_done = 0
        self._machine = machine
        self._build = build
        self._folder = folder
        self._samples = 0

    def complete(self) -> _Measured:
        """Return the values of the complete rounds."""
        done, measured = self.rounds_done, self.measured
        per_round = {name: len(values) // done if done else 0 for name, values in vars(measured).items()}
        return _Measured(**{name: values[: done * per_round[name]] for name, values in vars(measured).items()})

    def steps(self, order: random.Random) -> list[tuple[str, Callable[[], None]]]:
        """Return the steps of a round, in random order; the three uploads that make pairs run back to back."""
        measured = self.measured
        pairs: list[tuple[str, Callable[[], None]]] = [
            ("upload at full speed", lambda: self._full_speed(measured.first, probe=True)),
            ("the same once more", lambda: self._full_speed(measured.second, probe=True)),
            ("the same without the memory probe", lambda: self._full_speed(measured.without_probe, probe=False)),
        ]
        order.shuffle(pairs)
        groups: list[list[tuple[str, Callable[[], None]]]] = [
            pairs,
            [("ceilings of the client, null sink", self._ceilings)],
            [("errors against known truth", self._errors)],
        ]
        order.shuffle(groups)
        return [step for group in groups for step in group]

    def _ceilings(self) -> None:
        machine = self._machine
        port = machine.free_port()
        path = machine.install(SINK_PATH)
        environment = {
            "PATH": os.defpath,
            "PORT": str(port),
            "PICOLAB_CALIBRATION_HOST": machine.listen_address,
        }
        machine.start_process(ProcessSpec([machine.python, "-I", "-S", path], environment, self._folder / "sink.log"))
        try:
            host, host_port = machine.endpoint(port)
            with Client(_SERVER, f"http://{host}:{host_port}") as client:
                self._await_sink(client)
                sent = _uploaded(client.upload(_SEED, self.sizes.ceiling_bytes, _LIMITS))
                self.measured.upload_ceiling.append(_rate(self.sizes.ceiling_bytes, sent.transfer_s))
                kept = _uploaded(client.upload(_SEED, self.sizes.kept_bytes, _LIMITS, _KEPT_FILE))
                self.measured.download_ceiling.append(self._download(client, kept.entry_id, self.sizes.kept_bytes))
        finally:
            machine.stop_process(_STOP_GRACE_S)

    def _await_sink(self, client: Client) -> None:
        deadline = time.monotonic() + _READY_LIMIT_S
        while not client.is_ready():
            if not self._machine.process_status().running or time.monotonic() > deadline:
                last = self._machine.process_log().strip().splitlines()[-1:]
                raise MachineError(f"the null sink does not answer; it said {last}; run picolab calibrate again")
            time.sleep(_READY_POLL_S)

    @contextlib.contextmanager
    def _server(self, knobs: dict[str, Any]) -> Iterator[Client]:
        """Run a calibration server and log in."""
        machine = self._machine
        started = start_server(
            machine, _SERVER, self._build, {"calibration": knobs}, self._folder / "server.log", _READY_LIMIT_S
        )
        try:
            if started.ready_s is None:
                raise MachineError("the calibration server never answered; run picolab calibrate again")
            with Client(_SERVER, started.base_url) as client:
                login = client.authenticate((machine.folder / SECRET_FILE).read_text())
                if login.session is None:
                    raise MachineError(
                        f"the calibration server answered the log-in with {login.http_status}: {login.detail}"
                    )
                yield client
        finally:
            machine.stop_process(_STOP_GRACE_S)

    def _full_speed(self, rates: list[float], *, probe: bool) -> None:
        size = self.sizes.file_bytes
        with self._server({}) as client:
            if probe:
                sent, _ = self._probed_upload(client, size)
            else:
                sent = _uploaded(client.upload(_SEED, size, _LIMITS))
            rates.append(_rate(size, sent.duration_s))

    def _probed_upload(self, client: Client, size_bytes: int) -> tuple["_Upload", float]:
        """Upload with the memory probe; return the upload, and the peak of anonymous memory in MiB."""
        self._samples += 1
        output = self._folder / f"samples-{self._samples}.jsonl"
        probe = self._machine.probe(_DEFAULTS.sample_interval_s, output)
        try:
            sent = _uploaded(client.upload(_SEED, size_bytes, _LIMITS))
        finally:
            probe.finish()
        peak = read_samples(output).peak("anon_bytes")
        if peak is None:
            raise MachineError("the memory probe saw no memory of the calibration server; run picolab calibrate again")
        return sent, peak / MIB

    def _errors(self) -> None:
        knobs = {"transfer_mib_s": TRANSFER_MIB_S, "commit_mib_s": COMMIT_MIB_S, "download_mib_s": DOWNLOAD_MIB_S}
        peaks_mib = []
        size = self.sizes.paced_bytes
        for ballast_mib in (0.0, BALLAST_MIB):
            with self._server({**knobs, "ballast_mib": ballast_mib}) as client:
                sent, peak_mib = self._probed_upload(client, size)
                peaks_mib.append(peak_mib)
                self.measured.transfer.append(_rate(size, sent.transfer_s))
                self.measured.commit.append(_rate(size, sent.commit_s))
                self.measured.download.append(self._download(client, sent.entry_id, size))
        self.measured.ballast_mib.append(peaks_mib[1] - peaks_mib[0])

    @staticmethod
    def _download(client: Client, entry_id: str, size_bytes: int) -> float:
        got = client.download(entry_id, _SEED, size_bytes, _LIMITS)
        if not got.matched or got.download_s is None:
            raise MachineError(
                f"a download of the calibration ended with {got.ending} after {got.received_bytes} of {size_bytes} "
                f"bytes, and what came back {'differs' if got.matched is False else 'is not whole'}"
            )
        return _rate(size_bytes, got.download_s)


@dataclass(frozen=True)
class _Upload:
    entry_id: str
    transfer_s: float
    commit_s: float

    @property
    def duration_s(self) -> float:
        return self.transfer_s + self.commit_s


def _uploaded(sent: UploadMeasurement) -> _Upload:
    """Return the times of an upload.

    Raises:
        MachineError: it was not answered with success, or its phases could not be separated.
    """
    if sent.entry_id is None or sent.first_byte_s is None or sent.last_byte_s is None or sent.response_s is None:
        said = sent.server_message or sent.ending_detail
        raise MachineError(
            f"an upload of the calibration ended with {sent.ending} ({said}); run picolab calibrate again"
        )
    return _Upload(sent.entry_id, sent.last_byte_s - sent.first_byte_s, sent.response_s - sent.last_byte_s)


def _rate(size_bytes: int, duration_s: float) -> float:
    return size_bytes / MIB / duration_s


# Numbers


def _instrument(
    measured: _Measured, sizes: Sizes, machine: str, quick: bool, took_s: float, warnings: list[Caveat]
) -> InstrumentCalibration:
    errors = {
        "transfer": _error(measured.transfer, TRANSFER_MIB_S, "MiB/s"),
        "commit": _error(measured.commit, COMMIT_MIB_S, "MiB/s"),
        "download": _error(measured.download, DOWNLOAD_MIB_S, "MiB/s"),
        "peak_memory": _error(measured.ballast_mib, BALLAST_MIB, "MiB"),
    }
    return InstrumentCalibration(
        measured_at=now(),
        took_s=round(took_s, 1),
        host=HostIdentity.now(),
        machine=machine,
        quick=quick,
        file_size_mib=sizes.file_bytes / MIB,
        upload_ceiling_mib_s=_rate_of(measured.upload_ceiling),
        download_ceiling_mib_s=_rate_of(measured.download_ceiling),
        probe=_pairs(measured.without_probe, measured.first),
        errors=errors,
        noise=_pairs(measured.first, measured.second),
        caveats=warnings,
    )


def _rate_of(values: Sequence[float]) -> Rate:
    interval = statistics.median_interval(values)
    return Rate(
        n=len(values),
        median=statistics.median(values),
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        coverage=interval.coverage if interval else None,
    )


def _error(values: Sequence[float], truth: float, unit: str) -> Error:
    relative = [value / truth - 1.0 for value in values]
    return Error(
        n=len(values), truth=truth, unit=unit, median=statistics.median(relative), worst=max(relative, key=abs)
    )


def _pairs(baseline: Sequence[float], candidate: Sequence[float]) -> Pairs:
    paired = statistics.paired_ratio(baseline, candidate)
    assert paired is not None, "there is at least one round"
    return Pairs(
        n=paired.n,
        ratio=paired.ratio,
        low=paired.low,
        high=paired.high,
        coverage=paired.coverage,
        spread=paired.spread,
        minimum_detectable=paired.minimum_detectable,
    )
