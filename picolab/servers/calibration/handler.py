"""HTTP: which request gets which answer (ROUTES is the table)."""

from __future__ import annotations

import base64
import errno
import hashlib
import hmac
import http.client
import http.server
import io
import json
import os
import re
import secrets
import socket
import sqlite3
import time
import urllib.parse
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from picolab.servers.calibration.body import BadRequest, Body, UploadBody, wait_forever
from picolab.servers.calibration.log import log
from picolab.servers.calibration.memory import held_memory, memory_to_need
from picolab.servers.calibration.multipart import MultipartReader
from picolab.servers.calibration.pacing import Pace
from picolab.servers.calibration.storage import CHUNK_BYTES, DISK_FULL, Entry, Spool

if TYPE_CHECKING:
    from picolab.servers.calibration.server import Server

VERSION = "1"
MIB = 1 << 20
LINGER_S = 0.5  # Go's pause between its FIN and a close that may reset the connection
ID_LETTERS = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"


def parse_expiration(text: str) -> str:
    """Check that a time is RFC 3339 and at least an hour ahead. Raises ValueError with a sentence."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.\d+)?([Zz]|[+-]\d\d:\d\d)", text)
    if not match:
        raise ValueError(f"cannot parse {text!r} as RFC3339" if text else "missing required parameter")
    day, clock, zone = match.groups()
    moment = datetime.fromisoformat(f"{day}T{clock}{'+00:00' if zone in 'Zz' else zone}")
    if moment.timestamp() - time.time() < 3600:
        raise ValueError("expire time must be at least one hour in the future")
    return text


def parse_range(text: str, size: int) -> tuple[int, int] | None:
    """Return (start, end) of a single byte range; None, for the whole file, if it is none.

    Raises ValueError if it lies outside the file.
    """
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", text.replace(" ", ""))
    if not match or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
    if start >= end:
        raise ValueError("invalid range: failed to overlap")
    return start, end


class Form:
    """The fields of an upload but its bytes."""

    filename: str | None = None
    content_type: str = "application/octet-stream"
    note: str = ""


class Refusal(Exception):
    """A request is answered with this status and sentence."""

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = headers


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection. ROUTES below is the table of what is answered where."""

    protocol_version = "HTTP/1.1"
    server_version = f"picolab-calibration-server/{VERSION}"
    disable_nagle_algorithm = True
    server: Server
    rfile: io.BufferedReader
    _linger = False

    def _route(self) -> None:
        path, _, self._query = self.path.partition("?")
        with self.server.request_in_flight():
            self._body = Body(self)
            try:
                for pattern, needs_login, methods in ROUTES:
                    if match := pattern.fullmatch(path):
                        if self.command not in methods:
                            self._reply(405)
                        elif needs_login and not self._is_logged_in():
                            raise Refusal(401, "Authentication required")
                        else:
                            methods[self.command](self, *match.groups())
                        return
                raise Refusal(404, "404 page not found")
            except Refusal as refusal:
                self._reply(refusal.status, f"{refusal}\n".encode(), headers=refusal.headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _route

    # -- the calls, in the order of ROUTES

    def _home(self) -> None:
        page = "<!doctype html><title>picolab</title><p>The calibration server: not a benchmark target.</p>\n"
        self._reply(200, page.encode(), "text/html; charset=utf-8")

    def _log_in(self) -> None:
        text = bytearray(64 << 10)
        size = 0
        try:
            while count := self._body.readinto(memoryview(text)[size:]):
                size += count
            given = json.loads(text[:size].decode()).get("sharedSecretKey", "")
            if size == len(text) or not isinstance(given, str):
                raise ValueError
        except (BadRequest, ValueError, AttributeError):
            raise Refusal(400, "malformed request") from None
        if not given:
            raise Refusal(400, "invalid shared secret")
        if not hmac.compare_digest(derive_cookie(given), self.server.cookie):
            raise Refusal(401, "incorrect shared secret")
        attributes = "Path=/; Max-Age=2592000; HttpOnly; SameSite=Strict"
        self._reply(200, headers={"Set-Cookie": f"sharedSecret={self.server.cookie.decode()}; {attributes}"})

    def _upload(self) -> None:
        knobs = self.server.knobs
        try:
            expiration = parse_expiration(dict(urllib.parse.parse_qsl(self._query)).get("expiration", ""))
        except ValueError as error:
            raise Refusal(400, f"invalid expiration URL parameter: {error}") from None
        with Spool(self.server.quota) as spool, UploadBody(self) as body:
            self._body = body
            try:
                form = self._receive(body, spool)
                if knobs.stall_in_commit:
                    log("stall_in_commit: this upload is never answered")
                    wait_forever()
                if knobs.status is not None:
                    message = knobs.status_message or http.client.responses.get(knobs.status, "")
                    raise Refusal(knobs.status, message)
                entry_id = self._commit(form, spool, expiration, body)
            except ConnectionError:
                log(f"the client went away after {body.received_bytes} bytes of the body")
                raise
            except (BadRequest, sqlite3.Error, OSError) as error:
                raise Refusal(400, f"invalid request: {in_words(error)}") from error
            self._reply(200, json.dumps({"id": entry_id}).encode(), "application/json")

    def _delete(self, entry_id: str) -> None:
        self.server.store.delete(checked_id(entry_id))
        self._reply(200)

    def _download(self, entry_id: str) -> None:
        entry = self.server.store.find(checked_id(entry_id))
        if entry is None:
            raise Refusal(404, "entry not found")
        size = entry.size_bytes
        try:
            part = parse_range(self.headers.get("Range", ""), size)
        except ValueError as error:
            raise Refusal(416, str(error), {"Content-Range": f"bytes */{size}"}) from None
        name = entry.filename.replace("\\", "\\\\").replace('"', '\\"').encode().decode("latin-1")
        headers = {"Accept-Ranges": "bytes", "Content-Disposition": f'filename="{name}"'}
        start, end = part or (0, size)
        if part:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        knobs = self.server.knobs
        pace = Pace("download", knobs)
        with held_memory(knobs.download_ballast_mib):
            self.wfile.write(self._head(206 if part else 200, end - start, entry.content_type, headers))
            start_s = time.monotonic()
            schedule = pace.schedule("download_mib_s", start_s)
            sent = 0
            for chunk in self.server.store.read(entry_id, start, end):
                while chunk:
                    due = schedule.wait(sent, len(chunk))
                    self.connection.sendall(chunk[:due])
                    sent += due
                    chunk = chunk[due:]
            end_s = time.monotonic()
        schedule.check(sent, end_s)
        log(f"sent {sent} bytes in {end_s - start_s:.4f} s")

    # -- the two phases of an upload

    def _receive(self, body: UploadBody, spool: Spool) -> Form:
        """Transfer: spool the file part, keep the small fields, and read the body to its end."""
        if self.headers.get_content_type() != "multipart/form-data":
            raise BadRequest("request Content-Type isn't multipart/form-data")
        boundary = self.headers.get_boundary()
        if not boundary:
            raise BadRequest("no multipart boundary param in Content-Type")
        form = Form()
        reader = MultipartReader(body.readinto, boundary)
        while (part := reader.next_part()) is not None:
            name, filename = part.get_param("name", header="content-disposition"), part.get_filename()
            is_file = name == "file" and filename is not None and form.filename is None
            small = bytearray()
            for piece in reader.content():
                if is_file:
                    spool.write(piece)
                elif name == "note" and len(small) + len(piece) > MIB:
                    raise BadRequest("multipart: message too large")
                elif name == "note":
                    small += piece
            if is_file:
                form.filename = Path(filename or "").name
                form.content_type = " ".join(part.get("Content-Type", form.content_type).split())
            elif name == "note":
                form.note = small.decode("utf-8", "replace")
        body.check()
        log(f"received {body.received_bytes} bytes in {body.last_read_s - body.first_read_s:.4f} s")
        if form.filename is None:
            raise BadRequest("http: no such file")
        if not spool.size_bytes:
            raise BadRequest("file must be non-empty")
        if form.filename.startswith("."):
            raise BadRequest("filename cannot begin with dots")
        if not form.filename or len(form.filename) > 255 or not form.filename.isprintable():
            raise BadRequest("filename must have 1 to 255 printable characters")
        return form

    def _commit(self, form: Form, spool: Spool, expiration: str, body: UploadBody) -> str:
        """Commit: copy the spooled file into the database, a chunk at a time; return the entry's id."""
        server, size, start_s = self.server, spool.size_bytes, body.last_read_s
        entry_id = "".join(secrets.choice(ID_LETTERS) for _ in range(10))
        entry = Entry(entry_id, form.filename or "", form.content_type, size)
        schedule = body.pace.schedule("commit_mib_s", start_s)
        corrupt = server.knobs.corrupt_byte
        corrupt_at = size + corrupt if corrupt is not None and corrupt < 0 else corrupt
        if corrupt_at is not None and not 0 <= corrupt_at < size:
            log(f"corrupt_byte: {corrupt} lies outside this file of {size} bytes; nothing is flipped")
        with server.store.session() as db:
            try:
                for index, chunk in enumerate(spool.chunks()):
                    at = index * CHUNK_BYTES
                    if corrupt_at is not None and 0 <= corrupt_at - at < len(chunk):
                        chunk[corrupt_at - at] ^= 0xFF
                    server.quota.check(len(chunk))
                    schedule.wait_for(at)
                    server.store.add_chunk(db, entry_id, index, chunk)
                server.store.add_entry(db, entry, form.note, expiration)
            except (BadRequest, sqlite3.Error):
                with suppress(sqlite3.Error):  # a full disk may not let it
                    server.store.delete(entry_id)
                raise
        spool.unlink()
        need_mib = server.knobs.memory_need_mib
        # At the end, when the process has taken all that the commit itself needs.
        lacking_mib = 0.0 if need_mib is None else memory_to_need(need_mib, server.knobs.memory_need_percent)
        with held_memory(lacking_mib):
            schedule.wait_for(size)
        end_s = time.monotonic()
        schedule.check(size, end_s)
        log(f"committed {entry_id}: {size} bytes in {end_s - start_s:.4f} s")
        return entry_id

    # -- answers

    def _is_logged_in(self) -> bool:
        for cookie in self.headers.get("Cookie", "").split(";"):
            name, _, value = cookie.strip().partition("=")
            if name == "sharedSecret" and hmac.compare_digest(value.encode(), self.server.cookie):
                return True
        return False

    def _reply(
        self,
        status: int,
        content: bytes = b"",
        content_type: str = "text/plain; charset=utf-8",
        headers: dict[str, str] | None = None,
    ) -> None:
        self._body.discard()
        if not self._body.complete:
            self.close_connection = self._linger = True
        head = self._head(status, len(content), content_type, headers or {})
        self.wfile.write(head if self.command == "HEAD" else head + content)

    def _head(self, status: int, size: int, content_type: str, headers: dict[str, str]) -> bytes:
        """Return an answer's head, and write the access log."""
        line = json.dumps(self.requestline)  # quoted, control characters escaped
        when = time.strftime("%d/%b/%Y:%H:%M:%S %z")
        with suppress(OSError):
            print(f"{self.client_address[0]} - - [{when}] {line} {status} {size}", flush=True)
        fixed = {"Server": self.server_version, "Date": self.date_time_string()}
        fixed["Content-Length"] = str(size)
        if size:
            fixed["Content-Type"] = content_type
        if self.close_connection:
            fixed["Connection"] = "close"
        lines = [f"{name}: {value}\r\n" for name, value in {**fixed, **headers}.items()]
        phrase = http.client.responses.get(status, "")
        return f"HTTP/1.1 {status} {phrase}\r\n{''.join(lines)}\r\n".encode("latin-1", "replace")

    def proceed(self) -> None:
        """Ask the client for the body it holds back."""
        self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def handle_expect_100(self) -> bool:
        """Leave the 100 to the first read of the body, so that a refused client sends nothing."""
        return True

    def log_message(self, format: str, *args: object) -> None:
        """Send what the base class has to say (a request it cannot parse) to the application log."""
        log(format % args)

    def finish(self) -> None:
        """Like Go, give the client time to read an answer that came before the end of its body."""
        super().finish()
        if self._linger:
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_WR)
                time.sleep(LINGER_S)


# Path, whether it needs the cookie, method -> call with the path's groups. Else 405, for another path 404.
ROUTES: list[tuple[re.Pattern[str], bool, dict[str, Callable[..., None]]]] = [
    (re.compile(r"/"), False, {"GET": Handler._home}),
    (re.compile(r"/api/auth"), False, {"POST": Handler._log_in}),
    (re.compile(r"/api/entry"), True, {"POST": Handler._upload}),
    (re.compile(r"/api/entry/([^/]+)"), True, {"DELETE": Handler._delete}),
    (re.compile(r"/-([^/]*)(?:/.*)?"), False, {"GET": Handler._download}),
]


def derive_cookie(secret: str) -> bytes:
    """Return the cookie's value for a shared secret: PicoShare's fixed salt and rounds, in base64."""
    return base64.b64encode(hashlib.pbkdf2_hmac("sha256", secret.encode(), b"\1\2\3\4", 100, dklen=32))


def checked_id(text: str) -> str:
    """Return text if it can be an entry's id, else raise Refusal."""
    if len(text) != 10 or not set(text) <= set(ID_LETTERS):
        raise Refusal(400, f"bad entry ID: {text!r}")
    return text


def in_words(error: Exception) -> str:
    """Return what went wrong with an upload as PicoShare words it."""
    if isinstance(error, sqlite3.Error):
        return f"database error: {error}"
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return DISK_FULL
        return f"open {error.filename}: {os.strerror(error.errno or 0).lower()}"
    return str(error)
