"""Parts of a record about the machine: its memory limit, the virtual machine, the network, the server and its build."""

from typing import Literal

from pydantic import Field

from picolab.config.trial_parameters import MachineName
from picolab.machines.kinds import KINDS
from picolab.record.part import Part

FILE_SYSTEMS_IN_MEMORY = ("tmpfs", "ramfs")


class BuildUnderTest(Part):
    """The executable that was measured."""

    label: str = Field(description="short name, such as `calibration` or `1.5.4`")
    kind: Literal["calibration", "file", "release"] = Field(description="where it comes from")
    version: str | None = Field(description="release version, or null")
    sha256: str = Field(description="of the executable")
    size_bytes: int = Field(description="of the executable")


class MemoryLimit(Part):
    """The limit that the server ran under."""

    method: Literal["cgroup_v1", "cgroup_v2", "cgroup_v2_systemd_user", "virtual_machine", "none"] = Field(
        description="which kernel mechanism enforced the limit; `virtual_machine`: the size of the virtual machine's "
        "RAM; `none`: nothing did"
    )
    limit_bytes: int | None = Field(
        description="what the kernel says that the limit is (in a virtual machine what the guest's kernel can use, its "
        "MemTotal); null when there is none"
    )
    swap: Literal["off", "unlimited"] = Field(description="`off`: the kernel gives the server no swap")


ReachedBy = Literal["created", "booted", "reloaded", "restored", "reset"]


REACHED_BY_MEANINGS: dict[ReachedBy, str] = {
    "created": "made anew from the box and booted",
    "booted": "it existed and was off: booted",
    "reloaded": "rebooted, with another RAM or because cleaning up did not bring it back to its baseline",
    "restored": "put back to the snapshot of the state after its boot",
    "reset": "it was running and was cleaned up; memory, disk and swap were verified to be back at their baseline",
}


REACHED_WITHOUT_BOOT: tuple[ReachedBy, ...] = ("restored", "reset")


class VirtualMachineRecord(Part):
    """The virtual machine that the server ran in."""

    provider: str = Field(description="what made it: `libvirt` or `virtualbox`")
    software: dict[str, str] = Field(
        description="versions of Vagrant, its plugin, libvirt and QEMU, by name, as they were at the boot; "
        "`unknown` where one could not be read"
    )
    box: str = Field(description="name of the box that it was made of")
    box_version: str | None = Field(description="version of the box")
    acceleration: Literal["kvm", "emulation", "unknown"] = Field(
        description="`kvm`: the host's processor ran the guest; `emulation`: software did, many times slower"
    )
    acceleration_reason: str = Field(description="how that is known, or why it is so, one sentence")
    cpus: int = Field(description="processors of the guest")
    nominal_ram_bytes: int = Field(description="RAM that the virtual machine was given")
    usable_ram_bytes: int = Field(description="what the guest's kernel can use of it (MemTotal)")
    available_ram_bytes: int = Field(description="MemAvailable of the guest before the server was started")
    kernel: str = Field(description="kernel release of the guest")
    operating_system: str = Field(description="of the guest, such as `Debian GNU/Linux 12 (bookworm)`")
    launcher: Literal["screen", "systemd"] | None = Field(
        description="what keeps the server running in the guest: a `screen` session, or a transient `systemd` unit"
    )
    route: Literal["direct", "ssh_forward"] | None = Field(
        description="how the client reached the server: `direct`: at the guest's own address; `ssh_forward`: through "
        "the ssh connection"
    )
    reached_by: ReachedBy = Field(description="how the state that the trial needed was reached, see below")
    reached_s: float = Field(description="seconds that reaching it took")
    mended: list[str] = Field(description="stale states that were found and fixed, one sentence each")
    clock_uncertainty_s: float = Field(
        description="half the round trip in which the guest's clock was mapped to the host's: the guest's times may be "
        "wrong by this"
    )


class NetworkRecord(Part):
    """Who could reach the server of a local machine."""

    kind: Literal["private", "host"] = Field(
        description="`private`: a network namespace that only the host reached; `host`: the host's own network"
    )
    reason: str | None = Field(description="why there was no private network; null when there was one")


class MachineRecord(Part):
    """Where the server ran."""

    kind: MachineName = Field(description="; ".join(f"`{kind.name}`: {kind.meaning}" for kind in KINDS.values()))
    name: str
    reused: bool = Field(description="true when a machine that was already running was re-used")
    memory_limit: MemoryLimit
    data_folder_file_system: str = Field(description="such as `ext4`")
    data_folder_disk: str | None = Field(description="block device and kind, such as `vda (ssd)`")
    free_disk_bytes: int = Field(description="free for data folder and TMPDIR before the upload")
    virtual_machine: VirtualMachineRecord | None = Field(
        None, description="the virtual machine; null for a local machine"
    )
    network: NetworkRecord | None = Field(
        None, description="the network of a local machine; null for a virtual machine, and in records of older versions"
    )


class ServerRecord(Part):
    """The life of the server's process."""

    ready_s: float | None = Field(description="seconds from the process's start to the first good answer")
    idle_anon_bytes: int | None = Field(description="anonymous memory when ready, before the upload")
    exit_code: int | None = Field(description="exit code; null when a signal ended it or it runs on")
    exit_signal: str | None = Field(description="such as `SIGKILL`; null when it ended by itself or runs on")
    oom_kills: int | None = Field(
        description="OOM kills under the machine's memory limit from this server's start to the end of the last "
        "measured step"
    )
    stop_s: float | None = Field(description="seconds from SIGTERM to the end of the process")
    oom_evidence: str | None = Field(
        None, description="the line of the kernel's log that says that it killed the server; null when there is none"
    )
