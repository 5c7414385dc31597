"""Trials that differ in any factor are never one case: in no table, chart, label or export, whatever the factor."""

from typing import Any, get_args

import pytest
from campaign_factory import FakeTrial, make_record
from factor_campaigns import assert_never_pooled, campaign_of, layer_rows
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from picolab.charts import campaign
from picolab.charts.style import labelled
from picolab.config.trial_parameters import TrialParameters
from picolab.record import factors
from picolab.record.outcomes import Outcome
from picolab.record.record import Record
from picolab.report import tables
from picolab.results.labels import split
from picolab.results.rows import plain_rows, record_row, trial_frame

LEVELS: dict[str, tuple[Any, ...]] = {
    "machine": ("local", "vagrant"),
    "ram_mb": (512, 256, 512.5),
    "file_size": ("100M", "25M", "102401K"),
    "server": ("picoshare", "copyparty"),
    "build": ("calibration", "1.5.4", "1.5.3"),
    "calibration": ({}, {"transfer_mib_s": 50}, {"transfer_mib_s": 50, "note": "a/b"}, {"note": "a-b"}),
    "label": ("", "old", "new"),
    "environment": ({}, {"A": "1"}, {"A": "1 B=2"}, {"A": "1", "B": "2"}, {"A": "x" * 200}, {"A": "x" * 201}),
    "parallel_uploads": (1, 2, 3),
    "direction": ("upload", "both", "download"),
    "cache": ("warm", "cold"),
    "sync": ("skip", "measure"),
    "memory_limit": ("enforced", "none"),
    "work_dir": ("", "/var/tmp", "/mnt/a-disk", "/mnt/a_disk"),
    "fresh_machine": ("per_campaign", "per_trial", "per_block"),
    "cpus": (1, 2, 4),
    "box": ("", "picolab", "debian/bookworm64"),
    "provider": ("libvirt", "virtualbox"),
    "boot_limit_s": (300.0, 300.5),
    "overlap": ("none", "preparation", "measurements"),
    "release_base_url": ("https://a.example", "https://b.example"),
    "ready_limit_s": (60.0, 61.0),
    "stall_limit_s": (60.0, 0.1),
    "floor_rate_mib_s": (1.0, 0.001),
    "total_limit_s": (None, 100.0, 100.00000001),
    "sample_interval_s": (0.05, 0.005),
}
"""Two or more levels of every parameter that is a factor; some differ only where a label would be cut or cleaned."""
FACTS: dict[str, tuple[dict[str, Any], ...]] = {
    "build_sha256": ({"build.sha256": "a" * 64}, {"build.sha256": "b" * 64}),
    "acceleration": tuple({"virtual.acceleration": how} for how in ("kvm", "emulation", "unknown")),
    "memory_limit_method": tuple({"limit.method": how} for how in ("cgroup_v1", "cgroup_v2")),
    "box": tuple({"virtual.box": name} for name in ("picolab", "debian/bookworm64")),
    "box_version": tuple({"virtual.box_version": version} for version in ("1", "2", None)),
    "route": tuple({"virtual.route": how} for how in ("direct", "ssh_forward")),
    "network": tuple({"network.kind": kind} for kind in ("private", "host")),
    "measured_on": tuple({"host.hostname": name} for name in ("one", "two")),
}
"""The same for facts: what to change in a record."""
ALONE = {"machine": "local", "server": "picoshare"}
"""Parameters, with their defaults, whose other levels refuse some levels of other parameters."""


def test_every_parameter_is_a_factor_or_named_as_none() -> None:
    known = {factor.parameter for factor in factors.parameter_factors()}
    assert known | set(factors.NOT_FACTORS) == set(TrialParameters.model_fields)
    assert not known & set(factors.NOT_FACTORS)
    assert set(LEVELS) == known
    assert set(FACTS) == {factor.name for factor in factors.fact_factors()}


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_column_of_a_factor_holds_its_level(data: st.DataObject) -> None:
    kept = {name: levels for name, levels in LEVELS.items() if name not in ALONE}
    case = {name: data.draw(st.sampled_from(levels), label=name) for name, levels in kept.items()}
    record = make_record(FakeTrial(), 1)
    record["parameters"] |= case
    row = record_row(Record.model_validate(record))
    for factor in factors.parameter_factors():
        wanted = case.get(str(factor.parameter), ALONE.get(str(factor.parameter)))
        if not isinstance(wanted, dict):
            assert row[factor.name] == wanted, factor.name
    assert row["environment"] == factors.levels_of(TrialParameters(**case))["environment"]


UPLOADS = LEVELS | {"direction": ("upload", "both")}
"""Levels with a measured upload: without one a trial has no throughput to tell it by."""


@pytest.mark.parametrize("name", UPLOADS)
def test_trials_that_differ_in_one_parameter_alone_are_two_cases(name: str) -> None:
    cases = [{name: level} for level in UPLOADS[name]]
    if name == "calibration":
        cases = [{"build": "calibration"} | case for case in cases]
    assert_never_pooled(campaign_of(cases), len(cases))


@pytest.mark.parametrize("name", FACTS)
def test_trials_of_one_plan_on_different_ground_are_two_cases(name: str) -> None:
    cases = [{"facts": facts} for facts in FACTS[name]]
    assert_never_pooled(campaign_of(cases), len(cases))


@given(st.data())
@settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_any_mixture_of_factors(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(set(UPLOADS) - set(ALONE))), min_size=2, max_size=4, unique=True))
    case = st.fixed_dictionaries({name: st.sampled_from(UPLOADS[name]) for name in names})
    cases = data.draw(st.lists(case, min_size=2, max_size=9, unique_by=lambda one: repr(sorted(one.items()))))
    assert_never_pooled(campaign_of(cases, repeats=2), len(cases), repeats=2)


def test_two_builds_with_a_warm_and_a_cold_cache_are_four_cases() -> None:
    cases = [{"build": build, "cache": cache} for build in ("1.5.4", "1.5.3") for cache in ("warm", "cold")]
    data = campaign_of(cases)
    assert_never_pooled(data, 4)
    markup = tables.case_table(data).markup
    assert markup.count("cache cold") == markup.count("cache warm") == 2


def test_a_label_names_only_the_levels_that_differ() -> None:
    data = campaign_of([{"cache": "cold", "sync": "measure"}, {"cache": "warm", "sync": "measure"}])
    assert {row["others"] for row in labelled(data.trials)} == {"cache cold", "cache warm"}
    one = campaign_of([{"cache": "cold", "sync": "measure"}])
    assert {row["others"] for row in labelled(one.trials)} == {""}


def test_a_mapping_names_only_its_entries_that_differ() -> None:
    both = {"KEPT": "yes"}
    data = campaign_of([{"environment": both | {"GOGC": "50"}}, {"environment": both}])
    assert {row["others"] for row in labelled(data.trials)} == {"environment GOGC=50", "environment without GOGC"}


def test_labels_of_builds_tell_how_they_are_started() -> None:
    cases = [{"label": label, "environment": {"GOGC": gogc}} for label, gogc in (("old", "50"), ("new", "100"))]
    data = campaign_of(cases)
    assert {row["group"] for row in labelled(data.trials)} == {f"{label} (not PicoShare)" for label in ("old", "new")}
    assert {row["others"] for row in labelled(data.trials)} == {""}
    cases.append({"label": "new", "environment": {"GOGC": "7"}})
    assert_never_pooled(campaign_of(cases), 3)


def test_planned_trials_without_a_result_stand_with_their_case() -> None:
    data = campaign_of([{"cache": "cold"}, {"cache": "warm"}])
    planned = [
        {"trial_id": f"left-{number}", "parameters": TrialParameters(cache=cache).model_dump(mode="json")}
        for number, cache in enumerate(("cold", "warm", "warm"))
    ]
    planned.append({"trial_id": "new", "parameters": TrialParameters(sync="measure").model_dump(mode="json")})
    planned.append({"trial_id": "damaged", "parameters": {"ram_mb": "much"}})
    words = [
        tuple(row["words"]) for panel in campaign.outcome_matrix(data.trials, planned) for row in layer_rows(panel, 1)
    ]
    assert sorted(words) == [("1 no result",), ("3 ok", "1 no result"), ("3 ok", "2 no result")]


@pytest.mark.parametrize("direction", get_args(TrialParameters.model_fields["direction"].annotation))
def test_each_measured_step_counts_by_its_own_outcome(direction: str) -> None:
    data = campaign_of([{"direction": direction}])
    killed = next(iter(data.records.values()))
    made = killed.model_dump(mode="json")
    measured = [step for step in ("upload", "download") if direction in (step, "both")]
    made["outcome"], made["outcome_stage"] = "oom_killed", "upload" if measured == ["upload"] else "verify"
    for step in measured:
        made[step] |= {"outcome": "oom_killed" if step == measured[-1] else "ok", "outcome_detail": "seen"}
    data.records[killed.identity.trial_id] = Record.model_validate(made)
    data.trials = trial_frame([record_row(record) for record in data.records.values()])
    uploads = {row["trial_id"] for panel in campaign.throughput(data.trials) for row in layer_rows(panel, 2)}
    assert (killed.identity.trial_id in uploads) is (direction == "both")
    (panel,) = campaign.outcome_matrix(data.trials)
    words = ["2 ok", "1 upload ok, download OOM-killed" if direction == "both" else "1 OOM-killed"]
    assert layer_rows(panel, 1)[0]["words"] == words
    assert len(layer_rows(panel, 0)) == (6 if direction == "both" else 3)
    table = tables.case_table(data).markup
    assert ("upload: 3 ok; download: 2 ok, 1 OOM-killed" in table) is (direction == "both")
    assert ("peak memory of the download, MiB" in tables.trial_table(data).markup) is (direction != "upload")
    kinds = {row["kind"] for panel in campaign.peak_memory(data.trials) for row in layer_rows(panel, -1)}
    assert ("peak memory of the download" in kinds) is (direction != "upload")


def test_a_corrupted_trial_has_no_rate_whatever_its_steps_say() -> None:
    data = campaign_of([{}])
    made = next(iter(data.records.values())).model_dump(mode="json")
    made["outcome"], made["outcome_stage"] = Outcome.CORRUPTED.value, "verify"
    made["upload"] |= {"outcome": "ok", "outcome_detail": "all well"}
    trials = trial_frame([record_row(Record.model_validate(made))])
    assert campaign.throughput(trials) == []


@pytest.mark.parametrize("name", [*LEVELS, *FACTS])
def test_cases_are_split_for_the_console(name: str) -> None:
    cases = [{"facts": facts} for facts in FACTS[name]] if name in FACTS else [{name: one} for one in LEVELS[name]]
    data = campaign_of(cases)
    parts = split(plain_rows(data.trials))
    assert [len(part) for _, part in parts] == [3] * len(cases)
    beside = ["machine", "acceleration", "ram_mb", "memory_limit", "file_size", "build"]
    shown = [(words, *(str(part[0][name]) for name in beside)) for words, part in parts]
    assert len(set(shown)) == len(cases)


def test_no_trial_is_no_case() -> None:
    assert split([]) == []
