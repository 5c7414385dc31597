"""The calibration server as a real process on real sockets: PicoShare's contract, and every knob's truth."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import random
import re
import signal
import socket
import sqlite3
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from conftest import Delays

from picolab.servers.calibration.handler import LINGER_S
from picolab.servers.calibration.knobs import KNOBS, Knobs
from picolab.servers.calibration.memory import memory_limit_mib, memory_to_need
from picolab.servers.calibration.multipart import MultipartReader
from picolab.servers.calibration.pacing import Pace
from picolab.servers.calibration.program import server_path

pytestmark = pytest.mark.paced

MIB = 1 << 20
SECRET = "correct-horse-battery"
FAR = "2999-12-31T00:00:00Z"
DISK_FULL = "invalid request: database error: database or disk is full\n"
DOCS = Path(__file__).parents[2] / "docs" / "calibration-server.md"


def eventually(condition: Callable[[], object], what: str) -> None:
    """Poll until condition is true; fail after a time that only a broken server needs."""
    give_up_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up_s, f"never happened: {what}"
        time.sleep(0.005)


@dataclass
class Running:
    """A server process and where it keeps things."""

    process: subprocess.Popen[bytes]
    folder: Path
    port: int = 0

    @property
    def log(self) -> str:
        return (self.folder / "stderr").read_text()

    @property
    def access_log(self) -> str:
        return (self.folder / "stdout").read_text()

    @property
    def temp_files(self) -> list[Path]:
        return list((self.folder / "tmp").iterdir())

    def rows(self, query: str) -> list[tuple[object, ...]]:
        db = sqlite3.connect(self.folder / "data" / "store.db")
        try:
            return db.execute(query).fetchall()
        finally:
            db.close()

    @contextmanager
    def client(self, log_in: bool = True) -> Iterator[httpx.Client]:
        url = f"http://127.0.0.1:{self.port}"
        with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
            if log_in:
                assert client.post("/api/auth", json={"sharedSecretKey": SECRET}).status_code == 200
            yield client

    def upload(self, content: bytes, name: str = "f.bin") -> httpx.Response:
        with self.client() as client:
            return client.post("/api/entry", params={"expiration": FAR}, files={"file": (name, content)})

    def raw(self, head: str, cookie: bool = True) -> socket.socket:
        """Open a connection and send a request's head."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        login = f"Cookie: sharedSecret={cookie_value()}\r\n" if cookie else ""
        connection.sendall(f"{head}\r\nHost: x\r\n{login}\r\n".encode())
        return connection

    def raw_upload(self, length: int, cookie: bool = True, more: str = "") -> socket.socket:
        return self.raw(
            f"POST /api/entry?expiration={FAR} HTTP/1.1\r\n{more}Content-Length: {length}\r\n"
            "Content-Type: multipart/form-data; boundary=b",
            cookie,
        )

    def memory_bytes(self, field: str) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)
        assert found
        return int(found[1]) * 1024

    def logged_seconds(self, word: str) -> list[float]:
        return [float(found) for found in re.findall(rf"{word} .*? in ([\d.]+) s", self.log)]


StartServer = Callable[..., Running]


@contextmanager
def servers_in(place: Path) -> Iterator[StartServer]:
    """Start servers with knobs; kill each by its pid at the end, also after a failure."""
    started: list[Running] = []

    def launch(
        knobs: dict[str, object] | str | None = None,
        *,
        wait: bool = True,
        arguments: list[str] | None = None,
        through: list[str] | None = None,
        **environment: str | None,
    ) -> Running:
        folder = place / f"server-{len(started)}"
        (folder / "tmp").mkdir(parents=True)
        settings: dict[str, str | None] = {
            "PATH": os.environ["PATH"],
            "PORT": "0",
            "PS_SHARED_SECRET": SECRET,
            "TMPDIR": str(folder / "tmp"),
            "PICOLAB_CALIBRATION": knobs if isinstance(knobs, str) else json.dumps(knobs or {}),
            **environment,
        }
        command = [*(through or []), sys.executable, str(server_path())]
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            process = subprocess.Popen(
                [*command, *(arguments or ["-db", str(folder / "data" / "store.db")])],
                env={name: value for name, value in settings.items() if value is not None},
                stdout=out,
                stderr=err,
                cwd=folder,
            )
        running = Running(process, folder)
        started.append(running)
        if wait:
            listening = re.compile(r"listening on \S+:(\d+)\n")
            eventually(lambda: listening.search(running.log) or process.poll() is not None, "listening")
            found = listening.search(running.log)
            assert found, running.log
            running.port = int(found[1])
        return running

    try:
        yield launch
    finally:
        for running in started:
            with suppress(ProcessLookupError):
                running.process.kill()
            running.process.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartServer]:
    with servers_in(tmp_path) as launch:
        yield launch


@pytest.fixture(scope="module")
def usual() -> Iterator[Running]:
    """Return a server without knobs, for tests that need nothing of it to be new and leave it running."""
    with tempfile.TemporaryDirectory(prefix="picolab-test-") as folder, servers_in(Path(folder)) as launch:
        yield launch()


@pytest.fixture
def cgroup() -> Iterator[Callable[[int], Path | None]]:
    """Make memory cgroups (v1 or v2) with a limit in bytes; None where this host lets nobody make one."""
    made: list[Path] = []

    def make(limit_bytes: int) -> Path | None:
        for root, mark, limit in (
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "cgroup.controllers", "memory.max"),
        ):
            group = Path(root, f"picolab-test-{os.getpid()}-{len(made)}")
            with suppress(OSError):
                if Path(root, mark).exists():
                    group.mkdir()
                    made.append(group)
                    (group / limit).write_text(str(limit_bytes))
                    if (group / "memory.swap.max").exists():
                        (group / "memory.swap.max").write_text("0")
                    return group
        return None

    yield make
    for group in made:
        for pid in (group / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        eventually(lambda group=group: not (group / "cgroup.procs").read_text(), "an empty cgroup")
        group.rmdir()


def inside(group: Path) -> list[str]:
    """Return the words before a command that start it in a cgroup."""
    return ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(group)]


def cookie_value() -> str:
    return base64.b64encode(hashlib.pbkdf2_hmac("sha256", SECRET.encode(), bytes([1, 2, 3, 4]), 100, 32)).decode()


def content_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def form(content: bytes, filename: str = "f.bin") -> bytes:
    head = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n\r\n'
    return head.encode() + content + b"\r\n--b--\r\n"


def read_all(connection: socket.socket) -> bytes:
    """Read until the server closes, or resets what it has read enough of."""
    text = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            text += piece
    return text


# -- the process


def test_answers_at_once_and_ends_with_0_on_sigterm(start: StartServer) -> None:
    server = start()
    with server.client(log_in=False) as client:
        assert client.get("/").status_code == 200
    server.process.terminate()
    assert server.process.wait(30) == 0
    assert (server.folder / "data" / "store.db-wal").exists()


def test_version() -> None:
    done = subprocess.run([server_path(), "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == "picolab-calibration-server 1\n"


def test_runs_alone_without_picolab(start: StartServer, tmp_path: Path) -> None:
    copy = tmp_path / "copied.py"
    copy.write_bytes(server_path().read_bytes())
    done = subprocess.run(
        [sys.executable, "-I", "-S", copy, "--version"], capture_output=True, text=True, check=True, cwd="/"
    )
    assert done.stdout.startswith("picolab-calibration-server")


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"PS_SHARED_SECRET": None}, "failed to read shared secret: "),
        ({"PS_SHARED_SECRET": ""}, "failed to read shared secret: "),
        ({"PS_SHARED_SECRET_FILE": "/no/such"}, "failed to read shared secret: "),
    ],
)
def test_missing_secret(start: StartServer, environment: dict[str, str | None], sentence: str) -> None:
    server = start(wait=False, **environment)
    assert server.process.wait(30) == 1
    assert sentence in server.log
    assert "Traceback" not in server.log


def test_secret_from_a_file(start: StartServer, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    with start(PS_SHARED_SECRET=None, PS_SHARED_SECRET_FILE=str(tmp_path / "secret")).client():
        pass


@pytest.mark.parametrize("kind", ["garbage", "folder", "grandparent"])
def test_broken_database(start: StartServer, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "broken.db"
    if kind == "garbage":
        path.write_bytes(b"this is not a database" * 100)
    elif kind == "folder":
        path.mkdir()
    else:
        path = tmp_path / "no" / "such" / "store.db"
    server = start(wait=False, arguments=["-db", str(path)])
    assert server.process.wait(30) == 1
    assert "failed to set pragmas: " in server.log


def test_a_taken_port_leaves_it_alive_without_a_listener(start: StartServer) -> None:
    first = start()
    second = start(wait=False, PORT=str(first.port))
    sentence = f"http server exit: listen tcp 127.0.0.1:{first.port}: bind: address already in use\n"
    eventually(lambda: sentence in second.log, sentence)
    assert second.process.poll() is None
    assert first.upload(b"x").status_code == 200
    second.process.terminate()
    assert second.process.wait(30) == 0


@pytest.mark.parametrize(
    ("port", "reason"), [("http-ish", "lookup tcp/http-ish: unknown port"), ("99999", "invalid port")]
)
def test_an_invalid_port_leaves_it_alive_too(start: StartServer, port: str, reason: str) -> None:
    server = start(wait=False, PORT=port)
    eventually(lambda: reason in server.log, reason)
    assert "http server exit: listen tcp " in server.log
    assert server.process.poll() is None


def test_listens_on_the_loopback_address_unless_told_otherwise(start: StartServer) -> None:
    server = start(PICOLAB_CALIBRATION_HOST="127.0.0.2")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))
    socket.create_connection(("127.0.0.2", server.port)).close()
    usual = start()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", usual.port))


def listener_is_gone(server: Running) -> bool:
    try:
        socket.create_connection(("127.0.0.1", server.port)).close()
    except ConnectionError:
        return True
    return False


def test_sigterm_in_an_upload_lets_it_finish(start: StartServer) -> None:
    server = start()
    body = form(content_of(3 * MIB))
    with server.raw_upload(len(body)) as connection:
        connection.sendall(body[: 2 * MIB])
        eventually(lambda: server.temp_files, "a temp file")
        server.process.terminate()
        eventually(lambda: listener_is_gone(server), "the listener's end")
        connection.sendall(body[2 * MIB :])
        assert b" 200 OK" in connection.recv(65536)
    assert server.process.wait(30) == 0


def test_sigterm_in_an_upload_that_does_not_finish(start: StartServer) -> None:
    server = start()
    with server.raw_upload(9 * MIB) as connection:
        connection.sendall(form(content_of(8 * MIB))[: 2 * MIB])
        eventually(lambda: server.temp_files, "a temp file")
        server.process.terminate()
        assert server.process.wait(30) == 1
        assert read_all(connection) == b""


def test_logs(start: StartServer) -> None:
    server = start()
    with server.client(log_in=False) as client:
        client.post("/api/auth", json={"sharedSecretKey": "wrong"})
    assert server.upload(b"hello").status_code == 200
    when = r"\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}"
    line = rf'127\.0\.0\.1 - - \[{when}\] "POST /api/entry\?\S+ HTTP/1\.1" 200 \d+\n'
    assert re.search(line, server.access_log)
    assert '"POST /api/auth HTTP/1.1" 401 24\n' in server.access_log
    server.process.terminate()
    assert server.process.wait(30) == 0
    for secret in (SECRET, cookie_value()):
        assert secret not in server.access_log + server.log


# -- the HTTP table


def test_authentication(usual: Running) -> None:
    with usual.client(log_in=False) as client:
        good = client.post("/api/auth", json={"sharedSecretKey": SECRET})
        assert (good.status_code, good.content) == (200, b"")
        assert good.headers["Set-Cookie"] == (
            f"sharedSecret={cookie_value()}; Path=/; Max-Age=2592000; HttpOnly; SameSite=Strict"
        )
        for body, status, sentence in (
            ({"sharedSecretKey": "wrong"}, 401, "incorrect shared secret\n"),
            ({"sharedSecretKey": ""}, 400, "invalid shared secret\n"),
            ({"sharedSecretKey": 5}, 400, "malformed request\n"),
            ([], 400, "malformed request\n"),
        ):
            answer = client.post("/api/auth", json=body)
            assert (answer.status_code, answer.text) == (status, sentence)
            assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        for text in (b"{", b"\xff", b" " * MIB):
            assert client.post("/api/auth", content=text).text == "malformed request\n"
        assert client.get("/api/auth").status_code == 405


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("HEAD", "/", 405),
        ("GET", "/api/health", 404),
        ("GET", "/api/metrics", 404),
        ("GET", "/healthz", 404),
        ("GET", "/api/entry", 405),
        ("GET", "/-abcdefghjk", 404),
        ("GET", "/-abcdefghjk/anything", 404),
        ("GET", "/-short", 400),
        ("GET", "/-abcdefghjI", 400),
        ("HEAD", "/-abcdefghjk", 405),
        ("DELETE", "/api/entry/abcdefghjk", 401),
    ],
)
def test_status_of_simple_calls(usual: Running, method: str, path: str, status: int) -> None:
    with usual.client(log_in=False) as client:
        assert client.request(method, path).status_code == status


def test_unknown_entry_sentence(usual: Running) -> None:
    with usual.client(log_in=False) as client:
        assert client.get("/-abcdefghjk").text == "entry not found\n"


@pytest.mark.parametrize("size", [1, 5000, MIB, MIB + 1, 3 * MIB + 17])
def test_upload_download_delete(start: StartServer, size: int) -> None:
    server = start()
    content = content_of(size)
    answer = server.upload(content, name="naïve.bin")
    assert answer.headers["Content-Type"] == "application/json"
    entry_id = answer.json()["id"]
    assert re.fullmatch(r"[a-km-zA-HJ-NP-Z2-9]{10}", entry_id)
    assert server.temp_files == []
    chunks = server.rows("SELECT length(chunk) FROM entries_data ORDER BY chunk_index")
    assert [length for (length,) in chunks[:-1]] == [327_680] * (len(chunks) - 1)
    with server.client() as client:
        for path in (f"/-{entry_id}", f"/-{entry_id}/any.thing"):
            got = client.get(path)
            assert (got.status_code, got.content) == (200, content)
            assert got.headers["Content-Length"] == str(size)
            assert got.headers["Accept-Ranges"] == "bytes"
            disposition = dict(got.headers.raw)[b"Content-Disposition"].decode()
            assert disposition == 'filename="naïve.bin"'
        for _ in range(2):
            gone = client.delete(f"/api/entry/{entry_id}")
            assert (gone.status_code, gone.content) == (200, b"")
        assert client.get(f"/-{entry_id}").status_code == 404
    assert server.rows("SELECT count(*) FROM entries_data") == [(0,)]


def test_ranges(usual: Running) -> None:
    content = content_of(2 * MIB)
    path = f"/-{usual.upload(content).json()['id']}"
    with usual.client() as client:
        for header, start_at, end in (
            ("bytes=0-0", 0, 1),
            ("bytes=327679-327680", 327_679, 327_681),
            ("bytes=1000000-", 1_000_000, 2 * MIB),
            ("bytes=-5", 2 * MIB - 5, 2 * MIB),
            ("bytes=100-99999999", 100, 2 * MIB),
        ):
            got = client.get(path, headers={"Range": header})
            assert (got.status_code, got.content) == (206, content[start_at:end])
            assert got.headers["Content-Range"] == f"bytes {start_at}-{end - 1}/{2 * MIB}"
        beyond = client.get(path, headers={"Range": f"bytes={2 * MIB}-"})
        assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"bytes */{2 * MIB}")
        assert client.get(path, headers={"Range": "bytes=0-1,5-6"}).content == content


def test_note_field_before_and_after_the_file(start: StartServer) -> None:
    server = start()
    note = b'--b\r\nContent-Disposition: form-data; name="note"\r\n\r\nremember\r\n'
    first = note + form(b"one")
    last = form(b"two")[: -len("--b--\r\n")] + note + b"--b--\r\n"
    with server.client() as client:
        for body in (first, last):
            answer = client.post(
                f"/api/entry?expiration={FAR}",
                content=body,
                headers={"Content-Type": "multipart/form-data; boundary=b"},
            )
            assert answer.status_code == 200
    assert server.rows("SELECT note, size FROM entries") == [("remember", 3)] * 2


@pytest.mark.parametrize(
    ("sent", "stored"),
    [(r"a \"quoted\" name", 'a "quoted" name'), ("../../etc/passwd", "passwd"), ("a/b.txt", "b.txt")],
)
def test_file_names(usual: Running, sent: str, stored: str) -> None:
    body = form(b"x", sent)
    with usual.raw_upload(len(body)) as connection:
        connection.sendall(body)
        entry_id = json.loads(connection.recv(65536).split(b"\r\n\r\n")[1])["id"]
    assert usual.rows(f"SELECT filename FROM entries WHERE id = '{entry_id}'") == [(stored,)]
    with usual.client() as client:
        quoted = stored.replace('"', r"\"")
        assert client.get(f"/-{entry_id}").headers["Content-Disposition"] == f'filename="{quoted}"'


def test_chunked_upload(usual: Running) -> None:
    content = content_of(2 * MIB + 1)
    body = form(content)
    with usual.client() as client:
        answer = client.post(
            f"/api/entry?expiration={FAR}",
            content=(body[at : at + 99_991] for at in range(0, len(body), 99_991)),
            headers={"Content-Type": "multipart/form-data; boundary=b"},
        )
        assert answer.request.headers["Transfer-Encoding"] == "chunked"
        assert client.get(f"/-{answer.json()['id']}").content == content


@pytest.mark.parametrize("seconds_ahead", [None, -60, 3000])
def test_expiration_is_mandatory_and_an_hour_ahead(usual: Running, seconds_ahead: int | None) -> None:
    when = ""
    if seconds_ahead is not None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds_ahead))
        when = f"?expiration={stamp}"
    with usual.client() as client:
        answer = client.post(f"/api/entry{when}", files={"file": ("f", b"x")})
    assert answer.status_code == 400
    assert answer.text.startswith("invalid expiration URL parameter: ")


@pytest.mark.parametrize("when", ["2999-12-31T00:00:00%2B02:00", "2999-12-31T00:00:00.123456789Z"])
def test_expiration_in_other_forms_of_rfc3339(usual: Running, when: str) -> None:
    with usual.client() as client:
        assert client.post(f"/api/entry?expiration={when}", files={"file": ("f", b"x")}).status_code == 200


MULTIPART = "multipart/form-data; boundary=b"


@pytest.mark.parametrize(
    ("content_type", "body", "sentence"),
    [
        (MULTIPART, b"", "multipart: NextPart: EOF"),
        (MULTIPART, b"no boundary in here", "multipart: NextPart: EOF"),
        (MULTIPART, b"--b\r\nContent-Disp", "multipart: NextPart: EOF"),
        (MULTIPART, form(b"abc")[:-8], "unexpected EOF"),
        (MULTIPART, form(b""), "file must be non-empty"),
        (MULTIPART, form(b"x", ".hidden"), "filename cannot begin with dots"),
        (MULTIPART, form(b"x", "a" * 256), "filename must have 1 to 255 printable characters"),
        (MULTIPART, form(b"x").replace(b'"file"', b'"other"'), "http: no such file"),
        (MULTIPART, b"--b--\r\n", "http: no such file"),
        (MULTIPART, b"--b\r\n" + b"x" * 2 * MIB, "multipart: message too large"),
        ("text/plain", form(b"x"), "request Content-Type isn't multipart/form-data"),
        ("multipart/form-data", form(b"x"), "no multipart boundary param in Content-Type"),
    ],
)
def test_bad_multipart(usual: Running, content_type: str, body: bytes, sentence: str) -> None:
    with usual.client() as client:
        answer = client.post(f"/api/entry?expiration={FAR}", content=body, headers={"Content-Type": content_type})
        assert (answer.status_code, answer.text) == (400, f"invalid request: {sentence}\n")
        assert client.get("/").status_code == 200


def test_body_shorter_than_its_content_length(start: StartServer) -> None:
    server = start()
    with server.raw_upload(9 * MIB) as connection:
        connection.sendall(form(content_of(8 * MIB))[: 2 * MIB])
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection).endswith(b"\r\n\r\ninvalid request: unexpected EOF\n")
    assert server.temp_files == []


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 7, 64, 1000])
def test_boundaries_split_across_reads(piece: int) -> None:
    tricky = b"\r\n--\r\n--b\r\n-\r\n--bound\r\n--boundaryX\r\n--boundary-\r\r\n" * 3 + b"\r\n--boundar"
    body = b"preamble\r\n--boundary  \r\nA: 1\r\n\r\n" + tricky + b"\r\n--boundary\r\n\r\n\r\n--boundary--\r\nepilogue"
    left = memoryview(body)

    def readinto(view: memoryview) -> int:
        nonlocal left
        count = min(piece, len(view), len(left))
        view[:count] = left[:count]
        left = left[count:]
        return count

    reader = MultipartReader(readinto, "boundary")
    first = reader.next_part()
    assert first is not None
    assert first["A"] == "1"
    assert b"".join(bytes(part) for part in reader.content()) == tricky
    second = reader.next_part()
    assert second is not None
    assert not second.items()
    assert b"".join(bytes(part) for part in reader.content()) == b""
    assert reader.next_part() is None
    assert len(left) == 0


def test_a_file_full_of_boundary_lookalikes_survives(usual: Running) -> None:
    content = b"\r\n--b" * 100_000 + b"\r\n-" * 100_000
    content = content.replace(b"\r\n--b\r", b"\r\n--bb\r")
    entry_id = usual.upload(content).json()["id"]
    with usual.client() as client:
        assert client.get(f"/-{entry_id}").content == content


# -- what happens inside an upload


def test_401_comes_before_the_body_is_read(usual: Running) -> None:
    with usual.raw_upload(100 * MIB, cookie=False) as connection:
        text = read_all(connection)
    assert text.startswith(b"HTTP/1.1 401 ")
    assert b"Connection: close\r\n" in text
    assert text.endswith(b"\r\n\r\nAuthentication required\n")


def test_401_is_readable_after_a_broken_pipe(usual: Running) -> None:
    with usual.raw_upload(1024 * MIB, cookie=False) as connection:
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                connection.sendall(bytes(MIB))
        assert b"Authentication required" in read_all(connection)


def test_a_refused_client_has_time_to_read_before_the_reset(start: StartServer) -> None:
    server = start()
    in_time = False
    with Delays() as delays, server.raw_upload(100 * MIB, cookie=False) as connection, suppress(ConnectionError):
        connection.sendall(bytes(512 << 10))
        assert b"Authentication required" in read_all(connection)
        with server.client(log_in=False) as client:
            assert client.get("/").status_code == 200
        connection.sendall(b"more")  # breaks if the server has closed already
        in_time = True
    assert in_time or delays.seconds > LINGER_S / 2, "the connection was reset at once"


def test_a_refused_small_body_leaves_the_connection_usable(usual: Running) -> None:
    body = form(bytes(200 << 10))
    with usual.raw_upload(len(body), cookie=False) as connection:
        connection.sendall(body + b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        text = read_all(connection)
    assert text.index(b" 401 ") < text.index(b" 200 OK")


def test_a_bad_cookie_is_no_cookie(usual: Running) -> None:
    with usual.client(log_in=False) as client:
        client.cookies.set("sharedSecret", cookie_value()[:-1])
        assert client.post(f"/api/entry?expiration={FAR}", files={"file": ("f", b"x")}).status_code == 401


def test_expect_100_continue(usual: Running) -> None:
    with usual.raw_upload(MIB, cookie=False, more="Expect: 100-continue\r\n") as connection:
        assert read_all(connection).startswith(b"HTTP/1.1 401 ")
    body = form(b"x")
    with usual.raw_upload(len(body), more="Expect: 100-continue\r\n") as connection:
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_spools_to_tmpdir_and_commits_only_after_the_whole_body(start: StartServer) -> None:
    server = start({"stall_after_mib": 3})
    with server.raw_upload(9 * MIB) as connection:
        connection.sendall(form(content_of(8 * MIB))[: 4 * MIB])
        eventually(lambda: "a knob acts after 3145728 bytes" in server.log, "the stall")
        (temp_file,) = server.temp_files
        assert re.fullmatch(r"multipart-\d+", temp_file.name)
        assert 2 * MIB < temp_file.stat().st_size < 3 * MIB
        assert server.rows("SELECT count(*) FROM entries_data") == [(0,)]


@pytest.mark.parametrize("reset", [True, False])
def test_a_client_that_goes_away_leaves_nothing(start: StartServer, reset: bool) -> None:
    server = start()
    with server.raw_upload(9 * MIB) as connection:
        connection.sendall(form(content_of(8 * MIB))[: 3 * MIB])
        eventually(lambda: server.temp_files, "a temp file")
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    eventually(lambda: not server.temp_files, "the temp file's end")
    assert server.upload(b"x").status_code == 200
    assert "Traceback" not in server.log


def test_a_client_that_leaves_after_the_body_has_its_file(start: StartServer) -> None:
    server = start({"commit_mib_s": 8})
    body = form(content_of(2 * MIB))
    with server.raw_upload(len(body)) as connection:
        connection.sendall(body)
        eventually(lambda: "received " in server.log, "the whole body")
    eventually(lambda: server.rows("SELECT size FROM entries") == [(2 * MIB,)], "the entry")


def test_tmpdir_missing(start: StartServer) -> None:
    server = start(TMPDIR="/no/such/folder")
    answer = server.upload(content_of(2 * MIB))
    assert answer.status_code == 400
    sentence = r"invalid request: open /no/such/folder/multipart-\d+: no such file or directory\n"
    assert re.fullmatch(sentence, answer.text)
    assert server.upload(b"small enough for memory").status_code == 200


def mount_words(disk: Path) -> list[str] | None:
    """Return the words before a command that give it a small disk of its own; None if that is forbidden."""
    for unshare in (["unshare", "-m"], ["unshare", "-r", "-m"]):
        words = [*unshare, "sh", "-c", 'mount -t tmpfs -o size=12m none "$0" && exec "$@"', str(disk)]
        with suppress(OSError):
            if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0:
                return words
    return None


@pytest.mark.parametrize("what", ["spool", "database"])
def test_a_really_full_disk(start: StartServer, tmp_path: Path, what: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    through = mount_words(disk)
    if through is None:  # no privilege to mount: the quota stands in for the disk
        server = start({"disk_quota_mib": 12})
    elif what == "spool":
        server = start(through=through, TMPDIR=str(disk))
    else:
        server = start(through=through, arguments=["-db", str(disk / "store.db")])
    answer = server.upload(content_of(16 * MIB))
    assert (answer.status_code, answer.text) == (400, DISK_FULL)
    assert server.upload(b"small").status_code == 200


def test_memory_does_not_grow_with_the_file(start: StartServer, cgroup: Callable[[int], Path | None]) -> None:
    group = cgroup(64 * MIB)
    server = start(through=inside(group) if group else None)
    before = server.memory_bytes("VmHWM")
    assert server.upload(content_of(128 * MIB)).status_code == 200
    assert server.memory_bytes("VmHWM") - before < 12 * MIB


def test_uploads_in_parallel(start: StartServer) -> None:
    server = start()
    content = content_of(2 * MIB)
    body = form(content)
    connections = [server.raw_upload(len(body)) for _ in range(5)]
    for half in (body[:MIB], body[MIB:]):
        for connection in connections:
            connection.sendall(half)
    ids = [json.loads(connection.recv(65536).split(b"\r\n\r\n")[1])["id"] for connection in connections]
    for connection in connections:
        connection.close()
    with server.client() as client:
        assert all(client.get(f"/-{entry_id}").content == content for entry_id in ids)


# -- the knobs


@pytest.mark.parametrize(
    "knobs",
    [
        {"no_such_knob": 1},
        {"transfer_mib_s": "8"},
        {"transfer_mib_s": True},
        {"transfer_mib_s": 0},
        {"commit_mib_s": None},
        {"corrupt_byte": 1.5},
        {"stall_in_commit": 1},
        {"status": 20},
        {"status_message": 1},
        {"exit_code": 256},
        {"download_ballast_mib": -1},
        {"drift_per_minute": -0.1, "drift_since": 0},
        {"drift_per_minute": 0.1},
        {"drift_since": "yesterday"},
        {"noise_percent": 101},
        '{"transfer_mib_s": NaN}',
        "[]",
        "{",
    ],
)
def test_wrong_knobs_are_refused_by_name(knobs: dict[str, object] | str) -> None:
    with pytest.raises(ValueError) as caught:
        Knobs.parse(knobs if isinstance(knobs, str) else json.dumps(knobs))
    (line,) = str(caught.value).splitlines()
    if isinstance(knobs, dict):
        assert next(iter(knobs)) in line


@pytest.mark.parametrize(("knobs", "name"), [({"status": 20}, "status"), ("{", "")])
def test_a_server_with_wrong_knobs_ends(start: StartServer, knobs: dict[str, object] | str, name: str) -> None:
    server = start(knobs, wait=False)
    assert server.process.wait(30) == 1
    (line,) = server.log.splitlines()
    assert "PICOLAB_CALIBRATION" in line and name in line


def test_an_unknown_knob_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="no knob 'transfer_mibs'; did you mean transfer_mib_s"):
        Knobs.parse('{"transfer_mibs": 8}')
    with pytest.raises(ValueError, match=r"no knob 'x'; docs/calibration-server\.md lists them"):
        Knobs.parse('{"x": 8}')


def test_every_knob_is_documented_and_tested() -> None:
    docs, tests = DOCS.read_text(), Path(__file__).read_text()
    # Those of the examination are tested by its checks.
    tests += (Path(__file__).parents[1] / "examine" / "test_examination.py").read_text()
    for name in KNOBS:
        assert f"`{name}`" in docs
        assert f'"{name}": ' in tests


def paced(server: Running, word: str, promised_s: float, act: Callable[[], object]) -> None:
    """Check that a phase is never faster than promised, and later by at most 1 %, as the server itself allows."""
    with Delays() as delays:
        act()
    took_s = server.logged_seconds(word)[-1]
    assert took_s > promised_s - 0.0002, "the log has four decimals"
    delays.check(took_s, promised_s, 0.01)


@pytest.mark.parametrize("rate", [8, 50])
def test_transfer_rate(start: StartServer, rate: int) -> None:
    server = start({"transfer_mib_s": rate})
    content = content_of(rate * MIB // 2)
    paced(server, "received", 0.5, lambda: server.upload(content))


@pytest.mark.parametrize("rate", [8, 50])
def test_commit_rate(start: StartServer, rate: int) -> None:
    server = start({"commit_mib_s": rate})
    content = content_of(rate * MIB // 2)
    paced(server, "committed", 0.5, lambda: server.upload(content))


def test_commit_is_paced_by_the_chunk_and_survives_a_kill(start: StartServer) -> None:
    server = start({"commit_mib_s": 0.01})
    body = form(content_of(2 * MIB))
    with server.raw_upload(len(body)) as connection:
        connection.sendall(body)
        eventually(lambda: server.rows("SELECT count(*) FROM entries_data") != [(0,)], "the first chunk")
        with server.client() as client:
            for _ in range(50):
                assert client.get("/").status_code == 200
        server.process.kill()
        assert read_all(connection) == b""
    server.process.wait()
    assert len(server.temp_files) == 1
    again = start(arguments=["-db", str(server.folder / "data" / "store.db")])
    assert server.rows("SELECT count(*) FROM entries_data") == [(1,)]
    assert again.upload(b"x").status_code == 200


def test_a_client_sees_both_paces(start: StartServer) -> None:
    server = start({"transfer_mib_s": 16, "commit_mib_s": 8})
    start_s = time.monotonic()
    assert server.upload(content_of(2 * MIB)).status_code == 200
    assert time.monotonic() - start_s > 2 / 16 + 2 / 8


def test_bytes_cannot_hide_in_the_kernel_when_paced(start: StartServer) -> None:
    server = start({"transfer_mib_s": 400, "stall_after_mib": 64})
    with server.raw_upload(128 * MIB) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
        connection.settimeout(0.5)
        sent = 0
        with pytest.raises(TimeoutError):
            while True:
                sent += connection.send(bytes(16 << 10))
        assert 64 * MIB <= sent < 64.5 * MIB


def test_a_truth_that_cannot_be_met_is_logged(start: StartServer) -> None:
    server = start({"commit_mib_s": 1_000_000})
    assert server.upload(content_of(2 * MIB)).status_code == 200
    assert "commit_mib_s: this truth is not met: took " in server.log


def test_download_rate(start: StartServer) -> None:
    server = start({"download_mib_s": 16})
    path = f"/-{server.upload(content_of(4 * MIB)).json()['id']}"
    with server.client() as client, Delays() as delays:
        start_s = time.monotonic()
        assert len(client.get(path).content) == 4 * MIB
        took_s = time.monotonic() - start_s
    assert took_s > 4 / 16
    # Five per cent are 12 ms: a request and its head are part of it.
    delays.check(took_s, 4 / 16, 0.05)


def download(server: Running, path: str) -> socket.socket:
    """Begin a download; return its connection when the head has arrived, and nothing after it was taken."""
    connection = server.raw(f"GET {path} HTTP/1.1\r\nConnection: close")
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    return connection


def test_each_byte_of_a_download_is_on_schedule(start: StartServer) -> None:
    rate, size = 16 * MIB, 12 * MIB
    server = start({"download_mib_s": 16})
    path = f"/-{server.upload(content_of(size)).json()['id']}"
    late_s = []
    received = 0
    with Delays() as delays:
        start_s = time.monotonic()
        with download(server, path) as connection:
            while count := len(connection.recv(1 << 20)):
                received += count
                late_s.append(time.monotonic() - start_s - received / rate)
    assert received == size
    assert min(late_s) > 0, "a byte came early"
    # Five per cent of the whole are 38 ms, in which the request is made and its head read.
    assert max(late_s) < 0.05 * size / rate + delays.seconds


def test_a_client_that_pauses_in_a_download_catches_up(start: StartServer) -> None:
    rate, size = 32 * MIB, 32 * MIB
    server = start({"download_mib_s": 32})
    path = f"/-{server.upload(content_of(size)).json()['id']}"
    with Delays() as delays, download(server, path) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        received = len(connection.recv(65536))
        time.sleep(0.4)  # what is measured, not what is waited for
        while count := len(connection.recv(65536)):
            received += count
        assert received == size
        took_s = eventual_seconds(server, "sent")
    assert took_s > size / rate - 0.0002
    # The pause would be 40 per cent of it; the last pieces before the end of a download are sent as fast as they can.
    delays.check(took_s, size / rate, 0.05)


def eventual_seconds(server: Running, word: str) -> float:
    """Return the seconds of a phase whose end the client has seen and the log is about to tell."""
    eventually(lambda: server.access_log.count('"GET /-') == len(server.logged_seconds(word)), "the line of the log")
    return server.logged_seconds(word)[-1]


def test_download_ballast(start: StartServer) -> None:
    server = start({"download_ballast_mib": 50, "download_mib_s": 1})
    before = server.memory_bytes("RssAnon")
    path = f"/-{server.upload(content_of(4 * MIB)).json()['id']}"
    with download(server, path):
        assert 50 * MIB <= server.memory_bytes("RssAnon") - before < 58 * MIB
        with download(server, path):
            assert 100 * MIB <= server.memory_bytes("RssAnon") - before < 108 * MIB
    eventually(lambda: server.memory_bytes("RssAnon") - before < 8 * MIB, "both ballasts' end")


def test_uploads_at_once_have_a_schedule_each(start: StartServer) -> None:
    server = start({"transfer_mib_s": 8, "commit_mib_s": 8})
    content = content_of(4 * MIB)
    promised_s = 4 / 8
    with Delays() as delays:
        start_s = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            assert [answer.status_code for answer in pool.map(server.upload, [content] * 4)] == [200] * 4
        took_s = time.monotonic() - start_s
    phases_s = [seconds for word in ("received", "committed") for seconds in server.logged_seconds(word)]
    assert len(phases_s) == 8 and min(phases_s) > promised_s - 0.0002
    # Four threads of one Python take turns of 5 ms each (sys.getswitchinterval).
    assert max(phases_s) < 1.05 * promised_s + delays.seconds
    # All four together took no longer than two of their eight phases would, one after the other.
    assert took_s < 2 * 2 * promised_s + delays.seconds


FACTOR = re.compile(r"(\w+): rates times ([\d.]+) \(drift ([\d.]+), noise ([\d.]+)\)")


def factors(server: Running) -> list[tuple[str, float, float, float]]:
    """Return what the log says of drift and noise: (upload or download, factor, drift, noise)."""
    return [(what, *map(float, numbers)) for what, *numbers in FACTOR.findall(server.log)]  # type: ignore[misc]


def test_drift_slows_every_phase_down(start: StartServer) -> None:
    knobs = {"transfer_mib_s": 16, "commit_mib_s": 16, "download_mib_s": 16}
    server = start({**knobs, "drift_per_minute": 0.1, "drift_since": time.time() - 600})
    content = content_of(4 * MIB)
    paced(server, "received", 0.5, lambda: server.upload(content))
    paced(server, "committed", 0.5, lambda: server.upload(content))
    path = f"/-{server.upload(content).json()['id']}"
    with server.client() as client:
        paced(server, "sent", 0.5, lambda: (client.get(path), eventual_seconds(server, "sent")))


def test_drift_is_one_law_for_all_servers(start: StartServer) -> None:
    since = time.time() - 3000
    for _ in range(2):
        server = start({"drift_per_minute": 0.02, "drift_since": since})
        before = 1 / (1 + 0.02 * (time.time() - since) / 60)
        assert server.upload(b"x").status_code == 200
        after = 1 / (1 + 0.02 * (time.time() - since) / 60)
        ((what, factor, drift, noise),) = factors(server)
        assert (what, noise, factor) == ("upload", 1, drift)
        assert after - 1e-6 < drift < before + 1e-6


def test_too_little_memory_slows_every_phase_down(start: StartServer) -> None:
    # The server is in the cgroup of this test.
    need_mib = 2 * memory_limit_mib()
    server = start({"transfer_mib_s": 16, "commit_mib_s": 16, "full_speed_mib": need_mib, "full_speed_power": 1})
    content = content_of(4 * MIB)
    paced(server, "received", 0.5, lambda: server.upload(content))
    assert "rates times 0.500000 (drift 1.000000, noise 1.000000, memory 0.500000)" in server.log


@pytest.mark.parametrize(
    ("line", "file"),
    [("4:memory:/a/b", "memory/a/b/memory.limit_in_bytes"), ("0::/a/b", "a/b/memory.max")],
    ids=["v1", "v2"],
)
def test_memory_limit_is_read_from_the_cgroup(tmp_path: Path, line: str, file: str) -> None:
    proc, limit = tmp_path / "proc", tmp_path / file
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 2097152 kB\n")
    (proc / "self" / "cgroup").write_text(f"9:cpu:/\n{line}\n")
    assert memory_limit_mib(proc, tmp_path) == 2048
    limit.parent.mkdir(parents=True)
    for text, mib in (("max\n", 2048), ("104857600\n", 100)):
        limit.write_text(text)
        assert memory_limit_mib(proc, tmp_path) == mib


def test_there_is_no_drift_before_its_beginning(start: StartServer) -> None:
    server = start({"drift_per_minute": 1, "drift_since": time.time() + 3600})
    assert server.upload(b"x").status_code == 200
    assert factors(server) == [("upload", 1, 1, 1)]


def test_noise_changes_both_phases_by_the_factor_in_the_log(start: StartServer) -> None:
    server = start({"transfer_mib_s": 32, "commit_mib_s": 32, "noise_percent": 20})
    content = content_of(8 * MIB)
    for _ in range(3):
        with Delays() as delays:
            assert server.upload(content).status_code == 200
        _, factor, drift, noise = factors(server)[-1]
        assert drift == 1 and noise == factor
        for word in ("received", "committed"):
            promised_s, took_s = 8 / (32 * factor), server.logged_seconds(word)[-1]
            assert took_s > promised_s - 0.0002
            delays.check(took_s, promised_s, 0.02)
    drawn = [noise for _, _, _, noise in factors(server)]
    assert len(set(drawn)) == len(drawn)


def test_noise_has_the_promised_spread(capfd: pytest.CaptureFixture[str]) -> None:
    # With 4000 values both bounds are five standard errors wide.
    logs = [math.log(Pace("upload", Knobs(noise_percent=20)).factor) for _ in range(4000)]
    assert statistics.stdev(logs) == pytest.approx(0.2, abs=5 * 0.2 / math.sqrt(2 * 4000))
    assert statistics.mean(logs) == pytest.approx(0, abs=5 * 0.2 / math.sqrt(4000))


def test_startup_delay(start: StartServer) -> None:
    start_s = time.monotonic()
    server = start({"startup_delay_s": 0.5})
    assert time.monotonic() - start_s > 0.5
    assert server.upload(b"x").status_code == 200


def test_startup_delay_can_be_ended(start: StartServer) -> None:
    server = start({"startup_delay_s": 600}, wait=False)
    eventually((server.folder / "data" / "store.db-wal").exists, "the database")
    server.process.terminate()
    assert server.process.wait(30) == 0


def test_constant_ballast(start: StartServer) -> None:
    server = start({"ballast_mib": 100})
    before = server.memory_bytes("RssAnon")
    for _ in range(2):
        assert server.upload(content_of(2 * MIB)).status_code == 200
        assert 100 * MIB <= server.memory_bytes("RssAnon") - before < 108 * MIB


def test_memory_need_is_in_all_and_ends_with_the_upload(start: StartServer) -> None:
    server = start({"memory_need_mib": 100, "memory_need_percent": 0})
    assert server.upload(content_of(2 * MIB)).status_code == 200
    assert 100 * MIB <= server.memory_bytes("VmHWM") < 125 * MIB
    assert server.memory_bytes("RssAnon") < 50 * MIB


def test_memory_need_has_the_promised_spread() -> None:
    logs = [math.log(memory_to_need(1e6, 20) / 1e6) for _ in range(4000)]
    assert statistics.median(logs) == pytest.approx(0, abs=0.02)
    assert statistics.stdev(logs) == pytest.approx(0.2, abs=0.02)


def test_growing_ballast(start: StartServer) -> None:
    server = start({"ballast_mib_per_mib": 4, "stall_in_commit": True})
    before = server.memory_bytes("RssAnon")
    body = form(content_of(25 * MIB))
    with server.raw_upload(len(body)) as connection:
        connection.sendall(body)
        eventually(lambda: "never answered" in server.log, "the end of the body")
        assert 100 * MIB <= server.memory_bytes("RssAnon") - before < 108 * MIB


def test_growing_ballast_is_freed(start: StartServer) -> None:
    server = start({"ballast_mib_per_mib": 4})
    before = server.memory_bytes("RssAnon")
    assert server.upload(content_of(25 * MIB)).status_code == 200
    eventually(lambda: server.memory_bytes("RssAnon") - before < 8 * MIB, "the ballast's end")
    assert server.memory_bytes("VmHWM") - before >= 100 * MIB


def test_oom_gives_up_at_its_ceiling(start: StartServer) -> None:
    server = start({"oom_after_mib": 1, "oom_ceiling_mib": 64})
    with pytest.raises(httpx.TransportError):
        server.upload(content_of(3 * MIB))
    assert server.process.wait(30) == 1
    assert "gives up, for nothing stopped it at 64 MiB (oom_ceiling_mib)" in server.log


def test_oom_kill(start: StartServer, cgroup: Callable[[int], Path | None]) -> None:
    group = cgroup(96 * MIB)
    knobs = {"oom_after_mib": 2} if group else {"oom_after_mib": 2, "oom_ceiling_mib": 64}
    server = start(knobs, through=inside(group) if group else None)
    with pytest.raises(httpx.TransportError):
        server.upload(content_of(4 * MIB))
    assert server.process.wait(60) == (-signal.SIGKILL if group else 1)
    assert len(server.temp_files) == 1


@pytest.mark.parametrize(("knobs", "code"), [({}, 3), ({"exit_code": 7}, 7)])
def test_exit_after(start: StartServer, knobs: dict[str, object], code: int) -> None:
    server = start({"exit_after_mib": 2, **knobs})
    with pytest.raises(httpx.TransportError):
        server.upload(content_of(4 * MIB))
    assert server.process.wait(30) == code
    assert "a knob acts after 2097152 bytes" in server.log
    assert len(server.temp_files) == 1


@pytest.mark.parametrize("knobs", [{"stall_after_mib": 1}, {"stall_in_commit": True}])
def test_stalls_hold_the_connection_open(start: StartServer, knobs: dict[str, object]) -> None:
    server = start(knobs)
    body = form(content_of(2 * MIB))
    with server.raw_upload(len(body)) as connection:
        connection.sendall(body)
        eventually(lambda: "a knob acts" in server.log or "never answered" in server.log, "the stall")
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        with server.client(log_in=False) as client:
            assert client.get("/").status_code == 200


@pytest.mark.parametrize("offset", [0, 327_680, -1, 2 * MIB - 1, -2 * MIB])
def test_corrupt_byte(start: StartServer, offset: int) -> None:
    server = start({"corrupt_byte": offset})
    content = bytearray(content_of(2 * MIB))
    entry_id = server.upload(bytes(content)).json()["id"]
    with server.client() as client:
        stored = client.get(f"/-{entry_id}").content
    content[offset] ^= 0xFF
    assert stored == content


def test_corrupt_byte_outside_the_file_is_logged(start: StartServer) -> None:
    server = start({"corrupt_byte": 1000})
    assert server.upload(b"short").status_code == 200
    assert "corrupt_byte: 1000 lies outside this file of 5 bytes" in server.log


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        ({"status": 500}, "Internal Server Error"),
        ({"status": 503, "status_message": "no, thanks"}, "no, thanks"),
    ],
)
def test_status(start: StartServer, knobs: dict[str, object], sentence: str) -> None:
    server = start(knobs)
    answer = server.upload(content_of(2 * MIB))
    assert (answer.status_code, answer.text) == (knobs["status"], f"{sentence}\n")
    assert "received " in server.log
    assert server.rows("SELECT count(*) FROM entries_data") == [(0,)]


@pytest.mark.parametrize(("quota_mib", "spools_all"), [(4, False), (10, True)])
def test_disk_quota(start: StartServer, quota_mib: int, spools_all: bool) -> None:
    server = start({"disk_quota_mib": quota_mib})
    answer = server.upload(content_of(6 * MIB))
    assert (answer.status_code, answer.text) == (400, DISK_FULL)
    assert ("received " in server.log) == spools_all
    assert server.temp_files == []
    assert server.rows("SELECT count(*) FROM entries_data") == [(0,)]


def test_disk_quota_counts_only_what_is_there(start: StartServer) -> None:
    server = start({"disk_quota_mib": 16})
    with server.client() as client:
        for _ in range(5):
            entry_id = server.upload(content_of(2 * MIB)).json()["id"]
            assert client.delete(f"/api/entry/{entry_id}").status_code == 200


def test_ignore_sigterm(start: StartServer) -> None:
    server = start({"ignore_sigterm": True})
    server.process.terminate()
    assert server.upload(b"x").status_code == 200
    assert server.process.poll() is None


def test_occupy_port_without_listening(start: StartServer) -> None:
    with socket.socket() as finder:
        finder.bind(("127.0.0.1", 0))
        port = finder.getsockname()[1]
    server = start({"occupy_port_without_listening": True}, wait=False, PORT=str(port))
    sentence = f"http server exit: listen tcp 127.0.0.1:{port}: bind: address already in use\n"
    eventually(lambda: sentence in server.log, sentence)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    with socket.socket() as other, pytest.raises(OSError, match="Address already in use"):
        other.bind(("127.0.0.1", port))
    assert server.process.poll() is None
