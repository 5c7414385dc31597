"""What the memory probe costs at 20 samples a second, and how well the kernel's peaks find what it misses.

    python benchmarks/memory_probe.py [--seconds 30] [--spikes 10]

The probe runs as in a trial, with a cgroup and the disk of the work folder, and samples a process that has 64 MiB.
Prints its share of a processor, its memory, and the samples a second. Then a process takes 24 MiB for 50 ms, beside a
probe that samples nothing meanwhile: prints the largest error of VmHWM and of the cgroup's peak. Needs a memory cgroup
(root).
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from picolab.agent import bundle
from picolab.config.sizes import MIB
from picolab.host.facts import disk_of
from picolab.machines.local.cgroup import MemoryCgroup, find_method, plan_cgroup
from picolab.record.samples import Samples, read_samples, summarise

INTERVAL_S = 0.05
SPIKE_MIB = 24
HOLD = "x = bytearray(64 << 20); print('up', flush=True); import sys; sys.stdin.read()"
SPIKE = (
    "import sys, mmap, time; print('up', flush=True); sys.stdin.readline()\n"
    f"x = mmap.mmap(-1, {SPIKE_MIB} << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)\n"
    "time.sleep(0.05); x.close(); print('over', flush=True); sys.stdin.read()"
)


class Inside:
    """A process in a cgroup of its own, beside a probe. A context manager."""

    def __init__(self, code: str, folder: Path, interval_s: float) -> None:
        group = plan_cgroup(find_method(), f"picolab-probe-benchmark-{os.getpid()}")
        assert group is not None
        self._group: MemoryCgroup = group
        self._group.create(256 * MIB)
        command = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(group.path), sys.executable, "-c", code]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.says("up")
        self.output = folder / "samples.jsonl"
        disk = disk_of(folder).device
        options = ["--pid", str(self.process.pid), "--interval", str(interval_s), "--cgroup", str(group.path)]
        options += ["--disk", disk] if disk else []
        with self.output.open("wb") as file:
            words = [sys.executable, *bundle.words("memory_probe"), *options]
            self.probe = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=file)
        while self.output.read_bytes().count(b"\n") < 2:
            time.sleep(0.01)

    def says(self, word: str) -> None:
        """Wait for a line of the process."""
        assert self.process.stdout is not None and self.process.stdout.readline().decode().strip() == word

    def samples(self) -> Samples:
        """End the probe, and return what it sampled."""
        assert self.probe.stdin is not None
        self.probe.stdin.close()
        self.probe.wait()
        return read_samples(self.output)

    def __enter__(self) -> "Inside":
        return self

    def __exit__(self, *_: Any) -> None:
        for process in (self.probe, self.process):
            process.kill()
            process.wait()
        self._group.remove()


def kib(pid: int, file: str, name: str) -> float:
    """Return a number of /proc in MiB."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/{file}").read_text(), re.M)
    return int(found[1]) / 1024 if found else float("nan")


def cost(seconds: float, folder: Path) -> None:
    """Print what the probe costs."""
    with Inside(HOLD, folder, INTERVAL_S) as inside:
        time.sleep(seconds)
        pid = inside.probe.pid
        memory = {
            "resident": kib(pid, "status", "VmHWM"),
            "its own": kib(pid, "smaps_rollup", "Pss_Anon"),
            "share of all": kib(pid, "smaps_rollup", "Pss"),
        }
        record, _ = summarise(inside.samples(), INTERVAL_S, 0.0)
    shown = ", ".join(f"{name} {value:.1f} MiB" for name, value in memory.items())
    print(f"probe at {1 / INTERVAL_S:.0f} Hz for {seconds:.0f} s: {record.probe_cpu_share or 0:.2%} of a processor")
    print(f"  memory: {shown}; {record.samples_per_s or 0:.1f} samples a second")


def spikes(count: int, folder: Path) -> None:
    """Print by how much the kernel's peaks are off."""
    errors: dict[str, list[float]] = {"VmHWM": [], "cgroup": []}
    for _ in range(count):
        with Inside(SPIKE, folder, 3600) as inside:
            assert inside.process.stdin is not None
            inside.process.stdin.write(b"\n")
            inside.process.stdin.flush()
            inside.says("over")
            samples = inside.samples()
        record, _ = summarise(samples, 3600, 0.0)
        for name, before, found in (
            ("VmHWM", samples.column("rss_bytes")[0], record.vm_hwm_bytes),
            ("cgroup", samples.column("cgroup_bytes")[0], record.peak_cgroup_bytes),
        ):
            assert before is not None and found is not None
            errors[name].append(abs(found - before) / MIB - SPIKE_MIB)
    for name, off in errors.items():
        worst = max(off, key=abs)
        print(
            f"  {count} spikes of {SPIKE_MIB} MiB for 50 ms between two samples: {name} off by {worst:+.2f} MiB at most"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--spikes", type=int, default=10)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="picolab-probe-") as folder:
        cost(wanted.seconds, Path(folder))
        spikes(wanted.spikes, Path(folder))


if __name__ == "__main__":
    main()
