"""Checks of what the server answers: log-in before body, HEAD, Range, file names, empty files, parallel uploads."""

from __future__ import annotations

from picolab.examine.bench import LIMITS, SMALL_BYTES, Bench, Running, said
from picolab.examine.check import Check, NotExamined, Observation, Severity
from picolab.examine.thresholds import ANSWER_S
from picolab.servers.payload import payload_files, pieces

NAMES = ('with \\"quotes\\".bin', "with spaces.bin", "na\u00efve-\u6587\u4ef6-\U0001f600.bin", "many.dots.in.it.tar.gz")
"""Written into the form unchanged: quotes are escaped by backslashes (RFC 2183)."""
DOT_NAME = ".hidden"
PARALLEL = 4
PARALLEL_BYTES = 4 << 20


def _login_first(bench: Bench) -> Observation:
    limit_s = bench.patience_s(ANSWER_S)
    with bench.running() as running, running.part(logged_in=False) as part:
        part.head()
        status = part.status(limit_s)
    if status is None:
        return Observation(True, f"No answer came within {limit_s:g} s: the server waited for the body.")
    if 200 <= status < 300:
        raise NotExamined(f"an upload without a log-in was answered with {status}")
    return Observation(False, f"The answer {status} came before the body.")


def _entry_path(running: Running) -> tuple[str, dict[str, str]]:
    request = running.bench.server.download(running.session, running.stored())
    return request.path, dict(request.headers)


def _head(bench: Bench) -> Observation:
    with bench.running() as running:
        path, headers = _entry_path(running)
        status = running.ask("HEAD", path, headers).status
    return Observation(status != 200, f"HEAD was answered with {status}, GET would be with 200.")


def _range(bench: Bench) -> Observation:
    with bench.running() as running:
        path, headers = _entry_path(running)
        answer = running.ask("GET", path, {**headers, "Range": "bytes=1000-1999"})
    right = b"".join(pieces(1, SMALL_BYTES))[1000:2000]
    if answer.status == 206 and answer.body == right:
        return Observation(False, "The answer was 206 with the 1,000 bytes that were asked for.")
    return Observation(True, f"The answer was {answer.status} with {len(answer.body):,} or more bytes.")


def _troubles(running: Running, names: tuple[str, ...], size_bytes: int) -> list[str]:
    """Upload a file of each name, and return what went wrong."""
    troubles = []
    for seed, name in enumerate(names, 1):
        sent = running.upload(seed, size_bytes, name)
        why = said(sent) if sent.entry_id is None else running.why_not_intact(sent.entry_id, seed, size_bytes)
        if why:
            troubles.append(f"{name!r}: {why}")
    return troubles


def _names(bench: Bench) -> Observation:
    with bench.running() as running:
        troubles = _troubles(running, NAMES, 1000)
    return Observation(bool(troubles), "; ".join(troubles) + "." if troubles else f"All {len(NAMES)} came back intact.")


def _dot_name(bench: Bench) -> Observation:
    with bench.running() as running:
        running.stored()
        troubles = _troubles(running, (DOT_NAME,), 1000)
    return Observation(bool(troubles), "; ".join(troubles) + "." if troubles else "It came back intact.")


def _empty(bench: Bench) -> Observation:
    with bench.running() as running:
        running.stored()
        sent = running.upload(1, 0, "empty.bin")
    return Observation(sent.entry_id is None, f"The answer was {said(sent)}.")


def _parallel(bench: Bench) -> Observation:
    files = payload_files(1, PARALLEL_BYTES, PARALLEL)
    with bench.running() as running:
        running.stored()
        sent = running.client.upload_files(files, LIMITS).files
        troubles = []
        for file, upload in zip(files, sent, strict=True):
            if upload.entry_id is None:
                troubles.append(said(upload))
            elif why := running.why_not_intact(upload.entry_id, file.seed, file.size_bytes):
                troubles.append(why)
    good = f"All {PARALLEL} uploads came back intact."
    return Observation(
        bool(troubles), f"{len(troubles)} of {PARALLEL} failed: {'; '.join(troubles)}." if troubles else good
    )


CHECKS = (
    Check(
        "login-before-body",
        "An upload without a log-in is read before it is refused",
        "The head of an upload without a log-in was sent, and nothing of its body.",
        f"No answer within {ANSWER_S:g} s.",
        "Strangers can fill the disk and the line with files that are never stored.",
        "Check the session before the body is read.",
        Severity.HIGH,
        _login_first,
    ),
    Check(
        "head",
        "HEAD of a stored file is refused",
        "A file was uploaded and asked for with HEAD.",
        "A status other than 200.",
        "Download managers and link checkers cannot learn size and type without fetching the file.",
        "Answer HEAD like GET without the body (RFC 9110, section 9.3.2).",
        Severity.LOW,
        _head,
    ),
    Check(
        "range",
        "Range requests are not served",
        "A part of a stored file, 1,000 bytes, was asked for with a Range header.",
        "Anything but 206 with these bytes.",
        "Broken downloads of large files begin again at zero, and players cannot seek.",
        "Serve single byte ranges with 206 (RFC 9110, section 14).",
        Severity.MEDIUM,
        _range,
    ),
    Check(
        "file-names",
        "Files with unusual names cannot be stored",
        "Files whose names hold quotes, spaces, other scripts and several dots were uploaded and downloaded.",
        f"One of {len(NAMES)} is refused, or a byte of it differs.",
        "Users' files have such names.",
        "Store the name as data, and escape it where it is shown.",
        Severity.MEDIUM,
        _names,
    ),
    Check(
        "dot-names",
        "A file whose name begins with a dot is refused",
        f"A file named {DOT_NAME} was uploaded and downloaded.",
        "It is refused, or a byte of it differs.",
        "Settings files have such names, and the whole upload is lost before the refusal.",
        "Store the name as data; it is no path.",
        Severity.LOW,
        _dot_name,
    ),
    Check(
        "empty-file",
        "An empty file is refused",
        "A file of zero bytes was uploaded.",
        "It is refused.",
        "Scripts that upload what a program has written fail now and then.",
        "Store it like any other file.",
        Severity.LOW,
        _empty,
    ),
    Check(
        "parallel-uploads",
        "Parallel uploads fail",
        f"{PARALLEL} files of {PARALLEL_BYTES >> 20} MiB were uploaded at the same time and downloaded.",
        "One of them fails, or a byte of it differs.",
        "A user who drops several files on the page loses some of them.",
        "Let writers wait for the database instead of failing.",
        Severity.HIGH,
        _parallel,
    ),
)
