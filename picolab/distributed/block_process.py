"""The process in which a worker runs the trials of an order, as a campaign with a folder of its own.

    python -m picolab.distributed.block_process FOLDER LOCK

    FOLDER/order.json     the order
    FOLDER/campaign/      the campaign, as `picolab.campaign.runner` describes it
    FOLDER/ending.json    how it ended

LOCK is the descriptor of the host's lock, which it has until it ends. It stops after cleaning up when its standard
input closes, or with SIGINT or SIGTERM. A second process for the same folder waits until the first has ended, and then
continues the campaign.
"""

import fcntl
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from picolab.campaign.progress import Watcher
from picolab.campaign.runner import Campaign
from picolab.distributed.order import Order
from picolab.errors import CampaignChanged, PicolabError
from picolab.exit_codes import ExitCode
from picolab.files.writing import write_atomically
from picolab.host.stop_request import StopRequest

ORDER_FILE, ENDING_FILE, LOCK_FILE, CAMPAIGN = "order.json", "ending.json", "lock", "campaign"


class Ending(BaseModel):
    """How the process ended.

    Attributes:
        error: why it could not run the trials, a sentence; empty when it could.
        notes: sentences for the user.
        died: it ended before it could write this.
    """

    model_config = ConfigDict(extra="forbid")

    interrupted: bool = False
    died: bool = False
    error: str = ""
    notes: list[str] = []


def main(folder: Path, host_lock: int) -> None:
    """Run the order in a folder."""
    os.set_inheritable(host_lock, False)
    pipe = os.dup(0)  # closes on exec, so that no other process keeps it open
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 (a device)
        os.dup2(nothing.fileno(), 0)
    stop = StopRequest().install()
    threading.Thread(target=_stop_at_end, args=(pipe,), daemon=True).start()
    with (folder / LOCK_FILE).open("w") as lock:
        # Its worker was killed, and the process that it had started is cleaning up.
        fcntl.flock(lock, fcntl.LOCK_EX)
        ending = _run(folder, Order.model_validate_json((folder / ORDER_FILE).read_text()), stop)
        write_atomically(folder / ENDING_FILE, ending.model_dump_json())


def _stop_at_end(pipe: int) -> None:
    """Ask this process to stop when a pipe closes."""
    while os.read(pipe, 4096):
        pass
    os.kill(os.getpid(), signal.SIGINT)


def _run(folder: Path, order: Order, stop: StopRequest) -> Ending:
    ending = Ending()
    watcher = Watcher(note=ending.notes.append, stop_requested=lambda: stop.requested)
    try:
        try:
            code = _campaign(folder / CAMPAIGN, order, watcher).run()
        except CampaignChanged:
            # What is left of an earlier order was measured with another build, or on another kernel.
            shutil.rmtree(folder / CAMPAIGN)
            code = _campaign(folder / CAMPAIGN, order, watcher).run()
        ending.interrupted = code is ExitCode.INTERRUPTED
    except PicolabError as error:
        ending.error = str(error)
    return ending


def _campaign(folder: Path, order: Order, watcher: Watcher) -> Campaign:
    folder.mkdir(exist_ok=True)
    order.plan.save(folder)
    return Campaign(folder, order.plan, watcher, machine_name=f"order-{order.key}", earlier_attempts=order.attempts)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
