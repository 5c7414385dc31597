"""The stages start and authenticate: a fresh server that answers, and a session with it."""

from picolab.record import caveats
from picolab.record.machine import ServerRecord
from picolab.record.outcomes import Outcome
from picolab.servers.build import Build
from picolab.servers.client import Client
from picolab.servers.start import SECRET_FILE, start_server, store_private
from picolab.trial.endings import lost, require_running, server_ended
from picolab.trial.run import SESSION_FILE, NotOk, TrialRun
from picolab.trial.state import SERVER_LOG_FILE


def start(run: TrialRun) -> str:
    """Start the server with fresh folders and a fresh secret, and wait until it answers.

    Raises:
        NotOk: it ended or did not answer in time.
    """
    machine = run.attached("provision")
    build = run.state.build
    assert build is not None and run.state.build_path is not None
    run.stop_server()
    started = start_server(
        machine,
        run.server,
        Build(run.state.build_path, build),
        {name: getattr(run.state.parameters, name) for name in run.server.heeds},
        run.folder / SERVER_LOG_FILE,
        run.state.parameters.ready_limit_s,
        run.state.parameters.environment,
    )
    # The data folder is empty: the files of an earlier server are gone.
    run.state.entry_ids = []
    run.state.base_url = started.base_url
    # How the server was started, and by which way it is reached, is known only now.
    run.state.machine = machine.describe()
    run.state.server = ServerRecord(
        ready_s=started.ready_s,
        idle_anon_bytes=None,
        exit_code=None,
        exit_signal=None,
        stop_s=None,
        oom_kills=None,
        oom_evidence=None,
    )
    if started.ready_s is None:
        run.state.missing["server.ready_s"] = "the server never answered"
        run.state.missing["server.idle_anon_bytes"] = "the server never answered"
        if started.status.running:
            limit = f"ready_limit_s = {run.state.parameters.ready_limit_s:g} s"
            why_not = f"; at last {started.why_not_ready}" if started.why_not_ready else ""
            raise NotOk(Outcome.TIMEOUT, f"the server did not answer within {limit}{why_not}")
        raise server_ended(run, started.status, "before it answered")
    run.state.server.idle_anon_bytes = machine.process_anon_bytes()
    if run.state.server.idle_anon_bytes is None:
        run.state.missing["server.idle_anon_bytes"] = "the kernel shows no RssAnon of the process"
    run.add_caveats(caveats.of_network(machine.exposed_addresses(started.port), run.state.machine.network))
    return f"the server answers at {started.base_url} after {started.ready_s:.3f} s"


def wants_new_server(run: TrialRun) -> bool:
    """Return whether the server of an earlier attempt is gone and a stage still needs it."""
    if run.state.stages["collect"].done or run.machine is None:
        return False
    verified = run.state.stages["verify"].done and not run.unverified()
    return not verified and not run.machine.process_status().running


def authenticate(run: TrialRun) -> str:
    """Log in and keep the session for the later stages.

    Raises:
        NotOk: the server refused, ended or did not answer in time.
    """
    machine = run.attached("start")
    limit_s = run.state.parameters.ready_limit_s
    with Client(run.server, run.base_url()) as client:
        login = client.authenticate((machine.folder / SECRET_FILE).read_text(), limit_s)
    if login.ending == "connection_lost":
        raise lost(run, f"the log-in was cut off ({login.detail})")
    if login.ending != "response":
        require_running(run, machine, "in the log-in")
        raise NotOk(Outcome.TIMEOUT, f"the log-in took longer than ready_limit_s = {limit_s:g} s")
    if login.session is None:
        raise NotOk(Outcome.HTTP_ERROR, f"the log-in was answered with {login.http_status}: {login.detail}")
    store_private(machine.folder / SESSION_FILE, login.session)
    return "logged in"
