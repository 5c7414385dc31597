"""Checks of a server under load: memory after many uploads, and other requests while a large upload is in progress."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from picolab.config.sizes import MIB
from picolab.examine.bench import Bench, Running
from picolab.examine.check import Check, NotExamined, Observation, Severity
from picolab.examine.thresholds import LATENCY_S, LEAK_BYTES
from picolab.servers.exchange import Unanswered
from picolab.text.wording import counted

UPLOADS = 50
WARM_UP = 10
"""Uploads in which any server fills its caches."""
UPLOAD_BYTES = MIB
BIG_BYTES = 64 * MIB
PERIOD_S = 0.1
REQUESTS = 20
GIVE_UP_S = 3.0


def _memory(bench: Bench) -> Observation:
    values = []
    with bench.running() as running:
        for number in range(UPLOADS):
            running.stored(number, UPLOAD_BYTES)
            anonymous = bench.machine.process_anon_bytes()
            if anonymous is None:
                raise NotExamined("the kernel does not say how much memory the server has")
            values.append(anonymous)
    slope, low, high = slope_of(values[WARM_UP:])
    seen = f"Anonymous memory grew by {slope / 1024:.1f} KiB per upload (95 % interval {low / 1024:.1f} to "
    return Observation(low > LEAK_BYTES, f"{seen}{high / 1024:.1f}), to {values[-1] / MIB:.1f} MiB.")


def slope_of(values: list[int]) -> tuple[float, float, float]:
    """Return slope per value and its 95 % interval (Theil and Sen: the median slope of all pairs)."""
    from scipy import stats

    found = stats.theilslopes(values, np.arange(len(values)), 0.95)
    return float(found.slope), float(found.low_slope), float(found.high_slope)


def _timed(ask: Callable[[], object]) -> float:
    begun = time.monotonic()
    try:
        ask()
    except Unanswered:
        return GIVE_UP_S
    return time.monotonic() - begun


def _open_loop(asks: list[Callable[[], object]], over: Callable[[], bool]) -> list[float]:
    """Send a request every PERIOD_S, whether earlier ones were answered or not; return the seconds of each.

    Args:
        asks: taken in turn.
        over: ends it, once every request is answered or given up.
    """
    with ThreadPoolExecutor(REQUESTS) as pool:
        sent: list[Future[float]] = []
        begun = time.monotonic()
        while len(sent) < REQUESTS and not over():
            sent.append(pool.submit(_timed, asks[len(sent) % len(asks)]))
            time.sleep(max(0.0, begun + len(sent) * PERIOD_S - time.monotonic()))
        return [future.result() for future in sent]


def _asks(running: Running) -> list[Callable[[], object]]:
    request = running.bench.server.download(running.session, running.stored(1, 1000))
    home = running.bench.server.ready()
    return [
        lambda: running.ask(home.method, home.path, dict(home.headers), GIVE_UP_S),
        lambda: running.ask(request.method, request.path, dict(request.headers), GIVE_UP_S),
    ]


def _observation(latencies: list[float]) -> Observation:
    if not latencies:
        raise NotExamined("the upload was answered before another request could be sent")
    median, worst = statistics.median(latencies), max(latencies)
    no_answer = " or no answer" if worst >= GIVE_UP_S else ""
    requests = counted(len(latencies), "request")
    seen = f"Of {requests}, one every {PERIOD_S:g} s, the median took {median * 1000:.0f} ms and the worst "
    return Observation(worst > LATENCY_S, f"{seen}{worst * 1000:.0f} ms{no_answer}.")


def _in_transfer(bench: Bench) -> Observation:
    bench.require_real_speed()
    with bench.running() as running:
        asks = _asks(running)
        with running.part(size_bytes=BIG_BYTES) as part:
            part.first(0.5)
            return _observation(_open_loop(asks, lambda: False))


def _in_commit(bench: Bench) -> Observation:
    bench.require_real_speed()
    with bench.running() as running:
        asks = _asks(running)
        with running.part(size_bytes=BIG_BYTES) as part:
            part.first(0.5)
            part.rest()
            return _observation(_open_loop(asks, lambda: part.answers_within(0)))


_WHY = "A page that does not open while somebody uploads looks like a server that is down."

CHECKS = (
    Check(
        "memory-leak",
        "Memory grows with each upload",
        f"{UPLOADS} files of {UPLOAD_BYTES // MIB} MiB were uploaded one after the other.",
        f"More than {LEAK_BYTES // 1024} KiB per upload at the lower end of the interval of the slope.",
        "The server is killed for lack of memory after days, in somebody's upload.",
        "Free what belongs to a request at its end, and look at a heap profile after many uploads.",
        Severity.HIGH,
        _memory,
    ),
    Check(
        "latency-transfer",
        f"Other requests wait more than {LATENCY_S:g} s while a large upload is sent",
        f"Half of an upload of {BIG_BYTES // MIB} MiB was sent; meanwhile the page and a small file were asked for.",
        f"The slowest of at most {REQUESTS} requests, one every {PERIOD_S:g} s, takes more than {LATENCY_S:g} s.",
        _WHY,
        "Hold no lock while a body is read.",
        Severity.MEDIUM,
        _in_transfer,
    ),
    Check(
        "latency-commit",
        f"Other requests wait more than {LATENCY_S:g} s while a large upload is stored",
        f"An upload of {BIG_BYTES // MIB} MiB was sent; until its answer, the page and a small file were asked for.",
        f"The slowest of at most {REQUESTS} requests, one every {PERIOD_S:g} s, takes more than {LATENCY_S:g} s.",
        _WHY,
        "Write in short transactions, and let readers in between (SQLite's WAL does).",
        Severity.MEDIUM,
        _in_commit,
    ),
)
