"""Files and folders of others: read with a bound, never blocking, and nothing is removed outside of its folder."""

import contextlib
import gc
import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from picolab.config.plan import Plan
from picolab.config.sizes import MIB
from picolab.errors import ParameterError, UnreadableFile, UnsafePath
from picolab.files import foreign
from picolab.files.foreign import parse_json, read_bounded, read_json, refuse_links, remove_tree_inside, unfit_value
from picolab.files.writing import file_name


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def endless_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


ODD: list[tuple[Callable[[Path], object], str]] = [
    (os.mkfifo, "it is a pipe"),
    (lambda path: path.mkdir(), "it is a folder"),
    (lambda path: path.symlink_to("/dev/zero"), "it is a device"),
    (lambda path: path.symlink_to("/dev/null"), "it is a device"),
    (lambda path: path.symlink_to(path), "cannot be read"),
    (a_socket, "it is a socket"),
    (endless_sparse, "is too large: more than 1 MiB"),
    (lambda path: path.write_bytes(b"x" * (MIB + 1)), "is too large: more than 1 MiB"),
]


@pytest.mark.parametrize(("make", "words"), ODD)
def test_what_is_no_file_or_too_large_is_one_sentence_at_once(
    tmp_path: Path, make: Callable[[Path], object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path may not be long
    path = Path("odd")
    make(path)
    with pytest.raises(UnreadableFile) as caught:
        read_bounded(path, MIB)
    assert words in str(caught.value) and str(caught.value).startswith("odd: ") and "\n" not in str(caught.value)


def test_a_file_may_be_as_large_as_the_bound(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * MIB)
    assert len(read_bounded(tmp_path / "file", MIB)) == MIB


def test_a_file_of_the_kernel_that_has_no_size_is_read(tmp_path: Path) -> None:
    assert read_bounded(Path("/proc/self/status"), MIB).startswith(b"Name:")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"{", "is cut off or damaged"),
        (b"\xff\xfe", "is not text in UTF-8"),
        (b"[" * 200_000, "it is nested too deeply"),
        (b'{"a":' * 200_000, "it is nested too deeply"),
        (b"9" * 10_000, "is cut off or damaged"),
        (b"{} {}", "is cut off or damaged"),
    ],
)
def test_what_is_no_json_is_one_sentence(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UnreadableFile) as caught:
        read_json(path, MIB)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1" + "0" * 30, "the whole is a number of 100 bits, more than 64"),
        (f'{{"a": [1, {{"b": {1 << 63}}}]}}', "a.1.b is a number of 64 bits, more than 64"),
        (f"[{-(1 << 63) - 1}]", "0 is a number of 64 bits, more than 64"),
        ("[1e999]", "0 is no finite number"),
        ("[NaN]", "0 is no finite number"),
        ('{"a": "\\ud800"}', "a is no text in Unicode"),
        ('{"\\udc00": 1}', "the whole has a name that is no text in Unicode"),
        ("[" * 100 + "]" * 100, "is nested too deeply"),
    ],
)
def test_values_that_nothing_can_hold_are_named(text: str, words: str) -> None:
    assert words in str(unfit_value(json.loads(text)))


@pytest.mark.parametrize("value", [(1 << 63) - 1, -(1 << 63), 1.5, True, None, "\U0001f600", {"a": [[]]}])
def test_ordinary_values_fit(value: object) -> None:
    assert unfit_value(value) is None


HOSTILE_PLANS: dict[str, bytes] = {
    "large": b'{"a": "' + b"x" * (100 * MIB) + b'"}',
    "nested": b"[" * 200_000,
    "a list": b"[]",
    "many lists": b"[" + b"[]," * 10_000_000 + b"[]]",
    "a surrogate": b'{"description": "\\ud800"}',
    "a number": b'{"seed": 1' + b"0" * 30 + b"}",
    "trials of lists": b'{"trials": [[], []]}',
}

LOAD = """
import resource, sys
from pathlib import Path
from picolab.errors import ParameterError
from picolab.config.plan import Plan
try:
    Plan.load(Path(sys.argv[1]))
except ParameterError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("name", HOSTILE_PLANS)
def test_a_hostile_plan_is_one_sentence_in_bounded_memory(tmp_path: Path, name: str) -> None:
    (tmp_path / "plan.json").write_bytes(HOSTILE_PLANS[name])
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (60, 60)),
    )
    sentence, peak_kib = done.stdout.splitlines()
    assert sentence.startswith(f"{tmp_path}/plan.json: this picolab cannot read the plan: ")
    assert int(peak_kib) < 1500 * 1024


@pytest.mark.parametrize(("make", "words"), ODD[:5])
def test_a_plan_that_is_no_file_is_one_sentence(tmp_path: Path, make: Callable[[Path], object], words: str) -> None:
    make(tmp_path / "plan.json")
    with pytest.raises(ParameterError, match=words):
        Plan.load(tmp_path)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_is_as_before(enabled: bool) -> None:
    was_enabled = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        assert parse_json("[[]]") == [[]]
        with pytest.raises(ValueError, match="Expecting"):
            parse_json("[")
        assert unfit_value([1e999]) is not None
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()


ODD_JSON = [
    *('"\ud800"', '{"\ud800": 1}', r'"\ud800"', r'{"\ud800": 1}', r'"\ud83d\ude00"', '"\x01"', "\ufeff1"),
    *("NaN", "-Infinity", "-NaN", "1e999", "0.1e-400", "-0", "01", "1.", "9" * 4300, "9" * 4301),
    *('{"a": 1, "a": 2}', "[" * 150 + "]" * 150, "[" * 100_000, "[1,]", "1 2", "\xa01", ""),
]


@pytest.mark.parametrize("text", ODD_JSON, ids=lambda text: ascii(text[:12]))
def test_json_is_parsed_as_the_standard_library_does(text: str) -> None:
    def outcome(parse: Callable[[str], object]) -> str:
        try:
            return ascii(parse(text))
        except (ValueError, RecursionError) as error:
            return repr(error)

    assert outcome(parse_json) == outcome(json.loads)


# Names that become paths

HOSTILE_NAMES = [
    *("", ".", "..", "/", "/etc", "../x", "a/b", "a/../b", "./a", "a/", "a\0b", "a\nb", "-rf", ".hidden", "\u202ea"),
    *("~", "a\u2028b", "x" * 201, "\u00e4" * 101, "\ud800", "\x1b[31m", " a"),
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_name_that_is_a_path_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a file name"):
        file_name(name)


@given(st.text(max_size=300) | st.from_regex(r"(\.\.?/|/|[a-z]|\x00|%2e){1,12}", fullmatch=True))
@settings(database=None, deadline=None)
def test_every_name_that_is_taken_stays_in_its_folder(name: str) -> None:
    try:
        taken = file_name(name)
    except ValueError:
        return
    folder = Path("/a/folder")
    for ending in ("", ".ipynb", ".attempt2.download-samples.jsonl"):
        place = folder / f"{taken}{ending}"
        assert place.parent == folder and os.path.normpath(place) == str(place)
        assert len(os.fsencode(place.name)) < 256


# Removing

Make = Callable[[Path, Path], Path]
"""Of a campaign's folder and a folder elsewhere: makes a path that must not be removed through the campaign."""
OUTSIDE: dict[str, Make] = {
    "an absolute path": lambda folder, other: folder / "running" / str(other),
    "a path upwards": lambda folder, other: folder / "running" / ".." / ".." / other.name,
    "the folder itself": lambda folder, other: folder,
    "the folder by a detour": lambda folder, other: folder / "running" / "..",
    "its parent": lambda folder, other: folder.parent,
    "the root": lambda folder, other: Path("/"),
    "in a linked folder": lambda folder, other: linked(folder / "linked", other.parent) / other.name,
}


def linked(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


@pytest.mark.parametrize("name", OUTSIDE)
def test_nothing_outside_is_removed(tmp_path: Path, name: str) -> None:
    folder, other = tmp_path / "campaign", tmp_path / "other"
    (folder / "running").mkdir(parents=True)
    (other / "precious").mkdir(parents=True)
    path = OUTSIDE[name](folder, other)
    with pytest.raises(UnsafePath, match="is not inside"):
        remove_tree_inside(folder, path)
    assert (other / "precious").is_dir() and (folder / "running").is_dir()


def test_a_link_is_removed_and_never_followed(tmp_path: Path) -> None:
    folder, other = tmp_path / "campaign", tmp_path / "other"
    (folder / "running" / "trial").mkdir(parents=True)
    (other / "precious").mkdir(parents=True)
    linked(folder / "running" / "trial" / "data", other)
    linked(folder / "link", other)
    linked(folder / "dangling", tmp_path / "nothing")
    for name in ("running", "link", "dangling", "nothing-there"):
        remove_tree_inside(folder, folder / name)
    assert list(folder.iterdir()) == []
    assert (other / "precious").is_dir()


def test_a_campaign_that_lies_behind_a_link_can_be_tidied(tmp_path: Path) -> None:
    (tmp_path / "disk" / "campaign" / "running" / "trial").mkdir(parents=True)
    folder = linked(tmp_path / "campaign", tmp_path / "disk" / "campaign")
    remove_tree_inside(folder, folder / "running")
    assert list(folder.iterdir()) == []


@settings(database=None, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.sampled_from(["..", ".", "a", "b", "up", "out", "loop", "/"]), min_size=1, max_size=8))
def test_whatever_the_path_only_what_is_inside_goes(tmp_path: Path, parts: list[str]) -> None:
    folder, other = tmp_path / "campaign", tmp_path / "other"
    for place in (folder / "a" / "b", folder / "b" / "a", other / "a" / "b"):
        place.mkdir(parents=True, exist_ok=True)
    for name, target in (("up", ".."), ("out", str(other)), ("loop", "loop")):
        for place in (folder, folder / "a"):
            if not (place / name).is_symlink():
                (place / name).symlink_to(target)
    with contextlib.suppress(UnsafePath):
        remove_tree_inside(folder, folder.joinpath(*parts))
    assert folder.is_dir() and (other / "a" / "b").is_dir() and tmp_path.is_dir()


def test_a_link_where_something_is_written_is_refused(tmp_path: Path) -> None:
    linked(tmp_path / "trials", tmp_path)
    with pytest.raises(UnsafePath, match="is a link to another place"):
        refuse_links(tmp_path, ["faults", "trials"])
    refuse_links(tmp_path, ["faults"])
    os.mkfifo(tmp_path / "faults")
    with pytest.raises(UnsafePath, match="is a pipe, and nothing may be written there"):
        refuse_links(tmp_path, ["faults"])


def test_a_file_that_grew_since_it_was_looked_at_is_read_to_its_end_or_limit(tmp_path: Path) -> None:
    path = tmp_path / "growing"
    path.write_bytes(b"0123456789")
    for most_bytes, length in ((100, 10), (10, 10), (4, 5)):
        with path.open("rb") as file:
            assert len(foreign._read(file.fileno(), 0, most_bytes)) == length
