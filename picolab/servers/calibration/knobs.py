"""Knobs of the calibration server: the truths that it can be given."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


KINDS: dict[str, Callable[[Any], bool]] = {
    "a number above 0": lambda value: _is_number(value) and value > 0,
    "a number, 0 or above": lambda value: _is_number(value) and value >= 0,
    "a number from 0 to 100": lambda value: _is_number(value) and 0 <= value <= 100,
    "an integer": _is_integer,
    "an integer from 0 to 255": lambda value: _is_integer(value) and 0 <= value <= 255,
    "an integer from 200 to 599": lambda value: _is_integer(value) and 200 <= value <= 599,
    "true or false": lambda value: isinstance(value, bool),
    "text": lambda value: isinstance(value, str),
}


# No dataclasses in this package: they import `inspect`, which takes a sixth of the server's start.
class Knob(NamedTuple):
    """A knob: which values it takes, the truth that it promises, and its value when it is not given."""

    kind: str
    truth: str
    default: object


def _knob(kind: str, truth: str, default: object = None) -> Any:
    return Knob(kind, truth, default)


class Knobs:
    """The known truth: what each knob promises. Without a knob: PicoShare's own behaviour, at full speed."""

    transfer_mib_s: float | None = _knob(
        "a number above 0",
        "From the first to the last byte of an upload's body takes size / rate, each byte on schedule.",
    )
    commit_mib_s: float | None = _knob(
        "a number above 0", "From the last byte of the body to the response takes file size / rate."
    )
    startup_delay_s: float = _knob("a number, 0 or above", "Listens this much later.", 0)
    ballast_mib: float = _knob(
        "a number, 0 or above", "The first upload's first byte adds this much anonymous memory, for good.", 0
    )
    ballast_mib_per_mib: float = _knob(
        "a number, 0 or above",
        "Anonymous memory grows by this much with every MiB of body received, until the upload is answered.",
        0,
    )
    oom_after_mib: float | None = _knob(
        "a number, 0 or above", "After this much of the body, touches new memory until the kernel kills it."
    )
    oom_ceiling_mib: float = _knob(
        "a number above 0", "Where oom_after_mib gives up (logged, exit code 1) if no limit stops it.", 4096
    )
    exit_after_mib: float | None = _knob(
        "a number, 0 or above", "After this much of the body, the process ends at once, cleaning up nothing."
    )
    exit_code: int = _knob("an integer from 0 to 255", "The exit code of exit_after_mib.", 3)
    stall_after_mib: float | None = _knob(
        "a number, 0 or above", "After this much of the body, reads no more and holds the connection open."
    )
    stall_in_commit: bool = _knob("true or false", "Never answers once the whole body has arrived.", False)
    corrupt_byte: int | None = _knob(
        "an integer", "The stored file's byte at this offset is flipped; a negative one counts from the end."
    )
    status: int | None = _knob(
        "an integer from 200 to 599", "Answers this instead of storing, after the whole body has been read."
    )
    status_message: str | None = _knob("text", "The sentence that goes with status.")
    disk_quota_mib: float | None = _knob(
        "a number, 0 or above", "Temp files and database together may take this much; then the disk is full."
    )
    ignore_sigterm: bool = _knob("true or false", "SIGTERM does nothing.", False)
    occupy_port_without_listening: bool = _knob(
        "true or false", "Holds the port, says that it is taken, and lives on without a listener.", False
    )
    download_mib_s: float | None = _knob(
        "a number above 0", "From the first to the last byte of a download takes size / rate, each byte on schedule."
    )
    download_ballast_mib: float = _knob(
        "a number, 0 or above",
        "Each download adds this much anonymous memory, from before its first byte to its end.",
        0,
    )
    drift_per_minute: float = _knob(
        "a number, 0 or above",
        "Every rate is divided by 1 + this x minutes since drift_since, as it is when an upload or download begins.",
        0,
    )
    drift_since: float | None = _knob(
        "a number, 0 or above", "When the drift begins: wall-clock seconds since the epoch (1970)."
    )
    memory_need_mib: float | None = _knob(
        "a number above 0",
        "At the end of the commit of an upload the process takes anonymous memory until it has this much in all, with "
        "its page tables, times memory_need_percent's factor; freed when the upload is answered.",
    )
    memory_need_percent: float = _knob(
        "a number from 0 to 100",
        "Every upload multiplies memory_need_mib by a random factor of its own: lognormal, median 1, with this "
        "standard deviation of its natural logarithm in per cent.",
        0,
    )
    full_speed_mib: float | None = _knob(
        "a number above 0",
        "With less memory than this (the limit of its cgroup, or the RAM of its machine), every rate is multiplied by "
        "(memory / this) to the power of full_speed_power.",
    )
    full_speed_power: float = _knob("a number above 0", "The power of full_speed_mib.", 4)
    noise_percent: float = _knob(
        "a number from 0 to 100",
        "Every upload and download multiplies its rates by a random factor of its own: lognormal, median 1, with this "
        "standard deviation of its natural logarithm in per cent.",
        0,
    )

    # For the checks of `picolab examine`: one for each weakness that PicoShare has not, or has.
    leak_mib_per_upload: float = _knob(
        "a number, 0 or above", "Each upload adds this much anonymous memory, for good.", 0
    )
    sigterm_cuts_uploads: bool = _knob(
        "true or false", "SIGTERM ends the process with 0 at once, also in an upload.", False
    )
    clean_stop: bool = _knob("true or false", "Exits with 0 after SIGTERM even if a request had to be cut.", False)
    health_endpoint: bool = _knob("true or false", "GET /healthz is answered with 200.", False)
    metrics_endpoint: bool = _knob("true or false", "GET /metrics is answered with 200.", False)
    restart_loses_files: bool = _knob("true or false", "A start with an old database forgets its entries.", False)
    restart_damages_database: bool = _knob(
        "true or false", "A start with an old database overwrites its last page.", False
    )
    restart_sweeps: bool = _knob(
        "true or false", "A start removes temp files and chunks of uploads that were never completed.", False
    )
    exits_without_listener: bool = _knob("true or false", "Exits with 1 if it cannot have its port.", False)
    accepts_no_secret: bool = _knob("true or false", "Starts without a secret; the empty one is right then.", False)
    starts_without_data: bool = _knob("true or false", "Stores in TMPDIR if the database cannot be opened.", False)
    listens_everywhere: bool = _knob("true or false", "Listens on all interfaces (0.0.0.0).", False)
    answers_507: bool = _knob("true or false", "A full disk is answered with 507 instead of 400.", False)
    hides_full_disk: bool = _knob("true or false", "The answer to a full disk does not name it.", False)
    keeps_temp_files: bool = _knob("true or false", "Temp files of uploads are never removed.", False)
    reads_body_before_login: bool = _knob(
        "true or false", "A request without a log-in is refused only after its whole body was read.", False
    )
    answers_head: bool = _knob("true or false", "HEAD is answered like GET, without the body.", False)
    ignores_range: bool = _knob("true or false", "A Range header is ignored.", False)
    refuses_odd_names: bool = _knob(
        "true or false",
        "A file name is refused if it has more than ASCII letters, digits, dots, - and _.",
        False,
    )
    accepts_dot_names: bool = _knob("true or false", "A file name may begin with a dot.", False)
    accepts_empty_files: bool = _knob("true or false", "An empty file is stored.", False)
    refuses_parallel_uploads: bool = _knob(
        "true or false", "An upload is refused with 503 while another one is in progress.", False
    )
    one_request_at_a_time: bool = _knob("true or false", "A request waits until the one before it is answered.", False)

    def __init__(self, **given: object) -> None:
        for name, knob in KNOBS.items():
            setattr(self, name, given.get(name, knob.default))

    @classmethod
    def parse(cls, text: str) -> Knobs:
        """Read knobs from a JSON object. Raises ValueError with a sentence that names the wrong one."""
        try:
            given = json.loads(text)
        except ValueError as error:
            raise ValueError(f"PICOLAB_CALIBRATION is not JSON ({error})") from None
        if not isinstance(given, dict):
            raise ValueError("PICOLAB_CALIBRATION must be a JSON object of knobs")
        for name, value in given.items():
            if name not in KNOBS:
                raise ValueError(f"PICOLAB_CALIBRATION has no knob {name!r}; {_nearest(name)}")
            kind = KNOBS[name].kind
            if not KINDS[kind](value):
                raise ValueError(f"PICOLAB_CALIBRATION: {name} must be {kind}, not {json.dumps(value)}")
        if given.get("drift_per_minute") and "drift_since" not in given:
            raise ValueError(
                "PICOLAB_CALIBRATION: drift_per_minute needs drift_since, the seconds since the epoch at which the "
                "drift begins"
            )
        return cls(**given)


def _nearest(name: str) -> str:
    # Only a mistake needs it, and the server's memory is measured.
    import difflib

    near = difflib.get_close_matches(name, KNOBS, n=1)
    return f"did you mean {near[0]}?" if near else "docs/calibration-server.md lists them"


KNOBS: dict[str, Knob] = {name: knob for name, knob in vars(Knobs).items() if isinstance(knob, Knob)}
