"""Which workers get which trials: blocks stay on their host, one worker of a host at a time, versions, RAM."""

import contextlib
import dataclasses
import math
import os
import socket
import threading
import time
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from picolab.campaign import changes
from picolab.campaign.progress import Watcher
from picolab.campaign.runner import Campaign
from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.plan import Plan, PlannedTrial, make_plan
from picolab.distributed import campaign as distributed_campaign
from picolab.distributed import cluster as cluster_module
from picolab.distributed import host_lock, worker
from picolab.distributed import leftovers as of_workers
from picolab.distributed.call import Call
from picolab.distributed.campaign import DistributedCampaign, with_cluster
from picolab.distributed.capacity import Capacity, Host
from picolab.distributed.cluster import Cluster
from picolab.distributed.host_lock import HostLock
from picolab.distributed.open_order import OpenOrder
from picolab.distributed.order import Order, Parcel, SentBuild
from picolab.doctor import leftovers
from picolab.errors import CampaignChanged, HostUnfit
from picolab.host.locks import try_lock
from picolab.record.hosts import HostIdentity

MIB = 1 << 20


class NoCluster:
    """The client's side of workers that only stand in a list; it keeps what was submitted."""

    address, session, is_connected = "tcp://s:1", "s" * 32, True
    worker_command = "dask worker tcp://s:1"

    def __init__(self, *hosts: Host) -> None:
        self.hosts = hosts
        self.submitted: list[tuple[dict[str, float], list[str] | None]] = []

    def capacity(self) -> Capacity:
        return Capacity(self.hosts)

    def submit(self, _order: str, _key: str, resources: dict[str, float], workers: list[str] | None, _done: Any) -> Any:
        self.submitted.append((resources, workers))
        return SimpleNamespace(status="pending")


def host(name: str, ram_bytes: float | None = None, boot_id: str = "") -> Host:
    return Host(f"tcp://{name}:1", 1, ram_bytes, name, boot_id or name)


def comparison() -> Plan:
    wanted = {
        "matrix": {"ram_mb": [128], "file_size": ["1M"], "build": ["old", "new"]},
        "builds": {"old": {"build": "calibration"}, "new": {"build": "calibration"}},
        "baseline": "old",
        "repeats": 2,
        "idle_limit_s": 0,
    }
    return make_plan(CampaignParameters.model_validate(wanted), "far", "test.yaml")


def begun(cluster: NoCluster) -> tuple[DistributedCampaign, deque[OpenOrder], list[str]]:
    """Return a comparison whose first block has one of its results, measured on the host `a`."""
    notes: list[str] = []
    plan = comparison()
    campaign = with_cluster(Campaign.create(plan, Watcher(note=notes.append)), cluster)  # type: ignore[arg-type]
    first, second = plan.trials[:2]
    campaign.tally.rows[first.trial_id] = {"hostname": "a", "outcome": "ok"}
    return campaign, deque([OpenOrder([second], host=campaign._hosts_of(plan.trials).get(second.block))]), notes


def test_the_rest_of_a_block_runs_on_the_host_of_its_begin() -> None:
    cluster = NoCluster(host("b"), host("a"))
    campaign, waiting, notes = begun(cluster)
    campaign._submit(waiting, {})
    assert cluster.submitted == [({"machine": 1.0}, ["tcp://a:1"])] and notes == []
    assert campaign._hosts_of(campaign.plan.trials) == {1: HostIdentity("a")}, "the next block has not begun"


@pytest.mark.parametrize("accepts", [False, True])
def test_a_block_continues_with_the_files_of_a_process_that_died(
    accepts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = comparison()
    campaign = with_cluster(Campaign.create(plan, Watcher()), NoCluster(host("a")))  # type: ignore[arg-type]
    campaign._accepts_changes = accepts
    block = plan.trials[:2]
    waiting = deque([OpenOrder(block)])
    campaign._submit(waiting, {})
    (one,) = campaign._open
    assert one.order is not None
    key = one.order.key

    def accept(trials: list[PlannedTrial], _parcel: Parcel) -> bool:
        campaign.tally.rows[trials[0].trial_id] = {"hostname": "a", "outcome": "ok"}
        return True

    monkeypatch.setattr(campaign, "_accept", accept)
    campaign._receive(campaign._open.pop(), {"ending": "died", "worker": "tcp://a:1"}, waiting, {})
    assert one.trials == block[1:] and key not in campaign._ordered, "the second may have an unfiled record"
    campaign._submit(waiting, {})
    assert campaign._open == [one]
    assert (one.order.key == key) is not accepts, "elsewhere all of the block would be measured again"
    assert (key in campaign._ordered) is not accepts


def test_the_rest_of_a_block_is_refused_without_a_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    far, _, _ = begun(NoCluster())
    here = Campaign.load(far.folder)
    here.tally.rows.update(far.tally.rows)
    begins = r"block 1 has begun on the host a, .+ resume far --scheduler tcp://.+ resume far --accept-changes"
    with pytest.raises(CampaignChanged, match=begins):
        here._check_plan(accept_changes=False)
    here._check_plan(accept_changes=True)
    monkeypatch.setattr(changes, "host_identity", lambda: {"hostname": "a"})
    here._check_plan(accept_changes=False)


def test_a_block_is_not_refused_on_a_host_with_a_new_name(monkeypatch: pytest.MonkeyPatch, scratch: Path) -> None:
    plan = comparison()
    first, second = (trial.trial_id for trial in plan.trials[:2])
    here = {"hostname": "new", "host_id": "this", "boot_id": "boot"}
    monkeypatch.setattr(changes, "host_identity", lambda: here)

    def check(**there: str) -> None:
        changes.check_blocks(scratch, plan, {first: here | there}, {second})

    check(hostname="a")
    check(boot_id="another")
    for changed in ({"hostname": "a", "boot_id": "another"}, {"host_id": "another"}):
        with pytest.raises(CampaignChanged, match="block 1 has begun on the host"):
            check(**changed)


def test_the_rest_of_a_block_follows_a_host_that_was_renamed() -> None:
    there, clone = host("renamed", boot_id="k"), host("clone", boot_id="l")
    cluster = NoCluster(dataclasses.replace(clone, host_id="this"), dataclasses.replace(there, host_id="this"))
    campaign, waiting, notes = begun(cluster)
    first, second = campaign.plan.trials[:2]
    campaign.tally.rows[first.trial_id] |= {"host_id": "this", "boot_id": "k"}
    waiting[0].host = campaign._hosts_of([first, second])[1]
    campaign._submit(waiting, {})
    assert cluster.submitted == [({"machine": 1.0}, ["tcp://renamed:1"])] and notes == []


def test_a_block_that_continued_here_is_not_refused_again(scratch: Path) -> None:
    plan = comparison()
    plan.trials = [trial.model_copy(update={"block": 1}) for trial in plan.trials]
    first, second, *rest = (trial.trial_id for trial in plan.trials)
    rows = {first: {"hostname": "a"}}
    with pytest.raises(CampaignChanged, match="block 1 has begun on the host a"):
        changes.check_blocks(scratch, plan, rows, rest)
    changes.check_blocks(scratch, plan, rows | {second: {"hostname": socket.gethostname()}}, rest)


def test_the_rest_of_a_block_waits_for_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = NoCluster(host("b"))
    campaign, waiting, notes = begun(cluster)
    campaign._submit(waiting, {})
    assert not cluster.submitted and len(waiting) == 1
    assert "the block has begun on a, and no worker runs there" in notes[0]

    monkeypatch.setattr(distributed_campaign, "HOST_PATIENCE_S", 0.0)
    campaign._submit(waiting, {})
    assert not cluster.submitted and not waiting
    assert "picolab resume far --scheduler tcp://s:1 --accept-changes" in notes[1]

    campaign._accepts_changes = True
    assert campaign._hosts_of(campaign.plan.trials) == {}, "with --accept-changes it runs anywhere"


def test_the_rest_of_a_block_waits_a_minute_when_all_workers_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = NoCluster(host("a"))
    campaign, waiting, notes = begun(cluster)
    campaign._submit(waiting, {})
    one = campaign._open[0]
    one.future.cancel = lambda: None

    cluster.hosts, campaign._known_at_s = (), -math.inf
    campaign._submit(waiting, {})
    assert list(waiting) == [one] and campaign._open == []
    assert [note.split(" ")[0] for note in notes] == ["No", one.trials[0].trial_id + ":"]
    assert "No worker offers a machine now" in notes[0] and notes[0].endswith("dask worker tcp://s:1")
    assert "the block has begun on a, and no worker runs there" in notes[1]

    monkeypatch.setattr(distributed_campaign, "HOST_PATIENCE_S", 0.0)
    campaign._submit(waiting, {})
    assert not waiting and len(notes) == 3 and "Start one there, and continue with" in notes[2]


def test_one_worker_of_a_kernel_gets_orders() -> None:
    first, second, third = host("a", boot_id="k"), host("b", boot_id="k"), host("c")
    cluster = NoCluster(second)
    campaign = with_cluster(Campaign.create(comparison(), Watcher()), cluster)  # type: ignore[arg-type]
    orders = deque(OpenOrder([trial]) for trial in campaign.plan.trials)
    campaign._submit(orders, {})
    assert cluster.submitted == [({"machine": 1.0}, None)], "alone it may be any"

    cluster.hosts, campaign._known = (first, second, third), Capacity(())
    campaign._submit(orders, {})
    assert [workers for _, workers in cluster.submitted[1:]] == [["tcp://b:1", "tcp://c:1"]], "b may run the first"

    campaign._open.clear()
    campaign._submit(orders, {})
    assert [workers for _, workers in cluster.submitted[2:]] == [["tcp://a:1", "tcp://c:1"]] * 2


def test_the_rest_of_a_block_chooses_the_worker_of_a_kernel() -> None:
    cluster = NoCluster(host("b", boot_id="k"), host("a", boot_id="k"), host("A", boot_id="k"))
    campaign, waiting, _ = begun(cluster)
    campaign._submit(waiting, {})
    assert cluster.submitted == [({"machine": 1.0}, ["tcp://a:1"])]


def test_another_worker_of_a_kernel_gets_what_one_refused() -> None:
    cluster = NoCluster(host("a", boot_id="k"), host("b", boot_id="k"), host("c"))
    plan, notes = comparison(), []  # type: ignore[var-annotated]
    campaign = with_cluster(Campaign.create(plan, Watcher(note=notes.append)), cluster)  # type: ignore[arg-type]
    orders = deque([OpenOrder([plan.trials[0]]), OpenOrder([plan.trials[1]], refused_by={"tcp://a:1", "tcp://c:1"})])
    campaign._submit(orders, {})
    assert [workers for _, workers in cluster.submitted] == [["tcp://a:1", "tcp://c:1"]]
    assert len(orders) == 1, "a may be running the first"

    campaign._open[0].only = {"tcp://c:1"}
    campaign._submit(orders, {})
    assert cluster.submitted[1:] == [({"machine": 1.0}, ["tcp://b:1"])] and notes == []

    campaign._open.clear()
    everybody = {"tcp://a:1", "tcp://b:1", "tcp://c:1"}
    campaign._submit(deque([OpenOrder([plan.trials[1]], refused_by=everybody)]), {})
    assert len(cluster.submitted) == 2 and ": each has refused; " in notes[0]


def test_a_trial_waits_for_a_larger_worker_of_a_kernel() -> None:
    cluster, notes = NoCluster(host("a", 128 * MIB, "k"), host("c", 64 * MIB)), []  # type: ignore[var-annotated]
    plan = comparison()
    campaign = with_cluster(Campaign.create(plan, Watcher(note=notes.append)), cluster)  # type: ignore[arg-type]
    campaign._submit(deque([OpenOrder([plan.trials[0]])]), {})

    cluster.hosts, campaign._known = (*cluster.hosts, host("b", 256 * MIB, "k")), Capacity(())
    larger = plan.trials[1].parameters.model_copy(update={"ram_mb": 256})
    orders = deque([OpenOrder([plan.trials[1].model_copy(update={"parameters": larger})])])
    campaign._submit(orders, {})
    assert len(cluster.submitted) == 1 and len(orders) == 1 and notes == []

    campaign._open.clear()
    campaign._submit(orders, {})
    assert cluster.submitted[1:] == [({"machine": 1.0, "RAM": 256.0 * MIB}, ["tcp://b:1"])] and notes == []


def test_a_trial_asks_for_the_ram_of_its_machine() -> None:
    plan, notes = comparison(), []  # type: ignore[var-annotated]
    cluster = NoCluster(host("a", 64 * MIB), host("b", 256 * MIB))
    campaign = with_cluster(Campaign.create(plan, Watcher(note=notes.append)), cluster)  # type: ignore[arg-type]
    campaign._submit(deque([OpenOrder(plan.trials[:2])]), {})
    assert cluster.submitted == [({"machine": 1.0, "RAM": 128.0 * MIB}, None)], "of one trial: they run one by one"

    cluster.hosts = (host("a", 64 * MIB),)
    campaign._known = Capacity(())
    campaign._open.clear()
    campaign._submit(deque([OpenOrder(plan.trials[2:])]), {})
    assert len(cluster.submitted) == 1
    assert "a machine of 128 MiB is larger than the RAM that any worker offers" in notes[0]

    cluster.hosts = (host("a", 64 * MIB), host("b", 256 * MIB))
    campaign._known = Capacity(())
    campaign._submit(deque([OpenOrder(plan.trials[2:], refused_by={"tcp://b:1"})]), {})
    assert len(cluster.submitted) == 1 and "larger than the RAM that any of tcp://a:1 offers" in notes[1]


def checked(
    monkeypatch: pytest.MonkeyPatch, answers: dict[str, Any], resources: dict[str, dict[str, float]]
) -> Cluster:
    """Return the client's side of workers that answer so."""
    workers = {address: {"resources": offer} for address, offer in resources.items()}
    client = SimpleNamespace(
        status="running",
        scheduler_info=lambda **_: {"workers": workers},
        run=lambda _function, workers, **_: {address: answers[address] for address in workers},
        close=lambda **_: None,
    )
    monkeypatch.setattr(Cluster, "connect", lambda self: bool(setattr(self, "_client", client)) or True)
    return Cluster("tcp://s:1")


OURS = {"software": worker.software(), "hostname": "h", "host_id": None, "boot_id": "k", "waits_for": ""}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (OURS | {"software": "0.0.1"}, r"tcp://a:1 has picolab 0\.0\.1 and this host has picolab .+ on both"),
        (ModuleNotFoundError("No module named 'picolab'"), r"has no picolab that answers \(No module .+ on both"),
    ],
    ids=["another version", "none"],
)
def test_a_worker_with_another_picolab_is_refused(monkeypatch: pytest.MonkeyPatch, answer: Any, words: str) -> None:
    with pytest.raises(HostUnfit, match=words):
        checked(monkeypatch, {"tcp://a:1": answer}, {"tcp://a:1": {"machine": 1}}).check_workers()


def test_a_silent_worker_is_named_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    offers = {f"tcp://{name}:1": {"machine": 1} for name in "abc"}
    cluster = checked(monkeypatch, dict.fromkeys(offers, OURS), offers)
    answer, asked = cluster._client.run, []

    def run(function: Any, workers: list[str], **how: Any) -> Any:
        asked.extend(workers)
        if "tcp://b:1" in workers:
            raise TimeoutError("no answer came")
        return answer(function, workers, **how)

    cluster._client.run = run
    for _ in range(2):
        assert [host.hostname for host in cluster.capacity().hosts] == ["h", "", "h"]
    assert sorted(asked) == ["tcp://a:1", "tcp://b:1", "tcp://c:1"], "the silent one is asked later"
    with pytest.raises(HostUnfit, match=r"the worker tcp://b:1 has no picolab that answers \(no answer came\)"):
        cluster.check_workers()


def test_a_thousand_workers_are_asked_by_few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    offers = {f"tcp://{number}:1": {"machine": 1.0} for number in range(1000)}
    cluster, threads = checked(monkeypatch, dict.fromkeys(offers, OURS), offers), []

    def call(function: Any) -> Call[Any]:
        threads.append(function)
        return Call(function)

    monkeypatch.setattr(cluster_module, "Call", call)
    assert {host.hostname for host in cluster.capacity().hosts} == {"h"}
    assert len(threads) == 1 + 50, "one for the scheduler"


def test_a_worker_that_was_not_asked_in_time_is_asked_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "_MOST_ASKED", 1)
    monkeypatch.setattr(cluster_module, "_ANSWER_S", 0.0)
    offers = {f"tcp://{name}:1": {"machine": 1.0} for name in "ab"}
    cluster = checked(monkeypatch, dict.fromkeys(offers, OURS), offers)
    answer, silent, ends = cluster._client.run, threading.Event(), threading.Event()

    def run(function: Any, workers: list[str], **how: Any) -> Any:
        silent.set()
        ends.wait(60)
        return answer(function, workers, **how)

    cluster._client.run = run
    monkeypatch.setattr(cluster_module.Call, "has_ended", lambda _self, _within_s: silent.wait(60))
    asked = cluster._ask(list(offers))
    assert {type(answer) for answer in asked.values()} == {TimeoutError}
    assert list(cluster._silent_at_s) == ["tcp://a:1"]
    ends.set()


def test_workers_of_another_scheduler_are_not_those_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    offers = {"tcp://a:1": {"machine": 1.0}}
    cluster = checked(monkeypatch, {"tcp://a:1": OURS}, offers)
    known = cluster._client.scheduler_info()
    cluster._client.scheduler_info = lambda **_: known
    known["id"] = "one"
    cluster.capacity()
    assert cluster.still_there() == {"tcp://a:1"}
    known["id"] = "another"
    assert cluster.still_there() == frozenset()


def test_workers_with_and_without_ram_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    offers = {"tcp://a:1": {"machine": 1, "RAM": 8e9}, "tcp://b:1": {"machine": 1}}
    with pytest.raises(HostUnfit, match="tcp://b:1 offers no RAM and others do"):
        checked(monkeypatch, dict.fromkeys(offers, OURS), offers).check_workers()


def test_a_worker_that_runs_several_trials_at_once_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    offers = {"tcp://a:1": {"machine": 1}, "tcp://b:1": {"machine": 2}}
    with pytest.raises(HostUnfit, match=r'tcp://b:1 offers machine=2, .+ --nthreads 1 .+ --resources "machine=1"'):
        checked(monkeypatch, dict.fromkeys(offers, OURS), offers).check_workers()


def test_workers_that_share_a_host_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    offers = {f"tcp://{name}:1": {"machine": 1} for name in "abc"}
    answers = {"tcp://a:1": OURS, "tcp://b:1": OURS, "tcp://c:1": OURS | {"boot_id": "l", "waits_for": "process 4"}}
    cluster = checked(monkeypatch, answers, offers)
    found = cluster.check_workers()
    assert found.machines == 2
    shared, busy = cluster.notes(found)
    assert "tcp://a:1 and tcp://b:1 run on one host (h)" in shared and "stop all of these workers but one" in shared
    assert "tcp://c:1 waits for process 4: a worker of somebody else" in busy


def test_one_process_of_a_host_runs_trials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host_lock, "NAME", f"\0{tmp_path}")
    monkeypatch.setattr(host_lock, "_LOOK_S", 0.001)
    one, other = HostLock(), HostLock()
    with one.held(lambda: True) as first, one.held(lambda: True) as again:
        assert first is not None and again is None, "another order of that worker waits too"
        assert other.other_holder().startswith("process ") and one.other_holder() == ""
        with other.held(lambda: True) as stopped:
            assert stopped is None
        inherited = socket.fromfd(first, socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.closing(inherited), other.held(lambda: True) as stopped:
        assert stopped is None, "the clean-up of a worker that was killed still has it"
    with other.held(lambda: True) as free:
        assert free is not None


def an_order(state: Path, name: str, build: str, *, age_s: float) -> Path:
    """Write what a worker has of an order with one build, whose process ended some time ago."""
    folder = state / "orders" / name
    (folder / "campaign" / "trials").mkdir(parents=True)
    builds = {"./new": SentBuild(sha256=build, size_bytes=1)}
    order = Order(session="s", software="1", plan=comparison(), attempts={}, builds=builds)
    (folder / "order.json").write_text(order.model_dump_json())
    (folder / "lock").touch()
    os.utime(folder / "order.json", (time.time() - age_s,) * 2)
    return folder


def test_clean_removes_what_no_order_needs(scratch: Path) -> None:
    state = scratch / "state"
    with_result = an_order(state, "with-result", "a" * 64, age_s=1e4)
    (with_result / "campaign" / "trials" / "one.record.json").touch()
    empty, running, young = (
        an_order(state, name, "b" * 64, age_s=age) for name, age in (("empty", 1e4), ("running", 1e4), ("young", 0))
    )
    (state / "received-builds").mkdir()
    builds = [state / "received-builds" / (letter * 64) for letter in "abc"]
    for build in builds:
        build.touch()
        os.utime(build, (0, 0))

    with (running / "lock").open() as lock:
        assert try_lock(lock)
        found, troubles = leftovers.find(besides=of_workers.kinds())
        assert [leftover.what for leftover in found] == [str(empty), str(builds[2])]
        assert not [trouble for trouble in troubles if "worker" in trouble], "libvirt may be off"
        assert leftovers.remove(found) == []
    assert [path.is_dir() for path in (with_result, empty, running, young)] == [True, False, True, True]
    assert [path.exists() for path in builds] == [True, True, False]
    (sentence,) = of_workers.left_alone()
    assert "1 result of the campaign far may not have come home" in sentence and f"rm -r {with_result}" in sentence


def test_orders_at_home_are_removed_unless_they_run(scratch: Path) -> None:
    done, running = (an_order(scratch / "state", name, "a" * 64, age_s=0) for name in ("done", "running"))
    with (running / "lock").open() as lock:
        assert try_lock(lock)
        worker.forget_orders(["done", "running", "..", "never"])
    assert not done.exists() and running.is_dir()
