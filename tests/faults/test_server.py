"""The server ends, hangs, refuses, misreports, or disappears. Each is a result, none an instrument fault."""

from __future__ import annotations

import os
import signal

from conftest import eventually

from picolab.record.record import Record
from picolab.trial.trial import Trial

from .catalogue import fault, proved_by
from .conftest import GRACE_S, MisbehavingServer, Proof, RunTrial, kill_server, machine, server_pid

RESULT = "None: a result, which counts. The server's log is next to the record."
MORE_MEMORY = "None: a result. The build needs more memory than this limit; see the memory panel."
ASK_LOG = "Read the server's log next to the record; picolab only quotes the server."


# It ends


@fault(
    "server killed before the upload",
    group="server",
    outcome="server_died",
    see="`the server ended with signal SIGKILL, before the upload`",
    do=RESULT,
)
def test_server_killed_before_the_upload(run_trial: RunTrial, proof: Proof) -> None:
    record = run_trial({"upload": kill_server})
    proof.record(record, "upload")
    assert record.server and record.server.oom_kills == 0


@fault(
    "server killed in the transfer",
    group="server",
    outcome="server_died",
    see="`the server ended with signal SIGKILL, after ... of 4.0 MiB`",
    do=RESULT,
)
def test_server_killed_in_the_transfer(run_trial: RunTrial, server_that: MisbehavingServer, proof: Proof) -> None:
    proof.record(run_trial(build=server_that("in_the_transfer(kill)")), "upload")


@fault(
    "server killed in the commit",
    group="server",
    outcome="server_died",
    see="`the server ended with signal SIGKILL, after 4.0 of 4.0 MiB`",
    do=RESULT,
)
def test_server_killed_in_the_commit(run_trial: RunTrial, server_that: MisbehavingServer, proof: Proof) -> None:
    record = run_trial(build=server_that("in_the_commit(kill)"))
    proof.record(record, "upload")
    assert record.upload and record.upload.transfer_s and record.upload.commit_s is None


@fault(
    "server killed in the measured download",
    group="server",
    outcome="server_died",
    see="`the server ended with signal SIGKILL, in the download`",
    do="None: a result of the download. The numbers of the upload stay valid.",
)
def test_server_killed_in_the_measured_download(
    run_trial: RunTrial, server_that: MisbehavingServer, proof: Proof
) -> None:
    record = run_trial(build=server_that("in_the_download(kill)"), direction="both")
    proof.record(record, "verify")
    assert record.upload and record.upload.throughput_mib_s


@fault(
    "server killed while idle",
    group="server",
    outcome="server_died",
    see="`the server ended with signal SIGKILL, after the upload was answered`",
    do="None: a result of the download. The numbers of the upload stay valid.",
)
def test_server_killed_while_idle(run_trial: RunTrial, proof: Proof) -> None:
    record = run_trial({"verify": kill_server}, direction="both")
    proof.record(record, "verify")
    assert record.upload and record.upload.throughput_mib_s


@fault(
    "server killed before the log-in",
    group="server",
    outcome="server_died",
    see="`the server ended with signal SIGKILL, the log-in was cut off`",
    do=RESULT,
)
def test_server_killed_before_the_log_in(run_trial: RunTrial, proof: Proof) -> None:
    proof.record(run_trial({"authenticate": kill_server}), "authenticate")


@fault(
    "server crashes",
    group="server",
    outcome="server_died",
    see="`the server ended with signal SIGSEGV, after`",
    do=RESULT,
)
def test_server_crashes(run_trial: RunTrial, server_that: MisbehavingServer, proof: Proof) -> None:
    proof.record(run_trial(build=server_that("in_the_transfer(lambda: kill(signal.SIGSEGV))")), "upload")


@fault(
    "server exits in the upload",
    group="server",
    outcome="server_died",
    see="`the server ended with exit code 7, after ... its log ends with`",
    do=RESULT,
)
def test_server_exits_in_the_upload(run_trial: RunTrial, proof: Proof) -> None:
    proof.record(run_trial(calibration={"exit_after_mib": 1, "exit_code": 7}), "upload")


@fault(
    "server exits before it answers",
    group="server",
    outcome="server_died",
    see='`the server ended with exit code 1, before it answered; its log ends with "... failed to set pragmas`',
    do="Run the trial by hand (`identity.repeat_command` of the record) and read the server's output.",
)
def test_server_exits_before_it_answers(run_trial: RunTrial, server_that: MisbehavingServer, proof: Proof) -> None:
    proof.record(run_trial(build=server_that("server.die('failed to set pragmas: unable to open')")), "start")


@fault(
    "server gets SIGTERM in the upload",
    group="server",
    outcome="server_died",
    see="`the server ended with`",
    do="Find the sender of the signal: the build shut down in the middle of an upload.",
)
def test_server_told_to_stop_in_the_upload(run_trial: RunTrial, server_that: MisbehavingServer, proof: Proof) -> None:
    build = server_that("server.SHUTDOWN_S = 0\nin_the_transfer(lambda: (kill(signal.SIGTERM), hang()))")
    record = run_trial(build=build)
    proof.record(record, "upload")
    assert record.server and record.server.exit_signal != "SIGKILL"


# It has not enough memory


@fault(
    "server out of memory at its start",
    group="server",
    outcome="oom_killed",
    see="`the kernel killed the server at the limit of 64 MiB, before it answered`",
    do="Choose a larger `ram_mb`: this build cannot start with this limit.",
)
def test_server_out_of_memory_at_its_start(run_trial: RunTrial, server_that: MisbehavingServer, proof: Proof) -> None:
    proof.record(run_trial(build=server_that("take_all_memory()"), ram_mb=64), "start")


@fault(
    "server out of memory in the transfer",
    group="server",
    outcome="oom_killed",
    see="`the kernel killed the server at the limit of 64 MiB, after ... of 4.0 MiB`",
    do=MORE_MEMORY,
)
def test_server_out_of_memory_in_the_transfer(run_trial: RunTrial, proof: Proof) -> None:
    record = run_trial(calibration={"oom_after_mib": 1}, ram_mb=64)
    proof.record(record, "upload")
    assert record.server and record.server.oom_kills


@fault(
    "server out of memory in the commit",
    group="server",
    outcome="oom_killed",
    see="`the kernel killed the server at the limit of 64 MiB, after 4.0 of 4.0 MiB`",
    do=MORE_MEMORY,
)
def test_server_out_of_memory_in_the_commit(run_trial: RunTrial, server_that: MisbehavingServer, proof: Proof) -> None:
    record = run_trial(build=server_that("in_the_commit(take_all_memory)"), ram_mb=64)
    proof.record(record, "upload")
    assert record.upload and record.upload.transfer_s and record.upload.commit_s is None


@fault(
    "server out of memory in the measured download",
    group="server",
    outcome="oom_killed",
    see="`the kernel killed the server at the limit of 64 MiB, in the download`",
    do="None: a result of the download. The numbers of the upload stay valid.",
)
def test_server_out_of_memory_in_the_measured_download(
    run_trial: RunTrial, server_that: MisbehavingServer, proof: Proof
) -> None:
    record = run_trial(build=server_that("in_the_download(take_all_memory)"), ram_mb=64, direction="both")
    proof.record(record, "verify")
    assert record.upload and record.upload.throughput_mib_s


@fault(
    "server out of memory while idle",
    group="server",
    outcome="oom_killed",
    see="`the kernel killed the server at the limit of 64 MiB, before the upload`",
    do="None: a result. The build needs this memory even without an upload.",
)
def test_server_out_of_memory_while_idle(run_trial: RunTrial, server_that: MisbehavingServer, proof: Proof) -> None:
    def grow(_: Trial) -> None:
        os.kill(server_pid(), signal.SIGUSR1)
        eventually(lambda: not machine().process_status().running, "the kernel kills the server")

    build = server_that(
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})\n"
        "threading.Thread(target=lambda: (signal.sigwait({signal.SIGUSR1}), take_all_memory()), daemon=True).start()"
    )
    proof.record(run_trial({"upload": grow}, build=build, ram_mb=64), "upload")


# It does not answer


@fault(
    "server never ready",
    group="server",
    outcome="timeout",
    see="`the server did not answer within ready_limit_s = 0.5 s`",
    do="Raise `ready_limit_s` if the build starts slowly; otherwise read its log.",
)
def test_server_never_ready(run_trial: RunTrial, proof: Proof) -> None:
    proof.record(run_trial(calibration={"startup_delay_s": 60}, ready_limit_s=0.5), "start")


@fault(
    "server answers only with errors",
    group="server",
    outcome="timeout",
    see="`the server did not answer within ready_limit_s = 0.5 s`",
    do=ASK_LOG,
)
def test_server_is_up_and_answers_with_errors_only(
    run_trial: RunTrial, server_that: MisbehavingServer, proof: Proof
) -> None:
    build = server_that("instead('GET', '/', lambda handler: reply(handler, 503, b'warming up'))")
    proof.record(run_trial(build=build, ready_limit_s=0.5), "start")


@fault(
    "port of the server is taken",
    group="server",
    outcome="machine_failed",
    see="`the server runs without a listener because it could not have port`",
    do="None: the campaign retries with another port. It recurs only if another program keeps taking ports.",
)
def test_port_of_the_server_is_taken(run_trial: RunTrial, proof: Proof) -> None:
    proof.record(run_trial(calibration={"occupy_port_without_listening": True}), "start")


proved_by(
    "servers/test_server.py::test_another_program_on_the_port_is_not_the_server",
    "another program answers on the port of the server",
    group="server",
    outcome="machine_failed",
    see="`port ... is served by another program, not by the server that was started`",
    do="None: the campaign retries with another port.",
)


@fault(
    "server hangs in the transfer",
    group="server",
    outcome="stalled",
    see="`no byte was delivered for stall_limit_s = 0.5 s, after`",
    do="None: a result. Raise `stall_limit_s` to tolerate such pauses.",
)
def test_server_hangs_in_the_transfer(run_trial: RunTrial, proof: Proof) -> None:
    proof.record(run_trial(calibration={"stall_after_mib": 1}, file_size="16M", stall_limit_s=0.5), "upload")


@fault(
    "server suspended in the transfer",
    group="server",
    outcome="stalled",
    see="`no byte was delivered for stall_limit_s = 0.5 s, after`",
    do="None: a result. A process in state T was stopped by a SIGSTOP.",
)
def test_server_suspended_in_the_transfer(run_trial: RunTrial, server_that: MisbehavingServer, proof: Proof) -> None:
    build = server_that("in_the_transfer(lambda: kill(signal.SIGSTOP))")
    proof.record(run_trial(build=build, file_size="16M", stall_limit_s=0.5), "upload")


@fault(
    "server hangs in the commit",
    group="server",
    outcome="timeout",
    see="`the upload took longer than its limit of 1 s, after 4.0 of 4.0 MiB`",
    do="None: a result. Raise `total_limit_s` if commits of the build take longer.",
)
def test_server_hangs_in_the_commit(run_trial: RunTrial, proof: Proof) -> None:
    proof.record(run_trial(calibration={"stall_in_commit": True}, total_limit_s=1), "upload")


@fault(
    "server hangs in the measured download",
    group="server",
    outcome="stalled",
    see="`the download ended after ... MiB`",
    do="None: a result of the download. The numbers of the upload stay valid.",
)
def test_server_hangs_in_the_measured_download(
    run_trial: RunTrial, server_that: MisbehavingServer, proof: Proof
) -> None:
    record = run_trial(build=server_that("in_the_download(hang)"), direction="both", stall_limit_s=0.5)
    proof.record(record, "verify")


@fault(
    "server too slow in the transfer",
    group="server",
    outcome="timeout",
    see="`the upload took longer than its limit of 1 s, after`",
    do="None: a result. Raise `total_limit_s`, or lower `floor_rate_mib_s`, for a slow build.",
)
def test_server_too_slow_in_the_transfer(run_trial: RunTrial, proof: Proof) -> None:
    proof.record(run_trial(calibration={"transfer_mib_s": 2}, total_limit_s=1), "upload")


@fault(
    "server ignores SIGTERM",
    group="server",
    outcome="ok",
    see="In the record, `server.exit_signal` is SIGKILL and `stop_s` the grace period of 10 s.",
    do="None: the measurement is valid. The build does not shut down cleanly.",
)
def test_server_ignores_sigterm(run_trial: RunTrial) -> None:
    record = run_trial(calibration={"ignore_sigterm": True})
    assert record.outcome == "ok" and record.server
    assert record.server.exit_signal == "SIGKILL" and (record.server.stop_s or 0) >= GRACE_S


# It refuses


def answered(run_trial: RunTrial, status: int, sentence: str) -> Record:
    return run_trial(calibration={"status": status, "status_message": sentence})


@fault(
    "server answers 400, its disk is full",
    group="server",
    outcome="disk_full",
    see="`the server answered 400: invalid request: database error: database or disk is full`",
    do="None: a result. Use a larger disk, `work_dir` on another disk, or smaller files.",
)
def test_server_answers_400_its_disk_is_full(run_trial: RunTrial, proof: Proof) -> None:
    proof.record(run_trial(calibration={"disk_quota_mib": 2}), "upload")


proved_by(
    "trial/test_trial_outcomes.py::test_a_really_full_disk_is_disk_full",
    "disk of the server is full",
    group="server",
    outcome="disk_full",
    see="`the server answered 400: invalid request: database error: database or disk is full`",
    do="Use a larger disk, `work_dir` on another disk, or smaller files.",
)


@fault(
    "server answers 401 to the log-in",
    group="server",
    outcome="http_error",
    see="`the log-in was answered with 401: incorrect shared secret`",
    do="The build does not read PS_SHARED_SECRET as PicoShare does. " + ASK_LOG,
)
def test_server_answers_401_to_the_log_in(run_trial: RunTrial, server_that: MisbehavingServer, proof: Proof) -> None:
    proof.record(run_trial(build=server_that("server.read_secret = lambda: 'another'")), "authenticate")


@fault(
    "server answers 401 to the upload",
    group="server",
    outcome="http_error",
    see="`the server answered 401: Authentication required`",
    do="None: a result. The build lost the session between log-in and upload.",
)
def test_server_answers_401_to_the_upload(run_trial: RunTrial, server_that: MisbehavingServer, proof: Proof) -> None:
    proof.record(run_trial(build=server_that("server.Handler._is_logged_in = lambda handler: False")), "upload")


@fault(
    "server answers 413",
    group="server",
    outcome="http_error",
    see="`the server answered 413: too large for me`",
    do="None: a result. The build, or a proxy in it, limits the size of uploads.",
)
def test_server_answers_413(run_trial: RunTrial, proof: Proof) -> None:
    proof.record(answered(run_trial, 413, "too large for me"), "upload")


@fault(
    "server answers 500",
    group="server",
    outcome="http_error",
    see="`the server answered 500: it broke`",
    do=ASK_LOG,
)
def test_server_answers_500(run_trial: RunTrial, proof: Proof) -> None:
    proof.record(answered(run_trial, 500, "it broke"), "upload")


@fault(
    "server answers 500 without a body",
    group="server",
    outcome="http_error",
    see="`the server answered 500: (an empty answer)`",
    do=ASK_LOG,
)
def test_server_answers_500_without_a_word(run_trial: RunTrial, server_that: MisbehavingServer, proof: Proof) -> None:
    build = server_that("instead('POST', '/api/entry', lambda handler: (swallow(handler), reply(handler, 500)))")
    proof.record(run_trial(build=build), "upload")


@fault(
    "server answers the log-in with 500",
    group="server",
    outcome="http_error",
    see="`the log-in was answered with 500: no such table`",
    do=ASK_LOG,
)
def test_server_answers_the_log_in_with_500(run_trial: RunTrial, server_that: MisbehavingServer, proof: Proof) -> None:
    build = server_that("instead('POST', '/api/auth', lambda handler: reply(handler, 500, b'no such table'))")
    proof.record(run_trial(build=build), "authenticate")


@fault(
    "server redirects the upload",
    group="server",
    outcome="http_error",
    see="`the server answered 302: elsewhere`",
    do="None: a result. picolab follows no redirects: another address is not the build.",
)
def test_server_redirects_the_upload(run_trial: RunTrial, server_that: MisbehavingServer, proof: Proof) -> None:
    build = server_that(
        "instead('POST', '/api/entry', lambda handler: (swallow(handler), reply(handler, 302, b'elsewhere')))"
    )
    proof.record(run_trial(build=build), "upload")


@fault(
    "server has lost the file",
    group="server",
    outcome="http_error",
    see="`the download was answered with 404: entry not found`",
    do="None: a result. The build answered 200 for a file that it does not have.",
)
def test_server_has_lost_the_file(run_trial: RunTrial, server_that: MisbehavingServer, proof: Proof) -> None:
    build = server_that("server.Store.find = lambda store, entry_id: None")
    proof.record(run_trial(build=build, direction="both"), "verify")


# It goes away, or says nonsense


@fault(
    "server closes the connection in the transfer",
    group="server",
    outcome="http_error",
    see="`the server closed the connection without an answer, after ... of 16.0 MiB`",
    do=ASK_LOG,
)
def test_server_closes_the_connection_in_the_transfer(
    run_trial: RunTrial, server_that: MisbehavingServer, proof: Proof
) -> None:
    proof.record(run_trial(build=server_that("in_the_transfer(close)"), file_size="16M"), "upload")


@fault(
    "server resets the connection in the transfer",
    group="server",
    outcome="http_error",
    see="`the server closed the connection without an answer, after ... of 16.0 MiB`",
    do=ASK_LOG,
)
def test_server_resets_the_connection_in_the_transfer(
    run_trial: RunTrial, server_that: MisbehavingServer, proof: Proof
) -> None:
    proof.record(run_trial(build=server_that("in_the_transfer(reset)"), file_size="16M"), "upload")


@fault(
    "server closes the connection in the commit",
    group="server",
    outcome="http_error",
    see="`the server closed the connection without an answer, after 4.0 of 4.0 MiB`",
    do=ASK_LOG,
)
def test_server_closes_the_connection_in_the_commit(
    run_trial: RunTrial, server_that: MisbehavingServer, proof: Proof
) -> None:
    proof.record(run_trial(build=server_that("in_the_commit(close)")), "upload")


@fault(
    "server closes the connection in the measured download",
    group="server",
    outcome="http_error",
    see="`the server closed the download`",
    do="None: a result of the download. The numbers of the upload stay valid.",
)
def test_server_closes_the_connection_in_the_measured_download(
    run_trial: RunTrial, server_that: MisbehavingServer, proof: Proof
) -> None:
    proof.record(run_trial(build=server_that("in_the_download(close)"), direction="both"), "verify")


@fault(
    "server closes the connection of the log-in",
    group="server",
    outcome="http_error",
    see="`the log-in was cut off`",
    do=ASK_LOG,
)
def test_server_closes_the_connection_of_the_log_in(
    run_trial: RunTrial, server_that: MisbehavingServer, proof: Proof
) -> None:
    build = server_that("instead('POST', '/api/auth', lambda handler: close())")
    proof.record(run_trial(build=build), "authenticate")


@fault(
    "server does not speak HTTP",
    group="server",
    outcome="http_error",
    see="`the server closed the connection without an answer, after`",
    do=ASK_LOG,
)
def test_server_answers_in_another_language_than_http(
    run_trial: RunTrial, server_that: MisbehavingServer, proof: Proof
) -> None:
    build = server_that(
        "def garbage(handler):\n"
        "    swallow(handler)\n"
        "    handler.wfile.write(b'SSH-2.0-OpenSSH_9.2\\r\\n')\n"
        "    close()\n"
        "instead('POST', '/api/entry', garbage)"
    )
    proof.record(run_trial(build=build), "upload")


@fault(
    "server answers the upload with a page",
    group="server",
    outcome="http_error",
    see="`the server answered 200: an answer without an id: <!doctype html>`",
    do=ASK_LOG,
)
def test_server_answers_the_upload_with_a_page(
    run_trial: RunTrial, server_that: MisbehavingServer, proof: Proof
) -> None:
    build = server_that(
        "page = b'<!doctype html><title>Welcome</title>'\n"
        "instead('POST', '/api/entry', lambda handler: (swallow(handler), reply(handler, 200, page)))"
    )
    proof.record(run_trial(build=build), "upload")


# It gives back something else


@fault(
    "server corrupts one byte",
    group="server",
    outcome="corrupted",
    see="`the download differs from byte 12345 on`",
    do="Do not use the build: it answers 200 and loses data. The seed in the record reproduces the bytes.",
)
def test_server_corrupts_one_byte(run_trial: RunTrial, proof: Proof) -> None:
    proof.record(run_trial(calibration={"corrupt_byte": 12345}), "verify")


@fault(
    "server corrupts the last byte",
    group="server",
    outcome="corrupted",
    see="`the download differs from byte 4194303 on`",
    do="Do not use the build: it answers 200 and loses data.",
)
def test_server_corrupts_the_last_byte(run_trial: RunTrial, proof: Proof) -> None:
    proof.record(run_trial(calibration={"corrupt_byte": -1}), "verify")


@fault(
    "server returns less than it received",
    group="server",
    outcome="corrupted",
    see="`the download differs from byte 1000 on (1000 bytes received, 4194304 sent)`",
    do="Do not use the build: it answers 200 and loses data.",
)
def test_server_gives_back_less_than_it_was_given(
    run_trial: RunTrial, server_that: MisbehavingServer, proof: Proof
) -> None:
    build = server_that(
        "find = server.Store.find\nserver.Store.find = lambda *words: find(*words)._replace(size_bytes=1000)"
    )
    proof.record(run_trial(build=build), "verify")


@fault(
    "server returns more than it received",
    group="server",
    outcome="corrupted",
    see="`the download differs from byte 4194304 on (4194313 bytes received, 4194304 sent)`",
    do="Do not use the build: it answers 200 and stores other data.",
)
def test_server_gives_back_more_than_it_was_given(
    run_trial: RunTrial, server_that: MisbehavingServer, proof: Proof
) -> None:
    build = server_that(
        "def read(store, entry_id, start, end, read=server.Store.read):\n"
        "    yield from read(store, entry_id, start, end - 9)\n"
        "    yield memoryview(b'x' * 9)\n"
        "def longer(*words, find=server.Store.find):\n"
        "    entry = find(*words)\n"
        "    return entry._replace(size_bytes=entry.size_bytes + 9)\n"
        "server.Store.find = longer\n"
        "server.Store.read = read"
    )
    proof.record(run_trial(build=build), "verify")


@fault(
    "server stores zeros",
    group="server",
    outcome="corrupted",
    see="`the download differs from byte 0 on`",
    do="Do not use the build: it answers 200 and loses data.",
)
def test_server_keeps_zeros(run_trial: RunTrial, server_that: MisbehavingServer, proof: Proof) -> None:
    build = server_that(
        "add = server.Store.add_chunk\n"
        "server.Store.add_chunk = lambda store, db, name, index, chunk: add(store, db, name, index, bytes(len(chunk)))"
    )
    proof.record(run_trial(build=build), "verify")
