"""Campaigns on a real scheduler with real workers: blocks stay on a host, workers die, the scheduler starts again."""

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import eventually
from distributed_cluster import TestCluster, cluster_in

from picolab.agent.procfs import descendants, stat_of
from picolab.analysis.comparison.compare import compare
from picolab.campaign.progress import Watcher
from picolab.campaign.runner import Campaign
from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.plan import Plan, make_plan
from picolab.config.project import outputs_dir
from picolab.distributed.campaign import DistributedCampaign, begin, with_cluster
from picolab.distributed.cluster import Cluster
from picolab.exit_codes import ExitCode
from picolab.record.outcomes import Outcome
from picolab.results.ledger import Ledger
from picolab.results.load import read_campaign
from picolab.servers.build import sha256_of
from picolab.servers.calibration.program import server_path

SLOW = {"transfer_mib_s": 0.2}
"""An upload of 1 MiB takes five seconds, nearly all of them asleep."""


@pytest.fixture
def cluster(scratch: Path) -> Iterator[TestCluster]:
    with cluster_in(scratch / "cluster", 2) as made:
        yield made


def plan_of(matrix: dict[str, object], repeats: int = 1, **rest: object) -> Plan:
    wanted = {
        "matrix": {"ram_mb": [128], "file_size": ["1M"]} | matrix,
        "repeats": repeats,
        "idle_limit_s": 0,
        "fault_retries": 0,
    }
    return make_plan(CampaignParameters.model_validate(wanted | rest), "far", "test.yaml")


def build(path: Path, word: str) -> Path:
    """Write an executable that says where it is and becomes the calibration server."""
    path.write_text(
        f"#!{sys.executable}\n# {word}\nimport os, sys\nprint('started as', __file__, flush=True)\n"
        f"os.execv(sys.executable, [sys.executable, '-I', '-S', {str(server_path())!r}, *sys.argv[1:]])\n"
    )
    path.chmod(0o755)
    return path


def uploading(state: Path) -> bool:
    """Return whether a worker is in the middle of an upload."""
    return any(path.stat().st_size > 200 for path in state.glob("orders/*/campaign/running/*/samples.jsonl"))


def test_blocks_of_a_comparison_with_builds_that_are_sent(scratch: Path, tmp_path: Path) -> None:
    names = [socket.gethostname(), "elsewhere" if os.geteuid() == 0 else ""]
    with cluster_in(scratch / "cluster", 0) as cluster:
        for name in names:
            cluster.start_worker(hostname=name if name != names[0] else "")
        campaign = compare_builds(cluster, tmp_path)
        if names[1]:
            tear_a_block(cluster, campaign, names)


def compare_builds(cluster: TestCluster, tmp_path: Path) -> DistributedCampaign:
    """Run two blocks on two workers."""
    builds = {name: {"build": str(build(tmp_path / name, name))} for name in ("old", "new")}
    plan = plan_of({"build": ["old", "new"]}, repeats=2, builds=builds)
    notes: list[str] = []
    with Cluster(cluster.address) as workers:
        campaign = begin(plan, Watcher(note=notes.append), workers)
        code = campaign.run()

    assert code is ExitCode.OK and notes == []
    data = read_campaign(campaign.folder)
    assert len(data.trials) == 4 and data.problems.empty and data.faults.empty
    blocks = {trial.trial_id: trial.block for trial in plan.trials}
    entries = campaign.ledger.entries()
    assert len(list(itertools.groupby(entries, key=lambda entry: blocks[entry.trial_id]))) == 2
    for trial in plan.trials:
        files = campaign.folder / "trials"
        assert (files / f"{trial.trial_id}.samples.jsonl").stat().st_size > 0
        assert "/received-builds/" in (files / f"{trial.trial_id}.server.log").read_text()
        record = data.records[trial.trial_id]
        assert record.build is not None and record.build.sha256 == sha256_of(Path(trial.parameters.build))
    for worker in cluster.workers:
        assert not list(cluster.state_of(worker).glob("orders/*")), "what came home is removed"
    return campaign


def tear_a_block(cluster: TestCluster, campaign: DistributedCampaign, names: list[str]) -> None:
    """Have the second trial of a block run on the other host: the two trials are no pair, the other block is one."""
    data = read_campaign(campaign.folder)
    ran = {
        block: {str(data.records[trial.trial_id].provenance.host["hostname"]) for trial in trials}
        for block, trials in itertools.groupby(campaign.plan.trials, key=lambda trial: trial.block)
    }
    assert sorted(ran.values(), key=sorted) == sorted(({name} for name in names), key=sorted)
    first = compare(data).metrics[0]
    assert len(first.pairs) == 2 and first.incomplete == ()

    torn = next(block for block, hosts in ran.items() if hosts == {"elsewhere"})
    lost = [trial.trial_id for trial in campaign.plan.trials if trial.block == torn][1]
    for path in (campaign.folder / "trials").glob(f"{lost}.*"):
        path.unlink()
    cluster.workers[1].kill()
    cluster.workers[1].wait()
    with Cluster(cluster.address) as workers:
        again = with_cluster(Campaign.load(campaign.folder), workers)
        assert again.run(accept_changes=True) is ExitCode.OK
    comparison = compare(read_campaign(campaign.folder))
    assert "mixed_hosts" in [caveat.code for caveat in comparison.caveats]
    for metric in comparison.metrics:
        assert [pair.block for pair in metric.pairs] == [3 - torn]
        (sentence,) = metric.incomplete
        assert sentence.startswith(f"block {torn}: ") and sentence.endswith("they are no pair")
        assert all(name in sentence for name in names) and " ran on two hosts, " in sentence


def test_a_worker_with_a_nanny_is_killed_in_mid_trial(scratch: Path) -> None:
    plan = plan_of({"calibration": [SLOW]})
    notes: list[str] = []
    with cluster_in(scratch / "cluster", 0) as cluster:
        nanny = cluster.start_worker(has_nanny=True)
        state = cluster.state_of(nanny)
        killed: list[int] = []

        def kill() -> None:
            order = eventually(lambda: uploading(state) and processes_of_orders(nanny.pid), "a trial runs")[0]
            stat = stat_of(order)
            assert stat is not None
            killed.append(stat.parent)
            os.kill(stat.parent, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        with Cluster(cluster.address) as workers:
            campaign = begin(plan, Watcher(note=notes.append), workers)
            killer.start()
            code = campaign.run()
        killer.join()
        assert killed and nanny.poll() is None and killed[0] not in descendants(nanny.pid)
        assert not processes_of_orders(nanny.pid)
        eventually(lambda: not list(state.glob("machines/*/")), "the trial of the killed worker is cleaned up")
        assert not list(state.glob("orders/*")), "what came home is removed"

    assert code is ExitCode.OK, notes
    (trial,) = plan.trials
    lost, ended = campaign.ledger.entries()
    assert (lost.attempt, lost.outcome, ended.attempt, ended.outcome) == (1, "machine_failed", 2, "ok")
    assert lost.outcome_detail.endswith("was lost while it ran this trial")
    assert all("No worker offers a machine now" in note for note in notes)
    assert list(campaign.folder.glob(f"faults/{trial.trial_id}.attempt1.*")), "what the killed worker had of it"
    data = read_campaign(campaign.folder)
    assert len(data.trials) == 1 and data.problems.empty


def processes_of_orders(pid: int) -> list[int]:
    """Return the processes that run orders of the workers that a nanny has started."""
    found = []
    for one in descendants(pid):
        with contextlib.suppress(OSError):
            if b"picolab.distributed.block_process" in Path(f"/proc/{one}/cmdline").read_bytes():
                found.append(one)
    return found


def test_a_worker_is_killed_in_mid_trial(cluster: TestCluster) -> None:
    plan = plan_of({"calibration": [SLOW]}, repeats=2)
    notes: list[str] = []

    def kill() -> None:
        victim = eventually(lambda: [w for w in cluster.workers if uploading(cluster.state_of(w))], "a trial runs")[0]
        victim.kill()

    killer = threading.Thread(target=kill)
    with Cluster(cluster.address) as workers:
        campaign = begin(plan, Watcher(note=notes.append), workers)
        killer.start()
        code = campaign.run()
    killer.join()

    assert code is ExitCode.OK and notes == []
    entries = campaign.ledger.entries()
    (lost,) = (entry for entry in entries if entry.worker is not None)
    assert (lost.attempt, lost.outcome) == (1, Outcome.MACHINE_FAILED)
    assert lost.outcome_detail == f"the worker {lost.worker} was lost while it ran this trial"
    others = sorted((entry.trial_id, entry.attempt, entry.outcome) for entry in entries if entry is not lost)
    assert others == [(trial.trial_id, 1 + (trial.trial_id == lost.trial_id), Outcome.OK) for trial in plan.trials]
    data = read_campaign(campaign.folder)
    assert len(data.trials) == 2 and data.problems.empty
    dead = next(cluster.state_of(worker) for worker in cluster.workers if worker.poll() is not None)
    eventually(lambda: not list(dead.glob("machines/*/")), "the trial of the dead worker is cleaned up")


def test_the_scheduler_restarts_and_the_user_stops_and_resumes(cluster: TestCluster, tmp_path: Path) -> None:
    file = tmp_path / "far.yaml"
    file.write_text(
        json.dumps(
            {
                "matrix": {"ram_mb": [128], "file_size": ["1M"], "calibration": [SLOW]},
                "repeats": 2,
                "idle_limit_s": 0,
                "fault_retries": 0,
            }
        )
    )
    words = [sys.executable, "-m", "picolab"]
    there = ["--scheduler", cluster.address]
    log = tmp_path / "log"
    with log.open("wb") as output:
        campaign = subprocess.Popen(
            [*words, "matrix", str(file), "--campaign", "far", *there], stdout=output, stderr=output
        )
    try:
        states = [cluster.state_of(worker) for worker in cluster.workers]
        eventually(lambda: any(map(uploading, states)), "a trial runs")
        assert cluster.scheduler is not None
        cluster.scheduler.kill()
        cluster.scheduler.wait()
        for worker in cluster.workers:
            worker.wait(timeout=60)
        cluster.start_scheduler()
        eventually(lambda: "No worker offers a machine now" in log.read_text(), "the campaign says that it waits")
        again = cluster.state_of(cluster.start_worker())
        eventually(lambda: uploading(again) or campaign.poll() is not None, "a trial runs again")
        campaign.send_signal(signal.SIGINT)
        campaign.wait(timeout=60)
    finally:
        campaign.kill()
        campaign.wait()

    said = log.read_text()
    assert campaign.returncode == ExitCode.INTERRUPTED, said
    assert "is gone; waiting" in said and "is back" in said
    assert "Workers: 2, which run 2 machines at once" in said
    ledger = Ledger(outputs_dir() / "far")
    entries = ledger.entries()
    assert [entry.outcome for entry in entries[:-1]] == [Outcome.MACHINE_FAILED] * len(entries[:-1])
    assert all("was lost with the scheduler" in entry.outcome_detail for entry in entries[:-1]) and entries[:-1]
    assert entries[-1].outcome is Outcome.INTERRUPTED
    resumed = subprocess.run(
        [*words, "resume", "far", *there], capture_output=True, text=True, timeout=120, check=False
    )
    assert resumed.returncode == ExitCode.OK, resumed.stdout + resumed.stderr
    assert len(ledger.results()) == 2
    assert read_campaign(outputs_dir() / "far").problems.empty
