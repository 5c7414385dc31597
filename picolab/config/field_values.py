"""Values of a parameter's field as they were written: texts keep their spelling, and no bool stands for a number."""

import re
from types import NoneType
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ValidationInfo

from picolab.config.yaml_text import WrittenFloat, WrittenInt, plain
from picolab.text.foreign import shown


def written_text(value: Any) -> Any:
    """Return a text unchanged, and a number from YAML as it was written: 1.10 and 1.1 are one number and two texts.

    Raises:
        ValueError: a number whose spelling is lost, or a character that cannot be printed.
    """
    if type(value) is str and value.isascii() and "\0" not in value:
        return value
    if isinstance(value, WrittenInt | WrittenFloat):
        return value.written
    if isinstance(value, bool | int | float):
        raise ValueError(f"{shown(value)} is no text, and may have been written in another way; put quotes around it")
    if isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
        raise ValueError(f"{shown(value)} holds a character that cannot be printed; remove it")
    return value


AS_WRITTEN = BeforeValidator(written_text)
Text = Annotated[str, AS_WRITTEN]


_ORDINARY = (str, int, float, NoneType)
"""Exactly these: a number that remembers its text is of a type of its own."""


def for_field(model: type[BaseModel], name: str, value: Any) -> Any:
    """Return a value from YAML for a field: as it was written where the field is a text, else an ordinary number."""
    if type(value) in _ORDINARY:
        return value
    field = model.model_fields.get(name)
    annotation = field.annotation if field is not None else None
    if annotation is str and isinstance(value, WrittenInt | WrittenFloat):
        return value.written
    if annotation == dict[str, Text] and isinstance(value, dict):
        return {
            key: item.written if isinstance(item, WrittenInt | WrittenFloat) else item for key, item in value.items()
        }
    return plain(value)


def all_for_fields(model: type[BaseModel], values: Any) -> Any:
    """Return `for_field` of each value of a mapping; anything else unchanged, for pydantic to refuse."""
    if not isinstance(values, dict):
        return values
    return {name: for_field(model, name, value) for name, value in values.items()}


def refuse_bool(model: type[BaseModel], value: Any, info: ValidationInfo) -> Any:
    """Refuse a bool, which pydantic would take for 0 or 1: no parameter is one. Use it as a `before` validator."""
    if type(value) in _ORDINARY:
        return value
    if isinstance(value, bool):
        raise ValueError(f"{value} is a yes or a no, and neither makes sense here; put quotes around a text")
    return for_field(model, str(info.field_name), value)
