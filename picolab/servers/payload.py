"""The bytes that are uploaded: a stream that is a function of its seed, incompressible, and never on disk.

It is the keystream of AES-128 in counter mode (NIST SP 800-38A, section 6.5) with an initial counter of zero and
the first 16 bytes of SHA-256("picolab payload <seed>") as the key. Anyone can make the same bytes without picolab:

    key=$(printf 'picolab payload 1' | sha256sum | head -c 32)
    head -c 104857600 /dev/zero | openssl enc -aes-128-ctr -K $key -iv 0

Of files that are uploaded at the same time, file i (from 0) has the seed (seed + i * 2^59) mod 2^63.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

PIECE_BYTES = 1 << 20
_FILE_STEP = 1 << 59


def seed_of_file(seed: int, index: int) -> int:
    """Return the payload seed of one of up to 16 files; that of file 0 is the trial's seed itself."""
    return (seed + index * _FILE_STEP) % (1 << 63)


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


class Keystream:
    """The payload of a seed, read from its start in pieces of any size."""

    def __init__(self, seed: int) -> None:
        key = hashlib.sha256(f"picolab payload {seed}".encode()).digest()[:16]
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
        self._zeros = bytes(PIECE_BYTES)

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        if size > len(self._zeros):
            self._zeros = bytes(size)
        return self._encryptor.update(memoryview(self._zeros)[:size])


def pieces(seed: int, size_bytes: int) -> Iterator[bytes]:
    """Yield a payload of `size_bytes` in pieces of 1 MiB (the last may be shorter), with constant memory."""
    keystream = Keystream(seed)
    left = size_bytes
    while left > 0:
        piece = keystream.read(min(PIECE_BYTES, left))
        left -= len(piece)
        yield piece
