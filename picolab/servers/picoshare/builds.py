"""PicoShare's builds: the calibration server, an executable file, a release archive or a release."""

import contextlib
import fcntl
import hashlib
import platform
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import httpx

from picolab.config.given_paths import RELEASE
from picolab.config.project import state_dir
from picolab.errors import BuildError
from picolab.servers.build import Build, check_program, checked_file, file_build, identified, sha256_of, unreadable
from picolab.servers.calibration.program import server_path
from picolab.servers.picoshare.adapter import CALIBRATION
from picolab.text.foreign import one_line

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "armv7"}
_FIRST_TAG_WITH_V = (1, 5, 3)
"""Release tags are bare numbers up to 1.5.2 and begin with `v` from 1.5.3 on."""
_EXECUTABLE = "picoshare"
_CHECKSUM = "sha256"
_MOST_REDIRECTS = 5


def find_build(wanted: str, label: str, release_base_url: str, *, in_guest: bool = False) -> Build:
    """Return the build that a `build` parameter means, downloading a release on its first use.

    Args:
        wanted: `calibration`, a release such as `1.5.4`, or a path to an executable or a release archive.
        label: short name for the record.
        release_base_url: the folder of releases; `<tag>/picoshare-v<version>-linux-<arch>.tar.gz` is asked for.
        in_guest: it will run in a virtual machine, not on this host.

    Raises:
        BuildError: there is no such build, or it cannot be executed.
    """
    if wanted == CALIBRATION:
        return identified(server_path(), label, "calibration")
    if RELEASE.fullmatch(wanted):
        version = wanted.removeprefix("v")
        path = _released(version, release_base_url)
        check_program(path, wanted, in_guest=in_guest)
        return identified(path, label, "release", version)
    path = checked_file(wanted, "give `calibration`, a release such as 1.5.4, or the path of an executable")
    if not path.name.endswith((".tar.gz", ".tgz")):
        return file_build(wanted, label, in_guest=in_guest)
    try:
        path = _unpacked(path)
    except OSError as error:
        raise unreadable(wanted, error) from None
    check_program(path, wanted, in_guest=in_guest)
    return identified(path, label, "file")


def newest_release(release_base_url: str) -> str:
    """Return the version of the newest release, such as `1.5.4`.

    Asks for `latest` in the folder above, as GitHub's `releases/latest` above `releases/download`: it redirects to the
    page of the newest release that is neither a draft nor a pre-release, whose last part is the tag.

    Raises:
        BuildError: nobody answers, or the answer names no release.
    """
    url = f"{release_base_url.rstrip('/').rpartition('/')[0]}/latest"
    asked = httpx.URL()
    try:
        asked = httpx.URL(url)
        for _ in range(_MOST_REDIRECTS):
            answer = httpx.head(asked, follow_redirects=False, timeout=30)
            location = answer.headers.get("location")
            if location is None:
                raise BuildError(
                    f"the newest release: {url} answered {answer.status_code} and names no release; check "
                    f"release_base_url, or try again later"
                )
            asked = asked.join(location)
            found = RELEASE.fullmatch(asked.path.rstrip("/").rpartition("/")[2])
            if found:
                return found[0].removeprefix("v")
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise BuildError(
            f"the newest release: {url} cannot be asked ({error}); check the network and release_base_url"
        ) from None
    raise BuildError(
        f"the newest release: {url} leads to {one_line(str(asked))[:200]}, which names no release; check "
        f"release_base_url"
    )


@contextlib.contextmanager
def _cache() -> Iterator[Path]:
    """Lend the folder of unpacked builds to one process at a time, so that nothing is downloaded twice."""
    folder = state_dir() / "builds"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def _is_whole(folder: Path) -> bool:
    """Return whether an unpacked build exists and still has its checksum."""
    executable, checksum = folder / _EXECUTABLE, folder / _CHECKSUM
    return executable.is_file() and checksum.is_file() and checksum.read_text() == sha256_of(executable)


def _released(version: str, base_url: str) -> Path:
    """Return the executable of a release: from the cache if its checksum still holds, else downloaded."""
    architecture = _ARCHITECTURES.get(platform.machine())
    if architecture is None:
        raise BuildError(
            f"build {version}: there are releases for {', '.join(_ARCHITECTURES)}, not for this host's "
            f"{platform.machine()}; give the path of an executable instead"
        )
    # Two servers of releases may hold different files of one version: each has its own place.
    source = hashlib.sha256(base_url.encode()).hexdigest()[:8]
    numbers = tuple(int(part) for part in version.split("."))
    tag = f"v{version}" if numbers >= _FIRST_TAG_WITH_V else version
    url = f"{base_url.rstrip('/')}/{tag}/picoshare-v{version}-linux-{architecture}.tar.gz"
    with _cache() as cache:
        folder = cache / f"{version}-{architecture}-{source}"
        if not _is_whole(folder):
            with tempfile.TemporaryDirectory(dir=cache, prefix=".new-") as new:
                archive = Path(new) / Path(url).name
                _download(url, archive, version)
                _unpack(archive, Path(new) / "build", folder)
    return folder / _EXECUTABLE


def _download(url: str, target: Path, version: str) -> None:
    try:
        with (
            httpx.stream("GET", url, follow_redirects=True, timeout=30) as answer,
            target.open("wb") as file,
        ):
            if answer.status_code == 404:
                raise BuildError(f"build {version}: there is no such release at {url} (404); check the version")
            if answer.status_code != 200:
                raise BuildError(f"build {version}: {url} answered {answer.status_code}; try again later")
            for chunk in answer.iter_bytes():
                file.write(chunk)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise BuildError(
            f"build {version}: cannot be downloaded from {url} ({error}); "
            f"download it elsewhere and give the path of the archive as build"
        ) from None


def _unpacked(archive: Path) -> Path:
    """Return the executable in a release archive, unpacked once into the cache."""
    with _cache() as cache:
        folder = cache / f"archive-{sha256_of(archive)[:16]}"
        if not _is_whole(folder):
            with tempfile.TemporaryDirectory(dir=cache, prefix=".new-") as new:
                _unpack(archive, Path(new) / "build", folder)
    return folder / _EXECUTABLE


def _unpack(archive: Path, new: Path, folder: Path) -> None:
    """Make `folder` hold the executable of an archive and its checksum; all at once, by way of `new`."""
    new.mkdir()
    executable = new / _EXECUTABLE
    try:
        with tarfile.open(archive, "r:gz") as tar:
            member = next((m for m in tar if Path(m.name).name == _EXECUTABLE and m.isfile()), None)
            content = tar.extractfile(member) if member else None
            if content is None:
                raise BuildError(f"build {archive.name}: the archive holds no file `{_EXECUTABLE}`")
            with content, executable.open("wb") as target:
                shutil.copyfileobj(content, target)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise BuildError(f"build {archive.name}: is not a whole tar.gz archive ({error})") from None
    executable.chmod(0o755)
    (new / _CHECKSUM).write_text(sha256_of(executable))
    if folder.exists():
        shutil.rmtree(folder)
    new.replace(folder)
