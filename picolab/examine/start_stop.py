"""Checks of a server's start and stop: readiness, endpoints for operators, and the end by SIGTERM."""

from __future__ import annotations

import threading

from picolab.examine.bench import END_LIMIT_S, Bench, ended
from picolab.examine.check import Check, Observation, Severity
from picolab.examine.thresholds import NOTICE_S, READY_S, STALLED_STOP_S, STARTS, STOP_S
from picolab.machines.base import ProcessStatus
from picolab.text.wording import listed

HEALTH_PATHS = ("/healthz", "/health", "/api/health", "/readyz", "/livez", "/ping")
METRICS_PATHS = ("/metrics", "/api/metrics")


def _ready(bench: Bench) -> Observation:
    bench.require_real_speed()
    times_s: list[float] = []
    while len(times_s) < STARTS and min(times_s, default=READY_S + 1) > READY_S:
        with bench.running() as running:
            times_s.append(running.ready_s)
    asked, took_s = bench.server.ready(), min(times_s)
    fastest = f", in the fastest of {len(times_s)} starts" if len(times_s) > 1 else ""
    seen = f"{asked.method} {asked.path} was answered with 200 after {took_s:.2f} s{fastest}."
    return Observation(took_s > READY_S, seen)


def _endpoint(bench: Bench, paths: tuple[str, ...]) -> Observation:
    with bench.running() as running:
        answers = {path: running.ask("GET", path).status for path in paths}
    there = [path for path, status in answers.items() if status == 200]
    listed = ", ".join(f"{path}: {status}" for path, status in answers.items())
    return Observation(not there, f"GET {listed}.")


def _stopped(bench: Bench, good_s: float) -> Observation:
    status = bench.machine.stop_process(END_LIMIT_S)
    took_s = status.stop_s or 0.0
    # How long an emulated machine takes says nothing about the server.
    bad = status.exit_code != 0 or (took_s > good_s and not bench.is_emulated)
    return Observation(bad, f"At the end it {ended(status)}, {took_s:.1f} s after SIGTERM.")


def _sigterm_idle(bench: Bench) -> Observation:
    with bench.running():
        return _stopped(bench, STOP_S)


def _sigterm_stalled(bench: Bench) -> Observation:
    with bench.running() as running, running.part() as part:
        part.first(0.5)
        return _stopped(bench, STALLED_STOP_S)


def _sigterm_upload(bench: Bench) -> Observation:
    # A server may give requests in flight some seconds, which are over before an emulated one has them.
    bench.require_real_speed()
    with bench.running() as running, running.part() as part:
        part.first(0.5)
        stopped: list[ProcessStatus] = []
        over = threading.Event()

        def stop() -> None:
            try:
                stopped.append(bench.machine.stop_process(END_LIMIT_S))
            finally:
                over.set()

        thread = threading.Thread(target=stop, daemon=True)
        thread.start()
        over.wait(NOTICE_S)
        part.rest()
        status = part.status(END_LIMIT_S)
        thread.join()
    answer = "no answer" if status is None else f"the answer {status}"
    lost = status is None or not 200 <= status < 300
    how = f"the server {ended(stopped[0])}" if stopped else "the server's end was not seen"
    return Observation(lost, f"The upload got {answer}; {how}.")


CHECKS = (
    Check(
        "ready-time",
        "The server takes long until it is ready",
        "The server was started with an empty data folder, and asked until it answered.",
        f"Not ready after {READY_S:g} s, in the fastest of {STARTS} starts.",
        f"More than {READY_S:g} s at each start is downtime at each update, and probes may restart it too early.",
        "Listen first, and prepare the rest while requests wait.",
        Severity.LOW,
        _ready,
    ),
    Check(
        "health-endpoint",
        "There is no health endpoint",
        "The usual paths of a health endpoint were asked.",
        f"No 200 from any of {listed(HEALTH_PATHS)}.",
        "Supervisors and load balancers can only ask for a page, which says nothing about the database or the disk.",
        "Answer GET /healthz with 200 when uploads can be stored, else with 503 and the reason.",
        Severity.LOW,
        lambda bench: _endpoint(bench, HEALTH_PATHS),
    ),
    Check(
        "metrics-endpoint",
        "There is no metrics endpoint",
        "The usual paths of a metrics endpoint were asked.",
        f"No 200 from any of {listed(METRICS_PATHS)}.",
        "Operators cannot see uploads, errors, memory and free space before users complain.",
        "Offer counters in the Prometheus text format at GET /metrics.",
        Severity.LOW,
        lambda bench: _endpoint(bench, METRICS_PATHS),
    ),
    Check(
        "sigterm-idle",
        "An idle server does not stop cleanly on SIGTERM",
        "SIGTERM was sent to an idle server.",
        f"Exit code other than 0, or longer than {STOP_S:g} s.",
        f"A stop longer than {STOP_S:g} s, or with a code other than 0, looks like a crash to a supervisor.",
        "Close the listener and exit with 0.",
        Severity.MEDIUM,
        _sigterm_idle,
    ),
    Check(
        "sigterm-upload",
        "SIGTERM ends an upload that is still being sent",
        "Half of an upload was sent, then SIGTERM to the server, then the rest of the upload at full speed.",
        f"No answer of 2xx to the upload within {END_LIMIT_S:g} s; the rest is sent {NOTICE_S:g} s after SIGTERM.",
        "Each update of the server loses the uploads of its users.",
        "Stop accepting connections, and finish the requests in flight before exiting.",
        Severity.HIGH,
        _sigterm_upload,
    ),
    Check(
        "sigterm-stalled",
        "A stalled upload makes the stop fail",
        "Half of an upload was sent, and nothing more; then SIGTERM to the server.",
        f"Exit code other than 0, or longer than {STALLED_STOP_S:g} s.",
        "A single slow client makes a planned stop look like a crash, or delays it until the supervisor kills.",
        f"Give requests in flight a limit below {STALLED_STOP_S:g} s, cancel them, and exit with 0.",
        Severity.LOW,
        _sigterm_stalled,
    ),
)
