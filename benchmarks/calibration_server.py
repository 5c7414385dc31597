#!/usr/bin/env python3
"""Measure the calibration server: upload rate by phase, download rate, peak memory, and its pacing.

A plain socket client, so that no client library is part of the figure. Prints one line a run; `--pacing`
compares paced uploads with what the knobs promise. The data goes to a fresh folder inside `--folder`.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from picolab.servers.calibration.program import server_path

MIB = 1 << 20
BLOCK = os.urandom(MIB)
HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.bin"\r\n\r\n'
TAIL = b"\r\n--b--\r\n"


@contextmanager
def running_server(folder: Path, knobs: dict[str, object]) -> Iterator[tuple[int, int]]:
    """Start a server with a fresh data folder in folder; yield its port and pid."""
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        settings = {"PORT": "0", "PS_SHARED_SECRET": "bench", "TMPDIR": fresh}
        process = subprocess.Popen(
            [sys.executable, server_path(), "-db", f"{fresh}/store.db"],
            env=os.environ | settings | {"PICOLAB_CALIBRATION": json.dumps(knobs)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if found := re.search(r"listening on 127\.0\.0\.1:(\d+)", line):
                    break
            else:
                raise SystemExit("the calibration server did not start")
            yield int(found[1]), process.pid
        finally:
            process.kill()
            process.communicate()


def request(port: int, head: str) -> socket.socket:
    """Open a connection and send a request's head."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(head.replace("\n", "\r\n").encode())
    return connection


def answer(connection: socket.socket) -> tuple[dict[str, str], bytes]:
    """Read an answer's head; return headers and what came of the body. Ends the program unless it is 200."""
    text = b""
    while b"\r\n\r\n" not in text:
        piece = connection.recv(65536)
        if not piece:
            raise SystemExit("the server closed the connection")
        text += piece
    head, _, rest = text.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    if " 200 " not in status:
        raise SystemExit(f"{status}: {rest.decode()}")
    return dict(line.split(": ", 1) for line in lines), rest


def upload(port: int, cookie: str, size_mib: int) -> tuple[float, float, str]:
    """Upload; return seconds of transfer (until nothing is unacknowledged) and of commit, and the id."""
    length = len(HEAD) + size_mib * MIB + len(TAIL)
    connection = request(
        port,
        f"POST /api/entry?expiration=2999-12-31T00:00:00Z HTTP/1.1\nHost: x\nCookie: {cookie}\n"
        f"Content-Type: multipart/form-data; boundary=b\nContent-Length: {length}\n\n",
    )
    with connection:
        start_s = time.monotonic()
        connection.sendall(HEAD)
        for _ in range(size_mib):
            connection.sendall(BLOCK)
        connection.sendall(TAIL)
        while struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0" * 4))[0]:
            time.sleep(0.0002)
        sent_s = time.monotonic()
        entry_id = json.loads(answer(connection)[1])["id"]
        return sent_s - start_s, time.monotonic() - sent_s, entry_id


def download(port: int, entry_id: str) -> float:
    """Download without looking at the bytes; return the seconds."""
    start_s = time.monotonic()
    with request(port, f"GET /-{entry_id} HTTP/1.1\nHost: x\n\n") as connection:
        headers, rest = answer(connection)
        left = int(headers["Content-Length"]) - len(rest)
        buffer = bytearray(MIB)
        while left and (count := connection.recv_into(buffer)):
            left -= count
    return time.monotonic() - start_s


def log_in(port: int) -> str:
    """Return the cookie."""
    body = '{"sharedSecretKey": "bench"}'
    head = f"POST /api/auth HTTP/1.1\nHost: x\nContent-Length: {len(body)}\n\n{body}"
    with request(port, head) as connection:
        return answer(connection)[0]["Set-Cookie"].split(";")[0]


def peak_rss_mib(pid: int) -> float:
    """Return VmHWM of a process."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else float("nan")


def main() -> None:
    """Run the measurements that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes-mib", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pacing", action="store_true", help="compare paced uploads with the knobs")
    parser.add_argument("--rates", type=float, nargs="+", default=[8, 50, 200], help="MiB/s of --pacing")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="where the data goes")
    options = parser.parse_args()
    if options.pacing:
        for rate in options.rates:
            for knob in ("transfer_mib_s", "commit_mib_s"):
                measure_pacing(options.folder, knob, rate, options.repeats)
    else:
        for size_mib in options.sizes_mib:
            measure_speed(options.folder, size_mib, options.repeats)


def measure_speed(folder: Path, size_mib: int, repeats: int) -> None:
    """Print the rates of uploads at full speed, each to a fresh server."""
    for _ in range(repeats):
        with running_server(folder, {}) as (port, pid):
            transfer_s, commit_s, entry_id = upload(port, log_in(port), size_mib)
            download_s = download(port, entry_id)
            phases_s = {
                "transfer": transfer_s,
                "commit": commit_s,
                "upload": transfer_s + commit_s,
                "download": download_s,
            }
            rates = ", ".join(f"{name} {size_mib / took_s:.0f}" for name, took_s in phases_s.items())
            print(f"{size_mib} MiB: {rates} MiB/s, peak RSS {peak_rss_mib(pid):.1f} MiB", flush=True)


def measure_pacing(folder: Path, knob: str, rate_mib_s: float, repeats: int) -> None:
    """Print how far the phase that a knob paces is from its promise, as a client sees it."""
    size_mib = max(20, round(2 * rate_mib_s))
    with running_server(folder, {knob: rate_mib_s}) as (port, _):
        cookie = log_in(port)
        for _ in range(repeats):
            transfer_s, commit_s, _entry_id = upload(port, cookie, size_mib)
            took_s = transfer_s if knob == "transfer_mib_s" else commit_s
            error = took_s * rate_mib_s / size_mib - 1
            print(f"{knob} {rate_mib_s:g}, {size_mib} MiB: time error {error:+.3%}", flush=True)


if __name__ == "__main__":
    main()
