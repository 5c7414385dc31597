"""Reading, summing up and thinning what the probe wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from picolab.agent.memory_probe import COLUMNS
from picolab.errors import ProbeError
from picolab.record.samples import MOST_SCRAP_SAMPLES, Samples, read_samples, samples_scrap, summarise

END = {"samples": 3, "cpu_s": 0.25, "lifetime_s": 10.0}


def row(t_s: float, **values: Any) -> list[Any]:
    return [t_s if name == "t_s" else values.get(name) for name in COLUMNS]


def samples_of(*rows: list[Any], missing: dict[str, str] | None = None, end: Any = END) -> Samples:
    return Samples(list(COLUMNS), list(rows), missing or {}, end)


def write(path: Path, *rows: list[Any], tail: str = "", end: bool = True) -> Path:
    lines = [json.dumps({"columns": COLUMNS, "missing": {"swap_bytes": "no swap here"}})]
    lines += [json.dumps(values) for values in rows]
    lines += [json.dumps({"end": END})] if end else []
    path.write_text("\n".join(lines) + "\n" + tail)
    return path


def test_a_whole_file(scratch: Path) -> None:
    samples = read_samples(write(scratch / "s", row(1.0, rss_bytes=5), row(2.0, rss_bytes=None)))
    assert samples.columns == list(COLUMNS)
    assert samples.column("rss_bytes") == [5, None]
    assert samples.missing == {"swap_bytes": "no swap here"}
    assert samples.end == END
    assert (samples.peak("rss_bytes"), samples.lowest("rss_bytes"), samples.peak("swap_bytes")) == (5, 5, None)


@pytest.mark.parametrize("tail", ["[3.0, 1", "[", '{"end": {"samp', "[3.0, nul", "\x00\x00\x00"])
def test_a_torn_last_line_is_left_out(scratch: Path, tail: str) -> None:
    samples = read_samples(write(scratch / "s", row(1.0), row(2.0), tail=tail, end=False))
    assert [r[0] for r in samples.rows] == [1.0, 2.0]
    assert samples.end is None
    record, missing = summarise(samples, 0.05, 0.0)
    assert record.samples == 2 and record.probe_cpu_share is None
    assert missing["memory.probe_cpu_share"] == "the probe was killed before it could say"


@pytest.mark.parametrize("text", [None, "", "\n", "Traceback (most recent call last):\n", '{"columns": ["t_'])
def test_no_head_means_that_the_probe_did_not_start(scratch: Path, text: str | None) -> None:
    if text is not None:
        (scratch / "s").write_text(text)
    with pytest.raises(ProbeError, match="it did not start or was killed"):
        read_samples(scratch / "s")


def test_only_a_head(scratch: Path) -> None:
    record, missing = summarise(read_samples(write(scratch / "s", end=False)), 0.05, 0.0)
    assert (record.samples, record.samples_per_s, record.gap_count, record.peak_rss_bytes) == (0, None, 0, None)
    assert missing["memory.samples_per_s"] == "fewer than two samples"
    assert missing["memory.peak_swap_bytes"] == "no swap here"
    assert missing["memory.peak_rss_bytes"] == "the server had ended before the first sample"


def test_summary() -> None:
    samples = samples_of(
        row(100.0, rss_bytes=10, anon_bytes=5, vm_hwm_bytes=12, swap_bytes=0, oom_kills=2, mem_available_bytes=900),
        row(100.2, files_bytes=8192),
        row(100.5, rss_bytes=30, anon_bytes=8, vm_hwm_bytes=31, swap_bytes=4, oom_kills=3, mem_available_bytes=700),
        row(101.0, rss_bytes=20, anon_bytes=7, vm_hwm_bytes=31, swap_bytes=2, oom_kills=3, mem_available_bytes=800),
        missing={"cgroup_bytes": "the server runs in no memory cgroup"},
    )
    record, missing = summarise(samples, 0.5, 100.25)
    assert (record.samples, record.interval_s, record.samples_per_s) == (4, 0.5, 3.0)
    assert (record.peak_rss_bytes, record.peak_anon_bytes, record.vm_hwm_bytes) == (30, 8, 31)
    assert (record.peak_swap_bytes, record.min_mem_available_bytes) == (4, 700)
    assert record.peak_disk_bytes == 8192
    # Two kills were there before this upload and are not its own.
    assert record.oom_kills == 1
    assert record.probe_cpu_share == 0.025
    assert record.gaps == [] and record.gap_count == 0
    assert missing == {"memory.peak_cgroup_bytes": "the server runs in no memory cgroup"}


def test_gaps_exceed_three_intervals_longest_first() -> None:
    times = [0.0, 0.1, 0.2, 0.45, 0.55, 1.55, 1.65, 1.9, 2.5]
    record, _ = summarise(samples_of(*(row(10 + t) for t in times)), 0.1, 10.0)
    assert record.gap_count == 2
    assert [(round(gap.t_s, 6), round(gap.duration_s, 6)) for gap in record.gaps] == [(0.55, 1.0), (1.9, 0.6)]
    many, _ = summarise(samples_of(*(row(float(t)) for t in range(50))), 0.1, 0.0)
    assert many.gap_count == 49 and len(many.gaps) == 10


def test_the_scrap_has_a_list_a_column_and_counts_from_zero() -> None:
    samples = samples_of(row(100.0, rss_bytes=1), row(100.05, rss_bytes=2), missing={"swap_bytes": "none"})
    scrap = samples_scrap(samples, "t-1", 100.0)
    assert scrap["trial_id"] == "t-1" and scrap["thinned_from"] is None and scrap["missing"] == {"swap_bytes": "none"}
    assert list(scrap["columns"]) == list(COLUMNS)
    assert scrap["columns"]["t_s"] == [0.0, 0.05]
    assert scrap["columns"]["rss_bytes"] == [1, 2]
    json.dumps(scrap, allow_nan=False)


@pytest.mark.parametrize("count", [MOST_SCRAP_SAMPLES + 1, 3 * MOST_SCRAP_SAMPLES + 17])
def test_thinning_keeps_the_peak_wherever_it_is(count: int) -> None:
    for peak_at in (0, 1, count // 3, count - 2, count - 1):
        rows = [row(i * 0.05, anon_bytes=7_000_000 if i == peak_at else i % 100) for i in range(count)]
        scrap = samples_scrap(samples_of(*rows), "t", 0.0)
        times, anon = scrap["columns"]["t_s"], scrap["columns"]["anon_bytes"]
        assert scrap["thinned_from"] == count
        assert MOST_SCRAP_SAMPLES - 10 < len(times) == len(anon) <= MOST_SCRAP_SAMPLES
        assert max(anon) == 7_000_000 and times[anon.index(7_000_000)] == round(peak_at * 0.05, 4)
        assert times == sorted(times)


def test_thinning_without_anonymous_memory() -> None:
    rows = [row(i * 0.05) for i in range(2 * MOST_SCRAP_SAMPLES)]
    scrap = samples_scrap(samples_of(*rows), "t", 0.0)
    assert MOST_SCRAP_SAMPLES - 10 < len(scrap["columns"]["t_s"]) <= MOST_SCRAP_SAMPLES


def test_five_hours_at_20_hz_are_a_small_scrap_with_the_exact_peaks(scratch: Path) -> None:
    """The side file keeps every sample; each level has its one extreme at another moment, and none of them is lost."""
    count, extremes = 5 * 3600 * 20, {"anon_bytes": 200_003, "rss_bytes": 7, "cgroup_bytes": 100_001, "swap_bytes": 9}
    usual = json.dumps(row(0, **dict.fromkeys(extremes, 5_000_000), mem_available_bytes=900))[2:]
    lines = [json.dumps({"columns": COLUMNS, "missing": {}})]
    lines += [f"[{place / 20}{usual}" for place in range(count)]
    for name, place in (extremes | {"mem_available_bytes": 300_000}).items():
        value = 1 if name == "mem_available_bytes" else 123_456_789
        lines[place + 1] = json.dumps(row(place / 20, **{name: value}))
    (scratch / "samples.jsonl").write_text("\n".join(lines) + "\n")
    samples = read_samples(scratch / "samples.jsonl")
    scrap = samples_scrap(samples, "t", 0.0)

    assert len(samples.rows) == scrap["thinned_from"] == count
    columns = scrap["columns"]
    assert (len(columns["t_s"]) <= MOST_SCRAP_SAMPLES) and (columns["t_s"][0], columns["t_s"][-1]) == (0, 17_999.95)
    assert len(json.dumps(scrap)) < 2_000_000
    for name, place in extremes.items():
        assert columns["t_s"][columns[name].index(123_456_789)] == place / 20
    assert columns["t_s"][columns["mem_available_bytes"].index(1)] == 15_000


def test_the_kernels_peak_of_a_cgroup_counts_only_if_it_was_reached_in_the_step() -> None:
    def peak(*kept: int | None) -> int | None:
        rows = [row(float(place), cgroup_bytes=50, cgroup_peak_bytes=value) for place, value in enumerate(kept)]
        return summarise(samples_of(*rows), 1.0, 0.0)[0].peak_cgroup_bytes

    assert peak(80, 80) == 50, "it was reached before"
    assert peak(80, 90) == 90
    assert peak(None, None) == 50
    older = Samples(["t_s", *COLUMNS[1:-1]], [row(0.0, cgroup_bytes=50)[:-1]], {}, END)
    assert summarise(older, 1.0, 0.0)[0].peak_cgroup_bytes == 50
