"""The examination of a server in a real virtual machine: some checks find, some do not, some cannot be made there."""

import pytest
from virtual_machines import domains

from picolab.config.trial_parameters import TrialParameters
from picolab.examine.registry import CHECKS
from picolab.examine.run import examine
from picolab.machines import registry

pytestmark = pytest.mark.vm

STATES = {
    "sigterm-idle": "found",
    "kill-transfer-files": "absent",
    "disk-full-status": "not_examined",
    "head": "absent",
    "range": "found",
}


def test_a_server_in_a_guest_is_examined(box: str) -> None:
    knobs = {"ignore_sigterm": True, "answers_head": True, "ignores_range": True}
    parameters = TrialParameters.model_validate({"machine": "vagrant", "box": box, "calibration": knobs})
    found = examine(parameters, [CHECKS[name] for name in STATES])

    assert {result.check.id: result.state for result in found.results} == STATES
    assert found.machine.startswith("vagrant, ")
    assert domains() == {} and registry.existing() == []
