"""multipart/form-data, read as it streams in."""

from __future__ import annotations

import email.message
import email.parser
from collections.abc import Callable, Iterator

from picolab.servers.calibration.body import BadRequest

BUFFER_BYTES = 1 << 20  # what one upload holds of its body at a time


class MultipartReader:
    """Read multipart/form-data as it streams in, holding BUFFER_BYTES of it at a time.

    Call next_part, then exhaust content, again and again. Raises BadRequest in Go's words.
    """

    def __init__(self, readinto: Callable[[memoryview], int], boundary: str) -> None:
        self._readinto = readinto
        self._delimiter = b"\r\n--" + boundary.encode("latin-1", "replace")
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._buffer[:2] = b"\r\n"  # with it the first delimiter looks like all others
        self._start, self._end = 0, 2
        self._started = False

    def next_part(self) -> email.message.Message | None:
        """Return the next part's headers, or None after the last one, having read what follows it."""
        if not self._started:
            self._started = True
            for _ in self.content(at_end="multipart: NextPart: EOF"):
                pass
        self._need(2, "multipart: NextPart: EOF")
        if self._buffer.startswith(b"--", self._start):
            while self._fill():
                self._start = self._end
            return None
        line_end = self._find(b"\r\n")
        if self._buffer[self._start : line_end].strip(b" \t"):
            raise BadRequest("multipart: expecting a new Part")
        self._start = line_end  # so that a part without headers ends in an empty line as well
        headers_end = self._find(b"\r\n\r\n")
        head = self._buffer[self._start + 2 : headers_end + 2].decode("utf-8", "replace")
        self._start = headers_end + 4
        return email.parser.HeaderParser().parsestr(head)

    def content(self, at_end: str = "unexpected EOF") -> Iterator[memoryview]:
        """Yield the current part's content in pieces that are valid until the next one is asked for."""
        search_from = self._start
        while True:
            found = self._buffer.find(self._delimiter, search_from, self._end)
            after = found + len(self._delimiter)
            if found >= 0 and self._end - after >= 2:
                if self._buffer[after : after + 2] != b"--" and self._buffer[after] not in b" \t\r\n":
                    search_from = found + 1  # a longer line that only starts like the delimiter
                    continue
                if found > self._start:
                    yield self._view[self._start : found]
                self._start = after
                return
            # What could be the start of a delimiter stays for the next round.
            safe = found if found >= 0 else max(self._start, self._end - len(self._delimiter) + 1)
            if safe > self._start:
                yield self._view[self._start : safe]
                self._start = safe
            if not self._fill():
                raise BadRequest(at_end)
            search_from = self._start

    def _fill(self) -> bool:
        """Read more of the body; False at its end."""
        if self._start:
            rest = self._buffer[self._start : self._end]
            self._buffer[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        if self._end == len(self._buffer):
            raise BadRequest("multipart: message too large")
        count = self._readinto(self._view[self._end :])
        self._end += count
        return count > 0

    def _need(self, count: int, at_end: str) -> None:
        while self._end - self._start < count:
            if not self._fill():
                raise BadRequest(at_end)

    def _find(self, mark: bytes) -> int:
        while (found := self._buffer.find(mark, self._start, self._end)) < 0:
            if not self._fill():
                raise BadRequest("multipart: NextPart: EOF")
        return found
