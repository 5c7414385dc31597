"""A virtual machine as a person handles it: its state, a way in, powering it off, and Vagrant's own commands."""

import contextlib
import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from picolab.config.project import project_root
from picolab.errors import HostUnfit, MachineError, MachineSilent
from picolab.host.finding import as_root
from picolab.machines.folders import exclusive, machine_folders, refuse_if_held
from picolab.machines.vagrant import boxes, libvirt
from picolab.machines.vagrant.domain import command_of, domain_prefix, software
from picolab.machines.vagrant.guest import Guest
from picolab.machines.vagrant.keeper import ensure_keeper
from picolab.machines.vagrant.reach import boot_again
from picolab.machines.vagrant.removal import is_abandoned
from picolab.machines.vagrant.state import State

SSH_CONFIG = "ssh_config"
_STATES = {"paused": "suspended", "saved": "suspended", "pmsuspended": "asleep", "not_created": "not created"}
_STATES |= dict.fromkeys(("shutoff", "poweroff", "crashed", "aborted"), "off")
_STARTABLE = ("off", "suspended")
_ASK_LIMIT_S = 10.0
_CONNECT_LIMIT_S = 20.0
_HALT_LIMIT_S = 90.0
_BOOT_LIMIT_S = 300.0
_POLL_S = 0.25


def state(folder: Path, limit_s: float = _ASK_LIMIT_S) -> str:
    """Return `running`, `suspended`, `asleep`, `off`, `not created`, or another word of the provider's.

    A guest that is asleep has suspended itself, and `virsh resume` does not wake it.

    Raises:
        MachineError: the provider does not answer within `limit_s` seconds.
    """
    spec = State(folder)
    if spec["provider"] == "libvirt":
        word = next(iter(libvirt.domains(spec["prefix"], limit_s).values()), "not_created")
    else:
        word = command_of(folder, spec).status(limit_s=limit_s)
    return _STATES.get(word, word)


def why_silent(limit_s: float) -> str | None:
    """Return why the daemon gives no answer, one sentence with the remedy; None when it does, or virsh is not there."""
    if shutil.which("virsh") is None:
        return None
    found = libvirt.diagnose(limit_s)
    return None if found is None else f"{found.text}; run: {as_root(found.remedy)}"


def foreign_guests(limit_s: float) -> list[str]:
    """Return the domains that run on this host and belong to no machine of this state folder.

    Raises:
        MachineError: libvirt does not answer within `limit_s` seconds.
    """
    if shutil.which("virsh") is None:
        return []
    own = [libvirt.own_names(domain_prefix(folder.name)) for folder in machine_folders()]
    return [
        name
        for name, state in libvirt.all_domains(limit_s).items()
        if state == "running" and not any(names.fullmatch(name) for names in own)
    ]


def ssh_words(folder: Path) -> list[str]:
    """Return the command that logs in to the guest.

    Raises:
        HostUnfit: the machine does not run, or there is no ssh.
        MachineError: the provider does not answer.
    """
    now = state(folder)
    if now in _STARTABLE:
        raise HostUnfit(
            f"machine {folder.name!r}: it is {now}, so nobody can log in; start it with: picolab machines start "
            f"{folder.name}"
        )
    if now != "running" or not (folder / SSH_CONFIG).exists():
        why = f"is {now}" if now != "running" else "has not been reached over ssh yet"
        raise HostUnfit(
            f"machine {folder.name!r}: it {why}, so nobody can log in; use another machine (picolab machines list), or "
            f"take it down with: picolab machines remove {folder.name}"
        )
    if shutil.which("ssh") is None:
        raise HostUnfit("the program ssh is not there; install it with: apt-get install openssh-client")
    return ["ssh", "-F", str(folder / SSH_CONFIG), "guest"]


def halt(folder: Path, report: Callable[[str], None] | None = None) -> bool:
    """Have the guest shut down, and return when it is off; return False when it did not run.

    Args:
        report: gets a line while another process makes the machine or takes it down.

    Raises:
        MachineBusy: a process that is alive holds the machine.
        MachineError: the guest cannot be reached, or did not shut down in time.
    """
    with exclusive(folder.name, report):
        spec = State(folder)
        refuse_if_held(spec, ancestors_may=False)
        now = state(folder)
        if now in ("off", "not created"):
            return False
        if now != "running":
            resume = f"resume it with: picolab machines start {folder.name}; or " if now == "suspended" else ""
            raise MachineError(
                f"machine {folder.name!r}: it is {now}, and only a running guest can shut down; {resume}take it away "
                f"with: picolab machines remove {folder.name}"
            )
        if spec["provider"] != "libvirt":
            command_of(folder, spec).halt()
        else:
            _shut_down(folder, spec)
        spec.write(server=None, forwards={})
        return True


def start(folder: Path, report: Callable[[str], None] | None = None) -> bool:
    """Boot a machine that is off with the disk it has, or resume a suspended one; return False when it ran.

    It has been reached when this returns, and its clock is right. Nothing in it is cleaned up or made anew, and its
    server is not started. One that was never made to its end and runs is left as it is.

    Args:
        report: as in `halt`; gets the lines of the boot as well.

    Raises:
        MachineBusy: a process that is alive holds the machine.
        MachineError: it was never made to its end, or its time is over; or it did not boot, cannot be resumed, or does
            not answer.
    """
    with exclusive(folder.name, report):
        spec = State(folder)
        refuse_if_held(spec, ancestors_may=False)
        now = state(folder)
        if now == "running" and spec["state"] != "up":
            return False
        if is_abandoned(folder):
            raise MachineError(
                f"machine {folder.name!r}: nobody keeps it any more, and the next picolab command that uses machines "
                f"takes it down; make a new one, or take it down now with: picolab machines remove {folder.name}"
            )
        if now not in (*_STARTABLE, "running") or spec["state"] != "up":
            why = "was never made to its end" if now in _STARTABLE else f"is {now}"
            raise MachineError(
                f"machine {folder.name!r}: it {why}, and only one that is off or suspended can be started; take it "
                f"down with: picolab machines remove {folder.name}"
            )
        if now != "running":
            # The next trial that wants a fresh machine must not take it for one.
            spec.write(fresh_for=None)
            ensure_keeper(folder)
        guest = Guest(spec)
        try:
            if now == "off":
                boot_again(spec, guest, _BOOT_LIMIT_S, report)
                software(spec)
                return True
            if now == "suspended":
                _resume(spec)
            if report is not None:
                report("Waiting for the guest to answer ...")
            _await_answer(spec, guest)
            # It stood still while the guest was suspended, and an earlier start may have been given up before this.
            guest.ask({"do": "set_clock", "wall_s": time.time()})
        finally:
            guest.drop_connection()
        return now == "suspended"


def _resume(spec: State) -> None:
    if spec["provider"] == "libvirt":
        for name in libvirt.domains(spec["prefix"]):
            libvirt.virsh("resume", name)
    else:
        command_of(spec.folder, spec).up(spec["provider"])


def _await_answer(spec: State, guest: Guest) -> None:
    away = f"or take it away with: picolab machines remove {spec['name']}"
    try:
        guest.connected(_BOOT_LIMIT_S)
    except MachineSilent as error:
        raise MachineSilent(
            f"machine {spec['name']!r}: it runs, but has not answered within {_BOOT_LIMIT_S:.0f} s, so that its clock "
            f"is not set ({error}); try again when this host is less busy, {away}"
        ) from None
    except MachineError as error:
        raise MachineError(f"{error}; start it again, {away}") from None


def _shut_down(folder: Path, spec: State) -> None:
    guest = Guest(spec)
    try:
        connection = guest.connected(_CONNECT_LIMIT_S)
        with contextlib.suppress(MachineError):
            # The connection may end before the answer comes.
            connection.run("sudo -n poweroff", _CONNECT_LIMIT_S)
    finally:
        guest.drop_connection()
    deadline = time.monotonic() + _HALT_LIMIT_S
    while state(folder) != "off":
        if time.monotonic() > deadline:
            raise MachineError(
                f"machine {folder.name!r}: the guest did not shut down within {_HALT_LIMIT_S:.0f} s; wait and look "
                f"with: picolab machines list; or take it away with: picolab machines remove {folder.name}"
            )
        time.sleep(_POLL_S)


def by_hand(folder: Path) -> str:
    """Return a line of shell with which Vagrant itself logs in; `vagrant status` works in the same way.

    For a machine that exists Vagrant takes name, box and provider from its own state, not from `PICOLAB_` variables.
    """
    spec = State(folder)
    environment = {
        "VAGRANT_DOTFILE_PATH": str((folder / "vagrant").resolve()),
        "VAGRANT_CWD": str(project_root()),
    }
    if boxes.vagrant_home() != Path.home() / ".vagrant.d":
        environment["VAGRANT_HOME"] = str(boxes.vagrant_home())
    if spec["provider"] != "libvirt":
        environment["VAGRANT_DEFAULT_PROVIDER"] = str(spec["provider"])
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in environment.items()), "vagrant ssh"])
