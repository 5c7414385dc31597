"""`begun.json`: the plan, the builds and the host that a campaign began with, so that a change is noticed.

Numbers from before and after such a change are not comparable. The file is written right before the first trial;
`picolab resume` compares it with the present.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from picolab.config.plan import LARGEST_PLAN_BYTES, Plan
from picolab.config.trial_parameters import TrialParameters
from picolab.errors import UnreadableFile
from picolab.files.foreign import read_json, unfit_value
from picolab.files.writing import write_atomically
from picolab.host.facts import host_identity
from picolab.machines.kinds import kind_of
from picolab.servers.registry import server_of

BEGUN_FILE = "begun.json"
_LARGEST_BYTES = 2 * LARGEST_PLAN_BYTES
_SAME_RAM = 0.02
"""Of RAM: what a kernel keeps for itself differs a little from boot to boot."""
_HOST_WORDS = {
    "hashed_machine_id": "the host's identity (/etc/machine-id)",
    "hostname": "the host's name",
    "cpu_model": "the processor",
    "cpu_count": "the number of processors",
    "architecture": "the architecture",
    "ram_bytes": "the host's RAM in bytes",
    "kernel": "the kernel",
}
"""What makes numbers of two hosts, or of one host before and after a change, not comparable."""
_SHOWN = 5


class Accepted(BaseModel):
    """Changes that somebody accepted when continuing."""

    model_config = ConfigDict(extra="forbid")

    at: str
    changes: list[str]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    begun_version: int = 1
    at: str
    plan: dict[str, Any]
    builds: dict[str, str]
    """What the plan calls a build -> SHA-256 of the executable."""
    host: dict[str, str | int | None]
    accepted: list[Accepted] = []


@dataclass
class Beginning:
    """The beginning of a campaign, as far as it is known.

    Attributes:
        known: None when there is no such file, or it cannot be read (then `problems` says so).
    """

    known: _File | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def accepted(self) -> list[str]:
        """The changes that somebody accepted, one sentence for each time."""
        found = self.known.accepted if self.known is not None else []
        return [f"resumed at {entry.at} although this had changed: {in_short(entry.changes)}" for entry in found]

    def plan_changes(self, plan: Plan) -> list[str]:
        """Return how the plan differs from the one that the campaign began with."""
        if self.known is None or self.known.plan == plan.model_dump(mode="json"):
            return []
        try:
            begun = Plan.model_validate(self.known.plan)
        except ValidationError:
            return ["the plan in begun.json cannot be read by this version of picolab"]
        return _plan_changes(begun, plan)

    def changes(self, plan: Plan) -> list[str]:
        """Return everything that is not as it was in the beginning: plan, builds, host.

        Raises:
            BuildError: a build is not there any more.
        """
        if self.known is None:
            return []
        changes = self.plan_changes(plan)
        now = builds_of(plan)
        changes += [
            f"build {name}: its SHA-256 was {sha256[:16]}... and is {now[name][:16]}..."
            for name, sha256 in self.known.builds.items()
            if name in now and now[name] != sha256
        ]
        return changes + host_changes(self.known.host, host_identity())


def read_beginning(folder: Path) -> Beginning:
    """Return what is known of a campaign's beginning; nothing when it has not begun, or began with an old picolab."""
    path = folder / BEGUN_FILE
    try:
        data = read_json(path, _LARGEST_BYTES)
        unfit = unfit_value(data)
        if unfit is not None:
            raise UnreadableFile(f"is damaged ({unfit})")
        return Beginning(_File.model_validate(data))
    except FileNotFoundError:
        return Beginning()
    except (UnreadableFile, ValidationError) as error:
        why = str(error).removeprefix(f"{path}: ") if isinstance(error, UnreadableFile) else "is damaged"
        return Beginning(None, [f"{why}: it is not known what changed since the campaign began"])


def write_beginning(folder: Path, plan: Plan, accepted: Sequence[Accepted] = ()) -> None:
    """Write what a campaign begins or continues with.

    Raises:
        BuildError: a build is not there.
    """
    begun = _File(
        at=now(),
        plan=plan.model_dump(mode="json"),
        builds=builds_of(plan),
        host=host_identity(),
        accepted=list(accepted),
    )
    write_atomically(folder / BEGUN_FILE, json.dumps(begun.model_dump(mode="json"), indent=1) + "\n")


def now() -> str:
    """Return this moment as the files of a campaign have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def builds_of(plan: Plan) -> dict[str, str]:
    """Return the SHA-256 of each executable that a plan names."""
    wanted = {(trial.parameters.build, trial.parameters.release_base_url): trial.parameters for trial in plan.trials}
    several = len({url for _, url in wanted}) > 1
    return {
        f"{build} of {url}" if several and build != "calibration" else build: server_of(parameters.server)
        .find_build(parameters, in_guest=kind_of(parameters.machine).is_virtual)
        .identity.sha256
        for (build, url), parameters in sorted(wanted.items(), key=lambda item: item[0])
    }


def in_short(changes: Sequence[str]) -> str:
    """Return the first changes, and how many more there are."""
    more = f"; and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
    return "; ".join(changes[:_SHOWN]) + more


def _plan_changes(begun: Plan, plan: Plan) -> list[str]:
    changes = []
    for name in Plan.model_fields:
        was, is_now = getattr(begun, name), getattr(plan, name)
        if name != "trials" and was != is_now:
            changes.append(f"{name} was {_shown(was)} and is {_shown(is_now)}")
    before, after = ({trial.trial_id: trial for trial in which.trials} for which in (begun, plan))
    builds = {trial.parameters.build_label: trial.parameters for trial in begun.trials}
    changes += [
        f"trial {name} was not in the plan"
        for name, trial in after.items()
        if name not in before and not _may_grow_by(plan, trial.parameters, builds)
    ]
    for name, trial in before.items():
        other = after.get(name)
        if other is None:
            changes.append(f"trial {name} is not in the plan any more")
            continue
        was, is_now = trial.model_dump(mode="json"), other.model_dump(mode="json")
        pairs = [(key, was[key], is_now[key]) for key in was if key != "parameters"]
        pairs += [(key, value, is_now["parameters"][key]) for key, value in was["parameters"].items()]
        changes += [f"trial {name}: {key} was {_shown(a)} and is {_shown(b)}" for key, a, b in pairs if a != b]
    if not changes and list(before) != [name for name in after if name in before]:
        changes.append("the order of the trials is another")
    return changes


def _may_grow_by(plan: Plan, has: TrialParameters, builds: Mapping[str, TrialParameters]) -> bool:
    """Return whether a campaign may have planned a trial after it began.

    A search for the memory floor sets RAM and seed alone, an answer file size, uploads at the same time and seed.

    Args:
        builds: parameters of the first trial of each build, by label.
    """
    own: tuple[str, ...] = ()
    if plan.floor is not None:
        own = ("ram_mb", "seed")
    elif plan.answer is not None and plan.answer.grows:
        own = ("file_size", "parallel_uploads", "seed")
    like = builds.get(has.build_label)
    return bool(own) and like is not None and has.model_copy(update={name: getattr(like, name) for name in own}) == like


def host_changes(was: Mapping[str, Any], is_now: Mapping[str, Any]) -> list[str]:
    """Return in which facts two hosts differ so that their numbers are not comparable; an unknown fact is none."""
    changes = []
    for name, words in _HOST_WORDS.items():
        old, new = was.get(name), is_now.get(name)
        if old is None or new is None or old == new:
            continue
        if name == "hostname" and was.get("hashed_machine_id") and is_now.get("hashed_machine_id"):
            # The name of a host may change; it is the same host as long as its identity is.
            continue
        if name == "ram_bytes" and isinstance(old, int) and abs(new - old) <= _SAME_RAM * old:
            continue
        changes.append(f"{words} was {_shown(old)} and is {_shown(new)}")
    return changes


def _shown(value: Any) -> str:
    text = re.sub(r"\s+", " ", str(value))
    return text if len(text) <= 80 else f"{text[:77]}..."
