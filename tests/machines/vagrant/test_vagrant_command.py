"""Bounded, logged, serialised vagrant. The program itself is a stand-in that hangs, fails and ends as it is told."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import alive, eventually
from virsh_stub import install

from picolab.config.project import project_root
from picolab.host.locks import try_lock
from picolab.machines.vagrant import command as vagrant_command
from picolab.machines.vagrant import messages as vagrant_messages
from picolab.machines.vagrant import versions
from picolab.machines.vagrant.command import VagrantCommand, VagrantError
from picolab.machines.vagrant.messages import translate

INDEX_LOCK = "Vagrant can't use the requested machine because it is locked! This\nmeans that another Vagrant process"
ACTION_LOCK = (
    "An action 'halt' was attempted on the machine 'default',\nbut another process is already executing an action on "
    "the machine.\nVagrant locks each machine for access by only one process at a time."
)
WAITING = "==> default: Waiting for domain to get an IP address..."

Program = Callable[[str], Path]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Write what `vagrant` does, as Python. It runs in `there`, and its calls are counted in `there/calls`."""
    programs, there = tmp_path / "bin", tmp_path / "there"
    programs.mkdir()
    there.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    def write(body: str) -> Path:
        head = f"""\
            #!{sys.executable} -IS
            import json, os, signal, subprocess, sys, time
            there = {str(there)!r}
            # No print: a signal may come in the middle of it, and its handler says something too.
            def say(line): os.write(1, (line + "\\n").encode())
            def note(name, text=""):
                with open(os.path.join(there, name), "a") as file: file.write(str(text) + "\\n")
            def noted(name): return os.path.exists(os.path.join(there, name))
            def hang():
                while True: time.sleep(0.02)
            note("calls", " ".join(sys.argv[1:]))
            calls = len(open(os.path.join(there, "calls")).readlines())
            """
        path = programs / "vagrant"
        path.write_text(textwrap.dedent(head) + textwrap.dedent(body))
        path.chmod(0o755)
        return there

    return write


@pytest.fixture
def command(tmp_path: Path) -> VagrantCommand:
    # With libvirt, its halt is not vagrant's.
    return VagrantCommand(tmp_path / "machines" / "m", {"VAGRANT_DEFAULT_PROVIDER": "virtualbox"})


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vagrant_command, "_POLL_S", 0.01)
    monkeypatch.setattr(vagrant_command, "_RETRY_PAUSE_S", 0.01)


def text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def calls(there: Path) -> list[str]:
    return text(there / "calls").splitlines()


# What it runs


def test_call_is_made_as_wanted_and_logged(program: Program, command: VagrantCommand) -> None:
    there = program("""
        note("seen", json.dumps([dict(os.environ), os.getcwd()]))
        say("==> default: \\x1b[1mMachine booted\\x1b[0m")
        sys.stderr.write("a warning\\n")
    """)
    command.up("virtualbox")
    environment, folder = json.loads(text(there / "seen"))

    assert calls(there) == ["up --provider=virtualbox"]
    assert folder == str(project_root())
    assert environment["VAGRANT_DOTFILE_PATH"] == str(command.folder / "vagrant")
    assert environment["VAGRANT_CHECKPOINT_DISABLE"] == environment["VAGRANT_NO_COLOR"] == "1"
    assert environment["VAGRANT_DEFAULT_PROVIDER"] == "virtualbox"
    assert environment["PICOLAB_STATE_DIR"] == os.environ["PICOLAB_STATE_DIR"], "on top of our own"
    log = text(command.log)
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ vagrant up --provider=virtualbox\n", log)
    assert "==> default: Machine booted\n" in log and "a warning\n" in log
    assert re.search(r"-- exit code 0 after \d+\.\d\d s\n$", log)


def test_steps_are_told_while_it_runs(program: Program, command: VagrantCommand) -> None:
    there = program("""
        say("Bringing machine 'default' up with 'libvirt' provider...")
        say("==> default: one")
        while not noted("heard"): time.sleep(0.01)
        say("==> default:  -- Memory: 256M")
        say("    default: SSH address: 192.168.121.95:22")
        say("==> default: two\\r==> default: two\\r==> default: two")
        say("    box: Progress: 4% (Rate: 10M/s)")
    """)
    heard = []

    def hear(line: str) -> None:
        heard.append(line)
        (there / "heard").touch()

    command.up("virtualbox", on_line=hear, limit_s=60)
    assert heard == ["one", "two", "Progress: 4% (Rate: 10M/s)"]


def test_each_command_and_what_it_returns(program: Program, command: VagrantCommand) -> None:
    there = program("""
        if "status" in sys.argv:
            say("1795366930,default,metadata,provider,libvirt")
            say("1795366930,default,provider-name,libvirt")
            say("1795366930,default,state,shutoff")
        elif "ssh-config" in sys.argv:
            say("Host default\\n  HostName 192.168.121.95\\n  User vagrant\\n  Port 22\\n"
                '  IdentityFile "/root/.vagrant.d/insecure key"')
    """)
    assert command.status() == "poweroff"
    found = command.ssh_config()
    assert found["HostName"] == "192.168.121.95" and found["Port"] == "22" and found["User"] == "vagrant"
    assert found["IdentityFile"] == "/root/.vagrant.d/insecure key"
    command.snapshot_save("a")
    command.snapshot_restore("a")
    command.reload()
    command.halt()
    command.destroy()
    assert calls(there) == [
        "status --machine-readable",
        "ssh-config",
        "snapshot save a",
        "snapshot restore a",
        "reload",
        "halt",
        "destroy --force",
    ]


def test_with_libvirt_power_is_cut_and_vagrant_boots(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = program("say('up')")
    virsh = install(tmp_path, monkeypatch)
    virsh.set(domains={"p_m_default": {"state": "running"}, "p_m_2_default": {"state": "running"}})
    command = VagrantCommand(tmp_path / "m", {"VAGRANT_DEFAULT_PROVIDER": "libvirt", "PICOLAB_PREFIX": "p_m_"})
    command.reload()

    assert {name: domain["state"] for name, domain in virsh.state["domains"].items()} == {
        "p_m_default": "shut off",
        "p_m_2_default": "running",
    }
    assert calls(there) == ["up --provider=libvirt"]


def test_host_without_vagrant(command: VagrantCommand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    command = VagrantCommand(tmp_path / "m", {})
    with pytest.raises(VagrantError, match="vagrant is not there; picolab doctor") as caught:
        command.status()
    assert caught.value.trouble is vagrant_messages.NOT_INSTALLED


def test_import_is_silent_without_vagrant(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import picolab.machines.vagrant.command"],
        env={**os.environ, "PATH": str(tmp_path)},
        cwd=project_root(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout + done.stderr == ""


def test_versions_come_from_files(
    program: Program, command: VagrantCommand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    there = program("say('Vagrant 2.4.9')")
    gems = tmp_path / "gems-root" / "all" / "gems"
    for name in ("vagrant-2.3.4", "vagrant-libvirt-0.11.2", "vagrant-2.x-docs"):
        (gems / name).mkdir(parents=True)
    monkeypatch.setattr(versions, "_GEMS", (tmp_path / "gems-root",))
    monkeypatch.setenv("VAGRANT_HOME", str(tmp_path / "home"))
    of_libvirt = VagrantCommand(tmp_path / "m", {"VAGRANT_DEFAULT_PROVIDER": "libvirt"})

    assert of_libvirt.versions() == {"vagrant": "2.3.4", "vagrant-libvirt": "0.11.2"}
    assert calls(there) == [], "vagrant itself takes seconds"

    (tmp_path / "home").mkdir()
    plugins = {"installed": {"vagrant-libvirt": {"gem_version": "", "installed_gem_version": "0.12.2"}}}
    (tmp_path / "home" / "plugins.json").write_text(json.dumps(plugins))
    monkeypatch.setattr(versions, "_GEMS", ())
    assert of_libvirt.versions() == {"vagrant": "2.4.9", "vagrant-libvirt": "0.12.2"}

    (tmp_path / "bin" / "VBoxManage").write_text("#!/bin/sh\necho 7.0.20r163906\n")
    (tmp_path / "bin" / "VBoxManage").chmod(0o755)
    assert command.versions() == {"vagrant": "2.4.9", "virtualbox": "7.0.20r163906"}


# Errors

MESSAGES = {
    "index lock": INDEX_LOCK,
    "action lock": ACTION_LOCK,
    "vagrant lock": "Vagrant attempted to acquire a lock named 'dotlock', but this\n"
    "lock is being held by another instance of Vagrant already.",
    "name taken": "Name `picolab_x_m_default` of domain about to create is already taken. Please try to run",
    "volume exists": "Volume for domain is already created. Please run 'vagrant destroy' first.",
    "no box": "The box 'debian/bookworm64' could not be found or\ncould not be accessed in the remote catalog.",
    "other provider": "The box you're attempting to add doesn't support the provider\nyou requested.",
    "no provider": "The provider 'libvirt' could not be found, but was requested to\nback the machine 'default'.",
    "provider unusable": "The provider 'virtualbox' that was requested to back the machine\n'default' is "
    "reporting that it isn't usable on this system. The\nreason is shown below:",
    "no permission": "Error while connecting to Libvirt: Error making a connection to libvirt URI qemu:///system:\n"
    "Call to virConnectOpen failed: authentication unavailable: no polkit agent available",
    "no libvirt": "Error while connecting to Libvirt: Error making a connection to libvirt URI qemu:///system:\n"
    "Call to virConnectOpen failed: Failed to connect socket to '/var/run/libvirt/libvirt-sock': No such file",
    "no KVM": "Error while creating domain: Call to virDomainCreateWithFlags failed: internal error: process exited "
    "while connecting to monitor: Could not access KVM kernel module: No such file or directory",
    "disk full": "Error while uploading image to storage pool: cannot write data to file: No space left on device",
    "host memory": "Call to virDomainCreateWithFlags failed: qemu: cannot set up guest memory 'pc.ram': Cannot",
    "no network": "Call to virDomainCreateWithFlags failed: Network not found: no network with matching name 'x'",
    "no pool": "No usable storage pool found! Please check if storage pool is\ncreated and available.",
    "upload failed": "Error while uploading image to storage pool: Call to virStreamSend failed: Broken pipe",
    "no snapshot": "The snapshot name `nope` was not found for the\nvirtual machine `default`.",
    "snapshot failed": "Call to virDomainRevertToSnapshot failed: operation failed: Failed to load snapshot",
    "no address": "No IP address found.",
    "no ssh": "Timed out while waiting for the machine to boot. This means that\nVagrant was unable to communicate",
    "ssh key": "SSH authentication failed! This is typically caused by the public/private\nkeypair",
    "not up": "The provider for this Vagrant-managed machine is reporting that it\nis not yet ready for SSH. Depending",
    "not created": "Domain is not created. Please run `vagrant up` first.",
    "Vagrantfile": "There is a syntax error in the following Vagrantfile. The syntax error\nmessage is reproduced",
}


@pytest.mark.parametrize("name", MESSAGES)
def test_known_message_is_recognised(name: str) -> None:
    trouble = translate(f"==> default: Starting domain.\n{MESSAGES[name]}\n")

    assert trouble.name == name
    assert trouble.cause and trouble.remedy
    assert trouble.passes == name.endswith("lock")


def test_there_is_an_example_of_each_known_message() -> None:
    assert {trouble.name for _, trouble in vagrant_messages._KNOWN} == set(MESSAGES)


GEMS = Path("/usr/share/rubygems-integration/all/gems")
TEMPLATES = [
    ("vagrant-[0-9]*/templates/locales/en.yml", ("en", "vagrant", "errors"), "machine_locked", "index lock"),
    ("vagrant-[0-9]*/templates/locales/en.yml", ("en", "vagrant", "errors"), "machine_action_locked", "action lock"),
    ("vagrant-[0-9]*/templates/locales/en.yml", ("en", "vagrant", "errors"), "environment_locked", "vagrant lock"),
    ("vagrant-[0-9]*/templates/locales/en.yml", ("en", "vagrant", "errors"), "box_add_short_not_found", "no box"),
    ("vagrant-[0-9]*/templates/locales/en.yml", ("en", "vagrant", "errors"), "snapshot_not_found", "no snapshot"),
    ("vagrant-[0-9]*/templates/locales/en.yml", ("en", "vagrant", "errors"), "boot_timeout", "no ssh"),
    ("vagrant-[0-9]*/templates/locales/en.yml", ("en", "vagrant", "errors"), "provider_not_found", "no provider"),
    ("vagrant-[0-9]*/templates/locales/en.yml", ("en", "vagrant", "errors"), "ssh_not_ready", "not up"),
    ("vagrant-libvirt-*/locales/en.yml", ("en", "vagrant_libvirt", "errors"), "domain_name_exists", "name taken"),
    ("vagrant-libvirt-*/locales/en.yml", ("en", "vagrant_libvirt", "errors"), "domain_volume_exists", "volume exists"),
    ("vagrant-libvirt-*/locales/en.yml", ("en", "vagrant_libvirt", "errors"), "no_storage_pool", "no pool"),
    ("vagrant-libvirt-*/locales/en.yml", ("en", "vagrant_libvirt", "errors"), "image_upload_error", "upload failed"),
    ("vagrant-libvirt-*/locales/en.yml", ("en", "vagrant_libvirt"), "waiting_for_ip", "no address"),
    ("vagrant-libvirt-*/locales/en.yml", ("en", "vagrant_libvirt"), "waiting_for_ssh", "no ssh"),
]


@pytest.mark.skipif(not list(GEMS.glob("vagrant-libvirt-*")), reason="no vagrant-libvirt of Debian's here")
@pytest.mark.parametrize(("file", "way", "key", "name"), TEMPLATES, ids=[template[2] for template in TEMPLATES])
def test_messages_of_the_installed_vagrant_are_recognised(file: str, way: tuple[str, ...], key: str, name: str) -> None:
    (path,) = GEMS.glob(file)
    messages = yaml.safe_load(path.read_text())
    for step in way:
        messages = messages[step]

    assert translate(messages[key], ended=key.startswith("waiting")).name == name


def test_failure_is_one_sentence_with_cause_remedy_and_log(program: Program, command: VagrantCommand) -> None:
    program(f"sys.stderr.write({MESSAGES['volume exists']!r}); sys.exit(1)")
    with pytest.raises(VagrantError) as caught:
        command.up("libvirt")
    error = caught.value

    assert str(error) == (
        "machine 'm', vagrant up --provider=libvirt: libvirt still has the disk of a virtual machine of this name; "
        "take it away with: picolab machines remove m; all that it said is in vagrant.log"
    )
    assert (error.trouble.name, error.vagrant_exit_code) == ("volume exists", 1)
    assert MESSAGES["volume exists"] in error.said and MESSAGES["volume exists"] in text(command.log)


def test_unknown_failure_is_told_in_its_own_words(program: Program, command: VagrantCommand) -> None:
    program(r"""
        say("==> default: Doing this and that")
        sys.stderr.write("wait_for.rb:9:in `wait_for': something\n broke (Fog::Error)\n\tfrom /usr/lib/a.rb:6\n")
        sys.exit(3)
    """)
    with pytest.raises(
        VagrantError, match=r"failed \(exit code 3\): wait_for.rb:9:in `wait_for': something broke"
    ) as e:
        command.halt()
    assert "\n" not in str(e.value) and "/usr/lib/a.rb" not in str(e.value)
    assert "from /usr/lib/a.rb:6" in text(command.log)


def test_vagrant_that_was_killed(program: Program, command: VagrantCommand) -> None:
    program("say('==> default: Starting domain.'); os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(VagrantError, match=r"\(ended by SIGKILL\): ==> default: Starting domain") as caught:
        command.halt()
    assert caught.value.vagrant_exit_code == -9


# Time


class Clock:
    """The clock of the module under test; it can be put forward."""

    sleep = staticmethod(time.sleep)

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s

    def put_forward(self, line: str) -> None:
        """Let the time limit come when vagrant says that it hangs."""
        if line.endswith("..."):
            self.ahead_s += 1000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(vagrant_command, "time", clock)
    return clock


def test_at_its_limit_it_may_clean_up(program: Program, command: VagrantCommand, clock: Clock) -> None:
    there = program(f"""
        def clean(*_):
            say("==> default: Removing domain" + 100000 * "x")
            note("cleaned")
            sys.exit(1)
        signal.signal(signal.SIGINT, clean)
        say({WAITING!r})
        hang()
    """)
    with pytest.raises(
        VagrantError,
        match=r"boot within boot_limit_s = 300 s \(the guest has got no IP address in time\); set boot_limit_s to more",
    ) as caught:
        command.up("libvirt", limit_s=300, on_line=clock.put_forward)

    assert (there / "cleaned").exists()
    assert caught.value.trouble.name == "no address"
    assert "Removing domain" in text(command.log)
    assert re.search(r"-- exit code 1 after \d+\.\d\d s at its time limit\n$", text(command.log))


@pytest.mark.parametrize("words", ["halt", "destroy", "status"])
def test_other_calls_do_not_blame_the_limit_of_a_boot(
    program: Program, command: VagrantCommand, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("say('==> default: hangs...'); hang()")
    monkeypatch.setitem(vagrant_command._LIMITS_S, words, 0.5)
    with pytest.raises(VagrantError, match=r"vagrant did not end in time .*\(ended after 0 s\)") as caught:
        getattr(command, words)()
    assert "boot_limit_s" not in str(caught.value)


def test_a_deaf_vagrant_is_killed_with_its_children(
    program: Program, command: VagrantCommand, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr(vagrant_command, "_PATIENCE_S", 0.3)
    there = program("""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "1000"])
        note("pids", f"{os.getpid()} {child.pid}")
        say("==> default: hangs...")
        hang()
    """)
    with pytest.raises(VagrantError) as caught:
        command.reload(on_line=clock.put_forward)

    assert (caught.value.trouble.name, caught.value.vagrant_exit_code) == ("time limit", -9)
    for pid in text(there / "pids").split():
        eventually(lambda pid=pid: not alive(int(pid)), "all of its processes are gone")  # type: ignore[misc]


def test_signals_that_we_ignore_reach_it(program: Program, command: VagrantCommand, clock: Clock) -> None:
    program("say('==> default: hangs...'); hang()")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(VagrantError) as caught:
            command.reload(on_line=clock.put_forward)
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught.value.vagrant_exit_code == -signal.SIGINT


def test_what_it_leaves_running_is_not_waited_for(program: Program, command: VagrantCommand) -> None:
    there = program("""
        child = subprocess.Popen(["sleep", "1000"])
        note("pid", child.pid)
        say("started")
    """)
    try:
        command.up("virtualbox", limit_s=60)
    finally:
        os.kill(int(text(there / "pid")), signal.SIGKILL)


def test_interrupt_ends_it_before_it_goes_on(program: Program, command: VagrantCommand) -> None:
    there = program("""
        def clean(*_):
            note("cleaned")
            sys.exit(1)
        signal.signal(signal.SIGINT, clean)
        say("==> default: ready")
        hang()
    """)

    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        command.up("virtualbox", on_line=interrupt)
    assert (there / "cleaned").exists()
    assert "-- exit code 1" in text(command.log)


# Locks


def test_message_about_the_index_lock_is_not_the_last_word(program: Program, command: VagrantCommand) -> None:
    there = program(f"""
        if calls < 3:
            sys.stderr.write({INDEX_LOCK!r})
            sys.exit(1)
        say("1795366930,default,provider-name,libvirt")
        say("1795366930,default,state,running")
    """)
    assert command.status() == "running"
    assert len(calls(there)) == 3


def test_action_lock_that_stays_is_told_with_its_owner(
    program: Program, command: VagrantCommand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import fcntl

    there = program(f"sys.stderr.write({ACTION_LOCK!r}); sys.exit(1)")
    monkeypatch.setenv("VAGRANT_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "data").mkdir(parents=True)
    with (tmp_path / "home" / "data" / "lock.machine-action-abc.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(VagrantError, match=rf"another vagrant is working on this machine \(pid {os.getpid()}: "):
            command.halt()
        heard: list[str] = []
        with pytest.raises(VagrantError):
            command.up("virtualbox", on_line=heard.append, limit_s=60)
    assert len(calls(there)) == 2 * (vagrant_command._RETRIES + 1)
    assert heard[0].startswith(f"waiting: another vagrant is working on this machine (pid {os.getpid()}: ")
    assert heard[0].endswith("; try 1 of 11") and heard[-1].endswith("; try 10 of 11")


def test_other_failures_are_not_tried_again(program: Program, command: VagrantCommand) -> None:
    there = program("sys.exit(1)")
    with pytest.raises(VagrantError):
        command.halt()
    assert len(calls(there)) == 1


def test_calls_for_one_machine_take_turns(program: Program, command: VagrantCommand) -> None:
    there = program("""
        os.mkdir(os.path.join(there, "inside"))
        time.sleep(0.05)
        os.rmdir(os.path.join(there, "inside"))
    """)
    errors = []

    def call() -> None:
        try:
            VagrantCommand(command.folder, {}).snapshot_save("x")
        except VagrantError as error:
            errors.append(error)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len(calls(there)) == 4


_OWNER = """
import sys
from pathlib import Path
from picolab.machines.vagrant.command import VagrantCommand
VagrantCommand(Path(sys.argv[1]), {}).up("virtualbox")
"""


def another_picolab(command: VagrantCommand) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", _OWNER, str(command.folder)], cwd=project_root())


def test_turn_is_not_waited_for_for_ever(
    program: Program, command: VagrantCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = program("note('pid', os.getpid()); hang()")
    owner = another_picolab(command)
    try:
        pid = eventually(lambda: text(there / "pid").strip(), "vagrant runs")
        monkeypatch.setattr(vagrant_command, "_TURN_LIMIT_S", 0.2)
        with pytest.raises(
            VagrantError, match=rf"not over after 0 s \(pid {pid}: vagrant up .*\); wait for it"
        ) as caught:
            command.destroy()
        assert caught.value.trouble is vagrant_messages.BUSY
        heard: list[str] = []
        with pytest.raises(VagrantError):
            command.up("virtualbox", on_line=heard.append)
        assert heard == [
            f"waiting for pid {pid} (vagrant up --provider=virtualbox): it works on this machine; at most 0 s more"
        ]
    finally:
        owner.kill()
        owner.wait()


def test_the_next_call_waits_for_vagrant_of_a_killed_picolab(program: Program, command: VagrantCommand) -> None:
    there = program("""
        def clean(*_):
            time.sleep(0.3)
            note("cleaned")
            sys.exit(1)
        signal.signal(signal.SIGINT, clean)
        if calls == 1:
            note("ready")
            hang()
        note("order", "cleaned" if noted("cleaned") else "too early")
    """)
    owner = another_picolab(command)
    eventually((there / "ready").exists, "vagrant runs")
    owner.kill()
    owner.wait()
    command.destroy()

    assert text(there / "order") == "cleaned\n"


def test_orphan_that_does_not_end_is_ended(
    program: Program, command: VagrantCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vagrant_command, "_ORPHAN_PATIENCE_S", 0.2)
    monkeypatch.setattr(vagrant_command, "_PATIENCE_S", 0.2)
    there = program("""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if calls == 1:
            note("pid", os.getpid())
            hang()
    """)
    owner = another_picolab(command)
    pid = int(eventually(lambda: text(there / "pid").strip(), "vagrant runs"))
    owner.kill()
    owner.wait()
    command.destroy()

    assert not alive(pid)


# The real Vagrant's locks


@pytest.mark.vm
def test_a_lock_of_the_real_vagrant_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As while somebody works on the machine by hand. Nothing is made: there is no machine to destroy."""
    monkeypatch.setenv("VAGRANT_HOME", str(tmp_path / "home"))
    command = VagrantCommand(tmp_path / "m", {"VAGRANT_DEFAULT_PROVIDER": "libvirt", "PICOLAB_PREFIX": "picolab_none_"})
    # Vagrant's name of it: its root, its folder of notes, and the name of the machine in the Vagrantfile.
    names = f"{project_root()}{tmp_path / 'm' / 'vagrant'}default"
    path = tmp_path / "home" / "data" / f"lock.machine-action-{hashlib.md5(names.encode()).hexdigest()}.lock"
    path.parent.mkdir(parents=True)
    waits = []
    with path.open("w") as lock:
        assert try_lock(lock)

        def release(line: str) -> None:
            if line.startswith("waiting"):
                waits.append(line)
                lock.close()

        with command._settings(None, release):
            command._vagrant.destroy()
    (line,) = waits
    assert line.startswith(f"waiting: another vagrant is working on this machine (pid {os.getpid()}: ")
    assert text(command.log).count(" vagrant destroy --force\n") == 2
