"""Reading a file of `parameters/`, or a mapping of the same form."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from picolab.config.campaign_parameters import CampaignParameters, Matrix
from picolab.config.given_paths import all_located, located
from picolab.config.invalid_input import validate
from picolab.config.project import find_project
from picolab.config.yaml_text import YamlProblem, read_yaml_file
from picolab.errors import ParameterError


def load_campaign_parameters(path: Path) -> CampaignParameters:
    """Read a file of `parameters/`.

    Raises:
        ParameterError: no such file, not YAML, or something in it makes no sense.
    """
    data = read_mapping(path, "start from a copy of parameters/quick.yaml")
    return campaign_parameters(data, path.parent, str(path))


def read_mapping(path: Path, remedy: str) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Args:
        remedy: for a file that holds something else, as the end of a sentence.

    Raises:
        ParameterError: no such file, not YAML, or no mapping.
    """
    try:
        data = read_yaml_file(path)
    except OSError as error:
        raise ParameterError(f"{path}: cannot be read ({error.strerror}); {_remedy(path)}") from None
    except YamlProblem as problem:
        raise ParameterError(f"{path}: {problem}") from None
    if not isinstance(data, dict):
        raise ParameterError(f"{path}: holds no mapping; {remedy}")
    return data


def campaign_parameters(data: Mapping[str, Any], folder: Path, place: str) -> CampaignParameters:
    """Return the parameters of a campaign that a mapping of the form of such a file holds.

    Args:
        folder: what a relative path in it means.
        place: where it was given, for messages.

    Raises:
        ParameterError: something in it makes no sense.
    """
    return _with_paths_from_the_root(validate(CampaignParameters, dict(data), place), folder, place)


def _remedy(path: Path) -> str:
    """Return where the file is, when the current folder is not the project's."""
    project = find_project()
    if project is None:
        return "this folder is in no project: make one with `picolab init`, or name another file"
    if not path.is_absolute() and (project / path).is_file():
        return f"paths are relative to the current folder; did you mean {os.path.relpath(project / path)}?"
    return "name a file such as parameters/quick.yaml"


def _with_paths_from_the_root(wanted: CampaignParameters, folder: Path, place: str) -> CampaignParameters:
    """Return the same parameters with absolute paths."""
    labels = wanted.builds
    matrix = {
        name: [located(name, level, folder, place, labels) for level in levels] if isinstance(levels, list) else levels
        for name, levels in wanted.matrix.factors.items()
    }
    for name in ("include", "exclude"):
        matrix[name] = [all_located(entry, folder, place, labels) for entry in getattr(wanted.matrix, name)]
    builds = {
        label: build.model_copy(update={"build": located("build", build.build, folder, place)})
        for label, build in wanted.builds.items()
    }
    parameters = all_located(wanted.parameters, folder, place, labels)
    return wanted.model_copy(
        update={"matrix": Matrix.model_validate(matrix), "builds": builds, "parameters": parameters}
    )
