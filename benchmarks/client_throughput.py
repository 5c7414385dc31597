"""Measure picolab's client against a null sink, beside curl and a bare `sendfile` in the same run.

    client_throughput.py                    rounds of 1 GiB: the client, curl -F, curl -T and sendfile take turns
    client_throughput.py --size 5G          the same with 5 GiB, and the client's peak memory
    client_throughput.py --download         downloads with every byte compared, beside curl, and the hash after them
    client_throughput.py --send-buffers     the client with several sizes of the socket's send buffer
    client_throughput.py --network          the client over loopback and into a private network, by turns (as root)

The sink is a process of its own that reads a request into one buffer and throws it away. The client makes its
payload while it sends; curl and sendfile read a file, which is sparse, so that no disk slows them down. Prints medians
of the rates, of the ratios of each round, and of the seconds of a processor for each GiB.
"""

import argparse
import json
import os
import re
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from picolab.config.sizes import MIB, parse_size
from picolab.machines.local.network import PrivateNetwork
from picolab.machines.local.network import make as make_network
from picolab.servers import client as client_module
from picolab.servers.calibration.program import SINK_PATH
from picolab.servers.client import Client
from picolab.servers.measurements import Limits, peak_rss_bytes
from picolab.servers.picoshare.adapter import PicoShare

LIMITS = Limits(stall_s=60, total_s=3600)
SEND_BUFFERS_KIB = (128, 256, 512, 1024, 4096)


def sink(address: str) -> None:
    """Answer every upload with success without keeping a byte of it, until the process is ended."""
    buffer = memoryview(bytearray(MIB))
    with socket.create_server((address, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            with connection:
                _swallow(connection, buffer)


def _swallow(connection: socket.socket, buffer: memoryview) -> None:
    head = b""
    while b"\r\n\r\n" not in head:
        received = connection.recv(65536)
        if not received:
            return
        head += received
    length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    left = int(length[1]) if length else 0
    left -= len(head) - head.index(b"\r\n\r\n") - 4
    while left > 0:
        count = connection.recv_into(buffer)
        if not count:
            return
        left -= count
    body = b'{"id":"abcdefghij"}'
    connection.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )


@contextmanager
def running_sink(network: PrivateNetwork | None = None) -> Iterator[str]:
    """Run the sink in a process of its own, in a private network if there is one, and yield its address."""
    address = network.server_address if network else "127.0.0.1"
    command = [sys.executable, __file__, "--sink", address]
    enter = network.enter if network else None
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=enter)
    try:
        assert process.stdout is not None
        yield f"http://{address}:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def upload(url: str, size_bytes: int, send_buffer_bytes: int) -> dict[str, float]:
    """Upload once in this process; return the rate and the peak memory of the process."""
    client_module.SEND_BUFFER_BYTES = send_buffer_bytes
    with Client(PicoShare(), url, "none") as client:
        used = time.process_time()
        measured = client.upload(1, size_bytes, LIMITS)
        used = time.process_time() - used
    assert measured.entry_id is not None, measured
    assert measured.response_s is not None and measured.first_byte_s is not None
    rate = size_bytes / MIB / (measured.response_s - measured.first_byte_s)
    return {"rate_mib_s": rate, "peak_rss_bytes": peak_rss_bytes(), "cpu_s": used}


def client_in_a_process(url: str, size_bytes: int, send_buffer_bytes: int) -> dict[str, float]:
    """Do `upload` in a fresh process, so that its peak memory is its own."""
    command = [sys.executable, __file__, "--upload", url, str(size_bytes), str(send_buffer_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


class Run(NamedTuple):
    """An upload or a download of somebody: MiB/s, and the CPU time of its process."""

    rate_mib_s: float
    cpu_s: float


def children_cpu_s() -> float:
    """Return the CPU time of the children of this process that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def curl(url: str, how: list[str], size_bytes: int) -> Run:
    """Upload or download once with curl; its rate is that from the first byte to the last, as for the client."""
    # Without `Expect:` curl would wait for a permission that the sink does not give.
    command = ["curl", "-sS", "-o", os.devnull, "-H", "Expect:", "-w", "%{time_pretransfer} %{time_total}", *how, url]
    used = children_cpu_s()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    begun, ended = map(float, done.stdout.split())
    return Run(size_bytes / MIB / (ended - begun), children_cpu_s() - used)


def sendfile(url: str, path: Path, size_bytes: int) -> Run:
    """Upload once with nothing but sendfile(2): no payload is made and none is copied to the kernel."""
    host, port = url.removeprefix("http://").split(":")
    used, begun, sent = time.process_time(), time.monotonic(), 0
    with path.open("rb") as file, socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {size_bytes}\r\n\r\n".encode())
        while sent < size_bytes:
            sent += os.sendfile(connection.fileno(), file.fileno(), sent, size_bytes - sent)
        connection.recv(65536)
    return Run(size_bytes / MIB / (time.monotonic() - begun), time.process_time() - used)


def show(runs: dict[str, list[Run]], size_bytes: int) -> None:
    """Print the medians of rates, CPU times and ratios."""
    for name, mine in runs.items():
        rates = [run.rate_mib_s for run in mine]
        used = statistics.median(run.cpu_s for run in mine) * 1024 * MIB / size_bytes
        print(
            f"  {name:8}  median {statistics.median(rates):6.0f} MiB/s  (from {min(rates):.0f} to {max(rates):.0f}), "
            f"{used:.2f} CPU s per GiB"
        )
    first, *others = runs
    for other in others:
        ratios = [a.rate_mib_s / b.rate_mib_s for a, b in zip(runs[first], runs[other], strict=True)]
        print(f"  {first} / {other} = {statistics.median(ratios):.2f}  (from {min(ratios):.2f} to {max(ratios):.2f})")


def in_turns(contestants: dict[str, Callable[[], Run]], rounds: int) -> dict[str, list[Run]]:
    """Run each contestant once a round, in another order every time."""
    runs: dict[str, list[Run]] = {name: [] for name in contestants}
    order = list(contestants)
    for number in range(rounds):
        for name in order if number % 2 else order[::-1]:
            runs[name].append(contestants[name]())
    return runs


def compare(size_bytes: int, rounds: int) -> None:
    """Print how fast each uploads, in interleaved rounds."""
    peaks = []
    with running_sink() as url, tempfile.NamedTemporaryFile(dir="/var/tmp", prefix="picolab-sparse-") as file:
        file.truncate(size_bytes)

        def client() -> Run:
            result = client_in_a_process(url, size_bytes, client_module.SEND_BUFFER_BYTES)
            peaks.append(result["peak_rss_bytes"])
            return Run(result["rate_mib_s"], result["cpu_s"])

        contestants: dict[str, Callable[[], Run]] = {
            "picolab": client,
            "curl -F": lambda: curl(url, ["-F", f"file=@{file.name}"], size_bytes),
            "curl -T": lambda: curl(url, ["-T", file.name], size_bytes),
            "sendfile": lambda: sendfile(url, Path(file.name), size_bytes),
        }
        # Its pages are made when they are first read.
        sendfile(url, Path(file.name), size_bytes)
        runs = in_turns(contestants, rounds)
    print(f"upload of {size_bytes / MIB:.0f} MiB to a null sink, {rounds} interleaved rounds, curl reads a sparse file")
    show(runs, size_bytes)
    print(f"  client's peak memory {max(peaks) / MIB:.1f} MiB")


def compare_downloads(size_bytes: int, rounds: int) -> None:
    """Print how fast a file comes back with every byte compared, and how long its hash takes afterwards."""
    hashed: list[float] = []
    port = free_port()
    environment = {"PATH": os.defpath, "PORT": str(port)}
    process = subprocess.Popen([sys.executable, "-I", "-S", SINK_PATH], env=environment)
    try:
        with Client(PicoShare(), f"http://127.0.0.1:{port}", "none") as client:
            while not client.is_ready():
                time.sleep(0.05)
            entry_id = client.upload(1, size_bytes, LIMITS, "keep.bin").entry_id
            assert entry_id is not None

            def download() -> Run:
                begun, used = time.monotonic(), time.process_time()
                got = client.download(entry_id, 1, size_bytes, LIMITS)
                used, taken_s = time.process_time() - used, time.monotonic() - begun
                assert got.matched and got.download_s is not None
                hashed.append(size_bytes / MIB / taken_s)
                return Run(size_bytes / MIB / got.download_s, used)

            url = f"http://127.0.0.1:{port}/-{entry_id}"
            runs = in_turns({"picolab": download, "curl": lambda: curl(url, [], size_bytes)}, rounds)
    finally:
        process.kill()
        process.wait()
    print(f"download of {size_bytes / MIB:.0f} MiB from a server's memory, {rounds} interleaved rounds")
    show(runs, size_bytes)
    print(f"  with its SHA-256, which is made after the measured time: {statistics.median(hashed):.0f} MiB/s")


def free_port() -> int:
    """Return a port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def try_send_buffers(size_bytes: int, rounds: int) -> None:
    """Print the client's rate with several sizes of the send buffer."""
    rates: dict[int, list[float]] = {}
    with running_sink() as url:
        for _ in range(rounds):
            for kib in SEND_BUFFERS_KIB:
                rates.setdefault(kib, []).append(client_in_a_process(url, size_bytes, kib * 1024)["rate_mib_s"])
    for kib, values in rates.items():
        print(f"  send buffer {kib:5} KiB  median {statistics.median(values):6.0f} MiB/s  (best {max(values):.0f})")


def compare_networks(size_bytes: int, rounds: int) -> None:
    """Print the client's rates over loopback and into a private network, by turns, and the median of their ratios."""
    network = make_network(f"picolab-benchmark-{os.getpid()}")
    rates: dict[str, list[float]] = {"loopback": [], "private network": []}
    try:
        with running_sink() as loopback, running_sink(network) as private:
            for number in range(rounds):
                turns = [("loopback", loopback), ("private network", private)]
                for name, url in turns if number % 2 else turns[::-1]:
                    result = client_in_a_process(url, size_bytes, client_module.SEND_BUFFER_BYTES)
                    rates[name].append(result["rate_mib_s"])
    finally:
        network.close()
    for name, values in rates.items():
        median = statistics.median(values)
        print(f"  {name:15}  median {median:6.0f} MiB/s  (from {min(values):.0f} to {max(values):.0f})")
    ratios = [mine / other for mine, other in zip(rates["private network"], rates["loopback"], strict=True)]
    print(f"  private / loopback = {statistics.median(ratios):.3f}, the median of {rounds} pairs")


def main() -> None:
    """Do what the arguments say."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="1G", help="of an upload")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--download", action="store_true", help="compare downloads instead")
    parser.add_argument("--send-buffers", action="store_true", help="compare send buffers instead")
    parser.add_argument("--network", action="store_true", help="compare loopback and a private network instead")
    parser.add_argument("--sink", metavar="ADDRESS", help="be the sink: print the port, then serve")
    parser.add_argument("--upload", nargs=3, metavar=("URL", "BYTES", "BUFFER"), help="upload once, print JSON")
    wanted = parser.parse_args()
    if wanted.sink:
        sink(wanted.sink)
    elif wanted.upload:
        url, size, buffer = wanted.upload
        print(json.dumps(upload(url, int(size), int(buffer))))
    elif wanted.network:
        compare_networks(parse_size(wanted.size), wanted.rounds)
    elif wanted.send_buffers:
        try_send_buffers(parse_size(wanted.size), wanted.rounds)
    elif wanted.download:
        compare_downloads(parse_size(wanted.size), wanted.rounds)
    else:
        if shutil.which("curl") is None:
            sys.exit("curl is needed for the comparison: install it with your system's package manager")
        begun = time.monotonic()
        compare(parse_size(wanted.size), wanted.rounds)
        print(f"  took {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
