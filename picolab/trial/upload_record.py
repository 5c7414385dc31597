"""An upload's part of the record, made from its measurement."""

from picolab.config.sizes import MIB
from picolab.record.machine import FILE_SYSTEMS_IN_MEMORY
from picolab.record.record import NOT_ASKED_FOR
from picolab.record.steps import LimitDuringStep, PageCache, Progress, UploadedFile, UploadRecord
from picolab.servers.measurements import UploadMeasurement, UploadsMeasurement, peak_rss_bytes
from picolab.servers.payload import seed_of_file
from picolab.trial.run import TrialRun


def upload_record(
    run: TrialRun,
    measured: UploadsMeasurement,
    cache: PageCache = "warm",
    sync_s: float | None = None,
    limit: LimitDuringStep = "kept",
    live_view: bool = False,
) -> UploadRecord:
    """Return the part of the record, and note in the state why each null in it is missing."""
    parameters = run.state.parameters
    size_mib = parameters.uploaded_bytes / MIB
    first_s = measured.first_byte_s
    times, why = _times(measured)
    transfer_s, commit_s, duration_s = times["transfer_s"], times["commit_s"], times["duration_s"]
    last_s = measured.last_byte_s
    overlap = last_s is not None and any(m.response_s is not None and m.response_s < last_s for m in measured.files)
    failed = measured.failed
    no_commit_rate = _no_commit_rate(run, overlap) if commit_s is not None else why["commit_s"]
    record = UploadRecord(
        outcome=None,
        outcome_detail="",
        memory_limit=limit,
        file_size_bytes=parameters.file_size_bytes,
        first_byte_monotonic_s=first_s,
        **times,
        throughput_mib_s=size_mib / duration_s if duration_s else None,
        transfer_mib_s=size_mib / transfer_s if transfer_s else None,
        commit_mib_s=size_mib / commit_s if commit_s and not no_commit_rate else None,
        delivered_bytes=measured.delivered_bytes,
        http_status=(failed or measured.files)[0].http_status,
        server_message=failed[0].server_message if failed else None,
        client_peak_rss_bytes=peak_rss_bytes(),
        progress=Progress(
            t_s=[round(t - (first_s or 0.0), 4) for t, _ in measured.progress],
            delivered_bytes=[delivered for _, delivered in measured.progress],
        ),
        cache=cache,
        sync_s=sync_s,
        durable_mib_s=size_mib / (duration_s + sync_s) if duration_s and sync_s is not None else None,
        stored_disk_bytes=None,
        parallel_uploads=parameters.parallel_uploads,
        live_view=live_view,
        files=[_uploaded_file(run, index, one, first_s) for index, one in enumerate(measured.files)],
    )
    unsynced = why_no_sync(run) or why["duration_s"]
    why |= {
        "first_byte_monotonic_s": "no byte was sent",
        "throughput_mib_s": why["duration_s"],
        "transfer_mib_s": why["transfer_s"],
        "commit_mib_s": no_commit_rate or "the commit took no measurable time",
        "http_status": "the server gave no answer",
        "sync_s": unsynced,
        "durable_mib_s": unsynced,
        "stored_disk_bytes": "the trial did not come to its end",
    }
    run.explain("upload", record, why)
    return record


def _no_commit_rate(run: TrialRun, overlap: bool) -> str:
    """Return why a rate would say nothing about a commit that was timed; empty when it does."""
    if not run.server.commits:
        return f"{run.server.title} stores an upload while it receives it"
    return "a file was answered while another one was still transferred" if overlap else ""


def _uploaded_file(run: TrialRun, index: int, measured: UploadMeasurement, zero_s: float | None) -> UploadedFile:
    """Return the part of the record about one file; `zero_s` is when the first byte of any file was sent."""
    parameters = run.state.parameters
    first_s = measured.first_byte_s
    times, why = _times(measured)
    duration_s = times["duration_s"]
    said = measured.ending_detail or measured.server_message or measured.ending
    record = UploadedFile(
        seed=seed_of_file(parameters.seed, index),
        first_byte_s=first_s - zero_s if first_s is not None and zero_s is not None else None,
        **times,
        throughput_mib_s=parameters.file_size_bytes / MIB / duration_s if duration_s else None,
        delivered_bytes=measured.delivered_bytes,
        http_status=measured.http_status,
        ending=measured.ending,
        ending_detail="" if measured.succeeded else said,
    )
    why |= {
        "first_byte_s": "no byte was sent",
        "throughput_mib_s": why["duration_s"],
        "http_status": "the server gave no answer",
    }
    run.explain(f"upload.files.{index}", record, why)
    return record


def _times(measured: UploadMeasurement | UploadsMeasurement) -> tuple[dict[str, float | None], dict[str, str]]:
    """Return the durations of an upload's phases, and for each why it is missing if it is."""
    first_s, last_s, response_s = measured.first_byte_s, measured.last_byte_s, measured.response_s
    answered = measured.succeeded
    times = {
        "transfer_s": last_s - first_s if first_s is not None and last_s is not None else None,
        "commit_s": response_s - last_s if answered and last_s is not None and response_s is not None else None,
        "duration_s": response_s - first_s if answered and first_s is not None and response_s is not None else None,
    }
    # A server may answer before it has acknowledged the end of the body: then nobody saw the phases part.
    unseen = "the answer came before the last byte was acknowledged"
    unanswered = "the upload was not answered with success"
    why = {
        "transfer_s": unseen if answered else "not every byte was delivered",
        "commit_s": unseen if answered else unanswered,
        "duration_s": unanswered,
    }
    return times, why


def why_no_sync(run: TrialRun) -> str | None:
    """Return why the data are not brought to the disk after the upload; None when they are."""
    if run.state.parameters.sync == "skip":
        return f"{NOT_ASKED_FOR} (sync: skip)"
    machine = run.state.machine
    if machine is not None and machine.data_folder_file_system in FILE_SYSTEMS_IN_MEMORY:
        return f"the data folder lies in memory ({machine.data_folder_file_system}): its data are never on a disk"
    return None
