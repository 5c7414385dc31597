"""The sentences for invalid input: each names the value, the place and the remedy."""

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

import pydantic
from pydantic import BaseModel

from picolab.errors import ParameterError
from picolab.text.foreign import shown

ModelT = TypeVar("ModelT", bound=BaseModel)


def validate(model: type[ModelT], data: Any, place: str, options: Mapping[str, str] | None = None) -> ModelT:
    """Validate `data` into `model`; the first mistake in it becomes one sentence.

    Args:
        place: where the data came from, as the user would name it.
        options: the options of the command that set a field, by its name: `--from` says more than `low_mb`.

    Raises:
        ParameterError: names the value, the place and the remedy.
    """
    try:
        return model.model_validate(data)
    except pydantic.ValidationError as error:
        raise ParameterError(f"{place}: {_sentence(model, error.errors()[0], options or {})}") from None


def unknown_name(name: str, known: list[str]) -> str:
    """Return a sentence about a name that does not exist, with the nearest one that does, or all that do."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known) or 'none'}"
    return f"there is no {shown(name)}; {hint}"


_KINDS = {
    "dict_type": "a mapping (name: value)",
    "model_type": "a mapping (name: value)",
    "list_type": "a list, such as [a, b]",
    "string_type": "a text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
}
"""pydantic's error types in plain words."""


def _sentence(model: type[BaseModel], error: Any, options: Mapping[str, str]) -> str:
    # pydantic names the alternative of a union, which means nothing to a user.
    where = ".".join(str(part) for part in error["loc"] if part != "constrained-int")
    where = options.get(where, where)
    if error["type"] == "extra_forbidden":
        return unknown_name(str(error["loc"][-1]), sorted(model.model_fields))
    if error["type"] == "missing":
        return f"{where} is missing and has no default"
    if error["type"] == "value_error":
        # Without a location, the message is about several parameters and names them itself.
        return f"{where}: {error['ctx']['error']}" if where else str(error["ctx"]["error"])
    if error["type"] == "string_pattern_mismatch" and error["loc"][-1:] == ("[key]",):
        return (
            f"{where.removesuffix('.[key]')}: {shown(error['input'])} cannot be a label: up to 40 letters, digits, "
            f"dots, dashes and underscores, beginning with a letter or digit"
        )
    if error["msg"] == "Keys should be strings" or error["loc"][-1:] == ("[key]",):
        return f"{shown(error['input'])} cannot be a name; put quotes around it if it is meant as one"
    reason = _KINDS.get(error["type"]) or error["msg"].removeprefix("Input should be ").removeprefix("a ")
    field = model.model_fields.get(str(error["loc"][0])) if error["loc"] else None
    meaning = f" ({field.description})" if field and field.description else ""
    return f"{where or 'the whole'} = {shown(error['input'])} should be {reason}{meaning}"
