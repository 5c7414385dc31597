"""The thresholds of the checks: from where on something is a weakness. docs/examine.md lists them with their checks."""

READY_S = 2.0
"""To be ready with an empty data folder, in the fastest of `STARTS`."""
STARTS = 3
"""At most, while none is fast enough: other programs of the host can make a start slow, and never fast."""
STOP_S = 2.0
"""From SIGTERM to the end of an idle server."""
STALLED_STOP_S = 10.0
"""From SIGTERM to the end of a server that has a stalled upload: `docker stop` kills after these."""
NOTICE_S = 0.5
"""What a server gets to notice a SIGTERM before the client sends the rest of its upload."""
RESTART_S = 5.0
"""To be ready after a crash, with the files of before."""
EXIT_S = 5.0
"""To exit when a setting cannot work."""
ANSWER_S = 3.0
"""To refuse an upload whose body does not come."""
FREE_S = 5.0
"""To free the disk space of an upload that failed."""
KEPT_SHARE = 0.1
"""Of an upload that failed, or of the space that was free before it: a database may grow by some pages, but not by the
file."""
LEAK_BYTES = 64 * 1024
"""Per upload: the lower end of the interval of the slope of anonymous memory."""
LATENCY_S = 1.0
"""The slowest request while a large upload is sent or stored."""
