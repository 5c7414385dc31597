"""The keeper of a virtual machine: outlives kernels, and takes the machine down when nobody holds it any more.

Unlike the keeper of a local machine it is not needed for the machine to run: the guest looks after the server itself.
"""

import json
import os
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from picolab.errors import MachineError, PicolabError
from picolab.files.writing import write_atomically
from picolab.host.processes import ProcessIdentity, this_process
from picolab.machines.folders import KEEPER, keeper_of, note_unheld, spec_of, start_keeper
from picolab.machines.local.keeper import KEEP_LEASE_S

_POLL_S = 1.0


def ensure_keeper(folder: Path) -> None:
    """Start the keeper of a machine, unless it has one.

    Raises:
        MachineError: it did not start.
    """
    if keeper_of(folder) is None:
        said = start_keeper(folder, [sys.executable, "-m", "picolab.machines.vagrant.keeper", str(folder)])
        if said != "ready":
            raise MachineError(f"the machine {folder.name!r} has no keeper: {said or 'it ended'}")


def watch(folder: Path, told_to_end: threading.Event) -> bool:
    """Return True when the machine is to be taken down, False when it is already gone."""
    lease_ends_s = None
    while not told_to_end.wait(_POLL_S):
        spec = spec_of(folder)
        if spec is None or keeper_of(folder) != this_process():
            # Gone, or gone and made anew: then it has another keeper.
            return False
        holder = ProcessIdentity.from_json(spec["holder"])
        if holder.alive:
            lease_ends_s = None
        elif not spec["keep"]:
            return True
        elif lease_ends_s is None:
            # An earlier keeper may have seen it go.
            since = note_unheld(folder, holder)
            unheld_s = max(0.0, (datetime.now(UTC) - since).total_seconds())
            lease_ends_s = time.monotonic() + KEEP_LEASE_S - unheld_s
        elif time.monotonic() > lease_ends_s:
            return True
    return True


def main() -> None:
    """Keep the machine whose folder is the first argument."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    told_to_end = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told_to_end.set())
    folder = Path(sys.argv[1])
    try:
        write_atomically(folder / KEEPER, json.dumps({"process": this_process().to_json()}))
    except OSError as error:
        print(str(error), flush=True)
        sys.exit(1)
    print("ready", flush=True)
    # Whoever started the keeper reads the line above and then goes away.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    while watch(folder, told_to_end):
        # Slow to import, and not needed as long as all is well.
        from picolab.machines.vagrant import removal

        try:
            if told_to_end.is_set():
                removal.release(folder)
            if removal.release_if_nobody_holds(folder):
                break
        except PicolabError:
            # The next command of picolab's tries again.
            break


if __name__ == "__main__":
    main()
