"""The workers of a scheduler: what they offer, and which of them share a host."""

from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass
from functools import cached_property

from picolab.config.sizes import MIB
from picolab.record.hosts import HostIdentity, same_host
from picolab.text.wording import listed_few

MACHINE, RAM = "machine", "RAM"
"""Resources of a worker: how many trials it may run at once, and the RAM of their machines in bytes."""


@dataclass(frozen=True)
class Host:
    """A worker of the cluster.

    Attributes:
        machines: how many orders it offers to run at once; more than one is refused.
        ram_bytes: of their machines together; None when it does not say.
        hostname: of the host it runs on; empty when the worker did not answer.
        boot_id: of the kernel it runs on; empty when the worker did not answer.
        host_id: see `picolab.record.hosts`.
    """

    address: str
    machines: int
    ram_bytes: float | None
    hostname: str = ""
    boot_id: str = ""
    host_id: str | None = None

    @property
    def identity(self) -> HostIdentity:
        """Which host it runs on."""
        return HostIdentity(self.hostname, self.host_id, self.boot_id or None)

    @property
    def kernel(self) -> str:
        """Names the kernel it runs on; a worker that did not answer counts as alone on its own."""
        return self.boot_id or self.address


@dataclass(frozen=True)
class Capacity:
    """The workers that can run trials. Whatever is asked for each order is found once: there may be 1,000 workers."""

    hosts: tuple[Host, ...]

    @cached_property
    def addresses(self) -> frozenset[str]:
        """The addresses of the workers."""
        return frozenset(host.address for host in self.hosts)

    def hostname_of(self, address: str) -> str:
        """Return the name of a worker's host; empty when it is not known."""
        return self._hostnames.get(address, "")

    @cached_property
    def _hostnames(self) -> dict[str, str]:
        return {host.address: host.hostname for host in self.hosts}

    @cached_property
    def by_kernel(self) -> list[list[Host]]:
        """The workers, those on one kernel together."""
        found: dict[str, list[Host]] = {}
        for host in self.hosts:
            found.setdefault(host.kernel, []).append(host)
        return list(found.values())

    @property
    def is_shared(self) -> bool:
        """Whether several workers run on one kernel."""
        return len(self.by_kernel) < len(self.hosts)

    @cached_property
    def _fit(self) -> dict[tuple[HostIdentity | None, float], Sequence[Host]]:
        return {(None, 0.0): self.hosts}

    def fit(
        self, there: HostIdentity | None, ram_bytes: float = 0.0, refused_by: Collection[str] = ()
    ) -> Sequence[Host]:
        """Return the workers on a host, or for None on all hosts, that offer enough RAM; for 0 bytes all of them.

        Args:
            refused_by: addresses of workers that are left out.
        """
        wanted = there, ram_bytes
        if wanted not in self._fit:
            able = (host for host in self.hosts if there is None or same_host(there, host.identity))
            self._fit[wanted] = [host for host in able if (host.ram_bytes or 0) >= ram_bytes]
        if not refused_by:
            return self._fit[wanted]
        return [host for host in self._fit[wanted] if host.address not in refused_by]

    def one_per_kernel(self, kept: Container[str], wanted: Container[str]) -> "Capacity":
        """Return one worker of each kernel: two on one would disturb each other's trials.

        Args:
            kept: addresses of workers that may run an order now: they come first.
            wanted: addresses of workers on hosts with blocks that have begun: they come next; then those with the most
                RAM.
        """

        def rank(host: Host) -> tuple[object, ...]:
            return host.address not in kept, host.address not in wanted, -(host.ram_bytes or 0), host.address

        return Capacity(tuple(min(hosts, key=rank) for hosts in self.by_kernel))

    def with_worker(self, other: Host) -> "Capacity":
        """Return the same workers, but another one in the place of the one on its kernel."""
        return Capacity(tuple(other if host.kernel == other.kernel else host for host in self.hosts))

    @property
    def machines(self) -> int:
        """How many orders run at once: of several workers on one kernel, one runs."""
        return len(self.by_kernel)

    @cached_property
    def counts_ram(self) -> bool:
        """Whether workers say how much RAM they have for machines: then trials ask for theirs."""
        return any(host.ram_bytes is not None for host in self.hosts)

    @property
    def shared_words(self) -> list[str]:
        """A sentence for each host with several workers."""
        return [
            f"The workers {listed_few(host.address for host in hosts)} run on one host ({hosts[0].hostname}): their "
            f"trials would disturb each other, and so only one of them gets trials at a time; stop all of these "
            f"workers but one."
            for hosts in self.by_kernel
            if len(hosts) > 1
        ]


def ram_in_words(capacity: Capacity) -> str:
    """Return the RAM that all workers have for machines, in words; empty when they do not say it."""
    if not capacity.counts_ram or not capacity.hosts:
        return ""
    return f", {sum(host.ram_bytes or 0 for host in capacity.hosts) / MIB:,.0f} MiB of RAM for them"
