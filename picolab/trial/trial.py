"""One trial: its stages, each of which can be run again, also from another kernel.

    provision -> start -> authenticate -> upload -> verify -> collect -> release

A *result* (the server was killed, the upload stalled, ...) is not an error: the stage prints it in a line, later
stages have nothing to do, and `collect` makes the record. A *fault of the instrument* is an error: the stage
publishes the record, then raises. The trial's folder and the machine keep what a stage has done, so that running a
finished stage again changes nothing, and a new kernel continues where another one stopped.
"""

from pathlib import Path
from typing import Any

from picolab.config.trial_parameters import TrialParameters
from picolab.jupyter import kernel_folders
from picolab.jupyter.trial_context import TrialContext
from picolab.machines import registry
from picolab.record.outcomes import Outcome
from picolab.record.record import Record
from picolab.trial import collect, notebook, provision, start, upload, verify
from picolab.trial.engine import run_stage
from picolab.trial.run import TrialRun, machine_name
from picolab.trial.state import TrialState, claim_folder


class Trial:
    """One measured execution of a case. Make one with `Trial.open`, then call the stages in order.

    Attributes:
        state: everything found so far.
        folder: of the trial's files.

    Example:
        >>> import picolab as pl
        >>> from picolab.config.trial_parameters import TrialParameters
        >>> trial = pl.Trial.open(TrialParameters(ram_mb=64, file_size="1M", keep_machine="never"))
        New trial ...; its files go to ...
        >>> trial
        <trial ...>
        >>> [name for name, stage in trial.state.stages.items() if not stage.done]
        ['provision', 'start', 'authenticate', 'upload', 'verify', 'collect', 'release']
    """

    def __init__(self, run: TrialRun) -> None:
        self._run = run

    def __repr__(self) -> str:
        return f"<trial {self.state.identity.trial_id}: {self._run.summary()}>"

    @property
    def state(self) -> TrialState:
        return self._run.state

    @property
    def folder(self) -> Path:
        return self._run.folder

    @classmethod
    def open(cls, parameters: TrialParameters) -> "Trial":
        """Begin a trial, or continue with the one of the same parameters whose machine is still up.

        Raises:
            MachineBusy: somebody else who is alive holds the machine of that name.
            MachineKept: a trial of other parameters left it up for debugging.
        """
        context = TrialContext.from_environment()
        kernel_folders.note_connection_file()
        name = machine_name(parameters)
        registry.check_free(name)
        machine = registry.attach(name)
        folder = context.folder if context else None
        if machine is not None and folder is None:
            folder = registry.trial_folder_of(machine.folder)
        state = TrialState.load(folder) if folder is not None and machine is not None else None
        if state is not None and state.parameters == parameters and folder is not None:
            run = TrialRun(state, folder, context)
            run.machine = machine
            run.say(f"Re-attached to trial {state.identity.trial_id}: {run.summary()}")
            if all(stage.done for stage in state.stages.values()) and state.outcome is Outcome.OK:
                run.say(f"To measure anew, first: picolab machines remove {name}")
            return cls(run)
        registry.check_not_kept(name)
        state = TrialState.begin(parameters, context)
        run = TrialRun(state, context.folder if context else claim_folder(state), context)
        run.state.save(run.folder)
        run.say(f"New trial {state.identity.trial_id}; its files go to {run.folder}")
        return cls(run)

    def provision(self) -> None:
        """Reach a machine with the wanted memory and find the build; a machine that is up already is used."""
        run_stage(self._run, "provision", provision.provision)

    def start(self) -> None:
        """Start the server with fresh folders and a fresh secret, and wait until it answers.

        When the server of a failed upload is gone, this starts a new one, and the later stages begin again.
        """
        if self.state.stages["start"].done and start.wants_new_server(self._run):
            self.state.begins_again_at("start")
        run_stage(self._run, "start", start.start)

    def authenticate(self) -> None:
        """Log in."""
        run_stage(self._run, "authenticate", start.authenticate)

    def upload(self) -> None:
        """Upload the files (at the same time, if there are several) while the memory probe samples the server.

        With direction download it is not measured, and runs without the memory limit where that can be lifted.
        """
        run_stage(self._run, "upload", upload.upload)

    def verify(self) -> None:
        """Download every file and compare it with the bytes sent; with direction download or both, measured.

        When nobody asked to measure it, it runs without the memory limit where that can be lifted, and decides only
        whether a byte differs.
        """
        run_stage(self._run, "verify", verify.verify)

    def collect(self) -> Record:
        """Stop the server (unless it will be kept), make the record, write it and glue it into the notebook."""
        run_stage(self._run, "collect", collect.collect)
        record = self.state.record()
        notebook.publish(self._run, record)
        return record

    def release(self) -> None:
        """Give the machine back: take it down, or leave it up when `keep_machine` asks for that."""
        run_stage(self._run, "release", collect.release)

    def samples(self) -> dict[str, Any]:
        """Return the samples as they are glued: `columns` holds a list a column; `t_s` counts from the first byte.

        Raises:
            ProbeError: there are none.
        """
        return notebook.samples_of(self._run)

    def chart(self) -> Any:
        """Return the chart of the server's memory over time, or a sentence when there is none.

        In a campaign there is none: drawing takes more than a second a trial, and the report has it for all.
        """
        return notebook.chart_of(self._run)
