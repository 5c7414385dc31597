"""Caveats: when a trial's numbers come with a warning, and what to do about it. The one catalogue."""

import os

from picolab.config.sizes import MIB
from picolab.config.trial_parameters import TrialParameters
from picolab.record.conditions import InstrumentReference
from picolab.record.machine import (
    FILE_SYSTEMS_IN_MEMORY,
    BuildUnderTest,
    MachineRecord,
    NetworkRecord,
    VirtualMachineRecord,
)
from picolab.record.outcomes import Outcome
from picolab.record.record import NOT_VERIFIED, Caveat
from picolab.record.steps import MemoryRecord
from picolab.servers.registry import server_of

LEAST_SAMPLES_PER_S = 10.0
LARGEST_CLOCK_DRIFT_S = 0.05
"""As much as one sample at the default rate: what drifts less cannot be seen in a chart of memory over time."""
CEILING_SHARE = 0.80
"""Of the fastest that the client can do. Server and client run at the same time, and a server of 80 % of the client's
speed already waits for it now and then: what is seen is then no longer the server alone."""
CALIBRATION_INCOMPLETE = "calibration_incomplete"
"""Code of the caveat of a calibration that has fewer rounds than it should."""


def of_parameters(parameters: TrialParameters) -> list[Caveat]:
    """Return the caveats that the parameters alone give."""
    caveats = []
    if parameters.memory_limit == "none":
        caveats.append(
            Caveat(
                code="memory_limit_none",
                value=None,
                message=f"The memory limit of {parameters.ram_mb} MiB was not enforced: the server could use "
                "all of the host's memory.",
                advice="Set memory_limit to enforced; `picolab doctor` lists what this host needs for it.",
            )
        )
    if parameters.file_size_bytes < server_of(parameters.server).spools_from_bytes:
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
    """Return the caveats about the build."""
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
    """Return the caveats about the machine that the server runs on, and about the host at this moment."""
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
                advice="Measure rates on a host with a usable /dev/kvm; `picolab doctor` lists what is missing here.",
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


def of_network(exposed: list[str], network: NetworkRecord | None) -> list[Caveat]:
    """Return a caveat if a server could be reached from other hosts.

    Args:
        exposed: addresses on which it listened beyond this host.
        network: of its machine.
    """
    if not exposed:
        return []
    why = f" A network of its own was not possible: {network.reason}." if network and network.reason else ""
    return [
        Caveat(
            code="server_reachable",
            value=", ".join(exposed),
            message="The server listened beyond this host while it was under test: other hosts could reach it, and may "
            f"have affected its numbers.{why}",
            advice="Run as root, so that the server gets a network that only this host reaches, or close its ports in "
            "the firewall.",
        )
    ]


def of_clock(drift_s: float | None) -> list[Caveat]:
    """Return a caveat if a guest's clock drifted from the host's during an upload.

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


def of_calibration(done: int, rounds: int) -> list[Caveat]:
    """Return the caveat of a calibration of the instrument that failed before its last round.

    Args:
        done: complete rounds.
        rounds: that were to be measured.
    """
    return [
        Caveat(
            code=CALIBRATION_INCOMPLETE,
            value=done,
            message=f"The calibration failed after {done} of {rounds} rounds, so its intervals are wide.",
            advice="Fix the cause that it printed, then run picolab calibrate again.",
        )
    ]


def of_cache(why_not: str | None) -> list[Caveat]:
    """Return a caveat if the page cache should have been dropped before a measured step and was not.

    Args:
        why_not: why that was not possible; None when it was dropped.
    """
    if why_not is None:
        return []
    return [
        Caveat(
            code="cache_not_dropped",
            value=why_not,
            message="The page cache was to be cold and could not be dropped, so it is unknown which data was in "
            "memory already.",
            advice="Run as root, or set cache to warm.",
        )
    ]


def of_page_cache(data_bytes: int, room_bytes: int) -> list[Caveat]:
    """Return a caveat if the data of a download with a warm page cache did not fit into it.

    Args:
        data_bytes: that were uploaded and are downloaded.
        room_bytes: of memory that the page cache could have under the machine's limit.
    """
    if data_bytes <= room_bytes:
        return []
    return [
        Caveat(
            code="page_cache_unknown",
            value=room_bytes,
            message=f"The page cache had room for {room_bytes / MIB:,.0f} of the {data_bytes / MIB:,.0f} MiB, so "
            "it is unknown how much of the download came from memory and how much from the disk.",
            advice="Set cache to cold, or give the machine more RAM than the files need.",
        )
    ]


def of_instrument(
    instrument: InstrumentReference | None, upload_mib_s: float | None, download_mib_s: float | None
) -> list[Caveat]:
    """Return a caveat if a rate is near the highest rate of the client itself.

    Args:
        instrument: None: it is unknown what the client can do.
        upload_mib_s: rate of the measured transfer; None when it was not measured.
        download_mib_s: of the measured download; None when it was not measured.
    """
    if instrument is None:
        return []
    measured = {
        "upload": (upload_mib_s, instrument.upload_ceiling_mib_s),
        "download": (download_mib_s, instrument.download_ceiling_mib_s),
    }
    near = {
        name: (rate, ceiling)
        for name, (rate, ceiling) in measured.items()
        if rate is not None and rate > CEILING_SHARE * ceiling
    }
    if not near:
        return []
    said = " and ".join(
        f"the {name} ran at {rate:.0f} of {ceiling:.0f} MiB/s" for name, (rate, ceiling) in near.items()
    )
    stale = f" The calibration may not hold: {instrument.stale}." if instrument.stale else ""
    return [
        Caveat(
            code="client_bound",
            value=round(max(rate / ceiling for rate, ceiling in near.values()), 3),
            message=f"The client itself was near its limit, so the server may be faster than it looks: {said}.{stale}",
            advice="Judge by the whole upload and its commit, or use a host with faster processors.",
        )
    ]


def of_verification(outcome: Outcome, why_not: str, limit_kept: bool) -> list[Caveat]:
    """Return the caveat about a download that was not measured and did not end.

    Args:
        outcome: of that download.
        why_not: what was seen, one sentence without its full stop.
        limit_kept: the memory limit could not be lifted for it.
    """
    under = " It ran under the memory limit, which could not be lifted here." if limit_kept else ""
    return [
        Caveat(
            code=NOT_VERIFIED,
            value=outcome.value,
            message="The upload was answered with success, but whether every byte came back could not be checked: "
            f"{why_not}.{under}",
            advice="Look at the server's log; direction: both measures the download too, with an outcome of its own.",
        )
    ]


def of_attempts(attempts: int) -> list[Caveat]:
    """Return a caveat if an upload was tried before on the same server.

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


def of_unlocked_probe(why_not: str | None) -> list[Caveat]:
    """Return the caveat that a guest which runs out of memory may stop the probe in it."""
    if why_not is None:
        return []
    return [
        Caveat(
            code="probe_not_locked",
            value=None,
            message=f"While the guest is short of memory, samples may be missing: {why_not}.",
            advice="Use a box whose user has sudo and whose Python has ctypes, such as picolab's own.",
        )
    ]


def of_memory(memory: MemoryRecord) -> list[Caveat]:
    """Return the caveats about the memory probe and its samples."""
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
