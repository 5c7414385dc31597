"""The seam for a server under test: everything that picolab must know about one, in one object.

An adapter subclasses `Server` and says how a build is found and started, which requests log in, upload, download and
delete, and how the answers are read. It never sends anything: the HTTP client, the exact timing of a transfer and the
limits are shared (`picolab/servers/client.py`). An adapter module is imported with the registry, so it imports nothing
heavy; modules for builds are imported where they are used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from picolab.config.trial_parameters import TrialParameters
    from picolab.record.machine import BuildUnderTest
    from picolab.servers.build import Build
    from picolab.servers.exchange import Answer
    from picolab.servers.payload import PayloadFile


@dataclass(frozen=True)
class Place:
    """Where one server process will run. All paths are inside the machine.

    Attributes:
        executable: path of the build.
        python: a python3, for builds that are scripts.
        data: empty folder for everything that the server stores; also its HOME.
        tmp: empty folder; also its TMPDIR.
        address: the IP address to listen on, so that the client can reach the server.
        port: the TCP port to listen on; free a moment ago.
        secret: password of this trial: 32 letters, digits, `-` and `_`.
        build: identity of the build.
        settings: values of the trial parameters in `Server.heeds`, by name.
    """

    executable: str
    python: str
    data: str
    tmp: str
    address: str
    port: int
    secret: str
    build: BuildUnderTest
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Launch:
    """The command line and the environment that start a server.

    Attributes:
        argv: never holds the secret: every user of the machine can read it.
        environment: added to PATH, HOME, TMPDIR and the trial's own variables.
    """

    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """One HTTP request.

    Attributes:
        path: with its query, escaped for a URL, such as `/api/auth`.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes = b""


@dataclass(frozen=True)
class UploadRequest:
    """The request that uploads a file. Its body is `before`, the bytes of the file, `after`.

    `Content-Length` is added. A raw upload leaves `before` and `after` empty; `multipart` makes them for a form.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    before: bytes = b""
    after: bytes = b""


def multipart(file: PayloadFile, field_name: str = "file") -> tuple[dict[str, str], bytes, bytes]:
    """Return headers, `before` and `after` of an upload as a form (`multipart/form-data`, RFC 7578)."""
    boundary = f"picolab-{file.seed:x}-{file.size_bytes:x}"
    before = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field_name}"; filename="{file.name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    return headers, before.encode(), f"\r\n--{boundary}--\r\n".encode()


class Refused(Exception):
    """The server did not do what it was asked to.

    Args:
        why: the flaw in an answer of success, such as "an answer without an id"; empty when the answer itself
            is an error, whose sentence then explains it.
    """

    def __init__(self, why: str = "") -> None:
        super().__init__(why)
        self.why = why


class Server(ABC):
    """A server under test. One object of each stands in `picolab/servers/registry.py`; it has no state."""

    name: str
    """The value of the trial parameter `server`."""
    title: str
    """Its name in messages and reports."""
    default_build: str
    """The value of `build` when nobody gave one: a word that `find_build` understands."""
    heeds: tuple[str, ...] = ()
    """Trial parameters for one server alone that this one uses; any other one must keep its default."""
    variables: tuple[str, ...] = ()
    """Environment variables that `launch` sets; the parameter `environment` may not."""
    disk_full_sentences: tuple[str, ...] = ("no space left on device",)
    """Lower-case parts of an error that mean a full disk."""
    spools_from_bytes: int = 0
    """Smaller uploads stay in its memory, so that they show neither spooling nor the memory that this needs."""
    commits: bool = True
    """Whether it stores an upload after the last byte. False: it stores while it receives, so a rate means nothing."""
    listen_failed: str = ""
    """Part of the log of a server that lives on without its port; empty: it exits then."""

    def find_build(self, parameters: TrialParameters, *, in_guest: bool) -> Build:
        """Return the executable that the parameter `build` means, identified by its SHA-256.

        The default takes a path of an executable file.

        Args:
            in_guest: it will run in a virtual machine, not on this host.

        Raises:
            BuildError: there is no such build, or it cannot be executed.
        """
        from picolab.servers.build import file_build

        return file_build(parameters.build, parameters.build_label, in_guest=in_guest)

    def why_unfit(self, parameters: TrialParameters) -> str | None:
        """Return a sentence about a setting that this server cannot use, with the remedy; None: all fit."""
        return None

    def newest_release(self, parameters: TrialParameters) -> str | None:
        """Return the newest release as a value of `build`, such as `1.5.4`; None: this server has no releases.

        Raises:
            BuildError: nobody answers, or the answer names none.
        """
        return None

    @abstractmethod
    def launch(self, place: Place) -> Launch:
        """Return how the server is started."""

    def ready(self) -> Request:
        """Return the request that a server answers with 200 as soon as it can work."""
        return Request("GET", "/")

    def log_in(self, secret: str) -> Request | None:
        """Return the request that logs in; None: there is no log-in, and the secret is used as the session."""
        return None

    def session(self, answer: Answer) -> str:
        """Return the session (a cookie, a token) that the answer to `log_in` gives.

        Raises:
            Refused: it gives none.
        """
        raise NotImplementedError

    @abstractmethod
    def upload(self, session: str | None, file: PayloadFile) -> UploadRequest:
        """Return the request that uploads a file."""

    @abstractmethod
    def stored(self, answer: Answer) -> str:
        """Return the id of the stored file from the answer to `upload`, for `download` and `delete`.

        Raises:
            Refused: the file is not stored.
        """

    @abstractmethod
    def download(self, session: str | None, entry_id: str) -> Request:
        """Return the request that a server answers with 200 and the bytes of the file."""

    @abstractmethod
    def delete(self, session: str | None, entry_id: str) -> Request:
        """Return the request that deletes a stored file."""

    def sentence(self, answer: Answer) -> str:
        """Return the error in an answer, in the server's words."""
        return answer.text

    def is_disk_full(self, sentence: str) -> bool:
        """Return whether an error says that the disk is full."""
        return any(words in sentence.lower() for words in self.disk_full_sentences)
