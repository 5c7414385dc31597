"""The charts of a campaign, each with the caption that says how to read it.

They are shown without network, in JupyterLab and in an exported page.
"""

from picolab.charts import campaign as charts
from picolab.charts import machines
from picolab.charts.figure import Figure
from picolab.report.campaign_page import figure
from picolab.results.load import CampaignData
from picolab.text.markup import Html


class CampaignPlots:
    """Charts of one campaign. Each method returns a figure, or a sentence when there is nothing to show.

    A figure has its altair charts in `panels`, a list with one chart for each build and kind of machine, to change or
    to save.

    Example:
        >>> import picolab as pl
        >>> plot = pl.load("demo").plot
        >>> plot.peak_memory()
        Every trial of every case...
        >>> plot.throughput().panels[0].properties(title="My title").to_dict()["title"]
        'My title'
    """

    def __init__(self, data: CampaignData) -> None:
        self._data = data

    def outcomes(self) -> Figure | Html:
        """Show the outcome of every trial, RAM by file size."""
        return figure(
            charts.outcome_matrix(self._data.trials, self._data.plan.get("trials", [])),
            charts.outcome_caption(self._data.trials),
            empty="There is no plan and no result, so there is no matrix to show.",
        )

    def throughput(self) -> Figure | Html:
        """Show the throughput of uploads that ended ok, by file size and RAM, in MiB/s."""
        return figure(
            charts.throughput(self._data.trials),
            "Each point is a trial, the line is the median of a case, and the band is an interval of that median; "
            "its tooltip gives the true coverage, which with three trials is only 75 %."
            + charts.thinning_caption(self._data.trials),
            empty="No trial ended ok, so there is no throughput to show.",
        )

    def phases(self) -> Figure | Html:
        """Show the rates of transfer and commit, the two phases of an upload, in MiB/s."""
        return figure(
            charts.phases(self._data.trials),
            "File size over the time of each phase. Points, lines and bands as above.",
            empty="No trial ended ok, so there are no phases to show.",
        )

    def memory(self) -> Figure | Html:
        """Show the server's memory over time, a panel per case, in MiB."""
        return figure(
            charts.memory_panels(self._data.samples, self._data.trials),
            charts.memory_caption(self._data.samples, self._data.trials),
            empty="There are no samples of a measured upload, so memory over time cannot be shown.",
        )

    def machines(self) -> Figure | None:
        """Show what ran when on which machine; None when trials ran one by one."""
        panels = machines.machines_in_time(self._data.records.values())
        if not panels:
            return None
        count, every = len(machines.shown_first(self._data.records.values())), len(self._data.records)
        which = f"The first {count} of {every} trials" if count < every else f"All {count} trials"
        words = f"{which}, from the times in their records. Gaps are waits and kernels that begin."
        return Figure(panels, words)

    def peak_memory(self) -> Figure | Html:
        """Show the peaks of the server's memory by case, next to the limit, in MiB."""
        return figure(
            charts.peak_memory(self._data.trials),
            charts.peak_caption(self._data.trials),
            empty="No trial has a memory measurement, so there is no peak to show.",
        )
