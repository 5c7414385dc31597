"""A trial at work in this kernel: its state, its folder and its machine, for the stages."""

from contextlib import nullcontext
from pathlib import Path

from pydantic import BaseModel

from picolab.config.order import fresh_for
from picolab.config.trial_parameters import TrialParameters
from picolab.errors import StageError
from picolab.host.processes import this_process
from picolab.jupyter.live_line import LiveLine
from picolab.jupyter.step_pipe import report_step
from picolab.jupyter.trial_context import TrialContext
from picolab.machines import registry
from picolab.machines.base import Holder, Machine, MachineWish, ProcessStatus
from picolab.machines.kinds import kind_of
from picolab.record.outcomes import STAGES, Outcome, Stage, Step
from picolab.record.record import NOT_VERIFIED, Caveat
from picolab.servers.base import Server
from picolab.servers.client import Client
from picolab.servers.registry import server_of
from picolab.servers.start import SECRET_FILE
from picolab.text.foreign import visible
from picolab.trial.state import PROGRESS_FILE, VAGRANT_LOG_FILE, TrialState
from picolab.trial.turn import Turn

SESSION_FILE = "cookie"
STOP_GRACE_S = 10.0


class NotOk(Exception):
    """A result other than ok: ends the stage, not the trial."""

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail


class TrialRun:
    """A trial at work in this kernel.

    Attributes:
        state: everything found so far.
        folder: of the trial's files.
        context: who asked for the trial; None: a person in a notebook.
        machine: None until this kernel has reached it.
        turn: its times, and when it may measure.
    """

    def __init__(self, state: TrialState, folder: Path, context: TrialContext | None) -> None:
        self.state = state
        self.folder = folder
        self.context = context
        self.machine: Machine | None = None
        board = context.board if context is not None else None
        self.turn = Turn(state.parameters, state.identity.trial_id, state.timeline, board, self.machine_name)

    @property
    def machine_name(self) -> str:
        return machine_name(self.state.parameters)

    def say(self, text: str) -> None:
        """Print a line for the reader of the notebook."""
        print(visible(text), flush=True)

    def summary(self) -> str:
        """Return which stages are done and the result so far, in words."""
        done = [stage for stage in STAGES if self.state.stages[stage].done]
        found = f", {self.state.outcome_stage} found {self.state.outcome}" if self.state.outcome_stage else ""
        return f"{', '.join(done) or 'nothing'} done{found}"

    def holder(self) -> Holder:
        """Return who answers for the machine during the trial."""
        if self.context is not None:
            return Holder(self.context.owner_process, keep=False)
        return Holder(this_process(), keep=self.state.parameters.keep_machine != "never")

    def reach(self) -> Machine:
        """Return the machine, re-attaching to it if this kernel has not done so yet.

        Raises:
            MachineError, MachineBusy: it cannot be reached, or somebody else holds it.
        """
        if self.machine is None:
            live = LiveLine("provision", self.folder / PROGRESS_FILE)
            wish = MachineWish(
                name=self.machine_name,
                ram_mb=self.state.parameters.ram_mb,
                memory_limit=self.state.parameters.memory_limit,
                work_dir=self.state.parameters.work_dir,
                kind=self.state.parameters.machine,
                cpus=self.state.parameters.cpus,
                box=self.state.parameters.box,
                provider=self.state.parameters.provider,
                boot_limit_s=self.state.parameters.boot_limit_s,
                fresh_for=self._fresh_for(),
                # A campaign may come back to this memory size; a trial of its own does not.
                save_state=self.state.identity.block is not None,
                log=self.folder / VAGRANT_LOG_FILE,
                report=lambda line: self._report(live, line),
            )
            with live if kind_of(wish.kind).shows_progress else nullcontext():
                self.machine = registry.obtain(wish, self.holder())
        else:
            self.machine.hold(self.holder())
        return self.machine

    def _report(self, live: LiveLine, line: str) -> None:
        live.show(line)
        if self.context is not None:
            report_step(self.context.steps, line)

    def _fresh_for(self) -> str:
        """Return the trial or block that needs a fresh machine; with the same text the machine is reused."""
        identity = self.state.identity
        trial = f"trial {identity.trial_id}, attempt {identity.attempt}"
        return fresh_for(self.state.parameters, trial, identity.block)

    def attached(self, earlier: Stage) -> Machine:
        """Return the machine, if the stage before was done and the machine still exists.

        Raises:
            StageError: it was not, or it does not.
        """
        if not self.state.stages[earlier].done:
            raise StageError(f"the stage {earlier} has not been done yet; run its cell first")
        name = self.machine_name
        if self.machine is None:
            registry.check_free(name)
            self.machine = registry.attach(name)
        if self.machine is None:
            raise StageError("the machine of this trial is gone; run the notebook again from its first cell")
        self.machine.hold(self.holder())
        return self.machine

    def client(self, machine: Machine) -> Client:
        """Return a client that is logged in."""
        session, secret = ((machine.folder / name).read_text() for name in (SESSION_FILE, SECRET_FILE))
        return Client(self.server, self.base_url(), session, secret)

    def secrets(self) -> list[str]:
        """Return the texts that no message may show."""
        assert self.machine is not None
        paths = [self.machine.folder / name for name in (SECRET_FILE, SESSION_FILE)]
        return [path.read_text() for path in paths if path.exists()]

    def add_caveats(self, new: list[Caveat]) -> None:
        """Add caveats; of a stage that is run again, the new ones count."""
        codes = {caveat.code for caveat in new}
        self.state.caveats = [caveat for caveat in self.state.caveats if caveat.code not in codes] + new

    def add_new_caveats(self, new: list[Caveat]) -> None:
        """Add those whose code is not there yet: of a trial's measured steps the first one that warns is enough."""
        known = {caveat.code for caveat in self.state.caveats}
        self.add_caveats([caveat for caveat in new if caveat.code not in known])

    def put_aside(self, name: str) -> None:
        """Keep a file of an earlier attempt under another name: nothing that was measured is overwritten."""
        path = self.folder / name
        if path.exists():
            number = 1
            while (aside := path.with_name(f"{path.stem}.attempt{number}{path.suffix}")).exists():
                number += 1
            path.rename(aside)

    def explain(self, path: str, part: BaseModel, why: dict[str, str]) -> None:
        """Keep the reason of each null in a part of the record."""
        for name, reason in why.items():
            if getattr(part, name) is None:
                self.state.missing[f"{path}.{name}"] = reason

    def keeps(self) -> bool:
        """Return whether the machine stays up after the trial."""
        keep = self.state.parameters.keep_machine
        return keep == "always" or (keep == "on_failure" and self.state.outcome not in (None, Outcome.OK))

    def unverified(self) -> bool:
        """Return whether the upload was answered, but the download that nobody measures was not completed."""
        return any(caveat.code == NOT_VERIFIED for caveat in self.state.caveats)

    def measures(self, step: Step) -> bool:
        """Return whether a step is measured."""
        return self.state.parameters.direction in (step, "both")

    @property
    def server(self) -> Server:
        return server_of(self.state.parameters.server)

    def base_url(self) -> str:
        """Return where the server is reached; it must have been started."""
        assert self.state.base_url is not None
        return self.state.base_url

    def stop_server(self) -> ProcessStatus:
        """Stop the server process; the machine must have been reached."""
        assert self.machine is not None
        return self.machine.stop_process(STOP_GRACE_S)


def machine_name(parameters: TrialParameters) -> str:
    """Return the name of the machine that a trial uses."""
    return parameters.machine_name or parameters.machine
