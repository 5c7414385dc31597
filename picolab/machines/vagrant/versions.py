"""Versions of installed programs, read from files where that is possible: to ask Vagrant takes a second."""

import contextlib
import json
import re
import subprocess
from pathlib import Path

from picolab.machines.vagrant.boxes import vagrant_home

_ASK_LIMIT_S = 30.0
_GEMS = (Path("/usr/share/rubygems-integration"), Path("/opt/vagrant/embedded/gems"), Path("/var/lib/gems"))


def gem_version(name: str) -> str | None:
    """Return the version of a Ruby gem by the name of its folder."""
    pattern = re.compile(re.escape(name) + r"-(\d[\w.]*)")
    for root in _GEMS:
        for folder in sorted(root.glob(f"**/gems/{name}-[0-9]*"), reverse=True):
            found = pattern.fullmatch(folder.name)
            if found:
                return found[1]
    return None


def plugin_version(name: str) -> str | None:
    """Return the version of a plugin that this user has installed with `vagrant plugin install`."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        plugin = json.loads((vagrant_home() / "plugins.json").read_text())["installed"][name]
        return str(plugin["installed_gem_version"] or plugin["gem_version"] or "") or None
    return None


def virtualbox_version() -> str | None:
    """Return the version of VirtualBox, or None when it does not answer."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["VBoxManage", "--version"], capture_output=True, text=True, timeout=_ASK_LIMIT_S, check=True
        )
        return done.stdout.strip() or None
    return None
