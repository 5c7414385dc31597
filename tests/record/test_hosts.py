"""Which records are of one host: whatever a name or a cloned image pretends, two hosts are never taken for one."""

import re
import subprocess
from pathlib import Path

import pytest

from picolab.host import facts
from picolab.record.hosts import HostIdentity, host_names, same_host

A = HostIdentity("a", "id-1", "boot-1")
RENAMED = HostIdentity("b", "id-1", "boot-1")
REBOOTED = HostIdentity("b", "id-1", "boot-2")
CLONE = HostIdentity("c", "id-1", "boot-3")
NAMESAKE = HostIdentity("a", "id-2", "boot-4")
OLD = HostIdentity("a")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (A, A, True),
        (A, RENAMED, True),
        (A, HostIdentity("a", "id-1", "boot-9"), True),
        (A, REBOOTED, False),
        (A, CLONE, False),
        (A, NAMESAKE, False),
        (A, HostIdentity("b", "id-2", "boot-1"), False),
        (HostIdentity("a", "id-1"), HostIdentity("b", "id-1"), False),
        (A, OLD, True),
        (OLD, HostIdentity("b"), False),
        (HostIdentity("b", None, "boot-1"), A, False),
    ],
    ids=[
        *("itself", "renamed", "rebooted", "renamed and rebooted", "a clone", "a namesake", "containers of one kernel"),
        *("unknown boots", "an older record", "older records", "a container on it"),
    ],
)
def test_one_host_and_two(one: HostIdentity, other: HostIdentity, same: bool) -> None:
    assert same_host(one, other) is same_host(other, one) is same
    # The same rule gives hosts their names.
    assert (len(set(host_names([one, other]))) == 1) is same


def test_a_host_has_the_name_that_it_has_first() -> None:
    assert host_names([A, RENAMED, REBOOTED, CLONE]) == ["a", "a", "a", "c"]
    assert host_names([REBOOTED, RENAMED, A]) == ["b", "b", "b"], "in whatever order they are found"


def test_hosts_of_one_name_are_told_apart() -> None:
    assert host_names([A, NAMESAKE, RENAMED]) == ["a id-1", "a id-2", "a id-1"]
    assert host_names([A, NAMESAKE, OLD]) == ["a id-1", "a id-2", "a unknown"], "it may be either"
    assert host_names([OLD, RENAMED, A]) == ["b", "b", "b"]
    assert host_names([HostIdentity(None)]) == [None]


def files(monkeypatch: pytest.MonkeyPatch, machine_id: str | None) -> None:
    monkeypatch.setattr(facts, "read_file", lambda path: machine_id if path == "/etc/machine-id" else None)


def test_the_identity_is_that_of_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example: HMAC-SHA256 of the key by OpenSSL, with the bits of a UUID of version 4."""
    machine_id, key = "0123456789abcdef0123456789abcdef", facts._IDENTITY_KEY
    files(monkeypatch, machine_id)
    found = facts.hashed_machine_id()
    command = ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{machine_id}"]
    done = subprocess.run(command, input=key, capture_output=True, check=True)
    digest = done.stdout.decode().split()[-1][:32]
    assert found is not None and re.fullmatch("[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}", found)
    kept = [*range(12), *range(13, 16), *range(17, 32)]
    assert [found[place] for place in kept] == [digest[place] for place in kept]
    assert machine_id not in found


@pytest.mark.parametrize("text", [None, "", "uninitialized", "0" * 32, "0123"])
def test_a_host_without_machine_id_says_why(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    files(monkeypatch, text)
    monkeypatch.setattr(facts, "_HOST_UTS_NAMESPACE", Path("/proc/self/ns/uts").stat().st_ino)
    assert facts._host_id() == (None, "/etc/machine-id holds no identity")


def test_a_container_has_no_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    files(monkeypatch, "0123456789abcdef0123456789abcdef")
    monkeypatch.setattr(facts, "_HOST_UTS_NAMESPACE", 1)
    found, why_not = facts._host_id()
    assert found is None and why_not is not None and "container" in why_not
    assert facts.hashed_machine_id() is not None


def test_no_record_has_the_machine_id_itself() -> None:
    text = facts.read_file("/etc/machine-id")
    known = facts.provenance().host
    assert known["host_id"] != text or text is None
    assert known["host_id"] or known["host_id_missing"]
    assert text is None or text not in str(facts.host_identity())
