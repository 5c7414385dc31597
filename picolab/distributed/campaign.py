"""The loop of a campaign on many hosts: orders go to workers, parcels come home, and the ledger stays exact.

At home it is a campaign like any other: the same folder, files, ledger and results. A parcel's files are unpacked
into `running/` and settled as if the trial had run here. A trial that has a result gets no second one, whatever the
scheduler repeats.
"""

import os
import select
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from picolab.campaign.changes import hosts_of_blocks
from picolab.campaign.progress import Watcher
from picolab.campaign.runner import Campaign
from picolab.campaign.slots import Interrupted
from picolab.config.plan import Plan, PlannedTrial
from picolab.distributed import worker
from picolab.distributed.came import Came
from picolab.distributed.capacity import MACHINE, RAM, Capacity
from picolab.distributed.checks import check_distributed, sent_builds
from picolab.distributed.choice import Nobody, able, why_given_up
from picolab.distributed.cluster import Begun, Cluster
from picolab.distributed.losses import Losses
from picolab.distributed.open_order import OpenOrder, fetch, named
from picolab.distributed.order import Attempt, Builds, Order, Parcel, part_of, unpack
from picolab.distributed.sending import Sending
from picolab.errors import HostUnfit
from picolab.files.foreign import remove_tree_inside
from picolab.jupyter.notebook_process import INTERRUPT_PATIENCE_S, Signals
from picolab.record.hosts import HostIdentity
from picolab.record.outcomes import Outcome
from picolab.results.starts_file import note_start
from picolab.text.wording import counted, listed_few

_LOOK_S = 30.0
"""Between two looks at the workers while nothing happens: new ones get orders then."""
_CAPACITY_S = 5.0
_STOP_PATIENCE_S = INTERRUPT_PATIENCE_S + 60.0
RECONNECT_S = 300.0
"""A scheduler that is gone is waited for so long."""
_MOST_REFUSALS = 3
HOST_PATIENCE_S = 60.0
"""The rest of a block waits so long for a worker on the host of its begin, while no other trial runs."""


@dataclass
class DistributedCampaign(Campaign):
    """A campaign whose trials run on the workers of a cluster."""

    cluster: Cluster | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._open: list[OpenOrder] = []
        self._count = 0
        self._ordered: dict[str, set[str]] = {}  # trials of each order, by its key
        self._accepts_changes = False
        self._waits_since_s: float | None = None
        self._came = Came(self.folder, self.ledger)
        self._losses = Losses(self, self._came)
        self._sending = Sending(self.watcher.stop_requested)
        self._given: frozenset[str] = frozenset()  # workers that may run an order now, by address
        self._is_alone = False
        self._refusals: set[tuple[str, str]] = set()  # worker and sentence, each said once
        self._known, self._known_at_s, self._taken_back_at_s = Capacity(()), 0.0, 0.0
        self._machines = 1 if self.cluster is None else max(1, self._capacity().machines)
        # Never closed: a future that ends late would write into whatever gets its number next.
        self._ended = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        if self.cluster is not None:
            self.cluster.on_begun = self._wake

    @property
    def _workers(self) -> Cluster:
        assert self.cluster is not None
        return self.cluster

    @property
    def resume_command(self) -> str:
        """The command that continues this campaign on the same scheduler."""
        return f"{super().resume_command} --scheduler {self._workers.address}"

    def _check_plan(self, accept_changes: bool) -> None:
        # Then the rest of a block that has begun may run anywhere, where it makes no pair, and a trial that lost many
        # workers is started again.
        self._accepts_changes = accept_changes
        check_distributed(self.plan)
        for sentence in self._workers.notes(self._workers.check_workers()):
            self.watcher.note(sentence)

    @property
    def hosts(self) -> int:
        """How many machines of workers run its trials at once."""
        return self._machines

    def _run_blocks(self) -> None:
        left = [trial for trial in self.needed if trial.trial_id not in self.tally.rows]
        startable = self._losses.startable(left, self._accepts_changes)
        begun = self._hosts_of(self.plan.trials)
        waiting = deque(OpenOrder(trials, host=begun.get(trials[0].block)) for trials in startable)
        builds = sent_builds(left)
        signals = Signals()
        try:
            while waiting or self._open:
                self._submit(waiting, builds)
                self.watcher.progress(self.progress())
                # The last order may have been given up just now.
                look_s = _CAPACITY_S if self._is_alone else _LOOK_S
                self._sleep(signals, look_s if waiting or self._open else 0)
                if self.watcher.stop_requested():
                    self._stop(signals)
                    raise Interrupted
                if not self._workers.is_connected:
                    self._reconnect(waiting, builds)
                self._take_ended(waiting, builds)
            # The results of the others may be at a worker and nowhere else.
            at_home = [key for key, trials in self._ordered.items() if trials <= self.tally.rows.keys()]
            self._workers.forget_everywhere(sorted(at_home))
        finally:
            signals.close()
            if self._open:
                self._workers.stop(self._workers.session)
            for one in self._open:
                self._losses.has_answered(one)
            self._workers.close()

    # Orders

    def _submit(self, waiting: deque[OpenOrder], builds: Builds) -> None:
        """Give orders to the scheduler until each machine has one."""
        if not self._workers.is_connected:
            return
        known = self._capacity()
        if self._taken_back_at_s != self._known_at_s:
            self._taken_back_at_s = self._known_at_s
            self._take_back(waiting, known.addresses)
        if not known.hosts:
            if not self._is_alone:
                self.watcher.note(
                    f"No worker offers a machine now, and the campaign waits for one; start one on each host with: "
                    f"{self._workers.worker_command}"
                )
            self._is_alone = True
            self._wait_for_hosts(waiting, [one for one in waiting if one.host])
            return
        self._is_alone = False
        capacity = known
        if known.is_shared:
            begun = {one.host for one in waiting if one.host is not None}
            wanted = {host.address for one in begun for host in known.fit(one)}
            capacity = known.one_per_kernel(self._given if self._open else (), wanted)
        self._given, self._machines = capacity.addresses, capacity.machines
        elsewhere: list[OpenOrder] = []
        busy: list[OpenOrder] = []
        while waiting and len(self._open) < self._machines:
            one = waiting.popleft()
            hosts = able(one, known, self._given, self._open)
            if isinstance(hosts, Nobody):
                if hosts is Nobody.THERE:
                    elsewhere.append(one)
                elif hosts is Nobody.FREE:
                    busy.append(one)
                else:
                    self.watcher.note(why_given_up(one, known, hosts, self.resume_command))
                continue
            if known.is_shared and hosts[0].address not in self._given:
                capacity = capacity.with_worker(hosts[0])
                self._given, self._machines = capacity.addresses, capacity.machines
            is_bound = bool(one.refused_by or one.host or known.is_shared)
            self._give(one, builds, {host.address for host in hosts} if is_bound else set(), known.counts_ram)
        waiting.extend(busy + elsewhere)
        self._wait_for_hosts(waiting, elsewhere)

    def _give(self, one: OpenOrder, builds: Builds, only: set[str], counts_ram: bool) -> None:
        """Give an order to the scheduler, for some workers or for all."""
        # On its host the worker continues what it has, if it gets the same order.
        trials = one.whole if one.whole and one.host else one.trials
        names = {trial.parameters.build for trial in trials} & builds.keys()
        one.order = Order(
            session=self._workers.session,
            software=worker.software(),
            plan=part_of(self.plan, trials),
            attempts={trial.trial_id: self.next_attempt(trial) - 1 for trial in trials},
            builds={name: builds[name][1] for name in sorted(names)},
        )
        self._count += 1
        self._ordered[one.order.key] = {trial.trial_id for trial in trials}
        one.only = only
        one.key = f"picolab-{self.plan.campaign}-{self._workers.session[:8]}-{self._count}"
        resources = {MACHINE: 1.0} | ({RAM: one.ram_bytes} if counts_ram else {})
        text = one.order.model_dump_json()
        one.future = self._workers.submit(text, one.key, resources, sorted(only) or None, self._wake)
        self._open.append(one)

    def _requeue(
        self,
        one: OpenOrder,
        waiting: deque[OpenOrder],
        how: str = "was lost",
        at: Begun | None = None,
        here: frozenset[str] = frozenset(),
        is_last: bool = False,
    ) -> None:
        """Put an order back, and count the worker at which it had begun; drop it after too many of them.

        Args:
            how: as in `Losses.add`, like `at`.
            here: addresses of workers that are not lost: they are not counted.
        """
        one.take_back()
        if one.begun is not None and one.begun.worker in here:
            self._losses.has_answered(one)
        if self._losses.add(one, how, at):
            (waiting.append if is_last else waiting.appendleft)(one)

    def _hosts_of(self, trials: Sequence[PlannedTrial]) -> dict[int, HostIdentity]:
        """Return on which host the block of some trials has begun; none for those that may run anywhere."""
        return {} if self._accepts_changes else hosts_of_blocks(self.plan, trials, self.tally.rows)

    def _wait_for_hosts(self, waiting: deque[OpenOrder], elsewhere: list[OpenOrder]) -> None:
        """Wait for workers on the hosts where blocks have begun; give these blocks up when nobody starts one."""
        if self._open or len(elsewhere) < len(waiting) or not elsewhere:
            self._waits_since_s = None
            return
        hosts = listed_few(dict.fromkeys(str(one.host.name) for one in elsewhere if one.host))
        if self._waits_since_s is None:
            self._waits_since_s = time.monotonic()
            self.watcher.note(
                f"{named(elsewhere[0].trials)}: the block has begun on {hosts}, and no worker runs there; waiting up "
                f"to {HOST_PATIENCE_S:.0f} s for one."
            )
        if time.monotonic() - self._waits_since_s < HOST_PATIENCE_S:
            return
        waiting.clear()
        again = self.resume_command
        self.watcher.note(
            f"{counted(len(elsewhere), 'block')} of the comparison stayed without the rest of the trials: a block runs "
            f"on one host, and no worker came on {hosts}. Start one there, and continue with: {again}; or have the "
            f"rest run on any host, where it makes no pair: {again} --accept-changes"
        )

    def _take_back(self, waiting: deque[OpenOrder], here: frozenset[str]) -> None:
        """Put back the orders that wait for workers that are gone: Dask would wait for their addresses forever."""
        for one in [one for one in self._open if one.only and one.is_pending]:
            if not one.only & here:
                one.future.cancel()
                self._open.remove(one)
                self._requeue(one, waiting)

    def _capacity(self) -> Capacity:
        """Return the workers; the scheduler is asked every few seconds, since 1,000 of them are a long answer."""
        if not self._known.hosts or time.monotonic() - self._known_at_s > _CAPACITY_S:
            found, self._known_at_s = self._workers.capacity(), time.monotonic()
            if found != self._known:  # the same one remembers what it was asked
                self._known = found
        return self._known

    def _wake(self, _future: Any = None) -> None:
        with suppress(OSError):
            os.eventfd_write(self._ended, 1)

    def _sleep(self, signals: Signals, limit_s: float) -> None:
        """Sleep until an order has ended, a signal has come, or some seconds have passed."""
        waiting = select.poll()
        waiting.register(self._ended, select.POLLIN)
        waiting.register(signals.descriptor, select.POLLIN)
        waiting.poll(limit_s * 1000)
        signals.forget()
        with suppress(BlockingIOError):
            os.eventfd_read(self._ended)

    def _stop(self, signals: Signals) -> None:
        """Have the running trials end after cleaning up, and file what comes of them."""
        self._workers.stop(self._workers.session)
        self._note_begun()
        running, known = self._workers.running(), {host.address for host in self._workers.capacity().hosts}
        for one in [one for one in self._open if one.key not in running and one.is_pending]:
            one.future.cancel()
            self._open.remove(one)
            if one.begun is not None and one.begun.worker not in known:
                self._losses.add(one)
            self._losses.has_answered(one)
        deadline = time.monotonic() + _STOP_PATIENCE_S
        while self._open and self._workers.is_connected and time.monotonic() < deadline:
            self._take_ended(deque(), {})
            if self._open:
                self._sleep(signals, max(0.0, deadline - time.monotonic()))

    def _reconnect(self, waiting: deque[OpenOrder], builds: Builds) -> None:
        """Wait for a scheduler that is gone, and put back the orders that it had; what is here already is taken.

        Raises:
            HostUnfit: it did not come back.
        """
        self.watcher.note(f"The scheduler {self._workers.address} is gone; waiting up to {RECONNECT_S:.0f} s for it.")
        self._note_begun()
        self._take_come(waiting, builds)
        lost, self._open, here = self._open, [], frozenset[str]()
        session, deadline = self._workers.session, time.monotonic() + RECONNECT_S
        try:
            while not self._workers.connect():
                if self.watcher.stop_requested():
                    raise Interrupted
                if time.monotonic() > deadline:
                    raise HostUnfit(
                        f"the scheduler {self._workers.address} did not come back within {RECONNECT_S:.0f} s; "
                        f"everything that had come home is filed; start it, and continue with: {self.resume_command}"
                    )
            here = self._workers.still_there()
        finally:
            for one in reversed(lost):
                self._requeue(one, waiting, "was lost with the scheduler", here=here)
        self._known = Capacity(())
        self._workers.stop(session)
        self.watcher.note(f"The scheduler {self._workers.address} is back.")

    def _note_begun(self) -> None:
        """Note which orders have begun where, and give up those that have lost too many workers."""
        for begun in self._workers.begun():
            one = next((one for one in self._open if one.order is not None and one.order.key == begun.order), None)
            if one is not None and not self._losses.begins(one, begun):
                one.future.cancel()
                self._open.remove(one)
                self._workers.stop(self._workers.session, begun.order)

    # Parcels

    def _take_ended(self, waiting: deque[OpenOrder], builds: Builds) -> None:
        self._note_begun()
        fetch((one for one in self._open if one.future.status in ("finished", "lost")), self._wake)
        lost = self._take_come(waiting, builds)
        # While the connection is lost, all are cancelled, and `_reconnect` puts them back.
        ended = ("error", "cancelled") if self._workers.is_connected else ("error",)
        # Asked once: the thread of Dask changes it meanwhile.
        status = {one: one.future.status for one in self._open}
        gone = [one for one in self._open if status[one] in ended or (one in lost and status[one] == "finished")]
        is_cut = any(status[one] == "cancelled" for one in gone)
        here = self._workers.still_there() if is_cut else frozenset()
        for one in gone:
            self._open.remove(one)
            self._failed(one, status[one], waiting, here)

    def _take_come(self, waiting: deque[OpenOrder], builds: Builds) -> list[OpenOrder]:
        """Take the parcels that are here; return the orders whose parcel was lost on its way."""
        lost = []
        for one in [one for one in self._open if one.has_come]:
            try:
                plain = one.parcel()
            except TimeoutError:
                pass  # it is taken at the next look, here or from the worker that runs it again
            except Exception:  # the worker died meanwhile, and the scheduler has lost it
                lost.append(one)
            else:
                self._open.remove(one)
                self._receive(one, plain, waiting, builds)
        return lost

    def _failed(self, one: OpenOrder, status: str, waiting: deque[OpenOrder], here: frozenset[str]) -> None:
        """Decide about an order that ended without a parcel."""
        error = one.future.exception(timeout=60) if status == "error" else None
        if status == "cancelled":
            # The connection was lost for a moment, and the scheduler has forgotten what this client wanted.
            self._requeue(one, waiting, "was lost with the connection", here=here)
        elif error is None:
            self._requeue(one, waiting, "was lost before its results came home", Begun("", "an unknown worker"))
        elif last_worker := self._workers.killed_by(error):
            self._requeue(one, waiting, at=Begun("", last_worker), is_last=True)
        else:
            self._fails(one, waiting, f"; last: {error}")

    def _fails(self, one: OpenOrder, waiting: deque[OpenOrder], last: str = "") -> None:
        """Give an order a few times again whose task itself fails."""
        self._losses.has_answered(one)
        one.failures += 1
        if one.failures < _MOST_REFUSALS:
            self._requeue(one, waiting, is_last=True)
        else:
            self.watcher.note(
                f"{named(one.trials)}: the task failed {one.failures} times{last}; run it again with: "
                f"{self.resume_command}"
            )

    def _receive(self, one: OpenOrder, plain: Any, waiting: deque[OpenOrder], builds: Builds) -> None:
        try:
            parcel = Parcel.model_validate(plain)
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            self.watcher.note(f"{named(one.trials)}: something else than a parcel came: {where}: {first['msg']}")
            self._fails(one, waiting)
            return
        # Of an order that has begun at a worker, another one answers only when that one is lost.
        elsewhere = parcel.ending == "needs_builds" or (one.begun is not None and one.begun.worker != parcel.worker)
        may_begin = not elsewhere or self._losses.add(one)
        if parcel.ending == "needs_builds":
            if may_begin:
                self._send(one, parcel, builds)
                self._requeue(one, waiting)
            return
        self._sending.has_run(parcel.worker)
        for found in parcel.waits():
            note_start(self.folder, found)
        is_whole = self._accept(one.trials, parcel)
        one.host = one.host or next(iter(self._hosts_of(one.trials).values()), None)
        one.whole = [] if parcel.is_all else one.whole or one.trials
        if one.order is not None and is_whole and parcel.is_all:
            # Else its results may be there and nowhere else.
            self._workers.forget(parcel.worker, one.order.key)
        elif one.order is not None and not parcel.is_all:
            self._ordered.pop(one.order.key, None)
        if parcel.ending == "died":
            how = f"ended its process early ({parcel.sentence})"
            self._requeue(one, waiting, how, Begun("", parcel.worker), is_last=True)
            return
        self._losses.has_answered(one)
        if parcel.ending == "refused":
            if (parcel.worker, parcel.sentence) not in self._refusals:
                self._refusals.add((parcel.worker, parcel.sentence))
                self.watcher.note(f"The worker {parcel.worker} cannot run {named(one.trials)}: {parcel.sentence}")
            one.refused_by.add(parcel.worker)
            if may_begin:
                self._requeue(one, waiting, is_last=True)
        elif parcel.ending == "stopped":
            # By somebody at the worker: a client that stops throws `waiting` away.
            one.trials = [trial for trial in one.trials if trial.trial_id not in self.tally.rows]
            one.failures += 1
            if may_begin and one.failures < _MOST_REFUSALS:
                self._requeue(one, waiting, is_last=True)
            elif one.trials and may_begin:
                self.watcher.note(
                    f"{named(one.trials)}: stopped {one.failures} times at workers, the last time at "
                    f"{parcel.worker}; run it again with: {self.resume_command}"
                )
        elif parcel.sentence:
            self.watcher.note(parcel.sentence)

    def _send(self, one: OpenOrder, parcel: Parcel, builds: Builds) -> None:
        assert one.order is not None
        why = self._sending.answer(self._workers, parcel, one.order, builds)
        if why:
            one.refused_by.add(parcel.worker)
            self.watcher.note(f"The worker {parcel.worker} cannot run {named(one.trials)}: {why}")

    def _accept(self, trials: Sequence[PlannedTrial], parcel: Parcel) -> bool:
        """File what has come, each attempt once; return whether all of it came as it was sent."""
        is_whole = True
        wanted = {trial.trial_id: trial for trial in trials}
        for attempt in parcel.attempts:
            entry = attempt.entry
            trial = wanted.get(entry.trial_id)
            if self._came.is_filed(entry):
                continue  # a worker whose process died sends all that it has once more
            if entry.trial_id in self.tally.rows:
                self.watcher.note(f"{entry.trial_id}: a second result came from {parcel.worker}: dropped.")
            elif trial is None:
                self.watcher.note(f"{parcel.worker} sent the trial {entry.trial_id}, which was not ordered: dropped.")
            else:
                is_whole &= self._file(trial, attempt, parcel)
        return is_whole

    def _file(self, trial: PlannedTrial, attempt: Attempt, parcel: Parcel) -> bool:
        """File an attempt; return whether its files came as they were sent."""
        entry, folder = attempt.entry, self.filing.running_folder(trial)
        remove_tree_inside(self.folder, folder)
        wrong = unpack(attempt, folder)
        if not wrong and self._losses.file(trial, attempt, parcel, self._known.hostname_of(parcel.worker)):
            return True
        fault = (entry.outcome, entry.outcome_detail) if entry.outcome.is_fault else None
        if wrong:
            fault = Outcome.INVALID, f"{wrong} from {parcel.worker}"
        # Without its start it does not count as filed: the worker still has it, and may send it again.
        started_at = datetime.fromisoformat(entry.started_at) if entry.started_at and not wrong else None
        number = max(entry.attempt, self.next_attempt(trial))
        filed = self.settle(trial, number, started_at, entry.duration_s, fault)
        if not wrong and entry.started_at is None:
            self._came.note(entry, filed.attempt)
        return not wrong


def begin(plan: Plan, watcher: Watcher, cluster: Cluster) -> DistributedCampaign:
    """Return a new campaign whose trials run on the workers of a cluster.

    Raises:
        ParameterError: there is a campaign of that name.
    """
    return with_cluster(Campaign.create(plan, watcher), cluster)


def with_cluster(campaign: Campaign, cluster: Cluster) -> DistributedCampaign:
    """Return a campaign that exists, to be run on the workers of a cluster."""
    return DistributedCampaign(campaign.folder, campaign.plan, campaign.watcher, cluster=cluster)
