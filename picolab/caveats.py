"""Caveats: when a trial's numbers come with a warning, and what to do about it. The one catalogue."""

import os

from picolab.host import FILE_SYSTEMS_IN_MEMORY
from picolab.parameters import TrialParameters
from picolab.record import BuildUnderTest, Caveat, MachineRecord, MemoryRecord, VirtualMachineRecord

SPOOL_THRESHOLD_BYTES = 1 << 20
"""PicoShare keeps smaller bodies in memory: an upload below this shows neither spooling nor its memory need."""
LEAST_SAMPLES_PER_S = 10.0
LARGEST_CLOCK_DRIFT_S = 0.05
"""As much as one sample at the default rate: what drifts less cannot be seen in a chart of memory over time."""


def of_parameters(parameters: TrialParameters) -> list[Caveat]:
    """Return what is known before anything was started."""
    caveats = []
    if parameters.memory_limit == "none":
        caveats.append(
            Caveat(
                code="memory_limit_none",
                value=None,
                message=f"The memory limit of {parameters.ram_mb} MiB was not enforced: the server could use "
                "all of the host's memory.",
                advice="Set memory_limit to enforced; `picolab doctor` tells what this host needs for it.",
            )
        )
    if parameters.file_size_bytes < SPOOL_THRESHOLD_BYTES:
        caveats.append(
            Caveat(
                code="small_file",
                value=parameters.file_size_bytes,
                message="The file is smaller than 1 MiB, so the server keeps it in memory and the phases are "
                "too short to mean much.",
                advice="Upload at least 10M.",
            )
        )
    return caveats


def of_build(build: BuildUnderTest) -> list[Caveat]:
    """Return what the build itself is a reason for."""
    if build.kind != "calibration":
        return []
    return [
        Caveat(
            code="calibration_server",
            value=build.version,
            message="These are numbers of picolab's calibration server, a test instrument, not of PicoShare.",
            advice="Give a PicoShare release (such as 1.5.4) or the path of an executable as build.",
        )
    ]


def of_machine(machine: MachineRecord) -> list[Caveat]:
    """Return what is wrong with the place where the server runs, and with the host at this moment."""
    virtual = machine.virtual_machine
    caveats = [] if virtual is None else _of_virtual_machine(virtual)
    if machine.memory_limit.method != "none" and machine.memory_limit.swap != "off":
        caveats.append(
            Caveat(
                code="swap_not_off",
                value=None,
                message="The host has swap and this kernel cannot keep the server out of it: memory that was "
                "swapped out does not count against the limit."
                if virtual is None
                else "The guest has swap: memory that was swapped out does not count against its RAM.",
                advice="Turn swap off for the benchmark: swapoff -a"
                if virtual is None
                else "Use a box without swap, such as picolab's own.",
            )
        )
    if machine.data_folder_file_system in FILE_SYSTEMS_IN_MEMORY:
        caveats.append(
            Caveat(
                code="work_dir_in_memory",
                value=machine.data_folder_file_system,
                message="Data folder and TMPDIR lie in memory, so nothing was written to a disk and every file "
                "counts against the memory limit.",
                advice="Set work_dir to a folder on a disk."
                if virtual is None
                else "Use a box whose files lie on a disk, such as picolab's own.",
            )
        )
    # What a guest's kernel calls its virtual disk says nothing about the disk behind it.
    if virtual is None and machine.data_folder_disk is not None and "rotational" in machine.data_folder_disk:
        caveats.append(
            Caveat(
                code="rotational_disk",
                value=machine.data_folder_disk,
                message="The kernel calls the disk rotational: expect a wide spread (a virtual disk may be "
                "called so whatever is behind it).",
                advice="Repeat more often, or set work_dir to a folder on an SSD.",
            )
        )
    load, processors = os.getloadavg()[0], os.cpu_count() or 1
    if load > processors:
        caveats.append(
            Caveat(
                code="busy_host",
                value=round(load, 2),
                message=f"The host was busy when the trial began: load {load:.1f} on {processors} processors.",
                advice="Run the campaign on an idle host.",
            )
        )
    return caveats


def _of_virtual_machine(virtual: VirtualMachineRecord) -> list[Caveat]:
    caveats = []
    if virtual.acceleration == "emulation":
        caveats.append(
            Caveat(
                code="emulated",
                value=virtual.acceleration_reason,
                message="The virtual machine's processor was emulated by software: rates and times say little about a "
                "real machine; peaks of memory may differ too where they depend on how fast the server works.",
                advice="Measure rates on a host with a usable /dev/kvm; `picolab doctor` tells what is missing here.",
            )
        )
    if virtual.acceleration == "unknown":
        caveats.append(
            Caveat(
                code="acceleration_unknown",
                value=virtual.acceleration_reason,
                message="It is not known whether the virtual machine's processor was emulated by software: if so, "
                "rates and times say little about a real machine.",
                advice="Use the provider libvirt, which tells.",
            )
        )
    if virtual.route == "ssh_forward":
        caveats.append(
            Caveat(
                code="measured_through_ssh",
                value=None,
                message="There was no direct route to the virtual machine, so everything went through an ssh "
                "connection: rates are those of this connection, and transfer and commit cannot be told apart.",
                advice="Use a network in which this host reaches the guest's own address, such as libvirt's default.",
            )
        )
    return caveats


def of_clock(drift_s: float | None) -> list[Caveat]:
    """Return what it means that a guest's clock did not run like the host's during an upload.

    Args:
        drift_s: by how much it moved against the host's clock; None when it is the host's own clock.
    """
    if drift_s is None or abs(drift_s) <= LARGEST_CLOCK_DRIFT_S:
        return []
    return [
        Caveat(
            code="guest_clock_drifted",
            value=round(drift_s, 3),
            message=f"The guest's clock moved by {drift_s:+.2f} s against the host's during the upload: in memory over "
            "time the samples are wrong by up to that. Rates are not affected: the host's clock alone measures them.",
            advice="Repeat the trial on an idle host; do not suspend the virtual machine during an upload.",
        )
    ]


def of_neighbours(names: list[str]) -> list[Caveat]:
    """Return what it means that other machines are in use on this host.

    Args:
        names: of those machines.
    """
    if not names:
        return []
    return [
        Caveat(
            code="other_machines",
            value=", ".join(names),
            message="Other machines were in use on this host when the trial began, and may have slowed it down.",
            advice="Run one campaign or trial at a time.",
        )
    ]


def of_attempts(attempts: int) -> list[Caveat]:
    """Return what it means that an upload was tried before on the same server.

    Args:
        attempts: at the upload stage, this one included.
    """
    if attempts < 2:
        return []
    return [
        Caveat(
            code="upload_repeated",
            value=attempts,
            message=f"This is attempt {attempts} at the upload in one trial: server, data folder and page cache may "
            "not be fresh, and VmHWM holds the earlier attempts too.",
            advice="For a number that counts, run the whole trial again.",
        )
    ]


def of_memory(memory: MemoryRecord) -> list[Caveat]:
    """Return what the memory probe knows against itself."""
    caveats = []
    if memory.gap_count:
        longest = max(gap.duration_s for gap in memory.gaps)
        caveats.append(
            Caveat(
                code="probe_gaps",
                value=round(longest, 3),
                message=f"The memory probe paused {memory.gap_count} times, for up to {longest:.2f} s: a peak in "
                "a pause is not seen (VmHWM, which the kernel keeps, is).",
                advice="Run on a host with an idle processor for the probe.",
            )
        )
    if memory.samples_per_s is not None and memory.samples_per_s < LEAST_SAMPLES_PER_S:
        caveats.append(
            Caveat(
                code="few_samples",
                value=round(memory.samples_per_s, 1),
                message=f"Only {memory.samples_per_s:.1f} memory samples a second were reached.",
                advice="Run on a host with an idle processor for the probe.",
            )
        )
    if memory.peak_swap_bytes:
        caveats.append(
            Caveat(
                code="swap_used",
                value=memory.peak_swap_bytes,
                message="The server had memory in swap, so its peak of resident memory is too low.",
                advice="Turn swap off for the benchmark: swapoff -a",
            )
        )
    return caveats
