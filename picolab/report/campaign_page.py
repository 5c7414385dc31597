"""The page of a campaign: everything that its notebook shows besides charts and tables."""

import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from picolab.charts.figure import Figure, Panels
from picolab.charts.style import labelled, machine_label, outcome_words
from picolab.config.project import in_command
from picolab.config.sizes import MIB
from picolab.machines.kinds import kind_of
from picolab.record.machine import VirtualMachineRecord
from picolab.record.record import Record
from picolab.report.markup import code, commands, definitions, paragraph
from picolab.results.labels import build_label
from picolab.results.load import CampaignData
from picolab.results.rows import plain_rows
from picolab.text.markup import Html, escape
from picolab.text.wording import counted, moment, percent


def _virtual_machines(records: Iterable[Record]) -> list[VirtualMachineRecord]:
    machines = [record.machine for record in records if record.machine is not None]
    return [machine.virtual_machine for machine in machines if machine.virtual_machine is not None]


LOUD_CAVEATS: dict[str, tuple[Callable[[Record], bool], str, str]] = {
    "calibration_server": (
        lambda record: record.build is not None and record.build.kind == "calibration",
        "The server under test was picolab's own calibration server, a stand-in with known behaviour: "
        "these are not numbers of PicoShare.",
        "Use them to judge the instrument. To measure PicoShare, set build to a release or an executable.",
    ),
    "memory_limit_none": (
        lambda record: record.machine is not None and record.machine.memory_limit.method == "none",
        "Nothing limited the server's memory, whatever the RAM level says.",
        "Do not compare these trials with limited ones; `picolab doctor` shows how to make limits possible.",
    ),
    "emulated": (
        lambda record: any(virtual.acceleration == "emulation" for virtual in _virtual_machines([record])),
        "The virtual machine was emulated by software: rates and times do not carry over to a real machine, and peaks "
        "of memory may differ too where they depend on the speed of the server.",
        "Compare these trials with each other only, and measure rates on a host with a usable /dev/kvm.",
    ),
    "measured_through_ssh": (
        lambda record: any(virtual.route == "ssh_forward" for virtual in _virtual_machines([record])),
        "Uploads went to the virtual machine through an ssh connection: rates are those of that connection, and "
        "transfer and commit cannot be separated.",
        "Use a network in which this host reaches the guest's own address, such as libvirt's default network.",
    ),
}
"""Caveats that come first and stand out, whether or not a trial stored them: condition, message, advice."""


def figure(panels: Panels, caption: str, empty: str) -> Figure | Html:
    """Return charts as a figure, or the sentence `empty` when there are none."""
    return Figure(panels, caption) if panels else paragraph(empty, "empty")


def summary(data: CampaignData) -> Html:
    """Summarise the campaign in one sentence, followed by its problems."""
    planned, done = len(data.plan.get("trials", [])), len(data.trials)
    counts = Counter(data.trials["outcome"])
    words = outcome_words(counts)
    if done == 0:
        headline = f"None of {planned} trials has a result yet." if planned else "There is no result yet."
    elif done < planned:
        headline = f"{done} of {planned} trials done: {words}."
    else:
        ok = counts.pop("ok", 0)
        others = outcome_words(counts)
        headline = f"{ok} of {done} trials ok{', ' + others if others else ''}."
    return Html(f'<p class="headline">{escape(headline)}</p>{notices(data)}', headline)


def notices(data: CampaignData) -> str:
    """Return the problems of a campaign as HTML: unfinished, emulated, faults, unreadable files."""
    planned, done = len(data.plan.get("trials", [])), len(data.trials)
    parts = []
    if done < planned:
        parts.append(
            f'<p class="warning">This campaign is unfinished: {counted(planned - done, "trial")} without a result.</p>'
        )
    emulated = Counter(data.trials["acceleration"])["emulation"]
    if emulated:
        how_many = "Every trial" if emulated == done else f"{emulated} of {done} trials"
        parts.append(
            f'<p class="warning">{how_many} ran in a virtual machine that was emulated by software: '
            '<a href="#Read-this-first">see the caveat</a>.</p>'
        )
    if len(data.faults):
        parts.append(
            f'<p class="note">{counted(len(data.faults), "attempt")} ended in a fault of the instrument and '
            'are in no figure: <a href="#Faults-of-the-instrument">see the list</a>.</p>'
        )
    if len(data.problems):
        parts.append(
            f'<p class="warning">{counted(len(data.problems), "item")} missing or unreadable: '
            '<a href="#Unreadable-and-missing-files">see the list</a>.</p>'
        )
    return "".join(parts)


def heading(data: CampaignData) -> Html:
    """Show the name of the campaign, its description and its builds."""
    name, description = data.plan.get("campaign", data.folder.name), data.plan.get("description", "")
    builds = ", ".join(dict.fromkeys(row["group"] for row in labelled(data.trials))) or "no build measured yet"
    lead = f'<p class="lead">{escape(description)}</p>' if description else ""
    return Html(
        f'<p class="kicker">picolab benchmark report</p><h1 id="campaign">{escape(name)}</h1>{lead}'
        f'<p class="byline">{escape(builds)} · begun {escape(moment(data.plan.get("created_at")))}</p>',
        str(name),
    )


def caveats(data: CampaignData) -> Html:
    """List every caveat once with how many trials have it; those that change what numbers mean come first."""
    trials: dict[str, set[str]] = {}
    texts: dict[str, tuple[str, str]] = {}
    values: dict[str, list[Any]] = {}
    for code_, (applies, message, advice) in LOUD_CAVEATS.items():
        having = {trial_id for trial_id, record in data.records.items() if applies(record)}
        if having:
            trials[code_], texts[code_] = having, (message, advice)
    for trial_id, record in data.records.items():
        for caveat in record.caveats:
            trials.setdefault(caveat.code, set()).add(trial_id)
            message, advice = texts.setdefault(caveat.code, (caveat.message, caveat.advice))
            if message != caveat.message and caveat.code not in LOUD_CAVEATS:
                texts[caveat.code] = (f"For example: {message.removeprefix('For example: ')}", advice)
            values.setdefault(caveat.code, []).append(caveat.value)
    if not trials:
        what = "No trial has a caveat." if data.records else "No trial has a result yet, so there are no caveats."
        return paragraph(what)
    boxes = []
    for code_ in sorted(trials, key=lambda code_: (code_ not in LOUD_CAVEATS, code_)):
        message, advice = texts[code_]
        loud = " loud" if code_ in LOUD_CAVEATS else ""
        boxes.append(
            f'<div class="caveat{loud}"><p><strong>{escape(message)}</strong></p><p>{escape(advice)}</p>'
            f'<p class="small"><code>{escape(code_)}</code> · '
            f"{len(trials[code_])} of {len(data.records)} trials"
            f"{_value_range(values.get(code_, []))}</p></div>"
        )
    return Html("".join(boxes), ", ".join(f"{code_} ({len(having)} trials)" for code_, having in trials.items()))


def _value_range(values: Iterable[Any]) -> str:
    numbers = sorted(value for value in values if isinstance(value, int | float))
    if not numbers:
        return ""
    low, high = f"{numbers[0]:.4g}", f"{numbers[-1]:.4g}"
    return f" · value {low}" if low == high else f" · values {low} to {high}"


def provenance(data: CampaignData) -> Html:
    """Show the host, the machine, the builds and the settings that the numbers come from."""
    records = list(data.records.values())
    hosts = [record.provenance.host for record in records]
    plan = data.plan
    facts: list[tuple[str, Html | str]] = [
        (
            "Host",
            _same(f"{host.get('hostname', '?')}, {host.get('operating_system') or '?'}" for host in hosts),
        ),
        ("CPU", _same(f"{host.get('cpu_model', '?')}, {host.get('cpu_count', '?')} cores" for host in hosts)),
        ("Kernel", _same(str(host.get("kernel", "?")) for host in hosts)),
        ("RAM of the host", _same(_gib(host.get("ram_bytes")) for host in hosts)),
        ("Virtualisation", _same(host.get("virtualisation") or "none detected" for host in hosts)),
        ("Frequency governor", _same(host.get("governor") or "not available on this host" for host in hosts)),
        ("Load at the start of trials", _load(hosts)),
        ("Machine", _same(_machine(row) for row in plain_rows(data.trials))),
        *_virtual_machine_facts(data),
        (
            "Disk of the data folder",
            _same(
                f"{row['data_folder_file_system']} on {row['data_folder_disk'] or 'no block device'}"
                for row in plain_rows(data.trials)
                if row["data_folder_file_system"]
            ),
        ),
        (
            "Memory limited by",
            _same(str(row["memory_limit_method"]) for row in plain_rows(data.trials) if row["memory_limit_method"]),
        ),
        ("Calibration of picolab", _same(_instrument(record) for record in records)),
        *(("Build under test", build) for build in _builds(data)),
        ("picolab", _same(_picolab(record) for record in records)),
        ("Python", _same(record.provenance.versions.get("python", "?") for record in records)),
        ("Parameters", str(plan.get("source", "unknown"))),
        ("Repeats of each case", _repeats(plan)),
        ("Order of trials", str(plan.get("order", "unknown"))),
        ("Seed", str(plan.get("seed", "unknown"))),
        ("Changed since the start", "; ".join(data.accepted)),
    ]
    return definitions([(name, value) for name, value in facts if isinstance(value, Html) or value])


def _repeats(plan: Mapping[str, Any]) -> str:
    if plan.get("floor"):
        return "as many as the search for the memory floor needed at each RAM"
    return str(plan.get("repeats", "unknown"))


def _instrument(record: Record) -> str:
    found = record.instrument
    if found is None:
        return "none on this host (run picolab calibrate)"
    noise = "" if found.noise_floor is None else f", noise floor {percent(found.noise_floor, 1)}"
    return (
        f"{moment(found.measured_at)}: client up to {found.upload_ceiling_mib_s:,.0f} MiB/s{noise}"
        f"{'; ' + found.stale if found.stale else ''}"
    )


def _machine(row: dict[str, Any]) -> str:
    if not kind_of(row["machine"]).is_virtual:
        return f"{row['machine']}: a process of the host"
    what = f"{machine_label(row['machine'], row['acceleration'])}: a virtual machine"
    if row["provider"] is None:
        return what
    version = f" {row['box_version']}" if row["box_version"] else ""
    processors = counted(row["cpus"], "processor")
    return f"{what} of {row['provider']}, box {row['box']}{version}, {processors}"


def _virtual_machine_facts(data: CampaignData) -> list[tuple[str, Html | str]]:
    """Return the facts of virtual machines; empty ones when there was none."""
    machines = _virtual_machines(data.records.values())
    return [
        ("Acceleration", _same(f"{virtual.acceleration}: {virtual.acceleration_reason}" for virtual in machines)),
        ("RAM available to the guest", _same(map(_usable, machines))),
        ("Guest", _same(f"{virtual.operating_system}, kernel {virtual.kernel}" for virtual in machines)),
        ("Software", _same(", ".join(f"{name} {v}" for name, v in virtual.software.items()) for virtual in machines)),
        ("Machine provisioned by", _reached(machines)),
        ("Fixed before", "; ".join(dict.fromkeys(words for virtual in machines for words in virtual.mended))),
    ]


def _usable(virtual: VirtualMachineRecord) -> str:
    return f"{virtual.usable_ram_bytes / MIB:.0f} of {virtual.nominal_ram_bytes / MIB:.0f} MiB"


def _reached(machines: Sequence[VirtualMachineRecord]) -> str:
    """Return how often each way was taken, and how long it took."""
    seconds: dict[str, list[float]] = {}
    for virtual in machines:
        seconds.setdefault(virtual.reached_by, []).append(virtual.reached_s)
    words = []
    for how, times in seconds.items():
        low, high = f"{min(times):.1f}", f"{max(times):.1f}"
        words.append(f"{how} {len(times)} x ({low if low == high else f'{low} to {high}'} s)")
    return ", ".join(words)


def _same(values: Iterable[str]) -> str:
    """Return the one value that all trials have, or all values with their counts."""
    counts = Counter(values)
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{value} ({count} trials)" for value, count in counts.items())


def _gib(size_bytes: int | None) -> str:
    return f"{size_bytes / MIB / 1024:.1f} GiB" if size_bytes else "unknown"


def _load(hosts: Sequence[dict[str, Any]]) -> str:
    loads = [host["load_1min_at_start"] for host in hosts if host.get("load_1min_at_start") is not None]
    return f"{min(loads):.2f} to {max(loads):.2f} (1 minute average)" if loads else ""


def _builds(data: CampaignData) -> list[Html]:
    seen = {row["build_sha256"]: row for row in plain_rows(data.trials) if row["build_sha256"]}
    return [
        Html(
            f"{escape(build_label(row['build'], row['build_kind']))}, "
            f"{row['build_size_bytes']:,} bytes, sha256 {code(sha256).markup}"
        )
        for sha256, row in seen.items()
    ]


def _picolab(record: Record) -> str:
    origin = record.provenance
    commit = f", commit {origin.picolab_commit[:12]}" if origin.picolab_commit else ", commit unknown"
    return f"{origin.picolab_version}{commit}{' with uncommitted changes' if origin.picolab_dirty else ''}"


def how_to_repeat(data: CampaignData) -> Html:
    """Show the commands that repeat the campaign and each of its cases."""
    plan = data.plan
    lines = ["# the whole campaign, in the same order"]
    source = shlex.quote(str(plan.get("source", "PARAMETERS.yaml")))
    command = str(plan["source"]) if plan.get("floor") or plan.get("answer") else f"picolab matrix {source}"
    lines.append(f"{command} --seed {plan.get('seed', 'SEED')}")
    if len(data.trials) < len(plan.get("trials", [])):
        lines += ["# the trials without a result", f"picolab resume {in_command(data.folder)}"]
    first: dict[str, str] = {}
    for row in plain_rows(data.trials):
        first.setdefault(row["case"], row["repeat_command"])
    if first:
        lines += ["# one trial of each case", *first.values()]
    return commands(lines)
