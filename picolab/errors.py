"""Every exception that picolab raises on purpose.

    PicolabError                      the base of all others
    ├── ParameterError                a value, a file or a name from the user is invalid
    │   └── CampaignNotFound          no campaign of that name
    ├── HostUnfit                     this host cannot do what was asked
    │   ├── HostBusy                  other programs keep it busy, and the plan refuses that
    │   ├── FileNotWritten            a full or read-only file system, which the message names
    │   └── MemoryLimitUnavailable    no way to limit a process's memory on this host
    ├── BuildError                    the build under test is missing, or is not the one that was asked for
    ├── MachineError                  the machine could not be made, reached or kept: outcome `machine_failed`
    │   ├── MachineBusy               a live process holds the machine
    │   │   └── MachineKept           an earlier trial left it up for debugging
    │   ├── MachineSilent             the machine runs, and does not answer
    │   ├── VagrantError              vagrant failed or hung; see machines/vagrant/
    │   ├── OtherHostKey              another machine answers at the guest's address; see machines/vagrant/
    │   └── LibvirtError              libvirt failed or does not answer; see machines/vagrant/
    ├── StageError                    a stage of a trial cannot run yet; the message names the cell to run first
    ├── ProbeError                    the memory probe did not deliver: outcome `invalid`
    ├── RecordError                   a record or a notebook is unreadable or invalid
    ├── UnreadableFile                a file of a campaign is unreadable: damaged, too large, or not a file
    ├── UnsafePath                    a path would leave its folder
    ├── CampaignChanged               plan, build or host changed since the campaign began
    └── CampaignBusy                  another process runs this campaign

Each message is one sentence or two: it names the value, the place and the remedy. In a notebook, an error that the user
can fix is shown without a traceback.
"""

from picolab.exit_codes import ExitCode


class PicolabError(Exception):
    """Base of all; a command that ends with it exits with `exit_code`."""

    exit_code = ExitCode.INSTRUMENT_FAULT


class _WithoutTraceback:
    """An error that the user can fix without reading picolab's code."""

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows instead of a traceback."""
        return [f"{type(self).__name__}: {self}"]


class ParameterError(_WithoutTraceback, PicolabError):
    exit_code = ExitCode.BAD_PARAMETERS


class CampaignNotFound(ParameterError):
    pass


class HostUnfit(_WithoutTraceback, PicolabError):
    exit_code = ExitCode.HOST_UNFIT


class HostBusy(HostUnfit):
    pass


class FileNotWritten(HostUnfit, OSError):
    """An OSError as well, so that callers that can do without the file need not know this class."""

    def __str__(self) -> str:
        return str(self.args[0])


class MemoryLimitUnavailable(HostUnfit):
    pass


class BuildError(_WithoutTraceback, PicolabError):
    exit_code = ExitCode.BAD_PARAMETERS


class MachineError(PicolabError):
    pass


class MachineSilent(MachineError):
    """A machine that runs has not answered in time."""


class MachineBusy(_WithoutTraceback, MachineError):
    exit_code = ExitCode.HOST_UNFIT


class MachineKept(MachineBusy):
    pass


class StageError(_WithoutTraceback, PicolabError):
    pass


class ProbeError(PicolabError):
    pass


class RecordError(PicolabError):
    pass


class UnreadableFile(_WithoutTraceback, PicolabError):
    exit_code = ExitCode.BAD_PARAMETERS


class UnsafePath(_WithoutTraceback, PicolabError):
    exit_code = ExitCode.BAD_PARAMETERS


class CampaignChanged(PicolabError):
    exit_code = ExitCode.BAD_PARAMETERS


class CampaignBusy(PicolabError):
    exit_code = ExitCode.HOST_UNFIT
