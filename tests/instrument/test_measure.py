"""`picolab calibrate`, for real with small files: what it measures, what it stores, and that it leaves nothing."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from conftest import MIB, eventually

from picolab.errors import MachineError, MemoryLimitUnavailable
from picolab.instrument import measure as calibrating
from picolab.instrument import store
from picolab.instrument.measure import calibrate_instrument
from picolab.instrument.store import HostIdentity
from picolab.instrument.summary import summary_lines
from picolab.machines import registry
from picolab.machines.local import machine
from picolab.servers.calibration.program import SINK_PATH
from picolab.servers.client import Client
from picolab.servers.measurements import Limits
from picolab.servers.picoshare.adapter import PicoShare

LIMITS = Limits(stall_s=60, total_s=300)


@pytest.mark.alone
def test_quick_calibration_measures_everything_and_is_stored() -> None:
    said: list[str] = []
    found = calibrate_instrument(quick=True, report=said.append)

    assert found is not None and found == store.load() and found.quick and found.machine == "local"
    assert found.host == HostIdentity.now()
    rounds = calibrating.QUICK.rounds
    assert found.upload_ceiling_mib_s.n == found.download_ceiling_mib_s.n == found.noise.n == found.probe.n == rounds
    # The paced server runs far below what the client can do, whatever this host is.
    assert found.upload_ceiling_mib_s.median > calibrating.TRANSFER_MIB_S
    assert found.download_ceiling_mib_s.median > calibrating.DOWNLOAD_MIB_S
    assert {name: error.n for name, error in found.errors.items()} == {
        "transfer": 2 * rounds,
        "commit": 2 * rounds,
        "download": 2 * rounds,
        "peak_memory": rounds,
    }
    for name in ("transfer", "commit", "download"):
        # A busy host makes a rate too low and never too high. Ten per cent: an upload takes 0.1 s here, and a paced
        # server acts every 2 ms.
        assert -1 < found.errors[name].median < 0.10, name
        assert abs(found.errors[name].worst) >= abs(found.errors[name].median)
    assert abs(found.errors["peak_memory"].worst) < 0.02
    assert found.noise.low <= found.noise.ratio <= found.noise.high
    assert found.noise.minimum_detectable is None, "two pairs are too few"
    assert len(said) == rounds * 5 and all(line.startswith("round ") and "ETA" in line for line in said)
    assert said[0].startswith("round 1 of 2") and " s: " in said[-1]
    assert registry.existing() == []
    assert json.loads(store.instrument_file().read_text())["version"] == 1

    text = "\n".join(summary_lines(found))
    assert f"upload {found.upload_ceiling_mib_s.median:,.0f} MiB/s" in text
    assert f"{found.probe.ratio:.1%}" in text
    for name, error in found.errors.items():
        assert f"{name.replace('_', ' ')}: median {error.median:+.2%}, worst {error.worst:+.2%}" in text
    assert "too few to tell" in text and "quick" in text


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_a_stopped_calibration_leaves_no_file_and_no_machine(steps: int) -> None:
    said: list[str] = []

    assert calibrate_instrument(quick=True, report=said.append, stop_requested=lambda: len(said) >= steps) is None
    assert len(said) == steps
    assert store.load() is None and registry.existing() == []


def test_wait_for_an_idle_host_can_be_stopped_too() -> None:
    assert calibrate_instrument(stop_requested=lambda: True) is None
    assert store.load() is None and registry.existing() == []


def test_sink_that_does_not_start_is_told_and_leaves_no_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "sink.py"
    broken.write_text("import sys\nsys.exit('I do not want to')\n")
    monkeypatch.setattr(calibrating, "SINK_PATH", broken)
    with pytest.raises(MachineError, match="I do not want to"):
        calibrate_instrument(quick=True)

    assert store.load() is None and registry.existing() == []


def test_a_host_without_memory_limits_is_calibrated_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise MemoryLimitUnavailable("there are no cgroups here")

    monkeypatch.setattr(machine, "find_method", refuse)
    said: list[str] = []
    found = calibrate_instrument(quick=True, report=said.append)

    assert found is not None and said[0] == "no memory limit: there are no cgroups here"
    assert "memory_limit_none" in [caveat.code for caveat in found.caveats]


# The null sink


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Client]:
    port = free_port()
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(SINK_PATH)],
            env={"PATH": os.defpath, "PORT": str(port)},
            stderr=log,
        )
    try:
        with Client(PicoShare(), f"http://127.0.0.1:{port}") as client:
            eventually(client.is_ready, "the sink answers")
            yield client
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("size", [1, MIB - 1, 5 * MIB + 3])
def test_what_the_sink_keeps_comes_back_as_it_was(sink: Client, size: int) -> None:
    kept = sink.upload(7, size, LIMITS, "keep.bin")
    thrown_away = sink.upload(8, 3 * MIB, LIMITS)
    assert kept.entry_id and thrown_away.entry_id
    back = sink.download(kept.entry_id, 7, size, LIMITS)

    assert back.matched and back.received_bytes == size


def test_sink_outlives_a_client_that_goes_away(sink: Client) -> None:
    address = httpx.URL(sink._base_url)
    with socket.create_connection((address.host, address.port or 80)) as connection:
        connection.sendall(b"POST /api/entry HTTP/1.1\r\nContent-Length: 5000\r\n\r\nonly a few bytes")

    assert sink.is_ready() and sink.upload(7, MIB, LIMITS).entry_id
