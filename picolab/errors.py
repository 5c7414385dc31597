"""Every exception that picolab raises on purpose.

    PicolabError                      catch this to catch them all
    ├── ParameterError                a value, a file or a name that the user gave makes no sense
    │   └── CampaignNotFound          no campaign of that name
    ├── HostUnfit                     this host cannot do what was asked; the message names the remedy
    │   ├── FileNotWritten            a full or read-only file system, which the message names
    │   └── MemoryLimitUnavailable    no way to limit a process's memory on this host
    ├── BuildError                    the build under test cannot be had or is not what it says it is
    ├── MachineError                  the machine could not be made, reached or kept: outcome `machine_failed`
    │   ├── MachineBusy               somebody who is alive holds the machine
    │   │   └── MachineKept           an earlier trial left it up for debugging
    │   ├── VagrantError              vagrant failed or hung; in machines/vagrant_command.py
    │   └── LibvirtError              libvirt failed or does not answer; in machines/libvirt.py
    ├── StageError                    a stage of a trial cannot run now; the message says which cell to run first
    ├── ProbeError                    the memory probe did not deliver: outcome `invalid`
    ├── RecordError                   a record or a notebook that cannot be read or is not valid
    ├── UnreadableFile                a file of a campaign that cannot be read: damaged, too large, or no file
    ├── UnsafePath                    something would be written or removed outside of its folder
    ├── CampaignChanged               plan, build or host are not what the campaign began with
    └── CampaignBusy                  another process runs this campaign

The message of each is one sentence or two for a person: it names the value, the place and the remedy.
"""

from picolab.exit_codes import ExitCode


class PicolabError(Exception):
    """Base of all; `exit_code` is what a command ends with when nobody catches it."""

    exit_code = ExitCode.INSTRUMENT_FAULT


class ParameterError(PicolabError):
    exit_code = ExitCode.BAD_PARAMETERS


class CampaignNotFound(ParameterError):
    pass


class HostUnfit(PicolabError):
    exit_code = ExitCode.HOST_UNFIT


class FileNotWritten(HostUnfit, OSError):
    """An OSError as well, so that whoever can do without the file need not know this class."""

    def __str__(self) -> str:
        return str(self.args[0])


class MemoryLimitUnavailable(HostUnfit):
    pass


class BuildError(PicolabError):
    exit_code = ExitCode.BAD_PARAMETERS


class MachineError(PicolabError):
    pass


class MachineBusy(MachineError):
    exit_code = ExitCode.HOST_UNFIT


class MachineKept(MachineBusy):
    pass


class StageError(PicolabError):
    pass


class ProbeError(PicolabError):
    pass


class RecordError(PicolabError):
    pass


class UnreadableFile(PicolabError):
    exit_code = ExitCode.BAD_PARAMETERS


class UnsafePath(PicolabError):
    exit_code = ExitCode.BAD_PARAMETERS


class CampaignChanged(PicolabError):
    exit_code = ExitCode.BAD_PARAMETERS


class CampaignBusy(PicolabError):
    exit_code = ExitCode.HOST_UNFIT
