"""The HTTP client of every server under test: logs in, uploads, downloads and deletes, and measures while it does.

Which requests these are, and how their answers are read, is for the server's adapter to say. The server is not trusted:
exchange.py keeps a request within time and memory, and here every answer is a measurement or a finding, never an
exception.
"""

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from picolab.config.sizes import MIB
from picolab.servers.base import Refused, Request, Server
from picolab.servers.connection import Transport
from picolab.servers.exchange import Answer, Ending, Exchange, Trace, Unanswered, sentence
from picolab.servers.measurements import (
    DownloadMeasurement,
    Limits,
    TransferProgress,
    UploadMeasurement,
    UploadsMeasurement,
)
from picolab.servers.payload import PayloadFile
from picolab.servers.payload_check import PayloadCheck
from picolab.servers.transfer import Body, transfer

SEND_BUFFER_BYTES = 256 * 1024
PROBE_LIMIT_S = 5.0
"""Of one question whether the server is ready: one that has just begun to listen may answer only the next one."""
LOG_IN_LIMIT_S = 60.0
DELETE_LIMIT_S = 60.0
_PAGE_LIMIT_BYTES = MIB
"""Of the answer to that question, which is counted and thrown away."""


@dataclass(frozen=True)
class LogIn:
    """How a log-in ended.

    Attributes:
        session: that the server gave; None: there is none.
        detail: why there is none, in a sentence; empty when there is one.
    """

    ending: Ending
    http_status: int | None = None
    session: str | None = field(default=None, repr=False)
    detail: str = ""


class Client:
    """One user of one server. Use it as a context manager.

    Args:
        server: the adapter.
        base_url: such as `http://127.0.0.1:4001`.
        session: of an earlier `authenticate`, to continue with.
        secret: of that `authenticate`. Neither of the two is in any message of the server that is returned.
    """

    def __init__(self, server: Server, base_url: str, session: str | None = None, secret: str | None = None) -> None:
        self._server = server
        self._base_url = base_url
        self._session = session
        self._secret = secret
        self._transport = Transport(
            [
                (socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES),
                (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
            ]
        )

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._transport.close()

    def _exchange(self, limit_s: float | None = None, trace: Trace | None = None) -> Exchange:
        return Exchange(self._transport, self._base_url, limit_s, trace)

    @staticmethod
    def _ask(exchange: Exchange, request: Request, quiet_s: float | None = None) -> httpx.Response:
        content = request.content or None
        return exchange.ask(request.method, request.path, headers=request.headers, content=content, quiet_s=quiet_s)

    def _said(self, text: str, *hidden: str) -> str:
        return sentence(text, [*hidden, *(known for known in (self._session, self._secret) if known is not None)])

    def _sentence(self, answer: Answer) -> str:
        """Return the error in an answer, with a note when its encoding is odd."""
        odd = "" if answer.encoding == "identity" else f"(encoded as {answer.encoding!r}, which nobody asked for) "
        return self._said(odd + self._server.sentence(answer), *answer.cookies.values())

    def _failure(self, error: Unanswered) -> str:
        return self._said(f"its answer is no HTTP: {error.detail}" if error.not_http else error.detail)

    def ask(self, request: Request, limit_s: float) -> Answer:
        """Send any request, and return the answer.

        Raises:
            Unanswered: there is no whole answer within the limit.
        """
        with self._exchange(limit_s) as exchange:
            return exchange.answer(self._ask(exchange, request))

    def is_ready(self, limit_s: float = PROBE_LIMIT_S) -> bool:
        """Return whether the server is ready, see `why_not_ready`."""
        return self.why_not_ready(limit_s) is None

    def why_not_ready(self, limit_s: float = PROBE_LIMIT_S) -> str | None:
        """Return None when the server's `ready` request is answered with 200 within the limit, else why it is not."""
        limit_s = min(limit_s, PROBE_LIMIT_S)
        request = self._server.ready()
        asked = f"{request.method} {request.path}"
        try:
            with self._exchange(limit_s) as exchange:
                answer = self._ask(exchange, request)
                if answer.status_code != 200:
                    return f"{asked} was answered with {answer.status_code}"
                size = 0
                for piece in exchange.pieces(answer):
                    size += len(piece)
                    if size > _PAGE_LIMIT_BYTES:
                        return f"the answer to {asked} had no end after {_PAGE_LIMIT_BYTES} bytes"
        except Unanswered as error:
            if error.ending == "timeout":
                return f"{asked} had no whole answer after {limit_s:.3g} s"
            return f"{asked} was not answered ({self._failure(error)})"
        return None

    def authenticate(self, secret: str, limit_s: float = LOG_IN_LIMIT_S) -> LogIn:
        """Log in, and continue with the session that is given."""
        self._secret = secret
        request = self._server.log_in(secret)
        if request is None:
            self._session = secret
            return LogIn("response", session=secret)
        try:
            with self._exchange(limit_s) as exchange:
                answer = exchange.answer(self._ask(exchange, request))
        except Unanswered as error:
            return LogIn(error.ending, detail=self._failure(error))
        try:
            self._session = self._server.session(answer)
        except Refused as refused:
            return LogIn("response", answer.status, detail=refused.why or self._sentence(answer))
        return LogIn("response", answer.status, self._session)

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
        """Upload one or more files at the same time, with constant memory, see `transfer`."""
        bodies = [
            Body(file, self._server.upload(self._session, file), lambda trace: self._exchange(trace=trace))
            for file in files
        ]
        return transfer(bodies, lambda body: self._send(body, limits), limits, report)

    def _send(self, body: Body, limits: Limits) -> None:
        """Upload one file. Both limits are kept by the thread that watches."""
        measured, request = body.measured, body.request
        with body.exchange as exchange:
            try:
                answer = exchange.answer(
                    exchange.ask(
                        request.method,
                        request.path,
                        headers=body.headers,
                        content=body.content(),
                        limit_s=limits.total_s,
                    )
                )
                measured.response_s = time.monotonic()
                measured.ending = "response"
                measured.http_status = answer.status
                try:
                    measured.entry_id = self._server.stored(answer)
                except Refused as refused:
                    why_not = f"{refused.why}: " if refused.why else ""
                    measured.server_message = why_not + self._sentence(answer)
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
        """Download an entry and compare it with the payload while it streams, with constant memory."""
        measurement = DownloadMeasurement()
        comparison = PayloadCheck(seed, size_bytes)
        begun = time.monotonic()

        def note_request(event: str, _: dict[str, Any]) -> None:
            if event == "http11.send_request_headers.complete":
                measurement.sent_request_s = time.monotonic()

        try:
            with self._exchange(limits.total_s, note_request) as exchange:
                answer = self._ask(exchange, self._server.download(self._session, entry_id), quiet_s=limits.stall_s)
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
                return exchange.answer(self._ask(exchange, self._server.delete(self._session, entry_id))).status
        except Unanswered:
            return None
