"""What may be set: sizes, limits, and error messages that name the value, the place and the remedy."""

import datetime
import re
from pathlib import Path
from typing import Any

import pytest

from picolab.config.campaign_parameters import CampaignParameters
from picolab.config.invalid_input import unknown_name, validate
from picolab.config.new_project import make_project
from picolab.config.parameter_file import load_campaign_parameters
from picolab.config.project import project_root
from picolab.config.sizes import LARGEST_FILE_BYTES, MIB, format_size, parse_size
from picolab.config.trial_parameters import TrialParameters
from picolab.errors import ParameterError
from picolab.text.foreign import shown

SMALLEST = "matrix: {ram_mb: [512]}\n"


def trial(**values: Any) -> TrialParameters:
    return validate(TrialParameters, values, "here")


def complaint_about(text: str | bytes, folder: Path) -> str:
    """Return the message about a parameter file, without the path that it begins with."""
    path = folder / "wanted.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ParameterError) as caught:
        load_campaign_parameters(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message and len(message) < 600
    return message.removeprefix(f"{path}: ")


# Sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        (4096, 4096),
        ("100M", 100 * 1024 * 1024),
        ("100m", 100 * 1024 * 1024),
        (" 512 KiB ", 512 * 1024),
        ("1.5G", 1536 * 1024 * 1024),
        ("0.5K", 512),
        ("1T", LARGEST_FILE_BYTES),
    ],
)
def test_size_is_binary(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not a size"),
        ("much", "is not a size"),
        ("-1M", "is not a size"),
        ("1e3", "is not a size"),
        ("1 2M", "is not a size"),
        ("100MB", "different things to different people"),
        ("1.5gb", "different things to different people"),
        ("100P", "is not a size"),
        ("inf", "is not a size"),
        ("１００M", "is not a size"),
        ("100\N{KELVIN SIGN}", "is not a size"),
        ("9" * 400 + "G", "is not a size"),
        (True, "is not a size"),
        ("0", "outside 1 byte to 1T"),
        ("1.1T", "is not a whole number of bytes"),
        ("2T", "outside 1 byte to 1T"),
        ("999999999999999T", "outside 1 byte to 1T"),
        ("0.1K", "is not a whole number of bytes"),
    ],
)
def test_size_that_is_none(text: Any, words: str) -> None:
    with pytest.raises(ParameterError, match=words) as caught:
        parse_size(text)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["1", "1023", "1K", "1536", "100M", "1500M", "1G", "1T"])
def test_size_keeps_its_shortest_form(text: str) -> None:
    assert format_size(parse_size(text)) == text


def test_size_is_kept_in_one_spelling() -> None:
    assert trial(file_size="1024M").file_size == "1G" == trial(file_size=1 << 30).file_size
    assert trial(file_size="1024M") == trial(file_size="1.0G")


# One trial


def test_limit_of_an_upload_follows_its_size() -> None:
    assert trial(file_size="100M").upload_limit_s == 60 + 100
    assert trial(file_size="5G", floor_rate_mib_s=2).upload_limit_s == 60 + 2560
    assert trial(file_size="5G", total_limit_s=7).upload_limit_s == 7
    assert trial(file_size="1T", floor_rate_mib_s=0.001).upload_limit_s < float("inf")


def test_labels_are_safe_in_file_names() -> None:
    assert trial().case_label == "local-512mb-100M-calibration"
    assert trial(build="../a build/pico share", memory_limit="none").case_label == (
        "local-512mb-100M-pico-share-unlimited"
    )
    assert trial(build="/").build_label == "build"
    assert trial(build="ж" * 9).build_label == "-"
    assert len(trial(build="x" * 4000).case_label) < 120


def test_numbers_may_come_as_text() -> None:
    assert trial(ram_mb="256", seed="7") == trial(ram_mb=256, seed=7)


def test_virtual_machine_may_have_96_mib() -> None:
    parameters = trial(machine="vagrant", ram_mb=96, fresh_machine="per_trial", cpus=2, box="debian/bookworm64")

    assert parameters.case_label == "vagrant-96mb-100M-calibration"


def test_local_ignores_what_is_for_virtual_machines() -> None:
    parameters = trial(fresh_machine="per_block", cpus=8, box="picolab", provider="virtualbox", boot_limit_s=9)

    assert parameters.case_label == trial().case_label


def test_parameters_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        trial().ram_mb = 1  # type: ignore[misc]


def test_from_a_notebook_only_the_known_names_are_taken() -> None:
    namespace = {"ram_mb": 64, "file_size": "1M", "In": [], "_": object(), "exit": quit}

    assert TrialParameters.from_namespace(namespace) == TrialParameters(ram_mb=64, file_size="1M")
    with pytest.raises(ParameterError, match="the parameters cell: ram_mb = 3 should be"):
        TrialParameters.from_namespace({"ram_mb": 3})


INJECTED = "# Parameters\nram_mb = 64\nfile_sise = '1M'\n"


def test_a_mistyped_parameter_of_papermill_is_refused() -> None:
    sentence = "the parameters of papermill: there is no 'file_sise'; did you mean file_size?"
    with pytest.raises(ParameterError, match=re.escape(sentence)):
        TrialParameters.from_namespace({"In": ["", "ram_mb = 256\nfile_size: str = '8M'", INJECTED], "ram_mb": 64})


@pytest.mark.parametrize(
    "cells",
    [
        ["", "ram_mb: int = 256\nfile_sise = '8M'", INJECTED],
        ["", "%matplotlib inline", "mine = 3", "# Parameters of mine\nother = 1"],
        ["", "# Parameters\nram_mb = 64"],
        ["", "# Parameters\nram_mb = = 64"],
    ],
    ids=["a parameter of this notebook's own", "names of its reader", "known names", "no Python"],
)
def test_other_names_of_a_notebook_are_its_readers(cells: list[str]) -> None:
    assert TrialParameters.from_namespace({"In": cells, "ram_mb": 64}).ram_mb == 64


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ram": 512}, "there is no 'ram'; did you mean ram_mb?"),
        ({"zzz": 1}, "there is no 'zzz'; known are boot_limit_s, box, build, cache, calibration, "),
        ({"ram_mb": 3}, "ram_mb = 3 should be greater than or equal to 4 (memory of the machine in MiB"),
        ({"ram_mb": "12.3M"}, "RAM '12.3M' is not a whole number of bytes"),
        ({"ram_mb": 12.3}, "RAM 12.3 is no multiple of 64 KiB; round it"),
        ({"ram_mb": 12.5, "machine": "vagrant"}, "ram_mb = 12.5 is too little for machine = 'vagrant'"),
        ({"ram_mb": 128.5, "machine": "vagrant"}, "ram_mb = 128.5 is no whole number of MiB"),
        ({"ram_mb": 512.55}, "RAM 512.55 is no multiple of 64 KiB"),
        ({"ram_mb": "much"}, "RAM 'much' is not a size"),
        ({"ram_mb": [512]}, "ram_mb: [512] should be a number of MiB"),
        ({"ram_mb": True}, "ram_mb: True is a yes or a no"),
        ({"ram_mb": 10**30}, "should be less than or equal to 1048576"),
        ({"ram_mb": None}, "ram_mb: None should be a number of MiB"),
        ({"file_size": "100MB"}, "file_size: file size '100MB' is not a size"),
        ({"file_size": ["1M"]}, "file_size = ['1M'] should be a text"),
        ({"file_size": datetime.date(2020, 1, 1)}, "file_size = datetime.date(2020, 1, 1) should be a text"),
        ({"machine": "docker"}, "machine = 'docker' should be 'local' or 'vagrant'"),
        ({"machine": "vagrant", "ram_mb": 95}, "here: ram_mb = 95 is too little for machine = 'vagrant': the smallest"),
        ({"machine": "vagrant", "memory_limit": "none"}, "here: memory_limit = 'none' makes no sense with machine = "),
        ({"machine": "vagrant", "work_dir": "/mnt/ssd"}, "here: work_dir = '/mnt/ssd' is a folder of this host, and"),
        ({"machine": "vagrant", "work_dir": "x" * 9999}, "remove it, or use machine local"),
        ({"fresh_machine": "always"}, "'per_trial', 'per_block' or 'per_campaign'"),
        ({"provider": "vmware"}, "provider = 'vmware' should be 'libvirt' or 'virtualbox' (what makes the virtual"),
        ({"cpus": 0}, "cpus = 0 should be greater than or equal to 1 (processors of the virtual machine"),
        ({"cpus": 65}, "cpus = 65 should be less than or equal to 64"),
        ({"boot_limit_s": 0}, "boot_limit_s = 0 should be greater than 0"),
        ({"boot_limit_s": 3601}, "boot_limit_s = 3601 should be less than or equal to 3600"),
        (
            {"box": "debian\tbookworm64"},
            "box: 'debian\\tbookworm64' holds a character that cannot be printed; remove it",
        ),
        ({"box": "x" * 201}, "should have at most 200 characters"),
        ({"machine_name": ".."}, "machine_name = '..' should"),
        ({"machine_name": "../x"}, "machine_name = '../x' should"),
        ({"machine_name": "-x"}, "machine_name = '-x' should"),
        ({"machine_name": "x\n"}, "machine_name = 'x\\n' should"),
        ({"build": ""}, "build = '' should"),
        ({"build": "a\0b"}, "build: 'a\\x00b' holds a character that cannot be printed; remove it"),
        ({"work_dir": "a\nb"}, "work_dir: 'a\\nb' holds a character that cannot be printed; remove it"),
        ({"build": "\udcff"}, "build: '\\udcff' holds a character that cannot be printed"),
        ({"build": False}, "build: False is a yes or a no"),
        ({"keep_machine": "sometimes"}, "'never', 'on_failure' or 'always'"),
        ({"memory_limit": 0}, "'enforced' or 'none'"),
        ({"seed": -1}, "seed = -1 should be"),
        ({"seed": 1 << 63}, "should be less than"),
        ({"calibration": [1]}, "calibration = [1] should be a mapping"),
        ({"stall_limit_s": 0}, "stall_limit_s = 0 should be greater than 0"),
        ({"stall_limit_s": float("nan")}, "stall_limit_s = nan should be a finite number"),
        ({"total_limit_s": float("inf")}, "total_limit_s = inf should be a finite number"),
        ({"floor_rate_mib_s": 1e-320}, "should be greater than or equal to 0.001"),
        ({"sample_interval_s": 0.2}, "should be less than or equal to 0.1"),
        ({"build": "x" * 100_000 + "\n"}, "holds a character that cannot be printed"),
    ],
)
def test_message_names_value_place_and_remedy(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError) as caught:
        trial(**values)
    message = str(caught.value)
    assert message.startswith("here: ")
    assert words in message
    assert "\n" not in message and len(message) < 600


def test_whatever_is_not_a_mapping_is_refused() -> None:
    for data in (None, [], 3, "text"):
        with pytest.raises(ParameterError, match=r"here: the whole = .* should be a mapping"):
            validate(TrialParameters, data, "here")


def test_values_in_messages_are_short() -> None:
    loop: list[Any] = []
    loop.append(loop)
    bomb: list[Any] = ["lol"] * 10
    for _ in range(40):
        bomb = [bomb] * 10

    assert shown(512) == "512" and shown("a\nb") == "'a\\nb'"
    assert len(shown(loop)) < 100
    assert len(shown("x" * 10_000)) < 120
    assert len(shown(bomb)) < 250


def test_nearest_name_is_proposed() -> None:
    assert unknown_name("repeat", ["repeats", "seed"]) == "there is no 'repeat'; did you mean repeats?"
    assert unknown_name("x", []) == "there is no 'x'; known are none"


# A file of parameters


def test_files_in_the_project_are_good() -> None:
    files = sorted((project_root() / "parameters").glob("*.yaml"))

    assert {"quick.yaml", "full.yaml"} <= {path.name for path in files}
    for path in files:
        assert load_campaign_parameters(path).description
    full = load_campaign_parameters(project_root() / "parameters" / "full.yaml").matrix.factors
    assert full["ram_mb"] == [2048, 1024, 512, 256]
    assert [parse_size(size) / MIB for size in full["file_size"]] == [100, 500, 1024, 2048, 5120]


def test_defaults(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("\ufeffmatrix:\n  ram_mb: [64]\n", encoding="utf-8")
    wanted = load_campaign_parameters(tmp_path / "a.yaml")

    assert wanted == CampaignParameters(matrix=wanted.matrix)
    assert (wanted.repeats, wanted.seed, wanted.fault_retries, wanted.parameters) == (3, 1, 1, {})
    assert wanted.matrix.factors == {"ram_mb": [64]}


def test_merge_keys_of_yaml_still_work(tmp_path: Path) -> None:
    text = "base: &base {ram_mb: [64], build: [calibration]}\nmatrix: {<<: *base, ram_mb: [32]}\n"
    assert complaint_about(text, tmp_path).startswith("there is no 'base'")
    text = "matrix: {include: [&one {ram_mb: 64, file_size: 1M}, {<<: *one, file_size: 2M}]}"
    (tmp_path / "merged.yaml").write_text(text)
    assert load_campaign_parameters(tmp_path / "merged.yaml").matrix.include[1] == {"ram_mb": 64, "file_size": "2M"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no mapping; start from a copy of parameters/quick.yaml"),
        ("# only a comment", "holds no mapping"),
        ("just words", "holds no mapping"),
        ("- 1\n- 2", "holds no mapping"),
        ("matrix: {ram_mb: [512", "is not valid YAML in line 1"),
        ("matrix:\n\tram_mb: [512]", "is not valid YAML in line 2"),
        ("matrix: \0", "is not valid YAML"),
        (b"\xff\xfe\0", "is not a text file in UTF-8"),
        (
            "matrix: !!python/object/apply:os.system [ls]",
            "in line 1: the tag 'tag:yaml.org,2002:python/object/",
        ),
        ("matrix: *nobody", "is not valid YAML in line 1: found undefined alias"),
        ("matrix:\n  ram_mb: [512]\n  ram_mb: [256]", "in line 3: the name 'ram_mb' appears twice"),
        (SMALLEST + SMALLEST, "in line 2: the name 'matrix' appears twice"),
        ("matrix: " + "[" * 3000, "is not valid YAML in line 1: it is nested too deeply"),
        ("repeats: 3", "matrix is missing"),
        ("matrix:", "matrix = None should be a mapping"),
        ("matrix: [1]", "matrix = [1] should be a mapping"),
        ("1: 2\n" + SMALLEST, "there is no '1'; known are"),
        ("matrix: {[a]: 1}", "a list or a mapping cannot be a name"),
        ("matrix: {ram_mb: [512], include: hi}", "matrix.include = 'hi' should be a list"),
        ("matrix: {ram_mb: [512], include: [hi]}", "matrix.include.0 = 'hi' should be a mapping"),
        ("matrix: {ram_mb: [512], exclude: }", "matrix.exclude = None should be a list"),
        (SMALLEST + "repeat: 3", "there is no 'repeat'; did you mean repeats?"),
        (SMALLEST + "повторы: 3", "there is no 'повторы'; known are"),
        (SMALLEST + "repeats: 0", "repeats = 0 should be greater than or equal to 1 (trials a case"),
        (SMALLEST + "repeats: 1001", "repeats = 1001 should be less than or equal to 1000"),
        (SMALLEST + "repeats: yes", "repeats = 'yes' should be a whole number"),
        (SMALLEST + "repeats: true", "repeats: True is a yes or a no"),
        (SMALLEST + "repeats: many", "repeats = 'many' should be a whole number"),
        (SMALLEST + "repeats: [3]", "repeats = [3] should be a whole number"),
        (SMALLEST + "seed: -1", "seed = -1 should be greater than or equal to 0"),
        (SMALLEST + "fault_retries: 11", "fault_retries = 11 should be less than or equal to 10"),
        (SMALLEST + "description: [a]", "description = ['a'] should be a text"),
        (SMALLEST + "parameters: [1]", "parameters = [1] should be a mapping"),
    ],
)
def test_file_that_makes_no_sense(text: str | bytes, words: str, tmp_path: Path) -> None:
    assert words in complaint_about(text, tmp_path)


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path, why in ((tmp_path, "Is a directory"), (tmp_path / "none.yaml", "No such file or directory")):
        with pytest.raises(ParameterError) as caught:
            load_campaign_parameters(path)
        assert str(caught.value) == f"{path}: cannot be read ({why}); name a file such as parameters/quick.yaml"


def test_missing_file_of_the_project_is_suggested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_project(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    with pytest.raises(ParameterError, match=r"did you mean \.\./\.\./parameters/quick\.yaml\?"):
        load_campaign_parameters(Path("parameters/quick.yaml"))


def test_missing_file_outside_of_a_project_suggests_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("picolab.config.parameter_file.find_project", lambda: None)
    with pytest.raises(ParameterError, match="make one with `picolab init`"):
        load_campaign_parameters(tmp_path / "quick.yaml")


@pytest.mark.parametrize(
    ("written", "mib"),
    [(512, 512), ("512", 512), ("16M", 16), ("1G", 1024), ("12.5M", 12.5), (12.0, 12), ("4.0625", 4.0625)],
)
def test_ram_is_a_size_and_stays_whole_where_it_is(written: object, mib: float) -> None:
    found = TrialParameters.model_validate({"ram_mb": written})

    assert found.ram_mb == mib
    assert type(found.ram_mb) is type(mib)
    assert TrialParameters.model_validate_json(found.model_dump_json()) == found
    assert f"local-{mib}mb-100M" in found.case_label
