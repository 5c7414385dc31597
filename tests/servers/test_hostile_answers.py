"""Whatever a server answers: each request ends in time, costs little memory, and is a finding, never an exception.

The servers are bare sockets, see faults/hostile_server.py.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.hostile_server import COOKIE, ID, MISBEHAVIOURS, OK, SECRET, SET_COOKIE, HostileServer, answer
from hypothesis import given, settings
from hypothesis import strategies as st

from picolab.config.sizes import MIB
from picolab.servers.client import Client, LogIn
from picolab.servers.exchange import ANSWER_LIMIT_BYTES, SENTENCE_CHARACTERS, sentence
from picolab.servers.measurements import DownloadMeasurement, Limits, UploadMeasurement
from picolab.servers.picoshare.adapter import PicoShare

# All of it is over within seconds: only something that has no limit takes so long.
pytestmark = pytest.mark.timeout(60)

SIZE = 100_000
SHORT = Limits(stall_s=0.4, total_s=0.6)
PATIENT = Limits(stall_s=60, total_s=60)
ENDLESS = [name for name in MISBEHAVIOURS if "endless" in name or "bomb" in name]
SLOW = [name for name in MISBEHAVIOURS if name.startswith(("dripping", "silent"))]
CUT_OFF = ["closed", "reset", "closed in the head", "closed in the body"]
NO_HTTP = {
    "a line of another protocol": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "zeros": bytes(1000),
    "TLS": bytes.fromhex("1603010002020200") * 10,
    "no version": b"200 OK\r\n\r\n",
    "a version that is none": b"HTTP/9 200 OK\r\n\r\n",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "a negative status": b"HTTP/1.1 -20 OK\r\n\r\n",
    "a line break in a reason": b"HTTP/1.1 200 O\x00K\r\n\r\n",
    "a negative length": OK + b"Content-Length: -1\r\n\r\n",
    "a length that is no number": OK + b"Content-Length: many\r\n\r\n",
    "a length in other digits": OK + "Content-Length: ٣\r\n\r\n".encode(),
    "a length of 5,000 digits": OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "two lengths": OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "two lengths in a line": OK + b"Content-Length: 1, 2\r\n\r\nxx",
    "an unknown transfer encoding": OK + b"Transfer-Encoding: gzip\r\n\r\nxx",
    "two transfer encodings": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a chunk of no length": OK + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "a negative chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n",
    "a chunk that is longer": OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n",
    "a header without a name": OK + b": x\r\n\r\n",
    "a header without a colon": OK + b"hello\r\n\r\n",
    "a header with a zero": OK + b"X: \x00\r\n\r\n",
    "a head of 300 KB": OK + b"X: " + b"x" * 300_000 + b"\r\n\r\n",
    "a head of 60,000 lines": OK + b"X: y\r\n" * 60_000 + b"\r\n",
}


@contextlib.contextmanager
def hostile(**answers: str | bytes) -> Iterator[tuple[HostileServer, Client]]:
    """Yield a server that misbehaves at the named requests, and a client of it that is logged in."""
    requests = {"ready": "GET /", "login": "POST /api/auth", "upload": "POST /api/entry"}
    requests |= {"download": f"GET /-{ID}", "delete": "DELETE /"}
    with (
        HostileServer({requests[name]: how for name, how in answers.items()}) as server,
        Client(PicoShare(), server.base_url, COOKIE, SECRET) as client,
    ):
        yield server, client


def log_in(how: str | bytes, limit_s: float = 60) -> LogIn:
    with hostile(login=how) as (_, client):
        return client.authenticate(SECRET, limit_s)


def upload(how: str | bytes, limits: Limits = PATIENT) -> UploadMeasurement:
    with hostile(upload=how) as (_, client):
        return client.upload(1, SIZE, limits)


def download(how: str | bytes, limits: Limits = PATIENT) -> DownloadMeasurement:
    with hostile(download=how) as (_, client):
        return client.download(ID, 1, SIZE, limits)


def test_the_server_without_misbehaviour_is_a_good_one() -> None:
    with HostileServer() as server, Client(PicoShare(), server.base_url) as client:
        assert client.why_not_ready() is None
        assert client.authenticate("wrong-secret").detail == "incorrect shared secret"
        assert client.authenticate(SECRET) == LogIn("response", 200, COOKIE)
        assert client.upload(1, SIZE, PATIENT).entry_id == ID
        assert client.download(ID, 1, SIZE, PATIENT).matched is True
        assert client.delete(ID) == 200
    assert b"\r\ncookie: sharedsecret=" + COOKIE.encode().lower() in server.heads[-1].lower()


# ---- without an end ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ENDLESS)
def test_an_endless_answer_ends_for_the_client(how: str) -> None:
    limits = Limits(60, 0.6 if how == "endless provisional answers" else 60)
    logged_in, sent, got = log_in(how, limits.total_s), upload(how, limits), download(how, limits)
    assert logged_in.session is None and sent.entry_id is None and not got.matched
    assert logged_in.detail and (sent.server_message or sent.ending_detail)
    with hostile(ready=how) as (_, client):
        # Nobody unpacks the bomb: as it is, it is a page like others.
        assert (client.why_not_ready(limits.total_s) is None) == (how == "compressed bomb")
    with hostile(delete=how) as (_, client):
        client.delete(ID, limits.total_s)


def test_an_endless_error_is_told_by_its_beginning() -> None:
    for message in (log_in("endless error").detail, upload("endless error").server_message):
        assert message is not None and message.startswith("it broke and broke")
        assert len(message) == SENTENCE_CHARACTERS
    refused = download("endless error")
    assert (refused.ending, refused.http_status) == ("response", 500)


@pytest.mark.parametrize("how", ["endless body", "endless chunks", "endless body of a huge length"])
def test_an_endless_download_is_a_difference_and_is_not_read(how: str) -> None:
    got = download(how, Limits(60, 120))
    assert got.matched is False and got.first_difference_byte == 0
    assert SIZE < got.received_bytes < SIZE + MIB
    assert got.ending_detail == "more came back than was sent, and the rest was not read"


@pytest.mark.parametrize("extra", [1, 1000, 5 * MIB])
def test_a_download_that_is_right_but_goes_on_is_a_difference(extra: int) -> None:
    with hostile() as (server, client):
        client.upload(1, SIZE, PATIENT)
        server.misbehaving[f"GET /-{ID}"] = answer(server.files[0] + bytes(extra))
        got = client.download(ID, 1, SIZE, PATIENT)
    assert (got.matched, got.first_difference_byte) == (False, SIZE)
    assert SIZE < got.received_bytes <= SIZE + min(extra, MIB)
    assert got.sent_sha256 != got.received_sha256


@pytest.mark.parametrize("request_name", ["ready", "login", "upload", "download", "delete"])
def test_endless_answers_cost_no_memory(request_name: str) -> None:
    code = (
        "import sys\n"
        "from picolab.servers.client import Client\n"
        "from picolab.servers.measurements import Limits, peak_rss_bytes\n"
        "from picolab.servers.payload import payload_files\n"
        "from picolab.servers.picoshare.adapter import PicoShare\n"
        "limits = Limits(1, 1.5)\n"
        "for url in sys.argv[2:]:\n"
        "    with Client(PicoShare(), url, 'none') as client:\n"
        "        {'ready': lambda: client.why_not_ready(1.5), 'login': lambda: client.authenticate('x', 1.5),\n"
        "         'upload': lambda: client.upload(1, 1000, limits), 'delete': lambda: client.delete('x', 1.5),\n"
        "         'download': lambda: client.download('x', 1, 1000, limits)}[sys.argv[1]]()\n"
        "print(peak_rss_bytes())\n"
    )
    with contextlib.ExitStack() as stack:
        begins = {"ready": "GET /", "download": "GET /-x", "delete": "DELETE"}.get(request_name, "POST")
        urls = [stack.enter_context(HostileServer({begins: how})).base_url for how in ENDLESS]
        done = subprocess.run(
            [sys.executable, "-c", code, request_name, *urls], capture_output=True, text=True, check=True, timeout=120
        )
    assert int(done.stdout) < 80 * MIB


# ---- slow ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", SLOW)
def test_a_slow_answer_ends_at_the_limit(how: str) -> None:
    assert log_in(how, 0.6).ending == "timeout"
    # An upload has stalled only while it is delivered.
    assert upload(how, SHORT).ending == "timeout"
    assert download(how, SHORT).ending == ("stalled" if how.startswith("silent") else "timeout")
    with hostile(ready=how) as (_, client):
        late = "was answered with 500" if how == "dripping error" else "had no whole answer after 0.6 s"
        assert client.why_not_ready(0.6) == f"GET / {late}"
    with hostile(delete=how) as (_, client):
        assert client.delete(ID, 0.6) is None


def test_the_limit_of_a_download_counts_from_its_beginning() -> None:
    begun = time.monotonic()
    got = download("dripping body", Limits(stall_s=60, total_s=0.5))
    assert (got.ending, got.matched) == ("timeout", None)
    assert got.http_status == 200 and got.first_byte_s is not None and got.first_byte_s > begun


def test_a_limit_may_end_at_any_moment() -> None:
    with hostile() as (_, client):
        client.upload(1, SIZE, PATIENT)
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        for step in range(150):
            limit_s = step * 1e-4
            got = client.download(ID, 1, SIZE, Limits(60, limit_s))
            assert got.matched is True or (got.ending, got.matched) == ("timeout", None)
            sent = client.upload(1, SIZE, Limits(60, limit_s))
            assert (sent.ending, sent.entry_id) in (("response", ID), ("timeout", None))
            logged_in = client.authenticate(SECRET, limit_s / 10)
            assert (logged_in.ending, logged_in.session) in (("response", COOKIE), ("timeout", None))
    # The server's own are closed too now.
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors


@pytest.mark.parametrize("total_s", [-5.0, 0.0, 0.001])
def test_a_limit_that_is_over_already(total_s: float) -> None:
    got = download("silent", Limits(stall_s=60, total_s=total_s))
    assert (got.ending, got.matched) == ("timeout", None)


def test_a_port_where_nobody_accepts_is_a_timeout() -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        # The backlog is full after these, and further connections wait for ever.
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        with Client(PicoShare(), f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            assert client.why_not_ready(0.5) is not None
            assert client.authenticate(SECRET, 0.5).ending == "timeout"
            assert client.upload(1, SIZE, Limits(0.5, 0.5)).ending == "timeout"
            assert client.download(ID, 1, SIZE, Limits(0.5, 0.5)).ending == "timeout"
            assert client.delete(ID, 0.5) is None


# ---- no HTTP -------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [pytest.param(content, id=name) for name, content in NO_HTTP.items()])
def test_an_answer_that_is_no_http(content: bytes) -> None:
    logged_in, sent, got = log_in(content), upload(content), download(content)
    assert (logged_in.ending, logged_in.http_status, logged_in.session) == ("connection_lost", None, None)
    assert (sent.ending, sent.http_status, sent.entry_id) == ("connection_lost", None, None)
    assert got.ending == "connection_lost" and got.matched is None
    for said in (logged_in.detail, sent.server_message, got.ending_detail):
        assert said is not None and said.startswith("its answer is no HTTP: ") and len(said) <= SENTENCE_CHARACTERS
    with hostile(ready=content) as (_, client):
        why_not = client.why_not_ready()
        assert why_not is not None and why_not.startswith("GET / was not answered (its answer is no HTTP: ")
    with hostile(delete=content) as (_, client):
        assert client.delete(ID) is None


@pytest.mark.parametrize("how", CUT_OFF)
def test_an_answer_that_is_cut_off_is_a_lost_connection(how: str) -> None:
    for found in (log_in(how), upload(how), download(how)):
        assert found.ending == "connection_lost"
    sent = upload(how)
    assert sent.server_message is None and sent.ending_detail


@pytest.mark.parametrize("stored", [0, 1, SIZE - 1])
def test_a_short_download_of_unknown_length_is_no_difference(stored: int) -> None:
    with hostile() as (server, client):
        client.upload(1, SIZE, PATIENT)
        server.misbehaving[f"GET /-{ID}"] = OK + b"\r\n" + server.files[0][:stored]
        got = client.download(ID, 1, SIZE, PATIENT)
        assert (got.ending, got.matched, got.received_bytes) == ("connection_lost", None, stored)
        assert got.first_difference_byte is None and got.download_s is None
        server.misbehaving[f"GET /-{ID}"] = OK + b"\r\n" + server.files[0]
        assert client.download(ID, 1, SIZE, PATIENT).matched is True


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "where", ["{trap}/", "//elsewhere:99999999/", "http://[", "\x7f", "data:,x", "http://ä\udc80/"]
)
def test_nothing_is_redirected(status: int, where: str) -> None:
    with HostileServer() as trap:
        location = where.format(trap=trap.base_url).encode("utf-8", "surrogateescape")
        content = answer(b"over there", status, b"Location: " + location + b"\r\n")
        if where != "\x7f":
            assert log_in(content) == LogIn("response", status, None, "over there")
            assert upload(content).http_status == status
            assert download(content).http_status == status
        with hostile(ready=content) as (_, client):
            assert client.is_ready() is False
        with hostile(delete=content) as (_, client):
            client.delete(ID)
    assert trap.requests == []


def test_an_answer_compressed_without_being_asked() -> None:
    content = answer(b"it broke", 500, b"Content-Encoding: br\r\n")
    assert upload(content).server_message == "(encoded as 'br', which nobody asked for) it broke"
    assert log_in(content).detail == "(encoded as 'br', which nobody asked for) it broke"


def test_what_is_left_of_one_answer_is_not_taken_for_the_next() -> None:
    with hostile(login=answer(b"", 401) + answer(b"", headers=b"Set-Cookie: sharedSecret=stolen\r\n")) as (_, client):
        assert [client.authenticate(SECRET).http_status for _ in range(3)] == [401, 401, 401]


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=300).map(lambda content: b"HTTP/1.1 " + content),
        st.binary(max_size=300).map(lambda content: OK + content + b"\r\n\r\n"),
        st.binary(max_size=300).map(lambda content: OK + b"Transfer-Encoding: chunked\r\n\r\n" + content),
        st.tuples(st.integers(0, 999), st.binary(max_size=100)).map(lambda of: answer(of[1], of[0])),
        st.binary(max_size=60).map(lambda content: OK + b"Content-Type: text/x;charset=" + content + b"\r\n\r\nx"),
        st.binary(max_size=60).map(lambda content: OK + b"Set-Cookie: sharedSecret=" + content + b"\r\n\r\nx"),
    )
)
def test_no_answer_is_an_exception(content: bytes) -> None:
    with hostile(ready=content, login=content, upload=content, download=content, delete=content) as (_, client):
        client.why_not_ready(0.6)
        assert client.upload(1, 10, SHORT).entry_id is None
        assert client.download(ID, 1, 10, SHORT).matched is not True
        client.delete(ID, 0.6)
        logged_in = client.authenticate(SECRET, 0.6)
        assert (logged_in.session is None) == (logged_in.detail != "")


# ---- ids, cookies, sentences ---------------------------------------------------------------------


@pytest.mark.parametrize("entry_id", ["a", "abcdefghij", "A-_z9", "x" * 64])
def test_an_id_that_can_be_one(entry_id: str) -> None:
    assert upload(answer(json.dumps({"id": entry_id}).encode())).entry_id == entry_id


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(
        st.text(alphabet=st.characters(), max_size=80),
        st.sampled_from(
            ["a\r\nb", "../../x", "a/b", "a?b", "a#b", "%2e%2e", "a b", "\ud800", "\udfff", "ä", "\0", "x" * 65]
        ),
        st.integers(),
        st.floats(),
        st.booleans(),
        st.none(),
        st.lists(st.text(max_size=5), max_size=3),
        st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
    ).filter(
        lambda found: (
            not (isinstance(found, str) and found.isascii() and found.replace("-", "x").replace("_", "x").isalnum())
        )
    )
)
def test_an_id_that_cannot_be_one_is_an_answer_without_success(entry_id: object) -> None:
    sent = upload(answer(json.dumps({"id": entry_id}).encode()))
    assert (sent.ending, sent.http_status, sent.entry_id) == ("response", 200, None)
    assert sent.server_message is not None and sent.server_message.startswith("an answer with")
    sent.server_message.encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(b'{"id":"' + b"a" * 5_000_000 + b'"}', "an answer of more than 65536 bytes: ", id="5 MB"),
        pytest.param(b"[" * 200_000, "an answer of more than 65536 bytes: [[[", id="200,000 brackets"),
        pytest.param(b"[" * ANSWER_LIMIT_BYTES, "an answer without an id: [[[", id="as many brackets as are read"),
        pytest.param(b'{"id":' * 10_000, "an answer without an id: ", id="10,000 objects"),
        pytest.param(b'{"id":' + b"9" * 60_000 + b"}", "an answer without an id: ", id="60,000 digits"),
        pytest.param(b'{"id":"a\nb"}', "an answer without an id: ", id="a line break as it is"),
        pytest.param(b'{"id":"\xff\xfe"}', "an answer without an id: ", id="no UTF-8"),
        pytest.param('{"id":"x"}'.encode("utf-16"), "an answer without an id: ", id="UTF-16"),
        pytest.param(b'\xef\xbb\xbf{"id":"x"}', "an answer without an id: ", id="a byte order mark"),
        pytest.param(b'{"id":NaN}', "an answer without an id: ", id="NaN"),
        pytest.param(b'{"ID":"x"}', "an answer without an id: ", id="another name"),
        pytest.param(b'{"id":""}', "an answer without an id: ", id="an empty id"),
        pytest.param(rb'{"id":"\ud800"}', "an answer with an id that cannot be one: ", id="half a character"),
    ],
)
def test_a_200_that_is_no_success(content: bytes, said: str) -> None:
    sent = upload(answer(content))
    assert (sent.ending, sent.http_status, sent.entry_id) == ("response", 200, None)
    assert sent.server_message is not None and sent.server_message.startswith(said)


@pytest.mark.parametrize(
    "charset", ["klingon", "idna", "base64", "zip", "undefined", "utf-7", "a\x7f", "", '"', "utf-16"]
)
def test_a_sentence_is_read_as_utf8_whatever_it_is_said_to_be(charset: str) -> None:
    content = answer("es fehlt ä".encode(), 500, b"Content-Type: text/plain; charset=" + charset.encode() + b"\r\n")
    if charset != "a\x7f":
        assert upload(content).server_message == "es fehlt ä"
        assert log_in(content).detail == "es fehlt ä"
        assert download(content).server_message == "es fehlt ä"


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"Set-Cookie: sharedSecret\r\n",
        b"Set-Cookie: sharedSecret=\r\n",
        b"Set-Cookie: sharedSecret=; Path=/\r\n",
        b"Set-Cookie: =x\r\n",
        b"Set-Cookie: other=x\r\n",
        b"Set-Cookie: sharedSecret=a b\r\n",
        b"Set-Cookie: sharedSecret=a,b\r\n",
        b'Set-Cookie: sharedSecret="a"\r\n',
        b"Set-Cookie: sharedSecret=a\\b\r\n",
        b"Set-Cookie: sharedSecret=\xc3\xa4\r\n",
        b"Set-Cookie: sharedSecret=" + b"x" * 5000 + b"\r\n",
    ],
)
def test_a_log_in_without_a_usable_cookie_is_no_success(header: bytes) -> None:
    found = log_in(answer(b"", headers=header))
    assert found == LogIn("response", 200, None, "a log-in without a cookie that could be sent back")


def test_a_cookie_is_not_shown_and_the_last_one_counts() -> None:
    header = b"Set-Cookie: sharedSecret=first-one; Path=/a\r\nSET-COOKIE: sharedSecret = second-one ; HttpOnly\r\n"
    with hostile(login=answer(b"", headers=header)) as (server, client):
        found = client.authenticate(SECRET)
        client.delete(ID)
    assert found.session == "second-one" and "second-one" not in repr(found)
    assert b"Cookie: sharedSecret=second-one\r\n" in server.heads[-1]


def test_cookies_of_other_answers_change_nothing() -> None:
    content = answer(b"", headers=b"Set-Cookie: sharedSecret=another; Path=/\r\n")
    with hostile(ready=content) as (server, client):
        assert client.is_ready()
        client.delete(ID)
    assert b"sharedSecret=" + COOKIE.encode() in server.heads[-1] and b"another" not in server.heads[-1]


def test_an_echoed_secret_is_not_in_a_message() -> None:
    for said in (upload("secret in an error").server_message, download("secret in an error").server_message):
        assert said == "; ".join(["the secret is (redacted), the cookie (redacted)"] * 2)
    assert log_in("secret in an error").detail.startswith("the secret is (redacted), the cookie unknown")
    refused = answer(f"your cookie is {COOKIE}".encode(), 403, SET_COOKIE)
    assert log_in(refused) == LogIn("response", 403, None, "your cookie is (redacted)")


def test_a_secret_in_what_is_no_http_is_not_in_a_message() -> None:
    content = f"HTTP/1.1 {SECRET} {COOKIE}\r\n\r\n".encode()
    for said in (log_in(content).detail, upload(content).server_message, download(content).ending_detail):
        assert said is not None and "(redacted)" in said and SECRET not in said and COOKIE not in said


@pytest.mark.parametrize("secret", ["abc+/def==", "sécret-wörd", r"back\slash[and](more)", "x" * 24])
def test_a_secret_is_found_however_it_is_written(secret: str) -> None:
    for form in (
        secret,
        secret.upper(),
        secret.replace("+", "%2B").replace("/", "%2f").replace("=", "%3D"),
        secret.replace("/", "\\/"),
        secret.replace("+", "&#43;").replace("=", "&#x3d;"),
        secret.replace("+", "\\u002b"),
    ):
        assert sentence(f"it is {form}, you know", ["other", secret]) == "it is (redacted), you know"
    # Cut off only after it was taken out: no half of it is left at the end.
    cut = sentence("x" * (SENTENCE_CHARACTERS - 5) + secret, [secret])
    assert secret[:5] not in cut[-5:] or secret == "x" * 24


def test_sentences_are_kept_as_they_came() -> None:
    for text in ("a\x1b[31mb", "[store.db]", "\x00\x07", "ä\u2028b", "=1+1"):
        assert sentence(f" {text}\n", []) == text
        assert upload(answer(text.encode(), 500)).server_message == text
    assert sentence(" \n", []) == "(an empty answer)"
    # Texts this short are in every sentence.
    assert sentence("a short one", ["a", ""]) == "a short one"
