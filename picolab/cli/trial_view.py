"""A single trial on the terminal: its outcome, rates, memory and caveats."""

from picolab.campaign.single_trial import FinishedTrial
from picolab.cli.terminal import Text, colour, console
from picolab.config.sizes import MIB
from picolab.record.outcomes import OUTCOME_MEANINGS, STEPS, Step
from picolab.record.record import step_outcome
from picolab.record.steps import MemoryRecord
from picolab.text.foreign import one_line
from picolab.text.wording import in_seconds


def print_trial(finished: FinishedTrial) -> None:
    """Print what a single trial found."""
    record = finished.record
    if record is None:
        console.print(f"No record: {one_line(finished.reason)}", style="red")
    else:
        console.print(
            Text(record.outcome, style=f"bold {colour(record.outcome)}")
            + Text(f"  ({OUTCOME_MEANINGS[record.outcome]})")
        )
        console.print(f"  {one_line(record.outcome_detail)}")
        upload = record.upload
        virtual = record.machine.virtual_machine if record.machine else None
        emulated = " (emulated)" if virtual is not None and virtual.acceleration == "emulation" else ""
        found = {step: step_outcome(record, step) for step in STEPS}
        unmeasured = " (not measured, only done)"
        if upload is not None and upload.duration_s is not None:
            console.print(
                f"  upload    {found['upload'] or 'done'}, {upload.throughput_mib_s:,.1f} MiB/s{emulated}: "
                f"transfer {in_seconds(upload.transfer_s)}, commit {in_seconds(upload.commit_s)}"
                + ("" if found["upload"] else unmeasured)
            )
        elif found["upload"] is not None:
            console.print(f"  upload    {found['upload']}")
        if record.verify is not None and record.verify.download_mib_s is not None:
            console.print(
                f"  download  {found['download'] or 'done'}, {record.verify.download_mib_s:,.1f} MiB/s{emulated}"
                + ("" if found["download"] else unmeasured)
            )
        elif found["download"] is not None:
            console.print(f"  download  {found['download']}")
        memories: dict[Step, MemoryRecord | None] = {
            "upload": record.memory,
            "download": record.download.memory if record.download else None,
        }
        for step, memory in memories.items():
            if found[step] is None or memory is None or memory.peak_anon_bytes is None or record.machine is None:
                continue
            limit = record.machine.memory_limit.limit_bytes
            of_limit = f"of {limit / MIB:,.0f} MiB" if limit else "with no limit"
            console.print(
                f"  memory    {step}: peak {memory.peak_anon_bytes / MIB:,.1f} MiB anonymous {of_limit}, "
                f"{memory.samples} samples"
            )
        for caveat in record.caveats:
            console.print(f"  caveat    {one_line(caveat.message)} {caveat.advice}", style="yellow")
    if finished.kept_machine:
        console.print(
            f"The machine {finished.kept_machine!r} is still up. Look at it: open {finished.folder / 'trial.ipynb'} in "
            f"JupyterLab and run it. Take it down: picolab machines remove {finished.kept_machine}"
        )
        if finished.way_in:
            console.print(f"Get into it: {finished.way_in}")
    if finished.still_up:
        console.print(f"{one_line(finished.still_up)}.", style="yellow")
    console.print(f"Files: {finished.folder}")
