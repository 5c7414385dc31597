"""Whether a record is valid: by its schema, its models and the rules between its fields."""

import functools
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import ValidationError

from picolab.errors import RecordError
from picolab.machines.kinds import kind_of
from picolab.record.outcomes import STEPS, Outcome
from picolab.record.record import NOT_VERIFIED, Record
from picolab.record.schema import SCHEMA_PATH
from picolab.slow_imports import decline_slow_imports

MAY_BE_NULL_WITHOUT_REASON = frozenset(
    {
        "outcome_stage",
        "identity.campaign",
        "identity.block",
        "identity.position",
        "parameters.total_limit_s",
        "build.version",
        "server.exit_code",
        "server.exit_signal",
        "upload.server_message",
        "verify.first_difference_byte",
        "server.oom_evidence",
        "machine.memory_limit.limit_bytes",
        "machine.virtual_machine",
        "machine.network",
        "machine.network.reason",
        "instrument.stale",
        "conditions.busiest_other",
        "download.conditions.busiest_other",
    }
)
"""Fields in which null is itself the statement; every other null needs an entry in `missing`."""


NEWER_PARTS = frozenset(
    {
        "conditions",
        "download.conditions",
        "instrument",
        "timeline",
        "timeline.others_s",
        "upload.outcome",
        "upload.live_view",
        "upload.memory_limit",
        "upload.stored_disk_bytes",
        "memory.peak_disk_bytes",
        "download.memory.peak_disk_bytes",
        "download.outcome",
        "verify.memory_limit",
    }
)
"""Parts that old records do not have: null without a reason means that the record is old. A new one has a reason."""


_NOT_ASKED_FOR = {
    "download": ("direction", "upload"),
    "upload.sync_s": ("sync", "skip"),
    "upload.durable_mib_s": ("sync", "skip"),
}
"""Fields that may be null as well when a parameter (which old records do not have) has the value that means so."""


def nulls_without_reason(record: dict[str, Any]) -> list[str]:
    """Return the paths of null measurements that `missing` does not explain."""
    explained = record.get("missing", {})
    parameters = record.get("parameters", {})
    not_asked_for = {path for path, (name, value) in _NOT_ASKED_FOR.items() if parameters.get(name, value) == value}
    without_reason = MAY_BE_NULL_WITHOUT_REASON | NEWER_PARTS | not_asked_for
    return [
        path
        for path in null_paths(record)
        if not explained.get(path) and path not in without_reason and not path.startswith("provenance.")
    ]


def null_paths(value: Any, path: str = "") -> Iterator[str]:
    """Yield the path of every null in a record, such as `upload.commit_s` or `upload.files.0.commit_s`."""
    if value is None:
        yield path
    elif isinstance(value, dict):
        if path == "parameters.calibration":
            return
        for name, item in value.items():
            # Most values are numbers and texts: no call for each of them.
            if item is None or isinstance(item, dict | list):
                yield from null_paths(item, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and path != "caveats":
        for index, item in enumerate(value):
            # A list of numbers can be long, and has no null in it.
            if isinstance(item, dict):
                yield from null_paths(item, f"{path}.{index}")


@functools.cache
def _validator() -> Any:
    import jsonschema

    return jsonschema.Draft202012Validator(json.loads(SCHEMA_PATH.read_text()))


_FEW = 50
"""So many records are checked before the schema is compiled, which takes as long as checking them."""
_checked = itertools.count()


@functools.cache
def _compiled() -> Callable[[Any], Any]:
    import fastjsonschema

    schema = _with_short_ways(json.loads(SCHEMA_PATH.read_text()))
    compiled: Callable[[Any], Any] = fastjsonschema.compile(schema, use_default=False, use_formats=False)
    return compiled


_NULL = {"type": "null"}


def _with_short_ways(part: Any) -> Any:
    """Return a schema that says the same and compiles to faster code: each refused alternative is an exception.

    Of a simple type or null it makes one list of types, because every other keyword heeds values of its own type alone.
    Of anything else or null it asks for null first.
    """
    if isinstance(part, list):
        return [_with_short_ways(item) for item in part]
    if not isinstance(part, dict):
        return part
    part = {name: _with_short_ways(item) for name, item in part.items()}
    match part.get("anyOf"):
        case [{"type": str() as kind} as other, null] if null == _NULL and "const" not in other:
            about = {name: item for name, item in part.items() if name != "anyOf"}
            if about.keys() & (other.keys() - {"title", "description"}):
                return part
            choices = {"enum": [*other["enum"], None]} if "enum" in other else {}
            return {**other, **about, **choices, "type": [kind, "null"]}
        case [other, null] if null == _NULL:
            return part | {"anyOf": [null, other]}
    return part


def _has_shape(data: Any) -> bool:
    """Return True for a record that the schema accepts; False when it has to be asked, which takes ten times as long.

    Who reads a campaign of thousands of trials gets the schema as compiled Python. It refuses no less than the schema
    does (tests/record/test_fast_schema.py), and its sentences are not used.
    """
    if next(_checked) < _FEW:
        return False
    import fastjsonschema

    try:
        _compiled()(data)
    except (fastjsonschema.JsonSchemaException, RecursionError):
        return False
    return True


def validate_record(data: Any, place: str) -> Record:
    """Check a record against the JSON schema and its own rules, and return it.

    Args:
        data: the parsed JSON.
        place: where it came from, for the message.

    Raises:
        RecordError: not valid; the message names the first field that is wrong.
    """
    decline_slow_imports()
    # Imported here: slow, and not needed inside a trial's kernel.
    from jsonschema.exceptions import best_match

    error = None if _has_shape(data) else best_match(_validator().iter_errors(data))
    if error is not None:
        where = ".".join(str(part) for part in error.absolute_path) or "the whole"
        raise RecordError(f"{place}: the record is not valid: {where}: {error.message[:300]}")
    unexplained = nulls_without_reason(data)
    if unexplained:
        raise RecordError(f"{place}: the record is not valid: {unexplained[0]} is null and `missing` has no reason")
    try:
        record = Record.model_validate(data)
    except ValidationError as invalid:
        first = invalid.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecordError(f"{place}: the record is not valid: {where}: {first['msg']}") from None
    contradiction = _contradiction(record)
    if contradiction:
        raise RecordError(f"{place}: the record is not valid: {contradiction}")
    return record


def _contradiction(record: Record) -> str | None:
    """Return what cannot be true at the same time in a record, if there is such a thing."""
    if (record.outcome is Outcome.OK) != (record.outcome_stage is None):
        return f"outcome is {record.outcome} and outcome_stage is {record.outcome_stage}"
    machine = record.machine
    if machine is not None:
        if machine.kind != record.parameters.machine:
            return f"machine.kind is {machine.kind} and parameters.machine is {record.parameters.machine}"
        kind = kind_of(machine.kind)
        if kind.is_virtual != (machine.virtual_machine is not None):
            found = "is null" if kind.is_virtual else "is not null"
            return f"machine.kind is {machine.kind}, and machine.virtual_machine {found}"
        if machine.memory_limit.method not in kind.memory_limit_methods:
            return f"machine.kind is {machine.kind}, and memory_limit.method is {machine.memory_limit.method}"
    if record.upload is not None:
        if record.upload.file_size_bytes != record.parameters.file_size_bytes:
            return f"upload.file_size_bytes is {record.upload.file_size_bytes}, not {record.parameters.file_size}"
        if len(record.upload.progress.t_s) != len(record.upload.progress.delivered_bytes):
            return "the two lists of upload.progress differ in length"
        parallel = record.parameters.parallel_uploads
        if record.upload.parallel_uploads != parallel or len(record.upload.files) not in (0, parallel):
            return (
                f"parallel_uploads is {parallel}, and upload tells of {record.upload.parallel_uploads} "
                f"and {len(record.upload.files)} files"
            )
    if record.download is not None and record.parameters.direction == "upload":
        return "direction is upload, and download is not null"
    if record.outcome is Outcome.OK:
        if record.upload is None or record.upload.duration_s is None or record.memory is None:
            return "outcome is ok, and upload or memory is not complete"
        measured = record.parameters.direction != "upload"
        unverified = not measured and any(caveat.code == NOT_VERIFIED for caveat in record.caveats)
        if record.verify is None or not (record.verify.matched or (unverified and record.verify.matched is None)):
            return "outcome is ok, and verify.matched is not true"
        if measured and (record.download is None or record.download.duration_s is None):
            return "outcome is ok, and download is not complete"
    for step in STEPS:
        part = record.upload if step == "upload" else record.download
        if part is not None and record.outcome is Outcome.OK and part.outcome not in (None, Outcome.OK):
            return f"outcome is ok, and {step}.outcome is {part.outcome}"
    return None
