"""`picolab calibrate` in a real virtual machine, with small files: what it measures and how far its disk grows."""

import pytest
from virtual_machines import domains

from picolab.config.sizes import MIB
from picolab.instrument import store
from picolab.instrument.measure import BALLAST_MIB, QUICK, calibrate_instrument
from picolab.machines import registry
from picolab.machines.vagrant import libvirt

pytestmark = pytest.mark.vm

GUEST_ITSELF_BYTES = 96 * MIB
"""Its boot, its agent and the file system's own structures: the check before it begins has room to spare for that."""


def test_a_quick_calibration_in_a_guest(box: str) -> None:
    sizes: list[int] = []

    def report(line: str) -> None:
        if line.startswith("round "):
            (domain,) = domains()
            sizes.append(libvirt.volume_bytes(f"{domain}.img"))

    found = calibrate_instrument("vagrant", quick=True, box=box, report=report)

    assert found is not None and found == store.load("vagrant") and found.machine == "vagrant"
    assert found.upload_ceiling_mib_s.n == found.noise.n == QUICK.rounds
    assert found.errors["peak_memory"].truth == BALLAST_MIB and abs(found.errors["peak_memory"].worst) < 0.05
    assert sizes[0] <= sizes[-1] <= sizes[0] + QUICK.data_bytes(is_virtual=True) + GUEST_ITSELF_BYTES
    assert registry.existing() == [] and domains() == {}
