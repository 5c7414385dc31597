"""The costs of virtual machines: every way to a ready one next to plain `vagrant`, and whether the way changes results.

    python benchmarks/vagrant_machine.py [--ram 256] [--file-size 100M] [--rounds 5] [--matrix] [--known-difference]

Each round measures the same upload after a cold boot, after a reset and after a restore, so that their memory and rates
can be compared in pairs. A table at the end has each way next to the same one by hand, in the same network: Vagrant's
own has the spanning tree protocol on, with which a boot waits 4 s longer for its address.

`--matrix` runs four RAM sizes x five files x five repeats, and prints which share of the time went into the machines.
`--known-difference` compares two calibration servers whose rates are known.

Builds a box of its own, and removes it and its machines at the end. Needs what `picolab doctor` lists for virtual
machines, and an idle host; without KVM about ten minutes, 16 more for the matrix, and four for the comparison.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import yaml

from picolab.campaign.progress import Watcher
from picolab.campaign.runner import Campaign
from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.plan import make_plan
from picolab.config.project import project_root
from picolab.config.sizes import MIB, parse_size
from picolab.host.processes import this_process
from picolab.machines import registry
from picolab.machines.base import Holder, MachineWish
from picolab.machines.folders import folder_of
from picolab.machines.vagrant import network, network_and_pool
from picolab.machines.vagrant.acceleration import acceleration
from picolab.machines.vagrant.box import build_box, remove_box
from picolab.machines.vagrant.kind import SMALLEST_GUEST_MB
from picolab.machines.vagrant.machine import VagrantMachine
from picolab.record.record import Record
from picolab.record.samples import read_samples, summarise
from picolab.results.load import read_record
from picolab.servers.client import Client
from picolab.servers.measurements import Limits
from picolab.servers.picoshare.adapter import PicoShare
from picolab.servers.picoshare.builds import find_build
from picolab.servers.start import SECRET_FILE, start_server

T = TypeVar("T")
MEASURED = ("start", "upload", "verify")
BOX = "picolab-benchmark"
MACHINE = "benchmark"
RAM_SHARES = (0.5, 1, 1.5, 2)
FILES = ["4M", "8M", "16M", "32M", "64M"]
REPEATS = 5
KNOWN = {
    name: {
        "build": "calibration",
        "calibration": {"transfer_mib_s": rate, "commit_mib_s": 16, "noise_percent": 3},
    }
    for name, rate in (("old", 8), ("new", 10))
}

STEPS: dict[str, tuple[str, str]] = {
    "box build": ("", "box build"),
    "first up, with libvirt's copy of the box": ("vagrant up, first", ""),
    "a new machine, copy exists (created)": ("vagrant up", "created"),
    "the same, with its state saved": ("", "created, saved"),
    "off, then booted (booted)": ("", "booted"),
    "another RAM size (reloaded), the first time": ("vagrant reload", "reloaded"),
    "the same, with its state saved (reloaded)": ("", "reloaded, saved"),
    "another RAM size, from a saved state (restored)": ("", "restored, other RAM"),
    "fresh from a saved state (restored)": ("vagrant snapshot restore", "restored"),
    "cleaned up and checked (reset)": ("", "reset"),
    "start of the server, process to first good answer": ("", "start"),
    "destroy": ("vagrant destroy", "destroy"),
}
"""The rows of the table: what plain Vagrant does for it, and what picolab does."""
TAKEN: dict[str, float] = {}


def timed(what: str, action: Callable[[], T]) -> T:
    """Run something, and note and print what it took."""
    begun = time.monotonic()
    result = action()
    note(what, time.monotonic() - begun)
    return result


def note(what: str, seconds: float) -> None:
    """Note and print what something took."""
    TAKEN[what] = seconds
    print(f"{what:<48} {seconds:7.2f} s", flush=True)


def print_steps() -> None:
    """Print every way to a ready machine, by hand and by picolab."""
    print(f"\n{'step':<52} {'plain vagrant':>13} {'picolab':>9}")
    for step, ways in STEPS.items():
        plain, ours = (f"{TAKEN[way]:.2f} s" if way in TAKEN else "" for way in ways)
        print(f"{step:<52} {plain:>13} {ours:>9}")
    print()


def plain_vagrant(folder: Path, ram_mb: int) -> None:
    """Time the plain commands, as somebody would type them."""
    environment = {
        **os.environ,
        "VAGRANT_DOTFILE_PATH": str(folder / "dotfile"),
        "PICOLAB_BOX": BOX,
        "PICOLAB_PREFIX": f"picolab_plain_{os.getpid()}_",
        "PICOLAB_RAM_MB": str(ram_mb),
    }

    def vagrant(*words: str) -> None:
        subprocess.run(
            ["vagrant", *words], cwd=project_root(), env=environment, check=True, capture_output=True, timeout=600
        )

    try:
        timed("vagrant up, first", lambda: vagrant("up"))
        vagrant("destroy", "-f")
        timed("vagrant up", lambda: vagrant("up"))
        timed("vagrant snapshot save", lambda: vagrant("snapshot", "save", "fresh"))
        timed("vagrant snapshot restore", lambda: vagrant("snapshot", "restore", "fresh"))
        vagrant("snapshot", "delete", "fresh")
        environment["PICOLAB_RAM_MB"] = str(2 * ram_mb)
        timed("vagrant reload", lambda: vagrant("reload"))
    finally:
        timed("vagrant destroy", lambda: vagrant("destroy", "-f"))


def obtain(ram_mb: int, fresh_for: str = "") -> VagrantMachine:
    wish = MachineWish(MACHINE, ram_mb, "enforced", "", kind="vagrant", box=BOX, fresh_for=fresh_for)
    machine = registry.obtain(wish, Holder(this_process(), keep=False))
    assert isinstance(machine, VagrantMachine)
    described = machine.describe().virtual_machine
    assert described is not None
    usable_mib, available_mib = described.usable_ram_bytes / MIB, described.available_ram_bytes / MIB
    print(f"  {described.reached_by}: {usable_mib:.0f} MiB usable, {available_mib:.0f} MiB available")
    return machine


def in_the_machine(folder: Path, ram_mb: int, size_bytes: int) -> None:
    """Time every way to a wanted machine, and what is measured in it."""
    timed("created", lambda: obtain(ram_mb)).hand_back()
    timed("reset", lambda: obtain(ram_mb)).hand_back()
    machine_folder = folder_of(MACHINE)
    timed("halt", lambda: registry.kind_in(machine_folder).halt(machine_folder))
    timed("booted", lambda: obtain(ram_mb)).hand_back()
    timed("reloaded", lambda: obtain(2 * ram_mb)).hand_back()
    timed("created, saved", lambda: obtain(ram_mb, "a")).hand_back()
    timed("reloaded, saved", lambda: obtain(2 * ram_mb, "b")).hand_back()
    timed("restored, other RAM", lambda: obtain(ram_mb, "c")).hand_back()
    machine = timed("restored", lambda: obtain(ram_mb, "d"))
    build = find_build("calibration", "calibration", "")
    started = start_server(machine, PicoShare(), build, {}, folder / "log", 120)
    assert started.ready_s is not None
    note("start", started.ready_s)
    machine.stop_process(10)
    again = timed(
        "start of a copied build, all in all",
        lambda: start_server(machine, PicoShare(), build, {}, folder / "log", 120),
    )
    with Client(PicoShare(), again.base_url) as client:
        client.authenticate((machine.folder / SECRET_FILE).read_text())
        probe = machine.probe(0.05, folder / "samples.jsonl")
        upload = client.upload(1, size_bytes, Limits(60, 600), report=lambda _: None)
        probe.finish()
    assert upload.first_byte_s is not None and upload.response_s is not None
    print(f"{'upload into the guest':<48} {size_bytes / MIB / (upload.response_s - upload.first_byte_s):7.1f} MiB/s")
    memory, _ = summarise(read_samples(folder / "samples.jsonl"), 0.05, upload.first_byte_s)
    print(f"{'probe, 20 samples/s wanted':<48} {memory.samples_per_s or 0:7.1f} samples/s")
    print(f"{'probe, share of a processor':<48} {100 * (memory.probe_cpu_share or 0):7.1f} %")
    timed("destroy", machine.release)


@dataclass
class Measured:
    """One upload into a guest that was reached in one of the ways."""

    reached_s: float
    available_mib: float
    peak_mib: float
    rate_mib_s: float


def measured_after(way: str, folder: Path, ram_mb: int, size_bytes: int, fresh_for: str) -> Measured:
    """Reach a machine, which must be in the expected way, and upload into it."""
    machine = obtain(ram_mb, fresh_for)
    described = machine.describe().virtual_machine
    assert described is not None and described.reached_by == way, described
    build = find_build("calibration", "calibration", "")
    started = start_server(machine, PicoShare(), build, {"ballast_mib_per_mib": 0.5}, folder / "log", 120)
    samples = folder / "ways.jsonl"
    samples.unlink(missing_ok=True)
    with Client(PicoShare(), started.base_url) as client:
        client.authenticate((machine.folder / SECRET_FILE).read_text())
        probe = machine.probe(0.05, samples)
        upload = client.upload(1, size_bytes, Limits(60, 600), report=lambda _: None)
        probe.finish()
    machine.stop_process(10)
    machine.hand_back()
    assert upload.first_byte_s is not None and upload.response_s is not None
    memory, _ = summarise(read_samples(samples), 0.05, upload.first_byte_s)
    assert memory.peak_anon_bytes is not None
    return Measured(
        described.reached_s,
        described.available_ram_bytes / MIB,
        memory.peak_anon_bytes / MIB,
        size_bytes / MIB / (upload.response_s - upload.first_byte_s),
    )


def ways_compared(folder: Path, ram_mb: int, size_bytes: int, rounds: int) -> None:
    """Print whether a restored or cleaned guest measures as one that has just booted, in pairs of a round."""
    found: dict[str, list[Measured]] = {"created": [], "reset": [], "restored": []}
    for number in range(rounds):
        for name in [machine["name"] for machine in registry.existing()]:
            registry.release_by_name(name)
        for way in ("created", "reset"):
            found[way].append(measured_after(way, folder, ram_mb, size_bytes, ""))
        # That machine was not saved: one that is begins in its saved state, also right after its boot.
        obtain(ram_mb, f"{number}").hand_back()
        found["restored"].append(measured_after("restored", folder, ram_mb, size_bytes, f"{number}, again"))
    print(
        f"{'way':<10} {'ready s':>8} {'available MiB':>14} {'peak MiB':>9} {'upload MiB/s':>13}   ratio to a cold boot"
    )
    for way, trials in found.items():
        columns = [
            [getattr(trial, name) for trial in trials]
            for name in ("reached_s", "available_mib", "peak_mib", "rate_mib_s")
        ]
        medians = [statistics.median(column) for column in columns]
        ratios = [
            statistics.median(
                getattr(one, name) / getattr(other, name) for one, other in zip(trials, found["created"], strict=True)
            )
            for name in ("available_mib", "peak_mib", "rate_mib_s")
        ]
        print(
            f"{way:<10} {medians[0]:8.2f} {medians[1]:14.1f} {medians[2]:9.1f} {medians[3]:13.1f}   "
            f"available {ratios[0]:.3f}, peak {ratios[1]:.3f}, upload {ratios[2]:.3f}"
        )


def overhead(size: str, ram_mb: int, fresh_machine: str) -> None:
    """Run a campaign and print what each trial cost besides start, upload and verification."""
    matrix = {"machine": ["vagrant"], "ram_mb": [ram_mb], "file_size": [size], "box": [BOX]}
    wanted = CampaignParameters.model_validate(
        {"matrix": matrix, "parameters": {"fresh_machine": fresh_machine}, "repeats": 4}
    )
    name = f"benchmark-{fresh_machine}"
    print(f"a campaign with fresh_machine: {fresh_machine}")
    campaign = Campaign.create(make_plan(wanted, name, "the benchmark"), Watcher())
    campaign.run()
    for trial in trials_of(campaign):
        stages = ", ".join(f"{stage.stage} {stage.duration_s:.2f}" for stage in trial.record.stages)
        print(
            f"trial {trial.record.outcome}: {trial.duration_s:.1f} s, {trial.besides_s:.1f} s besides the measured "
            f"({stages})"
        )


@dataclass
class Trial:
    """A trial of a campaign, and how long all of it took."""

    record: Record
    duration_s: float

    @property
    def besides_s(self) -> float:
        """What is neither start, upload nor verification."""
        return self.duration_s - sum(stage.duration_s for stage in self.record.stages if stage.stage in MEASURED)


def trials_of(campaign: Campaign) -> list[Trial]:
    """Return the trials that measured something, and print how many attempts were faults."""
    entries = campaign.ledger.entries()
    trials = [
        Trial(read_record(campaign.folder / entry.notebook), entry.duration_s)
        for entry in entries
        if not entry.outcome.is_fault and entry.notebook is not None and entry.duration_s is not None
    ]
    if len(trials) < len(entries):
        print(f"  {len(entries) - len(trials)} of {len(entries)} attempts were faults, which are left out below")
    return trials


def matrix_sizes(ram_mb: int) -> list[int]:
    """Return the RAM sizes of the matrix, in MiB."""
    return [int(share * ram_mb) for share in RAM_SHARES]


def matrix(ram_mb: int) -> None:
    """Run a matrix as a user would, and print which share of its time the machines took."""
    sizes = matrix_sizes(ram_mb)
    wanted = CampaignParameters.model_validate(
        {
            "matrix": {"machine": ["vagrant"], "ram_mb": sizes, "file_size": FILES, "box": [BOX]},
            "repeats": REPEATS,
            "idle_limit_s": 0,
        }
    )
    campaign = Campaign.create(make_plan(wanted, "benchmark-matrix", "the benchmark"), Watcher())
    begun = time.monotonic()
    campaign.run()
    wall_s = time.monotonic() - begun
    print(f"matrix of {', '.join(map(str, sizes))} MiB x {', '.join(FILES)} x {REPEATS}: {wall_s:.0f} s")
    trials = trials_of(campaign)
    if not trials:
        return
    taken: dict[str, list[float]] = {}
    for trial in trials:
        assert trial.record.machine is not None and trial.record.machine.virtual_machine is not None
        reached = trial.record.machine.virtual_machine
        taken.setdefault(reached.reached_by, []).append(reached.reached_s)
    for way, times in taken.items():
        print(
            f"  {way:<9} {len(times):3d} times, median {statistics.median(times):.2f} s, together "
            f"{sum(times):.1f} s, {sum(times) / wall_s:.1%} of the time"
        )
    others = sum(sum(times) for way, times in taken.items() if way != "reset")
    print(f"  boots and restores {others / wall_s:.1%}, with resets {sum(map(sum, taken.values())) / wall_s:.1%}")
    print(
        f"  a trial besides start, upload and verification: median "
        f"{statistics.median(trial.besides_s for trial in trials):.2f} s",
        flush=True,
    )


def known_difference(folder: Path, ram_mb: int) -> None:
    """Compare two calibration servers whose rates are known, as a user would."""
    file = folder / "known.yaml"
    wanted = {
        "builds": KNOWN,
        "baseline": "old",
        "matrix": {"machine": ["vagrant"], "ram_mb": [ram_mb], "file_size": ["16M"], "box": [BOX]},
        "repeats": 10,
    }
    file.write_text(yaml.safe_dump(wanted))
    command = [sys.executable, "-m", "picolab", "compare", str(file), "--campaign", "benchmark-known"]
    print("known difference: transfer +25 %, upload +15.4 %, commit and memory the same", flush=True)
    done = subprocess.run(command, cwd=project_root(), check=False)
    print(f"exit code {done.returncode}", flush=True)


def prepare_network() -> None:
    """Have the network there before plain Vagrant, which would make a slower one for all."""
    with network_and_pool.noted():
        network.make()
    if network.is_slow():
        print("network: made by Vagrant, so each boot below waits 4 s longer; see picolab doctor")
    else:
        print("network: without the spanning tree protocol", flush=True)


def clean_up(folder: Path) -> None:
    """Remove the machines, the box, and the network and pool if they were not there before."""
    for machine in registry.existing():
        registry.release_by_name(machine["name"])
    remove_box(BOX)
    for what in network_and_pool.unused():
        network_and_pool.remove(what)
    shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Measure and clean up."""
    parser = argparse.ArgumentParser(description="Measure what virtual machines cost.")
    parser.add_argument("--ram", type=int, default=256, help="memory of the machine in MiB (default 256)")
    parser.add_argument("--file-size", default="100M", help="size of the upload (default 100M)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of cold boot, reset and restore (default 5)")
    parser.add_argument("--matrix", action="store_true", help="run a matrix of 100 trials as well")
    parser.add_argument("--known-difference", action="store_true", help="compare two servers of known rates as well")
    wanted = parser.parse_args()
    smallest = min([wanted.ram, *(matrix_sizes(wanted.ram) if wanted.matrix else [])])
    if smallest < SMALLEST_GUEST_MB:
        parser.error(f"--ram {wanted.ram} needs a machine of {smallest} MiB, and the least is {SMALLEST_GUEST_MB}")
    folder = Path(tempfile.mkdtemp(prefix="picolab-benchmark-", dir="/var/tmp"))
    os.environ["VAGRANT_HOME"] = str(folder / "vagrant")
    os.environ["PICOLAB_STATE_DIR"] = str(folder / "state")
    os.environ["PICOLAB_OUTPUTS_DIR"] = str(folder / "outputs")
    try:
        prepare_network()
        timed("box build", lambda: build_box(name=BOX, report=lambda _: None))
        accelerated = acceleration()
        os.environ["PICOLAB_DRIVER"] = "kvm" if accelerated.kind == "kvm" else "qemu"
        print(f"acceleration: {accelerated.kind} ({accelerated.reason})")
        plain_vagrant(folder, wanted.ram)
        in_the_machine(folder, wanted.ram, parse_size(wanted.file_size))
        print_steps()
        if wanted.rounds:
            ways_compared(folder, wanted.ram, parse_size(wanted.file_size), wanted.rounds)
        for fresh_machine in ("per_campaign", "per_trial"):
            overhead(wanted.file_size, wanted.ram, fresh_machine)
        if wanted.matrix:
            matrix(wanted.ram)
        if wanted.known_difference:
            known_difference(folder, wanted.ram)
    finally:
        clean_up(folder)


if __name__ == "__main__":
    main()
