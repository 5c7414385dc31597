"""Workers that are lost while they run a trial. Some trials kill them, so each trial may lose only a few.

They are counted over the whole life of a campaign: each is an attempt in the ledger at home, with the worker's name.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from picolab.config.plan import PlannedTrial, together
from picolab.distributed.came import Came
from picolab.distributed.cluster import Begun, host_in
from picolab.distributed.open_order import OpenOrder, named
from picolab.distributed.order import Attempt, Parcel
from picolab.record.outcomes import Outcome
from picolab.text.wording import counted, listed

if TYPE_CHECKING:
    from picolab.distributed.campaign import DistributedCampaign

MOST_LOSSES = 4
"""After so many lost workers, a trial is not started again."""


class Losses:
    """The lost workers of a campaign's trials.

    Args:
        campaign: whose ledger names them.
        came: the attempts whose files are at home.
    """

    def __init__(self, campaign: "DistributedCampaign", came: Came) -> None:
        self._campaign = campaign
        self._came = came
        self._workers: defaultdict[str, list[str]] = defaultdict(list)
        self._hosts: dict[str, str] = {}  # names, by the worker that said it
        self._allowed: dict[str, int] = {}
        self._counted: defaultdict[tuple[str, str], list[int]] = defaultdict(list)

    def startable(self, left: Sequence[PlannedTrial], accepts: bool) -> Iterator[list[PlannedTrial]]:
        """Yield trials that run together, without those that have lost too many workers before.

        Args:
            accepts: these run all the same, and may lose as many workers again.
        """
        campaign = self._campaign
        for entry in campaign.ledger.entries():
            if entry.worker is not None:
                self._workers[entry.trial_id].append(entry.worker)
                # Where only the client was killed, the process at the worker went on.
                if entry.outcome is Outcome.MACHINE_FAILED and not self._came.has(entry.trial_id, entry.attempt):
                    self._counted[entry.trial_id, host_in(entry.worker)].append(entry.attempt)
        for trials in together(campaign.plan, left):
            if self._are_enough(trials):
                words = f"{named(trials)}: {self._words(trials)}"
                if not accepts:
                    campaign.watcher.note(f"{words}; it is not started again. {self._remedy}")
                    continue
                for trial in trials:
                    self._allowed[trial.trial_id] = len(self._workers[trial.trial_id]) + MOST_LOSSES
                campaign.watcher.note(f"{words}; it is started again all the same.")
            yield trials

    def begins(self, one: OpenOrder, begun: Begun) -> bool:
        """Note that an order has begun at a worker. The second time, the first worker was lost.

        Returns:
            False: it has lost too many workers.
        """
        if one.begun is not None and not self.add(one):
            return False
        one.begun = begun
        self._hosts[begun.worker] = begun.host
        for trial in one.trials:
            self._campaign.filing.note_worker(trial, begun.words)
        return True

    def has_answered(self, one: OpenOrder) -> None:
        """Forget at which worker an order has begun."""
        if one.begun is not None:
            one.begun = None
            for trial in one.trials:
                self._campaign.filing.remove_running_folder(trial)

    def add(self, one: OpenOrder, how: str = "was lost", at: Begun | None = None) -> bool:
        """Count the worker at which an order has begun, if one is known; return whether the order may be given again.

        Args:
            how: the worker ended, a predicate.
            at: the worker, if it did not say itself that the order has begun.
        """
        campaign = self._campaign
        one.trials = [trial for trial in one.trials if trial.trial_id not in campaign.tally.rows]
        at, one.begun = one.begun or at, None
        if at is None or not one.trials:
            return bool(one.trials)
        worker, host = at.words, at.host
        for trial in one.trials:
            self._workers[trial.trial_id].append(worker)
        is_over = self._are_enough(one.trials)
        words = f"{self._words(one.trials)}; it is not started again"
        detail = words if is_over else f"the worker {worker} {how} while it ran {_what(one.trials)}"
        for trial in one.trials:
            fault = Outcome.MACHINE_FAILED, detail
            entry = campaign.settle(trial, campaign.next_attempt(trial), None, None, fault, worker=worker)
            self._counted[trial.trial_id, host].append(entry.attempt)
        if is_over:
            campaign.watcher.note(f"{named(one.trials)}: {words}. {self._remedy}")
        return not is_over

    def file(self, trial: PlannedTrial, attempt: Attempt, parcel: Parcel, host: str) -> bool:
        """File what has come of an attempt that was counted when a worker was lost on a host, each once.

        A worker that starts again there still has the files of that attempt, and sends them with those of its own.

        Args:
            host: name of the host of the worker that sent the parcel, for one that did not say it when it began.

        Returns:
            False: it is none of those, and nothing is filed.
        """
        counted_there = self._counted[trial.trial_id, self._hosts.get(parcel.worker, host)]
        is_the_stop = parcel.ending == "stopped" and attempt is parcel.attempts[-1]
        if counted_there and attempt.entry.outcome is Outcome.INTERRUPTED and not is_the_stop:
            number = counted_there.pop(0)
            self._campaign.filing.file(trial, number)
            self._campaign.filing.remove_running_folder(trial)
            self._came.note(attempt.entry, number)
            return True
        return False

    def _are_enough(self, trials: Sequence[PlannedTrial]) -> bool:
        return any(
            len(self._workers[trial.trial_id]) >= self._allowed.get(trial.trial_id, MOST_LOSSES) for trial in trials
        )

    def _words(self, trials: Sequence[PlannedTrial]) -> str:
        """Return how often a worker was lost while it ran trials that run together, and which."""
        most = max(trials, key=lambda trial: len(self._workers[trial.trial_id]))
        lost = Counter(self._workers[most.trial_id])
        which = (worker if count == 1 else f"{worker} {count} times" for worker, count in lost.items())
        return (
            f"{counted(lost.total(), 'time')} a worker was lost, or its process ended early, while it ran "
            f"{_what(trials)}: {listed(which)}"
        )

    @property
    def _remedy(self) -> str:
        return f"Remove the cause, and have it run again with: {self._campaign.resume_command} --accept-changes"


def _what(trials: Sequence[PlannedTrial]) -> str:
    return "this trial" if len(trials) == 1 else "the block of this trial"
