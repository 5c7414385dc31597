"""Kill, stop, end and interrupt every process of a campaign at random moments; prove that nothing is lost or left.

    python benchmarks/chaos.py [--trials 200] [--signals 200] [--seed 1]

Each role (campaign, papermill, kernel, keeper, probe, server) gets each kind of signal (SIGKILL, SIGSTOP and SIGCONT,
SIGTERM, SIGINT) equally often. When the campaign ends, it is resumed. In the end the proof: every planned trial has
exactly one final record; plan, ledger, files, results.csv and figures name the same trials; no fault is in a figure; no
process, cgroup, network device, folder, temporary file or held lock is left. Prints tables, and exits with 1 when
anything was lost or left. Needs a memory limit (root); 200 signals take about half an hour.
"""

import argparse
import collections
import contextlib
import csv
import itertools
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from picolab.config.plan import Plan
from picolab.exit_codes import ExitCode
from picolab.host.locks import try_lock
from picolab.host.processes import ProcessIdentity, is_self_or_ancestor
from picolab.machines.folders import state_mark
from picolab.results.ledger import Ledger
from picolab.results.load import read_campaign, read_record

ROLES = {
    "campaign": "picolab",
    "fork server": "picolab.jupyter.fork_server",
    "papermill": "picolab.jupyter.papermill_process",
    "kernel": "ipykernel_launcher",
    "keeper": "picolab.machines.local.keeper",
    "probe": "agent.memory_probe",
    "server": "calibration-server",
}
"""Each role, and a word by which its command is known."""
STAGES = ("beginning", "provision", "start", "authenticate", "upload", "verify", "collect", "release", "filing")
STAGES_OF = {
    "campaign": STAGES,
    "fork server": STAGES[:-1],
    "papermill": STAGES[:-1],
    "kernel": STAGES[:-1],
    "keeper": STAGES[2:-1],
    "probe": ("upload", "verify"),
    "server": ("start", "authenticate", "upload", "verify", "collect"),
}
"""In which stages of a trial a process of each role gets its signal."""
LONG_S = {"beginning": 2.0, "start": 0.2, "upload": 1.5, "verify": 0.4}
"""How long the longer stages take at the least: the signal comes at a random moment of that."""
STAGE_LIMIT_S = 10.0
"""A stage may be over before anybody sees it: after this, any stage is right."""
KINDS = ("SIGKILL", "SIGSTOP and SIGCONT", "SIGTERM", "SIGINT")
NAME = "chaos"
POLL_S = 0.05
END_LIMIT_S = 60.0
"""What may take so long until it counts as left: the interrupted stage of a trial, the patience of a keeper."""
STUCK_LIMIT_S = 600.0
MOST_IDLE_STARTS = 5


@dataclass
class Chaos:
    """A campaign under fire.

    Attributes:
        folder: of everything that the campaign writes.
        sent: role, kind and stage of each signal that reached a process.
        endings: of the campaign's processes, in words.
        problems: what the proof found.
    """

    folder: Path
    trials: int
    signals: int
    seed: int
    sent: list[tuple[str, str, str]] = field(default_factory=list)
    endings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _process: subprocess.Popen[bytes] | None = None
    _starts: int = 0
    _idle_starts: int = 0
    _results_at_start: int = 0
    _attempts: int = -1
    _moved_s: float = 0.0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        for name in ("state", "outputs", "tmp", "logs"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._environment = {
            **os.environ,
            "PICOLAB_STATE_DIR": str(self.folder / "state"),
            "PICOLAB_OUTPUTS_DIR": str(self.folder / "outputs"),
            "TMPDIR": str(self.folder / "tmp"),
        }

    @property
    def campaign(self) -> Path:
        return self.folder / "outputs" / NAME

    # The campaign

    def _parameter_file(self) -> Path:
        """Write a matrix of small trials whose phases are long enough to be hit."""
        levels = {"ram_mb": [64, 128], "file_size": ["1M", "2M", "3M"]}
        cases = math.prod(map(len, levels.values()))
        path = self.folder / "chaos.yaml"
        content = {
            "matrix": levels,
            "repeats": -(-self.trials // cases),
            "seed": self.seed,
            "idle_limit_s": 0,
            "fault_retries": 2,
            "parameters": {
                "calibration": {
                    "startup_delay_s": 0.2,
                    "transfer_mib_s": 3,
                    "commit_mib_s": 4,
                    "download_mib_s": 8,
                },
                "direction": "both",
                "stall_limit_s": 10,
            },
        }
        path.write_text(json.dumps(content))
        return path

    def _start(self) -> None:
        """Start the campaign, or go on with it."""
        begun = (self.campaign / "plan.json").exists()
        words = ["resume", NAME] if begun else ["matrix", str(self._parameter_file()), "--campaign", NAME]
        self._starts += 1
        self._results_at_start = self._results()
        with (self.folder / "logs" / f"{self._starts:04d}.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "picolab", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                # A Ctrl-C at this benchmark is not the campaign's.
                start_new_session=True,
            )

    def _results(self) -> int:
        return len(Ledger(self.campaign).results()) if self.campaign.exists() else 0

    def _ended(self) -> bool:
        """Look at the campaign; when it has ended, note how; tell whether it has ended."""
        assert self._process is not None
        code = self._process.poll()
        if code is None:
            return False
        word = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self.endings.append(word)
        if code in (ExitCode.BAD_PARAMETERS, ExitCode.HOST_UNFIT) or self._log_has("Traceback"):
            self.problems.append(f"start {self._starts} ended with {word}: {self._last_line()}")
        self._idle_starts = 0 if self._results() > self._results_at_start else self._idle_starts + 1
        self._process = None
        return True

    def _log_has(self, word: str) -> bool:
        return word in (self.folder / "logs" / f"{self._starts:04d}.log").read_text(errors="replace")

    def _last_line(self) -> str:
        lines = (self.folder / "logs" / f"{self._starts:04d}.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "(nothing said)"

    def run(self) -> None:
        """Send all signals while the campaign runs, then let it end, and prove."""
        self._start()
        for number, (role, kind) in enumerate(itertools.islice(self._shots(), self.signals)):
            # Spread over the whole campaign: none may be left when the last trial ends.
            while self._results() < number * self.trials / self.signals - 2:
                self._keep_running()
            if not self._shoot(role, kind):
                self.problems.append(f"no {role} could be found for {kind}")
        while not (self._ended() and self._complete()):
            self._keep_running()
        self._prove()

    def _complete(self) -> bool:
        return self._results() >= len(Plan.load(self.campaign).trials)

    def _keep_running(self) -> None:
        """Resume the campaign when it has ended before its time; give up when it gets nowhere."""
        if self._process is None or (self._ended() and not self._complete()):
            if self._idle_starts > MOST_IDLE_STARTS:
                raise SystemExit(f"{MOST_IDLE_STARTS} starts without a result; the last says: {self._last_line()}")
            self._start()
        now = time.monotonic()
        if (attempts := len(Ledger(self.campaign).entries())) != self._attempts:
            self._attempts, self._moved_s = attempts, now
        if now - self._moved_s > STUCK_LIMIT_S:
            raise SystemExit(f"no attempt has ended for {STUCK_LIMIT_S:.0f} s: {self._left_processes()}")
        time.sleep(POLL_S)

    # Signals

    def _shots(self) -> Iterator[tuple[str, str]]:
        """Yield roles and kinds without end: each role once in seven, each kind for each role once in 28."""
        while True:
            kinds = {role: self._random.sample(KINDS, len(KINDS)) for role in ROLES}
            for number in range(len(KINDS)):
                for role in self._random.sample(list(ROLES), len(ROLES)):
                    yield role, kinds[role][number]

    def _shoot(self, role: str, kind: str) -> bool:
        """Signal a process of a role at a random moment of a random stage; tell whether one was hit."""
        wanted = self._random.choice(STAGES_OF[role])
        begun = time.monotonic()
        while time.monotonic() - begun < 2 * END_LIMIT_S:
            if self._process is None or self._ended():
                self._keep_running()
            if self._stage() != wanted and time.monotonic() - begun < STAGE_LIMIT_S:
                time.sleep(POLL_S / 5)
                continue
            time.sleep(self._random.uniform(0, LONG_S.get(wanted, 0.0)))
            stage, found = self._stage(), self._find(role)
            if found is None or not found.alive:
                continue
            if kind == "SIGSTOP and SIGCONT":
                found.signal(signal.SIGSTOP)
                time.sleep(self._random.uniform(0.1, 1.5))
                found.signal(signal.SIGCONT)
            else:
                found.signal(signal.Signals[kind])
            self.sent.append((role, kind, stage))
            return True
        return False

    def _find(self, role: str) -> ProcessIdentity | None:
        if role == "campaign":
            return ProcessIdentity.of(self._process.pid) if self._process is not None else None
        for identity in self._processes():
            with contextlib.suppress(OSError):
                if os.fsencode(ROLES[role]) in Path(f"/proc/{identity.pid}/cmdline").read_bytes():
                    return identity
        return None

    def _processes(self) -> list[ProcessIdentity]:
        """Return the processes whose arguments or environment name this chaos's folder, without this one's own line."""
        mention = os.fsencode(self.folder)
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and not is_self_or_ancestor(int(entry.name)):
                with contextlib.suppress(OSError):
                    if any(mention in (entry / name).read_bytes() for name in ("cmdline", "environ")):
                        identity = ProcessIdentity.of(int(entry.name))
                        if identity is not None:
                            found.append(identity)
        return found

    def _stage(self) -> str:
        """Return the stage of the trial that runs, as far as its state on disk tells."""
        for path in self.campaign.glob("running/*"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                stages = json.loads((path / "state.json").read_text())["stages"]
                return next((name for name, stage in stages.items() if not stage["done"]), "filing")
            return "beginning"
        return "between trials"

    # The proof

    def _prove(self) -> None:
        # Whatever a dead process has left is swept at the next start, which finds nothing else to do.
        self._start()
        assert self._process is not None
        self._process.wait()
        self._ended()
        plan = [trial.trial_id for trial in Plan.load(self.campaign).trials]
        self._compare("the ledger", plan, self._final_entries())
        self._compare("the files", plan, self._filed())
        self._compare("results.csv", plan, self._in_results())
        data = read_campaign(self.campaign)
        outcomes = {entry.trial_id: entry.outcome for entry in Ledger(self.campaign).results().values()}
        self._compare("the figures", plan, {row.trial_id: row.outcome for row in data.trials.itertuples()}.items())
        for row in data.trials.itertuples():
            if row.outcome != outcomes.get(row.trial_id):
                self.problems.append(f"lost: {row.trial_id} is {row.outcome} in figures, not as in the ledger")
        for row in data.problems.itertuples():
            record = data.records.get(Path(str(row.path)).stem)
            # A server that ends before it answers has no upload, and so nobody has sampled it.
            if record is None or record.memory is not None or "holds no samples" not in str(row.problem):
                self.problems.append(f"lost: {row.path}: {row.problem}")
        self.problems += [f"leaked: {what}" for what in self._left()]

    def _compare(self, where: str, plan: list[str], there: Iterable[tuple[str, str]]) -> None:
        """Every trial of the plan must be there once, nothing else, and no fault."""
        found = list(there)
        counted = collections.Counter(name for name, _ in found)
        self.problems += [f"lost: {name} is {counted[name]} times in {where}" for name in plan if counted[name] != 1]
        self.problems += [f"lost: {name} is in {where} and not in the plan" for name in counted if name not in plan]
        faults = ("machine_failed", "interrupted", "invalid")
        self.problems += [f"lost: {name} is {outcome} in {where}" for name, outcome in found if outcome in faults]

    def _final_entries(self) -> list[tuple[str, str]]:
        return [(one.trial_id, one.outcome) for one in Ledger(self.campaign).entries() if not one.outcome.is_fault]

    def _filed(self) -> list[tuple[str, str]]:
        return [
            (record.identity.trial_id, record.outcome)
            for record in map(read_record, (self.campaign / "trials").glob("*.ipynb"))
        ]

    def _in_results(self) -> list[tuple[str, str]]:
        with (self.campaign / "results.csv").open(newline="") as file:
            return [(row["trial_id"], row["outcome"]) for row in csv.DictReader(file)]

    def _left(self) -> list[str]:
        """Return everything that is left of the campaign's processes, in words."""
        deadline = time.monotonic() + END_LIMIT_S
        while (left := self._left_now()) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return left

    def _left_processes(self) -> list[str]:
        return [f"process {one.pid}: {one.command}" for one in self._processes()]

    def _left_now(self) -> list[str]:
        mark = state_mark(self.folder / "state" / "machines")
        left = self._left_processes()
        for root in ("/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
            for folder, names, _ in os.walk(root):
                left += [f"cgroup {folder}/{name}" for name in names if _is_ours(name, mark)]
        for device in Path("/sys/class/net").iterdir():
            with contextlib.suppress(OSError):
                if (device / "ifalias").read_text().strip().endswith(mark):
                    left.append(f"network device {device.name}")
        patterns = ("state/machines/*/", "state/work/*", "tmp/*", f"outputs/{NAME}/running", "outputs/**/.*.new")
        left += [f"file {path}" for pattern in patterns for path in self.folder.glob(pattern)]
        left += [f"held lock {path}" for path in self.folder.rglob("*lock*") if path.is_file() and _is_held(path)]
        return left

    def report(self) -> bool:
        """Print what was done and found; tell whether all is well."""
        print(f"\n{'':22}" + "".join(f"{kind:>22}" for kind in KINDS))
        for role in ROLES:
            counts = [sum((r, k) == (role, kind) for r, k, _ in self.sent) for kind in KINDS]
            print(f"{role:22}" + "".join(f"{count:22}" for count in counts))
        print("\nsignals by stage:  " + _counted(stage for _, _, stage in self.sent))
        print("campaign ended by: " + _counted(self.endings))
        entries = Ledger(self.campaign).entries()
        print("attempts:          " + _counted(entry.outcome.value for entry in entries))
        print(
            "final outcomes:    " + _counted(entry.outcome.value for entry in Ledger(self.campaign).results().values())
        )
        for problem in self.problems:
            print(f"PROBLEM {problem}")
        lost, leaked = (sum(one.startswith(word) for one in self.problems) for word in ("lost", "leaked"))
        print(
            f"\n{len(Plan.load(self.campaign).trials)} trials, {len(self.sent)} signals, {self._starts} starts, "
            f"lost {lost}, leaked {leaked}, other problems {len(self.problems) - lost - leaked}"
        )
        return not self.problems


def _is_ours(cgroup: str, mark: str) -> bool:
    return cgroup.startswith("picolab-") and cgroup.endswith(mark)


def _is_held(path: Path) -> bool:
    with path.open("rb") as file:
        return not try_lock(file)


def _counted(words: Iterable[str]) -> str:
    return ", ".join(f"{word} {count}" for word, count in sorted(collections.Counter(words).items())) or "none"


def main() -> None:
    """Run, report, and tell the shell whether all is well."""
    parser = argparse.ArgumentParser(description="Signals at random moments for every process of a campaign.")
    parser.add_argument("--trials", type=int, default=200, help="how many trials at least (default 200)")
    parser.add_argument("--signals", type=int, default=200, help="how many signals (default 200)")
    parser.add_argument("--seed", type=int, default=1, help="of signals and plan (default 1)")
    parser.add_argument("--folder", type=Path, help="where to work; kept (default: a temporary one)")
    wanted = parser.parse_args()
    folder = wanted.folder or Path(tempfile.mkdtemp(prefix="picolab-chaos-", dir="/var/tmp"))
    chaos = Chaos(folder.resolve(), wanted.trials, wanted.signals, wanted.seed)
    begun = time.monotonic()
    try:
        chaos.run()
    finally:
        for process in chaos._processes():
            if chaos._process is not None or chaos.problems:
                process.signal(signal.SIGKILL)
    well = chaos.report()
    print(f"{time.monotonic() - begun:.0f} s; " + (f"see {folder}" if wanted.folder or not well else "nothing kept"))
    if well and not wanted.folder:
        shutil.rmtree(folder)
    sys.exit(not well)


if __name__ == "__main__":
    main()
