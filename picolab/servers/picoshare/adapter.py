"""PicoShare (github.com/mtlynch/picoshare). The calibration server speaks its contract: it is one of its builds."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote

from picolab.servers.base import Launch, Place, Refused, Request, Server, UploadRequest, multipart

if TYPE_CHECKING:
    from picolab.config.trial_parameters import TrialParameters
    from picolab.servers.build import Build
    from picolab.servers.exchange import Answer
    from picolab.servers.payload import PayloadFile

RELEASE_BASE_URL = "https://github.com/mtlynch/picoshare/releases/download"
CALIBRATION = "calibration"
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""PicoShare's ids have 10 letters and digits. Whatever fits here can stand in a URL."""
_COOKIE = re.compile(r"[!#-+\--:<-\[\]-~]{1,4096}")
"""What RFC 6265 allows in the value of a cookie."""


class PicoShare(Server):
    """PicoShare, or the calibration server."""

    name = "picoshare"
    title = "PicoShare"
    default_build = CALIBRATION
    heeds = ("calibration", "release_base_url")
    variables = ("PORT", "PS_SHARED_SECRET")
    disk_full_sentences = ("database or disk is full", "no space left on device")
    spools_from_bytes = 1 << 20
    listen_failed = "http server exit: listen tcp"
    """PicoShare stays alive without a listener when it cannot have its port, so a running process proves nothing, and
    whatever answers on that port is something else."""

    def find_build(self, parameters: TrialParameters, *, in_guest: bool) -> Build:
        from picolab.servers.picoshare.builds import find_build

        return find_build(parameters.build, parameters.build_label, parameters.release_base_url, in_guest=in_guest)

    def newest_release(self, parameters: TrialParameters) -> str | None:
        from picolab.servers.picoshare.builds import newest_release

        return newest_release(parameters.release_base_url)

    def why_unfit(self, parameters: TrialParameters) -> str | None:
        knobs = parameters.calibration
        if not knobs:
            return None
        if parameters.build != CALIBRATION:
            return (
                f"calibration = {str(knobs)[:200]} needs build: calibration, but build is {parameters.build!r}; "
                f"remove one of the two"
            )
        from picolab.servers.calibration.knobs import Knobs

        try:
            Knobs.parse(json.dumps(knobs, default=str))
        except ValueError as error:
            return str(error).replace("PICOLAB_CALIBRATION", "calibration")
        return None

    def launch(self, place: Place) -> Launch:
        argv = [place.executable, "-db", f"{place.data}/store.db"]
        environment = {"PORT": str(place.port), "PS_SHARED_SECRET": place.secret}
        if place.build.kind == CALIBRATION:
            # Isolated from the user's Python settings, and without the slow scan of site-packages.
            argv = [place.python, "-I", "-S", *argv]
            environment["PICOLAB_CALIBRATION"] = json.dumps(place.settings.get("calibration", {}))
            environment["PICOLAB_CALIBRATION_HOST"] = place.address
        return Launch(argv, environment)

    def log_in(self, secret: str) -> Request:
        body = json.dumps({"sharedSecretKey": secret}).encode()
        return Request("POST", "/api/auth", {"Content-Type": "application/json"}, body)

    def session(self, answer: Answer) -> str:
        if answer.status != 200:
            raise Refused
        cookie = answer.cookies.get("sharedSecret", "")
        if not _COOKIE.fullmatch(cookie):
            raise Refused("a log-in without a cookie that could be sent back")
        return cookie

    def upload(self, session: str | None, file: PayloadFile) -> UploadRequest:
        expiration = (datetime.now(UTC) + timedelta(days=7)).strftime("%Y-%m-%dT%H:%M:%SZ")
        headers, before, after = multipart(file)
        path = f"/api/entry?expiration={quote(expiration, safe='')}"
        return UploadRequest("POST", path, _cookie(session) | headers, before, after)

    def stored(self, answer: Answer) -> str:
        if answer.status != 200:
            raise Refused
        if not answer.whole:
            raise Refused(f"an answer of more than {len(answer.body)} bytes")
        try:
            entry_id = json.loads(answer.body.decode())["id"]
        except (ValueError, LookupError, TypeError, RecursionError):
            raise Refused("an answer without an id") from None
        if not isinstance(entry_id, str) or not entry_id:
            raise Refused("an answer without an id")
        if not _ID.fullmatch(entry_id):
            raise Refused("an answer with an id that cannot be one")
        return entry_id

    def download(self, session: str | None, entry_id: str) -> Request:
        return Request("GET", f"/-{quote(entry_id, safe='')}", _cookie(session))

    def delete(self, session: str | None, entry_id: str) -> Request:
        return Request("DELETE", f"/api/entry/{quote(entry_id, safe='')}", _cookie(session))


def _cookie(session: str | None) -> dict[str, str]:
    return {} if session is None else {"Cookie": f"sharedSecret={session}"}
