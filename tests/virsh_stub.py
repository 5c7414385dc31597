"""A stand-in for libvirt: a program `virsh` that keeps domains and volumes in a file and answers in virsh's words."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from picolab.machines.vagrant import network

_PROGRAM = r"""
import json, os, sys, time
place = os.environ["VIRSH_STUB"]
state = json.load(open(place))
words = sys.argv[1:]
assert words[:2] == ["--connect", "qemu:///system"], words
if ";" in words[2]:
    import subprocess
    for part in words[2].split(";"):
        subprocess.run([sys.executable, "-IS", __file__, *words[:2], *part.split()], check=True)
    sys.exit()
command, *words = words[2:]
with open(place + ".log", "a") as log:
    print(command, *words, file=log)

def fail(text):
    sys.exit("error: " + text)

def save():
    with open(place + ".new", "w") as file:
        json.dump(state, file)
    os.replace(place + ".new", place)

def table(head, rows):
    print(" " + "   ".join(head)); print("-" * 40)
    for row in rows:
        print(" " + "   ".join(row))
    print()

def domain(name):
    if name not in state["domains"]:
        fail(f"failed to get domain '{name}'")
    return state["domains"][name]

def volume(name):
    if state["pool"] != "active":
        fail("failed to get pool 'default'\nerror: Storage pool not found: no storage pool with matching name 'default'"
             if state["pool"] == "missing" else "storage pool 'default' is not active")
    if name is not None and name not in state["volumes"]:
        fail(f"failed to get vol '{name}'\nerror: Storage volume not found: no storage vol with matching path '{name}'")
    return state["volumes"].get(name)

plain = [word for word in words if not word.startswith("--")]
if state.get("hang"):
    time.sleep(1000)
if command == state.get("fails"):
    fail("End of file while reading data: Input/output error")
if state.get("error"):
    fail(state["error"])
if command == "list":
    if "--all" in words:
        table(("Id", "Name", "State"), [("-" if d["state"] == "shut off" else "1", n, d["state"])
                                        for n, d in state["domains"].items()])
elif command == "domifaddr":
    table(("Name", "MAC address", "Protocol", "Address"),
          [("vnet0", "52:54:00:01:02:03", "ipv4", one + "/24") for one in domain(plain[0]).get("leases", [])])
elif command == "domblkerror":
    fault = domain(plain[0]).get("disk_error")
    print(f"vda: {fault}\n" if fault else "No errors found\n")
elif command == "dumpxml":
    file = domain(plain[0]).get("disk", "/pool/" + plain[0] + ".img")
    print(f"<domain><devices><disk type='file' device='disk'><source file='{file}'/></disk></devices></domain>")
elif command == "domuuid":
    print(domain(plain[0])["uuid"] + "\n")
elif command == "dominfo":
    print(f"Id:             -\nName:           {plain[0]}\nMax memory:     {domain(plain[0])['kib']} KiB\n")
elif command == "destroy":
    if domain(plain[0])["state"] == "shut off":
        fail("Failed to destroy domain\nerror: Requested operation is not valid: domain is not running")
    domain(plain[0])["state"] = "shut off"
    save()
elif command == "resume":
    if domain(plain[0])["state"] != "paused":
        fail(f"Failed to resume domain '{plain[0]}'\nerror: Requested operation is not valid: domain is not paused")
    domain(plain[0])["state"] = "running"
    save()
elif command in ("setmaxmem", "setmem", "setvcpus"):
    if "--config" not in words:
        fail("Requested operation is not valid: domain is not running")
    domain(plain[0])[command] = plain[1]
    save()
elif command == "start":
    if domain(plain[0])["state"] != "shut off":
        fail("Domain is already active")
    if state.pop("network_stops", False):
        state["network"] = "inactive"; save()
    if state["network"] != "active":
        fail("Requested operation is not valid: network 'vagrant-libvirt' is not active")
    domain(plain[0])["state"] = "running"
    save()
elif command == "undefine":
    domain(plain[0]); del state["domains"][plain[0]]
    state["volumes"] = {n: v for n, v in state["volumes"].items() if n != plain[0] + ".img"}
    save()
elif command == "net-list":
    table(("Name", "State", "Autostart", "Persistent"),
          [("vagrant-libvirt", state["network"], "no", "yes")] if state["network"] != "missing" else [])
elif command == "pool-list":
    table(("Name", "State", "Autostart"), [("default", state["pool"], "yes")] if state["pool"] != "missing" else [])
elif command in ("net-uuid", "pool-uuid"):
    print(state.get(command, command + " 1") + "\n")
elif command in ("net-destroy", "pool-destroy"):
    state["network" if command == "net-destroy" else "pool"] = "inactive"; save()
elif command == "net-create":
    if state["network"] != "missing":
        fail("network 'vagrant-libvirt' already exists")
    state["network"] = "active"; save()
elif command == "net-define":
    pass
elif command == "net-dumpxml":
    stp = "on" if state.get("network_is_vagrants") else "off"
    print(f"<network><name>{plain[0]}</name><bridge name='virbr1' stp='{stp}' delay='0'/></network>")
elif command == "net-start":
    state["network"] = "active"; save()
elif command in ("net-undefine", "pool-undefine"):
    state["network" if command == "net-undefine" else "pool"] = "missing"; save()
elif command == "pool-info":
    volume(None); print(f"Name:           default\nCapacity:       1\nAvailable:      {state['free']}\n")
elif command == "pool-dumpxml":
    volume(None); print(f"<pool><target><path>{state.get('pool_path', '/no/such/pool')}</path></target></pool>")
elif command == "vol-list":
    volume(None)
    table(("Name", "Path"), [(n, "/pool/" + n) for n in state["volumes"]])
elif command == "vol-info":
    name = [word for word in plain if word != "default"][0]
    print(f"Name:           {name}\nType:           file\nCapacity:       8589934592 bytes\n"
          f"Physical:       {volume(name)['physical']} bytes\n")
    if state["volumes"][name].get("grows"):
        state["volumes"][name]["physical"] += 1; save()
elif command == "vol-path":
    name = [word for word in plain if word != "default"][0]
    volume(name); print("/pool/" + name + "\n")
elif command == "vol-dumpxml":
    name = [word for word in plain if word != "default"][0]
    if volume(name).get("is_removed_now"):
        del state["volumes"][name]; save(); volume(name)
    base = volume(name).get("base")
    print("<volume>" + (f"<backingStore><path>/pool/{base}</path></backingStore>" if base else "") + "</volume>")
elif command == "vol-delete":
    name = [word for word in plain if word != "default"][0]
    volume(name); del state["volumes"][name]; save()
elif command in ("snapshot-create-as", "snapshot-delete", "snapshot-revert"):
    saved = domain(plain[0]).setdefault("snapshots", [])
    if command == "snapshot-create-as":
        saved.append(plain[1])
    elif plain[1] not in saved:
        fail(f"Domain snapshot not found: no domain snapshot with matching name '{plain[1]}'")
    elif command == "snapshot-delete":
        saved.remove(plain[1])
    save()
elif command == "qemu-monitor-command":
    if domain(plain[0])["state"] != "running":
        fail("Requested operation is not valid: domain is not running")
    if plain[1].removeprefix("loadvm ") not in domain(plain[0]).get("snapshots", []) or state.get("other_memory"):
        print("Error: Size mismatch: pc.ram: 0x10000000 != 0x20000000: Invalid argument")
elif command == "echo":
    print(*words)
elif command == "version":
    print("Compiled against library: libvirt 9.0.0\nUsing library: libvirt 9.0.0\nUsing API: QEMU 9.0.0\n"
          f"Running hypervisor: QEMU {state.get('qemu', '7.2.22')}\n")
else:
    fail(f"unknown command: '{command}'")
"""


class VirshStub:
    """What the stand-in knows. Change it between calls with `set`, and look at `state` and `commands`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "virsh-stub.json"
        self.set(domains={}, volumes={}, pool="active", network="active", free=100 << 30)

    @property
    def state(self) -> dict[str, Any]:
        return dict(json.loads(self.path.read_text()))

    def set(self, **changes: Any) -> None:
        state = self.state if self.path.exists() else {}
        new = self.path.with_suffix(".changed")
        new.write_text(json.dumps({**state, **changes}))
        new.replace(self.path)

    @property
    def commands(self) -> list[str]:
        """The commands that were given so far."""
        log = self.path.with_name(self.path.name + ".log")
        return log.read_text().splitlines() if log.exists() else []


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> VirshStub:
    """Put the stand-in before the real virsh."""
    programs = folder / "virsh-bin"
    programs.mkdir()
    program = programs / "virsh"
    program.write_text(f"#!{sys.executable} -IS\n{_PROGRAM}")
    program.chmod(0o755)
    stub = VirshStub(folder)
    monkeypatch.setenv("VIRSH_STUB", str(stub.path))
    # Nobody else's real network keeps the stand-in's from being removed.
    monkeypatch.setattr(network, "_LOCKED", folder)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return stub


def add_box(home: Path, name: str = "picolab", image_bytes: int = 1000, **metadata: str) -> Path:
    """Make a box as Vagrant keeps it in its folder, and return its image."""
    folder = home / "boxes" / name.replace("/", "-VAGRANTSLASH-") / "0" / "libvirt"
    folder.mkdir(parents=True)
    (folder / "metadata.json").write_text(json.dumps({"provider": "libvirt", **metadata}))
    (folder / "box.img").write_bytes(bytes(image_bytes))
    return folder / "box.img"
