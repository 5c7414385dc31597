"""Waiting for the ssh loop: whatever ends the work ends the wait, once."""

import asyncio
import errno
import itertools
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from picolab.errors import MachineError
from picolab.machines.vagrant import ssh

ERRNOS = ["ETIMEDOUT", "EHOSTUNREACH", "ENETUNREACH", "ECONNRESET", "ECONNREFUSED", "EPIPE", "ECONNABORTED", "EAGAIN"]


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Count the turns of the loop that waits."""
    counted: list[bool] = []
    is_done = ssh._is_done

    def count(future: Any, limit_s: float) -> bool:
        counted.append(is_done(future, limit_s))
        assert len(counted) < 100, "it spins"
        return counted[-1]

    monkeypatch.setattr(ssh, "_is_done", count)
    return counted


async def fails(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


@pytest.mark.parametrize("name", ERRNOS)
def test_an_error_of_a_socket_ends_the_wait_at_once(name: str, turns: list[bool]) -> None:
    number = getattr(errno, name)
    with pytest.raises(MachineError, match=f"^asked: .*{os.strerror(number)}"):
        ssh._wait(fails(OSError(number, os.strerror(number))), 300, "asked")
    assert turns == [True]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TimeoutError(), "TimeoutError"),
        (TimeoutError("the login took too long"), "the login took too long"),
        (asyncssh.ConnectionLost("gone"), "gone"),
        (asyncssh.HostKeyNotVerifiable("other"), "another host key"),
        (EOFError(), "EOFError"),
        (asyncio.CancelledError(), "CancelledError"),
        (asyncio.IncompleteReadError(b"", 1), "0 bytes read"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_other_end_of_the_work_is_one_error(error: BaseException, said: str, turns: list[bool]) -> None:
    with pytest.raises(MachineError, match=said):
        ssh._wait(fails(error), 300, "asked")
    assert turns == [True]


def test_a_time_limit_inside_the_work_is_not_that_of_the_wait(turns: list[bool]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(asyncio.sleep(600), 0.01)

    with pytest.raises(MachineError, match=r"^asked: TimeoutError$"):
        ssh._wait(limited(), 300, "asked")
    assert turns == [True]


def test_a_read_from_a_socket_that_times_out_for_real(turns: list[bool]) -> None:
    """TCP_USER_TIMEOUT has the kernel end a connection with ETIMEDOUT when a window stays shut."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client = socket.create_connection(listener.getsockname())
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 100)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        client.setblocking(False)
        accepted, _ = listener.accept()

        async def send() -> None:
            loop = asyncio.get_running_loop()
            while True:
                await loop.sock_sendall(client, b"x" * 65536)

        with accepted, client, pytest.raises(MachineError, match=os.strerror(errno.ETIMEDOUT)):
            ssh._wait(send(), 300, "asked")
    assert turns[-1] and len(turns) < 10


def test_a_wait_beyond_its_limit_fails_and_cancels_the_work(turns: list[bool]) -> None:
    cancelled = threading.Event()

    async def endless() -> None:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(MachineError, match=r"asked: no answer within 0\.05 s"):
        ssh._wait(endless(), 0.05, "asked")
    assert cancelled.wait(60)


def test_a_guest_that_is_gone_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "_SLICE_S", 0.01)
    with pytest.raises(MachineError, match="asked: it is off"):
        ssh._wait(asyncio.sleep(600), 300, "asked", lambda: "it is off")


def test_connecting_to_a_guest_that_is_off_is_tried_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tries: list[ssh.Address] = []

    async def connect(address: ssh.Address) -> None:
        tries.append(address)
        raise OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))

    monkeypatch.setattr(ssh, "_connect", connect)
    address = ssh.Address("127.0.0.1", 1, "nobody", tmp_path, tmp_path, "guest")
    with pytest.raises(MachineError, match="ssh to the machine 'guest': it is off"):
        ssh.Connection.open(address, "guest", 300, lambda: "it is off")
    assert tries == [address]


def test_a_result_is_returned(turns: list[bool]) -> None:
    assert ssh._wait(asyncio.sleep(0, "answer"), 300, "asked") == "answer"
    assert turns == [True]


@pytest.mark.parametrize("name", ["ETIMEDOUT", "EHOSTUNREACH", "ECONNREFUSED"])
def test_connecting_is_tried_again_without_hurry(
    name: str, turns: list[bool], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A guest that boots cannot be reached at first; each try that fails is followed by a pause."""
    tries: list[float] = []
    number = getattr(errno, name)

    async def connect(_address: ssh.Address) -> None:
        tries.append(time.monotonic())
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(ssh, "_connect", connect)
    address = ssh.Address("127.0.0.1", 1, "nobody", tmp_path, tmp_path, "guest")
    with pytest.raises(MachineError, match=os.strerror(number)):
        ssh.Connection.open(address, "guest", 0.5)

    assert len(turns) == len(tries)
    assert min(later - sooner for sooner, later in itertools.pairwise(tries)) >= ssh._RETRY_S
