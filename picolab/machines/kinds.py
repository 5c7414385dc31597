"""The registry of machine kinds. Ask the object (`kind_of(name).is_virtual`); do not compare names."""

from picolab.machines.kind import MachineKind
from picolab.machines.local.kind import LocalKind
from picolab.machines.vagrant.kind import VagrantKind

KINDS: dict[str, MachineKind] = {kind.name: kind for kind in (LocalKind(), VagrantKind())}
"""By the value of the parameter `machine`."""
DEFAULT_KIND = LocalKind.name


def kind_of(name: str) -> MachineKind:
    """Return the kind of machine of that name.

    Raises:
        ValueError: there is none.
    """
    try:
        return KINDS[name]
    except KeyError:
        known = " or ".join(map(repr, KINDS))
        raise ValueError(f"machine = {name[:60]!r} should be {known}") from None


def checked_name(name: str) -> str:
    """Return the name of a kind of machine as it is, for validation.

    Raises:
        ValueError: there is no such kind.
    """
    return kind_of(name).name
