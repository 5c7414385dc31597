"""copyparty as the server under test: real trials with the package from the index, and its builds."""

import hashlib
import json
import shutil
import subprocess
import sys
import sysconfig
import zipapp
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from picolab.config.sizes import MIB
from picolab.config.trial_parameters import TrialParameters
from picolab.errors import BuildError
from picolab.machines import registry
from picolab.record.outcomes import Outcome
from picolab.record.record import Record
from picolab.servers.base import Refused
from picolab.servers.build import sha256_of, sha256_of_folder
from picolab.servers.client import Client
from picolab.servers.copyparty.adapter import Copyparty
from picolab.servers.exchange import Answer
from picolab.servers.measurements import Limits
from picolab.trial.trial import Trial

SERVER = Copyparty()
LIMITS = Limits(60, 120)


@pytest.fixture
def run_trial() -> Iterator[Callable[..., Record]]:
    """Run all stages in this process, and take the machine down in any case."""

    def run(look: Callable[[Trial], None] | None = None, **parameters: object) -> Record:
        given = {"server": "copyparty", "ram_mb": 256, "file_size": "20M", "keep_machine": "never"} | parameters
        trial = Trial.open(TrialParameters.model_validate(given))
        for stage in (trial.provision, trial.start, trial.authenticate, trial.upload):
            stage()
        if look is not None:
            look(trial)
        trial.verify()
        record = trial.collect()
        trial.release()
        return record

    yield run
    registry.release_by_name("local")


def test_a_trial_of_copyparty_is_measured(run_trial: Callable[..., Record]) -> None:
    record = run_trial(direction="both", parallel_uploads=2)

    assert record.outcome is Outcome.OK, record.outcome_detail
    assert record.parameters.server == record.parameters.build == "copyparty"
    assert record.machine and record.machine.memory_limit.limit_bytes == 256 * MIB
    assert record.upload and record.upload.http_status == 201 and record.upload.delivered_bytes == 40 * MIB
    assert record.upload.commit_mib_s is None
    assert record.missing["upload.commit_mib_s"] == "copyparty stores an upload while it receives it"
    assert record.upload.transfer_s and record.upload.commit_s is not None
    assert record.verify and record.verify.matched and record.verify.received_bytes == 40 * MIB
    assert record.memory and record.memory.samples > 0 and record.download
    # An interpreter with copyparty's modules, not a shell that started it.
    assert record.memory.peak_anon_bytes and record.memory.peak_anon_bytes > 12 * MIB
    assert not any(caveat.code == "calibration_server" for caveat in record.caveats)


def test_too_little_memory_gets_copyparty_oom_killed(run_trial: Callable[..., Record]) -> None:
    record = run_trial(ram_mb=20)

    assert record.outcome is Outcome.OOM_KILLED, record.outcome_detail
    assert record.server and record.server.oom_kills


def test_copypartys_secret_is_in_no_file_and_no_argument(run_trial: Callable[..., Record]) -> None:
    def look(trial: Trial) -> None:
        machine = registry.attach("local")
        assert machine is not None
        secret = (machine.folder / "secret").read_text()
        command = Path(f"/proc/{machine.process_status().pid}/cmdline").read_text()
        assert "copyparty" in command and secret not in command
        for path in trial.folder.iterdir():
            assert secret not in path.read_text(errors="replace"), path

    run_trial(look, file_size="1M")


def test_copypartys_refusals_have_its_words(run_trial: Callable[..., Record]) -> None:
    def look(trial: Trial) -> None:
        assert trial.state.base_url is not None
        with Client(SERVER, trial.state.base_url) as stranger:
            refused = stranger.authenticate("not-the-secret-of-this-trial")
            sent = stranger.upload(1, MIB, LIMITS)
        assert refused.session is None and refused.http_status == 200 and "naw dude" in refused.detail
        assert sent.http_status == 401 and sent.server_message and "does not have write-access" in sent.server_message
        machine = registry.attach("local")
        assert machine is not None
        with Client(SERVER, trial.state.base_url) as user:
            assert user.authenticate((machine.folder / "secret").read_text()).session is not None
            stored = user.upload(7, MIB, LIMITS, file_name="other.bin")
            assert stored.entry_id == "other.bin" and user.delete("other.bin") == 200
            assert user.download("other.bin", 7, MIB, LIMITS).http_status == 404

    run_trial(look, file_size="1M")


@pytest.mark.parametrize(
    "body", ["", "[]", "{}", '{"fileurl": 3}', '{"fileurl": null}', "<html>", "[" * 9999, '{"fileurl": "http://x"}']
)
def test_an_answer_without_a_url_is_refused(body: str) -> None:
    with pytest.raises(Refused, match="without the URL"):
        SERVER.stored(Answer(201, body.encode(), True, "identity", {}))


def script() -> Path:
    return Path(sysconfig.get_path("scripts")) / "copyparty"


def find(build: str = "copyparty", in_guest: bool = False) -> str:
    parameters = TrialParameters.model_validate({"server": "copyparty", "build": build})
    return SERVER.find_build(parameters, in_guest=in_guest).identity.sha256


def test_the_installed_package_is_identified_by_its_files(scratch: Path) -> None:
    package = Path(sysconfig.get_path("purelib")) / "copyparty"
    assert find() == find(str(script())) == sha256_of_folder(package)
    listed = subprocess.run(
        "find . -type f -not -path '*/__pycache__/*' | sed 's|^./||' | LC_ALL=C sort | xargs -d '\\n' sha256sum",
        shell=True,
        cwd=package,
        capture_output=True,
        check=True,
    )
    assert find() == hashlib.sha256(listed.stdout).hexdigest()
    copy = scratch / "venv"
    shutil.copytree(package, copy / "lib/python3.11/site-packages/copyparty")
    (copy / "bin").mkdir()
    shutil.copy2(script(), copy / "bin")
    assert find(str(copy / "bin/copyparty")) == find()
    (copy / "lib/python3.11/site-packages/copyparty/up2k.py").write_text("changed")
    assert find(str(copy / "bin/copyparty")) != find()


def test_a_zipapp_is_a_build_of_one_file(scratch: Path, run_trial: Callable[..., Record]) -> None:
    source = scratch / "source"
    site = Path(sysconfig.get_path("purelib"))
    for name in ("copyparty", "jinja2", "markupsafe"):
        shutil.copytree(site / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    archive = scratch / "copyparty.pyz"
    zipapp.create_archive(source, archive, interpreter=sys.executable, main="copyparty.__main__:main")

    record = run_trial(build=str(archive), file_size="1M")

    assert record.outcome is Outcome.OK, record.outcome_detail
    assert record.build and record.build.sha256 == sha256_of(archive) == find(str(archive), in_guest=True)
    assert record.build.label == "copyparty.pyz"


def test_a_package_cannot_run_in_a_virtual_machine() -> None:
    with pytest.raises(BuildError, match="give the path of a single file, such as a zipapp"):
        find(in_guest=True)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, scratch: Path) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(scratch / "bin"))
    with pytest.raises(BuildError, match="install it with: pip install copyparty"):
        find()


def test_settings_of_another_server_are_refused() -> None:
    with pytest.raises(ValueError, match=r"calibration = .* is a setting of server 'picoshare' alone"):
        TrialParameters.model_validate({"server": "copyparty", "calibration": {"status": 500}})


def test_a_case_of_copyparty_has_another_name() -> None:
    usual = TrialParameters.model_validate({})
    other = TrialParameters.model_validate({"server": "copyparty"})

    assert usual.case_label == "local-512mb-100M-calibration" and usual.scenario == "local-512mb-100M"
    assert other.case_label == "local-512mb-100M-copyparty"
    assert other.scenario == "local-512mb-100M-server_copyparty"
    assert json.loads(other.model_dump_json())["build"] == "copyparty"
