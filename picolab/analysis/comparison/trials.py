"""The trials of a campaign as a comparison needs them: each with its build, scenario and block, measured or planned."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from picolab.config.invalid_input import validate
from picolab.config.names import ScenarioNames
from picolab.config.trial_parameters import TrialParameters, short
from picolab.errors import ParameterError
from picolab.record.factors import machine_facts
from picolab.results.labels import level_words
from picolab.results.rows import plain_rows, step_ok
from picolab.results.starts_file import busy_starts

if TYPE_CHECKING:
    from picolab.record.metric import Metric
    from picolab.record.outcomes import Step
    from picolab.record.record import Record
    from picolab.results.load import CampaignData

NOT_RUN = "not run yet"
_SMALLEST, _LARGEST = 1e-9, 1e19
"""Of a rate or a number of bytes: anything beyond was not measured, and logarithms of ratios would overflow."""


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
        """Measured steps: `upload`, `download` or `both`."""
        return self.record.parameters.direction

    @property
    def ok(self) -> bool:
        return self.outcome == "ok"

    @property
    def host(self) -> tuple[str, ...]:
        """The host that it ran on: its one name, its kernel and its processor."""
        known = self.record.provenance.host
        return str(self.row["hostname"]), str(known.get("kernel")), str(known.get("cpu_model"))

    def outcome_of(self, step: Step | None) -> str | None:
        """Return the outcome of a measured step, None when it was not reached; without a step that of the trial."""
        return self.outcome if step is None else self.row[f"{step}_outcome"]

    def step_ok(self, metric: Metric) -> bool:
        """Return whether the numbers of a metric's step count, regardless of the other step."""
        return step_ok(self.row, metric.step)

    def value(self, metric: Metric) -> float | None:
        """Return a metric whose step ended ok; None when it is missing, or no ratio can be made of it."""
        value = self.row.get(metric.name) if self.step_ok(metric) else None
        return float(value) if value is not None and _SMALLEST <= value <= _LARGEST else None


@dataclass(frozen=True)
class PlannedTrial:
    """A trial of the plan."""

    trial_id: str
    scenario: str
    build: str
    block: int
    position: int
    direction: str


@dataclass(frozen=True)
class ComparedCampaign:
    """A campaign, or several side by side."""

    name: str
    trials: tuple[ComparedTrial, ...]
    """In order of time."""
    planned: tuple[PlannedTrial, ...]
    """The plan; without one, the trials that ran."""
    no_result: dict[str, str]
    """trial_id of each planned trial without a result -> why."""
    builds: tuple[str, ...]
    """In the order in which the plan names them."""
    planned_baseline: str | None
    busy_starts: tuple[str, ...] = ()
    """One phrase for each start of the campaign that waited for an idle host in vain."""

    def of(self, scenario: str, build: str) -> list[ComparedTrial]:
        """Return the trials of a build in a scenario, in order of time."""
        return [trial for trial in self.trials if (trial.scenario, trial.build) == (scenario, build)]

    def directions(self, scenario: str) -> set[str]:
        """Return the directions of a scenario, measured or planned."""
        # The plan counts too: where no trial has a result, the gate must not take that for good news.
        both: tuple[ComparedTrial | PlannedTrial, ...] = (*self.trials, *self.planned)
        return {trial.direction for trial in both if trial.scenario == scenario}

    def scenarios(self) -> tuple[str, ...]:
        """Return the scenarios of trials and plan: much RAM first, then small files first."""
        order = {trial.scenario: _size_order(trial.record.parameters) for trial in self.trials}
        names = {trial.scenario for trial in self.planned} | set(order)
        return tuple(sorted(names, key=lambda name: (order.get(name, (1, 0)), name)))


def _size_order(parameters: TrialParameters) -> tuple[float, int]:
    return (-float(parameters.ram_mb), parameters.file_size_bytes)


def read_trials(data: CampaignData) -> ComparedCampaign:
    """Return a campaign's trials, each under the name of its build."""
    plan = _read_plan(data.plan)
    parameters = [entry.parameters for entry in plan.values()] + [r.parameters for r in data.records.values()]
    names, scenarios = _BuildNames(parameters), ScenarioNames(parameters)
    trials = sorted(_measured(data, names, scenarios), key=lambda trial: (trial.started, trial.position))
    planned = _planned(plan, trials, names, scenarios)
    ended = {trial.trial_id for trial in trials}
    faults: dict[str, list[str]] = defaultdict(list)
    for trial_id, outcome in zip(data.faults["trial_id"], data.faults["outcome"], strict=True):
        faults[str(trial_id)].append(str(outcome))
    no_result = {
        trial.trial_id: ", ".join(faults.get(trial.trial_id, [])) or NOT_RUN
        for trial in planned
        if trial.trial_id not in ended
    }
    builds = _order_of_builds(data.plan, trials, planned)
    named = data.plan.get("baseline")
    # The plan knows a label; two executables, or two ways to start one, have a longer name each.
    baseline = next((name for name in builds if name == named or (named and name.startswith(f"{named} "))), None)
    busy = busy_starts(data.folder)
    return ComparedCampaign(data.folder.name, tuple(trials), tuple(planned), no_result, builds, baseline, busy)


def side_by_side(campaigns: Sequence[ComparedCampaign]) -> ComparedCampaign:
    """Return several campaigns as one; a build that is in more than one gets the campaign into its name."""
    measured_in: dict[str, set[str]] = defaultdict(set)
    for campaign in campaigns:
        for build in campaign.builds:
            measured_in[build].add(campaign.name)

    def renamed(build: str, campaign: ComparedCampaign) -> str:
        return f"{build} ({campaign.name})" if len(measured_in[build]) > 1 else build

    scenarios = ScenarioNames(trial.record.parameters for campaign in campaigns for trial in campaign.trials)
    trials = [
        replace(trial, build=renamed(trial.build, campaign), scenario=scenarios.of(trial.record.parameters))
        for campaign in campaigns
        for trial in campaign.trials
    ]
    first = campaigns[0]
    return ComparedCampaign(
        name=", ".join(campaign.name for campaign in campaigns),
        trials=tuple(sorted(trials, key=lambda trial: trial.started)),
        planned=(),
        no_result={},
        builds=tuple(renamed(build, campaign) for campaign in campaigns for build in campaign.builds),
        planned_baseline=renamed(first.planned_baseline, first) if first.planned_baseline else None,
        busy_starts=tuple(busy for campaign in campaigns for busy in campaign.busy_starts),
    )


@dataclass(frozen=True)
class _PlanEntry:
    trial_id: str
    block: int
    position: int
    parameters: TrialParameters


def _read_plan(plan: dict[str, Any]) -> dict[str, _PlanEntry]:
    """Return the readable trials of a plan, by trial_id."""
    found = {}
    for trial in plan.get("trials", []):
        try:
            parameters = validate(TrialParameters, trial["parameters"], "plan.json")
            entry = _PlanEntry(str(trial["trial_id"]), int(trial["block"]), int(trial["position"]), parameters)
        except (KeyError, TypeError, ValueError, ParameterError):
            continue
        found[entry.trial_id] = entry
    return found


class _BuildNames:
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


def _measured(data: CampaignData, names: _BuildNames, scenarios: ScenarioNames) -> list[ComparedTrial]:
    trials = []
    rows = plain_rows(data.trials)
    of_trial = _with_facts(
        {str(row["trial_id"]): scenarios.of(data.records[str(row["trial_id"])].parameters) for row in rows}, rows
    )
    for row in rows:
        record = data.records[str(row["trial_id"])]
        trials.append(
            ComparedTrial(
                trial_id=str(row["trial_id"]),
                scenario=of_trial[str(row["trial_id"])],
                build=names.of(str(row["build"]), record.parameters),
                block=int(row["block"] or 0),
                position=int(row["position"] or 0),
                started=datetime.fromisoformat(record.identity.started_at),
                outcome=record.outcome.value,
                row=row,
                record=record,
            )
        )
    return trials


def _with_facts(scenarios: dict[str, str], rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return the scenario of each trial, by trial_id, with the facts of its machine that differ in that scenario."""
    same: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        same[scenarios[str(row["trial_id"])]].append(row)
    found = {}
    for scenario, together in same.items():
        # A trial that failed early may not have all facts.
        differing = [name for name in machine_facts() if len({row[name] for row in together} - {None}) > 1]
        for row in together:
            words = [level_words(name, row[name]) for name in differing]
            found[str(row["trial_id"])] = " · ".join([scenario, *words])
    return found


def _distance_to(position: int) -> Callable[[ComparedTrial], int]:
    return lambda trial: abs(trial.position - position)


def _planned(
    plan: dict[str, _PlanEntry], trials: list[ComparedTrial], names: _BuildNames, scenarios: ScenarioNames
) -> list[PlannedTrial]:
    """Return the trials of the plan; the build of one that ran comes from its record."""
    ran = {trial.trial_id: trial for trial in trials}
    if not plan:
        return [PlannedTrial(t.trial_id, t.scenario, t.build, t.block, t.position, t.direction) for t in trials]
    of_label: dict[str, str] = {}
    for trial in trials:
        of_label.setdefault(names.of(trial.record.parameters.build_label, trial.record.parameters), trial.build)
    same: dict[str, list[ComparedTrial]] = defaultdict(list)
    for trial in trials:
        same[scenarios.of(trial.record.parameters)].append(trial)
    planned = []
    for entry in plan.values():
        name = names.of(entry.parameters.build_label, entry.parameters)
        build = ran[entry.trial_id].build if entry.trial_id in ran else of_label.get(name, name)
        scenario, direction = scenarios.of(entry.parameters), entry.parameters.direction
        if same[scenario]:
            # Its machine has the facts of the trial that ran next to it; a trial that ran is the nearest to itself.
            scenario = min(same[scenario], key=_distance_to(entry.position)).scenario
        planned.append(PlannedTrial(entry.trial_id, scenario, build, entry.block, entry.position, direction))
    return sorted(planned, key=lambda trial: trial.position)


def _order_of_builds(
    plan: dict[str, Any], trials: Sequence[ComparedTrial], planned: Sequence[PlannedTrial]
) -> tuple[str, ...]:
    """Return the builds in the order of the plan's factor `build`; the order of trials is random."""
    names = dict.fromkeys([trial.build for trial in planned] + [trial.build for trial in trials])
    levels = plan.get("factors", {}).get("build", [])
    labels = [_label_of(level) for level in levels] if isinstance(levels, list) else []

    def rank(name: str) -> int:
        fitting = [index for index, label in enumerate(labels) if name == label or name.startswith(f"{label} ")]
        return fitting[0] if fitting else len(labels)

    return tuple(sorted(names, key=rank) if labels else sorted(names))


def _label_of(level: Any) -> str:
    """Return the label that a level of the factor `build` gets: a label unchanged, a path's last part."""
    return TrialParameters.model_construct(build=str(level), label="").build_label
