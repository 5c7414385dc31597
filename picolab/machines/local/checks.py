"""The doctor's checks for local machines: memory limits, a private network, swap, the memory probe."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from picolab.agent import bundle
from picolab.config.project import state_dir
from picolab.config.sizes import MIB
from picolab.errors import MachineError, MemoryLimitUnavailable, PicolabError
from picolab.host import facts
from picolab.host.finding import Check, Finding, as_root
from picolab.machines.local import network
from picolab.machines.local.cgroup import (
    MemoryCgroup,
    find_method,
    in_systemd_scope,
    plan_cgroup,
    v2_memory_is_on,
    v2_parent,
)

COMMAND_LIMIT_S = 1.5
_TINY_LIMIT_BYTES = 16 * MIB
_GRUB = Path("/etc/default/grub")
_PEAK = "cgroup_peak_bytes"
"""With cgroup v2 only Linux 5.19 and later keeps it; samples find nearly the same."""
_MAY_BE_MISSING = ("psi_", _PEAK)


@contextlib.contextmanager
def _tiny_cgroup() -> Iterator[MemoryCgroup | None]:
    """Yield a cgroup of the kind that a machine would get, or None where making one changes more than that.

    Only systemd can make one for a user, and where v2 has the memory controller switched off it would stay on.

    Raises:
        MemoryLimitUnavailable, MachineError: this host cannot limit memory.
    """
    method = find_method()
    if method == "cgroup_v2_systemd_user":
        command = in_systemd_scope(["true"])
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_LIMIT_S, check=False)
        if done.returncode:
            raise MachineError(f"systemd-run --user --scope failed: {done.stderr.strip()[:200]}")
        yield None
        return
    if method == "cgroup_v2" and _memory_is_off():
        yield None
        return
    cgroup = plan_cgroup(method, f"doctor-{os.getpid()}-{threading.get_ident()}")
    assert cgroup is not None
    cgroup.create(_TINY_LIMIT_BYTES)
    try:
        yield cgroup
    finally:
        cgroup.remove()


def _memory_is_off() -> bool:
    parent = v2_parent()
    return parent is not None and not v2_memory_is_on(parent)


def memory_limit() -> list[Finding]:
    """Prove that memory can be limited, with a tiny cgroup."""
    what = "memory limit"
    unlimited = "only unlimited runs (memory_limit: none), labelled as such, can be made"
    try:
        with _tiny_cgroup() as cgroup:
            if cgroup is None and find_method() == "cgroup_v2":
                text = "cgroup_v2 should work: the memory controller is there, and the first trial switches it on"
                return [Finding(what, "good", text)]
            if cgroup is None:
                return [Finding(what, "good", "cgroup_v2_systemd_user works, proved with a scope of its own")]
            limit = cgroup.limit_bytes
            text = (
                f"{cgroup.method} works, proved with a cgroup of {_TINY_LIMIT_BYTES // MIB} MiB in {cgroup.path.parent}"
            )
            if limit == _TINY_LIMIT_BYTES:
                return [Finding(what, "good", text)]
            return [Finding(what, "bad", f"the kernel set {limit} instead of {_TINY_LIMIT_BYTES} bytes: {unlimited}")]
    except (MemoryLimitUnavailable, MachineError) as error:
        # As root, or with a systemd that refused, no single command fixes it: the sentence names what may.
        remedy = "" if os.geteuid() == 0 else f"sudo {Path(sys.executable).with_name('picolab')} doctor"
        return [Finding(what, "bad", f"{error}; {unlimited}", remedy)]


def private_network() -> list[Finding]:
    """Prove that a server can have a network that only this host reaches, with a pair of devices in a namespace."""
    what, reason = "private network", network.try_out()
    if reason is None:
        return [Finding(what, "good", "works: while a server is under test, only this host reaches it")]
    text = (
        f"{reason}: other hosts can reach a local machine's server while it is under test, as far as firewalls let them"
    )
    remedy = "" if os.geteuid() == 0 else f"sudo {Path(sys.executable).with_name('picolab')} doctor"
    return [Finding(what, "gap", text, remedy)]


def swap() -> list[Finding]:
    """Check whether the server could get into swap."""
    swap_mib = facts.memory_info().get("SwapTotal", 0) / MIB
    if not swap_mib:
        return [Finding("swap", "good", "the host has none")]
    with contextlib.suppress(PicolabError), _tiny_cgroup() as cgroup:
        if cgroup is not None and cgroup.swap_is_off:
            return [Finding("swap", "good", f"the host has {swap_mib:,.0f} MiB, and the server is kept out of it")]
    return [
        Finding(
            "swap",
            "gap",
            f"the host has {swap_mib:,.0f} MiB, and nothing proves that the server is kept out of it",
            as_root("swapoff -a"),
        )
    ]


def counters() -> list[Finding]:
    """Run the memory probe on this process, as a trial does, and report what it cannot have."""
    what = "memory probe"
    disk = facts.disk_of(state_dir())
    with contextlib.ExitStack() as stack:
        cgroup = None
        with contextlib.suppress(PicolabError):
            cgroup = stack.enter_context(_tiny_cgroup())
        command = [
            *(sys.executable, *bundle.words("memory_probe"), "--pid", str(os.getpid()), "--interval", "0.05"),
            *(("--cgroup", str(cgroup.path)) if cgroup else ()),
            *(("--disk", disk.device) if disk.device else ()),
        ]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_LIMIT_S,
            check=False,
        )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        return [Finding(what, "bad", f"it ended with exit code {done.returncode} and said: {said}", blocks=True)]
    head = json.loads(done.stdout.splitlines()[0])
    missing = {name: why for name, why in head["missing"].items() if not name.startswith(_MAY_BE_MISSING)}
    columns = len(head["columns"]) - 1
    findings = []
    if missing:
        names, why = ", ".join(missing), "; ".join(dict.fromkeys(missing.values()))
        findings.append(Finding(what, "gap", f"{len(missing)} of {columns} values will be null: {names} ({why})"))
    elif _PEAK in head["missing"]:
        findings.append(Finding(what, "good", "works; the kernel keeps no peak of a cgroup (Linux 5.19 does)"))
    else:
        findings.append(Finding(what, "good", f"works, and the kernel has all of its {columns} values"))
    pressure = head["missing"].get("psi_memory_some_us")
    if pressure is None:
        findings.append(Finding("memory pressure (PSI)", "good", "/proc/pressure/memory can be read"))
    else:
        add = "sed -i 's/^GRUB_CMDLINE_LINUX=\"/&psi=1 /' /etc/default/grub && update-grub && reboot"
        remedy = as_root(f'sh -c "{add}"' if os.geteuid() else add) if _GRUB.exists() else ""
        text = f"the kernel does not offer it ({pressure}); psi_ values will be null unless it is booted with psi=1"
        findings.append(Finding("memory pressure (PSI)", "gap", text, remedy))
    return findings


CHECKS: tuple[Check, ...] = (
    ("memory limit", memory_limit),
    ("private network", private_network),
    ("swap", swap),
    ("memory probe", counters),
)
