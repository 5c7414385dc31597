"""The client: authenticates, uploads, downloads and deletes, and measures while it does.

When is a byte sent? Not when `send` returns: megabytes may still lie in this host's socket buffer. So the send
buffer is bounded, and the client asks the kernel what the other side has acknowledged (SIOCOUTQ of tcp(7) for
the end of the transfer, `tcpi_bytes_acked` of `struct tcp_info` for the progress). What the receiving kernel has
acknowledged but the server has not read yet cannot be seen from here.

Files that are uploaded at the same time have a connection and a thread each. What is slow in a thread (making the
payload, sending it) leaves Python's lock to the others.
"""

import contextlib
import fcntl
import hashlib
import select
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import httpx

from picolab.parameters import MIB
from picolab.probes.payload import Keystream, pieces, seed_of_file

SEND_BUFFER_BYTES = 256 * 1024
CONNECT_LIMIT_S = 10.0
_WATCH_INTERVAL_S = 0.05
_DRAIN_POLL_S = 0.0005
_PROGRESS_INTERVAL_S = 0.2
_ERROR_TEXT_BYTES = 2000
_BYTES_ACKED_OFFSET = 120
"""Of `__u64 tcpi_bytes_acked` in `struct tcp_info` (linux/tcp.h, since Linux 4.1)."""

Ending = Literal["response", "stalled", "timeout", "connection_lost"]


@dataclass(frozen=True)
class Limits:
    """Time limits of an upload or a download, in seconds.

    Attributes:
        stall_s: without a delivered byte of one file while there is something left of it to deliver.
        total_s: for the whole, from the first byte (of any file) to the last response.
    """

    stall_s: float
    total_s: float


@dataclass(frozen=True)
class PayloadFile:
    """A file to upload: the first `size_bytes` of the payload of a seed."""

    seed: int
    size_bytes: int
    name: str = "payload.bin"


def payload_files(seed: int, size_bytes: int, count: int) -> list[PayloadFile]:
    """Return the files of a trial: each has another payload, and the first one has the trial's own seed."""
    names = ["payload.bin", *(f"payload-{number}.bin" for number in range(2, count + 1))]
    return [PayloadFile(seed_of_file(seed, index), size_bytes, name) for index, name in enumerate(names)]


@dataclass(frozen=True)
class TransferProgress:
    """How far an upload (of all files together) is, for a person who waits."""

    delivered_bytes: int
    size_bytes: int
    elapsed_s: float

    @property
    def phase(self) -> Literal["transfer", "commit"]:
        return "transfer" if self.delivered_bytes < self.size_bytes else "commit"

    @property
    def rate_mib_s(self) -> float:
        return self.delivered_bytes / MIB / self.elapsed_s if self.elapsed_s > 0 else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds until the transfer is over at the rate so far; None before anything was delivered."""
        if self.delivered_bytes == 0:
            return None
        return self.elapsed_s * (self.size_bytes - self.delivered_bytes) / self.delivered_bytes

    def line(self) -> str:
        """Return one line of text: percent, bytes, rate, ETA or the phase."""
        done = self.delivered_bytes / MIB
        text = f"{self.delivered_bytes / self.size_bytes:4.0%}  {done:,.0f} of {self.size_bytes / MIB:,.0f} MiB"
        if self.phase == "commit":
            return f"{text}  delivered; the server commits  {self.elapsed_s:.0f} s"
        eta = f"  ETA {self.eta_s:.0f} s" if self.eta_s is not None else ""
        return f"{text}  {self.rate_mib_s:,.1f} MiB/s{eta}"


@dataclass
class UploadMeasurement:
    """What the upload of one file measured. Times are on this process's monotonic clock, None when not reached."""

    ending: Ending = "connection_lost"
    ending_detail: str = ""
    entry_id: str | None = None
    http_status: int | None = None
    server_message: str | None = None
    first_byte_s: float | None = None
    last_byte_s: float | None = None
    response_s: float | None = None
    ended_s: float = 0.0
    delivered_bytes: int = 0
    progress: list[tuple[float, int]] = field(default_factory=list)

    @property
    def succeeded(self) -> bool:
        return self.entry_id is not None


@dataclass
class UploadsMeasurement:
    """What uploads at the same time measured, in the order of their files; times as in `UploadMeasurement`."""

    files: list[UploadMeasurement]

    @property
    def succeeded(self) -> bool:
        return all(measured.succeeded for measured in self.files)

    @property
    def failed(self) -> list[UploadMeasurement]:
        """Those that were not answered with success, in the order in which they ended."""
        return sorted((m for m in self.files if not m.succeeded), key=lambda m: m.ended_s)

    @property
    def first_byte_s(self) -> float | None:
        """When the first byte of any file was sent."""
        return min((m.first_byte_s for m in self.files if m.first_byte_s is not None), default=None)

    @property
    def last_byte_s(self) -> float | None:
        """When the last byte of all files was acknowledged; None when one of them did not get there."""
        times = [m.last_byte_s for m in self.files if m.last_byte_s is not None]
        return max(times) if len(times) == len(self.files) else None

    @property
    def response_s(self) -> float | None:
        """When the last answer came; None when one is missing."""
        times = [m.response_s for m in self.files if m.response_s is not None]
        return max(times) if len(times) == len(self.files) else None

    @property
    def delivered_bytes(self) -> int:
        return sum(m.delivered_bytes for m in self.files)

    @property
    def progress(self) -> list[tuple[float, int]]:
        """Bytes delivered of all files over time: at each moment what was last known of every file."""
        moments = sorted((t, index, count) for index, m in enumerate(self.files) for t, count in m.progress)
        known = [0] * len(self.files)
        summed: list[tuple[float, int]] = []
        for t, index, count in moments:
            known[index] = count
            if summed and summed[-1][0] == t:
                summed.pop()
            summed.append((t, sum(known)))
        return summed


@dataclass
class DownloadMeasurement:
    """What a download measured and how it compares with the payload.

    `sent_request_s` and `first_byte_s` (of the body) are on this process's monotonic clock, `download_s` is a duration.
    """

    ending: Ending = "connection_lost"
    ending_detail: str = ""
    http_status: int | None = None
    server_message: str | None = None
    received_bytes: int = 0
    sent_request_s: float | None = None
    first_byte_s: float | None = None
    download_s: float | None = None
    sent_sha256: str | None = None
    received_sha256: str | None = None
    first_difference_byte: int | None = None

    @property
    def matched(self) -> bool | None:
        """True when every byte came back; None when the download did not get to its end."""
        if self.sent_sha256 is None:
            return None
        return self.sent_sha256 == self.received_sha256


def peak_rss_bytes() -> int:
    """Return the peak resident memory of this process (VmHWM of proc(5))."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM")


class _Body:
    """A multipart body with one file, generated while it is sent, its way through the kernel, and its measurement.

    One thread sends; the watching thread looks at what arrives, and shuts the socket down at a limit: that
    ends a blocked `send` or `recv` wherever it is.
    """

    def __init__(self, file: PayloadFile) -> None:
        boundary = f"picolab-{file.seed:x}-{file.size_bytes:x}"
        self._seed = file.seed
        self.size_bytes = file.size_bytes
        self._head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{file.name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self.headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(self._head) + file.size_bytes + len(self._tail)),
        }
        self.measured = UploadMeasurement()
        self.socket: socket.socket | None = None
        self.cut_why: Ending | None = None
        self.ended = False
        self._acked_before = 0
        self._delivered_bytes = 0
        self._moved_s = 0.0

    def content(self) -> Iterator[bytes]:
        """Yield the body; httpx asks for the first piece when the request's head has been sent."""
        assert self.socket is not None
        self._acked_before = self._acked() + self._unacknowledged()
        self.measured.first_byte_s = self._moved_s = time.monotonic()
        yield self._head
        for piece in pieces(self._seed, self.size_bytes):
            yield piece
            self.delivered_bytes()
        yield self._tail

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """Follow httpcore's events: take the socket, and time the end of the transfer."""
        if event == "connection.connect_tcp.complete":
            self.socket = info["return_value"].get_extra_info("socket")
            if self.cut_why is not None:
                self._shut_down()
        elif event == "http11.send_request_body.complete":
            self._await_delivery()
        elif event.endswith(".failed"):
            # The last moment at which the kernel can be asked.
            self.delivered_bytes()

    def _acked(self) -> int:
        assert self.socket is not None
        info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED_OFFSET + 8)
        return int(struct.unpack_from("=Q", info, _BYTES_ACKED_OFFSET)[0])

    def _unacknowledged(self) -> int:
        assert self.socket is not None
        # termios.TIOCOUTQ has the value of SIOCOUTQ on Linux (tcp(7)).
        answer = fcntl.ioctl(self.socket.fileno(), termios.TIOCOUTQ, bytes(4))
        return int(struct.unpack("=i", answer)[0])

    def _await_delivery(self) -> None:
        assert self.socket is not None
        with contextlib.suppress(OSError):
            while self._unacknowledged() > 0:
                # Whatever can be read now is an answer or the end of the connection: no reason to wait on.
                if select.select([self.socket], [], [], _DRAIN_POLL_S)[0] and self._unacknowledged() > 0:
                    return
            self.measured.last_byte_s = time.monotonic()

    def delivered_bytes(self) -> int:
        """Return how much of the file the receiving kernel has acknowledged."""
        if self.measured.first_byte_s is None:
            return 0
        if self.measured.last_byte_s is not None:
            return self.size_bytes
        with contextlib.suppress(OSError, ValueError):
            delivered = self._acked() - self._acked_before - len(self._head)
            self._delivered_bytes = max(self._delivered_bytes, min(self.size_bytes, delivered))
        # When the socket is gone, what was last known still holds.
        return self._delivered_bytes

    def look(self, now: float, stall_limit_s: float) -> None:
        """Record how far it is at the moment `now`, and end it when it stalls; called by the watching thread."""
        measured = self.measured
        if self.ended or measured.first_byte_s is None:
            return
        delivered = self.delivered_bytes()
        if delivered > measured.delivered_bytes:
            self._moved_s = now
            measured.delivered_bytes = delivered
        recorded_s = measured.progress[-1][0] if measured.progress else 0.0
        if measured.last_byte_s is None:
            if now - recorded_s >= _PROGRESS_INTERVAL_S:
                measured.progress.append((now, measured.delivered_bytes))
            if now - self._moved_s > stall_limit_s:
                self.cut("stalled")

    def cut(self, why: Ending) -> None:
        """End it wherever it is, unless it has ended already; also before it has a connection."""
        if self.ended or self.cut_why is not None:
            return
        self.cut_why = why
        self._shut_down()

    def _shut_down(self) -> None:
        if self.socket is not None:
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)

    def finish(self) -> None:
        """Complete the measurement when nothing is sent or awaited any more."""
        self.measured.delivered_bytes = self.delivered_bytes()
        if self.measured.last_byte_s is not None:
            self.measured.progress.append((self.measured.last_byte_s, self.size_bytes))


def _watch(
    bodies: Sequence[_Body],
    limits: Limits,
    report: Callable[[TransferProgress], None] | None,
    over: threading.Event,
) -> None:
    """Look at the bodies, tell how far they are together, and enforce the limits, until `over`."""
    size_bytes = sum(body.size_bytes for body in bodies)
    reported_s = time.monotonic()
    while not over.wait(_WATCH_INTERVAL_S):
        first_byte_s = UploadsMeasurement([body.measured for body in bodies]).first_byte_s
        if first_byte_s is None:
            continue
        now = time.monotonic()
        for body in bodies:
            body.look(now, limits.stall_s)
        if report is not None and now - reported_s >= _PROGRESS_INTERVAL_S:
            reported_s = now
            delivered = sum(body.delivered_bytes() for body in bodies)
            try:
                report(TransferProgress(delivered, size_bytes, now - first_byte_s))
            except Exception:
                # A full disk, a closed terminal: nobody sees the progress then, but the limits must hold.
                report = None
        if now - first_byte_s > limits.total_s:
            for body in bodies:
                body.cut("timeout")


class PicoShareClient:
    """One user of one PicoShare server. Use it as a context manager.

    Args:
        base_url: such as `http://127.0.0.1:4001`.
        cookie: of an earlier `authenticate`, to go on with.
    """

    def __init__(self, base_url: str, cookie: str | None = None) -> None:
        self._base_url = base_url
        self._cookies = {} if cookie is None else {"sharedSecret": cookie}
        self._http = self._connect()

    def _connect(self) -> httpx.Client:
        transport = httpx.HTTPTransport(
            verify=False,
            socket_options=[
                (socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES),
                (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
            ],
        )
        return httpx.Client(
            base_url=self._base_url,
            transport=transport,
            cookies=self._cookies,
            # What is stored is what is measured and compared, so nobody shall compress it on the way.
            headers={"Accept-Encoding": "identity"},
            trust_env=False,
        )

    def __enter__(self) -> "PicoShareClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def is_ready(self) -> bool:
        """Tell whether `GET /` is answered with 200."""
        try:
            return self._http.get("/", timeout=2).status_code == 200
        except httpx.RequestError:
            return False

    def authenticate(self, secret: str) -> tuple[int, str]:
        """Log in; return (HTTP status, the cookie or the server's sentence).

        Raises:
            httpx.TransportError: the server cannot be reached.
        """
        answer = self._http.post("/api/auth", json={"sharedSecretKey": secret}, timeout=30)
        if answer.status_code == 200:
            cookie = answer.cookies.get("sharedSecret") or ""
            self._cookies = {"sharedSecret": cookie}
            return 200, cookie
        return answer.status_code, _sentence(answer.text)

    def upload(
        self,
        seed: int,
        size_bytes: int,
        limits: Limits,
        file_name: str = "payload.bin",
        report: Callable[[TransferProgress], None] | None = None,
    ) -> UploadMeasurement:
        """Upload the payload of a seed as one file, see `upload_files`."""
        return self.upload_files([PayloadFile(seed, size_bytes, file_name)], limits, report).files[0]

    def upload_files(
        self,
        files: Sequence[PayloadFile],
        limits: Limits,
        report: Callable[[TransferProgress], None] | None = None,
    ) -> UploadsMeasurement:
        """Upload files at the same time, with constant memory. However one ends, each is measured.

        Args:
            files: one or more.
            report: called a few times a second from another thread.
        """
        bodies = [_Body(file) for file in files]
        # A connection of its own for each: what it acknowledges is then this body alone.
        connections = [self._connect() for _ in bodies]
        over = threading.Event()
        watcher = threading.Thread(target=_watch, args=(bodies, limits, report, over), daemon=True)
        watcher.start()
        # This thread sends too: a single upload needs no other.
        pool = ThreadPoolExecutor(max(1, len(bodies) - 1))
        try:
            others = [
                pool.submit(_send, connection, body, limits)
                for connection, body in zip(connections[1:], bodies[1:], strict=True)
            ]
            _send(connections[0], bodies[0], limits)
            for other in others:
                other.result()
        except BaseException:
            for body in bodies:
                body.cut("connection_lost")
            raise
        finally:
            pool.shutdown()
            over.set()
            watcher.join()
        for body in bodies:
            body.finish()
        return UploadsMeasurement([body.measured for body in bodies])

    def download(self, entry_id: str, seed: int, size_bytes: int, limits: Limits) -> DownloadMeasurement:
        """Download an entry and compare it with the payload while it streams, with constant memory.

        What came back is hashed only from the first difference on, and otherwise afterwards from the payload that it
        equals: while it is timed, the client shall do no more than it must.
        """
        measurement = DownloadMeasurement()
        keystream = Keystream(seed)
        received: Any = None
        sent: Any = None
        begun = time.monotonic()

        def note_request(event: str, _: dict[str, Any]) -> None:
            if event == "http11.send_request_headers.complete":
                measurement.sent_request_s = time.monotonic()

        timeout = httpx.Timeout(CONNECT_LIMIT_S, read=limits.stall_s)
        try:
            with self._http.stream(
                "GET", f"/-{entry_id}", timeout=timeout, extensions={"trace": note_request}
            ) as answer:
                measurement.http_status = answer.status_code
                if answer.status_code != 200:
                    answer.read()
                    measurement.ending = "response"
                    measurement.server_message = _sentence(answer.text)
                    return measurement
                for chunk in answer.iter_raw():
                    if measurement.first_byte_s is None:
                        measurement.first_byte_s = time.monotonic()
                    expected = keystream.read(min(len(chunk), max(0, size_bytes - measurement.received_bytes)))
                    if sent is None and chunk != expected:
                        # Up to here both are the same: from here on each has a hash of its own.
                        received = _payload_hash(seed, measurement.received_bytes)
                        sent = received.copy()
                        same = next(
                            (i for i, (a, b) in enumerate(zip(chunk, expected, strict=False)) if a != b),
                            min(len(chunk), len(expected)),
                        )
                        measurement.first_difference_byte = measurement.received_bytes + same
                    if sent is not None:
                        received.update(chunk)
                        sent.update(expected)
                    measurement.received_bytes += len(chunk)
                    if time.monotonic() - begun > limits.total_s:
                        measurement.ending = "timeout"
                        return measurement
            if measurement.sent_request_s is not None:
                begun = measurement.sent_request_s
            measurement.download_s = time.monotonic() - begun
            measurement.ending = "response"
        except httpx.ReadTimeout:
            measurement.ending = "stalled"
            return measurement
        except httpx.RequestError as error:
            measurement.ending_detail = str(error) or type(error).__name__
            return measurement
        if sent is None:
            received = _payload_hash(seed, measurement.received_bytes)
            sent = received.copy()
        if measurement.received_bytes < size_bytes:
            if measurement.first_difference_byte is None:
                measurement.first_difference_byte = measurement.received_bytes
            left = size_bytes - measurement.received_bytes
            while left > 0:
                piece = keystream.read(min(MIB, left))
                sent.update(piece)
                left -= len(piece)
        measurement.received_sha256 = received.hexdigest()
        measurement.sent_sha256 = sent.hexdigest()
        return measurement

    def delete(self, entry_id: str) -> int:
        """Delete an entry; return the HTTP status.

        Raises:
            httpx.TransportError: the server cannot be reached.
        """
        return self._http.delete(f"/api/entry/{entry_id}", timeout=60).status_code


def _send(connection: httpx.Client, body: _Body, limits: Limits) -> None:
    """Upload one file over a connection of its own, which is closed then."""
    measured = body.measured
    expiration = (datetime.now(UTC) + timedelta(days=7)).strftime("%Y-%m-%dT%H:%M:%SZ")
    try:
        answer = connection.post(
            "/api/entry",
            params={"expiration": expiration},
            headers=body.headers,
            content=body.content(),
            extensions={
                "trace": body.trace,
                # The watching thread enforces both limits: these are only nets below it.
                "timeout": {
                    "connect": CONNECT_LIMIT_S,
                    "read": limits.total_s + 60,
                    "write": limits.stall_s + 60,
                    "pool": CONNECT_LIMIT_S,
                },
            },
        )
        measured.response_s = time.monotonic()
        measured.ending = "response"
        measured.http_status = answer.status_code
        if answer.status_code == 200:
            measured.entry_id = _entry_id(answer)
        if measured.entry_id is None:
            missing = "an answer without an id: " if answer.status_code == 200 else ""
            measured.server_message = missing + _sentence(answer.text)
    except httpx.RequestError as error:
        measured.ending = body.cut_why or "connection_lost"
        measured.ending_detail = str(error) or type(error).__name__
    finally:
        measured.ended_s = time.monotonic()
        body.ended = True
        connection.close()


def _payload_hash(seed: int, size_bytes: int) -> Any:
    """Return the SHA-256 object of the first bytes of a payload."""
    digest = hashlib.sha256()
    for piece in pieces(seed, size_bytes):
        digest.update(piece)
    return digest


def _entry_id(answer: httpx.Response) -> str | None:
    """Return the id in the answer to an upload, or None when it is not what PicoShare would say."""
    try:
        entry_id = answer.json()["id"]
    except (ValueError, LookupError, TypeError):
        return None
    return entry_id if isinstance(entry_id, str) and entry_id else None


def _sentence(text: str) -> str:
    return text.strip()[:_ERROR_TEXT_BYTES] or "(an empty answer)"
