"""Caveats about the host: what it did during a measured step, and which other machines and trials ran on it."""

from picolab.config.sizes import MIB
from picolab.record.conditions import ConditionsRecord
from picolab.record.record import Caveat
from picolab.record.timeline import Timeline
from picolab.text.wording import listed_few

OTHERS_BUSY_SHARE = 0.10
"""Of the time of all processors. A trial needs one or two of them; below this the scheduler finds room on any host,
and what an idle operating system does by itself is far less."""
STEAL_SHARE = 0.02
"""Of the time of all processors. Nobody here can prevent it, and a rate is lower by about as much: 2 % is what ten
pairs can just see on a quiet host."""
LEAST_DISK_FREE_SHARE = 0.10
"""In their last tenth, file systems look longer for free space and SSDs clean up while they write."""
SWAPPED_BYTES = MIB
"""A few pages of a sleeping program that come back are no pressure; a MiB is."""
OVERLAP_CODES = ("overlapped", "overlap_unknown")
LEAST_FREQUENCY_SHARE = 0.60
"""Of the highest frequency, which only few processors reach at a time: without turbo most do 65 to 85 % of it."""


def of_neighbours(names: list[str]) -> list[Caveat]:
    """Return a caveat if other machines run on this host.

    Args:
        names: of those machines, and of guests that are none of picolab's.
    """
    if not names:
        return []
    return [
        Caveat(
            code="other_machines",
            value=", ".join(names),
            message=f"Other machines were running on this host when the trial began, and may have slowed it down: "
            f"{listed_few(names)}.",
            advice="Run one campaign or trial at a time; remove kept machines (`picolab machines list`), and shut down "
            "or suspend other guests (`virsh list`).",
        )
    ]


def of_overlap(timeline: Timeline, why_unknown: str = "") -> list[Caveat]:
    """Return a caveat if other trials of the campaign worked on this host during the measured section, or may have.

    Args:
        why_unknown: why it is not known what they did; empty when it is.
    """
    if why_unknown:
        return [
            Caveat(
                code="overlap_unknown",
                value=None,
                message="It is not known which other trials of the campaign ran during the measured steps of this one: "
                f"{why_unknown}.",
                advice="Make room on the disk of outputs/, and run the trial again.",
            )
        ]
    neighbours = timeline.neighbours
    if not neighbours or timeline.measured_from_s is None or timeline.measured_until_s is None:
        return []
    section_s = timeline.measured_until_s - timeline.measured_from_s
    named = listed_few(list(dict.fromkeys(f"{one.trial_id} ({one.doing})" for one in neighbours)))
    what = f"others worked for {timeline.others_worked_s:.2f} s and measured for {timeline.others_measured_s:.2f} s"
    return [
        Caveat(
            code="overlapped",
            value=round(timeline.others_s or 0.0, 3),
            message=f"Other trials of the campaign ran during this one: in the {section_s:.2f} s from the server's "
            f"start to the end of the measured steps, {what}: {named}.",
            advice="Compare it only with trials that ran in the same way; for undisturbed rates use one machine. "
            "--check-overlap measures the difference.",
        )
    ]


def of_conditions(conditions: ConditionsRecord) -> list[Caveat]:
    """Return the caveats about the host during a measured step: load, steal, throttling, swap, disk."""
    caveats = []
    others, steal = conditions.other_busy_share, conditions.steal_share
    if others is not None and others > OTHERS_BUSY_SHARE:
        most = f", most of it by {conditions.busiest_other}" if conditions.busiest_other else ""
        caveats.append(
            Caveat(
                code="host_busy_during_trial",
                value=others,
                message=f"Other programs used {others:.0%} of all processors' time during the measured step{most}.",
                advice="End what keeps the host busy, and run the trial again.",
            )
        )
    if steal is not None and steal > STEAL_SHARE:
        caveats.append(
            Caveat(
                code="cpu_steal",
                value=steal,
                message=f"The hypervisor gave {steal:.1%} of the processors' time to others during the measured step.",
                advice="Use a host of your own, or repeat when its neighbours are quiet.",
            )
        )
    free = conditions.disk_free_share
    if free is not None and free < LEAST_DISK_FREE_SHARE:
        caveats.append(
            Caveat(
                code="disk_nearly_full",
                value=free,
                message=f"Only {free:.1%} of the data folder's disk was free: a disk that is nearly full is slower.",
                advice="Make room on it, or set work_dir to a folder on another disk.",
            )
        )
    if conditions.governor is not None and conditions.governor != "performance":
        caveats.append(
            Caveat(
                code="governor_not_performance",
                value=conditions.governor,
                message=f"The CPU frequency governor was {conditions.governor}: the clock rate changed with the load.",
                advice="Set it to performance; `picolab doctor` shows the command.",
            )
        )
    throttled = _throttled(conditions)
    if throttled is not None:
        caveats.append(
            Caveat(
                code="cpu_throttled",
                value=conditions.throttle_events or conditions.frequency_share,
                message=f"The processors were slowed down: {throttled}.",
                advice="Cool the host, let it rest between trials, and remove limits of its power or frequency.",
            )
        )
    if conditions.swapped_bytes > SWAPPED_BYTES:
        caveats.append(
            Caveat(
                code="host_swapped",
                value=conditions.swapped_bytes,
                message=f"The host moved {conditions.swapped_bytes / MIB:,.0f} MiB to or from its swap during the "
                "measured step: it was short of memory.",
                advice="Close other programs, or turn swap off for the benchmark: swapoff -a",
            )
        )
    return caveats


def _throttled(conditions: ConditionsRecord) -> str | None:
    """Return how the processors were slowed down; None if there is no sign of it."""
    if conditions.throttle_events:
        return f"{conditions.throttle_events} times because of their heat"
    share = conditions.frequency_share
    # With another governor a low frequency may be what it wants.
    if conditions.governor == "performance" and share is not None and share < LEAST_FREQUENCY_SHARE:
        return f"the fastest ran at {share:.0%} of its highest frequency although the governor is performance"
    return None
