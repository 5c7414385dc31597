"""Brings a machine into the state that a trial wants, by the cheapest way.

That is, cheapest first: clean a guest that runs with the right memory, restore a snapshot, reload with another memory,
boot, create.
"""

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from picolab.config.sizes import MIB
from picolab.errors import MachineError, MachineSilent
from picolab.machines.base import MachineWish
from picolab.machines.vagrant import boxes, full_disk, libvirt, network, network_and_pool, saved_state
from picolab.machines.vagrant.domain import boot, command_of, destroy, domain_state, software
from picolab.machines.vagrant.guest import Guest
from picolab.machines.vagrant.messages import BOOT_LIMIT, START_LIMIT, Trouble
from picolab.machines.vagrant.saved_state import SavedStates
from picolab.machines.vagrant.state import State

_SYNC_LIMIT_S = 30.0
_LEASE_POLL_S = 0.5
_LOOK_S = 1.0
# What a guest may have less than after its boot and still count as clean: its own journal and timers move a little.
_MEMORY_TOLERANCE = 0.06
_DISK_TOLERANCE_BYTES = 32 * MIB


def note_address(state: State, guest: Guest, limit_s: float) -> None:
    """Note where a guest that has booted is reached, and pin its host key if it has none yet.

    Raises:
        MachineError: it cannot be reached.
    """
    # Slow to import, and a local machine has no use for it.
    from picolab.machines.vagrant import ssh

    found = command_of(state.folder, state).ssh_config()
    address = {
        "host": str(found["HostName"]),
        "port": int(found["Port"]),
        "user": str(found["User"]),
        "key": str(found["IdentityFile"]).strip('"'),
    }
    state.write(address=address)
    if not (state.folder / "known_hosts").exists():
        ssh.pin_host_key(guest.address, limit_s)
    ssh.write_ssh_config(state.folder / "ssh_config", guest.address)


def boot_again(
    state: State,
    guest: Guest,
    limit_s: float,
    report: Callable[[str], None] | None,
    limit: Trouble = START_LIMIT,
) -> None:
    """Boot a machine that exists, whether it runs or is off, with the memory of its description, and connect to it.

    Args:
        report: gets a line, or those of Vagrant.
        limit: what it means that it took longer than `limit_s` seconds.

    Raises:
        MachineSilent: it did not boot in time.
        MachineError: it cannot be booted, or has ended.
    """
    guest.drop_connection()
    if state["provider"] != "libvirt":
        command_of(state.folder, state).reload(limit_s=limit_s, on_line=report)
        note_address(state, guest, limit_s)
        guest.connected(limit_s)
        return
    if report is not None:
        report(f"Booting the machine with {state['ram_mb']} MiB of memory ...")
    boot(state)
    try:
        _connect(state, guest, limit_s)
    except MachineSilent as error:
        cause = limit.cause.format(limit_s=limit_s, cause=error)
        raise MachineSilent(f"{cause}; {limit.remedy.format(machine=state['name'])}") from None


def _connect(state: State, guest: Guest, limit_s: float) -> None:
    """Connect to a guest of libvirt's that boots, at the address that it had before, or that it gets this time.

    Its network card is the same, so the network gives it the same address, unless another guest has got that meanwhile
    or the network was made anew.
    """
    from picolab.machines.vagrant import ssh

    deadline = time.monotonic() + limit_s
    look = _Look(state, guest)
    while True:
        try:
            guest.connected(deadline - time.monotonic(), look.why_stop)
            return
        except MachineError as error:
            if time.monotonic() >= deadline:
                raise
            if is_another := isinstance(error, ssh.OtherHostKey):
                look.at_leases()
            if look.is_elsewhere:
                state.write(address={**state["address"], "host": look.addresses[0]})
                ssh.write_ssh_config(state.folder / "ssh_config", guest.address)
            elif is_another and not look.addresses:
                # Another guest has the address that this one had, and it has not asked for its own yet.
                time.sleep(_LEASE_POLL_S)
            else:
                raise


class _Look:
    """A guest that boots, as libvirt sees it. Each question starts a program, and a guest refuses ten times a second.

    Attributes:
        addresses: none when the network has given it none yet, or it does not run, or libvirt does not answer.
    """

    def __init__(self, state: State, guest: Guest) -> None:
        self._state, self._guest = state, guest
        self._domains: list[str] = []
        self._asked_s = -math.inf
        self.addresses: list[str] = []

    @property
    def is_elsewhere(self) -> bool:
        return bool(self.addresses) and self._state["address"]["host"] not in self.addresses

    def why_stop(self) -> str | None:
        """Return why the guest is not waited for at its address any more; libvirt is asked once in `_LOOK_S`."""
        if time.monotonic() - self._asked_s < _LOOK_S:
            return None
        self._asked_s = time.monotonic()
        self.addresses = []
        if (down := self._guest.why_down()) is not None:
            return down
        self.at_leases()
        noted = self._state["address"]["host"]
        return f"it has got the address {self.addresses[0]}, not {noted}" if self.is_elsewhere else None

    def at_leases(self) -> None:
        self.addresses = []
        with contextlib.suppress(libvirt.LibvirtError):
            self._domains = self._domains or list(libvirt.domains(self._state["prefix"]))
            self.addresses = [address for name in self._domains for address in libvirt.leased_addresses(name)]


class Reach:
    """One way to the wanted state.

    Args:
        state: of the machine; says how it was left.
        guest: of the machine.
        wish: the wanted machine.
    """

    def __init__(self, state: State, guest: Guest, wish: MachineWish) -> None:
        self._state, self._guest, self._wish = state, guest, wish
        self._folder: Path = state.folder
        self._command = command_of(self._folder, state)
        self._saved = SavedStates(state)
        self._is_saved_after_boot = wish.save_state or bool(wish.fresh_for)

    def run(self) -> None:
        """Bring the machine there, and note how.

        Raises:
            MachineError: it could not be made or reached; where the reason is a full disk of this host, its name.
        """
        with full_disk.named(self._state["provider"]):
            self._run()

    def _run(self) -> None:
        begun = time.monotonic()
        old_state = self._state["state"]
        as_it_was = (self._state["ram_mb"], self._state["cpus"])
        self._state["mended"] = []
        domain = domain_state(self._folder, self._state)
        if domain != "not_created" and old_state != "up":
            # Nobody knows how far the one who made it came.
            destroy(self._folder, self._state)
            fixed = "a virtual machine of this name was there in an unknown state, and was removed"
            self._state["mended"].append(fixed)
            domain = "not_created"
        self._state.write(state="making", ram_mb=self._wish.ram_mb, cpus=self._wish.cpus, server=None, forwards={})
        self._command = command_of(self._folder, self._state)
        reached_by = self._bring_up(domain, as_it_was)
        if reached_by != "reset":
            self._after_boot(reached_by)
        if reached_by != "created" and (dirt := self._dirt()):
            # What lies on the disk would still lie there after a reboot.
            self._state.note_fixed(f"{dirt}, so it was destroyed and made anew")
            self._recreate()
            reached_by = "created"
        if reached_by != "reset":
            self._check_memory()
        reached_s = time.monotonic() - begun
        software(self._state)
        self._state.write(state="up", fresh_for=self._wish.fresh_for, reached_by=reached_by, reached_s=reached_s)

    def _bring_up(self, domain: str, as_it_was: tuple[int, int]) -> str:
        """Have the machine run with the wanted memory, by the cheapest way; return which that was.

        Args:
            as_it_was: its MiB of memory and its processors before.
        """
        wanted = (self._state["ram_mb"], self._state["cpus"])
        if domain == "not_created":
            self._create()
            return "created"
        if domain not in ("running", "shutoff", "poweroff") and self._state["provider"] == "libvirt":
            why = full_disk.why_paused(self._state["prefix"]) if domain == "paused" else ""
            because = f" because {why}" if why else ""
            self._state.note_fixed(f"the virtual machine was {domain}{because}, and its power was cut")
            for name in libvirt.domains(self._state["prefix"]):
                libvirt.power_off(name)
        # A machine that need not be fresh is as good when it was made fresh for something else.
        is_fresh = self._wish.fresh_for in ("", self._state.get("fresh_for"))
        if domain == "running" and as_it_was == wanted and is_fresh and self._cleaned():
            return "reset"
        if self._is_forgotten():
            return self._make_anew()
        self._remove_useless()
        name = saved_state.name_of(*wanted)
        if name in self._saved.names:
            return "restored" if self._load(name, in_place=as_it_was == wanted) else self._make_anew()
        if self._is_saved_after_boot:
            # What trials have left on the disk must not become a part of the state that is saved.
            return self._boot_fresh(saved_state.name_of(*as_it_was))
        if domain == "running":
            # The power is cut rather than turned off in an orderly way, which a guest without memory cannot do.
            with contextlib.suppress(MachineError):
                self._guest.connected(_SYNC_LIMIT_S).run("sync", _SYNC_LIMIT_S)
        self._boot_again()
        return "reloaded" if domain == "running" else "booted"

    def _remove_useless(self) -> None:
        for name, why in self._saved.useless().items():
            self._saved.remove(name)
            self._state.note_fixed(f"the saved state {name} was removed: {why}")

    def _boot_fresh(self, before: str) -> str:
        """Boot with the wanted memory from the disk of a saved state of another memory; return how that was reached.

        Args:
            before: the saved state of the memory that the machine has now, which is the quickest to load.
        """
        names = self._saved.names
        if not names or not self._load(before if before in names else names[0], in_place=before in names):
            # Nothing that is known to be fresh can be gone back to.
            return self._make_anew()
        # The disk is fresh now, and a boot changes the memory alone.
        self._state.write(builds_bytes=0)
        self._boot_again()
        return "reloaded"

    def _boot_again(self) -> None:
        boot_again(self._state, self._guest, self._wish.boot_limit_s, self._wish.report, BOOT_LIMIT)

    def _make_anew(self) -> str:
        self._guest.drop_connection()
        destroy(self._folder, self._state)
        self._create()
        return "created"

    def _is_forgotten(self) -> bool:
        """Return whether Vagrant's notes of the machine are lost: it would take it for another of the same name."""
        if self._state["provider"] != "libvirt" or any((self._folder / "vagrant").glob("machines/*/libvirt/id")):
            return False
        self._state.note_fixed("vagrant's notes of the virtual machine were lost, so it was made anew")
        return True

    def _recreate(self) -> None:
        self._after_boot(self._make_anew())

    def _dirt(self) -> str:
        """Return a sentence when the disk holds more than a new machine's and the builds; else an empty text."""
        expected = self._state["created_disk_bytes"] - self._state["builds_bytes"]
        lost = expected - self._state["facts"]["free_disk_bytes"]
        if lost <= _DISK_TOLERANCE_BYTES:
            return ""
        return f"the guest's disk held {lost / MIB:.0f} MiB that no build explains"

    def _check_memory(self) -> None:
        """Raise MachineError if the machine has another memory than the wanted one, whatever Vagrant says."""
        if self._state["provider"] != "libvirt":
            return
        for name in libvirt.domains(self._state["prefix"]):
            found = libvirt.domain_memory(name)
            if found != self._state["ram_mb"] * MIB:
                raise MachineError(
                    f"the machine {self._state['name']!r} has {found / MIB:.0f} MiB of memory and not "
                    f"{self._state['ram_mb']}; take it away with: picolab machines remove {self._state['name']}"
                )

    def _create(self) -> None:
        found = boxes.installed_box(self._state["box"], self._state["provider"])
        self._state.write(
            **{saved_state.NOTES: []},
            builds_bytes=0,
            box_version=(found.recipe or found.version) if found else None,
            made_from=saved_state.image_of(self._state["box"], self._state["provider"]),
        )
        (self._folder / "known_hosts").unlink(missing_ok=True)
        if self._state["provider"] != "libvirt":
            self._command.up("virtualbox", limit_s=self._wish.boot_limit_s, on_line=self._wish.report)
            return
        image = boxes.box_image(self._state["box"])
        with network_and_pool.noted(), libvirt.first_up_lock(self._state["box"], self._wish.report), network.in_use():
            mended = libvirt.fix_stale(self._state["prefix"], self._state["box"], image, self._folder / "vagrant")
            self._state.write(mended=[*self._state["mended"], *mended])
            self._command.up("libvirt", limit_s=self._wish.boot_limit_s, on_line=self._wish.report)

    def _after_boot(self, reached_by: str) -> None:
        """Connect, bring the agent into the guest, and note how it is before anything was done in it."""
        restored = reached_by == "restored"
        if reached_by == "created":
            self._guest.drop_connection()
            note_address(self._state, self._guest, self._wish.boot_limit_s)
        self._guest.connected(self._wish.boot_limit_s)
        if restored:
            self._state.write(builds_bytes=0)
            facts = self._facts_after_restore()
        else:
            self._guest.install_agent()
            facts = self._guest.ask({"do": "reset"})
            if self._is_saved_after_boot and self._saved_and_restored():
                facts = self._facts_after_restore()
        self._state.write(facts=facts, baseline=facts)
        if reached_by == "created":
            self._state.write(created_disk_bytes=facts["free_disk_bytes"])

    def _facts_after_restore(self) -> dict[str, Any]:
        self._guest.ask({"do": "set_clock", "wall_s": time.time()})
        return self._guest.ask({"do": "facts"})

    def _saved_and_restored(self) -> bool:
        """Save the guest as it is, with the agent that waits for a connection, and have it begin there.

        So a trial right after a boot starts from the same state as the ones that follow it. Return False, and note why,
        when it could not be saved and need not be fresh for later trials.
        """
        # Without an open connection: the restored guest would wait for its other end forever.
        self._guest.drop_connection()
        try:
            self._saved.save(self._state["ram_mb"], self._state["cpus"])
        except MachineError as error:
            if self._wish.fresh_for:
                raise
            cause = "; ".join(filter(None, [str(error), full_disk.which(error, self._state["provider"])]))
            self._state.note_fixed(
                f"the state after the boot could not be saved, so the trial began without it ({cause})"
            )
            self._guest.connected(self._wish.boot_limit_s)
            return False
        self._saved.load(saved_state.name_of(self._state["ram_mb"], self._state["cpus"]), self._wish.boot_limit_s)
        self._guest.connected(self._wish.boot_limit_s)
        return True

    def _load(self, name: str, in_place: bool) -> bool:
        """Restore a saved state; return False, and note why, when that did not work."""
        self._guest.drop_connection()
        try:
            self._saved.load(name, self._wish.boot_limit_s, in_place)
        except MachineError as error:
            self._state.note_fixed(f"the saved state {name} could not be restored, so it was made anew ({error})")
            return False
        return True

    def _cleaned(self) -> bool:
        """Clean the running guest, and return whether memory, swap and disk are back at their baseline."""
        try:
            self._guest.connected()
            facts = self._guest.ask({"do": "reset"})
        except MachineError as error:
            self._state.note_fixed(f"the guest did not answer and was put back ({error})")
            return False
        before = self._state["baseline"]
        lost = {
            "memory": before["mem_available_bytes"] - facts["mem_available_bytes"],
            "swap": before["swap_free_bytes"] - facts["swap_free_bytes"],
        }
        if facts["ram_bytes"] != before["ram_bytes"]:
            self._state.note_fixed("the guest had another memory than after its boot, so it was put back")
            return False
        allowed = {"memory": _MEMORY_TOLERANCE * before["ram_bytes"], "swap": 0}
        short = [f"{lost[what] / MIB:.0f} MiB of {what}" for what in lost if lost[what] > allowed[what]]
        if short:
            self._state.note_fixed(f"after cleaning up the guest still lacked {', '.join(short)}, so it was put back")
            return False
        self._state.write(facts=facts)
        return True
