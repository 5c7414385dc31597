"""The script of a page's charts is bundled once, and anew when what was kept cannot be believed."""

from importlib import metadata
from pathlib import Path

import pytest
import vl_convert

from picolab.report.script_bundle import script_bundle

SCRIPT = "window.vega = 'first';\nwindow.vega = 'last';"


@pytest.fixture
def bundled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Count how often the script is bundled, with a cache folder of the test's own."""
    entries: list[str] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(vl_convert, "javascript_bundle", lambda entry: entries.append(entry) or SCRIPT)
    return entries


def kept(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "cache" / "picolab").iterdir()
    return path


def test_it_is_bundled_once(bundled: list[str], tmp_path: Path) -> None:
    assert script_bundle() == script_bundle() == SCRIPT
    assert len(bundled) == 1
    assert metadata.version("vl-convert-python") in kept(tmp_path).name


@pytest.mark.parametrize("content", [b"", b"alert(1)", b"\xff", b"// sha256 00\nwindow.vega = 'first';"])
def test_a_kept_file_that_is_damaged_is_made_anew(bundled: list[str], tmp_path: Path, content: bytes) -> None:
    script_bundle()
    whole = kept(tmp_path).read_bytes()
    kept(tmp_path).write_bytes(content)

    assert script_bundle() == SCRIPT
    assert len(bundled) == 2 and kept(tmp_path).read_bytes() == whole


def test_a_cut_off_file_is_made_anew(bundled: list[str], tmp_path: Path) -> None:
    script_bundle()
    kept(tmp_path).write_bytes(kept(tmp_path).read_bytes()[:-1])

    assert script_bundle() == SCRIPT
    assert len(bundled) == 2


def test_a_cache_that_cannot_be_written_is_no_trouble(bundled: list[str], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder would be")

    assert script_bundle() == script_bundle() == SCRIPT
    assert len(bundled) == 2


def test_another_version_has_a_file_of_its_own(
    bundled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_bundle()
    monkeypatch.setattr(metadata, "version", lambda name: "0.0")
    script_bundle()

    assert len(bundled) == 2
    assert len(list((tmp_path / "cache" / "picolab").iterdir())) == 2
