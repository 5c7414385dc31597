"""A trial that kills its workers ends after a few of them, however the campaign learns of it and is restarted."""

import sys
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import eventually
from distributed_cluster import TestCluster, cluster_in

from picolab.campaign.progress import Watcher
from picolab.campaign.runner import Campaign
from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.plan import Plan, make_plan
from picolab.distributed import losses, open_order
from picolab.distributed.campaign import DistributedCampaign, begin, with_cluster
from picolab.distributed.capacity import Capacity, Host
from picolab.distributed.cluster import Begun, Cluster
from picolab.distributed.open_order import OpenOrder
from picolab.exit_codes import ExitCode
from picolab.record.outcomes import Outcome
from picolab.results.ledger import LEDGER_FILE, LedgerEntry, read_ledger


def plan_of(build: str = "calibration") -> Plan:
    wanted = {
        "matrix": {"ram_mb": [128], "file_size": ["1M"]},
        "parameters": {"build": build},
        "repeats": 1,
        "idle_limit_s": 0,
        "fault_retries": 0,
    }
    return make_plan(CampaignParameters.model_validate(wanted), "far", "test.yaml")


class Workers:
    """Stands in for a cluster whose workers a test kills."""

    address, session, is_connected = "tcp://scheduler", "s" * 32, True

    def __init__(self) -> None:
        self.hosts: tuple[Host, ...] = (Host("tcp://a", 1, None, "one"),)
        self.said: list[Begun] = []
        self.stopped: list[str] = []
        self.given = 0
        self.alive: frozenset[str] = frozenset()

    def capacity(self) -> Capacity:
        return Capacity(self.hosts)

    def check_workers(self) -> Capacity:
        return self.capacity()

    def notes(self, _capacity: Capacity) -> list[str]:
        return []

    def submit(self, *_: object) -> SimpleNamespace:
        self.given += 1
        return SimpleNamespace(status="pending", cancel=lambda: None)

    def begun(self) -> list[Begun]:
        said, self.said = self.said, []
        return said

    def connect(self) -> bool:
        return True

    def still_there(self) -> frozenset[str]:
        return self.alive

    def stop(self, _session: str, key: str = "") -> None:
        self.stopped.append(key)

    def killed_by(self, error: BaseException | None) -> str:
        return str(error or "")

    def forget(self, *_: object) -> None:
        pass

    def send_build(self, *_: object) -> None:
        pass

    forget_everywhere = close = forget


def resumed(folder: Path, workers: Workers, notes: list[str]) -> tuple[DistributedCampaign, deque[OpenOrder]]:
    """Return a campaign as it begins, or continues, and the orders that it would give."""
    campaign = with_cluster(Campaign.load(folder, Watcher(note=notes.append)), workers)  # type: ignore[arg-type]
    left = [trial for trial in campaign.plan.trials if trial.trial_id not in campaign.tally.rows]
    return campaign, deque(OpenOrder(trials) for trials in campaign._losses.startable(left, accepts=False))


def starts(campaign: DistributedCampaign, waiting: deque[OpenOrder], worker: str) -> OpenOrder:
    """Have the next order begin at a worker."""
    campaign._submit(waiting, {})
    (one,) = campaign._open
    assert one.order is not None
    campaign._workers.said.append(Begun(one.order.key, worker, "host"))  # type: ignore[attr-defined]
    campaign._note_begun()
    return one


def dask_runs_it_again(campaign: DistributedCampaign, one: OpenOrder, _waiting: deque[OpenOrder]) -> None:
    assert one.order is not None
    campaign._workers.said.append(Begun(one.order.key, "tcp://next", "host"))  # type: ignore[attr-defined]
    campaign._note_begun()


def dask_gives_it_up(campaign: DistributedCampaign, one: OpenOrder, waiting: deque[OpenOrder]) -> None:
    one.future.status, one.future.exception = "error", lambda timeout: Exception("tcp://a")
    campaign._take_ended(waiting, {})


def dask_waits_for_its_address(campaign: DistributedCampaign, one: OpenOrder, waiting: deque[OpenOrder]) -> None:
    one.only = {"tcp://a"}
    campaign._take_back(waiting, frozenset({"tcp://next"}))


def dask_forgets_it(campaign: DistributedCampaign, one: OpenOrder, waiting: deque[OpenOrder]) -> None:
    one.future.status = "cancelled"
    campaign._take_ended(waiting, {})


def answers(ending: str, worker: str) -> Callable[[DistributedCampaign, OpenOrder, deque[OpenOrder]], None]:
    def answer(campaign: DistributedCampaign, one: OpenOrder, waiting: deque[OpenOrder]) -> None:
        one.future.status = "finished"
        one.future.result = lambda timeout: {"ending": ending, "worker": worker}
        campaign._take_ended(waiting, {})

    return answer


def its_results_are_lost(campaign: DistributedCampaign, one: OpenOrder, waiting: deque[OpenOrder]) -> None:
    def lost(timeout: float) -> None:
        raise OSError

    one.future.status, one.future.result = "finished", lost
    campaign._take_ended(waiting, {})


def the_scheduler_restarts(campaign: DistributedCampaign, _one: OpenOrder, waiting: deque[OpenOrder]) -> None:
    campaign._reconnect(waiting, {})


def the_client_is_killed(campaign: DistributedCampaign, _one: OpenOrder, _waiting: deque[OpenOrder]) -> None:
    again = Campaign.load(campaign.folder)
    from picolab.results.standing import read_standing

    again._recover(read_standing(campaign.folder))


PATHS = {
    "Dask runs it again": dask_runs_it_again,
    "Dask gives it up": dask_gives_it_up,
    "Dask waits for its address": dask_waits_for_its_address,
    "Dask forgets it": dask_forgets_it,
    "another worker needs the build": answers("needs_builds", "tcp://next"),
    "another worker refuses": answers("refused", "tcp://next"),
    "its process is killed": answers("died", "tcp://a"),
    "its results are lost": its_results_are_lost,
    "the scheduler restarts": the_scheduler_restarts,
    "the client is killed": the_client_is_killed,
}


@pytest.mark.parametrize("happens", PATHS.values(), ids=PATHS)
def test_every_lost_worker_counts_for_the_life_of_the_campaign(
    happens: Callable[[DistributedCampaign, OpenOrder, deque[OpenOrder]], None],
) -> None:
    folder = Campaign.create(plan_of(), Watcher()).folder
    for lost in range(1, losses.MOST_LOSSES + 1):
        workers, notes = Workers(), []  # type: ignore[var-annotated]
        campaign, waiting = resumed(folder, workers, notes)
        assert len(waiting) == 1 and notes == []
        happens(campaign, starts(campaign, waiting, "tcp://a"), waiting)
        entries = read_ledger(folder / LEDGER_FILE)[0]
        assert [entry.worker for entry in entries] == ["tcp://a (host)"] * lost
        assert [entry.attempt for entry in entries] == list(range(1, lost + 1))

    if happens is not the_client_is_killed:
        assert entries[-1].outcome is Outcome.MACHINE_FAILED

        assert entries[-1].outcome_detail.endswith("tcp://a (host) 4 times; it is not started again")
        assert any("--accept-changes" in note for note in notes)
        assert not waiting, "nor in this run"
        assert not campaign._open
    campaign, waiting = resumed(folder, Workers(), notes := [])
    assert not waiting and "resume far --scheduler tcp://scheduler --accept-changes" in notes[0]


def test_it_may_run_again_only_when_somebody_says_so() -> None:
    folder, notes = Campaign.create(plan_of(), Watcher()).folder, []  # type: ignore[var-annotated]
    for _ in range(losses.MOST_LOSSES):
        campaign, waiting = resumed(folder, Workers(), [])
        dask_forgets_it(campaign, starts(campaign, waiting, "tcp://a"), waiting)

    campaign = with_cluster(Campaign.load(folder, Watcher(note=notes.append)), Workers())  # type: ignore[arg-type]
    waiting = deque(OpenOrder(one) for one in campaign._losses.startable(campaign.plan.trials, accepts=True))
    assert "started again all the same" in notes[0]
    for left in (1, 1, 1, 0):
        dask_forgets_it(campaign, starts(campaign, waiting, "tcp://b"), waiting)
        assert len(waiting) == left
    assert "tcp://a (host) 4 times and tcp://b (host) 4 times" in campaign.ledger.entries()[-1].outcome_detail


def test_a_worker_that_starts_again_sends_what_it_had() -> None:
    campaign, waiting = resumed(Campaign.create(plan_of(), Watcher()).folder, Workers(), [])
    one = starts(campaign, waiting, "tcp://a")
    dask_runs_it_again(campaign, one, waiting)
    times = {"started_at": "2026-01-01T00:00:00.000+00:00", "ended_at": "2026-01-01T00:01:00.000+00:00"}
    entry = {"trial_id": one.trials[0].trial_id, "attempt": 1, "outcome": "interrupted", "outcome_detail": "x"}
    entry |= times | {"duration_s": 1.0, "notebook": None, "record": None}
    attempts = [{"entry": entry, "files": {"server.log": zlib.compress(b"ready")}}]
    one.future.status = "finished"
    one.future.result = lambda timeout: {"ending": "ran", "worker": "tcp://next", "attempts": attempts}
    campaign._take_ended(waiting, {})
    assert [entry.worker for entry in campaign.ledger.entries()] == ["tcp://a (host)"], "not a second time"
    assert list(campaign.folder.glob("faults/*.attempt1.server.log")), "the scheduler was not asked since"


def attempt(one: OpenOrder, number: int, outcome: str, started_at: str | None = None) -> dict[str, object]:
    """Return an attempt as a worker sends it, with a file that has its number."""
    entry = {"trial_id": one.trials[0].trial_id, "attempt": number, "outcome": outcome, "outcome_detail": "x"}
    entry |= {"started_at": started_at, "ended_at": f"2026-01-01T00:0{number}:00.000+00:00", "duration_s": None}
    return {
        "entry": entry | {"notebook": None, "record": None},
        "files": {"server.log": zlib.compress(str(number).encode())},
    }


def sends(campaign: DistributedCampaign, one: OpenOrder, waiting: deque[OpenOrder], parcel: dict[str, object]) -> None:
    one.future.status, one.future.result = "finished", lambda timeout: parcel
    campaign._take_ended(waiting, {})


@pytest.mark.parametrize("is_resumed", [False, True])
def test_what_a_worker_sends_again_is_filed_once(is_resumed: bool) -> None:
    campaign, waiting = resumed(Campaign.create(plan_of(), Watcher()).folder, Workers(), [])
    sends(campaign, starts(campaign, waiting, "tcp://a"), waiting, {"ending": "died", "worker": "tcp://a"})
    one = starts(campaign, waiting, "tcp://a")
    first, second = attempt(one, 1, "interrupted"), attempt(one, 2, "interrupted")
    sends(campaign, one, waiting, {"ending": "died", "worker": "tcp://a", "attempts": [first]})
    if is_resumed:
        campaign, waiting = resumed(campaign.folder, Workers(), [])
    one = starts(campaign, waiting, "tcp://other-port")
    last = attempt(one, 3, "machine_failed", "2026-01-01T00:02:30.000+00:00")
    sends(campaign, one, waiting, {"ending": "ran", "worker": "tcp://other-port", "attempts": [first, second, last]})
    assert [entry.worker for entry in campaign.ledger.entries()] == ["tcp://a (host)"] * 2 + [None]
    for number in (1, 2, 3):
        (file,) = campaign.folder.glob(f"faults/*.attempt{number}.server.log")
        assert file.read_text() == str(number)


def test_an_attempt_without_a_start_comes_again_after_a_refusal() -> None:
    campaign, waiting = resumed(Campaign.create(plan_of(), Watcher()).folder, Workers(), [])
    one = starts(campaign, waiting, "tcp://a")
    parcel = {"ending": "refused", "worker": "tcp://a", "attempts": [attempt(one, 1, "interrupted")]}
    sends(campaign, one, waiting, parcel)
    came = campaign.folder / "came.jsonl"
    came.write_text(came.read_text() + '{"torn')
    campaign, waiting = resumed(campaign.folder, Workers(), [])
    sends(campaign, starts(campaign, waiting, "tcp://a"), waiting, parcel)
    assert [entry.outcome for entry in campaign.ledger.entries()] == [Outcome.INTERRUPTED], "nobody has counted it"


def test_what_dask_says_of_an_order_is_asked_once() -> None:
    workers = Workers()
    workers.alive = frozenset({"tcp://a"})
    campaign, waiting = resumed(Campaign.create(plan_of(), Watcher()).folder, workers, [])
    one = starts(campaign, waiting, "tcp://a")
    said = iter(["pending", "cancelled"])

    class Changing:
        @property
        def status(self) -> str:
            return next(said, "pending")

    one.future = Changing()
    campaign._take_ended(waiting, {})
    assert list(waiting) == [one] and campaign.ledger.entries() == [], "a break of the connection is no loss"


@pytest.mark.parametrize("happens", [dask_forgets_it, the_scheduler_restarts])
def test_a_break_of_the_connection_is_no_lost_worker(
    happens: Callable[[DistributedCampaign, OpenOrder, deque[OpenOrder]], None],
) -> None:
    workers = Workers()
    campaign, waiting = resumed(Campaign.create(plan_of(), Watcher()).folder, workers, [])
    workers.alive = frozenset({"tcp://a"})
    for _ in range(losses.MOST_LOSSES + 1):
        one = starts(campaign, waiting, "tcp://a")
        happens(campaign, one, waiting)
        assert list(waiting) == [one] and campaign.ledger.entries() == []
        assert campaign.filing.worker_of(one.trials[0]) is None


def test_a_worker_that_died_with_a_result_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_order, "_PROMPT_S", 0.0)
    campaign, waiting = resumed(Campaign.create(plan_of(), Watcher()).folder, Workers(), [])
    one = starts(campaign, waiting, "tcp://a")
    runs_again = threading.Event()

    def comes_later(timeout: float) -> dict[str, str]:
        assert runs_again.wait(timeout)
        return {"ending": "ran", "worker": "tcp://next"}

    one.future.status, one.future.result = "lost", comes_later
    campaign._take_ended(waiting, {})
    assert campaign._open == [one] and not waiting, "Dask runs it again"
    dask_runs_it_again(campaign, one, waiting)
    assert [entry.worker for entry in campaign.ledger.entries()] == ["tcp://a (host)"]
    runs_again.set()
    assert one.coming is not None and one.coming.has_ended(60)
    campaign._take_ended(waiting, {})
    assert campaign._open == [] and len(campaign.ledger.entries()) == 1


def its_address_is_gone(campaign: DistributedCampaign, one: OpenOrder, waiting: deque[OpenOrder]) -> None:
    one.future.status, one.only = "lost", {"tcp://a"}
    campaign._take_back(waiting, frozenset())


@pytest.mark.parametrize("happens", [dask_forgets_it, the_scheduler_restarts, its_address_is_gone])
def test_what_was_on_its_way_belongs_to_the_old_order(
    happens: Callable[[DistributedCampaign, OpenOrder, deque[OpenOrder]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_order, "_PROMPT_S", 0.0)
    campaign, waiting = resumed(Campaign.create(plan_of(), Watcher()).folder, Workers(), [])
    one = starts(campaign, waiting, "tcp://a")
    ends = threading.Event()

    def never_comes(timeout: float) -> None:
        ends.wait(timeout)
        raise OSError

    one.future.status, one.future.result = "finished", never_comes
    campaign._take_ended(waiting, {})
    old = one.coming
    assert old is not None
    happens(campaign, one, waiting)
    assert list(waiting) == [one] and campaign._open == []
    ends.set()
    assert old.has_ended(60)
    assert starts(campaign, waiting, "tcp://b") is one
    before = len(campaign.ledger.entries())
    one.future.status, one.future.result = "finished", lambda timeout: {"ending": "ran", "worker": "tcp://b"}
    campaign._take_ended(waiting, {})
    assert one.coming is None or one.coming.has_ended(60)
    campaign._take_ended(waiting, {})
    assert campaign._open == [] and not waiting and len(campaign.ledger.entries()) == before, "tcp://b is not lost"


def test_what_has_come_is_filed_when_the_scheduler_goes() -> None:
    campaign, waiting = resumed(Campaign.create(plan_of(), Watcher()).folder, Workers(), [])
    one = starts(campaign, waiting, "tcp://a")
    one.future.status, one.future.result = "finished", lambda timeout: {"ending": "ran", "worker": "tcp://a"}
    open_order.fetch([one], lambda: None)
    assert one.coming is not None and one.coming.has_ended(60)
    campaign._reconnect(waiting, {})
    assert not waiting and campaign._open == [] and campaign.ledger.entries() == []


def test_an_answer_is_no_loss() -> None:
    campaign, waiting = resumed(Campaign.create(plan_of(), Watcher()).folder, Workers(), [])
    one = starts(campaign, waiting, "tcp://a")
    trial = one.trials[0]
    assert campaign.filing.worker_of(trial) == "tcp://a (host)"
    (campaign.filing.running_folder(trial) / "worker").write_text("")
    assert campaign.filing.worker_of(trial) == "an unknown worker", "after a full disk"
    answers("stopped", "tcp://a")(campaign, one, waiting)
    assert len(waiting) == 1 and campaign.ledger.entries() == []
    assert campaign.filing.worker_of(trial) is None


def test_a_ledger_without_losses_is_as_before() -> None:
    campaign, _ = resumed(Campaign.create(plan_of(), Watcher()).folder, Workers(), [])
    fault = Outcome.MACHINE_FAILED, "it failed"
    campaign.settle(campaign.plan.trials[0], 1, None, None, fault)
    assert '"worker"' not in (campaign.folder / LEDGER_FILE).read_text()


# A real scheduler and real workers


@pytest.fixture
def cluster(scratch: Path) -> Iterator[TestCluster]:
    with cluster_in(scratch / "cluster", 1) as made:
        yield made


KILLER = """#!{python}
import os, pathlib, signal

with open({log!r}, "a") as log:
    log.write("started\\n")
for place in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        name, output = (place / "cmdline").read_bytes(), os.readlink(place / "fd" / "1")
    except OSError:
        continue
    # Dask gives itself this name, and overwrites its environment with it.
    if name.startswith(b"dask worker") and output.startswith({folder!r}):
        os.kill(int(place.name), signal.SIGKILL)
signal.pause()
"""
"""A server that kills the workers of a test's cluster."""


def test_a_trial_that_kills_its_workers_ends(
    cluster: TestCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "MOST_LOSSES", 2)
    server, log = tmp_path / "killer", tmp_path / "started"
    server.write_text(KILLER.format(python=sys.executable, log=str(log), folder=str(cluster.folder)))
    server.chmod(0o755)
    stop = threading.Event()
    notes: list[str] = []
    watcher = Watcher(note=notes.append, stop_requested=stop.is_set)

    def when_dead(what: Callable[[], object]) -> threading.Thread:
        victim = cluster.workers[-1]

        def wait() -> None:
            victim.wait(timeout=60)
            what()

        thread = threading.Thread(target=wait)
        thread.start()
        return thread

    with Cluster(cluster.address) as workers:
        campaign = begin(plan_of(str(server)), watcher, workers)
        folder = campaign.folder
        waits = when_dead(lambda: (stop.set(), campaign._wake(None)))
        assert campaign.run() is ExitCode.INTERRUPTED, (campaign.ledger.entries(), log.exists(), notes)
    waits.join()
    stop.clear()

    def lost() -> list[LedgerEntry]:
        return [entry for entry in read_ledger(folder / LEDGER_FILE)[0] if entry.worker is not None]

    assert [entry.outcome for entry in lost()] == [Outcome.MACHINE_FAILED]
    cluster.start_worker()
    waits = when_dead(cluster.start_worker)
    with Cluster(cluster.address) as workers:
        assert with_cluster(Campaign.load(folder, watcher), workers).run() is ExitCode.INSTRUMENT_FAULT
    waits.join()
    first, second = lost()
    assert first.worker != second.worker
    assert second.outcome_detail == (
        f"2 times a worker was lost, or its process ended early, while it ran this trial: {first.worker} and "
        f"{second.worker}; it is not started again"
    )
    assert log.read_text().splitlines() == ["started"] * 2, "the third worker was told in time"

    notes.clear()
    with Cluster(cluster.address) as workers:
        assert with_cluster(Campaign.load(folder, watcher), workers).run() is ExitCode.INSTRUMENT_FAULT
    assert len(lost()) == 2 and "it is not started again. Remove the cause" in notes[0]
    eventually(lambda: cluster.workers[-1].poll() is None, "the third worker lives")
