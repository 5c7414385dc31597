"""One request to a server that nobody vouches for, and its answer.

Whatever the server does, an exchange ends in time and costs little memory. Its limit is kept by another thread,
which shuts the connection down wherever it hangs. Of an answer that is read into memory at most ANSWER_LIMIT_BYTES are
taken; the library stops at a head of 100 KiB. Each exchange has a connection of its own, so that nothing which is left
of one answer can be taken for another. No redirect is followed, no body decompressed, no cookie kept.
"""

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import httpcore
import httpx

from picolab.servers.connection import BODY_PIECE_BYTES

ANSWER_LIMIT_BYTES = 64 * 1024
CONNECT_LIMIT_S = 10.0
SENTENCE_CHARACTERS = 2000
_NET_S = 60.0
"""Who cuts is late by moments. Timeouts of the library that are later than that are only a net below it."""
_SHORTEST_LIMIT_S = 0.001
_SHORTEST_HIDDEN = 8
_CLOSED = ("disconnected", "closed connection")
"""Words of the libraries for an answer that ended too early. All others are about the content of the answer."""

_HEADERS = {
    "Accept": "*/*",
    # The stored bytes are measured and compared, so they must not be compressed on the way.
    "Accept-Encoding": "identity",
    "Connection": "keep-alive",
    "User-Agent": "picolab",
}

Ending = Literal["response", "stalled", "timeout", "connection_lost"]
Trace = Callable[[str, dict[str, Any]], None]


class Unanswered(Exception):
    """There is no whole answer.

    Attributes:
        ending: how it ended instead.
        detail: in the words of the libraries, which may quote the server.
        not_http: the server answered, but not in HTTP.
    """

    def __init__(self, ending: Ending, detail: str, not_http: bool = False) -> None:
        super().__init__(detail)
        self.ending = ending
        self.detail = detail
        self.not_http = not_http


@dataclass(frozen=True)
class Answer:
    """An answer that was read into memory.

    Attributes:
        body: as it came, cut after ANSWER_LIMIT_BYTES.
        whole: it was not cut.
        encoding: of the body; `identity` when the server respects the request.
        cookies: by name, as they came; of a name that is there twice the last.
    """

    status: int
    body: bytes
    whole: bool
    encoding: str
    cookies: Mapping[str, str]

    @property
    def text(self) -> str:
        """The body as UTF-8, whatever its header claims."""
        return self.body.decode("utf-8", "replace")


class Exchange:
    """One request and its answer. Use it as a context manager.

    Args:
        limit_s: seconds after which it is cut; None: somebody else watches it.
        trace: follows httpcore's events.
    """

    def __init__(
        self, transport: httpx.BaseTransport, base_url: str, limit_s: float | None = None, trace: Trace | None = None
    ) -> None:
        self._transport = transport
        self._base_url = base_url
        self._limit_s = limit_s
        self._trace = trace
        self._timer: threading.Timer | None = None
        self._response: httpx.Response | None = None
        self._stream: Any = None
        self.lock = threading.Lock()
        self._connect_s = CONNECT_LIMIT_S
        self._quiet_s = _NET_S
        self.socket: socket.socket | None = None
        """A duplicate: it is there until the exchange is closed, whatever the library does with its own."""
        self.cut_why: Ending | None = None
        self.over = False

    def __enter__(self) -> Self:
        if self._limit_s is not None:
            self._timer = threading.Timer(max(0.0, self._limit_s), self.cut, ("timeout",))
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
        if self._response is not None:
            self._response.close()
        with self.lock:
            self.over = True
            if self.socket is not None:
                self.socket.close()

    def cut(self, why: Ending) -> None:
        """End it wherever it is, unless it is over; also before it has a connection."""
        with self.lock:
            if self.over or self.cut_why is not None:
                return
            self.cut_why = why
            self._shut_down()

    def _shut_down(self) -> None:
        if self.socket is not None:
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)

    def _follow(self, event: str, info: dict[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            self._stream = info["return_value"]
            with self.lock:
                self.socket = self._stream.get_extra_info("socket").dup()
                if self.cut_why is not None:
                    self._shut_down()
        if self._trace is not None:
            self._trace(event, info)

    def ask(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | Iterable[bytes] | None = None,
        quiet_s: float | None = None,
        limit_s: float | None = None,
    ) -> httpx.Response:
        """Send the request, and return the answer as soon as its head has come.

        Args:
            path: escaped as it has to be in a URL.
            quiet_s: seconds without a byte of the answer after which it has stalled; None: as long as it takes.
            limit_s: seconds for the whole that the watching thread allows, if the exchange has no limit of its own.

        Raises:
            Unanswered: there is no head.
        """
        limit_s = self._limit_s if limit_s is None else limit_s
        assert limit_s is not None
        self._connect_s = max(_SHORTEST_LIMIT_S, min(CONNECT_LIMIT_S, limit_s))
        net_s = max(0.0, limit_s) + _NET_S
        self._quiet_s = quiet_s or net_s
        request = httpx.Request(
            method,
            self._base_url + path,
            headers=_HEADERS | dict(headers or {}),
            content=content,
            extensions={
                "trace": self._follow,
                "timeout": {"connect": self._connect_s, "read": self._quiet_s, "write": net_s, "pool": net_s},
            },
        )
        try:
            self._response = self._transport.handle_request(request)
        except httpx.RequestError as error:
            raise self._unanswered(error) from None
        return self._response

    def pieces(self, response: httpx.Response) -> Iterator[bytes]:
        """Yield the body as it comes, to its end.

        Raises:
            Unanswered: it does not get there.
        """
        assert isinstance(response.stream, httpx.SyncByteStream)
        length = response.headers.get("content-length", "")
        is_plain = length.isdecimal() and "transfer-encoding" not in response.headers
        try:
            for piece in response.stream:
                yield piece
                if is_plain and self._base_url.startswith("http://"):
                    yield from self._rest(int(length), len(piece))
                    break
        except httpx.RequestError as error:
            raise self._unanswered(error) from None
        self.finish()

    def _rest(self, length: int, received: int) -> Iterator[bytes]:
        """Yield what is left of a body of known length after its first piece, past the parser.

        With the first piece the parser has given all that it had. It would copy each of the bytes four times.
        """
        while received < length:
            try:
                piece = self._stream.read(min(BODY_PIECE_BYTES, length - received), self._quiet_s)
            except httpcore.TimeoutException as error:
                raise httpx.ReadTimeout(str(error)) from None
            except httpcore.NetworkError as error:
                raise httpx.ReadError(str(error)) from None
            if not piece:
                raise httpx.RemoteProtocolError(
                    "peer closed connection without sending complete message body "
                    f"(received {received} bytes, expected {length})"
                )
            received += len(piece)
            yield piece

    def answer(self, response: httpx.Response) -> Answer:
        """Read the body into memory.

        Raises:
            Unanswered: it does not get to its end, or to the limit.
        """
        body = bytearray()
        for piece in self.pieces(response):
            body += piece
            if len(body) > ANSWER_LIMIT_BYTES:
                self.finish()
                break
        return Answer(
            response.status_code,
            bytes(body[:ANSWER_LIMIT_BYTES]),
            len(body) <= ANSWER_LIMIT_BYTES,
            response.headers.get("content-encoding", "identity"),
            _cookies(response),
        )

    def finish(self) -> None:
        """Note that all has come that is wanted: from here on nothing can cut it.

        Raises:
            Unanswered: it was cut before. Where the end of a connection ends the body, that looks like its end.
        """
        with self.lock:
            if self.cut_why is not None:
                raise self._cut_off(self.cut_why)
            self.over = True

    def _cut_off(self, why: Ending) -> Unanswered:
        head = "nothing" if self._response is None else f"the head of an answer with {self._response.status_code}"
        return Unanswered(why, f"{head} had come when it was cut off")

    def _unanswered(self, error: httpx.RequestError) -> Unanswered:
        detail = str(error) or type(error).__name__
        with self.lock:
            self.over = True
            if self.cut_why is not None:
                return self._cut_off(self.cut_why)
        if isinstance(error, httpx.ConnectTimeout):
            ending: Ending = "timeout" if self._connect_s < CONNECT_LIMIT_S else "connection_lost"
            return Unanswered(ending, f"no connection within {self._connect_s:g} s")
        if isinstance(error, httpx.TimeoutException):
            return Unanswered("stalled", detail)
        not_http = isinstance(error, httpx.RemoteProtocolError) and not any(word in detail for word in _CLOSED)
        return Unanswered("connection_lost", detail, not_http)


def _cookies(response: httpx.Response) -> dict[str, str]:
    """Return the cookies of an answer by name, without their attributes."""
    found = {}
    for name, value in response.headers.raw:
        if name.lower() == b"set-cookie":
            key, _, rest = value.decode("latin-1").partition("=")
            found[key.strip()] = rest.partition(";")[0].strip()
    return found


def sentence(text: str, hidden: Iterable[str]) -> str:
    """Return a server's sentence for the record: without secrets, and cut to SENTENCE_CHARACTERS."""
    return redacted(text, hidden).strip()[:SENTENCE_CHARACTERS] or "(an empty answer)"


def redacted(text: str, hidden: Iterable[str]) -> str:
    """Return a text without secrets.

    Args:
        hidden: texts to remove, such as the secret of the log-in, also when it is escaped for a URL, for JSON or
            for HTML.
    """
    forms = [_any_form(secret) for secret in hidden if len(secret) >= _SHORTEST_HIDDEN]
    return re.sub("|".join(forms), "(redacted)", text, flags=re.IGNORECASE) if forms else text


def _any_form(secret: str) -> str:
    """Return a pattern of a text, however its special characters are escaped."""

    def form(character: str) -> str:
        if character.isalnum():
            return character
        code = ord(character)
        return rf"(?:\\?{re.escape(character)}|%{code:02x}|&\#0*{code};|&\#x0*{code:x};|\\u00{code:02x}|\\x{code:02x})"

    return "".join(map(form, secret))
