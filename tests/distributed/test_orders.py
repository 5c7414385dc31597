"""Which orders a scheduler gets, which of them come back, and which results a worker may forget."""

import math
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from picolab.api.running import _ending
from picolab.campaign.changes import hosts_of_blocks
from picolab.campaign.progress import Watcher
from picolab.campaign.runner import Campaign
from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.plan import Plan, PlannedTrial, make_plan
from picolab.distributed import campaign as distributed_campaign
from picolab.distributed import cluster as clusters
from picolab.distributed import open_order
from picolab.distributed.campaign import DistributedCampaign, with_cluster
from picolab.distributed.cluster import Begun, Capacity, Cluster, Host
from picolab.distributed.open_order import OpenOrder
from picolab.distributed.order import Order, Parcel, SentBuild
from picolab.distributed.sending import Sending
from picolab.exit_codes import ExitCode
from picolab.record.hosts import HostIdentity
from picolab.record.outcomes import Outcome


def plan_of(**rest: Any) -> Plan:
    wanted = {"matrix": {"ram_mb": [128], "file_size": ["1M"]}, "repeats": 2, "idle_limit_s": 0}
    return make_plan(CampaignParameters.model_validate(wanted | rest), "far", "test.yaml")


class Workers:
    """Stands in for a cluster: notes what it is asked for."""

    address, session, is_connected = "tcp://scheduler", "s" * 32, True
    worker_command = "dask worker tcp://scheduler"

    def __init__(self, *hosts: str, ram_bytes: float | None = None) -> None:
        self.hosts = [Host(name, 1, ram_bytes) for name in hosts]
        self.orders: list[Any] = []
        self.forgotten: list[str] = []
        self.forgotten_everywhere: list[str] = []
        self.answers: list[dict[str, Any]] = []
        self.said: list[Begun] = []
        self.sent: list[str] = []

    def capacity(self) -> Capacity:
        return Capacity(tuple(self.hosts))

    def submit(self, _order: str, _key: str, _resources: object, workers: list[str] | None, done: Any) -> Any:
        self.orders.append(SimpleNamespace(status="pending", workers=workers, cancel=lambda: None))
        if self.answers:
            answer = self.answers.pop(0)
            self.orders[-1].status, self.orders[-1].result = "finished", lambda timeout: answer
            done(self.orders[-1])
        return self.orders[-1]

    def begun(self) -> list[Begun]:
        said, self.said = self.said, []
        return said

    def send_build(self, _address: str, _path: Path, sha256: str, _size_bytes: int, _is_stopped: object) -> None:
        self.sent.append(sha256)

    def forget(self, address: str, _key: str) -> None:
        self.forgotten.append(address)

    def forget_everywhere(self, keys: list[str]) -> None:
        self.forgotten_everywhere += keys

    def close(self) -> None:
        pass


def campaign_on(workers: Workers, notes: list[str] | None = None, **plan: Any) -> DistributedCampaign:
    watcher = Watcher(note=notes.append) if notes is not None else Watcher()
    return with_cluster(Campaign.create(plan_of(**plan), watcher), workers)  # type: ignore[arg-type]


def test_what_somebody_stops_at_a_worker_runs_again() -> None:
    notes: list[str] = []
    workers = Workers("tcp://a")
    campaign = campaign_on(workers, notes)
    waiting = deque([OpenOrder([campaign.plan.trials[0]])])
    for left in (1, 1, 0):
        campaign._submit(waiting, {})
        campaign._receive(campaign._open.pop(), {"ending": "stopped", "worker": "tcp://a"}, waiting, {})
        assert len(waiting) == left
        assert len(notes) == 1 - left
    assert "stopped 3 times at workers, the last time at tcp://a; run it again with: picolab resume far" in notes[0]
    assert workers.forgotten == [], "results may be there and nowhere else"


def test_what_came_home_is_forgotten_at_its_worker() -> None:
    workers = Workers("tcp://a")
    campaign = campaign_on(workers)
    campaign._submit(deque([OpenOrder([campaign.plan.trials[0]])]), {})
    campaign._receive(campaign._open.pop(), {"ending": "ran", "worker": "tcp://a"}, deque(), {})
    assert workers.forgotten == ["tcp://a"]


def parcel_of(trial: PlannedTrial, **rest: Any) -> dict[str, Any]:
    """Return a parcel with one attempt at a trial."""
    started = {"started_at": "2026-01-01T00:00:00.000+00:00", "ended_at": "2026-01-01T00:01:00.000+00:00"}
    entry = {"trial_id": trial.trial_id, "attempt": 1, "outcome": "machine_failed", "outcome_detail": "it failed"}
    entry |= started | {"duration_s": 1.0, "notebook": None, "record": None}
    return {"ending": "ran", "worker": "tcp://a", "attempts": [{"entry": entry, "files": {}}]} | rest


@pytest.mark.parametrize("ending", ["died", "refused"])
def test_a_process_that_ended_early_keeps_its_files(ending: str) -> None:
    workers = Workers("tcp://a")
    campaign = campaign_on(workers)
    campaign._submit(deque([OpenOrder(list(campaign.plan.trials))]), {})
    parcel = parcel_of(campaign.plan.trials[0], ending=ending, sentence="killed")
    campaign._receive(campaign._open.pop(), parcel, deque(), {})
    assert len(campaign.ledger.entries()) >= 1 and workers.forgotten == [], "the second may have an unfiled record"


def test_the_only_worker_gets_an_order_again_whose_process_died() -> None:
    notes: list[str] = []
    workers = Workers("tcp://a")
    campaign = campaign_on(workers, notes)
    waiting = deque([OpenOrder([campaign.plan.trials[0]])])
    campaign._submit(waiting, {})
    campaign._receive(campaign._open.pop(), {"ending": "died", "worker": "tcp://a", "sentence": "x"}, waiting, {})
    campaign._submit(waiting, {})
    assert len(campaign._open) == 1 and notes == []


def test_a_worker_says_once_why_it_refuses() -> None:
    notes: list[str] = []
    workers = Workers("tcp://a", "tcp://b")
    campaign = campaign_on(workers, notes)
    waiting = deque(OpenOrder([trial]) for trial in campaign.plan.trials)
    campaign._submit(waiting, {})
    for one in list(campaign._open):
        campaign._open.remove(one)
        campaign._receive(one, {"ending": "refused", "worker": "tcp://b", "sentence": "old"}, waiting, {})
    assert len(waiting) == 2 and len(notes) == 1 and notes[0].startswith("The worker tcp://b cannot run 001")


def test_results_that_only_a_worker_has_stay_there(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers("tcp://a")
    campaign = campaign_on(workers)
    home, too_large = campaign.plan.trials
    workers.answers = [
        {"ending": "ran", "worker": "tcp://a"},
        {"ending": "refused", "worker": "tcp://a", "sentence": "the files have more than 512 MiB"},
    ]

    def accept(trials: list[PlannedTrial], parcel: Parcel) -> bool:
        if parcel.ending == "ran":
            campaign.tally.rows[trials[0].trial_id] = {}
        return True

    monkeypatch.setattr(campaign, "_accept", accept)
    campaign._run_blocks()
    assert home.trial_id in campaign.tally.rows and too_large.trial_id not in campaign.tally.rows
    at_home, *others = workers.forgotten_everywhere
    assert campaign._ordered[at_home] == {home.trial_id} and others == []


def test_a_damaged_result_stays_at_its_worker_and_may_come_again() -> None:
    workers = Workers("tcp://a")
    campaign = campaign_on(workers)
    trial = campaign.plan.trials[0]
    for files, forgotten in (({"record.json": b"no zlib"}, []), ({}, ["tcp://a"])):
        campaign._submit(deque([OpenOrder([trial])]), {})
        parcel = parcel_of(trial)
        parcel["attempts"][0]["files"] = files
        campaign._receive(campaign._open.pop(), parcel, deque(), {})
        assert workers.forgotten == forgotten
    assert [entry.outcome for entry in campaign.ledger.entries()] == [Outcome.INVALID, Outcome.MACHINE_FAILED]


def test_an_order_for_workers_that_are_gone_is_given_to_others() -> None:
    workers = Workers("tcp://a", "tcp://b")
    campaign = campaign_on(workers)
    one = OpenOrder([campaign.plan.trials[0]], refused_by={"tcp://a"})
    campaign._submit(deque([one]), {})
    assert workers.orders[-1].workers == ["tcp://b"]

    workers.hosts, campaign._known_at_s = [], -math.inf
    other = OpenOrder([campaign.plan.trials[1]], refused_by={"tcp://a"})
    waiting = deque([other])
    campaign._submit(waiting, {})
    assert list(waiting) == [one, other] and campaign._open == [], "with no worker nobody has refused"

    workers.hosts = [Host("tcp://c", 1, None)]
    campaign._submit(waiting, {})
    assert [order.workers for order in workers.orders] == [["tcp://b"], ["tcp://c"]]


def test_a_campaign_without_workers_says_so_once_and_waits() -> None:
    notes: list[str] = []
    workers = Workers()
    campaign = campaign_on(workers, notes)
    waiting = deque([OpenOrder([trial]) for trial in campaign.plan.trials])
    for _ in range(2):
        campaign._submit(waiting, {})
    assert len(waiting) == 2 and not workers.orders
    assert notes == [
        "No worker offers a machine now, and the campaign waits for one; start one on each host with: "
        "dask worker tcp://scheduler"
    ]
    workers.hosts = [Host("tcp://a", 1, None)]
    campaign._submit(waiting, {})
    assert len(workers.orders) == 1 and len(notes) == 1


@pytest.mark.parametrize(
    ("missing", "sent", "words"),
    [
        ("b", 3, "was sent to it 3 times, and it has no good copy; look at the disk of its state folder"),
        ("c", 0, "it asks for a build that is not part of its order"),
        ("", 0, "it asks for a build that is not part of its order"),
    ],
    ids=["never good", "of nobody", "none"],
)
def test_a_worker_without_end_of_builds_is_refused(missing: str, sent: int, words: str) -> None:
    notes: list[str] = []
    workers = Workers("tcp://a")
    campaign = campaign_on(workers, notes)
    trial = campaign.plan.trials[0]
    builds = {trial.parameters.build: (Path("./new"), SentBuild(sha256="b" * 64, size_bytes=1))}
    parcel = {"ending": "needs_builds", "worker": "tcp://a", "missing": [missing * 64] if missing else []}
    waiting = deque([OpenOrder([trial])])
    campaign._submit(waiting, builds)
    while campaign._open:
        campaign._receive(campaign._open.pop(), parcel, waiting, builds)
        campaign._submit(waiting, builds)
    assert workers.sent == ["b" * 64] * sent
    assert (
        words in notes[0]
        and "each has refused; remove the cause, and continue with: picolab resume far" in notes[1]
        and not waiting
    )


def test_a_worker_that_has_run_an_order_gets_a_build_again() -> None:
    workers, order = Workers(), SimpleNamespace(builds={"new": None})
    builds = {"new": (Path("./new"), SentBuild(sha256="b" * 64, size_bytes=1))}
    parcel = Parcel(ending="needs_builds", worker="tcp://a", missing=["b" * 64])
    sending = Sending(lambda: False)
    for _ in range(2):
        assert [sending.answer(workers, parcel, order, builds) for _ in range(3)] == [""] * 3  # type: ignore[arg-type]
        sending.has_run("tcp://a")
    assert len(workers.sent) == 6
    assert Sending(lambda: True).answer(workers, parcel, order, builds) == ""  # type: ignore[arg-type]
    assert len(workers.sent) == 6, "a campaign that stops sends nothing"


def test_the_workers_are_looked_at_once_and_not_for_each_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted(tuple[Host, ...]):
        looks = 0

        def __iter__(self) -> Iterator[Host]:
            Counted.looks += 1
            return super().__iter__()

    builds = {name: {"build": "calibration"} for name in ("old", "new")}
    workers = Workers()
    hosts = Counted(Host(f"tcp://{n}", 1, 2.0**30, f"host{n}") for n in range(10))
    workers.capacity = lambda: Capacity(hosts)  # type: ignore[method-assign]
    campaign = campaign_on(workers, repeats=30, builds=builds, baseline="old")
    workers.answers = [{"ending": "ran", "worker": "tcp://1"}] * 30
    asked_for: list[int] = []

    def counted(plan: Plan, trials: list[PlannedTrial], rows: Any) -> dict[int, HostIdentity]:
        asked_for.append(len(trials))
        return hosts_of_blocks(plan, trials, rows)

    monkeypatch.setattr(distributed_campaign, "hosts_of_blocks", counted)
    monkeypatch.setattr(Capacity, "one_per_kernel", None)
    campaign._run_blocks()
    assert len(workers.orders) == 30
    assert asked_for == [60] + [2] * 30
    assert Counted.looks < 10


def test_nothing_is_given_to_a_scheduler_that_is_gone() -> None:
    workers = Workers("tcp://a")
    workers.is_connected = False
    campaign = campaign_on(workers)
    waiting = deque([OpenOrder([campaign.plan.trials[0]])])
    campaign._submit(waiting, {})
    assert len(waiting) == 1 and not workers.orders


def test_a_trial_larger_than_every_worker_stops_no_other() -> None:
    notes: list[str] = []
    workers = Workers("tcp://a", ram_bytes=200 * 2**20)
    campaign = campaign_on(workers, notes, repeats=1, matrix={"ram_mb": [128, 256], "file_size": ["1M"]})
    by_ram = sorted(campaign.plan.trials, key=lambda trial: -trial.parameters.ram_mb)
    campaign._submit(deque(OpenOrder([trial]) for trial in by_ram), {})
    assert [one.trials[0].parameters.ram_mb for one in campaign._open] == [128]
    assert len(notes) == 1 and "a machine of 256 MiB is larger than the RAM that any worker offers" in notes[0]


def test_a_parcel_that_takes_long_is_waited_for() -> None:
    workers = Workers("tcp://a")
    campaign = campaign_on(workers)
    campaign._submit(deque([OpenOrder([campaign.plan.trials[0]])]), {})

    def late(timeout: float) -> None:
        raise TimeoutError

    campaign._open[0].future.status, campaign._open[0].future.result = "finished", late
    campaign._take_ended(deque(), {})
    assert len(campaign._open) == 1


def test_others_are_filed_while_a_parcel_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_order, "_PROMPT_S", 0.0)
    workers = Workers("tcp://a", "tcp://b")
    campaign = campaign_on(workers)
    campaign._submit(deque(OpenOrder([trial]) for trial in campaign.plan.trials), {})
    slow, prompt = campaign._open
    arrives = threading.Event()
    parcel = {"ending": "ran", "worker": "tcp://a"}

    def late(timeout: float) -> dict[str, str]:
        assert arrives.wait(timeout)
        return parcel

    for one, result in ((slow, late), (prompt, lambda timeout: parcel)):
        one.future.status, one.future.result = "finished", result
    campaign._take_ended(deque(), {})
    assert prompt.coming is None or prompt.coming.has_ended(60)
    campaign._take_ended(deque(), {})
    assert campaign._open == [slow] and workers.forgotten == ["tcp://a"]

    arrives.set()
    assert slow.coming is not None and slow.coming.has_ended(60)
    campaign._take_ended(deque(), {})
    assert campaign._open == []


def test_a_worker_that_does_not_answer_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("_ANSWER_S", "_PART_S", "_HEAR_S"):
        monkeypatch.setattr(clusters, name, 0.001)
    never = threading.Event()
    ended: list[bool] = []

    def run(*_: object, **__: object) -> None:
        ended.append(never.wait(60))

    client = SimpleNamespace(run=run, close=lambda timeout: None, status="running")
    client.processing = client.scheduler_info = client.run
    client.subscribe_topic = lambda *_: None
    monkeypatch.setattr("distributed.Client", lambda *_, **__: client)
    (tmp_path / "build").write_bytes(b"code")
    with Cluster("tcp://127.0.0.1:1") as cluster:
        cluster.stop("s")
        cluster.forget_everywhere(["key"])
        assert cluster.running() == set() and cluster.capacity().hosts == ()
        with pytest.raises(TimeoutError, match="no answer came"):
            cluster.send_build("tcp://a", tmp_path / "build", "b" * 64, 4, lambda: False)
        monkeypatch.setattr(clusters, "_PART_S", 60)
        cluster.send_build("tcp://a", tmp_path / "build", "b" * 64, 4, lambda: True)
        assert ended == []
    never.set()


def test_other_bytes_of_a_build_are_another_order() -> None:
    def key(sha256: str) -> str:
        builds = {"mine": SentBuild(sha256=sha256 * 64, size_bytes=1)}
        return Order(session="s", software="0", plan=plan, attempts={}, builds=builds).key

    plan = plan_of()
    assert key("a") == key("a") != key("b")


def test_what_is_left_is_resumed_on_the_same_scheduler() -> None:
    campaign = campaign_on(Workers())
    there = _ending(campaign, ExitCode.INTERRUPTED, "tcp://scheduler")
    assert there.endswith(
        "picolab resume far --scheduler tcp://scheduler; or pl.resume('far', scheduler='tcp://scheduler')"
    )
    assert _ending(campaign, ExitCode.INTERRUPTED, "").endswith("or pl.resume('far')")
