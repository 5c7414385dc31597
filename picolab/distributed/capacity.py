"""The workers of a scheduler: what they offer, and which of them share a host."""

from collections.abc import Container
from dataclasses import dataclass

from picolab.config.sizes import MIB
from picolab.text.wording import listed_few

MACHINE, RAM = "machine", "RAM"
"""Resources of a worker: how many trials it may run at once, and the RAM of their machines in bytes."""


@dataclass(frozen=True)
class Host:
    """A worker of the cluster.

    Attributes:
        machines: how many orders it runs at once.
        ram_bytes: of their machines together; None when it does not say.
        hostname: of the host it runs on; empty when the worker did not answer.
        boot_id: of the kernel it runs on; empty when the worker did not answer.
    """

    address: str
    machines: int
    ram_bytes: float | None
    hostname: str = ""
    boot_id: str = ""


@dataclass(frozen=True)
class Capacity:
    """The workers that can run trials."""

    hosts: tuple[Host, ...]

    @property
    def by_kernel(self) -> list[list[Host]]:
        """The workers, those on one kernel together."""
        found: dict[str, list[Host]] = {}
        for host in self.hosts:
            found.setdefault(host.boot_id or host.address, []).append(host)
        return list(found.values())

    def one_per_kernel(self, kept: Container[str], wanted: Container[str]) -> "Capacity":
        """Return one worker of each kernel: two on one would disturb each other's trials.

        Args:
            kept: addresses of workers that may run an order now: they come first.
            wanted: names of hosts with blocks that have begun, whose workers come next; then those with the most RAM.
        """

        def rank(host: Host) -> tuple[object, ...]:
            return host.address not in kept, host.hostname not in wanted, -(host.ram_bytes or 0), host.address

        return Capacity(tuple(min(hosts, key=rank) for hosts in self.by_kernel))

    @property
    def machines(self) -> int:
        """How many orders run at once: of several workers on one kernel, one runs."""
        return sum(max(host.machines for host in hosts) for hosts in self.by_kernel)

    @property
    def counts_ram(self) -> bool:
        """Whether workers say how much RAM they have for machines: then trials ask for theirs."""
        return any(host.ram_bytes is not None for host in self.hosts)

    @property
    def shared_words(self) -> list[str]:
        """A sentence for each host with several workers."""
        return [
            f"The workers {listed_few(host.address for host in hosts)} run on one host ({hosts[0].hostname}): their "
            f"trials would disturb each other, and so only one of them gets trials; stop all of these workers but one."
            for hosts in self.by_kernel
            if len(hosts) > 1
        ]


def ram_in_words(capacity: Capacity) -> str:
    """Return the RAM that all workers have for machines, in words; empty when they do not say it."""
    if not capacity.counts_ram or not capacity.hosts:
        return ""
    return f", {sum(host.ram_bytes or 0 for host in capacity.hosts) / MIB:,.0f} MiB of RAM for them"
