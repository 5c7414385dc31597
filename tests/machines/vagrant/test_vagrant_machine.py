"""The Vagrant machine with real guests: how it is reached, what runs in it, what is measured, what is left of it."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from command_line import picolab_here
from conftest import MIB, eventually
from virtual_machines import domains, obtain, shell, wish

from picolab.config.project import outputs_dir
from picolab.errors import MachineBusy, MachineError
from picolab.host.processes import ProcessIdentity, this_process
from picolab.machines import registry
from picolab.machines.base import Holder, ProcessSpec, ProcessStatus
from picolab.machines.vagrant import libvirt
from picolab.machines.vagrant.domain import domain_prefix
from picolab.machines.vagrant.guest import GUEST_HOME
from picolab.machines.vagrant.machine import VagrantMachine
from picolab.record.samples import read_samples
from picolab.record.validation import validate_record
from picolab.servers.picoshare.adapter import PicoShare
from picolab.servers.picoshare.builds import find_build
from picolab.servers.start import StartedServer, start_server

pytestmark = pytest.mark.vm


def reached(machine: VagrantMachine) -> str:
    described = machine.describe().virtual_machine
    assert described is not None
    return described.reached_by


def start_calibration(machine: VagrantMachine, log: Path, **knobs: object) -> StartedServer:
    return start_server(
        machine,
        PicoShare(),
        find_build("calibration", "calibration", ""),
        {"calibration": knobs},
        log,
        ready_limit_s=60,
    )


def run_python(machine: VagrantMachine, program: str, log: Path) -> ProcessStatus:
    return machine.start_process(ProcessSpec(["/usr/bin/python3", "-c", program], {"PATH": "/usr/bin:/bin"}, log))


@pytest.fixture
def machine(box: str, shared_state: Path, request: pytest.FixtureRequest) -> Iterator[VagrantMachine]:
    """The machine of this module, with 256 MB, as after its boot: restored, whatever the test before did to it."""
    machine = obtain(wish(box, fresh_for=request.node.name))
    yield machine
    machine.hand_back()


def test_a_machine_says_what_it_is(machine: VagrantMachine) -> None:
    record = machine.describe()
    described = record.virtual_machine
    assert described is not None and record.memory_limit.method == "virtual_machine"
    assert described.nominal_ram_bytes == 256 * MIB
    assert 0.7 * 256 * MIB < described.usable_ram_bytes < 256 * MIB
    assert described.usable_ram_bytes == record.memory_limit.limit_bytes and record.memory_limit.swap == "off"
    assert 0 < described.available_ram_bytes < described.usable_ram_bytes
    assert described.acceleration in ("kvm", "emulation") and described.acceleration_reason
    assert described.route == "direct" and described.clock_uncertainty_s < 1
    assert {"vagrant", "libvirt", "qemu"} <= set(described.software)
    assert record.free_disk_bytes > 1 << 30 and record.data_folder_file_system == "ext4"
    assert shell(machine, "cat /proc/swaps").count("\n") == 1, "swap is on in the guest"


def test_a_person_gets_in_with_plain_ssh(machine: VagrantMachine, tmp_path: Path) -> None:
    start_calibration(machine, tmp_path / "log")
    config = ["ssh", "-F", str(machine.folder / "ssh_config"), "-o", "BatchMode=yes", "guest"]
    done = subprocess.run([*config, "screen -ls; hostname"], capture_output=True, text=True, timeout=60)
    assert ".server" in done.stdout, done.stdout + done.stderr
    assert machine.way_in is not None and "ssh_config" in machine.way_in


def test_another_host_key_is_refused(machine: VagrantMachine) -> None:
    known_hosts = machine.folder / "known_hosts"
    pinned = known_hosts.read_text()
    name, _, key = pinned.strip().partition(" ")
    forged = subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(machine.folder / "forged")], timeout=60
    )
    assert forged.returncode == 0 and key
    other = (machine.folder / "forged.pub").read_text().split()
    known_hosts.write_text(f"{name} {other[0]} {other[1]}\n")
    attached = registry.attach("vm")
    try:
        with pytest.raises(MachineError, match="ost key"):
            assert attached is not None
            attached.process_status()
    finally:
        known_hosts.write_text(pinned)
        for path in machine.folder.glob("forged*"):
            path.unlink()


def test_a_server_is_reached_at_the_guests_own_address(machine: VagrantMachine, tmp_path: Path) -> None:
    started = start_calibration(machine, tmp_path / "log")
    assert started.ready_s is not None and started.ready_s > 0
    assert started.base_url.startswith("http://192.168.") and httpx.get(started.base_url).status_code == 200
    assert machine.listener(started.port) == "server" and machine.listener(22) == "other"
    assert machine.listener(machine.free_port()) == "nobody"
    assert (machine.process_anon_bytes() or 0) > MIB
    before = time.monotonic()
    assert started.status.started_monotonic_s is not None and before - 120 < started.status.started_monotonic_s < before
    stopped = machine.stop_process(10)
    assert not stopped.running and stopped.stop_s is not None
    assert "listening" in (tmp_path / "log").read_text(), "the log comes to the host"
    assert ".server" not in shell(machine, "screen -ls || true"), "no session is left"


def test_a_build_is_copied_once(machine: VagrantMachine, tmp_path: Path) -> None:
    build = tmp_path / "server"
    build.write_text("#!/bin/sh\necho version 1\n")
    build.chmod(0o755)
    first = machine.install(build)
    made = shell(machine, f"stat -c %i {first}")
    assert machine.install(build) == first and shell(machine, f"stat -c %i {first}") == made
    build.write_text("#!/bin/sh\necho version 2\n")
    second = machine.install(build)
    assert second != first and shell(machine, second) == "version 2\n"


def test_a_plain_ampersand_over_ssh_hangs_and_our_start_does_not(machine: VagrantMachine, tmp_path: Path) -> None:
    """The old suite's hang: the background process keeps the channel's standard output open."""
    with pytest.raises(MachineError, match="no answer within"):
        machine._guest.connected().run("sleep 86399 &", limit_s=5)
    shell(machine, "pkill -f 'sleep 8639[9]'")
    status = run_python(machine, "import time; time.sleep(86399)", tmp_path / "log")
    assert status.running and machine.process_status().pid == status.pid
    machine._guest.drop_connection()
    assert machine.process_status().running, "the server outlives the connection"


def test_the_server_is_found_from_another_process(machine: VagrantMachine, tmp_path: Path) -> None:
    pid = run_python(machine, "import time; time.sleep(86399)", tmp_path / "log").pid
    script = "from picolab.machines import registry; print(registry.attach('vm').process_status().pid)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == str(pid), done.stderr


def test_samples_are_on_the_hosts_clock(machine: VagrantMachine, tmp_path: Path) -> None:
    run_python(machine, "import time; time.sleep(86399)", tmp_path / "log")
    begun = time.monotonic()
    stream = machine.probe(0.05, tmp_path / "samples.jsonl")
    eventually(lambda: (tmp_path / "samples.jsonl").read_bytes().count(b"\n") > 40, "40 samples arrive")
    assert stream.finish() == 0
    ended = time.monotonic()
    samples = read_samples(tmp_path / "samples.jsonl")
    times = [value for value in samples.column("t_s") if value is not None]
    slack = 1.0
    assert begun - slack < times[0] < times[-1] < ended + slack and times == sorted(times)
    assert len(times) / (times[-1] - times[0]) > 10, "at least 10 samples a second"
    assert samples.end is not None and samples.end["cpu_s"] > 0
    assert stream.clock_drift_s is not None and abs(stream.clock_drift_s) < 1
    lowest = samples.lowest("mem_available_bytes")
    assert lowest is not None and 0 < lowest < 256 * MIB, "MemAvailable is the guest's"
    assert samples.growth("oom_kills") == 0


def test_a_killed_probe_has_no_last_line(machine: VagrantMachine, tmp_path: Path) -> None:
    run_python(machine, "import time; time.sleep(86399)", tmp_path / "log")
    stream = machine.probe(0.05, tmp_path / "samples.jsonl")
    shell(machine, "sudo pkill -KILL -f '^/usr/bin/python3 .*[m]emory_probe'")
    assert stream.finish() != 0
    assert read_samples(tmp_path / "samples.jsonl").end is None


def test_an_oom_kill_in_the_guest_is_seen_with_its_kernel_line(machine: VagrantMachine, tmp_path: Path) -> None:
    # In steps that the kernel writes itself: else the guest may read Python's own code from the disk for minutes.
    flags = "mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE"
    program = f"import mmap\nheld = []\nwhile True: held.append(mmap.mmap(-1, 64 << 20, flags={flags}))"
    pid = run_python(machine, program, tmp_path / "log").pid
    eventually(lambda: not machine.process_status().running, "the kernel kills it", give_up_s=180)
    status = machine.process_status()
    assert status.exit_signal == "SIGKILL" and status.oom_kills == 1
    assert status.oom_evidence is not None and f"Killed process {pid}" in status.oom_evidence


def test_a_server_that_is_killed_is_no_oom_kill(machine: VagrantMachine, tmp_path: Path) -> None:
    pid = run_python(machine, "import time; time.sleep(86399)", tmp_path / "log").pid
    shell(machine, f"kill -9 {pid}")
    eventually(lambda: not machine.process_status().running, "it is gone")
    status = machine.process_status()
    assert (status.exit_signal, status.oom_kills, status.oom_evidence) == ("SIGKILL", 0, None)


def test_the_page_cache_and_the_disk_are_the_guests(machine: VagrantMachine, tmp_path: Path) -> None:
    size, rate = 12 * MIB, 4 * MIB  # less than what the kernel of a small guest begins to write by itself
    store = f"{machine.fresh_folders()[0]}/store.db"
    write = f"import os, time; open('{store}', 'wb').write(os.urandom({size})); print('written', flush=True)"
    read = f"open('{store}', 'rb').read(); print(open('/proc/self/io').read().split('read_bytes: ')[1])"

    def read_from_disk() -> int:
        return int(shell(machine, f'sudo -n /usr/bin/python3 -c "{read}"').split()[0])

    shell(machine, "sync")
    (domain,) = domains()
    tune = ["virsh", "-c", "qemu:///system", "blkdeviotune", domain, "vda", "--live", "--write-bytes-sec"]
    subprocess.run([*tune, str(rate)], check=True, timeout=60, capture_output=True)
    try:
        run_python(machine, f"{write}; time.sleep(86399)", tmp_path / "log")
        eventually(lambda: "written" in machine.process_log(), "the server has written")
        assert machine.sync_data() == pytest.approx(size / rate, rel=0.1)
        assert machine.sync_data() < 0.1 * size / rate, "all of it was on the disk before"
    finally:
        subprocess.run([*tune, "0"], check=True, timeout=60, capture_output=True)
    assert read_from_disk() < MIB
    assert machine.drop_page_cache() is None
    assert read_from_disk() >= size


def test_a_guest_without_an_address_is_reached_through_ssh(
    machine: VagrantMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VagrantMachine, "_is_forwarded", True)
    started = start_calibration(machine, tmp_path / "log")
    assert started.base_url.startswith("http://127.0.0.1:") and httpx.get(started.base_url).status_code == 200
    described = machine.describe().virtual_machine
    assert described is not None and described.route == "ssh_forward"
    machine._guest.drop_connection()
    machine.process_status()
    assert httpx.get(started.base_url).status_code == 200, "the same address is good after a reconnect"


def test_a_clean_guest_is_reset_a_dirty_disk_is_made_anew(
    box: str, machine: VagrantMachine, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    same = wish(box, fresh_for=request.node.name)
    start_calibration(machine, tmp_path / "log")
    shell(machine, f"dd if=/dev/zero of={GUEST_HOME}/data/file bs=1M count=64 conv=fsync status=none")
    (domain,) = domains()
    disk = libvirt.disk_file(domain)
    assert disk is not None
    used = disk.stat().st_blocks
    machine.hand_back()
    again = obtain(same)
    assert reached(again) == "reset" and not again.process_status().running
    assert 512 * (used - disk.stat().st_blocks) > 48 * MIB, "the host gets the space of a removed file back"
    assert "file" not in shell(again, f"ls -R {GUEST_HOME}")
    shell(again, "dd if=/dev/urandom of=/home/vagrant/left bs=1M count=80 status=none; sync")
    again.hand_back()
    made_anew = obtain(same)
    described = made_anew.describe().virtual_machine
    assert described is not None and described.reached_by == "created"
    assert "guest's disk held 8" in described.mended[0]
    assert "left" not in shell(made_anew, "ls /home/vagrant")
    made_anew.hand_back()


def test_another_memory_size_is_a_reload(box: str, machine: VagrantMachine) -> None:
    machine.hand_back()
    larger = obtain(wish(box, ram_mb=384))
    described = larger.describe().virtual_machine
    assert described is not None and described.reached_by == "reloaded"
    assert 0.8 * 384 * MIB < described.usable_ram_bytes < 384 * MIB
    assert list(libvirt.domains(domain_prefix("vm")).values()) == ["running"]


def test_a_fresh_machine_for_each_trial_comes_from_a_snapshot(box: str, shared_state: Path) -> None:
    first = obtain(wish(box, fresh_for="trial 1"))
    shell(first, "touch /home/vagrant/trace")
    boot = first._guest.ask({"do": "facts"})["boot_id"]
    first.hand_back()
    second = obtain(wish(box, fresh_for="trial 2"))
    assert reached(second) == "restored"
    assert "trace" not in shell(second, "ls /home/vagrant")
    assert second._guest.ask({"do": "facts"})["boot_id"] == boot, "restored, not rebooted"
    assert abs(float(shell(second, "date +%s.%N")) - time.time()) < 5, "the guest's clock is right again"
    second.hand_back()
    same = obtain(wish(box, fresh_for="trial 2"))
    assert reached(same) == "reset", "the same trial again needs no restore"
    shell(same, "touch /home/vagrant/trace")
    same.hand_back()
    larger = obtain(wish(box, ram_mb=384, fresh_for="trial 3"))
    assert reached(larger) == "reloaded" and "trace" not in shell(larger, "ls /home/vagrant"), "fresh at another size"
    larger.hand_back()
    smaller = obtain(wish(box, fresh_for="trial 4"))
    described = smaller.describe().virtual_machine
    assert described is not None and described.reached_by == "restored", "a change of memory by a snapshot"
    assert 0.7 * 256 * MIB < described.usable_ram_bytes < 256 * MIB
    smaller.hand_back()


def test_a_suspended_machine_gets_the_wanted_memory(box: str, machine: VagrantMachine) -> None:
    shell(machine, "echo kept | sudo tee /etc/kept; sync")
    machine.hand_back()
    (domain,) = domains()
    subprocess.run(["virsh", "-c", "qemu:///system", "suspend", domain], check=True, timeout=60, capture_output=True)
    # A memory size of which there is no saved state.
    again = obtain(wish(box, ram_mb=448))
    described = again.describe().virtual_machine
    assert described is not None and described.reached_by == "booted" and "paused" in described.mended[0]
    assert described.usable_ram_bytes > 300 * MIB
    assert shell(again, "cat /etc/kept") == "kept\n", "its disk stayed"
    again.hand_back()


def test_a_machine_whose_power_is_cut_is_a_fault_and_soon(box: str, machine: VagrantMachine) -> None:
    machine.process_status()
    (domain,) = domains()
    subprocess.run(["virsh", "-c", "qemu:///system", "destroy", domain], check=True, timeout=60, capture_output=True)
    with pytest.raises(MachineError, match=r"does not run any more|closed|lost|reset"):
        machine.process_status()
    again = obtain(wish(box, fresh_for="after the power was cut"))
    assert reached(again) == "restored" and not again.process_status().running, "from its saved state, without a boot"
    again.hand_back()


def test_a_machine_that_somebody_holds_is_refused(box: str, machine: VagrantMachine) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        holder = ProcessIdentity.of(other.pid)
        assert holder is not None
        machine.hold(Holder(holder, keep=False))
        with pytest.raises(MachineBusy, match=f"process {other.pid}"):
            obtain(wish(box))
        machine.hold(Holder(this_process(), keep=False))
        other.kill()


def test_a_server_that_needs_too_much_is_killed_in_the_guest(box: str, machine: VagrantMachine, tmp_path: Path) -> None:
    """A trial of the command line takes the machine that this process holds over, and takes it down at its end."""
    machine.hand_back()
    knobs = json.dumps({"oom_after_mib": 5})
    words = ("--machine", "vagrant", "--ram", "256", "--file-size", "40M", "-p", "box", box, "-p", "calibration", knobs)
    done = picolab_here("trial", *words, "-p", "machine_name", "vm", "-p", "keep_machine", "never")
    assert done.returncode == 1, done.stdout + done.stderr
    (path,) = (outputs_dir() / "single-trials").glob("*/record.json")
    record = validate_record(json.loads(path.read_text()), str(path))
    assert record.outcome == "oom_killed", record.outcome_detail
    assert record.server is not None and record.server.oom_evidence is not None
    assert "Killed process" in record.server.oom_evidence and record.server.oom_evidence in record.outcome_detail
    assert record.server.oom_kills == 1 and record.server.exit_signal == "SIGKILL"
    assert not domains()
