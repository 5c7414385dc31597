"""Copies of builds to workers that ask for them. A worker gets a build a few times at most: its disk may lose it."""

from collections import Counter
from collections.abc import Callable

from picolab.distributed.cluster import Cluster
from picolab.distributed.order import Builds, Order, Parcel
from picolab.text.wording import counted

_MOST_COPIES = 3
"""Of one build to one worker, until it has run an order."""


class Sending:
    """The copies of builds that workers have got.

    Args:
        is_stopped: whether somebody asked the campaign to stop.
    """

    def __init__(self, is_stopped: Callable[[], bool]) -> None:
        self._is_stopped = is_stopped
        self._copies: dict[str, Counter[str]] = {}

    def answer(self, cluster: Cluster, parcel: Parcel, order: Order, builds: Builds) -> str:
        """Send the builds that a worker misses; return why it cannot have them, empty when it has or nobody waits.

        Args:
            order: that it cannot run without them.
        """
        # Without a connection: the worker asks again.
        if self._is_stopped() or not cluster.is_connected:
            return ""
        ours = {builds[name][1].sha256: builds[name] for name in order.builds}
        if not parcel.missing or not ours.keys() >= set(parcel.missing):
            return "it asks for a build that is not part of its order"
        copies = self._copies.setdefault(parcel.worker, Counter())
        for sha256 in dict.fromkeys(parcel.missing):
            path, build = ours[sha256]
            if copies[sha256] >= _MOST_COPIES:
                return (
                    f"the build {path} was sent to it {counted(copies[sha256], 'time')}, and it has no good copy; look "
                    f"at the disk of its state folder"
                )
            copies[sha256] += 1
            try:
                cluster.send_build(parcel.worker, path, sha256, build.size_bytes, self._is_stopped)
            except Exception as error:  # the worker is gone or does not answer, or the file has changed
                return f"the build {path} could not be sent to it: {error}"
        return ""

    def has_run(self, worker: str) -> None:
        """Note that a worker had all builds of an order."""
        self._copies.pop(worker, None)
