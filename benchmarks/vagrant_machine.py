"""The costs of virtual machines: every way to a ready one next to plain `vagrant`, and whether the way changes results.

    python benchmarks/vagrant_machine.py [--ram 256] [--file-size 100M] [--rounds 5]

Each round measures the same upload after a cold boot, after a reset and after a restore, so that their memory and rates
can be compared in pairs. Builds a box of its own, and removes it and its machines at the end. Needs what `picolab
doctor` lists for virtual machines, and about ten minutes of an idle host without KVM.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from picolab.campaign.progress import Watcher
from picolab.campaign.runner import Campaign
from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.plan import make_plan
from picolab.config.project import project_root
from picolab.config.sizes import MIB, parse_size
from picolab.host.processes import this_process
from picolab.machines import registry
from picolab.machines.base import Holder, MachineWish
from picolab.machines.vagrant.acceleration import acceleration
from picolab.machines.vagrant.box import build_box, remove_box
from picolab.machines.vagrant.machine import VagrantMachine
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


def timed(what: str, action: Callable[[], T]) -> T:
    """Run something and print what it took."""
    begun = time.monotonic()
    result = action()
    print(f"{what:<48} {time.monotonic() - begun:7.2f} s", flush=True)
    return result


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
        timed("vagrant up (first: copies the box)", lambda: vagrant("up"))
        timed("vagrant snapshot save", lambda: vagrant("snapshot", "save", "fresh"))
        timed("vagrant snapshot restore", lambda: vagrant("snapshot", "restore", "fresh"))
        vagrant("snapshot", "delete", "fresh")
        environment["PICOLAB_RAM_MB"] = str(2 * ram_mb)
        timed("vagrant reload (twice the memory)", lambda: vagrant("reload"))
    finally:
        timed("vagrant destroy", lambda: vagrant("destroy", "-f"))


def obtain(ram_mb: int, fresh_for: str = "") -> VagrantMachine:
    wish = MachineWish("benchmark", ram_mb, "enforced", "", kind="vagrant", box=BOX, fresh_for=fresh_for)
    machine = registry.obtain(wish, Holder(this_process(), keep=False))
    assert isinstance(machine, VagrantMachine)
    described = machine.describe().virtual_machine
    assert described is not None
    usable_mib, available_mib = described.usable_ram_bytes / MIB, described.available_ram_bytes / MIB
    print(f"  {described.reached_by}: {usable_mib:.0f} MiB usable, {available_mib:.0f} MiB available")
    return machine


def in_the_machine(folder: Path, ram_mb: int, size_bytes: int) -> None:
    """Time every way to a wanted machine, and what is measured in it."""
    timed("obtain: created", lambda: obtain(ram_mb)).hand_back()
    timed("obtain: reset", lambda: obtain(ram_mb)).hand_back()
    timed("obtain: reloaded (twice the memory)", lambda: obtain(2 * ram_mb)).hand_back()
    timed("obtain: created, and its state saved", lambda: obtain(ram_mb, "a")).hand_back()
    timed("obtain: reloaded (twice the memory), and saved", lambda: obtain(2 * ram_mb, "b")).hand_back()
    timed("obtain: restored, another memory", lambda: obtain(ram_mb, "c")).hand_back()
    machine = timed("obtain: restored", lambda: obtain(ram_mb, "d"))
    build = find_build("calibration", "calibration", "")
    started = start_server(machine, PicoShare(), build, {}, folder / "log", 120)
    print(f"{'start to ready':<48} {started.ready_s or -1:7.2f} s")
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
    timed("release", machine.release)


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
    for entry in campaign.ledger.entries():
        assert entry.notebook is not None and entry.duration_s is not None
        record = read_record(campaign.folder / entry.notebook)
        taken = {stage.stage: stage.duration_s for stage in record.stages}
        besides_s = entry.duration_s - sum(taken.get(stage, 0.0) for stage in MEASURED)
        stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in taken.items())
        print(f"trial {record.outcome}: {entry.duration_s:.1f} s, {besides_s:.1f} s besides the measured ({stages})")


def main() -> None:
    """Measure and clean up."""
    parser = argparse.ArgumentParser(description="Measure what virtual machines cost.")
    parser.add_argument("--ram", type=int, default=256, help="memory of the machine in MiB (default 256)")
    parser.add_argument("--file-size", default="100M", help="size of the upload (default 100M)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of cold boot, reset and restore (default 5)")
    wanted = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="picolab-benchmark-", dir="/var/tmp"))
    os.environ["VAGRANT_HOME"] = str(folder / "vagrant")
    os.environ["PICOLAB_STATE_DIR"] = str(folder / "state")
    os.environ["PICOLAB_OUTPUTS_DIR"] = str(folder / "outputs")
    try:
        timed("box build", lambda: build_box(name=BOX, report=lambda _: None))
        accelerated = acceleration()
        os.environ["PICOLAB_DRIVER"] = "kvm" if accelerated.kind == "kvm" else "qemu"
        print(f"acceleration: {accelerated.kind} ({accelerated.reason})")
        plain_vagrant(folder, wanted.ram)
        in_the_machine(folder, wanted.ram, parse_size(wanted.file_size))
        ways_compared(folder, wanted.ram, parse_size(wanted.file_size), wanted.rounds)
        for fresh_machine in ("per_campaign", "per_trial"):
            overhead(wanted.file_size, wanted.ram, fresh_machine)
    finally:
        for machine in registry.existing():
            registry.release_by_name(machine["name"])
        remove_box(BOX)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
