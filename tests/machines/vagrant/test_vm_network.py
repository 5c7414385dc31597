"""The network of virtual machines: made once, and never left behind half made."""

import pytest

from picolab.machines.vagrant import libvirt, network


@pytest.mark.parametrize(
    ("before", "starts", "after", "calls"),
    [
        ("active", True, "active", []),
        ("inactive", True, "active", ["net-start"]),
        ("missing", True, "active", ["net-define", "net-start"]),
        ("missing", False, "active", ["net-define", "net-start"]),
        ("missing", False, "inactive", ["net-define", "net-start", "net-undefine"]),
    ],
    ids=["there already", "stopped", "made", "started by another process", "its address is taken"],
)
def test_a_network_that_cannot_start_is_not_left(
    monkeypatch: pytest.MonkeyPatch, before: str, starts: bool, after: str, calls: list[str]
) -> None:
    made: list[str] = []

    def virsh(command: str, *_: str) -> str:
        made.append(command)
        if command == "net-start" and not starts:
            raise libvirt.LibvirtError("internal error: Network is already in use by interface virbr0")
        return ""

    monkeypatch.setattr(libvirt, "virsh", virsh)
    monkeypatch.setattr(libvirt, "network", lambda: after if made else before)
    network.make()
    assert made == calls
