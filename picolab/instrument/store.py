"""The stored calibration of the instrument, as `picolab calibrate` measured it on this host.

`instrument.json` in the state folder holds one calibration for each kind of machine. Records refer to it, so that a
reader knows how far the instrument itself can be trusted.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from picolab.config.project import state_dir
from picolab.config.trial_parameters import MachineName
from picolab.files.writing import write_atomically
from picolab.host.facts import provenance
from picolab.machines.kinds import DEFAULT_KIND
from picolab.record.caveats import CALIBRATION_INCOMPLETE
from picolab.record.conditions import InstrumentReference
from picolab.record.record import Caveat

INSTRUMENT_FILE = "instrument.json"
INSTRUMENT_VERSION = 1
NOT_CALIBRATED = "the instrument was not calibrated on this host; run picolab calibrate"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class HostIdentity(_Model):
    """The host and the picolab that a calibration holds for."""

    hostname: str
    cpu_model: str
    cpu_count: int
    kernel: str
    picolab_version: str
    picolab_commit: str | None

    @classmethod
    def now(cls) -> "HostIdentity":
        """Return this host and this picolab."""
        found = provenance()
        return cls(
            hostname=found.host["hostname"],
            cpu_model=found.host["cpu_model"],
            cpu_count=found.host["cpu_count"] or 1,
            kernel=found.host["kernel"],
            picolab_version=found.picolab_version,
            picolab_commit=found.picolab_commit,
        )

    def why_not(self, now: "HostIdentity") -> str | None:
        """Return why what was measured here does not hold for `now`; None when it does.

        A commit alone is no reason: most of them change nothing that measures.
        """
        names = {
            "hostname": "the host",
            "cpu_model": "the processor",
            "cpu_count": "the number of processors",
            "kernel": "the kernel",
            "picolab_version": "picolab's version",
        }
        changed = [
            f"{what} was {getattr(self, name)} and is {getattr(now, name)}"
            for name, what in names.items()
            if getattr(self, name) != getattr(now, name)
        ]
        return "; ".join(changed) or None


class Rate(_Model):
    """A rate, MiB/s."""

    n: int
    median: float
    low: float | None = Field(description="of the median's interval; null with fewer than two values")
    high: float | None
    coverage: float | None = Field(description="probability with which such an interval contains the true median")


class Error(_Model):
    """How far measured values were from what the calibration server promised; relative, 0.01 is one per cent."""

    n: int
    truth: float
    unit: str
    median: float = Field(description="with its sign: above 0 the measured values were too high")
    worst: float = Field(description="the one furthest from 0, with its sign")


class Pairs(_Model):
    """The ratio of values that were measured in pairs, one right after the other in changing order."""

    n: int
    ratio: float
    low: float
    high: float
    coverage: float
    spread: float | None = Field(description="of the pairs' ratios, relative; null with fewer than three")
    minimum_detectable: float | None = Field(
        description="relative change that this many pairs find with 80 % power; null with fewer than six"
    )


class InstrumentCalibration(_Model):
    """One calibration."""

    measured_at: str = Field(description="wall clock time of its end, ISO 8601, UTC")
    took_s: float
    host: HostIdentity
    machine: MachineName
    quick: bool = Field(description="true: small files and few rounds, good for a first impression only")
    file_size_mib: float = Field(description="of the uploads at full speed")
    upload_ceiling_mib_s: Rate = Field(description="of the client, against a null sink")
    download_ceiling_mib_s: Rate = Field(description="the same for a download from memory, every byte compared")
    probe: Pairs = Field(description="throughput of uploads with the memory probe over throughput without it")
    errors: dict[str, Error] = Field(description="by what was measured: transfer, commit, download, peak_memory")
    noise: Pairs = Field(description="A/A: throughput of the same server twice")
    caveats: list[Caveat]


def instrument_file() -> Path:
    """Return where calibrations are stored."""
    return state_dir() / INSTRUMENT_FILE


def read(machine: MachineName = DEFAULT_KIND) -> tuple[InstrumentCalibration | None, str]:
    """Return the stored calibration for a kind of machine; or None, and one sentence why there is none."""
    try:
        stored = _stored()[machine]
        return InstrumentCalibration.model_validate(stored), ""
    except (FileNotFoundError, NotADirectoryError, KeyError):
        return None, NOT_CALIBRATED
    except (OSError, ValueError, ValidationError, TypeError, AttributeError) as error:
        what = type(error).__name__ if isinstance(error, ValidationError) else str(error)
        return None, f"{instrument_file()} cannot be read ({what}); run picolab calibrate to measure it anew"


def load(machine: MachineName = DEFAULT_KIND) -> InstrumentCalibration | None:
    """Return the stored calibration for a kind of machine, or None when there is none that can be read."""
    return read(machine)[0]


def _stored() -> dict[str, Any]:
    """Return what the file holds, by kind of machine.

    Raises:
        OSError: there is no file, or it cannot be read.
        ValueError: it is damaged, or of another version.
    """
    content = json.loads(instrument_file().read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not isinstance(content.get("machines"), dict):
        raise ValueError("it holds no calibrations")
    if content.get("version") != INSTRUMENT_VERSION:
        raise ValueError(f"it is of version {content.get('version')}, not {INSTRUMENT_VERSION}")
    return dict(content["machines"])


def save(instrument: InstrumentCalibration) -> Path:
    """Store a calibration next to those of other kinds of machine, and return the file."""
    try:
        machines = _stored()
    except (OSError, ValueError):
        # What cannot be read is of no use to anybody.
        machines = {}
    machines[instrument.machine] = instrument.model_dump(mode="json")
    path = instrument_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, json.dumps({"version": INSTRUMENT_VERSION, "machines": machines}, indent=1) + "\n")
    return path


def is_better(instrument: InstrumentCalibration) -> bool:
    """Return whether an incomplete calibration says more than the stored one, which may be of another host or quick."""
    stored = load(instrument.machine)
    return stored is None or stored.quick or stored.host.why_not(instrument.host) is not None or is_incomplete(stored)


def is_incomplete(instrument: InstrumentCalibration) -> bool:
    """Return whether a calibration failed before its last round."""
    return any(caveat.code == CALIBRATION_INCOMPLETE for caveat in instrument.caveats)


def reference(machine: MachineName) -> tuple[InstrumentReference | None, str]:
    """Return what a record says about the instrument; or None, and one sentence why it says nothing."""
    found, why_not = read(machine)
    if found is None:
        return None, why_not
    return (
        InstrumentReference(
            measured_at=found.measured_at,
            upload_ceiling_mib_s=found.upload_ceiling_mib_s.median,
            download_ceiling_mib_s=found.download_ceiling_mib_s.median,
            probe_ratio=found.probe.ratio,
            noise_floor=found.noise.spread,
            minimum_detectable=found.noise.minimum_detectable,
            stale=found.host.why_not(HostIdentity.now()),
        ),
        "",
    )


def unexplained(found: InstrumentReference) -> dict[str, str]:
    """Return the reason for each null in a reference, by its field."""
    why = "the calibration had too few rounds (picolab calibrate --quick)"
    return {name: why for name in ("noise_floor", "minimum_detectable") if getattr(found, name) is None}
