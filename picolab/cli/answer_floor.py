"""The floor search of `picolab answer --floor`: quoted where it is known, else run with the rest of the budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from picolab.cli.running import run
from picolab.exit_codes import ExitCode

if TYPE_CHECKING:
    from picolab.analysis.answer import Answer
    from picolab.campaign.runner import Campaign

FLOOR_SUFFIX = "-floor"
"""Of the campaign that searches, behind the name of the answer's."""
_USUAL_TRIALS = 40
"""Of a search with a precision of 10 % and a sharp border, 20 trials that confirm it included."""
_LEAST_TRIALS = 10
"""With fewer the interval would be as wide as the range."""


def search_floor(answered: Campaign, budget_s: float) -> ExitCode:
    """Search the memory floor of the upload that was asked about, unless a finished search of it is known.

    A search that has used up the budget can be continued with `picolab resume`, and the answer quotes what is known.

    Args:
        answered: the campaign of the answer, whose trials are done.
        budget_s: seconds of the whole command, those of the answer's trials included.
    """
    from picolab.campaign.floor import make_floor_plan, make_search
    from picolab.campaign.preflight import check_plan
    from picolab.campaign.runner import Campaign
    from picolab.cli.floor import end_of_search
    from picolab.cli.terminal import print_lines
    from picolab.report.answer_lines import floor_command, known_floor
    from picolab.report.answer_page import read
    from picolab.results.folders import check_name
    from picolab.results.load import read_campaign
    from picolab.text.wording import duration

    found = read(read_campaign(answered.folder)).found
    known = known_floor(found, answered.folder)
    if known is not None and known["state"] != "unfinished":
        print_lines(["", f"The RAM floor is known from campaign {known['campaign']}: nothing is searched."])
        return ExitCode.OK
    trial_s, left_s = _trial_s(found), budget_s - answered.tally.ran_s
    command = floor_command(found)
    if trial_s is None:
        print_lines(["", f"The RAM floor is not searched: the time of a trial is not known. Search it with: {command}"])
        return ExitCode.OK
    if left_s < _LEAST_TRIALS * trial_s:
        print_lines(
            [
                "",
                f"The RAM floor is not searched: about {_USUAL_TRIALS} trials of {duration(trial_s)} take "
                f"{duration(_USUAL_TRIALS * trial_s)}, and {duration(max(0.0, left_s))} of the budget are left. Give a "
                f"larger --budget, or search it with: {command}",
            ]
        )
        return ExitCode.OK
    if known is not None:
        folder = answered.folder.parent / known["campaign"]
        searched, code = run(lambda watcher: Campaign.load(folder, watcher), budget_s=left_s)
    else:
        asked, plan = found.request.parameters, answered.plan
        search = make_search({"step": asked.direction}, asked.machine, "picolab answer --floor")
        name = check_name(plan.campaign + FLOOR_SUFFIX)
        wanted = make_floor_plan([asked], search, name, command, plan.seed, 0.0)
        check_plan(wanted)
        searched, code = run(lambda watcher: Campaign.create(wanted, watcher), budget_s=left_s)
    end_of_search(searched, code)
    return code if code is ExitCode.INTERRUPTED else ExitCode.OK


def _trial_s(found: Answer) -> float | None:
    """Return the expected seconds of a trial of the asked upload; None without a prediction."""
    from picolab.machines.kinds import kind_of

    times = [quantity.prediction for quantity in found.quantities if quantity.kind == "time"]
    seconds = [one.middle for one in times if one is not None]
    if not times or len(seconds) < len(times):
        return None
    return kind_of(found.request.parameters.machine).assumed_overhead_s + sum(seconds)
