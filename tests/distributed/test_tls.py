"""A scheduler with TLS and certificates of its own, and workers that offer RAM: real processes on loopback."""

import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import dask
import pytest
from distributed_cluster import TestCluster, cluster_in

import picolab as pl
from picolab.config.project import outputs_dir
from picolab.distributed import cluster as clusters
from picolab.distributed.cluster import Cluster
from picolab.errors import HostUnfit, ParameterError
from picolab.results.ledger import Ledger

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
    clusters.load_distributed()  # before its configuration is changed for a while
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
    small = cluster.start_worker("machine=1 RAM=64e6")
    cluster.start_worker("machine=1 RAM=200e6")
    wanted = {"matrix": {"ram_mb": [128], "file_size": ["1M"]}, "repeats": 2, "idle_limit_s": 0}

    with dask.config.set(settings(keys)):
        results = pl.run(wanted, campaign="far", scheduler=cluster.address)
        assert "far" in repr(pl.resume("far", scheduler=cluster.address)), "nothing is left to do"

    assert cluster.address.startswith("tls://")
    assert results.trials["outcome"].tolist() == ["ok", "ok"]
    assert not (cluster.state_of(small) / "orders").exists()
    first, second = Ledger(outputs_dir() / "far").entries()
    assert first.started_at is not None and first.duration_s is not None and second.started_at is not None
    begun = datetime.fromisoformat(first.started_at), datetime.fromisoformat(second.started_at)
    assert (begun[1] - begun[0]).total_seconds() >= first.duration_s, "one by one: together they need more RAM"

    monkeypatch.setattr(clusters, "_CONNECT_S", 0.5)
    with pytest.raises(ParameterError, match="Dask has no certificates"):
        Cluster(cluster.address)
    with dask.config.set(settings(tmp_path)), pytest.raises(ParameterError, match=r"the certificates .+ca\.pem"):
        Cluster(cluster.address)
    with dask.config.set(settings(certificates(tmp_path / "theirs"))), pytest.raises(HostUnfit, match="certificate"):
        Cluster(cluster.address)
    with pytest.raises(HostUnfit, match="tls://"):
        Cluster(cluster.address.replace("tls://", "tcp://"))
