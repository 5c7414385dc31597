"""The stage verify: every file is downloaded and compared, measured or not."""

import time

from picolab.config.sizes import MIB, in_mib
from picolab.errors import StageError
from picolab.files import reserve
from picolab.host import facts
from picolab.machines.base import Machine
from picolab.record import caveats, host_caveats
from picolab.record.outcomes import Outcome
from picolab.record.record import NOT_VERIFIED
from picolab.record.samples import read_samples
from picolab.record.steps import DownloadRecord, LimitDuringStep, MemoryRecord, VerifyRecord
from picolab.servers.client import Client
from picolab.servers.measurements import DownloadMeasurement, Limits
from picolab.trial.endings import require_running, server_ended, settled_status, was_oom_killed
from picolab.trial.measured_step import (
    conditions_now,
    conditions_since,
    files,
    has_limit,
    limit_in_force,
    limit_lifted,
    memory_of,
    page_cache,
    probe_ended_early,
    reserve_room,
)
from picolab.trial.run import NotOk, TrialRun
from picolab.trial.state import DOWNLOAD_SAMPLES_FILE

_UNFINISHED_DOWNLOAD = "the download did not get to its end"


def verify(run: TrialRun) -> str:
    """Download every file and compare it, measured or not; return a line for the reader.

    Raises:
        NotOk: a byte differs, or a measured download failed.
        ProbeError: the memory probe ended too early.
    """
    machine = run.attached("upload")
    if not run.state.entry_ids or None in run.state.entry_ids:
        raise StageError("there is nothing to verify yet; run the upload cell first")
    run.state.caveats = [caveat for caveat in run.state.caveats if caveat.code != NOT_VERIFIED]
    if not run.measures("download"):
        return _compare(run, machine)
    require_running(run, machine, "after the upload was answered")
    limit = limit_in_force(run, machine)
    with run.client(machine) as client:
        downloads = _measured_downloads(run, machine, client)
    assert run.state.download is not None
    run.state.verify = _verify_record(run, downloads, limit)
    found = _failed_downloads(run, downloads)
    run.state.download.outcome = found.outcome if found else Outcome.OK
    run.state.download.outcome_detail = found.detail if found else "every byte came back"
    if found is not None:
        raise found
    peak = f"peak anonymous memory {in_mib(run.state.download.memory.peak_anon_bytes)}"
    return f"every byte came back, {run.state.verify.download_mib_s:.1f} MiB/s, {peak}"


def _compare(run: TrialRun, machine: Machine) -> str:
    """Download every file and compare it, in a step that nobody asked to measure.

    Raises:
        NotOk: corrupted. Whatever else happens says nothing about the upload, which was answered with success.
    """
    status = machine.process_status()
    server = run.state.server
    assert server is not None
    if server.oom_kills is None:
        # What happens from here on is not of the measured step.
        server.oom_kills, server.oom_evidence = status.oom_kills, status.oom_evidence
    not_restored: list[str] = []
    downloads: list[DownloadMeasurement] = []
    limit: LimitDuringStep = "kept" if has_limit(run) else "none"
    found = None if status.running else server_ended(run, status, "after the upload was answered")
    if found is None:
        with limit_lifted(run, machine, not_restored) as limit, run.client(machine) as client:
            downloads = downloads_of(run, client)
    run.state.verify = _verify_record(run, downloads, limit)
    differing = [one for one in downloads if one.matched is False]
    found = found or _failed_downloads(run, downloads, only=differing)
    if found is not None and found.outcome is Outcome.CORRUPTED:
        raise found
    if found is not None:
        run.add_caveats(caveats.of_verification(found.outcome, found.detail, limit == "kept"))
    said = f"not completed: {found.detail}" if found else "every byte came back"
    return "; ".join([said, *not_restored])


def downloads_of(run: TrialRun, client: Client) -> list[DownloadMeasurement]:
    """Download the files one after another, until one does not get to its end."""
    parameters = run.state.parameters
    downloads: list[DownloadMeasurement] = []
    ends_s = time.monotonic() + parameters.upload_limit_s
    for entry_id, file in zip(run.state.entry_ids, files(run), strict=True):
        assert entry_id is not None
        limits = Limits(parameters.stall_limit_s, ends_s - time.monotonic())
        downloads.append(client.download(entry_id, file.seed, file.size_bytes, limits))
        if downloads[-1].matched is None:
            break
    return downloads


def _measured_downloads(run: TrialRun, machine: Machine, client: Client) -> list[DownloadMeasurement]:
    """Download the files while the memory probe samples the server."""
    run.put_aside(DOWNLOAD_SAMPLES_FILE)
    reserve_room(run, "download", DOWNLOAD_SAMPLES_FILE)
    cache = page_cache(run, machine, "download")
    before = conditions_now(run, machine)
    probe = machine.probe(run.state.parameters.sample_interval_s, run.folder / DOWNLOAD_SAMPLES_FILE)
    begun_s = time.monotonic()
    try:
        downloads = downloads_of(run, client)
    finally:
        probe_exit = probe.finish()
        reserve.give_back(run.folder / DOWNLOAD_SAMPLES_FILE)
    found = conditions_since(run, before, machine, "download.conditions")
    memory, missing, whole = memory_of(run, DOWNLOAD_SAMPLES_FILE, begun_s)
    unlimited_upload = run.state.upload is not None and run.state.upload.memory_limit == "lifted"
    if unlimited_upload and read_samples(run.folder / DOWNLOAD_SAMPLES_FILE).growth("vm_hwm_bytes") == 0:
        memory.vm_hwm_bytes = None
        missing["memory.vm_hwm_bytes"] = "it is still that of the upload, which ran without the memory limit"
    run.state.missing.update({f"download.{path}": why for path, why in missing.items()})
    run.add_new_caveats([*caveats.of_memory(memory), *host_caveats.of_conditions(found)])
    duration_s, throughput_mib_s = _download_rate(run, downloads)
    upload_mib_s = run.state.upload.transfer_mib_s if run.state.upload else None
    run.add_caveats(caveats.of_instrument(run.state.instrument, upload_mib_s, throughput_mib_s))
    if cache == "warm":
        run.add_caveats(caveats.of_page_cache(run.state.parameters.uploaded_bytes, _room_for_cache(run, memory)))
    asked_s, first_byte_s = downloads[0].sent_request_s, downloads[0].first_byte_s
    run.state.download = DownloadRecord(
        outcome=None,
        outcome_detail="",
        begun_monotonic_s=begun_s,
        duration_s=duration_s,
        throughput_mib_s=throughput_mib_s,
        first_byte_wait_s=first_byte_s - asked_s if first_byte_s is not None and asked_s is not None else None,
        received_bytes=sum(one.received_bytes for one in downloads),
        cache=cache,
        memory=memory,
        conditions=found,
    )
    why = dict.fromkeys(("duration_s", "throughput_mib_s"), _UNFINISHED_DOWNLOAD)
    run.explain("download", run.state.download, why | {"first_byte_wait_s": "no byte came back"})
    if not whole:
        raise probe_ended_early(run, machine, probe_exit, memory)
    return downloads


def _room_for_cache(run: TrialRun, memory: MemoryRecord) -> int:
    """Return how many bytes the page cache could have while the server used its memory."""
    limit = run.state.machine.memory_limit.limit_bytes if run.state.machine else None
    if limit is None:
        limit = facts.memory_info()["MemTotal"]
    return max(0, limit - (memory.peak_anon_bytes or 0))


def _download_rate(run: TrialRun, downloads: list[DownloadMeasurement]) -> tuple[float | None, float | None]:
    """Return the seconds and the MiB/s of all downloads together, each None when it is not known."""
    parameters = run.state.parameters
    durations = [one.download_s for one in downloads if one.download_s is not None]
    if len(durations) < parameters.parallel_uploads:
        return None, None
    duration_s = sum(durations)
    whole = all(one.received_bytes == parameters.file_size_bytes for one in downloads)
    return duration_s, parameters.uploaded_bytes / MIB / duration_s if whole and duration_s > 0 else None


def _verify_record(run: TrialRun, downloads: list[DownloadMeasurement], limit: LimitDuringStep) -> VerifyRecord:
    differing = [one for one in downloads if one.matched is False]
    shown = (differing or downloads or [DownloadMeasurement()])[0]
    complete = len(downloads) == run.state.parameters.parallel_uploads and downloads[-1].matched is not None
    download_s, download_mib_s = _download_rate(run, downloads)
    record = VerifyRecord(
        memory_limit=limit,
        matched=False if differing else True if complete else None,
        sent_sha256=shown.sent_sha256,
        received_sha256=shown.received_sha256,
        first_difference_byte=shown.first_difference_byte,
        received_bytes=sum(one.received_bytes for one in downloads),
        download_s=download_s,
        download_mib_s=download_mib_s,
    )
    names = ("matched", "sent_sha256", "received_sha256", "download_s", "download_mib_s")
    run.explain("verify", record, dict.fromkeys(names, _UNFINISHED_DOWNLOAD))
    return record


def _failed_downloads(
    run: TrialRun, downloads: list[DownloadMeasurement], only: list[DownloadMeasurement] | None = None
) -> NotOk | None:
    """Return the result unless every byte of every file came back; of several failed downloads the first counts.

    Args:
        only: when there are any of these, they alone count.
    """
    failed = [(number, one) for number, one in enumerate(downloads, start=1) if not one.matched]
    if not failed:
        return None
    number, first = next((one for one in failed if only and one[1] is only[0]), failed[0])
    found = _failed_download(run, first)
    count = run.state.parameters.parallel_uploads
    several = f"file {number} of {count} ({len(failed)} of {len(downloads)} downloads failed): "
    return NotOk(found.outcome, (several if count > 1 else "") + found.detail)


def _failed_download(run: TrialRun, measured: DownloadMeasurement) -> NotOk:
    status = settled_status(run, wait=measured.ending == "connection_lost")
    if (not status.running or was_oom_killed(run, status)) and measured.matched is None:
        limit = run.state.verify.memory_limit if run.state.verify else None
        return server_ended(run, status, "in the download", limit)
    if measured.matched is False:
        return NotOk(
            Outcome.CORRUPTED,
            f"the download differs from byte {measured.first_difference_byte} on "
            f"({measured.received_bytes} bytes received, {run.state.parameters.file_size_bytes} sent)"
            + (f"; {measured.ending_detail}" if measured.ending_detail else ""),
        )
    if measured.http_status not in (None, 200):
        return NotOk(
            Outcome.HTTP_ERROR,
            f"the download was answered with {measured.http_status}: {measured.server_message}",
        )
    if measured.ending in ("stalled", "timeout"):
        return NotOk(Outcome(measured.ending), f"the download ended after {measured.received_bytes / MIB:.1f} MiB")
    return NotOk(Outcome.HTTP_ERROR, f"the server closed the download ({measured.ending_detail})")
