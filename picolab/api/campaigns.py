"""Campaigns as pandas frames: `pl.campaigns()` and `pl.load()`."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from picolab.config.project import outputs_dir
from picolab.errors import CampaignNotFound, PicolabError
from picolab.results.folders import all_campaigns, find_campaign
from picolab.results.load import CampaignData, read_campaign
from picolab.results.standing import read_standing
from picolab.text.wording import counted

if TYPE_CHECKING:  # charts take longer to import than everything else together
    from picolab.api.plots import CampaignPlots


class CampaignResults:
    """The measurements of a campaign. Made by `pl.load()`.

    Example:
        >>> import picolab as pl
        >>> run = pl.load("demo")
        >>> run
        <campaign demo: 12 trials, 0 problems>
        >>> run.trials.groupby(["ram_mb", "file_size"])["throughput_mib_s"].median().round()
        ram_mb  file_size
        256     100M          98.0
                25M          102.0
        512     100M          95.0
                25M          101.0
        Name: throughput_mib_s, dtype: Float64
    """

    def __init__(self, data: CampaignData) -> None:
        self.data = data
        """The same with the records, for the functions in `picolab.report`."""

    def __repr__(self) -> str:
        trials, problems = counted(len(self.trials), "trial"), counted(len(self.problems), "problem")
        return f"<campaign {self.name}: {trials}, {problems}>"

    @property
    def name(self) -> str:
        """The name of the campaign, which is that of its folder."""
        return self.data.folder.name

    @property
    def folder(self) -> Path:
        """The folder of the campaign."""
        return self.data.folder

    @property
    def plan(self) -> dict[str, Any]:
        """The plan as in `plan.json`; empty when it cannot be read."""
        return self.data.plan

    @property
    def trials(self) -> pd.DataFrame:
        """One row per trial that has a result. Columns carry their units; docs/record.md explains each.

        Example:
            >>> import picolab as pl
            >>> pl.load("demo").trials["outcome"].value_counts().to_dict()
            {'ok': 12}
        """
        return self.data.trials

    @property
    def samples(self) -> pd.DataFrame:
        """One row per memory sample: the trial and its case, `t_s` seconds since the first byte, sizes in bytes.

        Example:
            >>> import picolab as pl
            >>> samples = pl.load("demo").samples
            >>> int(samples.groupby("trial_id")["anon_bytes"].max().max() / 2**20)  # MiB
            24
        """
        return self.data.samples

    @property
    def faults(self) -> pd.DataFrame:
        """One row per attempt that failed because of picolab, the machine or an interruption."""
        return self.data.faults

    @property
    def problems(self) -> pd.DataFrame:
        """One row per file or trial that is missing or cannot be read: `path` and `problem`.

        Example:
            >>> import picolab as pl
            >>> pl.load("demo").problems.empty
            True
        """
        return self.data.problems

    @cached_property
    def plot(self) -> "CampaignPlots":
        """Charts of this campaign, such as `run.plot.throughput()`."""
        from picolab.api.plots import CampaignPlots

        return CampaignPlots(self.data)


def load(campaign: str | Path = "") -> CampaignResults:
    """Read a campaign, finished or not.

    Args:
        campaign: its name, as `pl.campaigns()` lists it, or the path of its folder; default: the newest.

    Raises:
        CampaignNotFound: there is no such campaign; the message lists those that exist.

    Example:
        >>> import picolab as pl
        >>> run = pl.load("demo")
        >>> run.trials[["ram_mb", "file_size", "outcome"]].head(2)
           ram_mb file_size outcome
        0     512       25M      ok
        1     512      100M      ok
        >>> run.plot.throughput()
        Each point is a trial, the line ...
    """
    if not campaign:
        return CampaignResults(read_campaign(_newest()))
    try:
        folder = find_campaign(str(campaign))
    except CampaignNotFound:
        # Without its plan a campaign can still be read, by its path.
        folder = Path(str(campaign))
        if not (folder / "trials").is_dir():
            raise
    return CampaignResults(read_campaign(folder))


def _newest() -> Path:
    folders = all_campaigns()
    if not folders:
        raise CampaignNotFound(f"there are no campaigns yet in {outputs_dir()}; run: picolab matrix FILE.yaml")
    return folders[-1]


def campaigns() -> pd.DataFrame:
    """Return a row per campaign in the outputs folder, oldest first.

    Columns: `campaign` (its name), `trials` that have a result, `planned` trials, `problem` (why it cannot be read;
    else empty), `folder`.

    Example:
        >>> import picolab as pl
        >>> pl.campaigns()[["campaign", "trials", "planned"]]
          campaign  trials  planned
        0     demo      12       12
        1    pairs      20       20
    """
    rows = []
    for folder in all_campaigns():
        row: dict[str, Any] = {"campaign": folder.name, "trials": None, "planned": None, "problem": ""}
        try:
            standing = read_standing(folder)
            row["trials"] = len(standing.results)
            if standing.plan is None:
                row["problem"] = "; ".join(found.problem for found in standing.problems[:1])
            else:
                row["planned"] = len(standing.needed)
        except (PicolabError, OSError) as error:
            row["problem"] = str(error)
        rows.append(row | {"folder": str(folder)})
    frame = pd.DataFrame(rows, columns=["campaign", "trials", "planned", "problem", "folder"])
    return frame.astype({"trials": "Int64", "planned": "Int64"})
