"""The Debian packages of the box: which, from where, and their installation into its root file system."""

import platform
import re
import shlex
import shutil
from pathlib import Path

from picolab.agent import bundle
from picolab.machines.vagrant.box_disk import GUEST, ROOT_BEGIN_MIB
from picolab.machines.vagrant.box_tools import STEP_LIMIT_S, run, which
from picolab.machines.vagrant.guest import AGENT_ZIPAPP, GUEST_HOME, USER, agent_mark, unpack_agent

PACKAGES = (
    *("usr-is-merged", "systemd-sysv", "kmod", "busybox-static"),
    *("openssh-server", "sudo", "screen", "python3", "iproute2", "procps"),
)


_USR_MERGE_HOOKS = Path("/usr/share/mmdebstrap/hooks/maybe-merged-usr")
"""Without them the box would get Debian's program that merges /usr, and all of Perl for it."""


_INSTALL_LIMIT_S = 900.0


_ACQUIRE_SETTINGS = ("http", "https", "Check-Valid-Until", "Check-Date", "Max-FutureTime", "ForceIPv4", "Retries")
"""apt's settings of how to reach a mirror. Which mirrors there are stands elsewhere."""


def install(work: Path, mirror: str | None, suite: str | None) -> None:
    """Install the packages and fill the disk's root file system; `work/boot` gets kernel, busybox and modules."""
    shutil.copytree(GUEST, work / "guest")
    (work / "boot").mkdir()
    (work / "boot").chmod(0o777)
    (work / "guest" / "agent.pyz").write_bytes(bundle.zipapp())
    (work / "guest" / "agent.sh").write_text(_install_agent())
    run(["chmod", "-R", "a+rX", str(work / "guest")], "chmod", STEP_LIMIT_S)
    suite, sources = apt_sources(mirror, suite)
    settings = work / "apt.conf"
    settings.write_text(_apt_settings())
    hook = f'sh {shlex.quote(str(work / "guest" / "customize.sh"))} "$1" {shlex.quote(str(work))} {ROOT_BEGIN_MIB}'
    command = [
        *("mmdebstrap", "--variant=essential", "--format=null", "--skip=cleanup"),
        *(f"--include={','.join(PACKAGES)}", f"--aptopt={settings}", "--dpkgopt=force-unsafe-io"),
        *([f"--hook-directory={_USR_MERGE_HOOKS}"] if _USR_MERGE_HOOKS.is_dir() else []),
        *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "man", "locale", "info")),
        *(f"--customize-hook={hook}", suite, "-", *sources),
    ]
    run(command, "mmdebstrap", _INSTALL_LIMIT_S, TMPDIR=str(work))


def _install_agent() -> str:
    """Return a script that the root file system runs, with the agent's zipapp as its input.

    So a new machine need not compile it, which takes seconds under emulation. A guest whose agent is of another version
    than the picolab that uses it gets that one's.
    """
    folders = f"{GUEST_HOME} {GUEST_HOME}/builds"
    return f"""\
set -eu
install -d -m 0755 {folders}
cat >{AGENT_ZIPAPP}
{unpack_agent()} || exit 1
touch {agent_mark(bundle.version())}
chown -R {USER} {GUEST_HOME}
"""


def apt_sources(mirror: str | None, suite: str | None) -> tuple[str, list[str]]:
    """Return the suite and the lines or mirrors for mmdebstrap; an empty list means mmdebstrap's own mirrors.

    On a Debian host these are the host's own, so that a box can be built behind a mirror; what is no part of Debian
    is left out.
    """
    codename = _debian_codename()
    wanted = suite or codename or "bookworm"
    if mirror:
        return wanted, [mirror]
    if codename is None:
        return wanted, []
    form = "$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)"
    text = run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"], "apt-get", STEP_LIMIT_S)
    return wanted, select_sources(text, codename, wanted)


def select_sources(text: str, codename: str, wanted: str) -> list[str]:
    """Return apt's sources of Debian's main component as lines of a sources.list.

    Args:
        text: a line for each source of the host: URI, suite, component, origin (blank before the first update).
        codename: the host's release.
        wanted: the release that the box is made of.
    """
    lines = []
    for uri, release, component, *origin in (line.split() for line in text.splitlines()):
        of_debian = origin == ["Debian"] or not origin or origin[0].startswith("$(")
        if of_debian and component == "main" and re.fullmatch(rf"{codename}(-updates|-security|/updates)?", release):
            lines.append(f"deb {uri} {release.replace(codename, wanted)} main")
    return list(dict.fromkeys(lines))


def _debian_codename() -> str | None:
    """Return the release of a Debian host; None on another distribution."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return None
    if release.get("ID") != "debian" or which("apt-get") is None:
        return None
    return release.get("VERSION_CODENAME")


def _apt_settings() -> str:
    """Return the host's settings of how to reach a mirror: proxy, certificates, checks of dates."""
    if which("apt-config") is None:
        return ""
    wanted = re.compile(rf"Acquire::({'|'.join(_ACQUIRE_SETTINGS)})\b", re.IGNORECASE)
    lines = run(["apt-config", "dump"], "apt-config", STEP_LIMIT_S).splitlines()
    return "".join(f"{line}\n" for line in lines if wanted.match(line))
