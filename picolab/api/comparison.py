"""Builds of a campaign against each other: `pl.compare()`."""

from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from picolab.analysis.comparison.compare import compare as compare_builds
from picolab.analysis.comparison.models import Comparison
from picolab.api.campaigns import CampaignResults, load
from picolab.charts import comparison as charts
from picolab.charts.figure import Figure
from picolab.exit_codes import ExitCode
from picolab.report import comparison_page
from picolab.report.campaign_page import figure
from picolab.report.comparison_json import GATE_WORDS, as_json
from picolab.text.markup import Html

_NO_PAIR = "There is no pair, so there is {} to show."
_NOT_COMPLETE = {ExitCode.INSTRUMENT_FAULT: "incomplete", ExitCode.BAD_PARAMETERS: "plan unreadable"}


class ComparisonResults:
    """The builds of a campaign compared with each other. Made by `pl.compare()`."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        """The same with every pair, for the functions in `picolab.report`."""

    def __repr__(self) -> str:
        return f"<comparison in {self.comparison.campaign}: {self.gate}: {self.gate_reason}>"

    @cached_property
    def _json(self) -> dict[str, Any]:
        return as_json(self.comparison)

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """One row per scenario, metric and candidate.

        `ratio` is candidate over baseline and lies in the interval from `low` to `high` with the probability
        `coverage`; `pairs` counts the pairs of trials; `verdict` is missing where there is none, and `reason` says why.

        Example:
            >>> import picolab as pl
            >>> verdicts = pl.compare("pairs").verdicts.set_index("metric")
            >>> verdicts.loc["throughput_mib_s", ["ratio", "verdict", "pairs"]].to_dict()
            {'ratio': 0.9, 'verdict': 'slower', 'pairs': 10}
        """
        rows = [found | {"pairs": len(found["pairs"])} for found in self._json["metrics"]]
        return pd.DataFrame(rows).drop(columns="incomplete", errors="ignore")

    @cached_property
    def outcomes(self) -> pd.DataFrame:
        """One row per scenario and candidate: how often the trials of each build ended in which outcome."""
        return pd.DataFrame(self._json["outcomes"])

    @property
    def gate(self) -> str:
        """`ok`, `regression`, `undecided`; `incomplete` when planned trials have no result; `plan unreadable`.

        Example:
            >>> import picolab as pl
            >>> pl.compare("pairs", margin=0.05).gate
            'regression'
        """
        code = self.comparison.exit_code
        return _NOT_COMPLETE.get(code) or GATE_WORDS[code]

    @property
    def gate_reason(self) -> str:
        """Why, in one sentence."""
        return self.comparison.exit_reason

    def forest(self) -> Figure | Html:
        """Show the ratio of each metric with its interval.

        Example:
            >>> import picolab as pl
            >>> len(pl.compare("pairs").forest().panels) > 0
            True
        """
        found = self.comparison
        return figure(charts.forest(found), comparison_page.forest_caption(found), _NO_PAIR.format("no ratio"))

    def pairs(self) -> Figure | Html:
        """Show the values and the ratio of each pair in order of time."""
        found = self.comparison
        return figure(charts.pairs_in_time(found), comparison_page.pairs_caption(found), _NO_PAIR.format("nothing"))


def compare(
    run: CampaignResults | str | Path, margin: float | None = None, baseline: str | None = None
) -> ComparisonResults:
    """Compare the builds of a campaign.

    Args:
        run: what `pl.load()` returned, or the name or the path of a campaign.
        margin: relative change that does not matter, such as 0.05 for 5 %; default: the plan's.
        baseline: label of the build that the others are compared with; default: the plan's, or its first build.

    Raises:
        CampaignNotFound: there is no such campaign.
        ParameterError: the campaign has one build only, or none with this label, or the margin makes no sense.

    Example:
        >>> import picolab as pl
        >>> found = pl.compare("pairs", margin=0.05)
        >>> found.gate
        'regression'
        >>> found.verdicts.query("gates")["verdict"].tolist()
        ['slower', 'more memory']
    """
    data = (run if isinstance(run, CampaignResults) else load(run)).data
    return ComparisonResults(compare_builds(data, margin, baseline))
