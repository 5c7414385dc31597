"""One kept ssh connection to a guest, used from ordinary functions.

asyncssh lives on an event loop, and a notebook's own loop is busy with the notebook: so the connection has a loop in
a thread of its own, and every call here waits for it, with a time limit.
"""

import asyncio
import concurrent.futures
import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import asyncssh

from picolab.errors import MachineError, MachineSilent

T = TypeVar("T")


class OtherHostKey(MachineError):
    """Another machine answers at the guest's address."""


CONNECT_LIMIT_S = 30.0
_CALL_LIMIT_S = 60.0
_RETRY_S = 0.1
_SLICE_S = 2.0
_KEEPALIVE_S = 30.0
_KEEPALIVE_COUNT = 10
"""A guest that is out of memory may say nothing for minutes, and that is what is to be measured."""

_loop: asyncio.AbstractEventLoop | None = None
_loop_lock = threading.Lock()


def _shared_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop that all connections of this process share."""
    global _loop
    with _loop_lock:
        if _loop is None:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="picolab-ssh", daemon=True).start()
            _loop = loop
        return _loop


def _never_down() -> str | None:
    return None


def _wait(
    work: Coroutine[Any, Any, T], limit_s: float, what: str, why_down: Callable[[], str | None] = _never_down
) -> T:
    """Run a coroutine on the shared loop and return its result.

    Raises:
        MachineSilent: it took longer than `limit_s` seconds.
        MachineError: it failed, or the guest was found not to be up any more.
    """
    future = asyncio.run_coroutine_threadsafe(work, _shared_loop())
    deadline = time.monotonic() + limit_s
    try:
        # Never told by a TimeoutError: a socket's ETIMEDOUT, which ends the work at once, is one as well.
        while not _is_done(future, min(_SLICE_S, max(0.0, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                raise MachineSilent(f"{what}: no answer within {limit_s:g} s")
            if (why := why_down()) is not None:
                raise MachineError(f"{what}: {why}")
        return future.result()
    except asyncssh.HostKeyNotVerifiable:
        raise OtherHostKey(
            f"{what}: the guest shows another host key than the one that was pinned when it was made, so it is another "
            f"machine; take it away with: picolab machines remove, and run the trial again"
        ) from None
    except (OSError, asyncssh.Error, EOFError, concurrent.futures.CancelledError) as error:
        raise MachineError(f"{what}: {str(error) or type(error).__name__}") from None
    finally:
        # Also when the notebook's cell was interrupted meanwhile.
        future.cancel()


def _is_done(future: "concurrent.futures.Future[T]", limit_s: float) -> bool:
    return bool(concurrent.futures.wait([future], limit_s).done)


@dataclass(frozen=True)
class Address:
    """Where a guest listens for ssh, and as whom to log in.

    Attributes:
        key: file of the private key.
        known_hosts: file with the guest's host key, pinned when the machine was made.
        alias: the guest's name in that file; its address may change with a reboot.
    """

    host: str
    port: int
    user: str
    key: Path
    known_hosts: Path
    alias: str


def pin_host_key(address: Address, limit_s: float) -> None:
    """Store the host key of a guest that was just made; from now on only this key is taken.

    Raises:
        MachineError: there was no answer in time.
    """
    deadline = time.monotonic() + limit_s
    while True:
        left_s = deadline - time.monotonic()
        try:
            key = _wait(
                asyncssh.get_server_host_key(address.host, address.port, server_host_key_algs=["ssh-ed25519"]),
                max(1.0, min(CONNECT_LIMIT_S, left_s)),
                f"ssh to {address.host}:{address.port}",
            )
            break
        except MachineError:
            if left_s <= 0:
                raise
            time.sleep(_RETRY_S)
    if key is None:
        raise MachineError(f"ssh to {address.host}:{address.port}: the guest showed no host key")
    address.known_hosts.write_text(f"{address.alias} {key.export_public_key().decode().strip()}\n")


@dataclass(frozen=True)
class Completed:
    """A command that has ended."""

    exit_code: int | None
    stdout: str
    stderr: str


class Connection:
    """An open connection. Make one with `Connection.open`."""

    def __init__(self, connection: asyncssh.SSHClientConnection, name: str) -> None:
        self._connection = connection
        self.name = name

    @classmethod
    def open(
        cls,
        address: Address,
        name: str,
        limit_s: float = CONNECT_LIMIT_S,
        why_down: Callable[[], str | None] = _never_down,
    ) -> "Connection":
        """Connect, trying again until `limit_s` seconds are over: a guest that boots refuses at first.

        Args:
            name: of the machine, for messages.
            why_down: asked after a failure, and every few seconds; a sentence that is no None ends the attempts.

        Raises:
            MachineSilent: the guest cannot be reached in time.
            OtherHostKey: another machine answers at its address.
            MachineError: it does not run any more.
        """
        what = f"ssh to the machine {name!r}"
        deadline = time.monotonic() + limit_s
        while True:
            left_s = deadline - time.monotonic()
            try:
                return cls(_wait(_connect(address), max(1.0, left_s), what, why_down), name)
            except OtherHostKey:
                raise
            except MachineError as error:
                if left_s <= 0:
                    raise MachineSilent(str(error)) from None
                if (why := why_down()) is not None:
                    raise MachineError(f"{what}: {why}") from None
                time.sleep(_RETRY_S)

    def run(self, command: str, limit_s: float = _CALL_LIMIT_S) -> Completed:
        """Run a command to its end, without a terminal and with nothing to read.

        Raises:
            MachineError: the connection is gone, or the command took longer than `limit_s` seconds.
        """
        done = _wait(
            self._connection.run(command, stdin=asyncssh.DEVNULL, encoding="utf-8", errors="replace"),
            limit_s,
            f"machine {self.name!r}: {command.split()[0]}",
        )
        return Completed(done.returncode, str(done.stdout or ""), str(done.stderr or ""))

    def put(self, local: Path, remote: str, mode: int, limit_s: float = 600.0) -> None:
        """Copy a file into the guest: under another name at first, so that a part is never taken for the whole."""

        async def copy() -> None:
            async with self._connection.start_sftp_client() as sftp:
                await sftp.put(str(local), f"{remote}.new")
                await sftp.chmod(f"{remote}.new", mode)
                await sftp.posix_rename(f"{remote}.new", remote)

        _wait(copy(), limit_s, f"machine {self.name!r}: copying {local.name}")

    def get(self, remote: str, local: Path, limit_s: float = 600.0) -> None:
        """Copy a file out of the guest."""

        async def copy() -> None:
            async with self._connection.start_sftp_client() as sftp:
                await sftp.get(remote, str(local))

        _wait(copy(), limit_s, f"machine {self.name!r}: fetching {remote}")

    def start(self, command: str) -> "RemoteProgram":
        """Start a program whose standard input stays open; it ends when that is closed."""

        async def create() -> "asyncssh.SSHClientProcess[bytes]":
            return await self._connection.create_process(command, encoding=None)

        return RemoteProgram(_wait(create(), _CALL_LIMIT_S, f"machine {self.name!r}: {command}"), self.name)

    def open_socket(self, path: str) -> "RemoteSocket":
        """Connect to a unix socket in the guest.

        Raises:
            MachineError: nobody listens there.
        """
        reader, writer = _wait(
            self._connection.open_unix_connection(path), _CALL_LIMIT_S, f"machine {self.name!r}: {path}"
        )
        return RemoteSocket(reader, writer, self.name)

    def forward(self, guest_port: int, host_port: int = 0) -> int:
        """Forward a port of this host's loopback interface to one of the guest; return the host's port."""

        async def listen() -> asyncssh.SSHListener:
            return await self._connection.forward_local_port("127.0.0.1", host_port, "127.0.0.1", guest_port)

        listener = _wait(listen(), _CALL_LIMIT_S, f"machine {self.name!r}: forwarding port {guest_port}")
        return int(listener.get_port())

    @property
    def is_open(self) -> bool:
        return not self._connection.is_closed()

    def close(self) -> None:
        """Close it and wait, for a moment, until the guest knows. May be called twice."""

        async def end() -> None:
            self._connection.close()
            await self._connection.wait_closed()

        with contextlib.suppress(MachineError):
            _wait(end(), 5.0, "close")


async def _connect(address: Address) -> asyncssh.SSHClientConnection:
    return await asyncssh.connect(
        address.host,
        address.port,
        username=address.user,
        client_keys=[str(address.key)],
        known_hosts=str(address.known_hosts),
        host_key_alias=address.alias,
        # Nothing of the user's own configuration or agent takes part.
        config=None,
        agent_path=None,
        preferred_auth="publickey",
        keepalive_interval=_KEEPALIVE_S,
        keepalive_count_max=_KEEPALIVE_COUNT,
        # The samples travel during the measured upload: no time for compression.
        compression_algs=None,
    )


class RemoteSocket:
    """A connection to a program in a guest that answers a line with a line."""

    def __init__(self, reader: Any, writer: Any, name: str) -> None:
        self._reader = reader
        self._writer = writer
        self._name = name
        self._lock = threading.Lock()

    def ask(self, request: dict[str, Any], limit_s: float, why_down: Callable[[], str | None]) -> dict[str, Any]:
        """Write a line of JSON and return the line of JSON that answers it.

        Args:
            why_down: asked every few seconds why waiting makes no sense any more; None: it does.

        Raises:
            MachineError: the program is gone, did not answer in time, or answered something that is no JSON.
        """

        async def exchange() -> bytes:
            self._writer.write(json.dumps(request).encode() + b"\n")
            line: bytes = await self._reader.readline()
            return line

        what = f"machine {self._name!r}: {request.get('do')}"
        with self._lock:
            line = _wait(exchange(), limit_s, what, why_down)
        if not line:
            words = self._last_words(what) or "its connection was closed"
            raise MachineError(f"{what}: the agent in the guest has ended ({words})")
        try:
            return dict(json.loads(line))
        except ValueError:
            raise MachineError(f"{what}: the agent in the guest said {line[:200]!r}, which is no answer") from None

    def _last_words(self, what: str) -> str:
        return ""


class RemoteProgram(RemoteSocket):
    """A program that runs in a guest, with its standard input and output at our end."""

    def __init__(self, process: "asyncssh.SSHClientProcess[bytes]", name: str) -> None:
        super().__init__(process.stdout, process.stdin, name)
        self._process = process

    def _last_words(self, what: str) -> str:
        stderr = _wait(self._process.stderr.read(2000), _CALL_LIMIT_S, what).decode(errors="replace").strip()
        return stderr.splitlines()[-1] if stderr else ""

    def relay(self, take: Callable[[bytes], None]) -> "concurrent.futures.Future[None]":
        """Have `take` called with each line that the program writes; the future is done when it has ended."""

        async def read() -> None:
            while line := await self._process.stdout.readline():
                take(line)

        return asyncio.run_coroutine_threadsafe(read(), _shared_loop())

    def close_input(self) -> None:
        """Close its standard input, on which it ends."""
        _shared_loop().call_soon_threadsafe(self._process.stdin.write_eof)

    def finish(self, patience_s: float, why_down: Callable[[], str | None]) -> int | None:
        """Wait for its end and return its exit code (negative: a signal; None: it is not known)."""

        async def end() -> int | None:
            await self._process.wait_closed()
            return self._process.returncode

        try:
            return _wait(end(), patience_s, "end", why_down)
        except MachineError:
            _shared_loop().call_soon_threadsafe(self._process.close)
            return self._process.returncode


def write_ssh_config(path: Path, address: Address) -> None:
    """Write a file for `ssh -F`, with which a person gets into the guest as picolab does."""
    lines = [
        "Host guest",
        f"  HostName {address.host}",
        f"  Port {address.port}",
        f"  User {address.user}",
        f'  IdentityFile "{address.key}"',
        "  IdentitiesOnly yes",
        f'  UserKnownHostsFile "{address.known_hosts}"',
        f"  HostKeyAlias {address.alias}",
        "  StrictHostKeyChecking yes",
        "  LogLevel ERROR",
    ]
    path.write_text("\n".join(lines) + os.linesep)
