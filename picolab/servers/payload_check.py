"""The bytes that come back, compared with the payload that was sent while they stream, with constant memory."""

import hashlib
from typing import Any

from picolab.config.sizes import MIB
from picolab.servers.payload import Keystream, pieces


class PayloadCheck:
    """A download next to the payload that was uploaded.

    Only from the first difference on are the bytes hashed as they come; until then they equal the payload, which is
    hashed afterwards. While it is timed, the client does no more than it must.
    """

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
        """Return the SHA-256 of the bytes that were sent and of those that came back."""
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
