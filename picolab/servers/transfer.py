"""The measured upload of files at the same time: when their bytes are sent, and the limits on that.

When is a byte sent? Not when `send` returns: megabytes may still lie in this host's socket buffer. So the send
buffer is bounded, and the kernel is asked how much the other side has acknowledged (SIOCOUTQ of tcp(7) for the end of
the transfer, `tcpi_bytes_acked` of `struct tcp_info` for the progress). Bytes that the receiving kernel has
acknowledged but the server has not read yet cannot be seen from here.

Files that are uploaded at the same time have a connection and a thread each. The slow work in a thread (making the
payload, sending it) leaves Python's lock to the others.
"""

import contextlib
import fcntl
import select
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from picolab.servers.base import UploadRequest
from picolab.servers.exchange import Exchange, Trace
from picolab.servers.measurements import Limits, TransferProgress, UploadMeasurement, UploadsMeasurement
from picolab.servers.payload import PayloadFile, pieces

_WATCH_INTERVAL_S = 0.05
_DRAIN_POLL_S = 0.0005
_PROGRESS_INTERVAL_S = 0.2
_BYTES_ACKED_OFFSET = 120
"""Of `__u64 tcpi_bytes_acked` in `struct tcp_info` (linux/tcp.h, since Linux 4.1)."""


class Body:
    """The body of one upload, generated while it is sent, its way through the kernel, and its measurement.

    One thread sends; the watching thread looks at how far it is, and cuts the exchange at a limit.

    Args:
        file: the file to upload.
        request: the request that uploads it.
        exchange: makes the exchange; gets the function that follows httpcore's events.
    """

    def __init__(self, file: PayloadFile, request: UploadRequest, exchange: Callable[[Trace], Exchange]) -> None:
        self.request = request
        self._seed = file.seed
        self.size_bytes = file.size_bytes
        self.headers = {
            **request.headers,
            "Content-Length": str(len(request.before) + file.size_bytes + len(request.after)),
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
        if self.request.before:
            yield self.request.before
        for piece in pieces(self._seed, self.size_bytes):
            yield piece
            self.delivered_bytes()
        if self.request.after:
            yield self.request.after

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
            delivered = self._acked() - self._acked_before - len(self.request.before)
            self._delivered_bytes = max(self._delivered_bytes, min(self.size_bytes, delivered))
        # When the socket is gone, the last known count still holds.
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
    bodies: Sequence[Body],
    limits: Limits,
    report: Callable[[TransferProgress], None] | None,
    over: threading.Event,
) -> None:
    """Follow the bodies, report their common progress, and enforce the limits, until `over`."""
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


def transfer(
    bodies: Sequence[Body],
    send: Callable[[Body], None],
    limits: Limits,
    report: Callable[[TransferProgress], None] | None = None,
) -> UploadsMeasurement:
    """Send bodies at the same time within the limits. However one ends, each is measured.

    Args:
        bodies: one or more, each with a connection of its own, so that its acknowledgements count this body alone.
        send: sends one body and reads its answer; raises nothing.
        report: called a few times a second from another thread.
    """
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(bodies, limits, report, over), daemon=True)
    watcher.start()
    # This thread sends too: a single upload needs no other.
    pool = ThreadPoolExecutor(max(1, len(bodies) - 1))
    try:
        others = [pool.submit(send, body) for body in bodies[1:]]
        send(bodies[0])
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
