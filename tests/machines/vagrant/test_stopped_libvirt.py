"""libvirt whose daemon, network or pool somebody has stopped: refused before anything starts, with the command to run.

The libvirtd here is a real one that the test starts and stops: an ordinary user's, with folders and a socket of its
own, so that no other machine of this host is disturbed.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from command_line import picolab_here
from conftest import eventually, folder_on_disk
from virtual_machines import wish

from picolab.config.project import outputs_dir
from picolab.errors import HostUnfit
from picolab.exit_codes import ExitCode
from picolab.host.finding import as_root
from picolab.host.processes import this_process
from picolab.machines import registry
from picolab.machines.base import Holder
from picolab.machines.folders import folder_of
from picolab.machines.vagrant import libvirt

pytestmark = pytest.mark.vm

_NOBODY = 65534
_NETWORK = """
<network>
  <name>{name}</name>
  <bridge name='picolab-test'/>
  <ip address='192.168.250.1' netmask='255.255.255.0'/>
</network>
"""


@dataclass
class OwnLibvirt:
    """A libvirtd of this test alone. Its network cannot be started: that takes root, which its user is not."""

    folder: Path
    uri: str
    process: subprocess.Popen[bytes]

    def virsh(self, *words: str) -> None:
        subprocess.run(["virsh", "--connect", self.uri, *words], check=True, capture_output=True, timeout=60)

    def define_network(self) -> None:
        file = self.folder / "network.xml"
        file.write_text(_NETWORK.format(name=libvirt.NETWORK))
        self.virsh("net-define", str(file))

    def define_pool(self) -> None:
        self.virsh("pool-define-as", libvirt.POOL, "dir", "--target", str(self.folder / "data"))

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture
def own_libvirt() -> Iterator[OwnLibvirt]:
    """Have picolab use a libvirtd that this test runs."""
    # Not in the test's own folder, which another user cannot enter; and a socket's path may be 107 bytes long.
    folder = Path(tempfile.mkdtemp(prefix="picolab-test-", dir=folder_on_disk()))
    folder.chmod(0o755)
    is_root = os.geteuid() == 0
    names = {"XDG_RUNTIME_DIR": "run", "XDG_CONFIG_HOME": "config", "XDG_CACHE_HOME": "cache", "HOME": "data"}
    for name in names.values():
        (folder / name).mkdir(mode=0o700)
        if is_root:
            os.chown(folder / name, _NOBODY, _NOBODY)
    user = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if is_root else {}
    environment = {"PATH": os.environ["PATH"], **{name: str(folder / place) for name, place in names.items()}}
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(["libvirtd"], env=environment, stdout=said, stderr=said, **user)  # type: ignore[call-overload]
    socket = folder / "run" / "libvirt" / "libvirt-sock"
    try:
        eventually(socket.exists, "libvirtd listens")
        with pytest.MonkeyPatch.context() as patch:
            uri = f"qemu:///session?socket={socket}"
            patch.setattr(libvirt, "_URI", uri)
            yield OwnLibvirt(folder, uri, process)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


def check_refused(tmp_path: Path, problem: str, remedy: str) -> None:
    """Check that a trial, a campaign and a notebook by hand are refused with one sentence, and leave nothing."""
    file = tmp_path / "vms.yaml"
    matrix = {"machine": ["vagrant"], "ram_mb": [256], "file_size": ["1M"]}
    file.write_text(json.dumps({"matrix": matrix, "repeats": 1, "idle_limit_s": 0}))
    for words in (
        ("trial", "--machine", "vagrant", "--ram", "256", "--file-size", "1M"),
        ("matrix", str(file), "--campaign", "vms"),
    ):
        done = picolab_here(*words)
        assert done.returncode == ExitCode.HOST_UNFIT, done.stderr
        (sentence,) = done.stderr.strip().splitlines()
        assert problem in sentence and sentence.endswith(f"; run: {remedy}")
    with pytest.raises(HostUnfit, match=problem):
        registry.obtain(wish(box="", name="own"), Holder(this_process(), keep=False))
    assert not list(outputs_dir().glob("*")) and not folder_of("own").exists()


def test_a_stopped_libvirtd_is_refused(own_libvirt: OwnLibvirt, tmp_path: Path) -> None:
    assert libvirt.problem() is None
    own_libvirt.stop()
    remedy = "systemctl enable --now libvirtd"
    if not Path("/run/systemd/system").is_dir():
        start = "setsid -f tini -s -- libvirtd >/dev/null 2>&1" if shutil.which("tini") else "libvirtd -d"
        remedy = f"sh -c 'virtlogd -d && {start}'"
    check_refused(tmp_path, "the daemon libvirtd does not answer", as_root(remedy))


def test_a_stopped_network_is_refused(own_libvirt: OwnLibvirt, tmp_path: Path) -> None:
    own_libvirt.define_network()
    remedy = "virsh -c qemu:///system net-start vagrant-libvirt"
    check_refused(tmp_path, "libvirt's network vagrant-libvirt is inactive", remedy)


def test_a_stopped_pool_is_refused(own_libvirt: OwnLibvirt, tmp_path: Path) -> None:
    own_libvirt.define_pool()
    remedy = "virsh -c qemu:///system pool-start default"
    check_refused(tmp_path, "libvirt's pool default is inactive", remedy)
    own_libvirt.virsh("pool-start", libvirt.POOL)
    assert libvirt.problem() is None and libvirt.pool_free_bytes()
