"""The record: its schema equals the models, nulls need reasons, and contradictions do not count."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from campaign_factory import FakeTrial, make_record

from picolab.errors import RecordError
from picolab.record.outcomes import FAULTS, OUTCOME_MEANINGS, STAGES, Outcome
from picolab.record.record import Record
from picolab.record.schema import SCHEMA_PATH, record_schema
from picolab.record.validation import MAY_BE_NULL_WITHOUT_REASON, nulls_without_reason, validate_record

Spoil = Callable[[dict[str, Any]], Any]


def good(outcome: Outcome = Outcome.OK, machine: str = "local") -> dict[str, Any]:
    return make_record(FakeTrial(outcome=outcome, machine=machine), 1)


def complaint(spoil: Spoil, outcome: Outcome = Outcome.OK, machine: str = "local") -> str:
    data = good(outcome, machine)
    spoil(data)
    with pytest.raises(RecordError) as caught:
        validate_record(data, "a place")
    message = str(caught.value)
    assert message.startswith("a place: the record is not valid: ") and len(message) < 500
    return message.removeprefix("a place: the record is not valid: ")


def test_schema_file_equals_the_models() -> None:
    assert json.loads(SCHEMA_PATH.read_text()) == record_schema(), "renew it with: python -m picolab.record.schema"


def test_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(record_schema())


@pytest.mark.parametrize("machine", ["local", "vagrant"])
@pytest.mark.parametrize("outcome", list(Outcome))
def test_record_of_each_outcome_survives_json(outcome: Outcome, machine: str) -> None:
    record = validate_record(good(outcome, machine), "a place")
    again = validate_record(json.loads(record.model_dump_json()), "a place")

    assert again == record and again.outcome is outcome


def test_record_older_than_virtual_machines_is_valid() -> None:
    data = json.loads((Path(__file__).parents[1] / "records" / "before-virtual-machines.json").read_text())
    record = validate_record(data, "a place")

    assert record.machine is not None and record.machine.virtual_machine is None
    assert record.server is not None and record.server.oom_evidence is None
    assert (record.parameters.machine, record.parameters.ready_limit_s) == ("local", 30.0)


@pytest.mark.parametrize(
    ("machine", "spoil", "words"),
    [
        (
            "vagrant",
            lambda r: r["machine"].update(virtual_machine=None),
            "kind is vagrant, and machine.virtual_machine is",
        ),
        ("local", lambda r: r["machine"].update(kind="vagrant"), "kind is vagrant and parameters.machine is local"),
        ("vagrant", lambda r: r["machine"].update(kind="local"), "kind is local and parameters.machine is vagrant"),
        (
            "vagrant",
            lambda r: r["machine"]["memory_limit"].update(method="cgroup_v1"),
            "machine.kind is vagrant, and memory_limit.method is cgroup_v1",
        ),
        (
            "local",
            lambda r: r["machine"]["memory_limit"].update(method="virtual_machine"),
            "machine.kind is local, and memory_limit.method is virtual_machine",
        ),
        (
            "vagrant",
            lambda r: r["machine"]["virtual_machine"].update(acceleration="fast"),
            "acceleration: 'fast' is not",
        ),
        ("vagrant", lambda r: r["machine"]["virtual_machine"].pop("usable_ram_bytes"), "virtual_machine"),
        (
            "local",
            lambda r: r["machine"].update(virtual_machine=good(machine="vagrant")["machine"]["virtual_machine"]),
            "kind is local, and machine.virtual_machine is not null",
        ),
    ],
)
def test_only_a_record_of_a_virtual_machine_describes_one(machine: str, spoil: Spoil, words: str) -> None:
    assert words in complaint(spoil, machine=machine)


def test_every_outcome_has_a_meaning_and_three_are_faults() -> None:
    assert set(OUTCOME_MEANINGS) == set(Outcome)
    assert {outcome.value for outcome in FAULTS} == {"machine_failed", "interrupted", "invalid"}
    for outcome, meaning in OUTCOME_MEANINGS.items():
        assert meaning.startswith("fault of the instrument: ") == outcome.is_fault


def test_stages_are_those_of_the_models() -> None:
    stages = record_schema()["$defs"]["StageTime"]["properties"]["stage"]["enum"]
    assert tuple(stages) == STAGES


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda r: r.pop("outcome"), "'outcome' is a required property"),
        (lambda r: r.update(outcome="great"), "outcome: 'great' is not one of"),
        (lambda r: r.update(record_version=2), "record_version: 1 was expected"),
        (lambda r: r.update(score=3), "'score' was unexpected"),
        (lambda r: r["upload"].update(speed=3), "upload: "),
        (lambda r: r["upload"].update(transfer_s="fast"), "upload"),
        (lambda r: r["upload"].update(delivered_bytes=1.5), "upload"),
        (lambda r: r["identity"].pop("repeat_command"), "identity: 'repeat_command' is a required property"),
        (lambda r: r["parameters"].update(ram_mb=1), "parameters.ram_mb: "),
        (lambda r: r["parameters"].update(file_size="100MB"), "parameters.file_size: "),
        (lambda r: r["parameters"].update(surprise=1), "parameters: "),
        (lambda r: r["upload"].update(throughput_mib_s=float("nan")), "throughput_mib_s: Input should be a finite"),
        (lambda r: r["verify"].update(download_s=float("inf")), "download_s: Input should be a finite number"),
        (lambda r: r.update(caveats=["slow"]), "caveats.0: "),
        (lambda r: r["missing"].update(upload=3), "missing.upload: "),
    ],
)
def test_record_of_another_shape(spoil: Spoil, words: str) -> None:
    assert words in complaint(spoil)


@pytest.mark.parametrize("data", [None, [], "record", 3, {}])
def test_whatever_is_no_record(data: Any) -> None:
    with pytest.raises(RecordError, match="a place: the record is not valid: the whole: "):
        validate_record(data, "a place")


@pytest.mark.parametrize(
    "path",
    [
        "upload.first_byte_monotonic_s",
        "server.ready_s",
        "server.stop_s",
        "memory.peak_anon_bytes",
        "memory.oom_kills",
        "machine.data_folder_disk",
        "machine.virtual_machine.box_version",
        "machine.virtual_machine.launcher",
        "machine.virtual_machine.route",
        "build",
    ],
)
def test_null_needs_a_reason(path: str) -> None:
    machine = "vagrant" if "virtual_machine" in path else "local"

    def clear(record: dict[str, Any]) -> None:
        *parents, name = path.split(".")
        place = record
        for parent in parents:
            place = place[parent]
        place[name] = None
        record["missing"].pop(path, None)

    assert complaint(clear, machine=machine) == f"{path} is null and `missing` has no reason"
    data = good(machine=machine)
    clear(data)
    data["missing"][path] = ""
    assert nulls_without_reason(data) == [path], "an empty reason is none"
    data["missing"][path] = "the kernel does not say"
    assert validate_record(data, "a place").missing[path] == "the kernel does not say"


def test_fields_that_may_be_null_exist() -> None:
    properties = record_schema()["$defs"]
    models = {
        "identity": "TrialIdentity",
        "parameters": "TrialParameters",
        "build": "BuildUnderTest",
        "server": "ServerRecord",
        "upload": "UploadRecord",
        "verify": "VerifyRecord",
        "machine": "MachineRecord",
        "machine.memory_limit": "MemoryLimit",
        "machine.network": "NetworkRecord",
        "instrument": "InstrumentReference",
        "conditions": "ConditionsRecord",
        "download.conditions": "ConditionsRecord",
    }
    for path in MAY_BE_NULL_WITHOUT_REASON - {"outcome_stage"}:
        place, _, name = path.rpartition(".")
        field = properties[models[place]]["properties"][name]
        assert {"type": "null"} in field["anyOf"], path
    assert "outcome_stage" in Record.model_fields


@pytest.mark.parametrize(
    ("outcome", "spoil", "words"),
    [
        (Outcome.OK, lambda r: r.update(outcome_stage="upload"), "outcome is ok and outcome_stage is upload"),
        (Outcome.TIMEOUT, lambda r: r.update(outcome_stage=None), "outcome is timeout and outcome_stage is None"),
        (Outcome.OK, lambda r: r["verify"].update(matched=False), "outcome is ok, and verify.matched is not true"),
        (Outcome.OK, lambda r: (r.update(verify=None), r["missing"].update(verify="lost")), "verify.matched"),
        (Outcome.OK, lambda r: (r.update(upload=None), r["missing"].update(upload="lost")), "upload or memory"),
        (Outcome.OK, lambda r: (r.update(memory=None), r["missing"].update(memory="lost")), "upload or memory"),
        (Outcome.OK, lambda r: r["upload"].update(file_size_bytes=5), "upload.file_size_bytes is 5, not 100M"),
        (Outcome.OK, lambda r: r["upload"]["progress"]["t_s"].append(1.0), "differ in length"),
        (
            Outcome.OK,
            lambda r: r["parameters"].update(parallel_uploads=2),
            "parallel_uploads is 2, and upload tells of 1",
        ),
        (
            Outcome.OK,
            lambda r: r["upload"].update(files=[uploaded_file()] * 2),
            "is 1, and upload tells of 1 and 2 files",
        ),
        (
            Outcome.OK,
            lambda r: (r["parameters"].update(direction="both"), r["missing"].update(download="lost")),
            "outcome is ok, and download is not complete",
        ),
        (Outcome.OK, lambda r: r.update(download=download_of(r)), "direction is upload, and download is not null"),
    ],
)
def test_contradiction_does_not_count(outcome: Outcome, spoil: Spoil, words: str) -> None:
    assert words in complaint(spoil, outcome)


def uploaded_file() -> dict[str, Any]:
    return {
        "seed": 1,
        "first_byte_s": 0.0,
        "transfer_s": 0.5,
        "commit_s": 0.4,
        "duration_s": 0.9,
        "throughput_mib_s": 111.1,
        "delivered_bytes": 104857600,
        "http_status": 200,
        "ending": "response",
        "ending_detail": "",
    }


def download_of(record: dict[str, Any]) -> dict[str, Any]:
    return {
        "begun_monotonic_s": 1000.0,
        "duration_s": 2.0,
        "throughput_mib_s": 50.0,
        "first_byte_wait_s": 0.01,
        "received_bytes": 104857600,
        "cache": "dropped",
        "memory": dict(record["memory"]),
    }


def asks_for_more() -> dict[str, Any]:
    """Return a record of a trial that measures the download and the sync."""
    data = good()
    data["parameters"] |= {"direction": "both", "sync": "measure"}
    data["upload"] |= {"files": [uploaded_file()], "sync_s": 0.1, "durable_mib_s": 100.0}
    data["download"] = download_of(data)
    return data


@pytest.mark.parametrize(
    "path",
    [
        "upload.sync_s",
        "upload.durable_mib_s",
        "upload.files.0.commit_s",
        "download.first_byte_wait_s",
        "download.memory.peak_anon_bytes",
        "download",
    ],
)
def test_null_needs_a_reason_where_it_was_asked_for(path: str) -> None:
    data = asks_for_more()
    assert validate_record(data, "a place").download is not None
    *parents, name = path.split(".")
    place: Any = data
    for parent in parents:
        place = place[int(parent)] if isinstance(place, list) else place[parent]
    place[name] = None

    assert nulls_without_reason(data) == [path]


def test_what_was_not_asked_for_needs_no_reason() -> None:
    data = good()
    data["upload"] |= {"sync_s": None, "durable_mib_s": None}
    data["download"] = None
    assert nulls_without_reason(data) == []
    for name in ("direction", "sync", "parallel_uploads", "cache", "environment", "label"):
        data["parameters"].pop(name)
    assert nulls_without_reason(data) == [], "as in a record that was made before there were such parameters"


def test_validation_changes_nothing() -> None:
    data = good(Outcome.OOM_KILLED)
    before = copy.deepcopy(data)
    validate_record(data, "a place")
    assert data == before
