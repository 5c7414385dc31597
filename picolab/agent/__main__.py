"""The agent in a guest: starts the server there, watches it, and says how it is.

It needs Python >= 3.9 and the standard library alone. `bundle.py` ships this package to a guest as one zipapp:

    agent.pyz --home FOLDER --user NAME [--listen SOCKET]

It reads one JSON object a line from standard input and answers each with one JSON object a line, {"ok": true, ...}
or {"ok": false, "error": "a sentence"}. It ends when standard input is closed. With --listen it goes to the background
and does the same for each connection to a unix socket that only that user can open, until the guest ends. It keeps no
state in memory: the server runs on without it, and the next agent finds the server through the files in FOLDER. Times
are seconds of the guest's CLOCK_MONOTONIC, sizes are bytes.

    {"do": "clock"}                                  -> monotonic_s
    {"do": "set_clock", "wall_s": float}             -> moved_s, by how much the wall clock was wrong
    {"do": "facts"}                                  -> what the guest is and has left, see `Agent.facts`
    {"do": "fresh_folders"}                          -> data, tmp: paths of empty folders
    {"do": "free_port"}                              -> port
    {"do": "listener", "port": int}                  -> listener: "nobody" | "server" | "other"
    {"do": "launch", "argv": [...], "env": {...}, "launcher": "screen" | "systemd" | null}    -> status
    {"do": "status"}                                 -> status
    {"do": "stop", "grace_s": float}                 -> status
    {"do": "anon_bytes"}                             -> anon_bytes of the server now
    {"do": "log", "bytes": int}                      -> text: the end of what this server has printed
    {"do": "whole_log", "limit_bytes": int}          -> size_bytes; base64: all of it, null when it is larger
    {"do": "is_installed", "path": str}              -> installed: whether a build is there
    {"do": "drop_page_cache"}                        -> reason: null when it is dropped, else a sentence
    {"do": "sync_data"}                              -> sync_s, until the files of the server were on the disk
    {"do": "space"}                                  -> files_bytes: disk space of the files in data and tmp
    {"do": "reset"}                                  -> facts, after everything of the last server was removed, and the
                                                        disk was told which blocks are free

status: pid, running, exit_code, exit_signal, started_monotonic_s, ended_monotonic_s, stop_s, oom_kills,
oom_evidence, launcher; each null when it is not known or has not happened. `oom_kills` is by how much the kernel's
count has grown since the launch, `oom_evidence` the line of the kernel's log that names the server.

Files in FOLDER:

    data/, tmp/      the server's folders
    server.log       what the server prints
    launch.json      which launch is the last one
    launch-XXXXXXXX/ what the wrapper notes: wrapper and pid (lines of /proc/PID/stat), exit; from an agent: stopped
"""

from __future__ import annotations

import json
import os
import sys

from picolab.agent.kernel_log import protect_the_instrument
from picolab.agent.memory_lock import lock_memory
from picolab.agent.refusal import Refusal
from picolab.agent.requests import Agent


def main() -> None:
    """Answer requests until standard input is closed, or as long as the guest runs."""
    words = sys.argv[1:]
    if len(words) not in (4, 6) or words[0] != "--home" or words[2] != "--user" or words[4:5] not in ([], ["--listen"]):
        sys.exit("usage: agent.pyz --home FOLDER --user NAME [--listen SOCKET]")
    try:
        agent = Agent(words[1], words[3])
        if words[4:]:
            from picolab.agent.listen import serve_in_background

            serve_in_background(words[5], agent, _protect)
            return
    except (Refusal, OSError) as error:
        sys.exit(str(error))
    _protect()
    try:
        for line in sys.stdin.buffer:
            sys.stdout.write(json.dumps(agent.answer(line)) + "\n")
            sys.stdout.flush()
    except (BrokenPipeError, KeyboardInterrupt):
        # Whoever asked is gone.
        os._exit(0)


def _protect() -> None:
    """Keep this process, which must answer when the guest is out of memory, from being killed and from being paged."""
    protect_the_instrument()
    # Where that is not permitted the probe, which runs as the same user, reports it.
    lock_memory()


if __name__ == "__main__":
    main()
