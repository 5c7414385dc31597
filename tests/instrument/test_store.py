"""The stored calibration: kept, found again, damaged, out of date, and named by the records of real trials."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from picolab.config.trial_parameters import TrialParameters
from picolab.instrument import store
from picolab.instrument.store import NOT_CALIBRATED, HostIdentity, InstrumentCalibration, instrument_file
from picolab.machines import registry
from picolab.record.outcomes import Outcome
from picolab.record.record import Record
from picolab.record.validation import validate_record
from picolab.trial.trial import Trial

PAIRS = {"n": 10, "ratio": 1.0, "low": 0.97, "high": 1.03, "coverage": 0.95, "spread": 0.03, "minimum_detectable": 0.04}


def rate(median: float) -> dict[str, Any]:
    return {"n": 10, "median": median, "low": 0.9 * median, "high": 1.1 * median, "coverage": 0.97}


def calibration(**values: Any) -> InstrumentCalibration:
    error = {"n": 20, "truth": 40.0, "unit": "MiB/s", "median": -0.003, "worst": -0.01}
    data = {
        "measured_at": "2026-11-22T10:00:00+00:00",
        "took_s": 71.2,
        "host": HostIdentity.now().model_dump(),
        "machine": "local",
        "quick": False,
        "file_size_mib": 128.0,
        "upload_ceiling_mib_s": rate(1e6),
        "download_ceiling_mib_s": rate(1e6),
        "probe": PAIRS,
        "errors": {"transfer": error},
        "noise": PAIRS,
        "caveats": [],
    }
    return InstrumentCalibration.model_validate(data | values)


def test_calibrations_of_two_machines_are_kept_side_by_side() -> None:
    assert store.read() == (None, NOT_CALIBRATED)
    local, vagrant = calibration(), calibration(machine="vagrant", took_s=200.0)
    path = store.save(local)
    store.save(vagrant)

    assert path == instrument_file()
    assert store.load() == store.load("local") == local
    assert store.load("vagrant") == vagrant
    assert [entry.name for entry in path.parent.iterdir()] == [path.name], "written atomically, nothing beside it"


def test_other_machine_than_was_calibrated() -> None:
    store.save(calibration())
    assert store.read("vagrant") == (None, NOT_CALIBRATED)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"version": 1}',
        '{"version": 1, "machines": []}',
        '{"version": 2, "machines": {"local": {}}}',
        '{"version": 1, "machines": {"local": {}}}',
        '{"version": 1, "machines": {"local": 3}}',
        "\udcff",
    ],
)
def test_damaged_file_is_told_in_one_sentence_and_replaced(text: str) -> None:
    instrument_file().parent.mkdir(parents=True)
    instrument_file().write_bytes(text.encode(errors="surrogateescape"))
    found, why_not = store.read()

    assert found is None and store.load() is None
    assert why_not.startswith(str(instrument_file())) and why_not.endswith("run picolab calibrate to measure it anew")
    assert "\n" not in why_not and len(why_not) < 400
    assert store.reference("local") == (None, why_not)
    store.save(calibration())
    assert store.load() == calibration()


def test_state_folder_that_is_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PICOLAB_STATE_DIR", str(tmp_path / "file"))
    assert store.read() == (None, NOT_CALIBRATED)


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        ({}, None),
        # Most commits change nothing that measures.
        ({"picolab_commit": "0" * 40}, None),
        ({"kernel": "2.6.32"}, "the kernel was 2.6.32 and is "),
        ({"hostname": "another"}, "the host was another and is "),
        ({"picolab_version": "0.0.1"}, "picolab's version was 0.0.1 and is "),
        ({"cpu_count": 4711}, "the number of processors was 4711 and is "),
    ],
)
def test_calibration_of_another_host_is_stale(change: dict[str, Any], stale: str | None) -> None:
    store.save(calibration(host=HostIdentity.now().model_dump() | change))
    found, _ = store.reference("local")

    assert found is not None
    assert found.stale is None if stale is None else found.stale is not None and found.stale.startswith(stale)
    assert (found.upload_ceiling_mib_s, found.noise_floor, found.minimum_detectable) == (1e6, 0.03, 0.04)
    assert store.unexplained(found) == {}


def test_too_few_rounds_for_a_noise_floor_are_explained() -> None:
    store.save(calibration(noise=PAIRS | {"spread": None, "minimum_detectable": None}))
    found, _ = store.reference("local")

    assert found is not None
    assert set(store.unexplained(found)) == {"noise_floor", "minimum_detectable"}


# In the record of a real trial


@pytest.fixture(autouse=True)
def no_machine_is_left() -> Iterator[None]:
    yield
    registry.release_by_name("local")


def measure(**parameters: Any) -> Record:
    defaults = {"ram_mb": 128, "file_size": "4M", "keep_machine": "never"}
    trial = Trial.open(TrialParameters.model_validate(defaults | parameters))
    for stage in (trial.provision, trial.start, trial.authenticate, trial.upload, trial.verify):
        stage()
    record = trial.collect()
    trial.release()
    assert record.outcome is Outcome.OK
    validate_record(json.loads(record.model_dump_json()), "here")
    return record


def codes(record: Record) -> list[str]:
    return [caveat.code for caveat in record.caveats]


def test_record_says_that_nothing_was_calibrated() -> None:
    record = measure()

    assert record.instrument is None and record.missing["instrument"] == NOT_CALIBRATED
    assert "client_bound" not in codes(record)


def test_record_names_calibration_and_a_fast_enough_client() -> None:
    store.save(calibration())
    record = measure(direction="both")

    assert record.instrument is not None
    assert (record.instrument.measured_at, record.instrument.stale) == (calibration().measured_at, None)
    assert "client_bound" not in codes(record)


@pytest.mark.parametrize(
    ("ceilings", "word"),
    [
        ({"upload_ceiling_mib_s": rate(8.0)}, "the upload ran at"),
        ({"download_ceiling_mib_s": rate(8.0)}, "the download ran at"),
    ],
)
def test_measured_rate_near_the_ceiling_is_a_caveat(ceilings: dict[str, Any], word: str) -> None:
    store.save(calibration(**ceilings))
    record = measure(direction="both", calibration={"transfer_mib_s": 10, "download_mib_s": 10})

    assert record.upload and record.upload.transfer_mib_s and record.download and record.download.throughput_mib_s
    (caveat,) = [one for one in record.caveats if one.code == "client_bound"]
    assert word in caveat.message and caveat.message.count(" ran at ") == 1
    rates = {"upload": record.upload.transfer_mib_s, "download": record.download.throughput_mib_s}
    assert caveat.value == pytest.approx(rates[word.split()[1]] / 8.0, abs=0.001)


def test_a_warm_download_larger_than_the_cache_is_a_caveat() -> None:
    too_large = measure(direction="download", ram_mb=64, file_size="64M")
    small = measure(direction="download", ram_mb=128, file_size="16M")

    assert "page_cache_unknown" in codes(too_large) and "page_cache_unknown" not in codes(small)
