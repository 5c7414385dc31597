"""What a campaign of virtual machines asks libvirt before it starts does not grow with the number of its trials."""

from pathlib import Path

import pytest
import virsh_stub

from picolab.campaign.preflight import check_plan, check_trial
from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.plan import Plan, make_plan
from picolab.config.sizes import MIB
from picolab.config.trial_parameters import TrialParameters
from picolab.errors import HostUnfit


@pytest.fixture
def virsh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> virsh_stub.VirshStub:
    stub = virsh_stub.install(tmp_path, monkeypatch)
    (tmp_path / "virsh-bin" / "vagrant").symlink_to("/bin/true")
    return stub


def plan_of(sizes: list[str], repeats: int) -> Plan:
    wanted = {
        "matrix": {"ram_mb": [128, 256], "file_size": sizes, "machine": ["vagrant"]},
        "repeats": repeats,
        "parameters": {"build": "calibration"},
    }
    return make_plan(CampaignParameters.model_validate(wanted), "vms", "vms.yaml")


def commands(virsh: virsh_stub.VirshStub, plan: Plan) -> list[str]:
    before = len(virsh.commands)
    check_plan(plan)
    return virsh.commands[before:]


def test_libvirt_is_asked_once_whatever_the_plan(virsh: virsh_stub.VirshStub) -> None:
    one = commands(virsh, plan_of(["1M"], repeats=1))
    many = commands(virsh, plan_of([f"{size}M" for size in range(1, 11)], repeats=20))

    assert many == one, "400 trials ask as much as two"
    assert len(one) == len(set(one)) == 5, "is it there, one question about network and pool, the space and its place"


def test_the_largest_upload_is_what_must_fit(virsh: virsh_stub.VirshStub) -> None:
    virsh.set(free=100 << 20)
    with pytest.raises(HostUnfit, match="an upload of 1G needs"):
        check_plan(plan_of(["1M", "1G", "2M"], repeats=3))
    assert len(virsh.commands) == 5


def test_the_saved_states_of_all_memory_sizes_must_fit_too(virsh: virsh_stub.VirshStub) -> None:
    virsh.set(free=(384 << 20) + 2 * MIB)
    with pytest.raises(
        HostUnfit, match=r"upload of 1M needs 2\.2 times .* and up to 384 MiB for saved states, 386 MiB,"
    ):
        check_plan(plan_of(["1M"], repeats=1))
    virsh.set(free=(384 << 20) + 3 * MIB)
    check_plan(plan_of(["1M"], repeats=1))

    alone = {"machine": "vagrant", "ram_mb": 256, "file_size": "1M", "build": "calibration"}
    virsh.set(free=100 * MIB)
    check_trial(TrialParameters.model_validate(alone))
    with pytest.raises(HostUnfit, match="up to 256 MiB for saved states"):
        check_trial(TrialParameters.model_validate({**alone, "fresh_machine": "per_trial"}))
