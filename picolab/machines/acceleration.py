from dataclasses import dataclass


@dataclass(frozen=True)
class Acceleration:
    kind: str
    reason: str


def acceleration() -> Acceleration:
    return Acceleration("emulation", "stub")
