"""Which executable is measured: files, archives, and releases from a real HTTP server on this host."""

from __future__ import annotations

import hashlib
import io
import platform
import tarfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from picolab.config.project import state_dir
from picolab.errors import BuildError
from picolab.servers.build import sha256_of
from picolab.servers.calibration.program import server_path
from picolab.servers.picoshare import builds as build_module
from picolab.servers.picoshare.builds import find_build, newest_release

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "armv7"}.get(platform.machine())
PROGRAM = b"#!/bin/sh\necho picoshare\n" + bytes(range(256)) * 400

WORDS = " ".join(map(str, range(60_000))).encode()

needs_releases = pytest.mark.skipif(ARCHITECTURE is None, reason="there are no releases for this processor")


def archive_of(content: bytes = PROGRAM, name: str = "picoshare") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        member.mode = 0o644
        tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def damaged(archive: bytes) -> bytes:
    """Return an archive of the same length with 100 wrong bytes in the middle."""
    middle = len(archive) // 2
    return archive[:middle] + b"\xff" * 100 + archive[middle + 100 :]


class Releases:
    """An HTTP server of releases on this host."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[int, bytes]] = {}
        self.requests: list[str] = []
        self.announced_bytes: int | None = None
        releases = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                releases.requests.append(self.path)
                status, content = releases.files.get(self.path, (404, b"not found"))
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", content.decode())
                    content = b""
                length = len(content) if releases.announced_bytes is None else releases.announced_bytes
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(content)

            do_HEAD = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/download"

    def offer(self, tag: str, version: str, content: bytes, status: int = 200) -> str:
        path = f"/download/{tag}/picoshare-v{version}-linux-{ARCHITECTURE}.tar.gz"
        self.files[path] = (status, content)
        return path

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def releases(monkeypatch: pytest.MonkeyPatch) -> Iterator[Releases]:
    # Downloads go through the user's proxy; it cannot reach this server.
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    server = Releases()
    yield server
    server.close()


@pytest.fixture
def refused() -> Callable[..., str]:
    """Ask for a build that cannot be had, and return the one sentence that says why."""

    def find(wanted: str, base_url: str = "http://127.0.0.1:9/") -> str:
        with pytest.raises(BuildError) as caught:
            find_build(wanted, "x", base_url)
        sentence = str(caught.value)
        assert "\n" not in sentence and "Traceback" not in sentence
        builds = state_dir() / "builds"
        assert not builds.exists() or [p.name for p in builds.iterdir() if p.name.startswith(".new-")] == []
        return sentence

    return find


# ---- files ---------------------------------------------------------------------------------------


def test_calibration() -> None:
    build = find_build("calibration", "my label", "")
    assert build.path == server_path().resolve()
    assert (build.identity.kind, build.identity.label, build.identity.version) == ("calibration", "my label", None)
    assert build.identity.sha256 == hashlib.sha256(server_path().read_bytes()).hexdigest()
    assert build.identity.size_bytes == server_path().stat().st_size


def test_an_executable(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = scratch / "my picoshare"
    program.write_bytes(PROGRAM)
    program.chmod(0o755)
    monkeypatch.chdir(scratch)
    for wanted in (str(program), "my picoshare", "./my picoshare"):
        build = find_build(wanted, "x", "")
        assert build.path == program.resolve() and build.identity.kind == "file"
        assert build.identity.sha256 == hashlib.sha256(PROGRAM).hexdigest()


def test_what_cannot_be_a_build(scratch: Path, refused: Callable[..., str]) -> None:
    assert "there is no such file" in refused("nowhere/picoshare")
    assert "there is no such file" in refused("1.5")
    assert "folder" in refused(str(scratch))
    program = scratch / "program"
    program.write_bytes(PROGRAM)
    program.chmod(0o644)
    assert f"chmod +x {program}" in refused(str(program))


@pytest.mark.parametrize("name", ["picoshare", "./picoshare", "picoshare-v1.5.4/picoshare"])
def test_an_archive_is_unpacked_once(scratch: Path, name: str) -> None:
    archive = scratch / "picoshare.tar.gz"
    archive.write_bytes(archive_of(name=name))
    build = find_build(str(archive), "x", "")
    assert build.path.read_bytes() == PROGRAM and build.path.stat().st_mode & 0o111
    assert build.identity.kind == "file"
    unpacked = build.path.stat().st_mtime_ns
    assert find_build(str(archive), "x", "").path.stat().st_mtime_ns == unpacked
    # What was damaged since is not measured.
    build.path.write_bytes(b"damaged")
    assert find_build(str(archive), "x", "").path.read_bytes() == PROGRAM


def test_an_archive_cannot_write_elsewhere(scratch: Path, refused: Callable[..., str]) -> None:
    archive = scratch / "evil.tar.gz"
    archive.write_bytes(archive_of(name="../../../picoshare"))
    build = find_build(str(archive), "x", "")
    assert build.path.is_relative_to(state_dir() / "builds")
    assert not (scratch / "picoshare").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(archive_of()[:-200], "is not a whole tar.gz archive", id="truncated"),
        pytest.param(archive_of()[:15], "is not a whole tar.gz archive", id="hardly begun"),
        pytest.param(archive_of()[:60] + b"\x00" * 30 + archive_of()[90:], "is not a whole", id="damaged"),
        pytest.param(damaged(archive_of(WORDS)), "is not a whole tar.gz archive", id="damaged in the middle"),
        pytest.param(b"<html>not found</html>", "is not a whole tar.gz archive", id="a web page"),
        pytest.param(b"", "is not a whole tar.gz archive", id="empty"),
        pytest.param(archive_of(name="README.md"), "holds no file `picoshare`", id="without picoshare"),
    ],
)
def test_an_archive_that_is_no_good(scratch: Path, refused: Callable[..., str], content: bytes, words: str) -> None:
    archive = scratch / "picoshare.tgz"
    archive.write_bytes(content)
    assert words in refused(str(archive))


# ---- releases ------------------------------------------------------------------------------------


@needs_releases
@pytest.mark.parametrize(
    ("wanted", "tag", "version"),
    [
        ("1.5.2", "1.5.2", "1.5.2"),
        ("v1.5.2", "1.5.2", "1.5.2"),
        ("1.5.3", "v1.5.3", "1.5.3"),
        ("v1.5.4", "v1.5.4", "1.5.4"),
        ("1.4.10", "1.4.10", "1.4.10"),
        ("1.10.0", "v1.10.0", "1.10.0"),
    ],
)
def test_a_release_is_downloaded_once(releases: Releases, wanted: str, tag: str, version: str) -> None:
    path = releases.offer(tag, version, archive_of())
    for base_url in (releases.base_url, releases.base_url):
        build = find_build(wanted, "x", base_url)
        assert build.path.read_bytes() == PROGRAM and build.path.stat().st_mode & 0o111
        assert (build.identity.kind, build.identity.version) == ("release", version)
        assert build.identity.sha256 == hashlib.sha256(PROGRAM).hexdigest() == sha256_of(build.path)
    assert releases.requests == [path]
    # Another source of the same version is another build.
    releases.offer(tag, version, archive_of())
    find_build(wanted, "x", f"{releases.base_url}/")
    assert releases.requests == [path, path]


@needs_releases
def test_redirects_are_followed(releases: Releases) -> None:
    path = releases.offer("v1.5.4", "1.5.4", b"/elsewhere/archive", status=302)
    releases.files["/elsewhere/archive"] = (200, archive_of())
    assert find_build("1.5.4", "x", releases.base_url).path.read_bytes() == PROGRAM
    assert releases.requests == [path, "/elsewhere/archive"]


@needs_releases
@pytest.mark.parametrize("damage", ["bytes", "executable", "checksum", "folder"])
def test_a_damaged_cache_is_downloaded_again(releases: Releases, damage: str) -> None:
    releases.offer("v1.5.4", "1.5.4", archive_of())
    path = find_build("1.5.4", "x", releases.base_url).path
    if damage == "bytes":
        path.write_bytes(PROGRAM[:-1] + b"!")
    elif damage == "executable":
        path.unlink()
    elif damage == "checksum":
        (path.parent / "sha256").write_text("")
    else:
        for file in path.parent.iterdir():
            file.unlink()
        path.parent.rmdir()
    assert find_build("1.5.4", "x", releases.base_url).path.read_bytes() == PROGRAM
    assert len(releases.requests) == 2


@needs_releases
def test_several_at_once_download_once(releases: Releases) -> None:
    releases.offer("v1.5.4", "1.5.4", archive_of())
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: find_build("1.5.4", "x", releases.base_url).identity.sha256, range(8)))
    assert set(found) == {hashlib.sha256(PROGRAM).hexdigest()}
    assert len(releases.requests) == 1


@needs_releases
def test_a_release_that_is_not_there(releases: Releases, refused: Callable[..., str]) -> None:
    sentence = refused("1.5.9", releases.base_url)
    assert f"{releases.base_url}/v1.5.9/picoshare-v1.5.9-linux-{ARCHITECTURE}.tar.gz" in sentence
    assert "404" in sentence and "check the version" in sentence


@needs_releases
def test_a_server_that_fails(releases: Releases, refused: Callable[..., str]) -> None:
    releases.offer("v1.5.4", "1.5.4", b"oops", status=500)
    assert "answered 500" in refused("1.5.4", releases.base_url)
    # A failure is not remembered.
    releases.offer("v1.5.4", "1.5.4", archive_of())
    assert find_build("1.5.4", "x", releases.base_url).path.read_bytes() == PROGRAM


@needs_releases
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (archive_of()[:-200], "is not a whole tar.gz archive"),
        (b"<html>sign in</html>", "is not a whole tar.gz archive"),
        (archive_of(name="LICENSE"), "holds no file `picoshare`"),
    ],
)
def test_a_release_whose_archive_is_no_good(
    releases: Releases, refused: Callable[..., str], content: bytes, words: str
) -> None:
    releases.offer("v1.5.4", "1.5.4", content)
    sentence = refused("1.5.4", releases.base_url)
    assert words in sentence and "picoshare-v1.5.4" in sentence


@needs_releases
def test_a_download_that_breaks_off(releases: Releases, refused: Callable[..., str]) -> None:
    releases.offer("v1.5.4", "1.5.4", archive_of())
    releases.announced_bytes = len(archive_of()) + 1000
    assert "cannot be downloaded" in refused("1.5.4", releases.base_url)


@needs_releases
def test_a_server_that_is_gone(releases: Releases, refused: Callable[..., str]) -> None:
    releases.close()
    sentence = refused("1.5.4", releases.base_url)
    assert "cannot be downloaded" in sentence and "give the path of the archive" in sentence


@needs_releases
@pytest.mark.parametrize("base_url", ["not a url", "ftp://127.0.0.1/x", "http://[", "http://127.0.0.1:99999/"])
def test_a_base_url_that_is_none(refused: Callable[..., str], base_url: str) -> None:
    assert "cannot be downloaded" in refused("1.5.4", base_url)


def test_a_processor_without_releases(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_module.platform, "machine", lambda: "riscv64")
    assert "riscv64" in refused("1.5.4")


def test_the_newest_release_is_where_latest_leads(releases: Releases) -> None:
    for tag in ("1.5.2", "v1.5.4"):
        releases.files["/latest"] = (302, b"/elsewhere/latest")
        releases.files["/elsewhere/latest"] = (302, f"/elsewhere/tag/{tag}".encode())
        assert newest_release(releases.base_url) == tag.removeprefix("v")


@pytest.mark.parametrize(
    ("status", "content", "sentence"),
    [
        (404, b"", r"latest answered 404 and names no release; check release_base_url, or try again later"),
        (302, b"/latest", r"leads to http://\S+/latest, which names no release; check release_base_url"),
        (302, b"http://127.0.0.1:1/", r"cannot be asked \(.*\); check the network and release_base_url"),
        (302, b"http://[", r"cannot be asked \(.*\); check the network and release_base_url"),
    ],
)
def test_an_answer_without_a_release(releases: Releases, status: int, content: bytes, sentence: str) -> None:
    releases.files["/latest"] = (status, content)
    with pytest.raises(BuildError, match=f"the newest release: .*{sentence}"):
        newest_release(releases.base_url)
