"""The stage upload."""

from typing import TYPE_CHECKING

from picolab.config.sizes import MIB, in_mib
from picolab.errors import MachineSilent
from picolab.files import reserve
from picolab.jupyter.live_line import LiveLine
from picolab.machines.base import Machine
from picolab.machines.kinds import kind_of
from picolab.record import caveats, host_caveats
from picolab.record.outcomes import Outcome
from picolab.record.steps import LimitDuringStep
from picolab.servers.client import DELETE_LIMIT_S
from picolab.servers.measurements import Limits, TransferProgress, UploadMeasurement, UploadsMeasurement
from picolab.text.wording import in_seconds
from picolab.trial.endings import require_running, server_ended, settled_status, was_oom_killed
from picolab.trial.measured_step import (
    conditions_now,
    conditions_since,
    files,
    files_in_words,
    limit_in_force,
    limit_lifted,
    memory_of,
    page_cache,
    probe_ended_early,
    reserve_room,
)
from picolab.trial.run import NotOk, TrialRun
from picolab.trial.start import authenticate, start
from picolab.trial.state import PROGRESS_FILE, SAMPLES_FILE
from picolab.trial.upload_record import upload_record, why_no_sync

if TYPE_CHECKING:
    from picolab.trial.upload_view import UploadView


def upload(run: TrialRun) -> str:
    """Upload the files, measured or not; return a line for the reader.

    Raises:
        NotOk: a file was not answered with success.
        ProbeError: the memory probe ended too early.
    """
    machine = run.attached("authenticate")
    require_running(run, machine, "before the upload")
    if run.measures("upload"):
        return _upload_under(run, machine, limit_in_force(run, machine))
    not_restored: list[str] = []
    with limit_lifted(run, machine, not_restored) as limit:
        line = _upload_under(run, machine, limit)
    if not not_restored:
        return line
    # A download by this server would be measured under another limit than the trial's.
    run.say(f"upload: {not_restored[0]}; a new server is started, and the upload is done again under the limit")
    start(run)
    authenticate(run)
    return _upload_under(run, machine, limit_in_force(run, machine))


def _upload_under(run: TrialRun, machine: Machine, limit: LimitDuringStep) -> str:
    parameters = run.state.parameters
    run.put_aside(SAMPLES_FILE)
    reserve_room(run, "upload", SAMPLES_FILE)
    run.add_caveats(caveats.of_attempts(run.state.stages["upload"].attempts))
    sync_s = None
    with run.client(machine) as client:
        for entry_id in filter(None, run.state.entry_ids):
            # A file of an earlier attempt would only fill the disk.
            client.delete(entry_id, min(DELETE_LIMIT_S, parameters.upload_limit_s))
        run.state.entry_ids = []
        cache = page_cache(run, machine, "upload")
        before = conditions_now(run, machine)
        probe = machine.probe(parameters.sample_interval_s, run.folder / SAMPLES_FILE)
        if run.state.machine is not None and kind_of(run.state.machine.kind).is_virtual:
            # The guest's clock was read anew: this reading maps the samples.
            run.state.machine = machine.describe()
        try:
            with LiveLine("upload", run.folder / PROGRESS_FILE) as live:
                view = _view(run, limit) if live.in_notebook else None

                def report(progress: TransferProgress) -> None:
                    live.show(progress.line(), None if view is None else lambda: view.shown(progress))

                limits = Limits(parameters.stall_limit_s, parameters.upload_limit_s)
                measurement = client.upload_files(files(run), limits, report)
                run.state.entry_ids = [measured.entry_id for measured in measurement.files]
                if measurement.succeeded and why_no_sync(run) is None:
                    sync_s = machine.sync_data()
                if view is not None:
                    live.show_last(view.over(measurement))
        finally:
            probe_exit = probe.finish()
            reserve.give_back(run.folder / SAMPLES_FILE)
            run.add_caveats(caveats.of_clock(probe.clock_drift_s))
    run.state.conditions = conditions_since(run, before, machine, "conditions")
    run.add_caveats(host_caveats.of_conditions(run.state.conditions))
    run.state.upload = upload_record(run, measurement, cache, sync_s, limit, live.in_notebook)
    run.add_caveats(caveats.of_instrument(run.state.instrument, run.state.upload.transfer_mib_s, None))
    zero_s = measurement.first_byte_s if measurement.first_byte_s is not None else 0.0
    run.state.memory, missing, whole = memory_of(run, SAMPLES_FILE, zero_s)
    run.state.missing.update(missing)
    run.add_caveats(caveats.of_memory(run.state.memory))
    if not whole:
        _judge_silence(run, machine, measurement)
        raise probe_ended_early(run, machine, probe_exit, run.state.memory)
    _judge_upload(run, measurement)
    upload = run.state.upload
    synced = "" if upload.sync_s is None else f", sync {in_seconds(upload.sync_s)}"
    return (
        f"{files_in_words(parameters)} in {upload.duration_s:.2f} s = {upload.throughput_mib_s:.1f} MiB/s "
        f"(transfer {in_seconds(upload.transfer_s)}, commit {in_seconds(upload.commit_s)}{synced}), "
        f"peak anonymous memory {in_mib(run.state.memory.peak_anon_bytes)}"
    )


def _view(run: TrialRun, limit: LimitDuringStep) -> "UploadView":
    """Return the view for a person; nothing of it is imported where nobody watches."""
    from picolab.trial.upload_view import UploadView

    machine = run.state.machine
    limit_bytes = machine.memory_limit.limit_bytes if machine is not None and limit == "kept" else None
    return UploadView(run.folder / SAMPLES_FILE, limit_bytes)


def _judge_silence(run: TrialRun, machine: Machine, measured: UploadsMeasurement) -> None:
    """Raise the result when no byte was delivered any more and the machine itself does not answer either."""
    if run.state.upload is None or all(one.ending != "stalled" for one in measured.failed):
        return
    try:
        machine.process_status()
    except MachineSilent as error:
        delivered = f"after {measured.delivered_bytes / MIB:.1f} of {run.state.parameters.uploaded_bytes / MIB:.1f} MiB"
        limit = f"{run.state.parameters.stall_limit_s:g} s"
        found = NotOk(
            Outcome.STALLED,
            f"no byte was delivered for stall_limit_s = {limit}, {delivered}; the machine did not answer either, so it "
            f"is not known whether the server still ran ({error})",
        )
        run.state.upload.outcome, run.state.upload.outcome_detail = found.outcome, found.detail
        raise found from None


def _judge_upload(run: TrialRun, measured: UploadsMeasurement) -> None:
    """Note the result of the upload, and raise it unless every file was answered with success.

    Of several that failed the first counts.
    """
    assert run.state.upload is not None
    failed = measured.failed
    if not failed:
        run.state.upload.outcome = Outcome.OK
        run.state.upload.outcome_detail = "the upload was answered with success"
        return
    found = _failed_upload(run, failed, measured.delivered_bytes)
    several = f"{len(failed)} of {len(measured.files)} uploads failed, the first of them so: "
    found = NotOk(found.outcome, (several if len(measured.files) > 1 else "") + found.detail)
    run.state.upload.outcome, run.state.upload.outcome_detail = found.outcome, found.detail
    raise found


def _failed_upload(run: TrialRun, failed: list[UploadMeasurement], delivered_bytes: int) -> NotOk:
    """Return the result that the first of the failed uploads means.

    Args:
        delivered_bytes: of all files.
    """
    assert run.state.upload is not None
    first = failed[0]
    delivered = f"after {delivered_bytes / MIB:.1f} of {run.state.parameters.uploaded_bytes / MIB:.1f} MiB"
    status = settled_status(run, wait=any(one.ending == "connection_lost" for one in failed))
    if not status.running or was_oom_killed(run, status):
        return server_ended(run, status, delivered, run.state.upload.memory_limit)
    if first.ending == "timeout":
        limit = f"{run.state.parameters.upload_limit_s:g} s"
        return NotOk(Outcome.TIMEOUT, f"the upload took longer than its limit of {limit}, {delivered}")
    if first.ending == "stalled":
        limit = f"{run.state.parameters.stall_limit_s:g} s"
        return NotOk(Outcome.STALLED, f"no byte was delivered for stall_limit_s = {limit}, {delivered}")
    if first.http_status is not None:
        sentence = first.server_message or ""
        full = run.server.is_disk_full(sentence)
        return NotOk(
            Outcome.DISK_FULL if full else Outcome.HTTP_ERROR,
            f"the server answered {first.http_status}: {sentence}",
        )
    if first.server_message is not None:
        return NotOk(Outcome.HTTP_ERROR, f"the upload failed, {delivered}: {first.server_message}")
    return NotOk(
        Outcome.HTTP_ERROR,
        f"the server closed the connection without an answer, {delivered} ({first.ending_detail})",
    )
