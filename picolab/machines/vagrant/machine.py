"""The Vagrant machine: a virtual machine with limited RAM. Vagrant for its life, one kept ssh connection for the rest.

`obtain` reaches the wanted state by the cheapest way: clean a machine that runs with the right memory, restore a
snapshot, reload with another memory, boot, create. What was done, and what that took, is in the record.
"""

import contextlib
import hashlib
import shlex
import shutil
from pathlib import Path
from typing import Any, Literal

from picolab.agent import bundle
from picolab.config.sizes import MIB
from picolab.errors import HostUnfit, MachineError
from picolab.machines.base import Holder, MachineWish, ProcessSpec, ProcessStatus, Stream
from picolab.machines.folders import (
    exclusive,
    folder_of,
    held,
    keeper_of,
    refuse_if_held,
    spec_of,
    write_spec,
)
from picolab.machines.vagrant import boxes, libvirt, removal
from picolab.machines.vagrant.acceleration import acceleration
from picolab.machines.vagrant.domain import domain_prefix, emulators, software
from picolab.machines.vagrant.guest import ASK_LIMIT_S, GUEST_HOME, PYTHON, STATUS_LIMIT_S, Guest
from picolab.machines.vagrant.keeper import ensure_keeper
from picolab.machines.vagrant.kind import VagrantKind
from picolab.machines.vagrant.reach import Reach
from picolab.machines.vagrant.state import State
from picolab.record.machine import MachineRecord, MemoryLimit, VirtualMachineRecord

VAGRANT_LOG = "vagrant.log"
_LOG_TAIL_BYTES = 1 << 16


def check_host(provider: str) -> None:
    """Do nothing if this host has what virtual machines need.

    Raises:
        HostUnfit: it has not; the message names what is missing.
    """
    if shutil.which("vagrant") is None:
        raise HostUnfit("machine: vagrant needs the program vagrant, which is not there; see: picolab doctor")
    if provider == "libvirt":
        problem = libvirt.problem()
        if problem is not None:
            raise HostUnfit(f"machine: vagrant with provider libvirt: {problem.text}; run: {problem.remedy}")
    elif shutil.which("VBoxManage") is None:
        raise HostUnfit(
            "provider: virtualbox needs the program VBoxManage, which is not there; install VirtualBox, or set "
            "provider to libvirt"
        )


def free_disk_bytes(provider: str) -> int | None:
    """Return what the disks of virtual machines may still take on this host; None when that is not known yet."""
    return libvirt.pool_free_bytes() if provider == "libvirt" else None


def server_of(folder: Path) -> str:
    """Return where a machine's server was started, without asking the guest."""
    spec = spec_of(folder) or {}
    return str(spec.get("server") or "none")


def way_in(folder: Path) -> str:
    """Return the commands with which a person gets into a machine and looks at its server."""
    return f"ssh -F {shlex.quote(str(folder / 'ssh_config'))} guest   (and there: screen -r server)"


class VagrantMachine:
    """A virtual machine. Make one with `obtain`."""

    kind = VagrantKind.name
    listen_address = "0.0.0.0"
    python = PYTHON

    def __init__(self, folder: Path, reused: bool) -> None:
        self.folder = folder
        self.reused = reused
        self._state = State(folder)
        self._guest = Guest(self._state)
        self.name: str = self._state["name"]

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
        with exclusive(wish.name, wish.report):
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
                "agent": bundle.version(),
            }
            why_accelerated = (
                accelerated.reason if wish.provider == "libvirt" else "VirtualBox does not say how it runs a machine"
            )
            if old is not None and any(old.get(name) != value for name, value in wanted.items()):
                removal.take_down(folder)
                old = None
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            memory_now = {"ram_mb": wish.ram_mb, "cpus": wish.cpus}
            spec = {"state": "new", **memory_now, **(old or {}), **wanted, "acceleration_reason": why_accelerated}
            write_spec(folder, {**spec, **held(spec, holder.process, holder.keep)})
            ensure_keeper(folder)
            machine = cls(folder, reused=False)
            begins_at = log.stat().st_size if (log := folder / VAGRANT_LOG).exists() else 0
            try:
                Reach(machine._state, machine._guest, wish).run()
                machine.reused = machine._state["reached_by"] != "created"
            finally:
                if wish.log is not None and log.exists():
                    wish.log.parent.mkdir(parents=True, exist_ok=True)
                    wish.log.write_bytes(log.read_bytes()[begins_at:])
            return machine

    # The protocol

    @property
    def kept(self) -> bool:
        return bool(self._state["keep"])

    @property
    def way_in(self) -> str | None:
        return way_in(self.folder)

    def describe(self) -> MachineRecord:
        facts, spec = self._state["facts"], self._state
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
                software=software(spec),
                box=spec["box"],
                box_version=spec.get("box_version"),
                acceleration=spec["acceleration"],
                acceleration_reason=spec["acceleration_reason"],
                cpus=facts["cpu_count"],
                nominal_ram_bytes=spec["ram_mb"] * MIB,
                usable_ram_bytes=facts["ram_bytes"],
                available_ram_bytes=facts["mem_available_bytes"],
                kernel=facts["kernel"],
                operating_system=facts["operating_system"],
                launcher=spec.get("launcher"),
                route="ssh_forward" if self._is_forwarded else "direct",
                reached_by=spec["reached_by"],
                reached_s=spec["reached_s"],
                mended=spec["mended"],
                clock_uncertainty_s=self._guest.clock.uncertainty_s,
            ),
            network=None,
            data_folder_file_system=facts["file_system"],
            data_folder_disk=facts["disk_device"],
            free_disk_bytes=facts["free_disk_bytes"],
        )

    def own_processes(self) -> frozenset[int]:
        found = emulators(self._state["prefix"])
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
        if not self._guest.ask({"do": "is_installed", "path": remote})["installed"]:
            connection = self._guest.connected()
            connection.run(f"mkdir -p {place}")
            connection.put(executable, remote, 0o755)
            # A power cut must not leave half a build under its name.
            connection.run("sync")
            self._state.write(builds_bytes=self._state["builds_bytes"] + executable.stat().st_size)
        return remote

    def fresh_folders(self) -> tuple[str, str]:
        answer = self._guest.ask({"do": "fresh_folders"})
        return answer["data"], answer["tmp"]

    def free_port(self) -> int:
        return int(self._guest.ask({"do": "free_port"})["port"])

    def listener(self, port: int) -> Literal["nobody", "server", "other"]:
        answer: Literal["nobody", "server", "other"] = self._guest.ask({"do": "listener", "port": port})["listener"]
        return answer

    @property
    def _is_forwarded(self) -> bool:
        """True when the guest has no address of its own that this host can reach."""
        return bool(self._state["address"]["host"] in ("127.0.0.1", "localhost", "::1"))

    def endpoint(self, port: int) -> tuple[str, int]:
        if not self._is_forwarded:
            host = self._state["address"]["host"]
            self._state.write(server=f"http://{host}:{port}")
            return host, port
        connection = self._guest.connected()
        forwards: dict[str, int] = self._state.get("forwards", {})
        if str(port) not in forwards:
            forwards = {**forwards, str(port): connection.forward(port)}
        self._state.write(forwards=forwards, server=f"http://127.0.0.1:{forwards[str(port)]}")
        return "127.0.0.1", forwards[str(port)]

    def exposed_addresses(self, port: int) -> list[str]:
        return []

    def start_process(self, spec: ProcessSpec) -> ProcessStatus:
        # The file may hold what an earlier server has printed.
        begins_at = spec.log.stat().st_size if spec.log.exists() else 0
        self._state.write(log=str(spec.log.resolve()), log_begins_at=begins_at)
        answer = self._guest.ask({"do": "launch", "argv": list(spec.argv), "env": dict(spec.env), "launcher": None})
        self._state.write(launcher=answer["launcher"])
        return self._status(answer)

    def process_status(self) -> ProcessStatus:
        return self._status(self._guest.ask({"do": "status"}, STATUS_LIMIT_S))

    def _status(self, answer: dict[str, Any]) -> ProcessStatus:
        values = {name: answer[name] for name in ProcessStatus.__dataclass_fields__}
        for name in ("started_monotonic_s", "ended_monotonic_s"):
            values[name] = self._guest.to_host(values[name])
        return ProcessStatus(**values)

    def process_anon_bytes(self) -> int | None:
        answer: int | None = self._guest.ask({"do": "anon_bytes"})["anon_bytes"]
        return answer

    def process_log(self) -> str:
        return str(self._guest.ask({"do": "log", "bytes": _LOG_TAIL_BYTES})["text"])

    def save_log(self) -> None:
        if "log" not in self._state:
            return
        log = Path(self._state["log"])
        if self._guest.open_connection is None:
            return
        with contextlib.suppress(MachineError):
            fetched = self._guest.log()
            if fetched is None:
                return
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as file:
                file.truncate(self._state["log_begins_at"])
                file.write(fetched)

    def stop_process(self, grace_s: float) -> ProcessStatus:
        status = self._status(self._guest.ask({"do": "stop", "grace_s": grace_s}, ASK_LIMIT_S + grace_s))
        self.save_log()
        return status

    def drop_page_cache(self) -> str | None:
        reason: str | None = self._guest.ask({"do": "drop_page_cache"})["reason"]
        return reason

    def lift_memory_limit(self) -> str | None:
        return "the limit is the RAM of the virtual machine"

    def restore_memory_limit(self) -> str | None:
        return None

    def sync_data(self) -> float:
        return float(self._guest.ask({"do": "sync_data"})["sync_s"])

    def files_bytes(self) -> int:
        return int(self._guest.ask({"do": "space"})["files_bytes"])

    def probe(self, interval_s: float, output: Path) -> Stream:
        return self._guest.probe(self.process_status().pid, interval_s, self._state["facts"]["disk_device"], output)

    def hold(self, holder: Holder) -> None:
        if keeper_of(self.folder) is None:
            raise MachineError(f"the machine {self.name!r} has lost its keeper; run the notebook from its first cell")
        self._state.write(**held(self._state, holder.process, holder.keep))

    def hand_back(self) -> None:
        self._guest.drop_connection()

    def release(self) -> None:
        self._guest.drop_connection()
        removal.release(self.folder)
