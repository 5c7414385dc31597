"""The payload: reproducible without picolab, incompressible, the same in pieces of any size."""

import hashlib
import lzma
import shutil
import subprocess
import zlib
from collections import Counter

import pytest

from picolab.servers.payload import PIECE_BYTES, Keystream, pieces, seed_of_file

MIB = 1 << 20


def payload(seed: int, size: int) -> bytes:
    return b"".join(pieces(seed, size))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
@pytest.mark.parametrize(("seed", "size"), [(1, 3 * MIB + 5), (7_000_012, 16), ((1 << 63) - 1, 4097), (0, 1)])
def test_openssl_makes_the_same_bytes(seed: int, size: int) -> None:
    key = hashlib.sha256(f"picolab payload {seed}".encode()).hexdigest()[:32]
    made = subprocess.run(
        ["openssl", "enc", "-aes-128-ctr", "-K", key, "-iv", "0" * 32],
        input=bytes(size),
        capture_output=True,
        timeout=60,
        check=True,
    )

    assert payload(seed, size) == made.stdout


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_recipe_in_the_docstring_works_in_a_shell() -> None:
    from picolab.servers import payload as module

    lines = [line.strip() for line in (module.__doc__ or "").splitlines()]
    recipe = [line for line in lines if line.startswith(("key=", "head -c"))]
    assert len(recipe) == 2
    script = "\n".join(recipe).replace("104857600", str(MIB))
    made = subprocess.run(["bash", "-c", script], capture_output=True, timeout=60, check=True)

    assert made.stdout == payload(1, MIB)


def test_known_digest() -> None:
    """Whoever changes the bytes of a seed makes old records unrepeatable: this must never change."""
    assert hashlib.sha256(payload(1, MIB)).hexdigest() == (
        "3afd0b094ecb4ee0a8d07e629c86472afb8db9daca04ab4c70334b82fcf05db9"
    )


def test_nothing_can_compress_it() -> None:
    data = payload(3, 2 * MIB)

    assert len(zlib.compress(data, 9)) > len(data)
    assert len(lzma.compress(data, preset=1)) > len(data)
    blocks = [data[start : start + 16] for start in range(0, len(data), 16)]
    assert len(set(blocks)) == len(blocks), "no block comes twice, so nothing can store it once"
    counts = Counter(data)
    assert len(counts) == 256
    mean = len(data) / 256
    # Six standard deviations of a binomial count: the bytes are fixed, so this holds for ever or never.
    assert all(abs(count - mean) < 6 * mean**0.5 for count in counts.values())


def test_any_pieces_make_the_same_stream() -> None:
    whole = payload(5, MIB + 100)
    for sizes in ([1] * 100 + [MIB], [17, 3, 0, 65536, MIB + 100 - 65556], [MIB + 100]):
        stream = Keystream(5)
        assert b"".join(stream.read(size) for size in sizes) == whole


def test_chunk_from_the_middle_needs_nothing_before_it() -> None:
    """Counter mode: block n is the cipher of n alone. So any chunk can be made without the ones before it."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    whole = payload(9, 2 * MIB)
    key = hashlib.sha256(b"picolab payload 9").digest()[:16]
    for start in (0, 16, MIB, 2 * MIB - 32):
        counter = (start // 16).to_bytes(16, "big")
        chunk = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor().update(bytes(32))
        assert chunk == whole[start : start + 32]


@pytest.mark.parametrize("size", [1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
def test_pieces_have_the_size_that_was_asked_for(size: int) -> None:
    lengths = [len(piece) for piece in pieces(1, size)]

    assert sum(lengths) == size
    assert all(length == PIECE_BYTES for length in lengths[:-1]) and 0 < lengths[-1] <= PIECE_BYTES


@pytest.mark.parametrize("seed", [0, 1, 7 << 40, (1 << 63) - 1])
def test_each_file_of_a_trial_has_its_own_seed(seed: int) -> None:
    seeds = [seed_of_file(seed, index) for index in range(16)]

    assert seeds[0] == seed and len(set(seeds)) == 16
    assert all(0 <= one < 1 << 63 for one in seeds)
    assert seed_of_file(1, 3) == 1 + 3 * 2**59, "as documented"


def test_seeds_and_lengths() -> None:
    assert payload(1, 1000) == payload(1, 2000)[:1000]
    assert len({payload(seed, 64) for seed in range(500)}) == 500
    assert list(pieces(1, 0)) == []
