"""copyparty (github.com/9001/copyparty): one volume with one account, uploads by PUT."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from picolab.servers.base import Launch, Place, Refused, Request, Server, UploadRequest

if TYPE_CHECKING:
    from picolab.config.trial_parameters import TrialParameters
    from picolab.servers.build import Build
    from picolab.servers.exchange import Answer
    from picolab.servers.payload import PayloadFile

_SESSION = re.compile(r"[A-Za-z0-9_-]{2,200}")
_FORM = "picolab-log-in"
_START = (
    'umask 077; mkdir "$HOME/files"; '
    'printf "[accounts]\\n  picolab: %s\\n" "$COPYPARTY_PASSWORD" > "$HOME/accounts.conf"; exec "$0" "$@"'
)
"""copyparty takes an account from a file or from its command line, which everybody can read: so a shell writes it."""


class Copyparty(Server):
    """copyparty, with the log-in that its web page uses."""

    name = "copyparty"
    title = "copyparty"
    default_build = "copyparty"
    variables = ("COPYPARTY_PASSWORD",)
    commits = False

    def find_build(self, parameters: TrialParameters, *, in_guest: bool) -> Build:
        """Find the executable; the build `copyparty` is the package that is installed next to picolab.

        A zipapp or `copyparty-sfx.py` is identified by the SHA-256 of the file; a console script, which only imports
        its package, by that of all files of the package (`sha256_of_folder`).
        """
        from picolab.servers.build import file_build, script_build

        wanted, label = parameters.build, parameters.build_label
        script = None if wanted == self.default_build else wanted
        found = script_build(self.name, script, label, in_guest=in_guest)
        return found or file_build(wanted, label, in_guest=in_guest)

    def launch(self, place: Place) -> Launch:
        # Without --wram it refuses uploads to a file system in memory, which a data folder may be on.
        options = [
            *("-c", f"{place.data}/accounts.conf", "-v", f"{place.data}/files::rwd,picolab"),
            *("-q", "--no-crt", "--wram"),
        ]
        argv = ["/bin/sh", "-c", _START, place.executable, "-i", place.address, "-p", str(place.port), *options]
        return Launch(argv, {"COPYPARTY_PASSWORD": place.secret})

    def log_in(self, secret: str) -> Request:
        fields = "".join(
            f'--{_FORM}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in (("act", "login"), ("cppwd", secret))
        )
        headers = {"Content-Type": f"multipart/form-data; boundary={_FORM}"}
        return Request("POST", "/", headers, f"{fields}--{_FORM}--\r\n".encode())

    def session(self, answer: Answer) -> str:
        session = answer.cookies.get("cppwd", "")
        # A wrong password is answered with 200, and with a cookie of one letter.
        if answer.status != 200 or not _SESSION.fullmatch(session):
            raise Refused
        return session

    def upload(self, session: str | None, file: PayloadFile) -> UploadRequest:
        return UploadRequest("PUT", f"/{quote(file.name)}?j", _cookie(session))

    def stored(self, answer: Answer) -> str:
        if answer.status != 201:
            raise Refused
        try:
            url = json.loads(answer.body)["fileurl"]
            entry_id = unquote(urlsplit(url).path.removeprefix("/")) if isinstance(url, str) else ""
        except (ValueError, LookupError, TypeError, RecursionError):
            entry_id = ""
        if not entry_id:
            raise Refused("an answer without the URL of the file")
        return entry_id

    def download(self, session: str | None, entry_id: str) -> Request:
        return Request("GET", f"/{quote(entry_id)}", _cookie(session))

    def delete(self, session: str | None, entry_id: str) -> Request:
        return Request("DELETE", f"/{quote(entry_id)}", _cookie(session))

    def sentence(self, answer: Answer) -> str:
        return re.sub(r"<[^>]*>", "", answer.text)


def _cookie(session: str | None) -> dict[str, str]:
    return {} if session is None else {"Cookie": f"cppwd={session}"}
