"""Campaigns on a real scheduler with real workers: blocks stay on a host, workers die, the scheduler starts again."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import eventually
from distributed_cluster import TestCluster, cluster_in

from picolab.campaign.progress import Progress, Watcher
from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.plan import Plan, make_plan
from picolab.distributed.campaign import DistributedCampaign, begin, with_cluster
from picolab.distributed.cluster import Cluster
from picolab.exit_codes import ExitCode
from picolab.results.ledger import LedgerEntry
from picolab.results.load import read_campaign

SLOW = {"transfer_mib_s": 0.2}


@pytest.fixture
def cluster(scratch: Path) -> Iterator[TestCluster]:
    with cluster_in(scratch / "cluster", 2) as made:
        yield made


def plan_of(matrix: dict[str, object], name: str = "far", repeats: int = 1, **rest: object) -> Plan:
    wanted = {
        "matrix": {"ram_mb": [128], "file_size": ["1M"]} | matrix,
        "repeats": repeats,
        "idle_limit_s": 0,
        "fault_retries": 0,
    }
    return make_plan(CampaignParameters.model_validate(wanted | rest), name, "test.yaml")


def test_single_trials(cluster: TestCluster) -> None:
    plan = plan_of({"calibration": [{}, {"status": 500}]})
    notes: list[str] = []
    with Cluster(cluster.address) as workers:
        campaign = begin(plan, Watcher(note=notes.append), workers)
        code = campaign.run()
    print(notes)
    data = read_campaign(campaign.folder)
    print(data.trials.T.to_string()[:1500], data.problems.to_string(), data.faults.to_string())
    assert code is ExitCode.TRIALS_FAILED
    assert len(data.trials) == 2 and data.problems.empty
