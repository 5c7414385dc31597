"""YAML that changes no text: a number remembers how it was written, and a name is always a text.

A value such as `1.10` is a number to YAML, and 1.1 as a text would be another build. `WrittenInt` and `WrittenFloat`
are numbers that keep their text, for fields that need it. Every value but `true`,
`false`, `null` and decimal numbers is a text: there are no dates, no octal or sexagesimal numbers, no `yes` and `no`.

Size and nesting of a file are bounded, with its aliases expanded.
"""

import errno
import os
import re
import stat
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from picolab.text.foreign import one_line

LARGEST_FILE_BYTES = 256 << 10
MOST_NODES = 10_000
"""Values and names in one file, with aliases expanded."""
DEEPEST = 50
_LONGEST_PROBLEM = 300
_CORE = "tag:yaml.org,2002:"
# Bounded digits: Python refuses to read thousands of them, and no parameter is such a number.
_KINDS = {
    "merge": r"<<",
    "null": r"|~|null|Null|NULL",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]{1,30}",
    "float": r"[-+]?(\.[0-9]{1,50}|[0-9]{1,50}(\.[0-9]{0,50})?)([eE][-+]?[0-9]{1,3})?",
}
"""Types of a scalar without quotes or tag, other than a text; the first that matches."""


class YamlProblem(ValueError):
    """The reason why a text is not YAML that picolab reads."""


def _problem(problem: str, mark: Any = None) -> YamlProblem:
    line = f" in line {mark.line + 1}" if mark is not None else ""
    return YamlProblem(f"is not valid YAML{line}: {one_line(problem[:_LONGEST_PROBLEM])}; fix it there")


class WrittenInt(int):
    """A whole number that remembers its text."""

    written: str


class WrittenFloat(float):
    """A number that remembers its text."""

    written: str


def plain(value: Any) -> Any:
    """Return a value with ordinary numbers in place of those that remember their text."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, WrittenInt):
        return int(value)
    return float(value) if isinstance(value, WrittenFloat) else value


class _Loader(yaml.SafeLoader):
    """Composes nodes alone, and stops before they become too many."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own form)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._composed = self._depth = 0
        self._sizes: dict[int, tuple[int, int]] = {}
        self._nodes: list[Node] = []

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self._depth += 1
        self._composed += 1
        self._refuse_too_much(self._composed, self._depth, event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._sizes:
                raise _problem(f"the alias *{event.anchor} refers to itself", event.start_mark)
            return node
        children = node.value if isinstance(node, SequenceNode) else []
        if isinstance(node, MappingNode):
            _refuse_names(node)
            children = [part for pair in node.value for part in pair]
        sizes = [self._sizes[id(child)] for child in children]
        size = 1 + sum(size for size, _ in sizes)
        depth = 1 + max((depth for _, depth in sizes), default=0)
        self._refuse_too_much(size, depth, event.start_mark)
        self._sizes[id(node)] = size, depth
        # An id is good as long as its object lives.
        self._nodes.append(node)
        return node

    @staticmethod
    def _refuse_too_much(size: int, depth: int, mark: Any) -> None:
        if size > MOST_NODES:
            raise _problem(f"it holds more than {MOST_NODES:,} values, with its aliases expanded", mark)
        if depth > DEEPEST:
            raise _problem(f"it is nested too deeply, more than {DEEPEST} levels", mark)


for _kind, _pattern in _KINDS.items():
    _Loader.add_implicit_resolver(_CORE + _kind, re.compile(rf"(?:{_pattern})\Z", re.ASCII), None)


def _refuse_names(node: MappingNode) -> None:
    seen = set()
    for name, _ in node.value:
        if not isinstance(name, ScalarNode):
            raise _problem("a list or a mapping cannot be a name", name.start_mark)
        if name.value in seen:
            raise _problem(f"the name {name.value[:100]!r} appears twice", name.start_mark)
        seen.add(name.value)


def read_value(text: str) -> Any:
    """Return what a single value says, as `read_yaml` does; a comment would be a part of it that is left out.

    Raises:
        YamlProblem: as there, or there is a comment.
    """
    node = _compose(text)
    if text[node.end_mark.index if node is not None else 0 :].strip():
        raise YamlProblem("has a comment in it, which would be left out; put quotes around a text with # in it")
    return None if node is None else _value(node)


def read_yaml(text: str) -> Any:
    """Return what a YAML text says; names are texts, numbers are `WrittenInt` and `WrittenFloat`.

    Raises:
        YamlProblem: it is not YAML, too large, or holds something that picolab does not take.
    """
    node = _compose(text)
    return None if node is None else _value(node)


def _compose(text: str) -> Node | None:
    try:
        loader = _Loader(text)
        try:
            node: Node | None = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        if problem == "but found another document":
            problem = "it holds more than one document"
        raise _problem(problem, getattr(error, "problem_mark", None)) from None
    except (ValueError, OverflowError) as error:
        if isinstance(error, YamlProblem):
            raise
        # An escape beyond Unicode, such as "\UFFFFFFFF".
        raise _problem(str(error)) from None
    return node


def _value(node: Node) -> Any:
    if isinstance(node, ScalarNode):
        return _scalar(node)
    if isinstance(node, SequenceNode) and node.tag == f"{_CORE}seq":
        return [_value(item) for item in node.value]
    if isinstance(node, MappingNode) and node.tag == f"{_CORE}map":
        return _mapping(node)
    raise _problem(f"the tag {node.tag[:100]!r} is not taken", node.start_mark)


def _mapping(node: MappingNode) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for name, value in node.value:
        if name.tag == f"{_CORE}merge":
            # The first of several goes before the others.
            for source in reversed(value.value if isinstance(value, SequenceNode) else [value]):
                if not isinstance(source, MappingNode):
                    raise _problem("<< needs a mapping, or a list of mappings", value.start_mark)
                merged |= _mapping(source)
    own = {_text(name): _value(value) for name, value in node.value if name.tag != f"{_CORE}merge"}
    return {**merged, **own}


def _scalar(node: ScalarNode) -> Any:
    text, kind = _text(node), node.tag.removeprefix(_CORE)
    if kind in ("str", "merge"):
        return text
    # A tag that somebody has written may say anything of any text.
    if kind not in _KINDS or not re.fullmatch(_KINDS[kind], text, re.ASCII):
        raise _problem(f"{text[:100]!r} cannot be read as {node.tag.replace(_CORE, '!!')}", node.start_mark)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    number = WrittenInt(text) if kind == "int" else WrittenFloat(text)
    number.written = text
    return number


def _text(node: ScalarNode) -> str:
    """Return the text of a scalar; JSON writes some letters as two halves, and half a letter is none."""
    text: str = node.value
    try:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise _problem("it holds half a letter (a lone surrogate)", node.start_mark) from None
    if "\0" in text:
        raise _problem("it holds the character NUL", node.start_mark)
    return text


def read_yaml_file(path: Path) -> Any:
    """Return what a YAML file says, as `read_yaml` does.

    Raises:
        OSError: it cannot be read.
        YamlProblem: it is no such file.
    """
    # Whatever is no ordinary file may have no end, or wait for a writer.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise YamlProblem("is not an ordinary file; name a YAML file")
        content = file.read(LARGEST_FILE_BYTES + 1)
    if len(content) > LARGEST_FILE_BYTES:
        raise YamlProblem(f"is larger than {LARGEST_FILE_BYTES >> 10} KiB, which no parameter file is; name another")
    try:
        return read_yaml(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise YamlProblem("is not a text file in UTF-8; name a YAML file") from None
