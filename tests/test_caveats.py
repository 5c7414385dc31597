"""Caveats: which ones a machine and its clock give, and that their advice fits the machine."""

import os
from typing import Any

import pytest
from campaign_factory import FakeTrial, make_record

from picolab import caveats
from picolab.record import MachineRecord


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
def test_virtual_machine_tells_why_its_rates_are_not_those_of_a_real_one(
    virtual: dict[str, str], code: str, value: str | None
) -> None:
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
