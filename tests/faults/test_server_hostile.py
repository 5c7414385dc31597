"""The server answers endlessly, byte by byte, or with nonsense: a result within the limit, in bounded memory.

test_hostile_answers.py has many more such answers for the client alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from picolab.config.sizes import MIB
from picolab.record.record import Record
from picolab.servers.measurements import peak_rss_bytes

from .catalogue import fault
from .conftest import Proof, RunTrial
from .hostile_server import CONTROL, COOKIE, ID, hostile_build, misbehaving

# Limits are a second or two: only something that has none takes so long.
pytestmark = pytest.mark.timeout(90)

START, LOG_IN, UPLOAD, DOWNLOAD = "GET /", "POST /api/auth", "POST /api/entry", f"GET /-{ID}"
RESULT = "None: a result, which counts. The server's log is next to the record."
NO_PICOSHARE = "The server does not answer as PicoShare does; read the server's log next to the record."
RunAgainst = Callable[..., Record]


@pytest.fixture
def run_against(run_trial: RunTrial, tmp_path: Path) -> Iterator[RunAgainst]:
    """Run a trial whose server misbehaves in this way at requests with this prefix."""
    before = peak_rss_bytes()

    def run(request: str, how: str, **parameters: object) -> Record:
        limits = {"ready_limit_s": 20, "stall_limit_s": 20, "total_limit_s": 20}
        return run_trial(
            build=hostile_build(tmp_path),
            environment=misbehaving({request: how}),
            **{"file_size": "1M", "direction": "both", **limits, **parameters},
        )

    yield run
    assert peak_rss_bytes() - before < 80 * MIB


# GET /


@pytest.mark.parametrize("how", ["endless body", "endless chunks", "endless headers", "endless provisional answers"])
@fault(
    "server answers GET / endlessly",
    group="server",
    outcome="timeout",
    see="`the server did not answer within ready_limit_s = 2 s; at last ` and the problem of the last try",
    do=NO_PICOSHARE,
)
def test_server_answers_get_without_an_end(run_against: RunAgainst, proof: Proof, how: str) -> None:
    proof.record(run_against(START, how, ready_limit_s=2), "start")


@pytest.mark.parametrize("how", ["dripping head", "dripping body", "dripping chunks"])
@fault(
    "server answers GET / byte by byte",
    group="server",
    outcome="timeout",
    see="`the server did not answer within ready_limit_s = 1.5 s; at last GET / had no whole answer after`",
    do="Raise `ready_limit_s` if the build starts slowly; otherwise read its log.",
)
def test_server_answers_get_a_byte_at_a_time(run_against: RunAgainst, proof: Proof, how: str) -> None:
    proof.record(run_against(START, how, ready_limit_s=1.5), "start")


@fault(
    "server answers GET / without HTTP",
    group="server",
    outcome="timeout",
    see="`the server did not answer within ready_limit_s = 1.5 s; at last GET / was not answered`",
    do=NO_PICOSHARE,
)
def test_server_answers_get_in_another_language_than_http(run_against: RunAgainst, proof: Proof) -> None:
    proof.record(run_against(START, "no HTTP", ready_limit_s=1.5), "start")


# The log-in


@fault(
    "server answers the log-in with an endless error",
    group="server",
    outcome="http_error",
    see="`the log-in was answered with 500: it broke and broke`; 2,000 characters are stored",
    do=RESULT,
)
def test_server_answers_the_log_in_with_an_endless_error(run_against: RunAgainst, proof: Proof) -> None:
    record = run_against(LOG_IN, "endless error")
    proof.record(record, "authenticate")
    assert len(record.outcome_detail) < 2100


@pytest.mark.parametrize("how", ["no cookie", "endless body", "endless compressed body"])
@fault(
    "server answers the log-in without a cookie",
    group="server",
    outcome="http_error",
    see="`the log-in was answered with 200: a log-in without a cookie`",
    do=NO_PICOSHARE,
)
def test_server_answers_the_log_in_without_a_cookie(run_against: RunAgainst, proof: Proof, how: str) -> None:
    proof.record(run_against(LOG_IN, how), "authenticate")


@pytest.mark.parametrize("how", ["dripping head", "dripping body", "dripping error", "silent"])
@fault(
    "server answers the log-in byte by byte, or never",
    group="server",
    outcome="timeout",
    see="`the log-in took longer than ready_limit_s = 2 s`",
    do="Raise `ready_limit_s` if the build is slow; otherwise read its log.",
)
def test_server_answers_the_log_in_a_byte_at_a_time_or_never(run_against: RunAgainst, proof: Proof, how: str) -> None:
    proof.record(run_against(LOG_IN, how, ready_limit_s=2), "authenticate")


# The upload


@fault(
    "server answers the upload with an endless error",
    group="server",
    outcome="http_error",
    see="`the server answered 500: it broke and broke`; 2,000 characters are stored",
    do=RESULT,
)
def test_server_answers_the_upload_with_an_endless_error(run_against: RunAgainst, proof: Proof) -> None:
    record = run_against(UPLOAD, "endless error")
    proof.record(record, "upload")
    assert record.upload and record.upload.server_message and len(record.upload.server_message) == 2000


@pytest.mark.parametrize("how", ["endless body", "endless chunks", "id of 5 MB", "200,000 brackets"])
@fault(
    "server answers the upload with more than an id",
    group="server",
    outcome="http_error",
    see="`the server answered 200: an answer of more than 65536 bytes`",
    do=NO_PICOSHARE,
)
def test_server_answers_the_upload_with_more_than_an_id(run_against: RunAgainst, proof: Proof, how: str) -> None:
    proof.record(run_against(UPLOAD, how), "upload")


@fault(
    "server answers the upload with an invalid id",
    group="server",
    outcome="http_error",
    see="`the server answered 200: an answer with an id that cannot be one`",
    do=NO_PICOSHARE,
)
def test_server_answers_the_upload_with_an_id_that_cannot_be_one(run_against: RunAgainst, proof: Proof) -> None:
    proof.record(run_against(UPLOAD, "id with a line break"), "upload")


@pytest.mark.parametrize("how", ["dripping head", "dripping body", "endless provisional answers", "silent"])
@fault(
    "server answers the upload byte by byte, or never",
    group="server",
    outcome="timeout",
    see="`the upload took longer than its limit of 2 s, after 1.0 of 1.0 MiB`",
    do="None: a result. Raise `total_limit_s` if the build is slow.",
)
def test_server_answers_the_upload_a_byte_at_a_time_or_never(run_against: RunAgainst, proof: Proof, how: str) -> None:
    proof.record(run_against(UPLOAD, how, total_limit_s=2), "upload")


@fault(
    "server answers the upload without HTTP",
    group="server",
    outcome="http_error",
    see="`the upload failed, after 1.0 of 1.0 MiB: its answer is no HTTP`",
    do=NO_PICOSHARE,
)
def test_server_answers_the_upload_with_what_is_no_http(run_against: RunAgainst, proof: Proof) -> None:
    proof.record(run_against(UPLOAD, "no HTTP"), "upload")


@fault(
    "server answers the upload in an unknown charset",
    group="server",
    outcome="http_error",
    see="`the server answered 404: not found`, decoded as UTF-8 whatever the header declares",
    do=RESULT,
)
def test_server_answers_the_upload_in_an_unknown_charset(run_against: RunAgainst, proof: Proof) -> None:
    proof.record(run_against(UPLOAD, "unknown charset"), "upload")


@pytest.mark.parametrize("request_line", [LOG_IN, UPLOAD, DOWNLOAD])
@fault(
    "server answers with the secret of the trial",
    group="server",
    outcome="http_error",
    see="`500: the secret is (redacted), the cookie`, and the cookie redacted too",
    do="None: the secret belongs to one trial, and never reaches record or notebook.",
)
def test_server_answers_with_the_secret_of_the_trial(run_against: RunAgainst, proof: Proof, request_line: str) -> None:
    record = run_against(request_line, "secret in an error")
    proof.record(record, record.outcome_stage)
    assert COOKIE not in record.model_dump_json() and len(re.findall("redacted", record.outcome_detail)) >= 2


@fault(
    "server logs the secret of the trial and ends",
    group="server",
    outcome="server_died",
    see="`the server ended with exit code 3, before it answered; its log ends with ...: (redacted)`",
    do="None: the secret belongs to one trial. It is in `server.log`, where the build wrote it.",
)
def test_server_logs_the_secret_of_the_trial_and_ends(run_trial: RunTrial, proof: Proof, tmp_path: Path) -> None:
    build = tmp_path / "talkative"
    build.write_text('#!/bin/sh\necho "secret: $PS_SHARED_SECRET"\nexit 3\n')
    build.chmod(0o755)
    proof.record(run_trial(build=str(build)), "start")


@fault(
    "server answers with control characters",
    group="server",
    outcome="http_error",
    see="`the server answered 500: it...broke`; unchanged in the record, escaped on output",
    do=RESULT,
)
def test_server_answers_with_control_characters(
    run_against: RunAgainst, proof: Proof, capsys: pytest.CaptureFixture[str]
) -> None:
    record = run_against(UPLOAD, "control characters")
    proof.record(record, "upload")
    assert record.upload and record.upload.server_message == CONTROL.decode()
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\x07" not in shown and r"it\x1b[31m\x07 broke" in shown


# The download


@pytest.mark.parametrize("how", ["endless body", "endless chunks", "endless body of a huge length"])
@fault(
    "server returns endless bytes",
    group="server",
    outcome="corrupted",
    see="`the download differs from byte 0 on` and `more came back than was sent, and the rest was not read`",
    do="Do not use the build: it answers 200 and stores other data.",
)
def test_server_gives_back_bytes_without_an_end(run_against: RunAgainst, proof: Proof, how: str) -> None:
    proof.record(run_against(DOWNLOAD, how), "verify")


@fault(
    "server answers the download with an endless error",
    group="server",
    outcome="http_error",
    see="`the download was answered with 500: it broke and broke`; 2,000 characters are stored",
    do=RESULT,
)
def test_server_answers_the_download_with_an_endless_error(run_against: RunAgainst, proof: Proof) -> None:
    proof.record(run_against(DOWNLOAD, "endless error"), "verify")


@pytest.mark.parametrize("how", ["dripping head", "dripping body", "dripping chunks"])
@fault(
    "server returns the file byte by byte",
    group="server",
    outcome="timeout",
    see="`the download ended after 0.0 MiB`",
    do="None: a result of the download. The numbers of the upload stay valid.",
)
def test_server_gives_back_a_byte_at_a_time(run_against: RunAgainst, proof: Proof, how: str) -> None:
    record = run_against(DOWNLOAD, how, total_limit_s=2)
    proof.record(record, "verify")
    assert record.upload and record.upload.throughput_mib_s


@pytest.mark.parametrize("how", ["silent", "silent after the head"])
@fault(
    "server never answers the download",
    group="server",
    outcome="stalled",
    see="`the download ended after 0.0 MiB`",
    do="None: a result of the download. The numbers of the upload stay valid.",
)
def test_server_never_answers_the_download(run_against: RunAgainst, proof: Proof, how: str) -> None:
    proof.record(run_against(DOWNLOAD, how, stall_limit_s=1), "verify")


@fault(
    "server answers the download without HTTP",
    group="server",
    outcome="http_error",
    see="`the server closed the download (its answer is no HTTP`",
    do=NO_PICOSHARE,
)
def test_server_answers_the_download_without_http(run_against: RunAgainst, proof: Proof) -> None:
    proof.record(run_against(DOWNLOAD, "no HTTP"), "verify")
