"""Writes a campaign folder with valid records, for tests of reading alone; nothing in it was measured."""

import json
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from picolab.agent.memory_probe import COLUMNS
from picolab.config.sizes import MIB, parse_size
from picolab.config.trial_parameters import TrialParameters
from picolab.record.outcomes import Outcome
from picolab.record.record import RECORD_SCRAP, SAMPLES_SCRAP

SHA = {"calibration": "c" * 64}

CALIBRATION_CAVEAT = {
    "code": "calibration_server",
    "value": None,
    "message": "The server under test is picolab's own calibration server.",
    "advice": "Use these numbers to judge the instrument, never PicoShare.",
}
UNLIMITED_CAVEAT = {
    "code": "memory_limit_none",
    "value": None,
    "message": "Nothing limited the server's memory.",
    "advice": "Do not compare this trial with limited ones.",
}
EMULATED_CAVEAT = {
    "code": "emulated",
    "value": "/dev/kvm is not there",
    "message": "The virtual machine's processor was emulated by software.",
    "advice": "Measure rates on a host with a usable /dev/kvm.",
}
BUSY_CAVEAT = {
    "code": "host_busy",
    "value": 1.7,
    "message": "The host was busy when the trial began: load 1.7 on 2 cores.",
    "advice": "Close other programs and run the trial again.",
}


@dataclass
class FakeTrial:
    """What is special about one trial."""

    ram_mb: int = 512
    file_size: str = "100M"
    build: str = "calibration"
    outcome: Outcome = Outcome.OK
    memory_limit: str = "enforced"
    block: int = 1
    caveats: list[dict[str, Any]] = field(default_factory=list)
    server_message: str | None = None
    detail: str | None = None
    build_sha256: str | None = None
    machine: str = "local"
    acceleration: str = "emulation"
    """Of a virtual machine; a local one has none."""
    label: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    direction: str = "upload"
    fails_in: str = "upload"
    """The stage that finds an outcome other than ok: `upload`, or `verify` for a measured download."""
    fresh_machine: str = "per_campaign"
    reached_by: str | None = None
    """Of a virtual machine; default: created for the first trial, reset for the others."""
    speed: float | None = None
    """Of all rates, 1 is usual; None: a wobble of a few per cent."""
    more_anon_mib: float = 0.0
    started_min: float | None = None
    """Minutes after 10:00; default: the position."""
    kernel: str = "6.1.0"
    parameters_too: dict[str, Any] = field(default_factory=dict)
    """Any other parameters of the trial."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Other values in the record, by the path of their field."""

    @property
    def parameters(self) -> TrialParameters:
        return TrialParameters(
            machine=self.machine,
            ram_mb=self.ram_mb,
            file_size=self.file_size,
            build=self.build,
            memory_limit=self.memory_limit,
            label=self.label,
            environment=self.environment,
            direction=self.direction,
            fresh_machine=self.fresh_machine,
            **self.parameters_too,
        )


def quick_matrix() -> list[FakeTrial]:
    """2 RAM levels x 2 file sizes x 3 repeats, all ok."""
    return [
        FakeTrial(ram_mb=ram_mb, file_size=file_size, block=block)
        for block in (1, 2, 3)
        for ram_mb in (512, 256)
        for file_size in ("25M", "100M")
    ]


def virtual_matrix(acceleration: str = "emulation") -> list[FakeTrial]:
    """The matrix above in virtual machines."""
    trials = quick_matrix()
    for trial in trials:
        trial.machine, trial.acceleration = "vagrant", acceleration
        trial.caveats = [EMULATED_CAVEAT] if acceleration == "emulation" else []
    return trials


def trial_id(position: int, trial: FakeTrial) -> str:
    return f"{position:03d}-{trial.parameters.case_label}"


def make_record(trial: FakeTrial, position: int, campaign: str = "c") -> dict[str, Any]:
    """Return the JSON of a valid record."""
    record = _record(trial, position, campaign)
    for path, value in trial.facts.items():
        part: Any = record
        *parts, name = path.split(".")
        for one in parts:
            part = part[one]
        part[name] = value
    return record


def _record(trial: FakeTrial, position: int, campaign: str) -> dict[str, Any]:
    parameters = trial.parameters
    size = parameters.file_size_bytes
    ok = trial.outcome is Outcome.OK
    wobble = 1 + 0.04 * math.sin(position * 2.4) if trial.speed is None else trial.speed
    transfer_s = size / MIB / (180 * wobble)
    commit_s = size / MIB / (220 * wobble)
    anon_mib = (22 + 0.02 * size / MIB) * (wobble if trial.speed is None else 1) + trial.more_anon_mib
    anon = int(min(anon_mib, trial.ram_mb) * MIB)
    started_at = datetime(2026, 11, 22, 10, tzinfo=UTC) + timedelta(minutes=trial.started_min or position)
    started = Outcome.MACHINE_FAILED is not trial.outcome
    missing: dict[str, str] = {"server.stop_s": "not stopped"}
    upload: dict[str, Any] = {
        "file_size_bytes": size,
        "first_byte_monotonic_s": 1000.0,
        "transfer_s": transfer_s,
        "commit_s": commit_s,
        "duration_s": transfer_s + commit_s,
        "throughput_mib_s": size / MIB / (transfer_s + commit_s),
        "transfer_mib_s": size / MIB / transfer_s,
        "commit_mib_s": size / MIB / commit_s,
        "delivered_bytes": size,
        "http_status": 200,
        "server_message": trial.server_message,
        "client_peak_rss_bytes": 60 * MIB,
        "progress": {"t_s": [0.0, transfer_s], "delivered_bytes": [0, size]},
    }
    stored = ok or trial.fails_in == "verify"
    if not stored:
        timings = ("commit_s", "duration_s", "throughput_mib_s", "commit_mib_s")
        upload |= dict.fromkeys(timings) | {"delivered_bytes": size // 2, "http_status": None}
        missing |= {f"upload.{name}": "the upload did not end well" for name in (*timings, "http_status")}
    build = parameters.build_label
    return {
        "record_version": 1,
        "outcome": trial.outcome.value,
        "outcome_stage": None if ok else trial.fails_in,
        "outcome_detail": trial.detail or ("all well" if ok else f"seen: {trial.outcome}"),
        "identity": {
            "trial_id": trial_id(position, trial),
            "campaign": campaign,
            "block": trial.block,
            "position": position,
            "attempt": 1,
            "started_at": started_at.isoformat(timespec="seconds"),
            "repeat_command": f"picolab trial --ram {trial.ram_mb} --file-size {trial.file_size}",
        },
        "parameters": parameters.model_dump(mode="json"),
        "upload_limit_s": parameters.upload_limit_s,
        "stages": [{"stage": "upload", "duration_s": transfer_s + commit_s, "attempts": 1}],
        "build": {
            "label": build,
            "kind": "calibration" if trial.build == "calibration" else "release",
            "version": None if trial.build == "calibration" else trial.build,
            "sha256": trial.build_sha256 or SHA.get(trial.build, "d" * 64),
            "size_bytes": 12345,
        },
        "machine": _machine(trial, position),
        "server": {
            "ready_s": 0.12,
            "idle_anon_bytes": 15 * MIB,
            "exit_code": 0,
            "exit_signal": None,
            "oom_kills": 0,
            "stop_s": None,
            "oom_evidence": "Out of memory: Killed process 345 (picoshare)"
            if trial.outcome is Outcome.OOM_KILLED
            else None,
        },
        "upload": upload if started else None,
        "verify": {
            "matched": True,
            "sent_sha256": "a" * 64,
            "received_sha256": "a" * 64,
            "first_difference_byte": None,
            "received_bytes": size,
            "download_s": transfer_s / 2,
            "download_mib_s": 2 * size / MIB / transfer_s,
        }
        if ok
        else None,
        "memory": _memory(trial, anon),
        "download": {
            "begun_monotonic_s": 1010.0,
            "duration_s": transfer_s / 2,
            "throughput_mib_s": 2 * size / MIB / transfer_s,
            "first_byte_wait_s": 0.01,
            "received_bytes": size,
            "cache": "warm",
            "memory": _memory(trial, anon),
        }
        if stored and trial.direction != "upload"
        else None,
        "caveats": trial.caveats,
        "missing": missing
        | ({} if ok else {"verify": "not reached"} | ({} if stored else {"download": "not reached"}))
        | ({} if started else {"upload": "not reached"}),
        "provenance": {
            "host": {
                "hostname": "bench",
                "kernel": trial.kernel,
                "cpu_model": "Some CPU",
                "cpu_count": 2,
                "ram_bytes": 8 << 30,
                "load_1min_at_start": 0.1 * position,
            },
            "versions": {"python": "3.11.7", "httpx": "0.28.1"},
            "picolab_version": "0.1.0",
            "picolab_commit": "0123456789abcdef0123456789abcdef01234567",
            "picolab_dirty": False,
        },
    }


def _memory(trial: FakeTrial, anon: int) -> dict[str, Any]:
    return {
        "samples": 40,
        "interval_s": 0.05,
        "samples_per_s": 19.8,
        "gaps": [],
        "gap_count": 0,
        "probe_cpu_share": 0.01,
        "peak_rss_bytes": anon + 9 * MIB,
        "peak_anon_bytes": anon,
        "vm_hwm_bytes": anon + 10 * MIB,
        "peak_swap_bytes": 0,
        "peak_cgroup_bytes": trial.ram_mb * MIB,
        "oom_kills": 1 if trial.outcome is Outcome.OOM_KILLED else 0,
        "min_mem_available_bytes": 3 << 30,
        "peak_disk_bytes": 2 * parse_size(trial.file_size),
    }


def _machine(trial: FakeTrial, position: int) -> dict[str, Any]:
    machine: dict[str, Any] = {
        "kind": trial.machine,
        "name": trial.machine,
        "reused": trial.machine == "vagrant" and position > 1,
        "memory_limit": {"method": "none", "limit_bytes": None, "swap": "unlimited"},
        "data_folder_file_system": "ext4",
        "data_folder_disk": "vda (ssd)",
        "free_disk_bytes": 50 << 30,
        "virtual_machine": None,
    }
    if trial.memory_limit == "enforced":
        machine["memory_limit"] = {"method": "cgroup_v1", "limit_bytes": trial.ram_mb * MIB, "swap": "off"}
    if trial.machine == "vagrant":
        virtual = _virtual_machine(trial, position)
        machine["virtual_machine"] = virtual
        machine["memory_limit"] |= {"method": "virtual_machine", "limit_bytes": virtual["usable_ram_bytes"]}
    return machine


def _virtual_machine(trial: FakeTrial, position: int) -> dict[str, Any]:
    reasons = {"emulation": "/dev/kvm is not there", "kvm": "libvirt says kvm", "unknown": "virtualbox does not tell"}
    return {
        "provider": "virtualbox" if trial.acceleration == "unknown" else "libvirt",
        "software": {"vagrant": "2.3.4", "vagrant-libvirt": "0.11.2", "libvirt": "9.0.0", "qemu": "7.2.13"},
        "box": "picolab",
        "box_version": "1",
        "acceleration": trial.acceleration,
        "acceleration_reason": reasons[trial.acceleration],
        "cpus": 1,
        "nominal_ram_bytes": trial.ram_mb * MIB,
        "usable_ram_bytes": (trial.ram_mb - 38) * MIB,
        "available_ram_bytes": (trial.ram_mb - 90) * MIB,
        "kernel": "6.1.0-28-cloud-amd64",
        "operating_system": "Debian GNU/Linux 12 (bookworm)",
        "launcher": "screen",
        "route": "direct",
        "reached_by": trial.reached_by or ("created" if position == 1 else "reset"),
        "reached_s": 31.5 if position == 1 else 1.0 + position / 10,
        "mended": ["A truncated base volume of the box was removed."] if position == 1 else [],
        "clock_uncertainty_s": 0.001,
    }


USUAL_SAMPLES = 60


def make_samples(trial: FakeTrial, position: int, count: int = USUAL_SAMPLES) -> dict[str, Any]:
    """Return the JSON of a samples scrap: memory that rises in the transfer and stays."""
    record = make_record(trial, position)
    peak = record["memory"]["peak_anon_bytes"]
    duration = (record["upload"] or {}).get("transfer_s", 0.1) * 1.8
    t_s = [round(-0.5 + (duration + 1) * step / (count - 1), 4) for step in range(count)]
    anon = [int(15 * MIB + (peak - 15 * MIB) * min(max(t / duration, 0), 1)) for t in t_s]
    cache = [int(0.6 * trial.ram_mb * MIB * min(max(t / duration, 0), 1)) for t in t_s]
    columns: dict[str, list[Any]] = {name: [None] * len(t_s) for name in COLUMNS}
    columns |= {
        "t_s": t_s,
        "anon_bytes": anon,
        "rss_bytes": [value + 9 * MIB for value in anon],
        "vm_hwm_bytes": [value + 10 * MIB for value in anon],
        "swap_bytes": [0] * len(t_s),
        "cgroup_bytes": [min(a + c, trial.ram_mb * MIB) for a, c in zip(anon, cache, strict=True)],
        "cgroup_anon_bytes": anon,
        "oom_kills": [0] * len(t_s),
        "mem_available_bytes": [3 << 30] * len(t_s),
        "files_bytes": [record["memory"]["peak_disk_bytes"]] * len(t_s),
    }
    return {
        "samples_version": 1,
        "trial_id": record["identity"]["trial_id"],
        "columns": columns,
        "missing": {"psi_memory_some_us": "this kernel has no PSI"},
        "thinned_from": None,
    }


def make_notebook(**scraps: Any) -> dict[str, Any]:
    """Return an executed notebook whose second cell glued the scraps."""
    outputs = [
        {
            "output_type": "display_data",
            "metadata": {"scrapbook": {"name": name, "data": True, "display": False}},
            "data": {
                "application/scrapbook.scrap.json+json": {
                    "name": name,
                    "data": data,
                    "encoder": "json",
                    "version": 1,
                }
            },
        }
        for name, data in scraps.items()
    ]
    code = {"cell_type": "code", "execution_count": 1, "metadata": {}, "outputs": outputs, "source": "glue()"}
    prose = {"cell_type": "markdown", "metadata": {}, "source": "# A trial"}
    return {"cells": [prose, code], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}


def write_campaign(
    folder: Path, trials: list[FakeTrial], planned: list[FakeTrial] | None = None, samples: int = USUAL_SAMPLES
) -> Path:
    """Write plan, ledger and notebooks of a campaign.

    Args:
        trials: those that have run.
        planned: those that the plan has after them and that have not run.
        samples: of each trial.
    """
    (folder / "trials").mkdir(parents=True)
    (folder / "faults").mkdir()
    every = [*trials, *(planned or [])]
    plan = {
        "plan_version": 1,
        "campaign": folder.name,
        "created_at": "2026-11-22T10:00:00+00:00",
        "source": "parameters/quick.yaml",
        "description": "A small matrix that shows picolab at work.",
        "seed": 42,
        "repeats": max((trial.block for trial in every), default=1),
        "fault_retries": 1,
        "factors": {
            "ram_mb": sorted({trial.ram_mb for trial in every}, reverse=True),
            "file_size": list(dict.fromkeys(trial.file_size for trial in every)),
        },
        "order": "Blocks one after the other, the order inside a block drawn at random.",
        "trials": [
            {
                "trial_id": trial_id(position, trial),
                "block": trial.block,
                "position": position,
                "case": trial.parameters.case_label,
                "scenario": trial.parameters.scenario,
                "parameters": trial.parameters.model_dump(mode="json"),
            }
            for position, trial in enumerate(every, start=1)
        ],
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    with (folder / "ledger.jsonl").open("w") as ledger:
        for position, trial in enumerate(trials, start=1):
            record = make_record(trial, position, folder.name)
            name = record["identity"]["trial_id"]
            fault = trial.outcome.is_fault
            place = f"faults/{name}.attempt1.ipynb" if fault else f"trials/{name}.ipynb"
            scraps = {RECORD_SCRAP: record, SAMPLES_SCRAP: make_samples(trial, position, samples)}
            (folder / place).write_text(json.dumps(make_notebook(**scraps)))
            entry = {
                "trial_id": name,
                "attempt": 1,
                "outcome": trial.outcome.value,
                "outcome_detail": record["outcome_detail"],
                "started_at": record["identity"]["started_at"],
                "ended_at": record["identity"]["started_at"],
                "duration_s": 4.2,
                "notebook": place,
                "record": None,
            }
            ledger.write(json.dumps(entry) + "\n")
    return folder
