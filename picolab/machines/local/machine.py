"""The local machine: the server as a process of this host in a memory cgroup, watched by a keeper."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

from picolab.agent import bundle, disk, procfs
from picolab.agent.procfs import descendants
from picolab.agent.refusal import Refusal
from picolab.config.project import state_dir
from picolab.config.sizes import MIB
from picolab.errors import MachineError
from picolab.host.facts import disk_of
from picolab.machines.base import Holder, MachineWish, ProcessSpec, ProcessStatus, Stream
from picolab.machines.folders import (
    exclusive,
    folder_of,
    held,
    keeper_of,
    machines_dir,
    reap_own_keepers,
    refuse_if_held,
    spec_of,
    start_keeper,
    state_mark,
    write_spec,
)
from picolab.machines.local import network
from picolab.machines.local.cgroup import MemoryCgroup, find_method, in_systemd_scope
from picolab.machines.local.kind import LocalKind
from picolab.machines.local.removal import TMP, release, sweep_folder, take_down
from picolab.machines.local.request import ask, network_of
from picolab.machines.local.sockets import is_loopback, listening_sockets
from picolab.record.machine import MachineRecord, MemoryLimit, NetworkRecord

_LOG_TAIL_BYTES = 1 << 16
_PROBE_START_LIMIT_S = 10.0
_RESTORE_LIMIT_S, _HELD_PATIENCE_S = 120.0, 3.0
"""Page cache may first have to be written to a slow disk; what the server holds it may give up at once or never."""
_RESTORE_POLL_S = 0.1


class LocalMachine:
    """A process of this host under a memory limit. Make one with `obtain`."""

    kind = LocalKind.name
    python = sys.executable
    way_in: str | None = None

    def __init__(self, folder: Path, reused: bool) -> None:
        self.folder = folder
        self.reused = reused
        spec = spec_of(folder)
        if spec is None:
            raise MachineError(f"the machine {folder.name!r} does not exist (any more)")
        self.name: str = spec["name"]
        self._spec = spec
        self._work = Path(spec["work"])
        self._own_network = network_of(folder)
        self.listen_address: str = self._own_network["address"]

    @classmethod
    def obtain(cls, wish: MachineWish, holder: Holder) -> "LocalMachine":
        """Return the wanted machine: the one of that name if it fits and nobody else holds it, else a new one.

        Raises:
            MachineBusy: somebody who is alive holds it.
            MemoryLimitUnavailable: this host cannot limit memory.
            MachineError: it could not be made.
        """
        folder = folder_of(wish.name)
        work_parent = Path(wish.work_dir).expanduser().resolve() if wish.work_dir else state_dir() / "work"
        place = f"picolab-{wish.name}-{state_mark(machines_dir())}"
        spec = {
            "kind": LocalKind.name,
            "name": wish.name,
            "place": place,
            "ram_mb": wish.ram_mb,
            "memory_limit": wish.memory_limit,
            "limit_bytes": int(wish.ram_mb * MIB),
            "work": str(work_parent / place),
        }
        with exclusive():
            if folder.is_dir():
                old = spec_of(folder)
                if old is not None and keeper_of(folder) is not None:
                    refuse_if_held(old)
                    if all(old.get(name) == value for name, value in spec.items()):
                        # A keeper whose holder has just gone may be taking its machine down: then a new one is made.
                        with contextlib.suppress(MachineError):
                            machine = cls(folder, reused=True)
                            machine.hold(holder)
                            return machine
                take_down(folder)
                reap_own_keepers()
            method = "none" if wish.memory_limit == "none" else find_method()
            cls._make(folder, {**spec, "method": method, "no_private_network": network.why_not()}, holder)
            return cls(folder, reused=False)

    @classmethod
    def attach(cls, name: str) -> "LocalMachine | None":
        """Return the machine of that name if it exists and its keeper is alive, without taking hold of it."""
        folder = folder_of(name)
        return cls(folder, reused=True) if keeper_of(folder) is not None else None

    @property
    def kept(self) -> bool:
        """True when the machine outlives its holder for a while, so that somebody may re-attach."""
        return bool(self._spec["keep"])

    @staticmethod
    def _make(folder: Path, spec: dict[str, Any], holder: Holder) -> None:
        work = Path(spec["work"])
        if work.exists():
            shutil.rmtree(work)
        folder.mkdir(mode=0o700, parents=True)
        write_spec(folder, {**spec, **held(spec, holder.process, holder.keep)})
        command = [sys.executable, "-m", "picolab.machines.local.keeper", str(folder)]
        if spec["method"] == "cgroup_v2_systemd_user":
            unit = f"picolab-{spec['name']}-{os.urandom(4).hex()}"
            command = in_systemd_scope(command, f"--unit={unit}")
        said = start_keeper(folder, command)
        if said != "ready":
            sweep_folder(folder)
            raise MachineError(f"the machine {spec['name']!r} could not be made: {said or 'its keeper ended'}")

    def describe(self) -> MachineRecord:
        status = ask(self.folder, {"do": "status"})
        where = disk_of(self._work)
        method = self._spec["method"]
        return MachineRecord(
            kind=LocalKind.name,
            name=self.name,
            reused=self.reused,
            memory_limit=MemoryLimit(
                method=method,
                limit_bytes=status["limit_bytes"],
                swap="off" if status["swap_is_off"] else "unlimited",
            ),
            virtual_machine=None,
            network=NetworkRecord(kind=self._network["kind"], reason=self._network["reason"]),
            data_folder_file_system=where.file_system,
            data_folder_disk=where.label,
            free_disk_bytes=where.free_bytes,
        )

    def own_processes(self) -> frozenset[int]:
        keeper = keeper_of(self.folder)
        if keeper is None:
            raise MachineError("the machine's keeper is gone, so the server's CPU time is not known")
        return frozenset({keeper.pid})

    @property
    def work_folder(self) -> Path | None:
        return self._work

    def endpoint(self, port: int) -> tuple[str, int]:
        return self._network["address"], port

    def hand_back(self) -> None:
        """A local machine is made in no time, so that every trial gets one of its own."""
        self.release()

    def save_log(self) -> None:
        """The server writes its log to the host itself."""

    def install(self, executable: Path) -> str:
        return str(executable.resolve())

    def fresh_folders(self) -> tuple[str, str]:
        folders = self._folders
        for folder in folders:
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(mode=0o700, parents=True)
        return str(folders[0]), str(folders[1])

    def free_port(self) -> int:
        # In a network of its own every port is free, but for what is left of this machine's last server.
        with socket.socket() as probe:
            # Any address, as servers usually want it.
            probe.bind(("", 0))
            return int(probe.getsockname()[1])

    @property
    def _network(self) -> dict[str, Any]:
        """The network that the server is in."""
        if self._spec.get("on_loopback") and self._own_network["kind"] == "private":
            reason = "the server listens on loopback alone, where no other host reaches it"
            return {"kind": "host", "reason": reason, "address": "127.0.0.1"}
        return self._own_network

    def listener(self, port: int) -> Literal["nobody", "server", "loopback", "other"]:
        processes = self._processes()
        sockets = listening_sockets(port, self._seen_from(processes))
        if not sockets:
            return "nobody"
        own = {inode for pid in processes for inode in procfs.sockets_of(pid)} & sockets.keys()
        if own and self._network["kind"] == "private" and all(is_loopback(sockets[inode]) for inode in own):
            return "loopback"
        return "server" if own else "other"

    def exposed_addresses(self, port: int) -> list[str]:
        if self._network["kind"] == "private":
            return []
        processes = self._processes()
        sockets = listening_sockets(port, self._seen_from(processes))
        own = {inode for pid in processes for inode in procfs.sockets_of(pid)}
        addresses = {address for inode, address in sockets.items() if inode in own}
        return [
            f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
            for address in sorted(addresses, key=lambda address: (address.version, address))
            if not is_loopback(address)
        ]

    def _seen_from(self, processes: list[int]) -> list[int]:
        """Return processes that are in the server's network, as far as they live."""
        return processes if self._network["kind"] == "private" else [os.getpid()]

    def _processes(self) -> list[int]:
        """Return the pids of the server and of all that it has started; none when it does not run."""
        status = ask(self.folder, {"do": "status"})
        if not status["running"]:
            return []
        if status["cgroup"]:
            # With those that have left the server's family tree.
            members = MemoryCgroup(self._spec["method"], Path(status["cgroup"])).pids
            return [status["pid"], *members - {status["pid"]}]
        return [status["pid"], *descendants(status["pid"])]

    def start_process(self, spec: ProcessSpec) -> ProcessStatus:
        request = {
            "do": "start",
            "argv": list(spec.argv),
            "env": dict(spec.env),
            "cwd": str(self._work),
            "log": str(spec.log.resolve()),
            "on_loopback": spec.on_loopback,
        }
        why_not = self.restore_memory_limit()
        if why_not is not None:
            raise MachineError(f"machine {self.name!r}: {why_not}")
        # The log may hold what an earlier server has printed.
        begins_at = spec.log.stat().st_size if spec.log.exists() else 0
        self._write_spec(log=request["log"], log_begins_at=begins_at, on_loopback=spec.on_loopback)
        return self._status(request)

    def process_anon_bytes(self) -> int | None:
        return procfs.anonymous_bytes(self._processes())

    def process_log(self) -> str:
        try:
            with Path(self._spec["log"]).open("rb") as file:
                file.seek(max(self._spec["log_begins_at"], file.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
                return file.read().decode(errors="replace")
        except (KeyError, OSError):
            return ""

    def process_status(self) -> ProcessStatus:
        return self._status({"do": "status"})

    def stop_process(self, grace_s: float) -> ProcessStatus:
        return self._status({"do": "stop", "grace_s": grace_s})

    def _status(self, request: dict[str, Any]) -> ProcessStatus:
        answer = ask(self.folder, request)
        return ProcessStatus(**{name: answer[name] for name in ProcessStatus.__dataclass_fields__})

    @property
    def _data(self) -> Path:
        return self._work / "data"

    @property
    def _folders(self) -> tuple[Path, Path]:
        return self._data, self._work / TMP

    def drop_page_cache(self) -> str | None:
        return disk.drop_page_cache(str(self._data))

    def lift_memory_limit(self) -> str | None:
        try:
            ask(self.folder, {"do": "lift_limit"})
        except MachineError as error:
            return str(error)
        return None

    def restore_memory_limit(self) -> str | None:
        begun = time.monotonic()
        while not ask(self.folder, {"do": "restore_limit"})["restored"]:
            held = self.process_anon_bytes()
            hopeless = held is not None and held > self._spec["limit_bytes"]
            if time.monotonic() - begun > (_HELD_PATIENCE_S if hopeless else _RESTORE_LIMIT_S):
                how_much = "more" if held is None else f"{held / MIB:.0f} MiB of anonymous memory"
                limit = f"the memory limit of {self._spec['ram_mb']} MiB"
                return f"{limit} could not be put back while the server holds {how_much}"
            time.sleep(_RESTORE_POLL_S)
        return None

    def sync_data(self) -> float:
        where = disk_of(self._data)
        if where.in_memory:
            raise MachineError(
                f"the machine {self.name!r} has its data folder in memory ({where.file_system}): nothing in it is ever "
                f"on a disk; set work_dir to a folder on a disk"
            )
        try:
            return disk.sync_folder(str(self._data))
        except Refusal as refusal:
            raise MachineError(f"machine {self.name!r}: {refusal}") from None

    def files_bytes(self) -> int:
        try:
            return disk.space_of(map(str, self._folders))
        except OSError as error:
            why = f"{error.strerror}: {error.filename}"
            raise MachineError(f"machine {self.name!r}: the server's files could not be counted ({why})") from None

    def probe(self, interval_s: float, output: Path) -> Stream:
        status = ask(self.folder, {"do": "status"})
        device = disk_of(self._work).device
        command = [
            *(sys.executable, *bundle.words("memory_probe")),
            *("--pid", str(status["pid"]), "--interval", str(interval_s)),
            *(("--cgroup", status["cgroup"]) if status["cgroup"] else ()),
            *(("--disk", device) if device else ()),
            *(word for folder in self._folders for word in ("--folder", str(folder))),
        ]
        with output.open("ab") as file:
            before = file.tell()
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file, start_new_session=True)
        # What happens next shall be sampled from its beginning. A probe that cannot start is noticed by its reader.
        deadline = time.monotonic() + _PROBE_START_LIMIT_S
        while not _has_sample(output, before) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        return _LocalStream(process)

    def hold(self, holder: Holder) -> None:
        ask(self.folder, {"do": "hold", "holder": holder.process.to_json(), "keep": holder.keep})
        self._write_spec(**held(self._spec, holder.process, holder.keep))

    def _write_spec(self, **changes: Any) -> None:
        self._spec.update(changes)
        # Nothing to write needs no room on a disk that may be full.
        if spec_of(self.folder) != self._spec:
            write_spec(self.folder, self._spec)

    def release(self) -> None:
        release(self.folder)


def _has_sample(output: Path, before: int) -> bool:
    """Return whether a probe has written its first line, which names the columns, and a sample."""
    with output.open("rb") as file:
        file.seek(before)
        return file.read(1 << 16).count(b"\n") >= 2


class _LocalStream(Stream):
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def finish(self, patience_s: float = 10.0) -> int | None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            return self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
