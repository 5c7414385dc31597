"""Whether a plan can run on several hosts, and which executables their workers need from this one."""

from collections.abc import Sequence
from pathlib import Path

from picolab.config.given_paths import is_word
from picolab.config.plan import Plan, PlannedTrial
from picolab.config.sizes import MIB
from picolab.distributed import worker
from picolab.distributed.order import SentBuild
from picolab.errors import BuildError, ParameterError
from picolab.jupyter.trial_template import check_trial_notebook
from picolab.machines.kinds import kind_of
from picolab.servers.build import sha256_of
from picolab.servers.registry import server_of


def check_distributed(plan: Plan) -> None:
    """Refuse a plan that cannot run on several hosts.

    Raises:
        ParameterError: the next trial depends on the results before, or a machine would be kept on a worker.
        BuildError: a build is missing, or cannot be sent.
    """
    check_trial_notebook()
    if plan.floor is not None or plan.answer is not None:
        raise ParameterError("--scheduler: a search chooses each trial after the one before; run it on one host")
    if plan.stopping is not None:
        raise ParameterError("--scheduler: repeats: auto looks at each block before the next; give a number of repeats")
    if plan.machines > 1:
        raise ParameterError("--scheduler: machines is for one host; leave it out, and start more workers")
    for trial in plan.trials:
        if trial.parameters.keep_machine != "never":
            raise ParameterError("--scheduler: keep_machine would keep a machine on a worker; set it to never")
    sent_builds(plan.trials)


def sent_builds(trials: Sequence[PlannedTrial]) -> dict[str, tuple[Path, SentBuild]]:
    """Return the executables that workers need from here, by the text that the plan names them with.

    Raises:
        BuildError: one is missing, or is more than a file that may be sent.
    """
    wanted = {trial.parameters.build: trial.parameters for trial in trials if not is_word(trial.parameters.build)}
    found = {}
    for text, parameters in wanted.items():
        virtual = kind_of(parameters.machine).is_virtual
        build = server_of(parameters.server).find_build(parameters, in_guest=virtual)
        size = build.path.stat().st_size
        if build.identity.sha256 != sha256_of(build.path):
            raise BuildError(
                f"build {text!r}: a script without its package cannot be sent to workers; install the package there "
                f"and leave the build out, or give the path of a single file"
            )
        if size > worker.MOST_BUILD_BYTES:
            raise BuildError(
                f"build {text!r}: {size / MIB:,.0f} MiB are more than the {worker.MOST_BUILD_BYTES / MIB:,.0f} MiB "
                f"that may be sent to a worker; use a release, which workers download"
            )
        found[text] = (build.path, SentBuild(sha256=build.identity.sha256, size_bytes=size))
    return found
