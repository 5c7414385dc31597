"""The builds of `picolab compare`, put into the content of a parameter file."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from picolab.config.given_paths import absolute_build
from picolab.config.trial_parameters import TrialParameters
from picolab.errors import ParameterError

_LONGEST_LABEL = 40
_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,39})=(.+)")


def requested(wanted: dict[str, Any], words: list[str], twice: str | None, source: str) -> dict[str, Any]:
    """Return the parameters of a campaign with the builds of the command line.

    Args:
        wanted: the content of the parameter file.
        words: builds, the baseline first: a path, a release, `LABEL=BUILD`, or a label of the file's `builds`.
        twice: a build to compare with itself.
        source: name of the file, for messages.

    Raises:
        ParameterError: fewer than two builds, or two with the same label.
    """
    if twice is not None:
        if words:
            raise ParameterError(f"--self {twice} compares this build with itself; remove {words[0]!r}")
        label, build = _named(twice, wanted["builds"], "picolab compare")
        again = f"{label[: _LONGEST_LABEL - 6]}-again"
        return _with(wanted, {label: build, again: build})
    if not words:
        levels = wanted["builds"] or wanted["matrix"].get("build") or []
        if len(levels) < 2:
            raise ParameterError(
                f"{source}: names fewer than two builds; give them: picolab compare BASELINE CANDIDATE {source}"
            )
        return wanted
    if len(words) == 1:
        raise ParameterError(f"{words[0]!r} is one build; name the other too, or compare it with itself: --self")
    return _with(wanted, named_builds(words, wanted["builds"], "picolab compare"))


def named_builds(words: Sequence[str], known: dict[str, Any], command: str) -> dict[str, dict[str, Any]]:
    """Return the builds of a command line by label, in its order, each as an entry of `builds`.

    Args:
        words: a path, a release, `LABEL=BUILD`, or a label of `known`.
        known: entries of `builds` in a parameter file.
        command: for messages.

    Raises:
        ParameterError: two builds have one label, or a path does not exist.
    """
    named = [_named(word, known, command) for word in words]
    labels = Counter(label for label, _ in named)
    if max(labels.values()) > 1:
        # Executables with the same file name get their folder into the label.
        named = [
            (_label(_with_folder(build["build"])) if labels[label] > 1 and _is_file(label, build) else label, build)
            for label, build in named
        ]
        labels = Counter(label for label, _ in named)
    for label, count in labels.items():
        if count > 1:
            raise ParameterError(f"two builds would be called {label!r}; name them, such as old=PATH new=PATH")
    return dict(named)


def _with(wanted: dict[str, Any], builds: dict[str, Any]) -> dict[str, Any]:
    matrix = {name: levels for name, levels in wanted["matrix"].items() if name != "build"}
    return {**wanted, "builds": builds, "matrix": matrix, "baseline": next(iter(builds))}


def _named(word: str, known: dict[str, Any], command: str) -> tuple[str, dict[str, Any]]:
    """Return the label of a build and its entry in `builds`."""
    if word in known:
        return word, known[word]
    match = _NAMED.fullmatch(word)
    if match and match[2] in known and not Path(word).is_file():
        return match[1], known[match[2]]
    if match and not Path(word).is_file():
        return match[1], {"build": absolute_build(match[2], Path.cwd(), command)}
    if match and Path(match[2]).expanduser().is_file():
        # A path may hold an equals sign.
        raise ParameterError(f"{word!r} is a file, and {match[2]!r} is one too; write ./{word} for the first")
    build = absolute_build(word, Path.cwd(), command)
    return _label(build), {"build": build}


def _label(build: str) -> str:
    words = TrialParameters.model_construct(build=build, label="").build_label
    return re.sub(r"^[^A-Za-z0-9]+", "", words)[:_LONGEST_LABEL] or "build"


def _is_file(label: str, build: dict[str, Any]) -> bool:
    """Return whether a build is an executable that is labelled by its file name, which nobody chose."""
    return Path(build["build"]).is_absolute() and label == _label(build["build"])


def _with_folder(build: str) -> str:
    path = Path(build)
    return f"{path.parent.name}-{path.name}"
