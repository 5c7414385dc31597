"""The registry of servers: light, the only place that names them, and silent where a case is as it always was."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from picolab.cli.main import main
from picolab.config.trial_parameters import TrialParameters
from picolab.exit_codes import ExitCode
from picolab.record import factors
from picolab.servers.registry import SERVERS, default_builds, reserved_variables, settings_of_one_server

OLD_RECORD = Path(__file__).parents[1] / "records" / "before-virtual-machines.json"


def test_the_registry_imports_nothing_heavy() -> None:
    code = (
        "import sys, picolab.servers.registry\n"
        "print([name for name in ('httpx', 'pydantic', 'pandas', 'picolab.config', 'picolab.record') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_every_server_is_declared_whole() -> None:
    for name, server in SERVERS.items():
        assert server.name == name and server.title and server.default_build
        assert set(server.heeds) <= set(TrialParameters.model_fields)
    assert default_builds() == {"calibration": "picoshare", "copyparty": "copyparty"}
    assert settings_of_one_server() == {"calibration", "release_base_url"}
    assert reserved_variables() >= {"PATH", "HOME", "TMPDIR", "PORT", "PS_SHARED_SECRET"}


def test_an_unknown_server_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'nope' is unknown; known are picoshare, copyparty"):
        TrialParameters.model_validate({"server": "nope"})


def test_a_case_of_before_keeps_its_name_and_id() -> None:
    parameters = TrialParameters.model_validate({"ram_mb": 256, "file_size": "1G", "build": "1.5.4"})

    assert factors.case_name(parameters) == "local-256mb-1G-1.5.4"
    # As it was before there was a factor `server`.
    assert factors.case_id(factors.levels_of(parameters)) == "7804611ac10b"
    other = parameters.model_copy(update={"server": "copyparty"})
    assert factors.case_id(factors.levels_of(other)) != "7804611ac10b"


def test_an_old_record_is_one_of_picoshare() -> None:
    given = json.loads(OLD_RECORD.read_text())["parameters"]

    assert "server" not in given and TrialParameters.model_validate(given).server == "picoshare"


def test_a_matrix_takes_servers_from_the_command_line(scratch: Path) -> None:
    file = scratch / "small.yaml"
    file.write_text("matrix: {ram_mb: [64]}\nrepeats: 1\n")
    words = ["matrix", str(file), "--server", "picoshare", "--server", "copyparty", "--plan"]

    shown = CliRunner().invoke(main, words).output

    assert "local-64mb-100M-calibration-server_picoshare" in shown
    assert "local-64mb-100M-copyparty-server_copyparty" in shown


def test_a_word_may_not_be_a_file_too(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(scratch)
    Path("copyparty").touch()

    shown = CliRunner().invoke(main, ["trial", "--server", "copyparty"]).output

    assert "build 'copyparty' is the default build of server copyparty, and there is a file of that name" in shown


@pytest.mark.parametrize("words", [["--build", "calibration"], ["-p", "build", "calibration"]], ids=" ".join)
def test_the_default_build_of_another_server_is_refused(words: list[str]) -> None:
    refused = CliRunner().invoke(main, ["trial", "--server", "copyparty", *words])

    assert refused.exit_code == ExitCode.BAD_PARAMETERS
    assert "build 'calibration' is no build of server 'copyparty'" in refused.output


def test_a_campaign_refuses_the_build_of_another_server(scratch: Path) -> None:
    file = scratch / "campaign.yaml"
    file.write_text("{matrix: {ram_mb: [128], file_size: [1M]}, parameters: {server: copyparty, build: calibration}}\n")

    refused = CliRunner().invoke(main, ["matrix", str(file)])

    assert refused.exit_code == ExitCode.BAD_PARAMETERS
    assert "build 'calibration' is no build of server 'copyparty'; leave it out for 'copyparty'" in refused.output
