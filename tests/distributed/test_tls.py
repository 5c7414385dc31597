"""A scheduler with TLS and certificates of its own, and workers that offer RAM: real processes on loopback."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest
from distributed_cluster import TestCluster, cluster_in

from picolab.campaign.progress import Watcher
from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.plan import make_plan
from picolab.distributed import cluster as clusters
from picolab.distributed.campaign import begin
from picolab.distributed.cluster import Cluster
from picolab.errors import HostUnfit, ParameterError
from picolab.exit_codes import ExitCode
from picolab.results.load import read_campaign

COMMANDS = """
openssl req -x509 -newkey rsa:2048 -nodes -days 365 -subj "/CN=picolab CA" -keyout ca-key.pem -out ca.pem
openssl req -newkey rsa:2048 -nodes -subj "/CN=picolab" -keyout key.pem -out request.pem
openssl x509 -req -in request.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 365 -out cert.pem
"""


def settings(folder: Path) -> dict[str, str]:
    """Return Dask's settings for the certificates in a folder, by their names in its configuration."""
    tls = {"ca-file": "ca.pem"}
    for role in ("scheduler", "worker", "client"):
        tls |= {f"{role}.cert": "cert.pem", f"{role}.key": "key.pem"}
    return {f"distributed.comm.tls.{name}": str(folder / file) for name, file in tls.items()}


def certificates(folder: Path) -> Path:
    folder.mkdir()
    for line in COMMANDS.strip().splitlines():
        subprocess.run(line, shell=True, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture
def cluster(scratch: Path, keys: Path) -> Iterator[TestCluster]:
    environment = {
        f"DASK_{name.upper().replace('.', '__').replace('-', '_')}": path for name, path in settings(keys).items()
    }
    with cluster_in(scratch / "cluster", 0, environment) as made:
        yield made


def test_trials_run_with_tls_where_there_is_ram(
    cluster: TestCluster, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = cluster.start_worker("machine=1 RAM=64e6", boot_id="another kernel")
    cluster.start_worker("machine=2 RAM=200e6")
    wanted = {"matrix": {"ram_mb": [128], "file_size": ["1M"]}, "repeats": 2, "idle_limit_s": 0}
    plan = make_plan(CampaignParameters.model_validate(wanted), "far", "test.yaml")
    notes: list[str] = []

    with dask.config.set(settings(keys)), Cluster(cluster.address) as workers:
        campaign = begin(plan, Watcher(note=notes.append), workers)
        code = campaign.run()

    assert cluster.address.startswith("tls://")
    assert code is ExitCode.OK and notes == []
    assert len(read_campaign(campaign.folder).trials) == 2
    assert not (cluster.state_of(small) / "orders").exists()
    first, second = campaign.ledger.entries()
    assert str(first.ended_at) and first.started_at is not None and second.started_at is not None
    assert first.duration_s is not None and second.started_at >= first.started_at

    monkeypatch.setattr(clusters, "_CONNECT_S", 0.5)
    with pytest.raises(ParameterError, match="Dask has no certificates"):
        Cluster(cluster.address)
    with dask.config.set(settings(tmp_path)), pytest.raises(ParameterError, match="the certificates .*ca.pem"):
        Cluster(cluster.address)
    with dask.config.set(settings(certificates(tmp_path / "theirs"))), pytest.raises(HostUnfit, match="certificate"):
        Cluster(cluster.address)
    with pytest.raises(HostUnfit, match="tls://"):
        Cluster(cluster.address.replace("tls://", "tcp://"))
