"""The user that libvirt runs QEMU as, on a host without systemd: with another one than root each boot is slow.

As another user QEMU cannot open `/dev/kvm` in a container, so libvirt considers its knowledge of QEMU outdated, and
probes it again whenever a machine is defined: the first `vagrant up` takes 149 to 190 s instead of 29 to 80 s.
"""

import re
from pathlib import Path

from picolab.host.finding import Finding, as_root

ROOT = Path("/")
_WHAT = "libvirt's user"
_WANTED = {"user": "root", "group": "root"}
_SETTING = re.compile(r'^[ \t]*(user|group)[ \t]*=[ \t]*"?([^"#\n]*?)"?[ \t]*(?:#.*)?$', re.MULTILINE)
_RESTART = "; pkill -x libvirtd; while pgrep -x libvirtd; do sleep 0.2; done; libvirtd -d"


def runs_systemd() -> bool:
    """Return whether systemd is this host's PID 1."""
    return (ROOT / "run/systemd/system").is_dir()


def qemu_user() -> list[Finding]:
    """Check the user of QEMU where no systemd runs; nothing is found where one does, or where there is no libvirt."""
    path = ROOT / "etc/libvirt/qemu.conf"
    if runs_systemd():
        return []
    try:
        settings = _SETTING.findall(path.read_text(errors="replace"))
    except FileNotFoundError:
        return []
    except OSError as error:
        unknown = f"{path} cannot be read ({error.strerror}), so it is not known whether QEMU runs as root"
        return [Finding(_WHAT, "gap", unknown, as_root(f'grep -E "^(user|group)" {path}'))]
    # Of several settings of one name libvirt takes the first.
    found = dict(reversed(settings))
    if found == _WANTED:
        return [Finding(_WHAT, "good", f"QEMU runs as root ({path}), which a host without systemd needs")]
    has = " and ".join(f'{name} = "{found[name]}"' if name in found else f"no {name}" for name in _WANTED)
    slow = (
        f"{path} sets {has}, and no systemd runs here: libvirt probes QEMU again for each machine, and a boot takes "
        f"minutes instead of seconds"
    )
    return [Finding(_WHAT, "gap", slow, as_root(f"sh -c '{_fix(path, replace=bool(found))}'"))]


def _fix(path: Path, *, replace: bool) -> str:
    """Return the shell commands that set the user, and start a running daemon again so that it reads the setting."""
    without = rf'sed -i -E "/^[ \t]*(user|group)[ \t]*=/d" {path} && ' if replace else ""
    lines = "".join(rf"{name} = \"{value}\"\n" for name, value in _WANTED.items())
    return f'{without}printf "{lines}" >>{path}{_RESTART if _daemon_runs() else ""}'


def _daemon_runs() -> bool:
    for comm in (ROOT / "proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text().strip() == "libvirtd":
                return True
        except OSError:
            # It has ended meanwhile.
            continue
    return False
