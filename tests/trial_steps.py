"""Trials by hand, stage by stage."""

import json

from picolab.config.trial_parameters import TrialParameters
from picolab.machines import registry
from picolab.machines.local import machine as local
from picolab.record.record import Record
from picolab.record.validation import validate_record
from picolab.trial.state import RECORD_FILE
from picolab.trial.trial import Trial


def begin(**parameters: object) -> Trial:
    """Run a trial's stages up to the log-in."""
    defaults = {"ram_mb": 256, "file_size": "4M", "keep_machine": "never"}
    trial = Trial.open(TrialParameters.model_validate(defaults | parameters))
    for stage in (trial.provision, trial.start, trial.authenticate):
        stage()
    return trial


def finish(trial: Trial) -> Record:
    record = trial.collect()
    trial.release()
    assert validate_record(json.loads((trial.folder / RECORD_FILE).read_text()), "the trial's folder") == record
    return record


def measure(**parameters: object) -> Record:
    trial = begin(**parameters)
    trial.upload()
    trial.verify()
    return finish(trial)


def server_process() -> tuple[local.LocalMachine, int]:
    machine = registry.attach("local")
    assert isinstance(machine, local.LocalMachine)
    pid = machine.process_status().pid
    assert pid is not None
    return machine, pid


def codes(record: Record) -> set[str]:
    return {caveat.code for caveat in record.caveats}
