"""The command line: `picolab` and its commands.

The modules of commands import what a command needs when it runs: `picolab --help` stays fast.
"""

import os
from pathlib import Path

import click

from picolab import __version__
from picolab.cli import (
    answer,
    box,
    campaigns,
    comparison,
    examination,
    floor,
    history,
    host,
    machines,
    project,
    publishing,
    trial,
)
from picolab.cli.group import Group
from picolab.exit_codes import ExitCode

EXIT_CODE_HELP = "Exit codes: " + ", ".join(f"{int(code)} {code.name.lower().replace('_', ' ')}" for code in ExitCode)


@click.group(cls=Group, epilog=EXIT_CODE_HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Honest, reproducible benchmarks of a file-sharing server, in notebooks.

    \b
    Examples:
      picolab matrix parameters/quick.yaml      run a campaign
      picolab report quick-20260101T120000      write its report
      picolab compare ./old ./new               is the new build faster?
      picolab floor ./picoshare --file-size 1G  how much RAM does it need?
      picolab answer ./picoshare --file-size 5G --ram 256M  does it survive, how long?
      picolab trial --ram 256 --file-size 100M  one trial by hand
      picolab examine ./picoshare               which weaknesses does it have?
      picolab doctor                            check this host
    """
    # Trials run in another folder, where a relative path would mean another place.
    for name in ("PICOLAB_OUTPUTS_DIR", "PICOLAB_STATE_DIR"):
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).absolute())


for command in (
    *(project.init, host.doctor, host.calibrate, host.clean),
    *(campaigns.matrix, campaigns.resume, campaigns.status, campaigns.report, campaigns.export),
    *(publishing.publish, history.history),
    *(comparison.compare, comparison.verdict, floor.floor, answer.answer, examination.examine),
    *(trial.trial, machines.machines, box.box),
):
    main.add_command(command)
