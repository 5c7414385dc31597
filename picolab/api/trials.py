"""Trials by hand: `pl.open_trial()`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from picolab.config.invalid_input import validate
from picolab.config.trial_parameters import TrialParameters
from picolab.trial.trial import Trial


def open_trial(namespace: Mapping[str, Any] | None = None, /, **parameters: Any) -> Trial:
    """Begin a trial, or resume the one with the same parameters whose machine is still up.

    Then call its stages in order: `provision()`, `start()`, `authenticate()`, `upload()`, `verify()`, `collect()` and
    `release()`. Each can be called again, also from another kernel.

    Args:
        namespace: a notebook's `globals()`, from which the names are taken that are parameters of a trial.
        parameters: parameters by name, instead of a namespace; docs/parameters.md lists them with their defaults.

    Raises:
        ParameterError: a value makes no sense, or there is no such parameter.
        MachineBusy: another process uses the machine.
        MachineKept: a trial with other parameters has left the machine up for debugging.

    Example:
        >>> import picolab as pl
        >>> trial = pl.open_trial(ram_mb=128, file_size="1M", keep_machine="never")
        New trial ...; its files go to ...
        >>> trial.state.parameters.ram_mb
        128
    """
    if namespace is not None and not parameters:
        return Trial.open(TrialParameters.from_namespace(namespace))
    place = "open_trial()"
    if namespace is not None:
        parameters = {name: namespace[name] for name in TrialParameters.model_fields if name in namespace} | parameters
    return Trial.open(validate(TrialParameters, parameters, place).located(Path.cwd(), place))
