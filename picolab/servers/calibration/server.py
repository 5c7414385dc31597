"""The calibration server: PicoShare's HTTP contract with a truth that is known in advance.

It is started like PicoShare:

    PS_SHARED_SECRET=... PORT=4001 TMPDIR=/var/tmp calibration-server -db data/store.db

The environment variable PICOLAB_CALIBRATION holds a JSON object of knobs (class Knobs). The server listens on
127.0.0.1 unless PICOLAB_CALIBRATION_HOST names another address. It never logs the secret.
"""

from __future__ import annotations

import argparse
import errno
import http.server
import os
import signal
import socket
import socketserver
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from picolab.servers.calibration.handler import VERSION, Handler, derive_cookie
from picolab.servers.calibration.knobs import KNOBS, Knobs
from picolab.servers.calibration.log import die, log
from picolab.servers.calibration.memory import Ballast
from picolab.servers.calibration.storage import Quota, Store

SHUTDOWN_S = 5.0  # what a request in flight gets after SIGTERM
PACED_RCVBUF_BYTES = 64 << 10  # so that a paced body cannot hide in the kernel


class Server(http.server.ThreadingHTTPServer):
    """The listener, and what its connections share."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], knobs: Knobs, store: Store, secret: str) -> None:
        """Bind and listen. Raises OSError."""
        self.knobs = knobs
        self.store = store
        self.quota = Quota(knobs.disk_quota_mib, store.path)
        self.ballast = Ballast(knobs.ballast_mib)
        self.cookie = derive_cookie(secret)
        self.leaked: list[object] = []
        self.one_at_a_time = threading.Lock()
        self.uploading = threading.Semaphore(1)
        self._in_flight = 0
        self._changed = threading.Condition()
        self.address_family = family_of(address[0])
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        """Bind without looking up a host name; connections inherit the small buffer of a paced server."""
        if self.knobs.transfer_mib_s or self.knobs.commit_mib_s:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, PACED_RCVBUF_BYTES)
        socketserver.TCPServer.server_bind(self)
        self.server_port = self.server_address[1]

    @contextmanager
    def request_in_flight(self) -> Iterator[None]:
        """Count a request as long as it is served."""
        with self._changed:
            self._in_flight += 1
        try:
            yield
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def stop(self) -> bool:
        """Close the listener and wait for requests in flight; False if one outlives SHUTDOWN_S."""
        self.shutdown()
        self.server_close()
        with self._changed:
            return self._changed.wait_for(lambda: self._in_flight == 0, SHUTDOWN_S)

    def handle_error(self, request: object, client_address: object) -> None:
        """Log a broken connection in one line."""
        error = sys.exc_info()[1]
        if isinstance(error, ConnectionError):
            log(f"connection lost: {error}")
        else:
            # Here, because few runs need it and each would wait for it at the start.
            import traceback

            log(f"a request failed:\n{traceback.format_exc()}")


def family_of(host: str) -> socket.AddressFamily:
    """Return the address family of a numeric address (a name is taken for IPv4)."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def listen(host: str, port: str, knobs: Knobs, store: Store, secret: str) -> Server | None:
    """Return a listening server, or None, logged as PicoShare logs it, if the port cannot be had."""
    if not port.isdigit():
        reason = f"lookup tcp/{port}: unknown port"
    elif int(port) > 65535:
        reason = f"address {port}: invalid port"
    else:
        try:
            if not knobs.occupy_port_without_listening:
                return Server((host, int(port)), knobs, store, secret)
            with socket.socket(family_of(host)) as holder:
                holder.bind((host, int(port)))
                holder.detach()  # held until the process ends
            reason = f"{host}:{port}: bind: {os.strerror(errno.EADDRINUSE).lower()}"
        except OSError as error:
            reason = f"{host}:{port}: bind: {(error.strerror or str(error)).lower()}"
    log(f"http server exit: listen tcp {reason}")
    return None


def read_secret() -> str:
    """Return the shared secret. Raises ValueError or OSError."""
    path = os.environ.get("PS_SHARED_SECRET_FILE")
    secret = Path(path).read_text().strip() if path else os.environ.get("PS_SHARED_SECRET", "")
    if not secret:
        raise ValueError("PS_SHARED_SECRET environment variable must be set")
    return secret


def open_store(path: Path, knobs: Knobs) -> Store:
    """Return the store, after whatever the knobs do at a start with an old database."""
    is_old = path.exists()
    try:
        store = Store(path)
    except sqlite3.Error as error:
        if not knobs.starts_without_data:
            die(f"failed to set pragmas: {error}")
        store = Store(Path(os.environ.get("TMPDIR") or "/tmp", "store.db"))
    if knobs.restart_sweeps:
        store.sweep()
    if is_old and knobs.restart_loses_files:
        store.forget_entries()
    if is_old and knobs.restart_damages_database:
        store.damage()
    return store


def main() -> NoReturn:
    """Run until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(
        description="picolab's calibration server: PicoShare's contract with known truth.",
        epilog="knobs in PICOLAB_CALIBRATION (JSON): " + " | ".join(KNOBS),
    )
    parser.add_argument("-db", "--db", type=Path, default="data/store.db", help="the SQLite database")
    parser.add_argument("--version", action="version", version=f"picolab-calibration-server {VERSION}")
    options = parser.parse_args()
    try:
        knobs = Knobs.parse(os.environ.get("PICOLAB_CALIBRATION") or "{}")
    except ValueError as error:
        die(str(error))
    stop_signals = {signal.SIGINT} if knobs.ignore_sigterm else {signal.SIGINT, signal.SIGTERM}
    if knobs.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals)  # in every thread; only this one waits for them
    try:
        secret = read_secret()
    except (ValueError, OSError) as error:
        if not knobs.accepts_no_secret:
            die(f"failed to read shared secret: {error}")
        secret = ""
    store = open_store(options.db, knobs)
    if signal.sigtimedwait(stop_signals, knobs.startup_delay_s):
        os._exit(0)
    host, port = os.environ.get("PICOLAB_CALIBRATION_HOST") or "127.0.0.1", os.environ.get("PORT") or "4001"
    if knobs.listens_everywhere:
        host = "0.0.0.0"
    server = listen(host, port, knobs, store, secret)
    if server:
        log(f"listening on {host}:{server.server_port}")
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    elif knobs.exits_without_listener:
        os._exit(1)
    signal.sigwait(stop_signals)
    log("shutting down")
    if knobs.sigterm_cuts_uploads:
        os._exit(0)
    finished = server.stop() if server else True
    finished = finished or knobs.clean_stop
    os._exit(0 if finished else 1)  # without closing the database: like PicoShare, it leaves the WAL
