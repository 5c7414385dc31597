"""Caveats: which ones a machine and its clock give, and that their advice fits the machine."""

import os
from typing import Any

import pytest
from campaign_factory import FakeTrial, make_record

from picolab.config.sizes import MIB
from picolab.record import caveats
from picolab.record.conditions import InstrumentReference
from picolab.record.machine import MachineRecord


@pytest.fixture(autouse=True)
def idle_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))


def machine(kind: str = "vagrant", virtual: dict[str, Any] | None = None, **values: Any) -> MachineRecord:
    data = make_record(FakeTrial(machine=kind, acceleration="kvm"), 1)["machine"]
    if virtual:
        data["virtual_machine"] |= virtual
    return MachineRecord.model_validate(data | values)


def codes(found: MachineRecord) -> list[str]:
    return [caveat.code for caveat in caveats.of_machine(found)]


@pytest.mark.parametrize("kind", ["local", "vagrant"])
def test_good_machine_gives_no_caveat(kind: str) -> None:
    assert codes(machine(kind)) == []


@pytest.mark.parametrize(
    ("virtual", "code", "value"),
    [
        ({"acceleration": "emulation", "acceleration_reason": "no /dev/kvm"}, "emulated", "no /dev/kvm"),
        ({"acceleration": "unknown", "acceleration_reason": "nobody asked"}, "acceleration_unknown", "nobody asked"),
        ({"route": "ssh_forward"}, "measured_through_ssh", None),
    ],
)
def test_a_virtual_machine_has_caveats_about_its_rates(virtual: dict[str, str], code: str, value: str | None) -> None:
    (caveat,) = caveats.of_machine(machine(virtual=virtual))

    assert (caveat.code, caveat.value) == (code, value)


def test_each_reason_is_told() -> None:
    assert codes(machine(virtual={"acceleration": "emulation", "route": "ssh_forward"})) == [
        "emulated",
        "measured_through_ssh",
    ]


def test_flag_of_a_virtual_disk_says_nothing() -> None:
    assert codes(machine("local", data_folder_disk="sda (rotational)")) == ["rotational_disk"]
    assert codes(machine("vagrant", data_folder_disk="vda (rotational)")) == []


@pytest.mark.parametrize(
    "values",
    [
        {"data_folder_file_system": "tmpfs"},
        {"memory_limit": {"method": "virtual_machine", "limit_bytes": 1, "swap": "unlimited"}},
    ],
)
def test_advice_for_a_guest_is_about_its_box(values: dict[str, Any]) -> None:
    (caveat,) = caveats.of_machine(machine(**values))

    assert "box" in caveat.advice
    assert "host" not in caveat.message and "work_dir" not in caveat.advice


@pytest.mark.parametrize("drift_s", [None, 0.0, 0.05, -0.05])
def test_clock_that_ran_like_the_hosts(drift_s: float | None) -> None:
    assert caveats.of_clock(drift_s) == []


@pytest.mark.parametrize(("drift_s", "words"), [(0.0612, "moved by +0.06 s"), (-3.0, "moved by -3.00 s")])
def test_clock_that_drifted(drift_s: float, words: str) -> None:
    (caveat,) = caveats.of_clock(drift_s)

    assert (caveat.code, caveat.value) == ("guest_clock_drifted", round(drift_s, 3))
    assert words in caveat.message


def test_a_probe_that_may_not_lock_its_pages() -> None:
    (caveat,) = caveats.of_unlocked_probe("the pages could not be locked (why)")
    assert caveat.code == "probe_not_locked" and "the pages could not be locked (why)" in caveat.message
    assert caveats.of_unlocked_probe(None) == []


def reference(**values: Any) -> InstrumentReference:
    data = {
        "measured_at": "2026-11-22T10:00:00+00:00",
        "upload_ceiling_mib_s": 1000.0,
        "download_ceiling_mib_s": 500.0,
        "probe_ratio": 1.0,
        "noise_floor": 0.02,
        "minimum_detectable": 0.03,
        "stale": None,
    }
    return InstrumentReference.model_validate(data | values)


@pytest.mark.parametrize(
    ("upload_mib_s", "download_mib_s", "value"),
    [(800.0, None, None), (None, None, None), (801.0, None, 0.801), (100.0, 450.0, 0.9), (950.0, 450.0, 0.95)],
)
def test_rate_near_the_clients_ceiling(
    upload_mib_s: float | None, download_mib_s: float | None, value: float | None
) -> None:
    found = caveats.of_instrument(reference(), upload_mib_s, download_mib_s)

    assert [(caveat.code, caveat.value) for caveat in found] == ([("client_bound", value)] if value else [])


def test_ceiling_that_may_not_hold_any_more_is_called_so() -> None:
    (caveat,) = caveats.of_instrument(reference(stale="the kernel was 1 and is 2"), 990, None)
    assert "may not hold: the kernel was 1 and is 2." in caveat.message
    assert caveats.of_instrument(None, 1e9, 1e9) == []


@pytest.mark.parametrize(("data_bytes", "expected"), [(100 * MIB, []), (100 * MIB + 1, ["page_cache_unknown"])])
def test_data_that_do_not_fit_into_the_page_cache(data_bytes: int, expected: list[str]) -> None:
    assert [caveat.code for caveat in caveats.of_page_cache(data_bytes, 100 * MIB)] == expected
