"""The trials of a campaign as a comparison sees them: which build in which scenario and block, and which are pairs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from picolab.analysis import statistics
from picolab.config.parameters import TrialParameters, short, validate
from picolab.errors import ParameterError
from picolab.results.rows import step_ok
from picolab.results.starts import busy_starts

if TYPE_CHECKING:
    from picolab.record.models import Record, Step
    from picolab.results.load import CampaignData

APART_FACTOR = 10.0
"""Trials that began so many times further apart than is usual in their scenario are no pair."""
APART_FLOOR_S = 600.0
"""Nearer than this they are a pair whatever is usual: what drifts over hours has not moved."""
NOT_RUN = "not run yet"
_SMALLEST, _LARGEST = 1e-9, 1e19
"""Of a rate or a number of bytes: what is beyond was not measured, and logarithms of ratios would overflow."""


@dataclass(frozen=True)
class ComparedTrial:
    """A trial that has a result."""

    trial_id: str
    scenario: str
    build: str
    block: int
    position: int
    started: datetime
    outcome: str
    row: dict[str, Any]
    """Columns of `CampaignData.trials`, None where something is missing."""
    record: Record

    @property
    def direction(self) -> str:
        """What was measured: `upload`, `download` or `both`."""
        return self.record.parameters.direction

    @property
    def ok(self) -> bool:
        return self.outcome == "ok"

    def found(self, step: Step | None) -> str | None:
        """Return what a measured step found, None when it was not reached; without a step what the trial found."""
        return self.outcome if step is None else self.row[f"{step}_outcome"]

    def step_ok(self, metric: str) -> bool:
        """Tell whether the numbers of the step that a metric is about count, whatever the other step found."""
        return step_ok(self.row, "download" if metric.startswith("download") else "upload")

    def value(self, metric: str) -> float | None:
        """Return a metric whose step ended ok; None when it has none, or one that no ratio can be made of."""
        value = self.row.get(metric) if self.step_ok(metric) else None
        return float(value) if value is not None and _SMALLEST <= value <= _LARGEST else None


@dataclass(frozen=True)
class Place:
    """A trial of the plan."""

    trial_id: str
    scenario: str
    build: str
    block: int
    position: int
    direction: str


@dataclass(frozen=True)
class Subject:
    """A campaign, or several that are put side by side."""

    name: str
    trials: tuple[ComparedTrial, ...]
    """In order of time."""
    places: tuple[Place, ...]
    """The plan; those of the trials when there is none."""
    no_result: dict[str, str]
    """trial_id of each planned trial without a result -> why."""
    builds: tuple[str, ...]
    """In the order in which the plan names them."""
    planned_baseline: str | None
    busy_starts: tuple[str, ...] = ()
    """What each start of the campaign found that waited for an idle host in vain."""

    def of(self, scenario: str, build: str) -> list[ComparedTrial]:
        """Return the trials of a build in a scenario, in order of time."""
        return [trial for trial in self.trials if (trial.scenario, trial.build) == (scenario, build)]

    def scenarios(self) -> tuple[str, ...]:
        """Return the scenarios of trials and plan: much RAM first, then small files first."""
        order = {trial.scenario: _size_order(trial.record.parameters) for trial in self.trials}
        names = {place.scenario for place in self.places} | set(order)
        return tuple(sorted(names, key=lambda name: (order.get(name, (1, 0)), name)))


def _size_order(parameters: TrialParameters) -> tuple[int, int]:
    return (-parameters.ram_mb, parameters.file_size_bytes)


def read_subject(data: CampaignData) -> Subject:
    """Return a campaign as a comparison sees it."""
    planned = _planned(data.plan)
    parameters = [planned[name].parameters for name in planned] + [r.parameters for r in data.records.values()]
    names = _Names(parameters)
    trials = sorted(_trials(data, names), key=lambda trial: (trial.started, trial.position))
    places = _places(planned, trials, names)
    ended = {trial.trial_id for trial in trials}
    faults: dict[str, list[str]] = defaultdict(list)
    for trial_id, outcome in zip(data.faults["trial_id"], data.faults["outcome"], strict=True):
        faults[str(trial_id)].append(str(outcome))
    no_result = {
        place.trial_id: ", ".join(faults.get(place.trial_id, [])) or NOT_RUN
        for place in places
        if place.trial_id not in ended
    }
    builds = _order_of_builds(data.plan, trials, places)
    said = data.plan.get("baseline")
    # The plan knows a label; two executables, or two ways to start one, have a longer name each.
    baseline = next((name for name in builds if name == said or (said and name.startswith(f"{said} "))), None)
    busy = busy_starts(data.folder)
    return Subject(data.folder.name, tuple(trials), tuple(places), no_result, builds, baseline, busy)


def side_by_side(subjects: Sequence[Subject]) -> Subject:
    """Return several campaigns as one; a build that is in more than one gets the campaign into its name."""
    campaigns: dict[str, set[str]] = defaultdict(set)
    for subject in subjects:
        for build in subject.builds:
            campaigns[build].add(subject.name)

    def renamed(build: str, subject: Subject) -> str:
        return f"{build} ({subject.name})" if len(campaigns[build]) > 1 else build

    trials = [replace(trial, build=renamed(trial.build, subject)) for subject in subjects for trial in subject.trials]
    first = subjects[0]
    return Subject(
        name=", ".join(subject.name for subject in subjects),
        trials=tuple(sorted(trials, key=lambda trial: trial.started)),
        places=(),
        no_result={},
        builds=tuple(renamed(build, subject) for subject in subjects for build in subject.builds),
        planned_baseline=renamed(first.planned_baseline, first) if first.planned_baseline else None,
        busy_starts=tuple(busy for subject in subjects for busy in subject.busy_starts),
    )


@dataclass(frozen=True)
class _Planned:
    trial_id: str
    block: int
    position: int
    parameters: TrialParameters


def _planned(plan: dict[str, Any]) -> dict[str, _Planned]:
    """Return the trials of a plan that can be read, by trial_id."""
    found = {}
    for trial in plan.get("trials", []):
        try:
            parameters = validate(TrialParameters, trial["parameters"], "plan.json")
            place = _Planned(str(trial["trial_id"]), int(trial["block"]), int(trial["position"]), parameters)
        except (KeyError, TypeError, ValueError, ParameterError):
            continue
        found[place.trial_id] = place
    return found


class _Names:
    """Names builds: by label, and by how they are started where one label is started in several ways."""

    def __init__(self, parameters: Iterable[TrialParameters]) -> None:
        self._ways: dict[str, set[str]] = defaultdict(set)
        for one in parameters:
            self._ways[one.build_label].add(way_of_starting(one))

    def of(self, build: str, parameters: TrialParameters) -> str:
        if len(self._ways[parameters.build_label]) < 2:
            return build
        words = [short(part) for part in (parameters.environment, parameters.calibration) if part]
        return f"{build} {' '.join(words) or 'as it is'}"


def way_of_starting(parameters: TrialParameters) -> str:
    """Return a text that is equal for trials whose server was started in the same way."""
    return json.dumps([parameters.environment, parameters.calibration], sort_keys=True, default=str)


def _trials(data: CampaignData, names: _Names) -> list[ComparedTrial]:
    frame = data.trials
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    trials = []
    for row in rows:
        record = data.records[str(row["trial_id"])]
        trials.append(
            ComparedTrial(
                trial_id=str(row["trial_id"]),
                scenario=record.parameters.scenario,
                build=names.of(str(row["build"]), record.parameters),
                block=int(row["block"] or 0),
                position=int(row["position"] or 0),
                started=datetime.fromisoformat(record.identity.started_at),
                outcome=record.outcome.value,
                row={str(name): value for name, value in row.items()},
                record=record,
            )
        )
    return trials


def _places(planned: dict[str, _Planned], trials: list[ComparedTrial], names: _Names) -> list[Place]:
    """Return the places of the plan; a trial that ran knows its build best."""
    ran = {trial.trial_id: trial for trial in trials}
    if not planned:
        return [Place(t.trial_id, t.scenario, t.build, t.block, t.position, t.direction) for t in trials]
    of_label: dict[str, str] = {}
    for trial in trials:
        of_label.setdefault(names.of(trial.record.parameters.build_label, trial.record.parameters), trial.build)
    places = []
    for place in planned.values():
        name = names.of(place.parameters.build_label, place.parameters)
        build = ran[place.trial_id].build if place.trial_id in ran else of_label.get(name, name)
        scenario, direction = place.parameters.scenario, place.parameters.direction
        places.append(Place(place.trial_id, scenario, build, place.block, place.position, direction))
    return sorted(places, key=lambda place: place.position)


def _order_of_builds(plan: dict[str, Any], trials: Sequence[ComparedTrial], places: Sequence[Place]) -> tuple[str, ...]:
    """Return the builds in the order of the plan's factor `build`; the order of trials is random."""
    names = dict.fromkeys([place.build for place in places] + [trial.build for trial in trials])
    levels = plan.get("factors", {}).get("build", [])
    labels = [_label_of(level) for level in levels] if isinstance(levels, list) else []

    def rank(name: str) -> int:
        fitting = [index for index, label in enumerate(labels) if name == label or name.startswith(f"{label} ")]
        return fitting[0] if fitting else len(labels)

    return tuple(sorted(names, key=rank) if labels else sorted(names))


def _label_of(level: Any) -> str:
    """Return the label that a level of the factor `build` gets: a label as it is, a path's last part."""
    return TrialParameters.model_construct(build=str(level), label="").build_label


@dataclass(frozen=True)
class Pairing:
    """The baseline and one candidate in one scenario."""

    together: tuple[tuple[ComparedTrial, ComparedTrial], ...]
    """Baseline's and candidate's trial of a block, whatever their outcome, in order of time."""
    incomplete: tuple[str, ...]
    """One sentence for each block that gives no pair for lack of a result, or of nearness."""
    not_comparable: str | None
    """Why the two are not comparable in time; None when they are."""


def pair_up(subject: Subject, scenario: str, baseline: str, candidate: str) -> Pairing:
    """Find the pairs of two builds in a scenario, and whether they ran close enough to be compared."""
    planned = _by_block(place for place in subject.places if place.scenario == scenario)
    ran = _by_block(trial for trial in subject.trials if trial.scenario == scenario)
    builds = {place.build for place in subject.places if place.scenario == scenario}
    reason = _why_not_by_plan(planned, baseline, candidate, len(builds))
    if reason:
        return Pairing((), (), reason)
    ranks = {trial.trial_id: rank for rank, trial in enumerate(subject.trials)}
    both: list[tuple[ComparedTrial, ComparedTrial]] = []
    incomplete: dict[int, str] = {}
    for block in sorted(planned):
        old, new = ran[block][baseline], ran[block][candidate]
        if len(old) == len(new) == 1:
            both.append((old[0], new[0]))
        elif sentence := _why_no_pair(subject, block, planned[block], ran[block], (baseline, candidate)):
            incomplete[block] = sentence
    usual_s = statistics.median([_distance_s(pair) for pair in both]) if both else 0.0
    together = []
    for pair in both:
        between = abs(ranks[pair[0].trial_id] - ranks[pair[1].trial_id]) - 1
        distance_s = _distance_s(pair)
        if between < len(builds) and distance_s <= max(APART_FACTOR * usual_s, APART_FLOOR_S):
            together.append(pair)
        else:
            incomplete[pair[0].block] = (
                f"block {pair[0].block}: {baseline} and {candidate} began {hours(distance_s)} apart with {between} "
                f"trials between them: they are no pair"
            )
    if 2 * len(together) < len(both):
        return Pairing(
            (),
            tuple(incomplete[block] for block in sorted(incomplete)),
            f"in {len(both) - len(together)} of {len(both)} blocks {baseline} and {candidate} did not run near each "
            f"other, so that what changed in between cannot be told from a difference of the builds",
        )
    together.sort(key=lambda pair: min(pair[0].started, pair[1].started))
    return Pairing(tuple(together), tuple(incomplete[block] for block in sorted(incomplete)), None)


def _by_block(items: Iterable[Any]) -> dict[int, dict[str, list[Any]]]:
    """Return places or trials by block and build."""
    blocks: dict[int, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        blocks[item.block][item.build].append(item)
    return blocks


def _why_not_by_plan(
    planned: dict[int, dict[str, list[Place]]], baseline: str, candidate: str, builds: int
) -> str | None:
    """Return why a plan cannot support a comparison, whatever was measured; None when it can."""
    both = [block for block in planned.values() if block.get(baseline) and block.get(candidate)]
    if not both:
        where = {
            build: blocks_in_words([number for number, block in planned.items() if block.get(build)])
            for build in (baseline, candidate)
        }
        return (
            f"no block holds both builds: {baseline} is in {where[baseline]}, {candidate} in {where[candidate]}, so "
            f"that what changed in between cannot be told from a difference of the builds"
        )
    near = [
        block
        for block in both
        if min(abs(old.position - new.position) for old in block[baseline] for new in block[candidate]) <= builds
    ]
    if 2 * len(near) >= len(both):
        return None
    return (
        f"in {len(both) - len(near)} of {len(both)} blocks the plan puts other trials between {baseline} and "
        f"{candidate}, so that what changed in between cannot be told from a difference of the builds"
    )


def blocks_in_words(blocks: Sequence[int]) -> str:
    """Return numbers of blocks in words, such as `blocks 1 to 10`."""
    if not blocks:
        return "none"
    if len(blocks) == 1:
        return f"block {blocks[0]}"
    if sorted(blocks) == list(range(min(blocks), max(blocks) + 1)):
        return f"blocks {min(blocks)} to {max(blocks)}"
    return "blocks " + ", ".join(map(str, sorted(blocks)))


def _distance_s(pair: tuple[ComparedTrial, ComparedTrial]) -> float:
    return abs((pair[0].started - pair[1].started).total_seconds())


def hours(seconds: float) -> str:
    """Return a time in words, such as `3.2 h`."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def _why_no_pair(
    subject: Subject,
    block: int,
    planned: dict[str, list[Place]],
    ran: dict[str, list[ComparedTrial]],
    builds: tuple[str, str],
) -> str | None:
    """Return why a block has no pair; None when it has not begun, or was not planned to have both builds."""
    several = [f"{build} has {len(ran[build])} trials" for build in builds if len(ran[build]) > 1]
    if several:
        return f"block {block}: {' and '.join(several)}, and nobody can tell which is the pair's"
    missing = {build: _why_no_result(subject, planned.get(build, [])) for build in builds if not ran[build]}
    if len(missing) == 2 and set(missing.values()) <= {NOT_RUN, None}:
        return None
    words = [f"{build} {f'has no result ({why})' if why else 'is not in the plan'}" for build, why in missing.items()]
    return f"block {block}: {' and '.join(words)}"


def _why_no_result(subject: Subject, places: Sequence[Place]) -> str | None:
    """Return why planned trials have no result; None when none was planned."""
    reasons = [subject.no_result.get(place.trial_id, NOT_RUN) for place in places]
    return ", ".join(dict.fromkeys(reasons)) or None
