"""Parameters on a command line: the option `-p NAME VALUE` for any of them, and options that give a size."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import click

from picolab.errors import ParameterError
from picolab.text.foreign import shown

Size = TypeVar("Size")


def parameter_option(text: str) -> Callable[[Any], Any]:
    """Return the option with its help text; the command gets the pairs as `others`."""
    text += "; VALUE is YAML. May be repeated."
    return click.option("-p", "--parameter", "others", nargs=2, multiple=True, metavar="NAME VALUE", help=text)


def read_parameters(
    others: Sequence[tuple[str, str]], given: Collection[str] = (), fixed: Collection[str] = (), command: str = ""
) -> dict[str, Any]:
    """Return the values by name; `VALUE` is read as in a parameter file.

    Args:
        given: names that have their own option, which was used.
        fixed: names that the command sets itself.
        command: its name in the error, such as `picolab floor`.

    Raises:
        ParameterError: a name is given twice or is fixed, or a value is no YAML.
    """
    from picolab.config.yaml_text import YamlProblem, read_value

    values: dict[str, Any] = {}
    for name, text in others:
        if name in fixed:
            raise ParameterError(f"-p {name} {text}: {command} sets {name} itself; remove it")
        if name in given or name in values:
            raise ParameterError(f"-p {name} {text}: {name} is given twice; remove one of the two")
        try:
            values[name] = read_value(text)
        except YamlProblem as problem:
            raise ParameterError(f"-p {name}: {shown(text)} {problem}") from None
    return values


def sized(option: str, parse: Callable[[str], Size], text: str) -> Size:
    """Return the size or the RAM that an option gives; an error names the option."""
    try:
        return parse(text)
    except ParameterError as error:
        raise ParameterError(f"{option}: {error}") from None
