"""The client: authenticates, uploads, downloads and deletes, and measures while it does.

When is a byte sent? Not when `send` returns: megabytes may still lie in this host's socket buffer. So the send
buffer is bounded, and the client asks the kernel what the other side has acknowledged (SIOCOUTQ of tcp(7) for
the end of the transfer, `tcpi_bytes_acked` of `struct tcp_info` for the progress). What the receiving kernel has
acknowledged but the server has not read yet cannot be seen from here.

Files that are uploaded at the same time have a connection and a thread each. What is slow in a thread (making the
payload, sending it) leaves Python's lock to the others.

The server is not trusted. How a request is kept within time and memory is decided in exchange.py; here, every answer
is a measurement or a finding, and none is an exception.
"""

import contextlib
import fcntl
import hashlib
import json
import re
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
from urllib.parse import quote

import httpx

from picolab.config.sizes import MIB
from picolab.servers.exchange import Answer, Ending, Exchange, Trace, Unanswered, sentence
from picolab.servers.payload import Keystream, pieces, seed_of_file

SEND_BUFFER_BYTES = 256 * 1024
PROBE_LIMIT_S = 5.0
"""Of one `GET /`: a server that has just begun to listen may answer only the next one."""
LOG_IN_LIMIT_S = 60.0
DELETE_LIMIT_S = 60.0
_PAGE_LIMIT_BYTES = MIB
"""Of the answer to `GET /`, which is counted and thrown away."""
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""PicoShare's ids have 10 letters and digits. Whatever fits here can stand in a URL."""
_COOKIE = re.compile(r"[!#-+\--:<-\[\]-~]{1,4096}")
"""What RFC 6265 allows in the value of a cookie."""
_WATCH_INTERVAL_S = 0.05
_DRAIN_POLL_S = 0.0005
_PROGRESS_INTERVAL_S = 0.2
_BYTES_ACKED_OFFSET = 120
"""Of `__u64 tcpi_bytes_acked` in `struct tcp_info` (linux/tcp.h, since Linux 4.1)."""


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


@dataclass(frozen=True)
class LogIn:
    """What became of a log-in.

    Attributes:
        cookie: that was given; None: there is none.
        detail: why there is none, in a sentence; empty when there is one.
    """

    ending: Ending
    http_status: int | None = None
    cookie: str | None = field(default=None, repr=False)
    detail: str = ""


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

    One thread sends; the watching thread looks at what arrives, and cuts the exchange at a limit.
    """

    def __init__(self, file: PayloadFile, exchange: Callable[[Trace], Exchange]) -> None:
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
        self.exchange = exchange(self._trace)
        self._acked_before = 0
        self._delivered_bytes = 0
        self._moved_s = 0.0

    def content(self) -> Iterator[bytes]:
        """Yield the body; httpx asks for the first piece when the request's head has been sent."""
        self._acked_before = self._acked() + self._unacknowledged()
        self.measured.first_byte_s = self._moved_s = time.monotonic()
        yield self._head
        for piece in pieces(self._seed, self.size_bytes):
            yield piece
            self.delivered_bytes()
        yield self._tail

    def _trace(self, event: str, _: dict[str, Any]) -> None:
        """Follow httpcore's events: time the end of the transfer."""
        if event == "http11.send_request_body.complete":
            self._await_delivery()

    @property
    def _socket(self) -> socket.socket:
        assert self.exchange.socket is not None
        return self.exchange.socket

    def _acked(self) -> int:
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED_OFFSET + 8)
        return int(struct.unpack_from("=Q", info, _BYTES_ACKED_OFFSET)[0])

    def _unacknowledged(self) -> int:
        # termios.TIOCOUTQ has the value of SIOCOUTQ on Linux (tcp(7)).
        answer = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, bytes(4))
        return int(struct.unpack("=i", answer)[0])

    def _await_delivery(self) -> None:
        with contextlib.suppress(OSError):
            while self._unacknowledged() > 0:
                # Whatever can be read now is an answer or the end of the connection: no reason to wait on.
                if select.select([self._socket], [], [], _DRAIN_POLL_S)[0] and self._unacknowledged() > 0:
                    return
            self.measured.last_byte_s = time.monotonic()

    def delivered_bytes(self) -> int:
        """Return how much of the file the receiving kernel has acknowledged."""
        if self.measured.first_byte_s is None:
            return 0
        if self.measured.last_byte_s is not None:
            return self.size_bytes
        with contextlib.suppress(OSError), self.exchange.lock:
            delivered = self._acked() - self._acked_before - len(self._head)
            self._delivered_bytes = max(self._delivered_bytes, min(self.size_bytes, delivered))
        # When the socket is gone, what was last known still holds.
        return self._delivered_bytes

    def look(self, now: float, stall_limit_s: float) -> None:
        """Record how far it is at the moment `now`, and end it when it stalls; called by the watching thread."""
        measured = self.measured
        if self.exchange.over or measured.first_byte_s is None:
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
                self.exchange.cut("stalled")

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
                body.exchange.cut("timeout")


class PicoShareClient:
    """One user of one PicoShare server. Use it as a context manager.

    Args:
        base_url: such as `http://127.0.0.1:4001`.
        cookie: of an earlier `authenticate`, to go on with.
        secret: of that `authenticate`. Neither of the two is in any message of the server that is returned.
    """

    def __init__(self, base_url: str, cookie: str | None = None, secret: str | None = None) -> None:
        self._base_url = base_url
        self._cookie = cookie
        self._secret = secret
        self._transport = httpx.HTTPTransport(
            verify=False,
            trust_env=False,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            socket_options=[
                (socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES),
                (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
            ],
        )

    def __enter__(self) -> "PicoShareClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._transport.close()

    def _exchange(self, limit_s: float | None = None, trace: Trace | None = None) -> Exchange:
        return Exchange(self._transport, self._base_url, limit_s, trace)

    @property
    def _headers(self) -> dict[str, str]:
        return {} if self._cookie is None else {"Cookie": f"sharedSecret={self._cookie}"}

    def _said(self, text: str, *hidden: str) -> str:
        return sentence(text, [*hidden, *(known for known in (self._cookie, self._secret) if known is not None)])

    def _sentence(self, answer: Answer) -> str:
        """Return what the server said with an error, and what is odd about how it said it."""
        odd = "" if answer.encoding == "identity" else f"(encoded as {answer.encoding!r}, which nobody asked for) "
        return self._said(odd + answer.text, *answer.cookies.values())

    def _failure(self, error: Unanswered) -> str:
        return self._said(f"its answer is no HTTP: {error.detail}" if error.not_http else error.detail)

    def is_ready(self, limit_s: float = PROBE_LIMIT_S) -> bool:
        """Tell whether `GET /` is answered with 200, and the whole answer comes within the limit."""
        return self.why_not_ready(limit_s) is None

    def why_not_ready(self, limit_s: float = PROBE_LIMIT_S) -> str | None:
        """Return why `GET /` is not answered as it should be; None when it is."""
        limit_s = min(limit_s, PROBE_LIMIT_S)
        try:
            with self._exchange(limit_s) as exchange:
                answer = exchange.ask("GET", "/", headers=self._headers)
                if answer.status_code != 200:
                    return f"GET / was answered with {answer.status_code}"
                size = 0
                for piece in exchange.pieces(answer):
                    size += len(piece)
                    if size > _PAGE_LIMIT_BYTES:
                        return f"the answer to GET / had no end after {_PAGE_LIMIT_BYTES} bytes"
        except Unanswered as error:
            if error.ending == "timeout":
                return f"GET / had no whole answer after {limit_s:.3g} s"
            return f"GET / was not answered ({self._failure(error)})"
        return None

    def authenticate(self, secret: str, limit_s: float = LOG_IN_LIMIT_S) -> LogIn:
        """Log in, and go on with the cookie that is given."""
        self._secret = secret
        try:
            with self._exchange(limit_s) as exchange:
                answer = exchange.answer(
                    exchange.ask(
                        "POST",
                        "/api/auth",
                        headers={"Content-Type": "application/json"},
                        content=json.dumps({"sharedSecretKey": secret}).encode(),
                    )
                )
        except Unanswered as error:
            return LogIn(error.ending, detail=self._failure(error))
        if answer.status != 200:
            return LogIn("response", answer.status, detail=self._sentence(answer))
        cookie = answer.cookies.get("sharedSecret", "")
        if not _COOKIE.fullmatch(cookie):
            return LogIn("response", 200, detail="a log-in without a cookie that could be sent back")
        self._cookie = cookie
        return LogIn("response", 200, cookie)

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
        # A connection of its own for each: what it acknowledges is then this body alone.
        bodies = [_Body(file, lambda trace: self._exchange(trace=trace)) for file in files]
        over = threading.Event()
        watcher = threading.Thread(target=_watch, args=(bodies, limits, report, over), daemon=True)
        watcher.start()
        # This thread sends too: a single upload needs no other.
        pool = ThreadPoolExecutor(max(1, len(bodies) - 1))
        try:
            others = [pool.submit(self._send, body, limits) for body in bodies[1:]]
            self._send(bodies[0], limits)
            for other in others:
                other.result()
        except BaseException:
            for body in bodies:
                body.exchange.cut("connection_lost")
            raise
        finally:
            pool.shutdown()
            over.set()
            watcher.join()
        for body in bodies:
            body.finish()
        return UploadsMeasurement([body.measured for body in bodies])

    def _send(self, body: _Body, limits: Limits) -> None:
        """Upload one file. Both limits are kept by the thread that watches."""
        measured = body.measured
        expiration = (datetime.now(UTC) + timedelta(days=7)).strftime("%Y-%m-%dT%H:%M:%SZ")
        with body.exchange as exchange:
            try:
                answer = exchange.answer(
                    exchange.ask(
                        "POST",
                        f"/api/entry?expiration={quote(expiration, safe='')}",
                        headers=self._headers | body.headers,
                        content=body.content(),
                        limit_s=limits.total_s,
                    )
                )
                measured.response_s = time.monotonic()
                measured.ending = "response"
                measured.http_status = answer.status
                why_not = ""
                if answer.status == 200:
                    measured.entry_id, why_not = _entry_id(answer)
                if measured.entry_id is None:
                    measured.server_message = (f"{why_not}: " if why_not else "") + self._sentence(answer)
            except Unanswered as error:
                measured.ending = error.ending
                measured.ending_detail = self._failure(error)
                if error.not_http:
                    measured.server_message = measured.ending_detail
            finally:
                measured.ended_s = time.monotonic()
                # The last moment at which the kernel can be asked.
                body.delivered_bytes()

    def download(self, entry_id: str, seed: int, size_bytes: int, limits: Limits) -> DownloadMeasurement:
        """Download an entry and compare it with the payload while it streams, with constant memory.

        What came back is hashed only from the first difference on, and otherwise afterwards from the payload that it
        equals: while it is timed, the client shall do no more than it must.
        """
        measurement = DownloadMeasurement()
        comparison = _Comparison(seed, size_bytes)
        begun = time.monotonic()

        def note_request(event: str, _: dict[str, Any]) -> None:
            if event == "http11.send_request_headers.complete":
                measurement.sent_request_s = time.monotonic()

        try:
            with self._exchange(limits.total_s, note_request) as exchange:
                answer = exchange.ask(
                    "GET", f"/-{quote(entry_id, safe='')}", headers=self._headers, quiet_s=limits.stall_s
                )
                if answer.status_code != 200:
                    refusal = exchange.answer(answer)
                    measurement.ending = "response"
                    measurement.http_status = refusal.status
                    measurement.server_message = self._sentence(refusal)
                    return measurement
                measurement.http_status = 200
                for chunk in exchange.pieces(answer):
                    if measurement.first_byte_s is None:
                        measurement.first_byte_s = time.monotonic()
                    comparison.take(chunk)
                    measurement.received_bytes += len(chunk)
                    if measurement.received_bytes > size_bytes:
                        # That is a difference, however much would follow.
                        exchange.finish()
                        measurement.ending_detail = "more came back than was sent, and the rest was not read"
                        break
                if measurement.sent_request_s is not None:
                    begun = measurement.sent_request_s
                measurement.download_s = time.monotonic() - begun
        except Unanswered as error:
            measurement.ending = error.ending
            measurement.ending_detail = self._failure(error)
            return measurement
        finally:
            measurement.first_difference_byte = comparison.first_difference_byte
        promised = "content-length" in answer.headers or "transfer-encoding" in answer.headers
        if not promised and comparison.first_difference_byte is None and measurement.received_bytes < size_bytes:
            measurement.download_s = None
            measurement.ending_detail = "the connection ended, and nobody had said how many bytes would come"
            return measurement
        measurement.ending = "response"
        measurement.sent_sha256, measurement.received_sha256 = comparison.end()
        measurement.first_difference_byte = comparison.first_difference_byte
        return measurement

    def delete(self, entry_id: str, limit_s: float = DELETE_LIMIT_S) -> int | None:
        """Delete an entry; return the HTTP status, or None when there was no whole answer."""
        try:
            with self._exchange(limit_s) as exchange:
                request = exchange.ask("DELETE", f"/api/entry/{quote(entry_id, safe='')}", headers=self._headers)
                return exchange.answer(request).status
        except Unanswered:
            return None


class _Comparison:
    """What comes back, beside the payload that was sent."""

    def __init__(self, seed: int, size_bytes: int) -> None:
        self._seed = seed
        self._size_bytes = size_bytes
        self._keystream = Keystream(seed)
        self._count = 0
        self._sent: Any = None
        self._received: Any = None
        self.first_difference_byte: int | None = None

    def take(self, chunk: bytes) -> None:
        """Compare the next bytes."""
        expected = self._keystream.read(min(len(chunk), max(0, self._size_bytes - self._count)))
        if self._sent is None and chunk != expected:
            # Up to here both are the same: from here on each has a hash of its own.
            self._received = _payload_hash(self._seed, self._count)
            self._sent = self._received.copy()
            same = next(
                (i for i, (a, b) in enumerate(zip(chunk, expected, strict=False)) if a != b),
                min(len(chunk), len(expected)),
            )
            self.first_difference_byte = self._count + same
        if self._sent is not None:
            self._received.update(chunk)
            self._sent.update(expected)
        self._count += len(chunk)

    def end(self) -> tuple[str, str]:
        """Return the SHA-256 of what was sent and of what came back."""
        if self._sent is None:
            self._received = _payload_hash(self._seed, self._count)
            self._sent = self._received.copy()
        left = self._size_bytes - self._count
        if left > 0 and self.first_difference_byte is None:
            self.first_difference_byte = self._count
        while left > 0:
            piece = self._keystream.read(min(MIB, left))
            self._sent.update(piece)
            left -= len(piece)
        return self._sent.hexdigest(), self._received.hexdigest()


def _payload_hash(seed: int, size_bytes: int) -> Any:
    """Return the SHA-256 object of the first bytes of a payload."""
    digest = hashlib.sha256()
    for piece in pieces(seed, size_bytes):
        digest.update(piece)
    return digest


def _entry_id(answer: Answer) -> tuple[str | None, str]:
    """Return the id in the answer to an upload, or None and why it is not what PicoShare would say."""
    if not answer.whole:
        return None, f"an answer of more than {len(answer.body)} bytes"
    try:
        entry_id = json.loads(answer.body.decode())["id"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None, "an answer without an id"
    if not isinstance(entry_id, str) or not entry_id:
        return None, "an answer without an id"
    if not _ID.fullmatch(entry_id):
        return None, "an answer with an id that cannot be one"
    return entry_id, ""
