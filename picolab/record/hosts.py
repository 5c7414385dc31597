"""Which records are of one host: its name is shown, but two hosts may have one name, and a host may get another.

Two more facts tell hosts apart. `host_id` is made of the host's /etc/machine-id, which images that are cloned may bring
to several hosts; so alone it proves nothing. `boot_id` is drawn by the kernel at each boot.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class HostIdentity(NamedTuple):
    """The facts that a host is known by.

    Attributes:
        name: None when a record does not have it.
        host_id: None in a container, where there is no machine-id, and in older records.
        boot_id: None in older records.
    """

    name: str | None
    host_id: str | None = None
    boot_id: str | None = None

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "HostIdentity":
        """Return the identity in facts of a host, or in a row of results."""
        return cls(facts.get("hostname"), facts.get("host_id"), facts.get("boot_id"))


def same_host(one: HostIdentity, other: HostIdentity) -> bool:
    """Return whether two identities are of one host: the same `host_id`, and the same name or the same boot.

    Where one has no `host_id`, the name decides.
    """
    if one.host_id is None or other.host_id is None:
        return one.name == other.name
    same_boot = one.boot_id is not None and one.boot_id == other.boot_id
    return one.host_id == other.host_id and (one.name == other.name or same_boot)


def host_names(found: Sequence[HostIdentity]) -> list[str | None]:
    """Return a name for each identity, the same for those of one host and for no others.

    It is the name that the host has first; where several hosts have it, the begin of their `host_id` follows. An
    identity without `host_id` belongs to the host of its name when there is exactly one.
    """
    hosts: dict[tuple[str | None, ...], list[HostIdentity]] = {}
    distinct = list(dict.fromkeys(found))
    for identity in distinct:
        if identity.host_id is None:
            continue
        members = [identity]
        for key in _keys(identity):
            members += [known for known in hosts.get(key, ()) if known not in members]
        for member in members:
            hosts.update(dict.fromkeys(_keys(member), members))
    names: dict[HostIdentity, tuple[str | None, str]] = {}
    by_name: dict[str | None, set[tuple[str | None, str]]] = {}
    order = {identity: place for place, identity in enumerate(distinct)}
    for identity in order:
        if identity.host_id is not None:
            first = min(hosts[_keys(identity)[0]], key=order.__getitem__)
            names[identity] = first.name, identity.host_id
            by_name.setdefault(identity.name, set()).add(names[identity])
    for identity in order:
        if identity.host_id is None:
            same = by_name.get(identity.name, set())
            names[identity] = next(iter(same)) if len(same) == 1 else (identity.name, "")
    several = Counter(name for name, _ in set(names.values()))
    return [
        name if several[name] == 1 else f"{name} {host_id[:8] or 'unknown'}"
        for name, host_id in (names[identity] for identity in found)
    ]


def _keys(identity: HostIdentity) -> list[tuple[str | None, ...]]:
    """Return what an identity with `host_id` has in common with all others of its host."""
    keys: list[tuple[str | None, ...]] = [(identity.host_id, "name", identity.name)]
    return keys if identity.boot_id is None else [*keys, (identity.host_id, "boot", identity.boot_id)]
