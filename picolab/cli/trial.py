"""The command that runs one trial."""

import sys
from pathlib import Path
from typing import Any

import click

from picolab.cli.parameter_option import parameter_option, read_parameters
from picolab.errors import ParameterError
from picolab.exit_codes import ExitCode
from picolab.host.stop_request import StopRequest
from picolab.machines.kinds import KINDS
from picolab.servers.registry import SERVERS, default_builds
from picolab.text.foreign import shown


@click.command()
@click.option("--machine", type=click.Choice(list(KINDS)), help="Where the server runs (machine).")
@click.option("--ram", "ram_mb", help="Memory of the machine in MiB, or with a unit: 256, 12.5M (ram_mb).")
@click.option("--file-size", help="Size of the upload, such as 100M (file_size).")
@click.option("--server", type=click.Choice(list(SERVERS)), help="The server under test (server).")
@click.option("--build", help="calibration, a release such as 1.5.4, or a path (build).")
@click.option("--keep-machine", is_flag=True, help="Leave machine and server up, whatever the outcome is.")
@parameter_option("Any other parameter of the trial notebook")
def trial(
    machine: str | None,
    ram_mb: str | None,
    file_size: str | None,
    server: str | None,
    build: str | None,
    keep_machine: bool,
    others: tuple[tuple[str, str], ...],
) -> ExitCode:
    """Run one trial, and show its outcome and numbers.

    \b
    Examples:
      picolab trial --ram 512 --file-size 100M
      picolab trial --ram 256 --file-size 1G --build ./picoshare --keep-machine
      picolab trial --machine vagrant --ram 256 --file-size 100M --keep-machine
      picolab trial --server copyparty --ram 256 --file-size 1G
      picolab trial -p calibration '{"transfer_mib_s": 50}' -p stall_limit_s 10
    """
    from picolab.campaign.single_trial import run_single_trial
    from picolab.cli.progress import StepPrinter
    from picolab.cli.trial_view import print_trial
    from picolab.config.invalid_input import validate
    from picolab.config.trial_parameters import TrialParameters
    from picolab.text.live_line import rewrite_line

    keep = "always" if keep_machine else None
    given = {
        "machine": machine,
        "ram_mb": ram_mb,
        "file_size": file_size,
        "server": server,
        "build": build,
        "keep_machine": keep,
    }
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    values |= read_parameters(others, given=values)
    parameters = validate(TrialParameters, values, "picolab trial")
    if values.get("build") in default_builds() and parameters.build != values["build"]:
        raise ParameterError(
            f"picolab trial: build {shown(values['build'])} is no build of server {parameters.server!r}; leave it out "
            f"for {parameters.build!r}, or give the path of an executable"
        )
    parameters = parameters.located(Path.cwd(), "picolab trial")
    stop = StopRequest().install()
    live, on_step = (rewrite_line, None) if sys.stderr.isatty() else (None, StepPrinter().show)
    finished = run_single_trial(parameters, lambda: stop.requested, live, on_step)
    print_trial(finished)
    return finished.exit_code
