"""Fields of a record by their path, such as `upload.commit_s`: their value, and the pandas type of their column."""

import enum
import functools
import types
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

if TYPE_CHECKING:
    from picolab.record.record import Record

_PANDAS_TYPES = {int: "Int64", float: "Float64", bool: "boolean"}


def value_at(record: "Record", path: str) -> Any:
    """Return the value of a field; None when it, or a part of the record that it belongs to, is null."""
    part: Any = record
    for name in _names(path):
        part = part.get(name) if isinstance(part, dict) else getattr(part, name)
        if part is None:
            return None
    return part.value if isinstance(part, enum.Enum) else part


def values_at(record: "Record", paths: tuple[str, ...]) -> dict[str, Any]:
    """Return the values of many fields by path, as `value_at` does, in a fifth of the time."""
    found: dict[str, Any] = {}
    for part, names in _by_part(paths):
        owner: Any = value_at(record, part) if part else record
        if owner is None:
            found.update(dict.fromkeys((path for path, _ in names), None))
            continue
        is_dict = isinstance(owner, dict)
        for path, name in names:
            value = owner.get(name) if is_dict else getattr(owner, name)
            found[path] = value.value if isinstance(value, enum.Enum) else value
    return found


@functools.cache
def _by_part(paths: tuple[str, ...]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return each part of a record that the fields are in, with the paths and names of those fields."""
    parts: dict[str, list[tuple[str, str]]] = {}
    for path in dict.fromkeys(paths):
        part, _, name = path.rpartition(".")
        parts.setdefault(part, []).append((path, name))
    return list(parts.items())


@functools.cache
def _names(path: str) -> tuple[str, ...]:
    return tuple(path.split("."))


@functools.cache
def pandas_type_at(path: str) -> str:
    """Return the pandas type of the column that holds a field."""
    from picolab.record.record import Record

    part: Any = Record
    for name in path.split("."):
        if get_origin(part) is dict:
            return "string"
        part = part.model_fields[name].annotation
        part = next((one for one in _alternatives(part) if hasattr(one, "model_fields")), part)
    return pandas_type(part)


def pandas_type(annotation: Any) -> str:
    """Return the pandas type for an annotation: of a number or a truth value its own, `string` for all else."""
    plain = _alternatives(annotation)
    if set(plain) == {int, float}:
        # Usually whole; `trial_frame` makes it a column of fractions where one is none.
        return _PANDAS_TYPES[int]
    return _PANDAS_TYPES.get(plain[0], "string") if len(plain) == 1 else "string"


def _alternatives(annotation: Any) -> list[Any]:
    """Return the types of a union but for None, without what validates them."""
    plain = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    found = [get_args(one)[0] if hasattr(one, "__metadata__") else one for one in plain]
    return [one for one in dict.fromkeys(found) if one is not types.NoneType]
