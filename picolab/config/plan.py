"""From a matrix to a plan: every trial in the order in which it will run, frozen in `plan.json`."""

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from picolab.config.answer_request import AnswerRequest
from picolab.config.campaign_parameters import MOST_MACHINES, CampaignParameters, Matrix, Stopping
from picolab.config.floor_search import FloorSearch
from picolab.config.invalid_input import unknown_name, validate
from picolab.config.matrix import MOST_TRIALS, SET_BY_CAMPAIGN, check_level, expand
from picolab.config.names import ScenarioNames, case_labels
from picolab.config.order import alone_apart, order_in_words, order_of_blocks
from picolab.config.sizes import MIB
from picolab.config.trial_parameters import TrialParameters
from picolab.errors import CampaignNotFound, ParameterError, UnreadableFile
from picolab.files.foreign import read_json, unfit_value
from picolab.files.writing import file_name, write_atomically
from picolab.servers.registry import default_builds, server_of
from picolab.text.foreign import one_line, shown, visible

PLAN_FILE = "plan.json"


FileName = Annotated[str, AfterValidator(file_name)]
"""A text that becomes the name of a file or folder, checked whenever it is read."""
LARGEST_PLAN_BYTES = 32 * MIB
"""A plan of `MOST_TRIALS` trials has half of it."""


Purpose = Literal["case", "search", "confirmation", "reference", "speed"]
"""Why a trial runs: for its case, or in a search for the memory floor."""


class PlannedTrial(BaseModel):
    """One trial to run."""

    model_config = ConfigDict(extra="forbid")

    trial_id: FileName
    block: Annotated[int, Field(ge=1, lt=1 << 31)]
    position: Annotated[int, Field(ge=1, lt=1 << 31)]
    case: str
    scenario: str = ""
    purpose: Purpose = "case"
    parameters: TrialParameters


class Plan(BaseModel):
    """All trials of a campaign in the order in which they will run."""

    model_config = ConfigDict(extra="forbid")

    plan_version: Literal[1] = 1
    campaign: FileName
    created_at: str
    source: str
    description: str
    seed: int
    repeats: Annotated[int, Field(ge=1)]
    fault_retries: Annotated[int, Field(ge=0, le=10)]
    factors: dict[str, list[Any]]
    order: str
    baseline: str | None = None
    margin_percent: Annotated[float, Field(gt=0, le=50)] = 5.0
    stopping: Stopping | None = None
    machines: Annotated[int, Field(ge=1, le=MOST_MACHINES)] = 1
    floor: FloorSearch | None = None
    answer: AnswerRequest | None = None
    idle_limit_s: Annotated[float, Field(ge=0, le=86400)] = 0.0
    busy_host: Literal["flag", "refuse"] = "flag"
    trials: list[PlannedTrial]

    @model_validator(mode="after")
    def _names_fit(self) -> "Plan":
        if not self.trials and self.answer is None:
            # An answer may need none, when earlier campaigns have measured everything.
            raise ValueError("trials: there are none")
        for name, count in Counter(trial.trial_id for trial in self.trials).most_common(1):
            if count > 1:
                raise ValueError(f"{count} trials are called {name}")
        if self.baseline is not None and all(trial.parameters.build_label != self.baseline for trial in self.trials):
            raise ValueError(f"the baseline {self.baseline!r} is no build of a trial")
        return self

    @property
    def grows(self) -> bool:
        """Whether trials are planned while the campaign runs."""
        return self.floor is not None or (self.answer is not None and self.answer.grows)

    @property
    def compares(self) -> bool:
        """Whether the campaign compares builds; a search for memory floors runs them at different RAM."""
        builds = {trial.parameters.build_label for trial in self.trials}
        return self.baseline is not None and self.floor is None and len(builds) > 1

    @property
    def cases(self) -> list[str]:
        return list(dict.fromkeys(sorted(trial.case for trial in self.trials)))

    def save(self, folder: Path) -> None:
        write_atomically(folder / PLAN_FILE, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Plan":
        """Read the plan of a campaign.

        Raises:
            CampaignNotFound: there is no campaign in this folder.
            ParameterError: its plan cannot be read.
        """
        path = folder / PLAN_FILE
        try:
            data = read_json(path, LARGEST_PLAN_BYTES)
            unfit = unfit_value(data) if isinstance(data, dict) else "it holds no object"
            if unfit is not None:
                raise UnreadableFile(unfit)
            return cls.model_validate(data)
        except FileNotFoundError:
            raise CampaignNotFound(f"{folder}: there is no campaign; `picolab status` lists those there are") from None
        except (UnreadableFile, ValidationError) as error:
            why = str(error).removeprefix(f"{path}: ")
            if isinstance(error, ValidationError):
                first = error.errors(include_input=False)[0]
                why = f"{'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg']}"
            raise ParameterError(
                f"{path}: this picolab cannot read the plan: {one_line(why[:300])}; "
                f"the notebooks next to it are still good; a new campaign gets a new plan"
            ) from None


def together(plan: Plan, wanted: Sequence[PlannedTrial]) -> list[list[PlannedTrial]]:
    """Return the trials that must run on one machine, back to back.

    These are a block of a comparison, its trials that run alone apart from the others, or else each trial by itself.
    """
    if plan.baseline is None:
        return [[trial] for trial in wanted]
    groups = itertools.groupby(wanted, key=lambda trial: (trial.block, trial.parameters.runs_alone))
    return [list(group) for _, group in groups]


def planned_trials(
    cases: Sequence[TrialParameters],
    labels: Sequence[str],
    scenarios: Sequence[str],
    order: Sequence[Sequence[int]],
    seed: int,
) -> list[PlannedTrial]:
    """Return the trials of a plan in their order.

    Args:
        labels: of each case.
        scenarios: of each case, its name without the build.
        order: for each block, the indices of the cases in the order in which they run.
        seed: of the plan.
    """
    digits = max(3, len(str(sum(len(block) for block in order))))
    trials: list[PlannedTrial] = []
    for block, indices in enumerate(order, start=1):
        for index in indices:
            position = len(trials) + 1
            trials.append(
                PlannedTrial(
                    trial_id=f"{position:0{digits}d}-{labels[index]}",
                    block=block,
                    position=position,
                    case=labels[index],
                    scenario=scenarios[index],
                    # Bytes of their own for each trial: nothing in between can have seen them before.
                    parameters=cases[index].model_copy(update={"seed": seed * 1_000_000 + position}),
                )
            )
    return trials


def make_plan(wanted: CampaignParameters, campaign: str, source: str) -> Plan:
    """Build the plan of a campaign.

    A block holds every case once; cases are shuffled inside each block, and those that need the same virtual machine
    stay together. The same seed gives the same plan.

    Args:
        campaign: name of the campaign.
        source: where `wanted` came from, for messages and the report.

    Raises:
        ParameterError: a factor does not exist, a level makes no sense, or no case is left.
    """
    wanted = _overlap(wanted, source)
    stopping = _stopping(wanted, source)
    blocks = stopping.most_blocks if stopping is not None else int(wanted.repeats)
    for name, value in wanted.parameters.items():
        check_level(name, value, f"{source}: parameters")
    cases = [_case(levels, wanted, source) for levels in expand(_with_builds(wanted, source), source)]
    if len(cases) * blocks > MOST_TRIALS:
        raise ParameterError(
            f"{source}: {len(cases)} cases x {blocks} repeats are more than {MOST_TRIALS} trials; "
            f"remove levels or repeats"
        )
    labels = case_labels(cases, source)
    names = ScenarioNames(cases)
    scenarios = [names.of(case) for case in cases]
    chance = random.Random(wanted.seed)
    order = alone_apart(cases, order_of_blocks(cases, scenarios, blocks, chance), chance)
    trials = planned_trials(cases, labels, scenarios, order, wanted.seed)
    return Plan(
        campaign=campaign,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        source=visible(source),
        description=wanted.description,
        seed=wanted.seed,
        repeats=blocks,
        fault_retries=wanted.fault_retries,
        factors=_with_builds(wanted, source).factors,
        order=order_in_words(cases, scenarios, wanted.machines),
        baseline=_baseline(cases, wanted, source),
        margin_percent=wanted.margin_percent,
        stopping=stopping,
        machines=wanted.machines,
        idle_limit_s=wanted.idle_limit_s,
        busy_host=wanted.busy_host,
        trials=trials,
    )


def _overlap(wanted: CampaignParameters, source: str) -> CampaignParameters:
    """Return the parameters with the default of `overlap` for several machines, unless the file sets it.

    Raises:
        ParameterError: it sets another level than none, and there is one machine.
    """
    asked = [wanted.parameters.get("overlap", "none"), *wanted.matrix.factors.get("overlap", ())]
    asked += [case.get("overlap", "none") for case in wanted.matrix.include]
    if wanted.machines == 1 and any(level != "none" for level in asked):
        raise ParameterError(
            f"{source}: overlap = {shown(next(level for level in asked if level != 'none'))} needs several machines, "
            f"and machines is 1; set machines to 2 or more, or use --machines 2"
        )
    if wanted.machines == 1 or "overlap" in wanted.parameters or "overlap" in wanted.matrix.factors:
        return wanted
    return wanted.model_copy(update={"parameters": {**wanted.parameters, "overlap": "preparation"}})


def _stopping(wanted: CampaignParameters, source: str) -> Stopping | None:
    if wanted.repeats == "auto":
        return wanted.stopping or Stopping.model_validate({})
    if wanted.stopping is not None:
        raise ParameterError(f"{source}: stopping needs repeats: auto, but repeats is {wanted.repeats}; change one")
    return None


def _with_builds(wanted: CampaignParameters, source: str) -> Matrix:
    """Return the matrix with the labels of `builds` as levels of `build`, when it names none itself."""
    factors = wanted.matrix.factors
    if not wanted.builds or "build" in wanted.parameters:
        for label in wanted.builds:
            raise ParameterError(f"{source}: builds: parameters sets build for all trials, so {label} is unused")
        return wanted.matrix
    if "build" not in factors:
        return Matrix.model_validate({**wanted.matrix.model_dump(), "build": list(wanted.builds)})
    named = [str(entry["build"]) for entry in wanted.matrix.include if "build" in entry]
    levels = factors["build"] if isinstance(factors["build"], list) else []
    unused = [label for label in wanted.builds if label not in [*map(str, levels), *named]]
    if unused:
        raise ParameterError(f"{source}: builds: {unused[0]} is no level of build in the matrix; add it, or remove it")
    return wanted.matrix


def _baseline(cases: list[TrialParameters], wanted: CampaignParameters, source: str) -> str | None:
    """Return the label of the build that the others are compared with; None when there is one build only."""
    labels = list(dict.fromkeys(case.build_label for case in cases))
    if wanted.baseline and wanted.baseline not in labels:
        raise ParameterError(f"{source}: baseline: {unknown_name(wanted.baseline, sorted(labels))}")
    return wanted.baseline or (labels[0] if len(labels) > 1 else None)


def _case(levels: dict[str, Any], wanted: CampaignParameters, source: str) -> TrialParameters:
    for name in wanted.parameters:
        if name in levels and name in wanted.matrix.factors:
            raise ParameterError(f"{source}: parameters: {name} is a factor of the matrix too; remove one of the two")
    # Nobody watches a campaign, so its machines are taken down unless the file sets keep_machine.
    merged = {"keep_machine": "never", **wanted.parameters, **levels}
    labelled = wanted.builds.get(str(levels.get("build")))
    for name, why in SET_BY_CAMPAIGN.items():
        if name in merged:
            raise ParameterError(f"{source}: parameters: {name} {why}; remove it here")
    if labelled is not None:
        # The settings of a build win over those of all trials.
        own = {name: {**merged.get(name, {}), **getattr(labelled, name)} for name in ("environment", "calibration")}
        merged |= {"label": str(levels["build"]), "build": labelled.build, **own}
    # Each value is valid by now; an error here means that two of them contradict each other.
    parameters = validate(TrialParameters, merged, f"{source}: case {shown(levels)}")
    if merged.get("build") in default_builds() and parameters.build != merged["build"]:
        raise ParameterError(
            f"{source}: build {shown(merged['build'])} is no build of server {parameters.server!r}; leave it out for "
            f"{parameters.build!r}, or give the path of an executable"
        )
    if parameters.keep_machine == "always":
        raise ParameterError(
            f"{source}: keep_machine = 'always' would keep a machine for every trial; use never, or "
            f"on_failure to stop the campaign at the first failure with its machine still up"
        )
    why_not = server_of(parameters.server).why_unfit(parameters)
    if why_not is not None:
        raise ParameterError(f"{source}: {why_not}")
    return parameters
