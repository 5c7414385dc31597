"""The registry of servers under test. Ask the object (`server_of(parameters.server).title`); do not compare names."""

from picolab.servers.base import Server
from picolab.servers.copyparty.adapter import Copyparty
from picolab.servers.picoshare.adapter import PicoShare

SERVERS: dict[str, Server] = {server.name: server for server in (PicoShare(), Copyparty())}
"""By the value of the parameter `server`."""
DEFAULT_SERVER = PicoShare.name


def server_of(name: str) -> Server:
    """Return the server of that name.

    Raises:
        ValueError: there is none.
    """
    try:
        return SERVERS[name]
    except KeyError:
        raise ValueError(f"{name[:60]!r} is unknown; known are {', '.join(SERVERS)}") from None


def checked_name(name: str) -> str:
    """Return the name of a server unchanged, for validation.

    Raises:
        ValueError: there is no such server.
    """
    return server_of(name).name


def default_builds() -> dict[str, str]:
    """Return the name of the server by each word that is its default build."""
    return {server.default_build: server.name for server in SERVERS.values()}


def reserved_variables() -> frozenset[str]:
    """Return the environment variables that picolab sets for some server."""
    return frozenset({"PATH", "HOME", "TMPDIR"}.union(*(server.variables for server in SERVERS.values())))


def settings_of_one_server() -> frozenset[str]:
    """Return the trial parameters that some server alone uses."""
    return frozenset().union(*(server.heeds for server in SERVERS.values()))
