"""From a matrix to a plan: GitHub Actions' rules, a reproducible random order, labels, and refusals."""

import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from picolab.config.campaign_parameters import CampaignParameters, Matrix
from picolab.config.invalid_input import validate
from picolab.config.matrix import MOST_TRIALS, expand
from picolab.config.order import ORDER_APART, ORDER_ON_SEVERAL_MACHINES, ways
from picolab.config.plan import PLAN_FILE, Plan, PlannedTrial, make_plan
from picolab.config.project import project_root
from picolab.config.yaml_text import read_yaml
from picolab.errors import CampaignNotFound, ParameterError
from picolab.exit_codes import ExitCode


def wanted(text: str) -> CampaignParameters:
    return validate(CampaignParameters, read_yaml(text), "file.yaml")


def plan(text: str) -> Plan:
    return make_plan(wanted(text), "a-campaign", "file.yaml")


def expanded(**matrix: Any) -> list[dict[str, Any]]:
    return expand(Matrix(**matrix), "file.yaml")


def complaint(text: str) -> str:
    with pytest.raises(ParameterError) as caught:
        plan(text)
    message = str(caught.value)
    assert message.startswith("file.yaml: ") and "\n" not in message and len(message) < 700
    assert caught.value.exit_code is ExitCode.BAD_PARAMETERS
    return message.removeprefix("file.yaml: ")


# The matrix


def test_all_levels_are_combined() -> None:
    assert expanded(ram_mb=[512, 256], file_size=["1M", "2M"]) == [
        {"ram_mb": 512, "file_size": "1M"},
        {"ram_mb": 512, "file_size": "2M"},
        {"ram_mb": 256, "file_size": "1M"},
        {"ram_mb": 256, "file_size": "2M"},
    ]


def test_include_as_in_the_documentation_of_github_actions() -> None:
    """Its example has fruit, animal, color, shape, site; here they are build, file_size, work_dir and two limits."""
    cases = expanded(
        build=["apple", "pear"],
        file_size=["1M", "2M"],
        include=[
            {"ready_limit_s": 1},  # added to all
            {"ready_limit_s": 2, "file_size": "1M"},  # overwrites what an include added, never an original value
            {"build": "apple", "work_dir": "/circle"},
            {"build": "banana"},  # a case of its own
            {"build": "banana", "file_size": "1M"},  # never added to a case that an include made
        ],
    )

    assert cases == [
        {"build": "apple", "file_size": "1M", "ready_limit_s": 2, "work_dir": "/circle"},
        {"build": "apple", "file_size": "2M", "ready_limit_s": 1, "work_dir": "/circle"},
        {"build": "pear", "file_size": "1M", "ready_limit_s": 2},
        {"build": "pear", "file_size": "2M", "ready_limit_s": 1},
        {"build": "banana"},
        {"build": "banana", "file_size": "1M"},
    ]


def test_include_alone_makes_cases() -> None:
    entries = [{"ram_mb": 64, "file_size": "1M"}, {"ram_mb": 128, "file_size": "2M"}]

    assert expanded(include=entries) == entries


def test_exclude_removes_what_has_all_its_values() -> None:
    cases = expanded(
        ram_mb=[512, 256, 128],
        file_size=["1G", "2G"],
        exclude=[{"ram_mb": 128}, {"ram_mb": 256, "file_size": "2048M"}],
    )

    assert [(case["ram_mb"], case["file_size"]) for case in cases] == [(512, "1G"), (512, "2G"), (256, "1G")]


def test_include_comes_after_exclude() -> None:
    """GitHub: all include combinations are processed after exclude, to add back what was excluded."""
    cases = expanded(ram_mb=[512, 256], exclude=[{"ram_mb": 256}], include=[{"ram_mb": 256, "file_size": "1M"}])

    assert cases == [{"ram_mb": 512}, {"ram_mb": 256, "file_size": "1M"}]


def test_levels_are_compared_by_what_they_mean() -> None:
    cases = expanded(
        ram_mb=["512", 256],
        file_size=["1G", "2G"],
        exclude=[{"ram_mb": 256.0, "file_size": "1024M"}],
        include=[{"ram_mb": 512, "file_size": 1 << 31, "ready_limit_s": 5}],
    )

    assert len(cases) == 3
    assert cases[1]["ready_limit_s"] == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("matrix: {}", "matrix: no case is left; give at least one factor with one level"),
        ("matrix: {ram_mb: 512}", "matrix: ram_mb = 512 should be a list of levels, such as [512]"),
        ("matrix: {ram_mb: []}", "matrix: ram_mb = [] should be a list"),
        ("matrix: {ram_mb: {a: 1}}", "matrix: ram_mb = {'a': 1} should be a list"),
        ("matrix: {ram: [512]}", "matrix: there is no 'ram'; did you mean ram_mb?"),
        ("matrix: {размер: [512]}", "matrix: there is no 'размер'; known are boot_limit_s, box, build, "),
        ("matrix: {seed: [1, 2]}", "matrix: seed is set by the campaign's own seed; remove it here"),
        ("matrix: {keep_machine: [never]}", "matrix: keep_machine is the same in all trials"),
        ("matrix: {machine_name: [a]}", "matrix: machine_name is set by the campaign"),
        ("matrix: {ram_mb: [512, 512]}", "ram_mb = [512, 512] names a level twice; remove one"),
        ("matrix: {ram_mb: [512, '512']}", "ram_mb = [512, '512'] names a level twice"),
        ("matrix: {ram_mb: [512, 512.0]}", "names a level twice"),
        ("matrix: {file_size: [1G, 1024M]}", "file_size = ['1G', '1024M'] names a level twice"),
        ("matrix: {calibration: [{transfer_mib_s: 3}, {transfer_mib_s: 3.0}]}", "names a level twice"),
        ("matrix: {ram_mb: [true]}", "matrix: ram_mb: True is a yes or a no"),
        ("matrix: {ram_mb: [.inf]}", "matrix: ram_mb: RAM '.inf' is not a size"),
        ("matrix: {ram_mb: [512, 3]}", "matrix: ram_mb = 3 should be greater than or equal to 4"),
        ("matrix: {file_size: [100MB]}", "matrix: file_size: file size '100MB' is not a size"),
        ("matrix: {file_size: [[1M]]}", "matrix: file_size = ['1M'] should be a text"),
        ("matrix: {build: [null]}", "matrix: build = None should be a text"),
        ("matrix: {build: ['a\\nb']}".replace("'", '"'), "holds a character that cannot be printed"),
        ("matrix: {ram_mb: [512], exclude: [{ram: 512}]}", "matrix.exclude: there is no 'ram'; did you mean ram_mb?"),
        ("matrix: {exclude: [{ram_mb: 512}]}", "matrix.exclude: there is no 'ram_mb'; known are none"),
        ("matrix: {ram_mb: [512], exclude: [{ram_mb: 256}]}", "matrix.exclude: {'ram_mb': 256} excludes no case"),
        ("matrix: {ram_mb: [512], exclude: [{}]}", "matrix.exclude: {} excludes no case; remove or fix it"),
        ("matrix: {ram_mb: [512], exclude: [{ram_mb: x}]}", "matrix.exclude: ram_mb: RAM 'x' is not a size"),
        ("matrix: {ram_mb: [512], exclude: [{ram_mb: 512}]}", "matrix: no case is left"),
        ("matrix: {ram_mb: [512], include: [{}]}", "matrix.include: {} adds nothing"),
        ("matrix: {include: [{}]}", "matrix.include: {} adds nothing"),
        ("matrix: {ram_mb: [512], include: [{ram_mb: '512'}]}", "matrix.include: {'ram_mb': '512'} adds nothing"),
        ("matrix: {ram_mb: [512], include: [{rom_mb: 1}]}", "matrix.include: there is no 'rom_mb'; did you"),
        ("matrix: {ram_mb: [512], include: [{file_size: x}]}", "matrix.include: file_size: file size 'x' is not"),
        (
            "matrix: {ram_mb: [512], include: [{ram_mb: 64}, {ram_mb: 64}]}",
            "matrix: the case local-64mb-100M-calibration appears twice",
        ),
    ],
)
def test_matrix_that_makes_no_sense(text: str, words: str) -> None:
    assert words in complaint(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("parameters: {stal_limit_s: 2}", "parameters: there is no 'stal_limit_s'; did you mean stall_limit_s?"),
        ("parameters: {stall_limit_s: 0}", "parameters: stall_limit_s = 0 should be greater than 0"),
        ("parameters: {ram_mb: 64}", "parameters: ram_mb is a factor of the matrix too; remove one of the two"),
        ("parameters: {seed: 2}", "parameters: seed is set by the campaign's own seed; remove it here"),
        ("parameters: {machine_name: x}", "parameters: machine_name is set by the campaign"),
        ("parameters: {keep_machine: always}", "keep_machine = 'always' would keep a machine for every trial"),
        ("parameters: {build: 1.5.4, calibration: {status: 500}}", "needs build: calibration, but build is '1.5.4'"),
        (
            "parameters: {calibration: {transfer_mibs: 4}}",
            "calibration has no knob 'transfer_mibs'; did you mean transfer_mib_s?",
        ),
        ("parameters: {calibration: {transfer_mib_s: .nan}}", 'transfer_mib_s must be a number above 0, not ".nan"'),
        ("parameters: {calibration: {status: 2020-01-01}}", "status must be an integer from 200 to 599"),
        (
            "parameters: {machine: vagrant, work_dir: /mnt}",
            "case {'ram_mb': 512}: work_dir = '/mnt' is a folder of this",
        ),
    ],
)
def test_parameters_of_all_trials_that_make_no_sense(text: str, words: str) -> None:
    assert words in complaint(f"matrix: {{ram_mb: [512]}}\n{text}")


def test_case_whose_levels_do_not_fit_each_other_is_named() -> None:
    both = "matrix:\n  machine: [local, vagrant]\n  ram_mb: [512, 64]\n"

    assert "case {'machine': 'vagrant', 'ram_mb': 64}: ram_mb = 64 is too little" in complaint(both)
    assert len(plan(f"{both}  exclude: [{{machine: vagrant, ram_mb: 64}}]").cases) == 3


def test_too_many_trials_are_refused_before_they_are_made() -> None:
    levels = list(range(16, 16 + MOST_TRIALS // 10))
    limits = list(range(1, 12))

    assert "more than 10000 cases" in complaint(f"matrix: {{ram_mb: {levels}, ready_limit_s: {limits}}}")
    assert "10 cases x 1000 repeats" not in str(plan(f"matrix: {{ram_mb: {levels[:10]}}}\nrepeats: 100").trials[0])
    assert "11 cases x 1000 repeats are more than 10000 trials" in complaint(
        f"matrix: {{ram_mb: {levels[:11]}}}\nrepeats: 1000"
    )


# The plan

SIX = "matrix: {ram_mb: [512, 256, 128], file_size: [1M, 2M]}\nrepeats: 4\n"


def test_each_block_holds_every_case_once() -> None:
    made = plan(SIX)

    assert len(made.trials) == 24 and len(made.cases) == 6
    assert [trial.position for trial in made.trials] == list(range(1, 25))
    for block in (1, 2, 3, 4):
        cases = [trial.case for trial in made.trials if trial.block == block]
        assert sorted(cases) == sorted(made.cases)
    assert [trial.block for trial in made.trials] == sorted(trial.block for trial in made.trials)


def test_order_is_random_and_the_seed_gives_it_again() -> None:
    orders = {seed: [trial.case for trial in plan(f"{SIX}seed: {seed}").trials] for seed in range(20)}

    assert orders[3] == [trial.case for trial in plan(f"{SIX}seed: 3").trials]
    assert len({tuple(order) for order in orders.values()}) == 20
    blocks = [tuple(order[start : start + 6]) for order in orders.values() for start in range(0, 24, 6)]
    assert len(set(blocks)) > 60, "blocks differ from each other"
    firsts = Counter(block[0] for block in blocks)
    assert len(firsts) == 6, "any case may come first"


def test_order_of_a_seed_is_the_same_in_every_version() -> None:
    """As plans were made before there were virtual machines."""
    order = [trial.case for trial in plan((project_root() / "parameters" / "quick.yaml").read_text()).trials]

    assert [case.removeprefix("local-").removesuffix("-calibration") for case in order] == [
        *("64mb-128M", "128mb-32M", "64mb-32M", "128mb-128M"),
        *("64mb-128M", "128mb-128M", "128mb-32M", "64mb-32M"),
        *("128mb-32M", "64mb-32M", "128mb-128M", "64mb-128M"),
    ]


def runs(values: list[Any]) -> list[Any]:
    """Return values without those that repeat the one before."""
    return [value for value, _ in itertools.groupby(values)]


VIRTUAL = "matrix: {machine: [vagrant], ram_mb: [512, 256, 128], file_size: [1M, 2M, 3M]}\nrepeats: 2\n"


def test_cases_of_one_virtual_machine_run_together() -> None:
    rams, sizes = set(), set()
    for seed in range(60):
        trials = plan(f"{VIRTUAL}seed: {seed}").trials
        for block in (1, 2):
            of_block = [trial.parameters for trial in trials if trial.block == block]
            assert sorted(runs([parameters.ram_mb for parameters in of_block])) == [128, 256, 512]
            assert len({parameters.case_label for parameters in of_block}) == 9
            rams.add(tuple(runs([parameters.ram_mb for parameters in of_block])))
            sizes |= {tuple(p.file_size for p in of_block if p.ram_mb == ram) for ram in (512, 256, 128)}

    assert len(rams) == len(sizes) == 6, "groups, and the cases in them, come in every order"
    assert plan(VIRTUAL).trials == plan(VIRTUAL).trials


def boots_and_restores(trials: list[PlannedTrial]) -> tuple[int, int]:
    found = ways([trial.parameters for trial in trials], [trial.block for trial in trials])
    return found.count("boot"), found.count("restore")


@pytest.mark.parametrize(
    ("fresh_machine", "boots", "restores"),
    [("per_campaign", 4, 12), ("per_block", 4, 16), ("per_trial", 4, 96)],
)
def test_saved_states_replace_boots(fresh_machine: str, boots: int, restores: int) -> None:
    """Four RAM sizes boot once each; what else has to be fresh or changes the RAM is restored."""
    made = plan(
        "matrix: {machine: [vagrant], ram_mb: [128, 256, 512, 1024], file_size: [1M, 2M, 3M, 4M, 5M]}\n"
        f"repeats: 5\nparameters: {{fresh_machine: {fresh_machine}}}"
    )
    found = ways([trial.parameters for trial in made.trials], [trial.block for trial in made.trials])

    assert (found.count("boot"), found.count("restore"), len(found)) == (boots, restores, 100)


def test_saved_states_beyond_the_limit_boot_again() -> None:
    made = plan(
        "matrix: {machine: [vagrant], ram_mb: [4096, 6144], file_size: [1M]}\n"
        "repeats: 3\nparameters: {fresh_machine: per_trial}"
    )
    found = ways([trial.parameters for trial in made.trials], [trial.block for trial in made.trials])

    # A block begins with the RAM that the block before ended with, whose saved state is still there.
    assert found == ["boot", "boot", "restore", "boot", "restore", "boot"]


@settings(max_examples=80, deadline=None)
@given(
    rams=st.integers(1, 5),
    others=st.integers(1, 4),
    builds=st.integers(1, 3),
    blocks=st.integers(1, 12),
    seed=st.integers(0, 2**31 - 1),
)
def test_no_boot_is_needless(rams: int, others: int, builds: int, blocks: int, seed: int) -> None:
    made = plan(
        f"matrix: {{machine: [vagrant], ram_mb: {[256 * n for n in range(1, rams + 1)]}, "
        f"file_size: {[f'{n}M' for n in range(1, others + 1)]}, build: {[f'b{n}' for n in range(builds)]}}}\n"
        f"repeats: {blocks}\nseed: {seed}"
    )

    assert boots_and_restores(made.trials) == (rams, (blocks - 1) * (rams - 1))
    for block in range(1, blocks + 1):
        cases = [trial.case for trial in made.trials if trial.block == block]
        assert sorted(cases) == sorted(made.cases)


def test_a_matrix_of_two_ram_sizes_changes_it_once_a_block() -> None:
    text = "matrix: {machine: [vagrant], ram_mb: [256, 512], file_size: [1M, 2M]}\nrepeats: 5\n"

    assert [boots_and_restores(plan(f"{text}seed: {seed}").trials) for seed in range(40)] == [(2, 4)] * 40
    assert boots_and_restores(plan(f"{text}seed: 1").trials[:8]) == (2, 1)


@settings(max_examples=60, deadline=None)
@given(rams=st.integers(1, 4), local=st.integers(1, 3), blocks=st.integers(1, 9), seed=st.integers(0, 1000))
def test_local_cases_add_no_change(rams: int, local: int, blocks: int, seed: int) -> None:
    """A local machine takes the place of the virtual one, which has the same name."""
    sizes = [f"{n}M" for n in range(1, local + 1)]
    made = plan(
        f"matrix: {{machine: [local, vagrant], ram_mb: {[256 * n for n in range(1, rams + 1)]}, file_size: {sizes}}}\n"
        f"repeats: {blocks}\nseed: {seed}"
    )

    # A single RAM size has its boots between local cases: one in two blocks.
    assert sum(boots_and_restores(made.trials)) == (blocks * (rams - 1) + 1 if rams > 1 else (blocks + 1) // 2)
    for block in range(1, blocks + 1):
        assert sorted(trial.case for trial in made.trials if trial.block == block) == sorted(made.cases)


@pytest.mark.parametrize("rams", [2, 3, 4])
def test_each_ram_size_begins_blocks_equally_often(rams: int) -> None:
    sizes = [256 * n for n in range(1, rams + 1)]
    text = f"matrix: {{machine: [vagrant], ram_mb: {sizes}, file_size: [1M, 2M]}}\nrepeats: {2 * rams}\n"
    first, places = Counter[int](), Counter[tuple[int, int]]()
    for seed in range(200):
        made = plan(f"{text}seed: {seed}")
        orders = [
            runs([trial.parameters.ram_mb for trial in made.trials if trial.block == block])
            for block in range(1, 2 * rams + 1)
        ]
        assert Counter(order[0] for order in orders) == dict.fromkeys(sizes, 2), "within each campaign"
        assert all(order[-1] == following[0] for order, following in itertools.pairwise(orders))
        first[orders[0][0]] += 1
        places.update((ram, place) for order in orders for place, ram in enumerate(order))

    assert all(abs(count - 200 / rams) < 5 * (200 / rams) ** 0.5 for count in first.values())
    # Over all seeds, each size is at each place of a block in its share of the blocks.
    assert all(abs(places[ram, place] - 400) < 100 for ram in sizes for place in range(rams))


def test_builds_in_a_group_of_one_ram_size_are_shuffled() -> None:
    text = "matrix: {machine: [vagrant], ram_mb: [256, 512], file_size: [1M, 2M], build: [a, b, c]}\nrepeats: 3\n"
    orders = Counter[tuple[str, ...]]()
    for seed in range(40):
        made = plan(f"{text}seed: {seed}")
        for scenario in {trial.scenario for trial in made.trials}:
            labels = [trial.parameters.build_label for trial in made.trials if trial.scenario == scenario]
            assert [Counter(labels[place::3]) for place in range(3)] == [Counter("abc")] * 3
            orders.update(tuple(labels[start : start + 3]) for start in (0, 3, 6))

    assert len(orders) == 6 and min(orders.values()) > 40


@pytest.mark.parametrize("factor", ["cpus: [1, 2]", "box: ['', debian/bookworm64]", "provider: [libvirt, virtualbox]"])
def test_another_virtual_machine_is_another_group(factor: str) -> None:
    name = factor.split(":")[0]
    for seed in range(10):
        trials = plan(f"matrix: {{machine: [vagrant], {factor}, file_size: [1M, 2M, 3M]}}\nseed: {seed}").trials
        for block in (1, 2, 3):
            assert len(runs([getattr(t.parameters, name) for t in trials if t.block == block])) == 2


def test_local_cases_run_between_virtual_machines() -> None:
    text = "matrix: {machine: [local, vagrant], ram_mb: [512, 384, 256], file_size: [1M, 2M]}\nrepeats: 1\n"
    orders = [[t.parameters for t in plan(f"{text}seed: {seed}").trials] for seed in range(60)]

    local = set()
    for order in orders:
        virtual = [p.ram_mb if p.machine == "vagrant" else None for p in order]
        assert len([run for run in runs(virtual) if run is not None]) == 3
        assert virtual[0] is not None is not virtual[-1]
        local.add(tuple(place for place, p in enumerate(order) if p.machine == "local"))
    assert len(local) == 7, "six local cases are divided between two gaps in every way"


@pytest.mark.parametrize(
    ("machines", "words"),
    [
        ("[local]", "the order of cases inside a block is random"),
        ("[vagrant]", "A block begins with the virtual machine that the block before ended with."),
        ("[local, vagrant]", "Scenarios without a virtual machine run where no boot is added, in random order."),
    ],
)
def test_plan_says_how_it_was_ordered(machines: str, words: str) -> None:
    assert words in plan(f"matrix: {{machine: {machines}}}").order


def test_plan_of_several_machines_promises_no_more_than_it_keeps() -> None:
    order = plan("matrix: {machine: [vagrant], ram_mb: [256, 512]}\nmachines: 2").order
    assert "begins with the virtual machine" not in order and ORDER_ON_SEVERAL_MACHINES in order
    assert ORDER_APART not in order
    assert ORDER_APART in plan("matrix: {overlap: [none, preparation]}\nmachines: 2").order


def test_each_trial_has_bytes_and_a_name_of_its_own() -> None:
    trials = plan(f"{SIX}seed: 7").trials

    assert [trial.parameters.seed for trial in trials[:2]] == [7_000_001, 7_000_002]
    assert len({trial.parameters.seed for trial in trials}) == 24
    assert trials[8].trial_id == f"009-{trials[8].case}"
    assert len({trial.trial_id for trial in trials}) == 24


def test_largest_seed_still_makes_seeds_that_json_keeps() -> None:
    trial = plan(f"matrix: {{ram_mb: [64]}}\nseed: {2**31 - 1}\nrepeats: 1").trials[0]

    assert trial.parameters.seed < 2**53


def test_machines_of_a_campaign_are_taken_down_unless_asked_for() -> None:
    assert plan(SIX).trials[0].parameters.keep_machine == "never"
    asked = plan(SIX + "parameters: {keep_machine: on_failure, stall_limit_s: 5}").trials
    assert {(t.parameters.keep_machine, t.parameters.stall_limit_s) for t in asked} == {("on_failure", 5.0)}


def test_include_may_overrule_a_parameter_of_all_trials() -> None:
    made = plan("matrix: {ram_mb: [64, 32], include: [{ram_mb: 32, stall_limit_s: 9}]}\nparameters: {stall_limit_s: 5}")

    assert {t.parameters.ram_mb: t.parameters.stall_limit_s for t in made.trials} == {64: 5.0, 32: 9.0}


# Labels


def test_labels_tell_cases_apart_by_whatever_differs() -> None:
    made = plan(
        "matrix:\n"
        "  build: [calibration, 1.5.4]\n"
        "  stall_limit_s: [5, 10]\n"
        "  include: [{build: calibration, calibration: {transfer_mib_s: 3, status_message: 'a/b'}}]\n"
        "repeats: 1"
    )

    assert made.cases == [
        "local-512mb-100M-1.5.4-calibration_none-stall_limit_s_10.0",
        "local-512mb-100M-1.5.4-calibration_none-stall_limit_s_5.0",
        "local-512mb-100M-calibration-calibration_status_message_a-b-transfer_mib_s_3-stall_limit_s_10.0",
        "local-512mb-100M-calibration-calibration_status_message_a-b-transfer_mib_s_3-stall_limit_s_5.0",
    ]


def test_folders_that_differ_have_labels_that_differ() -> None:
    assert plan("matrix: {work_dir: [/a/b, /ab, '']}").cases == [
        "local-512mb-100M-calibration-work_dir_a-b",
        "local-512mb-100M-calibration-work_dir_ab",
        "local-512mb-100M-calibration-work_dir_none",
    ]


def test_knobs_that_differ_late_have_labels_that_differ() -> None:
    knobs = [{"transfer_mib_s": 50, "commit_mib_s": 20, "download_mib_s": 90, "ballast_mib": n} for n in (1, 2)]

    assert len(plan(f"matrix: {{calibration: {json.dumps(knobs)}}}").cases) == 2


def test_long_labels_still_fit_in_a_file_name() -> None:
    folders = [f"/{'long' * 30}/{n}" for n in (1, 2)]
    made = plan(f"matrix: {{build: [{'x' * 3000}], work_dir: {folders}, release_base_url: [{'u' * 50}, {'v' * 50}]}}")

    assert len(made.cases) == 4
    assert all(len(trial.trial_id) < 130 for trial in made.trials)


@pytest.mark.parametrize(
    ("builds", "words"),
    [
        (
            ["old/picoshare", "new/picoshare"],
            "local-512mb-100M-picoshare: build is 'old/picoshare' and 'new/picoshare'",
        ),
        (["a b", "a-b"], "local-512mb-100M-a-b: build is 'a b' and 'a-b'; rename one of the two"),
    ],
)
def test_builds_that_cannot_be_told_apart_are_refused(builds: list[str], words: str) -> None:
    assert words in complaint(f"matrix: {{build: {json.dumps(builds)}}}")


# On disk


def test_plan_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    made = plan(f"{SIX}description: Größe\nparameters: {{calibration: {{transfer_mib_s: 5}}}}")
    made.save(tmp_path)

    assert Plan.load(tmp_path) == made
    assert list(tmp_path.iterdir()) == [tmp_path / PLAN_FILE]


def test_plan_of_an_older_version_keeps_its_order(tmp_path: Path) -> None:
    """In which each block had its groups in random order, with more boots."""
    made = plan(VIRTUAL)
    by_ram = {ram: [t for t in made.trials if t.parameters.ram_mb == ram] for ram in (128, 256, 512)}
    older = [trial for block in (1, 2) for group in by_ram.values() for trial in group if trial.block == block]
    made.model_copy(update={"trials": older, "order": "as version 0.1 had it"}).save(tmp_path)

    read = Plan.load(tmp_path)
    assert [trial.trial_id for trial in read.trials] == [trial.trial_id for trial in older]
    assert read.order == "as version 0.1 had it" and sum(boots_and_restores(read.trials)) == 6
    assert sum(boots_and_restores(made.trials)) == 5


def test_folder_without_a_plan_is_no_campaign(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(CampaignNotFound, match="there is no campaign; `picolab status` lists"):
            Plan.load(folder)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda text: text[:-20], "cut off or damaged"),
        (lambda text: "", "is empty"),
        (lambda text: "[]", "it holds no object"),
        (lambda text: text.replace('"plan_version": 1', '"plan_version": 2'), "plan_version: "),
        (lambda text: text.replace('"ram_mb": 512', '"ram_mb": -1'), "parameters.ram_mb: "),
        (lambda text: json.dumps({**json.loads(text), "trials": []}), "trials: "),
        (lambda text: text + "\udcff", "cannot read the plan"),
        (lambda text: json.dumps({**json.loads(text), "baseline": "old"}), "the baseline 'old' is no build of a trial"),
        (lambda text: json.dumps({**(p := json.loads(text)), "trials": p["trials"] + p["trials"][:1]}), "are called"),
    ],
)
def test_spoilt_plan_is_refused_in_one_sentence(spoil: Any, words: str, tmp_path: Path) -> None:
    plan(SIX).save(tmp_path)
    path = tmp_path / PLAN_FILE
    path.write_bytes(spoil(path.read_text()).encode(errors="surrogateescape"))
    with pytest.raises(ParameterError) as caught:
        Plan.load(tmp_path)

    message = str(caught.value)
    assert words in message and message.startswith(str(path)) and "\n" not in message


# Several builds

BUILDS = """
builds:
  old: {build: calibration, environment: {GOGC: 50}}
  new: {build: calibration, calibration: {transfer_mib_s: 50}}
  newest: {build: calibration}
matrix: {ram_mb: [128, 64], file_size: [4M, 8M]}
repeats: 12
parameters: {calibration: {commit_mib_s: 20}, environment: {GOMEMLIMIT: 100MiB}}
"""


def test_builds_of_a_scenario_run_back_to_back() -> None:
    made = plan(BUILDS)

    for block in range(1, 13):
        trials = [trial for trial in made.trials if trial.block == block]
        assert len(trials) == 12
        for first in range(0, 12, 3):
            group = trials[first : first + 3]
            assert len({trial.scenario for trial in group}) == 1
            assert {trial.parameters.build_label for trial in group} == {"old", "new", "newest"}
    assert "back to back; over 3 blocks each build runs once at each place" in made.order


def test_each_build_has_each_place_equally_often() -> None:
    made = plan(BUILDS)

    for scenario in {trial.scenario for trial in made.trials}:
        labels = [trial.parameters.build_label for trial in made.trials if trial.scenario == scenario]
        for place in range(3):
            assert Counter(labels[place::3]) == {"old": 4, "new": 4, "newest": 4}
    orders = [trial.scenario for trial in made.trials]
    assert orders[:12] != orders[12:24] or orders[12:24] != orders[24:36]


def test_a_label_brings_its_build_environment_and_knobs() -> None:
    by_label = {trial.parameters.build_label: trial for trial in plan(BUILDS).trials}

    assert by_label["old"].parameters.environment == {"GOMEMLIMIT": "100MiB", "GOGC": "50"}
    assert by_label["new"].parameters.environment == {"GOMEMLIMIT": "100MiB"}
    assert by_label["new"].parameters.calibration == {"commit_mib_s": 20, "transfer_mib_s": 50}
    assert by_label["old"].trial_id.endswith("-old")
    assert plan(BUILDS).baseline == "old" and plan(f"{BUILDS}\nbaseline: newest").baseline == "newest"


def test_auto_plans_as_many_blocks_as_there_may_be() -> None:
    made = plan("{matrix: {build: [a, b]}, repeats: auto, stopping: {most_blocks: 20}}")

    assert made.stopping is not None and made.stopping.target_percent == 3
    assert made.repeats == 20 and len(made.trials) == 40
    assert plan("{matrix: {build: [a, b]}}").stopping is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{matrix: {build: [a]}, builds: {b: {build: x}}}", "builds: b is no level of build in the matrix"),
        ("{matrix: {ram_mb: [64]}, builds: {b: {build: x}}, parameters: {build: y}}", "so b is unused"),
        ("{matrix: {build: [a, b]}, baseline: c}", "baseline: there is no 'c'; known are a, b"),
        ("{matrix: {build: [a, b]}, stopping: {}}", "stopping needs repeats: auto, but repeats is 3"),
        ("{matrix: {label: [a, b]}}", "label is a name in `builds`; remove it here"),
        ("{matrix: {ram_mb: [64]}, parameters: {label: a}}", "label is a name in `builds`"),
    ],
)
def test_builds_that_make_no_sense(text: str, sentence: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(sentence)):
        plan(text)
