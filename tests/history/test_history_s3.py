"""A history in an object store: a real S3-compatible server (`rclone serve s3`), reached through s3fs."""

import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import picolab_here
from conftest import eventually
from history_campaigns import night

from picolab.history.add import add_campaign
from picolab.history.compact import Compacted, compact
from picolab.history.database import Database
from picolab.history.store import CAMPAIGNS, TRIALS, S3Store

KEY, SECRET = "picolab-test", "correct-horse-battery"


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Serve the folders in a folder as buckets; return it."""
    buckets, log = tmp_path / "buckets", tmp_path / "rclone.log"
    (buckets / "bench").mkdir(parents=True)
    rclone = Path(sysconfig.get_path("scripts")) / "rclone"
    words = [rclone, "serve", "s3", "--config", "/dev/null", "--addr", "127.0.0.1:0", "--auth-key", f"{KEY},{SECRET}"]
    with log.open("wb") as output:
        server = subprocess.Popen([*words, str(buckets)], stdout=output, stderr=output, cwd=tmp_path)
    try:
        address = re.compile(r"http://127\.0\.0\.1:\d+")
        found = eventually(lambda: address.search(log.read_text()) or server.poll(), "the S3 server listens")
        assert isinstance(found, re.Match), log.read_text()
        monkeypatch.setenv("AWS_ENDPOINT_URL", found[0])
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield buckets
    finally:
        server.kill()
        server.wait()


def test_a_history_in_a_bucket(served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = S3Store("s3://bench/site/history")
    assert add_campaign(store, night(0, {"build-a": 1.0})).new == 3
    again = add_campaign(store, night(1, {"build-a": 1.0}))
    added = picolab_here("history", "add", "--history", store.place)

    assert (again.new, again.known) == (3, 0)
    assert "bench-00: 0 trials added, 3 were there already\n" in added.stdout
    (served / "bench" / "site" / "history" / "trials" / "notes.txt").touch()
    assert len(list(served.glob("bench/site/history/trials/*.v1.parquet"))) == 2
    assert Database(store).rows("SELECT count(*) AS n FROM trials") == [{"n": 6}]
    assert "build-a" in picolab_here("history", "show", "--history", store.place).stdout

    assert compact(store) == dict.fromkeys((TRIALS, CAMPAIGNS), Compacted(2, 1, written=1))
    assert Database(store).rows("SELECT count(*) AS n FROM trials") == [{"n": 6}]
    assert len(Database(store).rows("SELECT files FROM campaigns")) == 2
    assert "2 files are as they were written" in picolab_here("history", "check", "--history", store.place).stdout

    (path,) = served.glob("bench/site/history/trials/*.parquet")
    content = path.read_bytes()
    path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    damaged = picolab_here("history", "check", "--history", store.place)
    assert damaged.returncode == 1
    assert f"{store.place}/trials/{path.name}: is not as it was written" in damaged.stderr
    path.write_bytes(content)

    missing = picolab_here("history", "add", "--history", "s3://no-such-bucket/history")
    assert missing.returncode == 5 and "there is no such bucket" in missing.stderr
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    refused = picolab_here("history", "show", "--history", store.place)
    assert refused.returncode == 5 and "check AWS_ENDPOINT_URL" in refused.stderr


def test_without_the_extra_a_sentence_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    done = picolab_here("history", "show", "--history", "s3://bench/history")
    assert done.returncode == 5
    assert "s3fs is not installed; install it with: pip install 'picolab[s3]'" in done.stderr
