"""The client against the calibration server's known truth, against servers that misbehave, and in its memory."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import MIB, SECRET, Delays, RunningServer, StartCalibrationServer, eventually

from picolab.servers.client import Client, LogIn
from picolab.servers.connection import Stream
from picolab.servers.measurements import (
    DownloadMeasurement,
    Limits,
    TransferProgress,
    UploadMeasurement,
    UploadsMeasurement,
    peak_rss_bytes,
)
from picolab.servers.payload import PayloadFile, payload_files, pieces
from picolab.servers.picoshare.adapter import PicoShare

pytestmark = pytest.mark.paced

SINK = Path(__file__).parents[2] / "benchmarks" / "client_throughput.py"
PATIENT = Limits(stall_s=30, total_s=120)
ID = "abcdefghij"


def upload(server: RunningServer, size_bytes: int, limits: Limits = PATIENT, **options: object) -> UploadMeasurement:
    with Client(PicoShare(), server.base_url, server.cookie) as client:
        return client.upload(1, size_bytes, limits, **options)  # type: ignore[arg-type]


def download(server: RunningServer, entry_id: str, size_bytes: int, limits: Limits = PATIENT) -> DownloadMeasurement:
    with Client(PicoShare(), server.base_url, server.cookie) as client:
        return client.download(entry_id, 1, size_bytes, limits)


def transfer_s(measured: UploadMeasurement) -> float:
    assert measured.first_byte_s is not None and measured.last_byte_s is not None
    return measured.last_byte_s - measured.first_byte_s


def commit_s(measured: UploadMeasurement) -> float:
    assert measured.last_byte_s is not None and measured.response_s is not None
    return measured.response_s - measured.last_byte_s


def logged_s(server: RunningServer, word: str) -> float:
    found = re.search(rf"{word} .*? in ([\d.]+) s", server.log)
    assert found, server.log
    return float(found[1])


TOLERANCE = 0.02
"""Of a phase's time: its edges are a few milliseconds wide (a paced server acts every 2 ms, the client's last byte is
the moment when the kernel has no unacknowledged byte left), and the shortest phase takes 0.5 s."""


# ---- known truth ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate_mib_s", "size_mib"), [(8, 12), (50, 80), (200, 320)])
def test_transfer_rate_is_the_servers(
    calibration_server: StartCalibrationServer, rate_mib_s: int, size_mib: int
) -> None:
    server = calibration_server(transfer_mib_s=rate_mib_s)
    with Delays() as delays:
        measured = upload(server, size_mib * MIB)
    assert measured.entry_id is not None
    delays.check(transfer_s(measured), size_mib / rate_mib_s, TOLERANCE)


@pytest.mark.parametrize(("rate_mib_s", "size_mib"), [(20, 32), (100, 160)])
def test_commit_rate_is_the_servers(calibration_server: StartCalibrationServer, rate_mib_s: int, size_mib: int) -> None:
    server = calibration_server(commit_mib_s=rate_mib_s)
    with Delays() as delays:
        measured = upload(server, size_mib * MIB)
    assert measured.entry_id is not None
    delays.check(commit_s(measured), size_mib / rate_mib_s, TOLERANCE)


def test_both_phases_at_once_are_told_apart(calibration_server: StartCalibrationServer) -> None:
    server = calibration_server(transfer_mib_s=40, commit_mib_s=20)
    with Delays() as delays:
        measured = upload(server, 32 * MIB)
    delays.check(transfer_s(measured), 32 / 40, TOLERANCE)
    delays.check(commit_s(measured), 32 / 20, TOLERANCE)


def test_the_wait_for_the_first_byte_of_a_download_is_told_apart() -> None:
    waits = []

    def answer(connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(1)
        asked_s = time.monotonic()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n")
        time.sleep(0.4)
        waits.append(time.monotonic() - asked_s)
        connection.sendall(b"".join(pieces(1, 2_000_000)))

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as connection:
                answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        with Delays() as delays, Client(PicoShare(), f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            measured = client.download(ID, 1, 2_000_000, PATIENT)
        thread.join()
    assert measured.matched and measured.sent_request_s is not None and measured.first_byte_s is not None
    # Two threads of this process take turns at both edges: up to 5 ms each (sys.getswitchinterval).
    delays.check(measured.first_byte_s - measured.sent_request_s, waits[0], 0.03)
    assert measured.download_s is not None and measured.download_s >= waits[0]


def test_download_rate_is_the_servers(calibration_server: StartCalibrationServer) -> None:
    server = calibration_server(download_mib_s=30)
    entry = upload(server, 48 * MIB).entry_id
    assert entry is not None
    with Delays() as delays:
        measured = download(server, entry, 48 * MIB)
    assert measured.matched is True
    assert measured.received_bytes == 48 * MIB
    delays.check(measured.download_s, 48 / 30, TOLERANCE)


def test_progress_grows_up_to_the_size_of_the_file(
    calibration_server: StartCalibrationServer,
) -> None:
    # The commit lasts several progress intervals: none of them may follow the last byte.
    server = calibration_server(transfer_mib_s=8, commit_mib_s=8)
    reports: list[TransferProgress] = []
    measured = upload(server, 8 * MIB, report=reports.append)
    times = [t for t, _ in measured.progress]
    delivered = [count for _, count in measured.progress]
    assert len(times) >= 4
    assert times == sorted(times) and len(set(times)) == len(times)
    assert delivered == sorted(delivered)
    assert measured.progress[-1] == (measured.last_byte_s, 8 * MIB)
    assert measured.delivered_bytes == 8 * MIB
    # On schedule: what counts as delivered lies not more than the socket buffers ahead of the server.
    assert measured.first_byte_s is not None
    for t, count in measured.progress[:-1]:
        assert count <= (t - measured.first_byte_s) * 8 * MIB + MIB
    assert {report.phase for report in reports} == {"transfer", "commit"}
    assert all(report.size_bytes == 8 * MIB for report in reports)


def upload_all(
    server: RunningServer, files: Sequence[PayloadFile], limits: Limits = PATIENT, **options: object
) -> UploadsMeasurement:
    with Client(PicoShare(), server.base_url, server.cookie) as client:
        return client.upload_files(files, limits, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [2, 4])
def test_uploads_at_the_same_time_have_a_pace_of_their_own_each(
    calibration_server: StartCalibrationServer, count: int
) -> None:
    server = calibration_server(transfer_mib_s=10, commit_mib_s=20)
    reports: list[TransferProgress] = []
    with Delays() as delays:
        measured = upload_all(server, payload_files(1, 10 * MIB, count), report=reports.append)

    assert measured.succeeded and not measured.failed and len({one.entry_id for one in measured.files}) == count
    assert measured.first_byte_s is not None and measured.last_byte_s is not None and measured.response_s is not None
    for one in measured.files:
        delays.check(transfer_s(one), 1, TOLERANCE)
        delays.check(commit_s(one), 0.5, 2 * TOLERANCE)
    # The whole begins with the first and ends with the last, and they are at it at the same time.
    delays.check(measured.last_byte_s - measured.first_byte_s, 1, 2 * TOLERANCE)
    delays.check(measured.response_s - measured.first_byte_s, 1.5, 2 * TOLERANCE)
    # A person who waits sees the sum.
    assert {report.phase for report in reports} == {"transfer", "commit"}
    assert {report.size_bytes for report in reports} == {count * 10 * MIB}
    delivered = [bytes_ for _, bytes_ in measured.progress]
    assert delivered == sorted(delivered) and delivered[-1] == measured.delivered_bytes == count * 10 * MIB
    for t, bytes_ in measured.progress:
        assert bytes_ <= ((t - measured.first_byte_s + delays.seconds) * 10 + 1) * count * MIB


def test_each_of_several_uploads_is_what_its_seed_says(calibration_server: StartCalibrationServer) -> None:
    server = calibration_server()
    files = payload_files(5, 3 * MIB + 1, 4)
    measured = upload_all(server, files)
    assert [file.name for file in files] == ["payload.bin", "payload-2.bin", "payload-3.bin", "payload-4.bin"]
    with Client(PicoShare(), server.base_url, server.cookie) as client:
        for file, one in zip(files, measured.files, strict=True):
            assert one.entry_id is not None
            assert client.download(one.entry_id, file.seed, file.size_bytes, PATIENT).matched is True
            assert client.download(one.entry_id, file.seed + 1, file.size_bytes, PATIENT).first_difference_byte == 0


def test_an_upload_that_fails_does_not_hide_the_others(calibration_server: StartCalibrationServer) -> None:
    files = payload_files(1, 4 * MIB, 4)
    files[2] = PayloadFile(files[2].seed, 4 * MIB, ".hidden")
    measured = upload_all(calibration_server(commit_mib_s=16), files)

    assert [one.succeeded for one in measured.files] == [True, True, False, True]
    assert [one.http_status for one in measured.failed] == [400]
    assert measured.failed[0].server_message == "invalid request: filename cannot begin with dots"
    assert not measured.succeeded and measured.delivered_bytes == 16 * MIB
    assert all(commit_s(one) > 0 for one in measured.files if one.succeeded)


def test_the_first_that_failed_is_the_first_in_time() -> None:
    ended = [
        UploadMeasurement(entry_id="x", ended_s=1.0),
        UploadMeasurement(ending="stalled", ended_s=3.0),
        UploadMeasurement(ending="timeout", ended_s=2.0),
    ]
    assert [one.ending for one in UploadsMeasurement(ended).failed] == ["timeout", "stalled"]


def test_progress_of_several_uploads_is_their_sum() -> None:
    files = [
        UploadMeasurement(progress=[(1.0, 10), (2.0, 20), (2.5, 25)]),
        UploadMeasurement(progress=[(1.0, 5), (2.0, 6), (3.0, 7)]),
        UploadMeasurement(),
    ]
    assert UploadsMeasurement(files).progress == [(1.0, 15), (2.0, 26), (2.5, 31), (3.0, 32)]
    assert UploadsMeasurement(files).first_byte_s is None and UploadsMeasurement(files).last_byte_s is None


def test_the_limits_hold_for_every_upload(calibration_server: StartCalibrationServer) -> None:
    stalled = upload_all(
        calibration_server(stall_after_mib=1), payload_files(1, 32 * MIB, 3), Limits(stall_s=0.5, total_s=60)
    )
    assert [one.ending for one in stalled.files] == ["stalled"] * 3
    late = upload_all(
        calibration_server(transfer_mib_s=4), payload_files(1, 32 * MIB, 3), Limits(stall_s=30, total_s=0.6)
    )
    assert [one.ending for one in late.files] == ["timeout"] * 3
    assert 0 < late.delivered_bytes < 96 * MIB


def test_an_interrupt_ends_every_upload(calibration_server: StartCalibrationServer) -> None:
    server = calibration_server(transfer_mib_s=4)
    before = threading.active_count()
    interrupted = threading.Event()

    def interrupt(_: TransferProgress) -> None:
        if not interrupted.is_set():
            interrupted.set()
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        upload_all(server, payload_files(1, 512 * MIB, 3), report=interrupt)
    assert threading.active_count() == before
    # The server is not kept busy either: what a connection of it had spooled is gone.
    spool = server.folder / "tmp"
    eventually(lambda: not list(spool.iterdir()), "the server sees that the three connections have ended")


def test_a_report_that_fails_does_not_disable_the_limits(calibration_server: StartCalibrationServer) -> None:
    def report(_: TransferProgress) -> None:
        raise OSError("no space left on device")

    server = calibration_server(stall_after_mib=2)
    measured = upload(server, 32 * MIB, Limits(stall_s=0.6, total_s=60), report=report)
    assert measured.ending == "stalled"


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (TransferProgress(25 * MIB, 100 * MIB, 5.0), " 25%  25 of 100 MiB  5.0 MiB/s  ETA 15 s"),
        (TransferProgress(0, 100 * MIB, 5.0), "  0%  0 of 100 MiB  0.0 MiB/s"),
        (TransferProgress(100 * MIB, 100 * MIB, 5.0), "100%  100 of 100 MiB  delivered; the server commits  5 s"),
    ],
)
def test_progress_line(progress: TransferProgress, line: str) -> None:
    assert progress.line() == line


# ---- what the server says is reported as itself --------------------------------------------------


@pytest.mark.parametrize(
    ("knobs", "cookie", "status", "sentence"),
    [
        pytest.param({}, "wrong", 401, "Authentication required", id="401 before the body is read"),
        pytest.param(
            {"disk_quota_mib": 2},
            None,
            400,
            "invalid request: database error: database or disk is full",
            id="400 in the middle of the body",
        ),
        pytest.param(
            {"status": 500, "status_message": "out of luck"}, None, 500, "out of luck", id="500 after the body"
        ),
    ],
)
def test_an_error_is_never_reported_as_a_broken_pipe(
    calibration_server: StartCalibrationServer,
    knobs: dict[str, object],
    cookie: str | None,
    status: int,
    sentence: str,
) -> None:
    server = calibration_server(**knobs)

    def once(_: int) -> UploadMeasurement:
        with Client(PicoShare(), server.base_url, cookie or server.cookie) as client:
            return client.upload(1, 40 * MIB, PATIENT)

    with ThreadPoolExecutor(5) as pool:
        measured = list(pool.map(once, range(20)))
    assert [m.ending for m in measured] == ["response"] * 20
    assert {(m.http_status, m.server_message, m.entry_id) for m in measured} == {(status, sentence, None)}
    if status != 500:
        assert all(m.delivered_bytes < 40 * MIB and m.last_byte_s is None for m in measured)


def test_a_400_for_a_small_body_is_reported_as_itself(calibration_server: StartCalibrationServer) -> None:
    measured = upload(calibration_server(), 1000, file_name=".hidden")
    assert (measured.ending, measured.http_status) == ("response", 400)
    assert measured.server_message == "invalid request: filename cannot begin with dots"


def test_authenticate_upload_download_delete_with_one_client(calibration_server: StartCalibrationServer) -> None:
    server = calibration_server()
    with Client(PicoShare(), server.base_url) as client:
        assert client.is_ready()
        assert client.authenticate("nonsense") == LogIn("response", 401, None, "incorrect shared secret")
        assert client.authenticate("") == LogIn("response", 400, None, "invalid shared secret")
        assert client.authenticate(SECRET) == LogIn("response", 200, server.cookie)
        measured = client.upload(7, 3 * MIB + 1, PATIENT)
        assert (measured.ending, measured.http_status) == ("response", 200)
        assert measured.entry_id is not None
        assert client.download(measured.entry_id, 7, 3 * MIB + 1, PATIENT).matched is True
        assert client.download(measured.entry_id, 8, 3 * MIB + 1, PATIENT).first_difference_byte == 0
        assert client.delete(measured.entry_id) == 200
        gone = client.download(measured.entry_id, 7, 3 * MIB + 1, PATIENT)
    assert (gone.ending, gone.http_status, gone.server_message) == ("response", 404, "entry not found")
    assert gone.matched is None


def test_proxies_in_the_environment_are_ignored(
    calibration_server: StartCalibrationServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert upload(calibration_server(), 1000).entry_id is not None


# ---- endings -------------------------------------------------------------------------------------


def test_stalled(calibration_server: StartCalibrationServer) -> None:
    measured = upload(calibration_server(stall_after_mib=4), 64 * MIB, Limits(stall_s=0.5, total_s=60))
    assert measured.ending == "stalled"
    assert 4 * MIB <= measured.delivered_bytes < 64 * MIB
    assert measured.last_byte_s is None and measured.response_s is None
    assert measured.first_byte_s is not None and measured.ended_s - measured.first_byte_s >= 0.5


def test_timeout_in_transfer(calibration_server: StartCalibrationServer) -> None:
    measured = upload(calibration_server(transfer_mib_s=8), 64 * MIB, Limits(stall_s=30, total_s=0.6))
    assert measured.ending == "timeout"
    assert 0 < measured.delivered_bytes < 64 * MIB
    assert measured.last_byte_s is None


def test_a_server_that_never_answers_is_a_timeout(
    calibration_server: StartCalibrationServer,
) -> None:
    measured = upload(calibration_server(stall_in_commit=True), 8 * MIB, Limits(stall_s=0.2, total_s=1.0))
    assert measured.ending == "timeout"
    assert measured.last_byte_s is not None
    assert measured.delivered_bytes == 8 * MIB
    assert measured.progress[-1] == (measured.last_byte_s, 8 * MIB)


def test_a_slow_server_is_not_stalled(calibration_server: StartCalibrationServer) -> None:
    measured = upload(calibration_server(transfer_mib_s=4, commit_mib_s=4), 4 * MIB, Limits(stall_s=0.5, total_s=60))
    assert measured.entry_id is not None


def test_connection_lost_when_the_server_exits(calibration_server: StartCalibrationServer) -> None:
    server = calibration_server(exit_after_mib=8)
    measured = upload(server, 64 * MIB)
    assert measured.ending == "connection_lost"
    assert measured.ending_detail
    assert 8 * MIB <= measured.delivered_bytes < 64 * MIB
    assert (measured.http_status, measured.response_s, measured.last_byte_s) == (None, None, None)
    assert server.process.wait(30) == 3


def test_no_server_at_all(free_port: int) -> None:
    with Client(PicoShare(), f"http://127.0.0.1:{free_port}") as client:
        assert client.is_ready() is False
        measured = client.upload(1, MIB, PATIENT)
        assert client.download(ID, 1, MIB, PATIENT).ending == "connection_lost"
    assert measured.ending == "connection_lost"
    assert measured.first_byte_s is None and measured.delivered_bytes == 0


def test_download_that_stalls_and_one_that_takes_too_long(
    calibration_server: StartCalibrationServer, fake_server: StartFakeServer
) -> None:
    server = calibration_server(download_mib_s=4)
    entry = upload(server, 8 * MIB).entry_id
    assert entry is not None
    slow = download(server, entry, 8 * MIB, Limits(stall_s=30, total_s=0.5))
    assert slow.ending == "timeout" and slow.matched is None and 0 < slow.received_bytes < 8 * MIB

    over = threading.Event()

    def half(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"".join(pieces(1, 500)))
        over.wait(60)

    with Client(PicoShare(), fake_server(half)) as client:
        stalled = client.download(ID, 1, 1000, Limits(stall_s=0.3, total_s=60))
    over.set()
    assert stalled.ending == "stalled" and stalled.matched is None and stalled.received_bytes == 500


# ---- what came back ------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 1, 65_535, 327_680, 2 * MIB + 5, -1])
def test_a_corrupt_byte_is_found_where_it_is(calibration_server: StartCalibrationServer, offset: int) -> None:
    size = 3 * MIB + 17
    server = calibration_server(corrupt_byte=offset)
    entry = upload(server, size).entry_id
    assert entry is not None
    measured = download(server, entry, size)
    assert measured.matched is False
    assert measured.first_difference_byte == offset % size
    assert measured.sent_sha256 != measured.received_sha256
    assert (measured.ending, measured.received_bytes) == ("response", size)


@pytest.mark.parametrize(("stored", "difference"), [(900_000, 900_000), (1_100_000, 1_000_000), (0, 0)])
def test_a_download_of_another_length_is_corrupted(fake_server: StartFakeServer, stored: int, difference: int) -> None:
    def answer(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % stored + b"".join(pieces(1, stored)))

    with Client(PicoShare(), fake_server(answer)) as client:
        measured = client.download(ID, 1, 1_000_000, PATIENT)
    assert measured.matched is False
    assert measured.first_difference_byte == difference
    # What is too much is not read to its end.
    assert min(stored, 1_000_001) <= measured.received_bytes <= stored


def test_a_download_that_breaks_off_is_not_called_corrupted(fake_server: StartFakeServer) -> None:
    def answer(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"".join(pieces(1, 300)))

    with Client(PicoShare(), fake_server(answer)) as client:
        measured = client.download(ID, 1, 1000, PATIENT)
    assert (measured.ending, measured.matched, measured.received_bytes) == ("connection_lost", None, 300)
    assert measured.ending_detail


# ---- servers that are not PicoShare (fakes at the boundary: raw sockets) -------------------------

Answer = Callable[[socket.socket, bytes], None]
StartFakeServer = Callable[[Answer], str]


@pytest.fixture
def fake_server() -> Iterator[StartFakeServer]:
    """Serve one connection: read the request's head, then call the answer with the connection and the head."""
    stack = contextlib.ExitStack()

    def start(answer: Answer) -> str:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += connection.recv(1)
                answer(connection, head)

        thread = threading.Thread(target=serve)
        thread.start()
        stack.callback(thread.join)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    with stack:
        yield start


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def read_body(connection: socket.socket, head: bytes) -> None:
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    assert length
    left = int(length[1])
    while left > 0:
        left -= len(connection.recv(min(left, MIB)))


def upload_to(url: str, size_bytes: int = 20 * MIB) -> UploadMeasurement:
    with Client(PicoShare(), url, session="none") as client:
        return client.upload(1, size_bytes, Limits(stall_s=20, total_s=40))


def test_the_request_has_a_length_no_expect_and_no_chunks(fake_server: StartFakeServer) -> None:
    heads = []

    def answer(connection: socket.socket, head: bytes) -> None:
        heads.append(head.decode().lower())
        read_body(connection, head)
        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{"id":"abcdefghij"}')

    measured = upload_to(fake_server(answer), 1000)
    assert measured.entry_id == ID
    assert re.match(r"post /api/entry\?expiration=\d{4}-\d\d-\d\dt", heads[0])
    assert "expect:" not in heads[0] and "transfer-encoding:" not in heads[0]
    assert "cookie: sharedsecret=none\r\n" in heads[0]


@pytest.mark.parametrize("politely", [True, False])
def test_an_early_answer_is_read_from_a_closed_connection(fake_server: StartFakeServer, politely: bool) -> None:
    def answer(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 7\r\nConnection: close\r\n\r\ntoo big")
        if politely:
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(MIB):
                pass

    measured = upload_to(fake_server(answer), 20 * MIB)
    assert (measured.ending, measured.http_status, measured.server_message) == ("response", 413, "too big")


def test_the_end_of_a_body_waits_for_no_room_in_the_send_buffer() -> None:
    """A server that answers early and reads no more has an answer to be read."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                ours.send(bytes(MIB))
        Stream(SimpleNamespace(get_extra_info=lambda _: ours)).write(b"", timeout=0.1)  # type: ignore[arg-type]


def test_success_before_the_body_has_no_transfer_time(fake_server: StartFakeServer) -> None:
    def answer(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 19\r\nConnection: close\r\n\r\n{"id":"abcdefghij"}')

    measured = upload_to(fake_server(answer))
    assert (measured.ending, measured.entry_id, measured.last_byte_s) == ("response", ID, None)
    assert measured.delivered_bytes < 20 * MIB


@pytest.mark.parametrize(
    "content", [b"hello", b"[]", b"null", b'"abcdefghij"', b'{"name": 1}', b'{"id": 7}', b"\xff\xfe", b""]
)
def test_a_200_without_an_id_is_no_success(fake_server: StartFakeServer, content: bytes) -> None:
    def answer(connection: socket.socket, head: bytes) -> None:
        read_body(connection, head)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)

    measured = upload_to(fake_server(answer), 1000)
    assert (measured.ending, measured.http_status, measured.entry_id) == ("response", 200, None)
    assert measured.server_message is not None and measured.server_message.startswith("an answer without an id: ")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x00\x01garbage\r\n\r\n", id="garbage"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", id="half a head"),
        pytest.param(b'HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{"id":"abc', id="half a body"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000 + b"\r\n\r\n", id="an endless head"),
    ],
)
def test_an_answer_that_is_not_http_is_a_lost_connection(fake_server: StartFakeServer, content: bytes) -> None:
    def answer(connection: socket.socket, head: bytes) -> None:
        read_body(connection, head)
        with contextlib.suppress(OSError):
            connection.sendall(content)

    measured = upload_to(fake_server(answer), 1000)
    assert (measured.ending, measured.http_status, measured.entry_id) == ("connection_lost", None, None)
    assert measured.ending_detail


def test_a_connection_that_is_closed_at_once(fake_server: StartFakeServer) -> None:
    measured = upload_to(fake_server(lambda connection, head: None))
    assert (measured.ending, measured.last_byte_s) == ("connection_lost", None)
    assert measured.delivered_bytes < 20 * MIB


# ---- memory --------------------------------------------------------------------------------------


@pytest.fixture
def sink() -> Iterator[str]:
    """The benchmark's null sink in a process of its own."""
    process = subprocess.Popen([sys.executable, str(SINK), "--sink", "127.0.0.1"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.kill()
    process.wait()


@pytest.mark.parametrize("count", [1, 4])
def test_the_clients_memory_does_not_grow_with_the_file(sink: str, count: int) -> None:
    code = (
        "import sys, json\n"
        "from picolab.servers.client import Client\n"
        "from picolab.servers.measurements import Limits, peak_rss_bytes\n"
        "from picolab.servers.payload import payload_files\n"
        "from picolab.servers.picoshare.adapter import PicoShare\n"
        "with Client(PicoShare(), sys.argv[1], 'none') as client:\n"
        "    files = payload_files(1, int(sys.argv[2]) // int(sys.argv[3]), int(sys.argv[3]))\n"
        "    measured = client.upload_files(files, Limits(30, 120))\n"
        "print(json.dumps([measured.files[-1].entry_id, measured.delivered_bytes, peak_rss_bytes()]))\n"
    )
    peaks = []
    for size in (64 * MIB, 1024 * MIB):
        done = subprocess.run(
            [sys.executable, "-c", code, sink, str(size), str(count)],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        entry_id, delivered, peak = json.loads(done.stdout)
        assert (entry_id, delivered) == (ID, size)
        peaks.append(peak)
    assert max(peaks) < 100_000_000
    assert abs(peaks[1] - peaks[0]) < 6 * MIB


def test_peak_rss_is_the_kernels() -> None:
    # VmHWM can only have grown since.
    peak = peak_rss_bytes()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    assert peak >= resident > 10 * MIB
