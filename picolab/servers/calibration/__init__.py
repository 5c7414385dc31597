"""The calibration server: a program with known truth that speaks PicoShare's contract.

It is started as a program of its own: `server.py` needs nothing but a Python >= 3.9. Only its knobs are imported, so
that a campaign can refuse a misspelt one before it starts.
"""

from __future__ import annotations

from pathlib import Path

SERVER_PATH = Path(__file__).with_name("server.py")
"""The executable to start, or to copy to another machine."""

SINK_PATH = Path(__file__).with_name("sink.py")
"""A server that does nothing with what it gets: what remains is the client's own speed."""
