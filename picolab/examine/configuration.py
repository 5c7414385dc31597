"""Checks of a server that is started with settings that cannot work, and of where it listens."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace

from picolab.examine.bench import Bench, ended
from picolab.examine.check import Check, NotExamined, Observation, Severity
from picolab.examine.thresholds import EXIT_S
from picolab.machines.local.sockets import listening_sockets
from picolab.servers.base import Place

NO_PORT = 70_000
"""Ports end at 65535."""


def _exits(bench: Bench, change: Callable[[Place], Place]) -> Observation:
    """Start the server at a changed place, and see whether it exits with an error."""
    place = change(bench.fresh_place())
    machine = bench.machine
    port_exists = place.port < NO_PORT
    limit_s = bench.patience_s(EXIT_S)
    try:
        bench.start(place)
        status = bench.outcome(limit_s, lambda: port_exists and machine.listener(place.port) == "server")
        words = bench.last_words()
    finally:
        bench.kill()
    how = f"ran and listened, or still ran after {limit_s:g} s" if status.running else ended(status)
    return Observation(status.running or status.exit_code == 0, f"The server {how}; {words}.")


def _taken(bench: Bench) -> Observation:
    bench.require_this_host()
    place = replace(bench.fresh_place(), address="127.0.0.1")
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        place = replace(place, port=holder.getsockname()[1])
        try:
            bench.start(place, on_loopback=True)
            status = bench.outcome(EXIT_S)
            words = bench.last_words()
        finally:
            bench.kill()
    bad = status.running or status.exit_code == 0
    limit = f" after {EXIT_S:g} s" if status.running else ""
    return Observation(bad, f"The server {ended(status)}{limit}; {words}.")


def _unwritable(bench: Bench) -> Observation:
    # Not even root can write below a file, whom permissions do not stop.
    return _exits(bench, lambda place: replace(place, data=f"{place.executable}/data"))


def _everywhere(bench: Bench) -> Observation:
    bench.require_this_host()
    with bench.running() as running:
        pid = bench.machine.process_status().pid
        addresses = sorted(map(str, listening_sockets(running.place.port, [pid] if pid else []).values()))
    if not addresses:
        raise NotExamined("its listening socket was not found")
    everywhere = any(address in ("0.0.0.0", "::", "::ffff:0.0.0.0") for address in addresses)
    return Observation(everywhere, f"It listened on {', '.join(addresses)}.")


_REFUSED = f"It listens, still runs after {EXIT_S:g} s, or exits with 0."
_VALIDATE = "Check the settings at the start; exit with a code other than 0 and one sentence that names the setting."

CHECKS = (
    Check(
        "port-taken",
        "The server keeps running when its port is taken",
        "The server was started with a port on which another program listened.",
        f"It still runs after {EXIT_S:g} s, or exits with 0.",
        "A supervisor sees a healthy process, and whatever answers on the port is another program.",
        "Exit with a code other than 0 when the listener fails.",
        Severity.HIGH,
        _taken,
    ),
    Check(
        "bad-port",
        "The server keeps running with an invalid port",
        f"The server was started with port {NO_PORT}.",
        _REFUSED,
        "A typing error becomes a process that runs and serves nobody.",
        _VALIDATE,
        Severity.MEDIUM,
        lambda bench: _exits(bench, lambda place: replace(place, port=NO_PORT)),
    ),
    Check(
        "missing-secret",
        "The server starts without a secret",
        "The server was started with an empty secret.",
        _REFUSED,
        "Everybody can log in then, or nobody can.",
        _VALIDATE,
        Severity.HIGH,
        lambda bench: _exits(bench, lambda place: replace(place, secret="")),
    ),
    Check(
        "unwritable-data",
        "The server starts with a data folder that it cannot write",
        "The server was started with a data folder that cannot be made, because a file is in its place.",
        _REFUSED,
        "Uploads fail one by one, or go to a place that nobody backs up.",
        _VALIDATE,
        Severity.MEDIUM,
        _unwritable,
    ),
    Check(
        "all-interfaces",
        "The server listens on all interfaces",
        "The address of its listening socket was read.",
        "An address is 0.0.0.0 or ::.",
        "Behind a reverse proxy, everybody in the network reaches it around the proxy and without TLS.",
        "Offer a setting for the address, with 127.0.0.1 as the default.",
        Severity.MEDIUM,
        _everywhere,
    ),
)
