"""The Vagrant machine: a virtual machine with limited RAM. Vagrant for its life, one kept ssh connection for the rest.

`obtain` reaches the wanted state by the cheapest way: clean a machine that runs with the right memory, restore a
snapshot, reload with another memory, boot, create. What was done, and what that took, is in the record.
"""

import contextlib
import hashlib
import json
import re
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from picolab.agent import guest, memory_probe
from picolab.errors import HostUnfit, MachineError
from picolab.host.locks import try_lock
from picolab.host.processes import ProcessIdentity, this_process
from picolab.machines.base import Holder, MachineWish, ProcessSpec, ProcessStatus, Stream
from picolab.machines.folders import (
    end_keeper,
    exclusive,
    folder_of,
    keeper_of,
    lock_file,
    machines_dir,
    reap_own_keepers,
    refuse_if_held,
    spec_of,
    start_keeper,
    state_mark,
    write_spec,
)
from picolab.machines.vagrant import boxes, libvirt
from picolab.machines.vagrant.acceleration import acceleration
from picolab.machines.vagrant.command import VagrantCommand
from picolab.machines.vagrant.kind import VagrantKind
from picolab.record.models import MachineRecord, MemoryLimit, VirtualMachineRecord

if TYPE_CHECKING:
    from picolab.machines.vagrant.ssh import Address, Connection, RemoteProgram

VAGRANT_LOG = "vagrant.log"
GUEST_HOME = "/var/lib/picolab"
_USER = "vagrant"
_PYTHON = "/usr/bin/python3"
_ASK_LIMIT_S = 300.0
"""A guest that is out of memory may take very long to answer, and that is what is to be measured."""
_LOG_TAIL_BYTES = 1 << 16
_CLOCK_READINGS = 12
_SYNC_LIMIT_S = 30.0
_PROBE_START_LIMIT_S = 60.0
_RELAY_LIMIT_S = 10.0
_MIB = 1 << 20
# What a guest may have less than after its boot and still count as clean: its own journal and timers move a little.
_MEMORY_TOLERANCE = 0.06
_DISK_TOLERANCE_BYTES = 32 * _MIB


def check_host(provider: str) -> None:
    """Do nothing if this host has what virtual machines need.

    Raises:
        HostUnfit: it has not; the message names what is missing.
    """
    if shutil.which("vagrant") is None:
        raise HostUnfit("machine: vagrant needs the program vagrant, which is not there; see: picolab doctor")
    if provider == "libvirt":
        problem = "the program virsh is not there" if shutil.which("virsh") is None else libvirt.problem()
        if problem:
            raise HostUnfit(f"machine: vagrant with provider libvirt: {problem}; see: picolab doctor")
    elif shutil.which("VBoxManage") is None:
        raise HostUnfit(
            "provider: virtualbox needs the program VBoxManage, which is not there; install VirtualBox, or set "
            "provider to libvirt"
        )


def free_disk_bytes(provider: str) -> int | None:
    """Return what the disks of virtual machines may still take on this host; None when that is not known yet."""
    return libvirt.pool_free_bytes() if provider == "libvirt" else None


def domain_prefix(name: str) -> str:
    """Return with what the names of a machine's domain and volumes begin: nobody else's begin so."""
    return f"picolab_{state_mark(machines_dir())}_{name}_"


def server_of(folder: Path) -> str:
    """Return where a machine's server was started, without asking the guest."""
    spec = spec_of(folder) or {}
    return str(spec.get("server") or "none")


def way_in(folder: Path) -> str:
    """Return the commands with which a person gets into a machine and looks at its server."""
    return f"ssh -F {shlex.quote(str(folder / 'ssh_config'))} guest   (and there: screen -r picoshare)"


def release(folder: Path) -> None:
    """Take a machine down, whoever holds it: virtual machine, volumes, state. May be called twice.

    Raises:
        MachineError: something of it could not be removed.
    """
    with exclusive(folder.name):
        _take_down(folder)
    reap_own_keepers()


def _take_down(folder: Path) -> None:
    spec = spec_of(folder)
    keeper = keeper_of(folder)
    if keeper is not None and keeper != this_process():
        end_keeper(folder)
    if spec is not None:
        # From here on nobody can attach to it.
        write_spec(folder, {**spec, "state": "going"})
        _destroy(folder, spec)
    shutil.rmtree(folder, ignore_errors=True)


def release_if_nobody_holds(folder: Path) -> bool:
    """Take a machine down if this process is its keeper and nobody holds it; tell whether the keeper may end.

    For the keeper: between its looking and its having the lock somebody may have taken the machine over.
    """
    with exclusive(folder.name):
        spec = spec_of(folder)
        if spec is None or keeper_of(folder) != this_process():
            return True
        if ProcessIdentity.from_json(spec["holder"]).alive:
            return False
        _take_down(folder)
        return True


def sweep_lost() -> list[str]:
    """Remove virtual machines of this state folder whose own folder was deleted, and return their domains."""
    return [domain for domain in lost_domains() if remove_lost(domain)]


_DISK = r"(?:_\d+)?\.img"
"""How the name of a disk ends behind that of its domain."""


def lost_domains() -> list[str]:
    """Return the domains of virtual machines of this state folder whose own folder was deleted."""
    if shutil.which("virsh") is None:
        return []
    return [domain for domain in libvirt.all_domains() if _is_lost(domain, "")]


def lost_volumes() -> list[str]:
    """Return the disks of virtual machines of this state folder that have neither a folder nor a domain."""
    if shutil.which("virsh") is None:
        return []
    domains = libvirt.all_domains()
    lost = [name for name in libvirt.volumes() if _is_lost(name, _DISK)]
    return [name for name in lost if re.sub(rf"{_DISK}$", "", name) not in domains]


def remove_lost(domain: str) -> bool:
    """Remove a lost domain with its disks, unless its machine has been made anew; tell whether that was done."""
    return _while_lost(domain, "", libvirt.remove_domain)


def remove_lost_volume(name: str) -> bool:
    """Remove a lost disk, unless its machine has been made anew; tell whether that was done."""
    return _while_lost(name, _DISK, libvirt.remove_volume)


def _machine_of(name: str, end: str) -> str | None:
    """Return the machine of this state folder that a domain or a volume is of, by its name; None for any other."""
    named = re.fullmatch(rf"picolab_{state_mark(machines_dir())}_(.+)_default{end}", name)
    return named[1] if named and Path(named[1]).name == named[1] and named[1] not in (".", "..") else None


def _is_lost(name: str, end: str) -> bool:
    machine = _machine_of(name, end)
    return machine is not None and not folder_of(machine).exists()


def _while_lost(name: str, end: str, remove: Callable[[str], None]) -> bool:
    machine = _machine_of(name, end)
    if machine is None:
        return False
    machines_dir().mkdir(mode=0o700, parents=True, exist_ok=True)
    with lock_file(machine).open("w") as lock:
        if not try_lock(lock) or folder_of(machine).exists():
            return False
        remove(name)
        lock_file(machine).unlink(missing_ok=True)
        return True


def _destroy(folder: Path, spec: dict[str, Any]) -> None:
    try:
        _command(folder, spec).destroy()
    except MachineError:
        # Whatever Vagrant has against it: what has our own prefix is ours.
        if spec["provider"] != "libvirt":
            raise
    if spec["provider"] == "libvirt":
        for domain in libvirt.domains(spec["prefix"]):
            libvirt.remove_domain(domain)
        left = libvirt.leftovers(spec["prefix"])
        for volume in left:
            libvirt.remove_volume(volume)


def is_abandoned(folder: Path) -> bool:
    """Return True when neither a keeper nor a living holder looks after a machine."""
    spec = spec_of(folder)
    if spec is None or keeper_of(folder) is not None:
        return False
    with contextlib.suppress(KeyError, TypeError, ValueError):
        return not ProcessIdentity.from_json(spec["holder"]).alive
    return False


def sweep_folder(folder: Path) -> bool:
    """Remove an abandoned machine; return whether there was one to remove."""
    with lock_file(folder.name).open("w") as lock:
        if not try_lock(lock):
            # Somebody is making it or taking it down at this moment.
            return False
        if not is_abandoned(folder):
            return False
        _take_down(folder)
        return True


def _instruments() -> list[Path]:
    """Return the scripts that run in the guest."""
    return [Path(str(module.__file__)) for module in (guest, memory_probe)]


def _instruments_mark() -> str:
    """Return what tells these scripts from those of another version of picolab."""
    return hashlib.sha256(b"".join(script.read_bytes() for script in _instruments())).hexdigest()[:16]


def _command(folder: Path, spec: dict[str, Any]) -> VagrantCommand:
    environment = {
        "PICOLAB_BOX": spec["box"],
        "PICOLAB_RAM_MB": str(spec["ram_mb"]),
        "PICOLAB_CPUS": str(spec["cpus"]),
        "PICOLAB_PREFIX": spec["prefix"],
        "PICOLAB_DRIVER": "kvm" if spec["acceleration"] == "kvm" else "qemu",
        "VAGRANT_DEFAULT_PROVIDER": spec["provider"],
    }
    return VagrantCommand(folder, environment)


class VagrantMachine:
    """A virtual machine. Make one with `obtain`."""

    kind = VagrantKind.name
    listen_address = "0.0.0.0"
    python = _PYTHON

    def __init__(self, folder: Path, reused: bool) -> None:
        spec = spec_of(folder)
        if spec is None:
            raise MachineError(f"the machine {folder.name!r} does not exist (any more)")
        self.folder = folder
        self.reused = reused
        self.name: str = spec["name"]
        self._spec = spec
        self._connection: Connection | None = None
        self._agent: RemoteProgram | None = None
        self._clock: _Clock | None = None

    @classmethod
    def attach(cls, folder: Path) -> "VagrantMachine | None":
        """Return the machine if it is up and has a keeper, without taking hold of it or connecting to it."""
        spec = spec_of(folder)
        if spec is None or spec["state"] != "up" or keeper_of(folder) is None:
            return None
        return cls(folder, reused=True)

    @classmethod
    def obtain(cls, wish: MachineWish, holder: Holder) -> "VagrantMachine":
        """Return the wanted machine: the one of that name brought into the wanted state, else a new one.

        Raises:
            MachineBusy: somebody who is alive holds it.
            HostUnfit: this host has not what virtual machines need.
            MachineError: it could not be made or reached; what there is of it stays for a look, or the next try.
        """
        check_host(wish.provider)
        folder = folder_of(wish.name)
        with exclusive(wish.name):
            old = spec_of(folder)
            if old is not None:
                refuse_if_held(old)
            accelerated = acceleration()
            wanted = {
                "kind": VagrantKind.name,
                "name": wish.name,
                "box": wish.box or boxes.default_box(wish.provider),
                "provider": wish.provider,
                "prefix": domain_prefix(wish.name),
                "acceleration": accelerated.kind if wish.provider == "libvirt" else "unknown",
                "instruments": _instruments_mark(),
            }
            why_accelerated = (
                accelerated.reason if wish.provider == "libvirt" else "VirtualBox does not say how it runs a machine"
            )
            if old is not None and any(old.get(name) != value for name, value in wanted.items()):
                _take_down(folder)
                old = None
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            memory_now = {"ram_mb": wish.ram_mb, "cpus": wish.cpus}
            spec = {"state": "new", **memory_now, **(old or {}), **wanted, "acceleration_reason": why_accelerated}
            write_spec(folder, {**spec, "holder": holder.process.to_json(), "keep": holder.keep})
            if keeper_of(folder) is None:
                said = start_keeper(folder, [sys.executable, "-m", "picolab.machines.vagrant.keeper", str(folder)])
                if said != "ready":
                    raise MachineError(f"the machine {wish.name!r} has no keeper: {said or 'it ended'}")
            machine = cls(folder, reused=spec["state"] == "up")
            begins_at = log.stat().st_size if (log := folder / VAGRANT_LOG).exists() else 0
            try:
                machine._reach(wish)
            finally:
                if wish.log is not None and log.exists():
                    wish.log.parent.mkdir(parents=True, exist_ok=True)
                    wish.log.write_bytes(log.read_bytes()[begins_at:])
            return machine

    # Reaching the wanted state

    def _reach(self, wish: MachineWish) -> None:
        begun = time.monotonic()
        old_state = self._spec["state"]
        as_it_was = (self._spec["ram_mb"], self._spec["cpus"])
        wanted = (wish.ram_mb, wish.cpus)
        self._spec["mended"] = []
        domain = self._domain_state()
        if domain != "not_created" and old_state != "up":
            # Nobody knows how far the one who made it came.
            _destroy(self.folder, self._spec)
            self._spec["mended"].append("a virtual machine of this name was there in an unknown state, and was removed")
            domain = "not_created"
        self._write_spec(state="making", ram_mb=wish.ram_mb, cpus=wish.cpus, server=None, forwards={})
        command = _command(self.folder, self._spec)
        reached_by = self._bring_up(command, wish, domain, as_it_was=as_it_was == wanted)
        if reached_by != "reset":
            self._after_boot(command, wish, reached_by)
        if reached_by != "created" and (dirt := self._dirt()):
            # What lies on the disk would still lie there after a reboot.
            self._note_mended(f"{dirt}, so it was destroyed and made anew")
            self._recreate(command, wish)
            reached_by = "created"
        self._check_memory()
        self.reused = reached_by != "created"
        self._write_spec(
            state="up", fresh_for=wish.fresh_for, reached_by=reached_by, reached_s=time.monotonic() - begun
        )

    def _bring_up(self, command: VagrantCommand, wish: MachineWish, domain: str, *, as_it_was: bool) -> str:
        """Have the machine run with the wanted memory, by the cheapest way; return which that was.

        Args:
            as_it_was: whether it had the wanted memory and processors before.
        """
        snapshots: list[str] = self._spec.get("snapshots", [])
        if domain not in ("not_created", "running", "shutoff", "poweroff") and self._spec["provider"] == "libvirt":
            self._note_mended(f"the virtual machine was {domain}, and its power was cut")
            for name in libvirt.domains(self._spec["prefix"]):
                libvirt.power_off(name)
        if domain == "not_created" or (wish.fresh_for and domain != "running"):
            if domain != "not_created":
                _destroy(self.folder, self._spec)
            self._create(command, wish)
            return "created"
        if domain != "running":
            command.up(self._spec["provider"], limit_s=wish.boot_limit_s, on_line=wish.report)
            return "booted"
        fresh = self._spec.get("fresh_for") == wish.fresh_for
        if as_it_was and fresh and self._cleaned():
            return "reset"
        if wish.fresh_for and self._snapshot_name() in snapshots:
            command.snapshot_restore(self._snapshot_name(), limit_s=wish.boot_limit_s)
            return "restored"
        if wish.fresh_for and not snapshots:
            # Nothing that is known to be fresh can be gone back to.
            _destroy(self.folder, self._spec)
            self._create(command, wish)
            return "created"
        if wish.fresh_for:
            # A fresh disk first: a reload changes the memory alone.
            command.snapshot_restore(snapshots[0], limit_s=wish.boot_limit_s)
            self._write_spec(builds_bytes=0)
        else:
            # The power is cut rather than turned off in an orderly way, which a guest without memory cannot do.
            with contextlib.suppress(MachineError):
                self._connected(_SYNC_LIMIT_S).run("sync", _SYNC_LIMIT_S)
        command.reload(limit_s=wish.boot_limit_s, on_line=wish.report)
        return "reloaded"

    def _recreate(self, command: VagrantCommand, wish: MachineWish) -> None:
        self._drop_connection()
        _destroy(self.folder, self._spec)
        self._create(command, wish)
        self._after_boot(command, wish, "created")

    def _note_mended(self, sentence: str) -> None:
        self._write_spec(mended=[*self._spec["mended"], sentence])

    def _dirt(self) -> str:
        """Return a sentence when the disk holds more than a new machine's and the builds; else an empty text."""
        expected = self._spec["created_disk_bytes"] - self._spec["builds_bytes"]
        lost = expected - self._spec["facts"]["free_disk_bytes"]
        if lost <= _DISK_TOLERANCE_BYTES:
            return ""
        return f"the guest's disk held {lost / _MIB:.0f} MiB that no build explains"

    def _check_memory(self) -> None:
        """Raise MachineError if the machine has another memory than the wanted one, whatever Vagrant says."""
        if self._spec["provider"] != "libvirt":
            return
        for name in libvirt.domains(self._spec["prefix"]):
            found = libvirt.domain_memory(name)
            if found != self._spec["ram_mb"] * _MIB:
                raise MachineError(
                    f"the machine {self.name!r} has {found / _MIB:.0f} MiB of memory and not {self._spec['ram_mb']}; "
                    f"take it away with: picolab machines remove {self.name}"
                )

    def _domain_state(self) -> str:
        """Return `running`, `not_created` or another word for a machine that exists and does not run."""
        if self._spec["provider"] != "libvirt":
            return _command(self.folder, self._spec).status()
        return next(iter(libvirt.domains(self._spec["prefix"]).values()), "not_created")

    def _create(self, command: VagrantCommand, wish: MachineWish) -> None:
        found = boxes.installed_box(self._spec["box"], self._spec["provider"])
        self._write_spec(snapshots=[], builds_bytes=0, box_version=(found.recipe or found.version) if found else None)
        (self.folder / "known_hosts").unlink(missing_ok=True)
        if self._spec["provider"] != "libvirt":
            command.up("virtualbox", limit_s=wish.boot_limit_s, on_line=wish.report)
            return
        image = boxes.box_image(self._spec["box"])
        with libvirt.first_up_lock(self._spec["box"]):
            mended = libvirt.mend(self._spec["prefix"], self._spec["box"], image, self.folder / "vagrant")
            self._write_spec(mended=[*self._spec["mended"], *mended])
            command.up("libvirt", limit_s=wish.boot_limit_s, on_line=wish.report)

    def _after_boot(self, command: VagrantCommand, wish: MachineWish, reached_by: str) -> None:
        """Connect, bring the instruments into the guest, and note how it is before anything was done in it."""
        # Slow to import, and a local machine has no use for it.
        from picolab.machines.vagrant import ssh

        restored = reached_by == "restored"
        self._drop_connection()
        if not restored:
            found = command.ssh_config()
            address = {
                "host": str(found["HostName"]),
                "port": int(found["Port"]),
                "user": str(found["User"]),
                "key": str(found["IdentityFile"]).strip('"'),
            }
            self._write_spec(address=address)
            if not (self.folder / "known_hosts").exists():
                ssh.pin_host_key(self._address, wish.boot_limit_s)
            ssh.write_ssh_config(self.folder / "ssh_config", self._address)
        connection = self._connected(wish.boot_limit_s)
        if not restored:
            self._install_instruments(connection)
            if wish.fresh_for:
                # Without an open connection: the restored guest would wait for its other end for ever.
                self._drop_connection()
                command.snapshot_save(self._snapshot_name())
                self._write_spec(snapshots=[*self._spec.get("snapshots", []), self._snapshot_name()])
                self._connected(wish.boot_limit_s)
        else:
            self._write_spec(builds_bytes=0)
            self._ask({"do": "set_clock", "wall_s": time.time()})
        facts = self._ask({"do": "reset"})
        self._write_spec(facts=facts, baseline=facts)
        if reached_by == "created":
            self._write_spec(created_disk_bytes=facts["free_disk_bytes"])

    def _snapshot_name(self) -> str:
        return f"fresh-{self._spec['ram_mb']}mb-{self._spec['cpus']}cpu"

    def _install_instruments(self, connection: "Connection") -> None:
        made = connection.run(f"sudo -n install -d -m 0755 -o {_USER} {GUEST_HOME} {GUEST_HOME}/builds")
        if made.exit_code != 0:
            raise MachineError(
                f"machine {self.name!r}: {GUEST_HOME} could not be made in the guest ({made.stderr.strip()}); a box "
                f"needs the user {_USER} with sudo without a password"
            )
        mark = f"instruments-{self._spec['instruments']}"
        if connection.run(f"test -e {GUEST_HOME}/{mark}").exit_code == 0:
            return
        for script in _instruments():
            connection.put(script, f"{GUEST_HOME}/{script.name}", 0o755)
        # Compiled once, they take less memory and time to start, of which a small guest has little.
        compiled = connection.run(f"{_PYTHON} -I -m compileall -q -b {GUEST_HOME} && sync && touch {GUEST_HOME}/{mark}")
        if compiled.exit_code != 0:
            raise MachineError(
                f"machine {self.name!r}: {_PYTHON} does not work in the guest ({compiled.stderr.strip()}); use a box "
                f"with Python 3.9 or newer, such as the one that `picolab box build` makes"
            )

    def _cleaned(self) -> bool:
        """Clean the running guest, and tell whether memory, swap and disk are back at what they were after its boot."""
        try:
            self._connected()
            facts = self._ask({"do": "reset"})
        except MachineError as error:
            self._note_mended(f"the guest did not answer and was put back ({error})")
            return False
        before = self._spec["baseline"]
        lost = {
            "memory": before["mem_available_bytes"] - facts["mem_available_bytes"],
            "swap": before["swap_free_bytes"] - facts["swap_free_bytes"],
        }
        allowed = {"memory": _MEMORY_TOLERANCE * before["ram_bytes"], "swap": 0}
        short = [f"{lost[what] / _MIB:.0f} MiB of {what}" for what in lost if lost[what] > allowed[what]]
        if short:
            self._note_mended(f"after cleaning up the guest still lacked {', '.join(short)}, so it was put back")
            return False
        self._write_spec(facts=facts)
        return True

    # The connection

    @property
    def _address(self) -> "Address":
        from picolab.machines.vagrant.ssh import Address

        found = self._spec["address"]
        return Address(
            host=found["host"],
            port=found["port"],
            user=found["user"],
            key=Path(found["key"]),
            known_hosts=(self.folder / "known_hosts").resolve(),
            alias=f"picolab-{self.name}",
        )

    def _connected(self, limit_s: float = 60.0) -> "Connection":
        """Return the open connection with an agent at its other end, connecting anew if there is none."""
        if self._connection is not None and self._connection.is_open:
            return self._connection
        self._drop_connection()
        if "address" not in self._spec:
            raise MachineError(f"the machine {self.name!r} has not been reached yet; run the provision cell")
        from picolab.machines.vagrant.ssh import Connection

        self._connection = Connection.open(self._address, self.name, limit_s)
        for guest_port, host_port in self._spec.get("forwards", {}).items():
            # The same ports for every kernel, so that addresses that were handed out stay good.
            self._connection.forward(int(guest_port), host_port)
        return self._connection

    def _drop_connection(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._agent = self._clock = None

    def _ask(self, request: dict[str, Any], limit_s: float = _ASK_LIMIT_S) -> dict[str, Any]:
        """Have the agent in the guest do something.

        Raises:
            MachineError: the guest cannot be reached, or says what went wrong.
        """
        connection = self._connected()
        if self._agent is None:
            self._agent = connection.start(
                f"sudo -n {_PYTHON} -I -S {GUEST_HOME}/guest.pyc --home {GUEST_HOME} --user {_USER}"
            )
        try:
            answer = self._agent.ask(request, limit_s, self._is_up)
        except (MachineError, KeyboardInterrupt):
            # A late answer would be taken for the answer to the next request.
            self._drop_connection()
            raise
        if not answer.pop("ok"):
            raise MachineError(f"machine {self.name!r}: {answer['error']}")
        return answer

    def _is_up(self) -> bool:
        """Tell whether the virtual machine runs: no answer of a guest is worth waiting for when it does not."""
        return self.folder.is_dir() and self._domain_state() == "running"

    def _to_host(self, guest_s: float | None) -> float | None:
        """Return a time of the guest's monotonic clock on the host's."""
        if guest_s is None:
            return None
        if self._clock is None:
            self._clock = self._read_clock()
        return guest_s - self._clock.ahead_s

    def _read_clock(self) -> "_Clock":
        """Map the guest's clock to the host's: the reading with the shortest round trip tells most."""
        best = None
        for _ in range(_CLOCK_READINGS):
            before = time.monotonic()
            guest_s = float(self._ask({"do": "clock"})["monotonic_s"])
            after = time.monotonic()
            if best is None or after - before < 2 * best.uncertainty_s:
                best = _Clock(guest_s - (before + after) / 2, (after - before) / 2)
        assert best is not None
        return best

    # The protocol

    @property
    def kept(self) -> bool:
        return bool(self._spec["keep"])

    @property
    def way_in(self) -> str | None:
        return way_in(self.folder)

    def describe(self) -> MachineRecord:
        facts, spec = self._spec["facts"], self._spec
        self._to_host(0.0)
        assert self._clock is not None
        return MachineRecord(
            kind=VagrantKind.name,
            name=self.name,
            reused=self.reused,
            memory_limit=MemoryLimit(
                method="virtual_machine",
                limit_bytes=facts["ram_bytes"],
                swap="off" if facts["swap_total_bytes"] == 0 else "unlimited",
            ),
            virtual_machine=VirtualMachineRecord(
                provider=spec["provider"],
                software=self._software(),
                box=spec["box"],
                box_version=spec.get("box_version"),
                acceleration=spec["acceleration"],
                acceleration_reason=spec["acceleration_reason"],
                cpus=facts["cpu_count"],
                nominal_ram_bytes=spec["ram_mb"] * _MIB,
                usable_ram_bytes=facts["ram_bytes"],
                available_ram_bytes=facts["mem_available_bytes"],
                kernel=facts["kernel"],
                operating_system=facts["operating_system"],
                launcher=spec.get("launcher"),
                route="ssh_forward" if self._is_forwarded else "direct",
                reached_by=spec["reached_by"],
                reached_s=spec["reached_s"],
                mended=spec["mended"],
                clock_uncertainty_s=self._clock.uncertainty_s,
            ),
            network=None,
            data_folder_file_system=facts["file_system"],
            data_folder_disk=facts["disk_device"],
            free_disk_bytes=facts["free_disk_bytes"],
        )

    def _software(self) -> dict[str, str]:
        versions = _command(self.folder, self._spec).versions()
        return {**versions, **(libvirt.versions() if self._spec["provider"] == "libvirt" else {})}

    def own_processes(self) -> frozenset[int]:
        found = _emulators(self._spec["prefix"])
        if not found:
            raise MachineError(
                "the process that runs the virtual machine was not found, so its CPU time cannot be told from others'"
            )
        return found

    @property
    def work_folder(self) -> Path | None:
        return None

    def install(self, executable: Path) -> str:
        with executable.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        place = f"{GUEST_HOME}/builds/{sha256}"
        remote = f"{place}/{executable.name}"
        connection = self._connected()
        if connection.run(f"test -x {shlex.quote(remote)}").exit_code != 0:
            connection.run(f"mkdir -p {place}")
            connection.put(executable, remote, 0o755)
            # A power cut must not leave half a build under its name.
            connection.run("sync")
            self._write_spec(builds_bytes=self._spec["builds_bytes"] + executable.stat().st_size)
        return remote

    def fresh_folders(self) -> tuple[str, str]:
        answer = self._ask({"do": "fresh_folders"})
        return answer["data"], answer["tmp"]

    def free_port(self) -> int:
        return int(self._ask({"do": "free_port"})["port"])

    def listener(self, port: int) -> Literal["nobody", "server", "other"]:
        answer: Literal["nobody", "server", "other"] = self._ask({"do": "listener", "port": port})["listener"]
        return answer

    @property
    def _is_forwarded(self) -> bool:
        """True when the guest has no address of its own that this host can reach."""
        return bool(self._spec["address"]["host"] in ("127.0.0.1", "localhost", "::1"))

    def endpoint(self, port: int) -> tuple[str, int]:
        if not self._is_forwarded:
            host = self._spec["address"]["host"]
            self._write_spec(server=f"http://{host}:{port}")
            return host, port
        connection = self._connected()
        forwards: dict[str, int] = self._spec.get("forwards", {})
        if str(port) not in forwards:
            forwards = {**forwards, str(port): connection.forward(port)}
        self._write_spec(forwards=forwards, server=f"http://127.0.0.1:{forwards[str(port)]}")
        return "127.0.0.1", forwards[str(port)]

    def exposed_addresses(self, port: int) -> list[str]:
        return []

    def start_process(self, spec: ProcessSpec) -> ProcessStatus:
        # The file may hold what an earlier server has printed.
        begins_at = spec.log.stat().st_size if spec.log.exists() else 0
        self._write_spec(log=str(spec.log.resolve()), log_begins_at=begins_at)
        answer = self._ask({"do": "launch", "argv": list(spec.argv), "env": dict(spec.env), "launcher": None})
        self._write_spec(launcher=answer["launcher"])
        return self._status(answer)

    def process_status(self) -> ProcessStatus:
        return self._status(self._ask({"do": "status"}))

    def _status(self, answer: dict[str, Any]) -> ProcessStatus:
        values = {name: answer[name] for name in ProcessStatus.__dataclass_fields__}
        for name in ("started_monotonic_s", "ended_monotonic_s"):
            values[name] = self._to_host(values[name])
        return ProcessStatus(**values)

    def process_anon_bytes(self) -> int | None:
        answer: int | None = self._ask({"do": "anon_bytes"})["anon_bytes"]
        return answer

    def process_log(self) -> str:
        return str(self._ask({"do": "log", "bytes": _LOG_TAIL_BYTES})["text"])

    def save_log(self) -> None:
        if "log" not in self._spec:
            return
        log = Path(self._spec["log"])
        fetched = self.folder / "server.log"
        if self._connection is None or not self._connection.is_open:
            return
        with contextlib.suppress(MachineError):
            self._connection.get(f"{GUEST_HOME}/server.log", fetched)
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as file:
                file.truncate(self._spec["log_begins_at"])
                file.write(fetched.read_bytes())
            fetched.unlink()

    def stop_process(self, grace_s: float) -> ProcessStatus:
        status = self._status(self._ask({"do": "stop", "grace_s": grace_s}, _ASK_LIMIT_S + grace_s))
        self.save_log()
        return status

    def drop_page_cache(self) -> str | None:
        reason: str | None = self._ask({"do": "drop_page_cache"})["reason"]
        return reason

    def lift_memory_limit(self) -> str | None:
        return "the limit is the RAM of the virtual machine"

    def restore_memory_limit(self) -> str | None:
        return None

    def sync_data(self) -> float:
        return float(self._ask({"do": "sync_data"})["sync_s"])

    def probe(self, interval_s: float, output: Path) -> Stream:
        pid = self.process_status().pid
        clock = self._clock = self._read_clock()
        disk = self._spec["facts"]["disk_device"]
        command = (
            f"sudo -n {_PYTHON} -I -S {GUEST_HOME}/memory.pyc --pid {pid} --interval {interval_s} --whole-machine"
            + (f" --disk {disk}" if disk else "")
        )
        stream = _GuestStream(self._connected().start(command), output, clock, self._read_clock, self._is_up)
        # What happens next shall be sampled from its beginning. A probe that cannot start is noticed by its reader.
        stream.await_first(_PROBE_START_LIMIT_S)
        return stream

    def hold(self, holder: Holder) -> None:
        if keeper_of(self.folder) is None:
            raise MachineError(f"the machine {self.name!r} has lost its keeper; run the notebook from its first cell")
        self._write_spec(holder=holder.process.to_json(), keep=holder.keep)

    def _write_spec(self, **changes: Any) -> None:
        self._spec.update(changes)
        try:
            write_spec(self.folder, self._spec)
        except FileNotFoundError:
            raise MachineError(f"the machine {self.name!r} was taken away while it was in use") from None

    def hand_back(self) -> None:
        self._drop_connection()

    def release(self) -> None:
        self._drop_connection()
        release(self.folder)


def _emulators(prefix: str) -> frozenset[int]:
    """Return the QEMU processes of libvirt's domains whose names begin with `prefix`."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "comm").read_bytes().startswith(b"qemu"):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                if any(word.startswith(f"guest={prefix}".encode()) for word in words):
                    found.add(int(folder.name))
    return frozenset(found)


class _Clock:
    """By how much the guest's monotonic clock is ahead of the host's, and how sure that is. Seconds."""

    def __init__(self, ahead_s: float, uncertainty_s: float) -> None:
        self.ahead_s = ahead_s
        self.uncertainty_s = uncertainty_s


class _GuestStream(Stream):
    """The probe in the guest: each sample is put on the host's clock as it arrives."""

    def __init__(
        self,
        program: "RemoteProgram",
        output: Path,
        clock: _Clock,
        read_clock: Callable[[], _Clock],
        is_up: Callable[[], bool],
    ) -> None:
        self._program = program
        self._is_up = is_up
        self._clock = clock
        self._read_clock = read_clock
        self._file = output.open("ab", buffering=0)
        self._first = threading.Event()
        self._relayed = program.relay(self._take)
        self._relayed.add_done_callback(lambda _: self._first.set())

    def _take(self, line: bytes) -> None:
        with contextlib.suppress(ValueError):
            values = json.loads(line)
            if isinstance(values, list):
                values[0] = round(values[0] - self._clock.ahead_s, 6)
                line = json.dumps(values).encode() + b"\n"
                self._first.set()
        self._file.write(line)

    def await_first(self, limit_s: float) -> None:
        self._first.wait(limit_s)

    def finish(self, patience_s: float = _ASK_LIMIT_S) -> int | None:
        exit_code = self._program.finish(patience_s, self._is_up)
        # However the connection ended: the samples that have arrived are on file, and their last line is missing.
        with contextlib.suppress(Exception):
            self._relayed.result(_RELAY_LIMIT_S)
        self._file.close()
        with contextlib.suppress(MachineError):
            self.clock_drift_s = self._read_clock().ahead_s - self._clock.ahead_s
        return exit_code
