"""The client's side of a Dask scheduler: its workers, what they have to offer, and calls to all of them."""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from picolab.distributed import worker
from picolab.distributed.call import Call
from picolab.distributed.capacity import MACHINE, RAM, Capacity, Host
from picolab.errors import HostUnfit, ParameterError
from picolab.text.foreign import one_line

INSTALL = "pip install 'picolab[distributed]'"
_CONNECT_S = 10.0
_ANSWER_S = 30.0
"""Workers that do not answer are waited for so long."""
_MOST_ASKED = 50
"""At once, a thread for each."""
_SILENCE_S = 300.0
"""A worker that did not answer is not asked again for so long: meanwhile the campaign would file nothing."""
_PART_S = 120.0
"""For a part of a build on its way through the scheduler."""
_HEAR_S = 0.5
"""Between two looks whether to stop."""


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


@dataclass(frozen=True)
class Begun:
    """An order that has begun at a worker.

    Attributes:
        order: its key.
        worker: address of the worker.
        host: its name.
    """

    order: str
    worker: str
    host: str = ""

    @property
    def words(self) -> str:
        """The worker and its host, in words."""
        return one_line(f"{self.worker} ({self.host})" if self.host else self.worker)


def host_in(words: str) -> str:
    """Return the name of the host in such words; empty when they name none."""
    return words.partition(" (")[2].removesuffix(")")


class Cluster:
    """A connection to a scheduler.

    Args:
        address: such as `tcp://10.0.0.1:8786`.

    Attributes:
        session: the name of this connection; orders of a session are stopped together.
        on_begun: called in another thread when an order has begun at a worker.

    Raises:
        ParameterError: the package is missing, or the address makes no sense.
        HostUnfit: no scheduler answers there.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._distributed = load_distributed()
        self._client: Any = None
        self._facts: dict[str, dict[str, Any]] = {}
        self._begun: queue.SimpleQueue[Begun] = queue.SimpleQueue()
        self.on_begun: Callable[[Begun], None] = lambda _: None
        self._known = Capacity(())
        self._scheduler_id = ""
        self._silent_at_s: dict[str, float] = {}
        self._why = ""
        self.session = ""
        if "://" not in address:
            raise ParameterError(f"--scheduler {address!r} is no address of a scheduler; write it as tcp://HOST:PORT")
        if address.startswith("tls://"):
            self._check_certificates()
        if not self.connect():
            why = f" ({self._why})" if self._why else ""
            raise HostUnfit(
                f"--scheduler {address}: no scheduler answers there{why}; start one with: dask scheduler, or look at "
                f"the address, the firewall and, with tls://, at the certificates; a scheduler with certificates has "
                f"no tcp:// address"
            )

    def _check_certificates(self) -> None:
        security = self._distributed.Security()
        try:
            if security.get_connection_args("client").get("ssl_context"):
                return
            why = "Dask has no certificates"
        except (OSError, ValueError) as error:
            files = [security.tls_ca_file, security.tls_client_cert, security.tls_client_key]
            why = f"the certificates {', '.join(map(str, files))} cannot be used: {error}"
        raise ParameterError(
            f"--scheduler {self.address}: {why}; set distributed.comm.tls in Dask's configuration as docs/scale-out.md "
            f"shows"
        )

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
        except OSError as error:
            self._why = " ".join(str(error.__cause__ or error).split())[:300]
            return False
        except ValueError as error:
            raise ParameterError(f"--scheduler {self.address!r}: {error}; write it as tcp://HOST:PORT") from None
        except ImportError as error:
            why = str(error).partition("\n")[0]
            raise HostUnfit(f"--scheduler {self.address}: {why}; install the same version of distributed") from None
        self.session = uuid.uuid4().hex
        begun: queue.SimpleQueue[Begun] = queue.SimpleQueue()
        self._begun = begun
        self._client.subscribe_topic(worker.topic(self.session), lambda event: self._note_begun(begun, event))
        self._known = Capacity(())
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

    @property
    def worker_command(self) -> str:
        """The command that starts a worker of this scheduler."""
        return f'dask worker {self.address} --nthreads 1 --memory-limit 0 --resources "machine=1"'

    def capacity(self) -> Capacity:
        """Return the workers with the resource `machine`; of a scheduler that does not answer, those it named last."""
        if not self.is_connected:
            return self._known
        try:
            info = Call(partial(self._client.scheduler_info, n_workers=-1)).result(_ANSWER_S)
        except OSError:
            return self._known
        self._scheduler_id = str(info.get("id"))
        known = info["workers"]
        offers = {address: facts.get("resources") or {} for address, facts in known.items()}
        offers = {address: offer for address, offer in offers.items() if offer.get(MACHINE, 0) >= 1}
        again_s = time.monotonic() - _SILENCE_S
        unknown = [address for address in offers if address not in self._facts]
        self._ask([address for address in unknown if self._silent_at_s.get(address, -math.inf) < again_s])
        found = []
        for address, offer in offers.items():
            facts = self._facts.get(address, {})
            hostname, boot_id = str(facts.get("hostname", "")), str(facts.get("boot_id", ""))
            host_id = facts.get("host_id")
            host_id = None if host_id is None else str(host_id)
            found.append(Host(address, int(offer[MACHINE]), offer.get(RAM), hostname, boot_id, host_id))
        self._known = Capacity(tuple(found))
        return self._known

    def still_there(self) -> frozenset[str]:
        """Return the addresses of the workers after a break of the connection; none of another scheduler."""
        before, found = self._scheduler_id, self.capacity()
        return found.addresses if self._scheduler_id == before else frozenset()

    def check_workers(self) -> Capacity:
        """Return the workers that can run trials.

        Raises:
            HostUnfit: there is none, one has another picolab or runs several trials at once, or only some of them
                offer RAM.
        """
        found = self.capacity()
        if not found.hosts:
            raise HostUnfit(
                f"--scheduler {self.address}: no worker offers a machine; start one on each host with: "
                f"{self.worker_command}"
            )
        ours = worker.software()
        for address, answer in self._ask([host.address for host in found.hosts]).items():
            theirs = (
                f"picolab {str(answer['software'])[:200]}" if isinstance(answer, dict) else "no picolab that answers"
            )
            if theirs != f"picolab {ours}":
                why = "" if isinstance(answer, dict) else f" ({str(answer)[:200]})"
                raise HostUnfit(
                    f"--scheduler {self.address}: the worker {address} has {theirs}{why} and this host has picolab "
                    f"{ours}; install the same version on both, and start the worker again"
                )
        for host in found.hosts:
            if host.machines > 1:
                raise HostUnfit(
                    f"--scheduler {self.address}: the worker {host.address} offers machine={host.machines}, and trials "
                    f"that run at once on one host disturb each other; start it again with: {self.worker_command}"
                )
        silent = [host.address for host in found.hosts if host.ram_bytes is None]
        if found.counts_ram and silent:
            raise HostUnfit(
                f"--scheduler {self.address}: the worker {silent[0]} offers no RAM and others do; start each worker "
                f'with the RAM of its machines in bytes, such as --resources "machine=1 RAM=8e9", or each without it'
            )
        return found

    def notes(self, capacity: Capacity) -> list[str]:
        """Return what the user should know about some workers, a sentence each."""
        waiting = [(host.address, self._facts.get(host.address, {}).get("waits_for")) for host in capacity.hosts]
        # Of two workers of this cluster the client knows already.
        alone = {hosts[0].address for hosts in capacity.by_kernel if len(hosts) == 1}
        return capacity.shared_words + [
            f"The worker {address} waits for {str(other)[:100]}: a worker of somebody else, which runs a trial on the "
            f"same host."
            for address, other in waiting
            if other and address in alone
        ]

    def _ask(self, addresses: list[str]) -> dict[str, Any]:
        """Ask workers for their facts; return what each answered, which may be an exception."""
        ask = partial(self._client.run, worker.facts, on_error="return")
        no_answer = TimeoutError(f"no answer came within {_ANSWER_S:.0f} s")
        left, came = deque(addresses), dict[str, Any]()

        def ask_one_by_one() -> None:
            with contextlib.suppress(IndexError):
                while True:
                    address = left.popleft()
                    came[address] = no_answer
                    # Each by itself: in one call for all, a silent worker would hold up the answers of the others.
                    try:
                        came[address] = ask(workers=[address])[address]
                    except Exception as error:  # the scheduler is gone, or Dask cannot read what the worker has raised
                        came[address] = error

        deadline = time.monotonic() + _ANSWER_S
        # Not the threads of an executor: a process that ends would wait for them.
        for call in [Call(ask_one_by_one) for _ in addresses[:_MOST_ASKED]]:
            call.has_ended(max(0.0, deadline - time.monotonic()))
        left.clear()
        asked = dict(came)  # the threads that wait still write there
        for address, answer in asked.items():
            if isinstance(answer, TimeoutError):
                self._silent_at_s[address] = time.monotonic()
        answers = dict.fromkeys(addresses, no_answer) | asked
        self._facts |= {address: answer for address, answer in answers.items() if isinstance(answer, dict)}
        return answers

    def _run(self, function: Callable[..., Any], *args: object, **how: object) -> Any:
        """Call a function in workers.

        Raises:
            TimeoutError: one of them does not answer.
        """
        return Call(partial(self._client.run, function, *args, **how)).result(_ANSWER_S)

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

    def _note_begun(self, found: queue.SimpleQueue[Begun], event: tuple[float, Any]) -> None:
        """Note what a worker says, in the thread of Dask."""
        said = event[1]
        if isinstance(said, dict):
            begun = Begun(*(str(said.get(name))[:150] for name in ("order", "worker", "host")))
            found.put(begun)
            self.on_begun(begun)

    def begun(self) -> list[Begun]:
        """Return the orders that have begun at workers since the last call, as far as their workers could say it."""
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._begun.get_nowait())
        return found

    def send_build(
        self, address: str, path: Path, sha256: str, size_bytes: int, is_stopped: Callable[[], bool]
    ) -> None:
        """Copy an executable to a worker, in parts of 4 MiB, until somebody asks to stop.

        Raises:
            OSError: the file cannot be read, or the worker is gone or does not answer.
            ValueError: it has changed meanwhile.
        """
        with path.open("rb") as file:
            for offset in range(0, size_bytes, worker.CHUNK_BYTES):
                data = file.read(worker.CHUNK_BYTES)
                store = partial(self._client.run, worker.store_chunk, sha256, size_bytes, offset, data)
                part, deadline = Call(partial(store, workers=[address])), time.monotonic() + _PART_S
                while not part.has_ended(_HEAR_S) and time.monotonic() < deadline:
                    if is_stopped():
                        return
                part.result()
                if is_stopped():
                    return

    def forget(self, address: str, key: str) -> None:
        """Have a worker remove the files of an order; it is not waited for."""
        # The worker may be gone, and its files with it.
        Call(partial(self._client.run, worker.forget_orders, [key], workers=[address]))

    def forget_everywhere(self, keys: list[str]) -> None:
        """Have all workers remove the files of orders, such as those of a worker that died and started again."""
        with contextlib.suppress(Exception):  # whoever is gone keeps its files for `picolab clean`
            self._run(worker.forget_orders, keys, on_error="ignore")

    def stop(self, session: str, key: str = "") -> None:
        """Have all workers stop the orders of a session, or the one with a key."""
        with contextlib.suppress(Exception):  # whoever is gone has stopped
            self._run(worker.stop_session, session, key, on_error="ignore")

    def running(self) -> set[str]:
        """Return the keys of the orders that workers have."""
        try:
            found = Call(self._client.processing).result(_ANSWER_S)
            return {str(key) for keys in found.values() for key in keys}
        except OSError:
            return set()

    def killed_by(self, error: BaseException | None) -> str:
        """Return the last of the workers that died while they ran an order; empty when it ended otherwise."""
        return str(error.last_worker.address) if isinstance(error, self._distributed.KilledWorker) else ""
