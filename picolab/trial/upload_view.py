"""The view of a running upload in a notebook: phase, rate, and the server's memory against its limit.

The thread that watches the upload makes it, at most twice a second. Memory is read from the last line of the samples.
Nothing in a campaign's trial imports this module.
"""

import json
import os
from pathlib import Path

from picolab.config.sizes import MIB, in_mib
from picolab.servers.measurements import TransferProgress, UploadsMeasurement
from picolab.text.markup import Html, bar, escape
from picolab.text.wording import in_seconds

_TAIL_BYTES = 4096
"""Of the samples file: more than its longest line has."""
_COLUMN = "anon_bytes"
_UPLOAD_COLOUR, _MEMORY_COLOUR = "#00976e", "#0079bd"


class UploadView:
    """Shows the progress of one upload (of all files together).

    Args:
        samples: the file into which the memory probe writes; it has its first sample.
        limit_bytes: memory limit of the server; None: it has none in this step.
    """

    def __init__(self, samples: Path, limit_bytes: int | None) -> None:
        self._samples = samples
        self._limit_bytes = limit_bytes
        self._before = (0.0, 0)
        self._index: int | None = None

    def shown(self, progress: TransferProgress) -> Html:
        """Return the view at this moment."""
        delivered, size = progress.delivered_bytes / MIB, progress.size_bytes / MIB
        facts = [progress.phase, f"{delivered:,.0f} of {size:,.0f} MiB"]
        if progress.phase == "commit":
            facts.append(f"the server commits, {progress.elapsed_s:.0f} s since the first byte")
        else:
            facts.append(f"{progress.rate_mib_s:,.1f} MiB/s on average, {self._rate_now(progress):,.1f} now")
            if progress.eta_s is not None:
                facts.append(f"ETA {progress.eta_s:.0f} s")
        return self._view(facts, progress.delivered_bytes / progress.size_bytes)

    def over(self, measured: UploadsMeasurement) -> Html:
        """Return the view when the upload has ended."""
        size_bytes = sum(one.delivered_bytes for one in measured.files)
        first_s, response_s = measured.first_byte_s, measured.response_s
        facts = ["ended", f"{size_bytes / MIB:,.0f} MiB delivered"]
        if not measured.succeeded:
            facts.append("not answered with success")
        elif first_s is not None and response_s is not None and response_s > first_s:
            facts.append(
                f"{size_bytes / MIB / (response_s - first_s):,.1f} MiB/s in {in_seconds(response_s - first_s)}"
            )
        return self._view(facts, 1.0 if measured.succeeded else None)

    def _rate_now(self, progress: TransferProgress) -> float:
        (elapsed_s, delivered), self._before = self._before, (progress.elapsed_s, progress.delivered_bytes)
        if progress.elapsed_s <= elapsed_s:
            return progress.rate_mib_s
        return (progress.delivered_bytes - delivered) / MIB / (progress.elapsed_s - elapsed_s)

    def _view(self, facts: list[str], share: float | None) -> Html:
        anon_bytes = self._anon_bytes()
        memory = f"server's anonymous memory {in_mib(anon_bytes)}"
        memory += " without a limit" if self._limit_bytes is None else f" of {in_mib(self._limit_bytes)}"
        full = anon_bytes / self._limit_bytes if anon_bytes is not None and self._limit_bytes else None
        lines = [
            f"<div><b>upload</b> {escape(', '.join(facts))}</div>",
            "" if share is None else bar(share, _UPLOAD_COLOUR),
            f"<div>{escape(memory)}</div>",
            "" if full is None else bar(full, _MEMORY_COLOUR),
        ]
        style = "max-width:44em;font-variant-numeric:tabular-nums"
        return Html(f'<div style="{style}">{"".join(lines)}</div>', f"upload {', '.join(facts)}; {memory}")

    def _anon_bytes(self) -> int | None:
        """Return the newest sample; None when there is none."""
        try:
            with self._samples.open("rb") as file:
                if self._index is None:
                    self._index = json.loads(file.readline())["columns"].index(_COLUMN)
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _TAIL_BYTES))
                # What follows the last line end is incomplete.
                *_, last, _ = file.read(_TAIL_BYTES).split(b"\n")
            row = json.loads(last)
            value = row[self._index] if isinstance(row, list) else None
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            return None
        return value if isinstance(value, int) else None
