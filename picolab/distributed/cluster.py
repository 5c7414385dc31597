"""The client's side of a Dask scheduler: its workers, what they have to offer, and calls to all of them."""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picolab.config.sizes import MIB
from picolab.distributed import worker
from picolab.errors import HostUnfit, ParameterError

INSTALL = "pip install 'picolab[distributed]'"
MACHINE, RAM = "machine", "RAM"
"""Resources of a worker: how many trials it may run at once, and the RAM of their machines in bytes."""
_CONNECT_S = 10.0


@dataclass(frozen=True)
class Host:
    """A worker of the cluster.

    Attributes:
        machines: how many orders it runs at once.
        ram_bytes: of their machines together; None when it does not say.
    """

    address: str
    machines: int
    ram_bytes: float | None


@dataclass(frozen=True)
class Capacity:
    """The workers that can run trials."""

    hosts: tuple[Host, ...]

    @property
    def machines(self) -> int:
        return sum(host.machines for host in self.hosts)

    @property
    def counts_ram(self) -> bool:
        """Whether every worker says how much RAM it has for machines: then trials ask for theirs."""
        return all(host.ram_bytes is not None for host in self.hosts)


def load_distributed() -> Any:
    """Return the module `distributed`, which only campaigns on several hosts need.

    Raises:
        ParameterError: it is not installed.
    """
    try:
        import distributed
    except ImportError:
        raise ParameterError(f"--scheduler needs the package distributed; install it with: {INSTALL}") from None
    # Its log lines would tear the progress; everything that matters is said in a sentence.
    logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)
    return distributed


class Cluster:
    """A connection to a scheduler.

    Args:
        address: such as `tcp://10.0.0.1:8786`.

    Attributes:
        session: the name of this connection; orders of a session are stopped together.

    Raises:
        ParameterError: the package is missing, or the address makes no sense.
        HostUnfit: no scheduler answers there.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._distributed = load_distributed()
        self._client: Any = None
        self.session = ""
        if "://" not in address:
            raise ParameterError(f"--scheduler {address!r} is no address of a scheduler; write it as tcp://HOST:PORT")
        if address.startswith("tls://") and not self._has_certificates():
            raise ParameterError(
                f"--scheduler {address}: Dask has no certificates; set them as "
                f"https://distributed.dask.org/en/stable/tls.html says"
            )
        if not self.connect():
            raise HostUnfit(
                f"--scheduler {address}: no scheduler answers there; start one with: dask scheduler, or look at the "
                f"address and the firewall"
            )

    def _has_certificates(self) -> bool:
        return bool(self._distributed.Security().get_connection_args("client").get("ssl_context"))

    def connect(self) -> bool:
        """Connect anew, as another session; return whether the scheduler answers within ten seconds.

        Raises:
            ParameterError: the address makes no sense.
            HostUnfit: the scheduler has another version of Dask.
        """
        self.close()
        try:
            self._client = self._distributed.Client(
                self.address, timeout=_CONNECT_S, set_as_default=False, name="picolab", heartbeat_interval="5s"
            )
        except OSError:
            return False
        except ValueError as error:
            raise ParameterError(f"--scheduler {self.address!r}: {error}; write it as tcp://HOST:PORT") from None
        except ImportError as error:
            why = str(error).partition("\n")[0]
            raise HostUnfit(f"--scheduler {self.address}: {why}; install the same version of distributed") from None
        self.session = uuid.uuid4().hex
        return True

    def close(self) -> None:
        """Disconnect; the scheduler forgets the orders that have not begun."""
        if self._client is not None:
            with contextlib.suppress(OSError, TimeoutError):
                self._client.close(timeout=5)
            self._client = None

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_connected(self) -> bool:
        return self._client is not None and self._client.status == "running"

    def capacity(self) -> Capacity:
        """Return the workers with the resource `machine`."""
        if not self.is_connected:
            return Capacity(())
        try:
            known = self._client.scheduler_info(n_workers=-1)["workers"]
        except OSError:
            return Capacity(())
        found = []
        for address, facts in known.items():
            resources = facts.get("resources") or {}
            if resources.get(MACHINE, 0) >= 1:
                found.append(Host(address, int(resources[MACHINE]), resources.get(RAM)))
        return Capacity(tuple(found))

    def check_workers(self) -> Capacity:
        """Return the workers that can run trials.

        Raises:
            HostUnfit: there is none, or one has another picolab.
        """
        found = self.capacity()
        if not found.hosts:
            raise HostUnfit(
                f"--scheduler {self.address}: no worker offers a machine; start one on each host with: "
                f'dask worker {self.address} --nthreads 1 --resources "machine=1"'
            )
        ours = worker.software()
        for address, facts in self._ask([host.address for host in found.hosts]).items():
            theirs = facts["software"] if isinstance(facts, dict) else f"no picolab ({facts})"
            if theirs != ours:
                raise HostUnfit(
                    f"--scheduler {self.address}: the worker {address} has picolab {theirs[:200]} and this host has "
                    f"{ours}; install the same version on both"
                )
        return found

    def _ask(self, addresses: list[str]) -> dict[str, Any]:
        answers: dict[str, Any] = self._client.run(worker.facts, workers=addresses, on_error="return")
        return answers

    def submit(
        self, order: str, key: str, resources: dict[str, float], workers: list[str] | None, done: Callable[[Any], None]
    ) -> Any:
        """Give an order to the scheduler; return its future.

        Args:
            workers: addresses of those that may run it; None: all.
            done: called in another thread when the future has ended.
        """
        future = self._client.submit(
            worker.run_order, order, key=key, resources=resources, workers=workers, pure=False, retries=0
        )
        future.add_done_callback(done)
        return future

    def send_build(self, address: str, path: Path, sha256: str, size_bytes: int) -> None:
        """Copy an executable to a worker, in parts of 4 MiB.

        Raises:
            OSError: the file cannot be read, or the worker is gone.
            ValueError: it has changed meanwhile.
        """
        with path.open("rb") as file:
            for offset in range(0, size_bytes, worker.CHUNK_BYTES):
                data = file.read(worker.CHUNK_BYTES)
                self._client.run(worker.store_chunk, sha256, size_bytes, offset, data, workers=[address])

    def forget(self, address: str, key: str) -> None:
        """Have a worker remove the files of an order; it is not waited for."""
        client = self._client

        def ask() -> None:
            with contextlib.suppress(Exception):  # the worker may be gone, and its files with it
                client.run(worker.forget_order, key, workers=[address])

        threading.Thread(target=ask, daemon=True).start()

    def stop(self, session: str) -> None:
        """Have all workers stop the orders of a session."""
        with contextlib.suppress(Exception):  # whoever is gone has stopped
            self._client.run(worker.stop_session, session, on_error="ignore")

    def running(self) -> set[str]:
        """Return the keys of the orders that workers have."""
        try:
            return {str(key) for keys in self._client.processing().values() for key in keys}
        except OSError:
            return set()

    def is_killed(self, error: BaseException | None) -> bool:
        """Return whether an order ended because several workers died while they ran it."""
        return isinstance(error, self._distributed.KilledWorker)


def ram_in_words(capacity: Capacity) -> str:
    """Return the RAM that all workers have for machines, in words; empty when they do not all say it."""
    if not capacity.counts_ram or not capacity.hosts:
        return ""
    return f", {sum(host.ram_bytes or 0 for host in capacity.hosts) / MIB:,.0f} MiB of RAM for them"
