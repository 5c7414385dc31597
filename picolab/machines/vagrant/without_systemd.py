"""libvirt on a host without systemd, such as a container: how its daemon is started, and two causes of slow machines.

- As another user than root QEMU cannot open `/dev/kvm` in a container, so libvirt considers its knowledge of QEMU
  outdated, and probes it again whenever a machine is defined: the first `vagrant up` takes 149 to 190 s instead of 29
  to 80 s.
- To end a machine, libvirt waits until its process no longer exists, so until its parent has reaped it. That is the
  first process (PID 1) unless a process above libvirtd is a subreaper (`PR_SET_CHILD_SUBREAPER` of prctl(2)). The first
  process of a container may do so late or never; `tini -s` is a subreaper that does so at once.
"""

import re
import shutil
import subprocess
import time
from pathlib import Path

from picolab.agent.procfs import stat_of
from picolab.host.finding import Finding, as_root

ROOT = Path("/")
_WHAT = "libvirt's user"
_REAPER = "libvirt's reaper"
_REAP_LIMIT_S = 0.5
_REAP_POLL_S = 0.01
_UNDER_TINI = "setsid -f tini -s -- libvirtd >/dev/null 2>&1"
_WANTED = {"user": "root", "group": "root"}
_SETTING = re.compile(r'^[ \t]*(user|group)[ \t]*=[ \t]*"?([^"#\n]*?)"?[ \t]*(?:#.*)?$', re.MULTILINE)
# The states leave out processes that have ended and are not reaped.
_STOP = "pkill -x libvirtd; while pgrep -x -r D,R,S libvirtd; do sleep 0.2; done"


def runs_systemd() -> bool:
    """Return whether systemd is this host's PID 1."""
    return (ROOT / "run/systemd/system").is_dir()


def start_command() -> str:
    """Return the command of root that starts libvirt's daemons."""
    if runs_systemd():
        return "systemctl enable --now libvirtd"
    return f"sh -c 'virtlogd -d && {_start()}'"


def _start() -> str:
    return _UNDER_TINI if shutil.which("tini") else "libvirtd -d"


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
    return f'{without}printf "{lines}" >>{path}{f"; {_STOP}; {_start()}" if _daemon() is not None else ""}'


def _daemon() -> Path | None:
    """Return the folder of the daemon's process in /proc, or None."""
    for comm in (ROOT / "proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text().strip() == "libvirtd":
                return comm.parent
        except OSError:
            # It has ended meanwhile.
            continue
    return None


def reaper() -> list[Finding]:
    """Check that a machine's process is reaped soon after its end; only where no systemd runs and the daemon does.

    Nothing is found where a process above this one is a subreaper: then nothing can be learned of the first process.
    """
    daemon = None if runs_systemd() else _daemon()
    stat = stat_of(int(daemon.name), str(ROOT / "proc")) if daemon is not None else None
    if stat is None:
        return []
    if stat.parent != 1:
        return [Finding(_REAPER, "good", "the daemon runs below another process than the first one of this container")]
    is_reaped = _is_reaped()
    if is_reaped is None:
        return []
    if is_reaped:
        return [Finding(_REAPER, "good", "the first process (PID 1) reaps ended processes at once")]
    slow = (
        f"the first process (PID 1) had not reaped an ended process after {_REAP_LIMIT_S:g} s, and libvirt waits for "
        "it: the end of a machine, and each restore or boot with another memory size, takes longer"
    )
    install = "" if shutil.which("tini") else "apt-get install --no-install-recommends tini && "
    return [Finding(_REAPER, "gap", slow, as_root(f"sh -c '{install}({_STOP}; {_UNDER_TINI})'"))]


def _is_reaped() -> bool | None:
    """Return whether the first process reaps a process soon after its end; None when another one gets it to reap."""
    # The shell ends before its child, which then belongs to its reaper, and lives until its input ends.
    command = ["sh", "-c", "exec 3<&0; cat <&3 >/dev/null & echo $!"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        pid = int(shell.stdout.readline())
        shell.wait()
        orphan = stat_of(pid)
    if orphan is None or orphan.parent != 1:
        return None
    ended_s = None
    while (stat := stat_of(pid)) is not None and stat.start_ticks == orphan.start_ticks:
        now_s = time.monotonic()
        if stat.has_ended:
            ended_s = ended_s or now_s
            if now_s - ended_s > _REAP_LIMIT_S:
                return False
        time.sleep(_REAP_POLL_S)
    return True
