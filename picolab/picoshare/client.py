"""The client: authenticates, uploads, downloads and deletes, and measures while it does.

When is a byte sent? Not when `send` returns: megabytes may still lie in this host's socket buffer. So the send
buffer is bounded, and the client asks the kernel what the other side has acknowledged (SIOCOUTQ of tcp(7) for
the end of the transfer, `tcpi_bytes_acked` of `struct tcp_info` for the progress). What the receiving kernel has
acknowledged but the server has not read yet cannot be seen from here.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import httpx

from picolab.parameters import MIB
from picolab.probes.payload import Keystream, pieces

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
        stall_s: without a delivered byte while there is something left to deliver.
        total_s: for the whole, from the first byte to the response.
    """

    stall_s: float
    total_s: float


@dataclass(frozen=True)
class TransferProgress:
    """How far an upload is, for a person who waits."""

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
    """What an upload measured. Times are on the monotonic clock of this process, None when not reached."""

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


@dataclass
class DownloadMeasurement:
    """What a download measured and how it compares with the payload."""

    ending: Ending = "connection_lost"
    ending_detail: str = ""
    http_status: int | None = None
    server_message: str | None = None
    received_bytes: int = 0
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
    """A multipart body with one file, generated while it is sent, and its way through the kernel.

    The main thread sends; a watching thread looks at what arrives, and shuts the socket down at a limit: that
    ends a blocked `send` or `recv` wherever it is.
    """

    def __init__(self, seed: int, size_bytes: int, file_name: str, limits: Limits) -> None:
        boundary = f"picolab-{seed:x}-{size_bytes:x}"
        self._seed = seed
        self.size_bytes = size_bytes
        self._limits = limits
        self._head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{file_name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self.headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(self._head) + size_bytes + len(self._tail)),
        }
        self.socket: socket.socket | None = None
        self.first_byte_s: float | None = None
        self.last_byte_s: float | None = None
        self.cut: Ending | None = None
        self._acked_before = 0
        self._delivered_bytes = 0
        self._over = threading.Event()

    def content(self) -> Iterator[bytes]:
        """Yield the body; httpx asks for the first piece when the request's head has been sent."""
        assert self.socket is not None
        self._acked_before = self._acked() + self._unacknowledged()
        self.first_byte_s = time.monotonic()
        yield self._head
        for piece in pieces(self._seed, self.size_bytes):
            yield piece
            self.delivered_bytes()
        yield self._tail

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """Follow httpcore's events: take the socket, and time the end of the transfer."""
        if event == "connection.connect_tcp.complete":
            self.socket = info["return_value"].get_extra_info("socket")
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
            self.last_byte_s = time.monotonic()

    def delivered_bytes(self) -> int:
        """Return how much of the file the receiving kernel has acknowledged."""
        if self.first_byte_s is None:
            return 0
        if self.last_byte_s is not None:
            return self.size_bytes
        with contextlib.suppress(OSError, ValueError):
            delivered = self._acked() - self._acked_before - len(self._head)
            self._delivered_bytes = max(self._delivered_bytes, min(self.size_bytes, delivered))
        # When the socket is gone, what was last known still holds.
        return self._delivered_bytes

    def watch(self, measurement: UploadMeasurement, report: Callable[[TransferProgress], None] | None) -> None:
        """Record the progress and enforce the limits, until `finish`."""
        moved_s = reported_s = time.monotonic()
        while not self._over.wait(_WATCH_INTERVAL_S):
            if self.first_byte_s is None:
                moved_s = time.monotonic()
                continue
            now = time.monotonic()
            delivered = self.delivered_bytes()
            if delivered > measurement.delivered_bytes:
                moved_s = now
                measurement.delivered_bytes = delivered
            recorded_s = measurement.progress[-1][0] if measurement.progress else 0.0
            if self.last_byte_s is None and now - recorded_s >= _PROGRESS_INTERVAL_S:
                measurement.progress.append((now, measurement.delivered_bytes))
            if report is not None and now - reported_s >= _PROGRESS_INTERVAL_S:
                reported_s = now
                try:
                    report(TransferProgress(measurement.delivered_bytes, self.size_bytes, now - self.first_byte_s))
                except Exception:
                    # A full disk, a closed terminal: nobody sees the progress then, but the limits must hold.
                    report = None
            if self.cut is None:
                if now - self.first_byte_s > self._limits.total_s:
                    self._cut("timeout")
                elif self.last_byte_s is None and now - moved_s > self._limits.stall_s:
                    self._cut("stalled")

    def _cut(self, why: Ending) -> None:
        self.cut = why
        if self.socket is not None:
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)

    def finish(self) -> None:
        self._over.set()


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
        """Upload the payload of a seed as one file, with constant memory. However it ends, it is measured.

        Args:
            report: called a few times a second from another thread.
        """
        measurement = UploadMeasurement()
        body = _Body(seed, size_bytes, file_name, limits)
        expiration = (datetime.now(UTC) + timedelta(days=7)).strftime("%Y-%m-%dT%H:%M:%SZ")
        watcher = threading.Thread(target=body.watch, args=(measurement, report), daemon=True)
        watcher.start()
        # A connection of its own: what it acknowledges is then this body alone.
        connection = self._connect()
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
            measurement.response_s = time.monotonic()
            measurement.ending = "response"
            measurement.http_status = answer.status_code
            if answer.status_code == 200:
                measurement.entry_id = _entry_id(answer)
            if measurement.entry_id is None:
                missing = "an answer without an id: " if answer.status_code == 200 else ""
                measurement.server_message = missing + _sentence(answer.text)
        except httpx.RequestError as error:
            measurement.ending = body.cut or "connection_lost"
            measurement.ending_detail = str(error) or type(error).__name__
        finally:
            measurement.ended_s = time.monotonic()
            body.finish()
            watcher.join()
            connection.close()
        measurement.first_byte_s = body.first_byte_s
        measurement.last_byte_s = body.last_byte_s
        measurement.delivered_bytes = body.delivered_bytes()
        if body.last_byte_s is not None:
            measurement.progress.append((body.last_byte_s, size_bytes))
        return measurement

    def download(self, entry_id: str, seed: int, size_bytes: int, limits: Limits) -> DownloadMeasurement:
        """Download an entry and compare it with the payload while it streams, with constant memory."""
        measurement = DownloadMeasurement()
        keystream = Keystream(seed)
        received = hashlib.sha256()
        sent: Any = None
        begun = time.monotonic()
        timeout = httpx.Timeout(CONNECT_LIMIT_S, read=limits.stall_s)
        try:
            with self._http.stream("GET", f"/-{entry_id}", timeout=timeout) as answer:
                measurement.http_status = answer.status_code
                if answer.status_code != 200:
                    answer.read()
                    measurement.ending = "response"
                    measurement.server_message = _sentence(answer.text)
                    return measurement
                for chunk in answer.iter_raw():
                    expected = keystream.read(min(len(chunk), max(0, size_bytes - measurement.received_bytes)))
                    if sent is None and chunk != expected:
                        # Up to here both are the same: from here on each has a hash of its own.
                        sent = received.copy()
                        same = next(
                            (i for i, (a, b) in enumerate(zip(chunk, expected, strict=False)) if a != b),
                            min(len(chunk), len(expected)),
                        )
                        measurement.first_difference_byte = measurement.received_bytes + same
                    received.update(chunk)
                    if sent is not None:
                        sent.update(expected)
                    measurement.received_bytes += len(chunk)
                    if time.monotonic() - begun > limits.total_s:
                        measurement.ending = "timeout"
                        return measurement
            measurement.download_s = time.monotonic() - begun
            measurement.ending = "response"
        except httpx.ReadTimeout:
            measurement.ending = "stalled"
            return measurement
        except httpx.RequestError as error:
            measurement.ending_detail = str(error) or type(error).__name__
            return measurement
        if measurement.received_bytes < size_bytes:
            if sent is None:
                measurement.first_difference_byte = measurement.received_bytes
                sent = received.copy()
            left = size_bytes - measurement.received_bytes
            while left > 0:
                piece = keystream.read(min(MIB, left))
                sent.update(piece)
                left -= len(piece)
        measurement.received_sha256 = received.hexdigest()
        measurement.sent_sha256 = (sent or received).hexdigest()
        return measurement

    def delete(self, entry_id: str) -> int:
        """Delete an entry; return the HTTP status.

        Raises:
            httpx.TransportError: the server cannot be reached.
        """
        return self._http.delete(f"/api/entry/{entry_id}", timeout=60).status_code


def _entry_id(answer: httpx.Response) -> str | None:
    """Return the id in the answer to an upload, or None when it is not what PicoShare would say."""
    try:
        entry_id = answer.json()["id"]
    except (ValueError, LookupError, TypeError):
        return None
    return entry_id if isinstance(entry_id, str) and entry_id else None


def _sentence(text: str) -> str:
    return text.strip()[:_ERROR_TEXT_BYTES] or "(an empty answer)"
