"""Commands that compare builds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from picolab.cli.echo import echo
from picolab.cli.running import PlanOptions, plan_of, plan_options, run_plan, show_plan
from picolab.errors import ParameterError
from picolab.exit_codes import ExitCode
from picolab.text.foreign import visible

if TYPE_CHECKING:
    from typing import Unpack


@click.command()
@click.argument("words", nargs=-1, metavar="[BASELINE CANDIDATE...] [PARAMETERS.yaml]")
@click.option("--self", "twice", metavar="BUILD", help="Compare a build with itself (A/A): it must find nothing.")
@click.option("--repeats", help="Pairs per scenario instead of the file's number, or auto: until the answer is clear.")
@click.option("--margin", type=float, help="Change in percent that does not matter, instead of the file's.")
@plan_options
def compare(
    words: tuple[str, ...],
    twice: str | None,
    repeats: str | None,
    margin: float | None,
    **options: Unpack[PlanOptions],
) -> ExitCode | None:
    """Measure builds in pairs, back to back, and compare them.

    Reports which build is faster and which needs more memory, or that the data cannot tell.

    A build is a path, a release or a label of the parameter file's `builds`; LABEL=BUILD names it. All builds of a
    scenario run back to back, in balanced random order. Writes compare.html. Exits with 0 when a regression beyond
    the margin is excluded, 1 for a regression, 2 when it is undecided, 3 when trials have no result.

    \b
    Examples:
      picolab compare ./picoshare-old ./picoshare-new
      picolab compare old=1.4.4 new=./picoshare parameters/compare.yaml --repeats 20
      picolab compare 1.4.4 1.5.4 --repeats auto --margin 3
      picolab compare ./picoshare-old ./picoshare-new --machine vagrant
      picolab compare --self ./picoshare
      picolab compare 1.4.4 1.5.4 --scheduler tcp://10.0.0.1:8786
    """
    from picolab.config.compare_request import requested
    from picolab.config.parameter_file import load_campaign_parameters
    from picolab.config.project import project_root

    files = [word for word in words if word.endswith((".yaml", ".yml"))]
    if len(files) > 1:
        raise ParameterError(f"{files[0]} and {files[1]} are two parameter files; name one")
    file = Path(files[0]) if files else project_root() / "parameters" / "compare.yaml"
    builds = [word for word in words if word not in files]
    wanted = requested(load_campaign_parameters(file).model_dump(), builds, twice, str(file))
    if margin is not None:
        wanted["margin_percent"] = margin
    if repeats is not None:
        wanted["repeats"] = int(repeats) if re.fullmatch(r"\d{1,9}", repeats, re.ASCII) else repeats
        if repeats != "auto":
            wanted["stopping"] = None
    plan = plan_of(wanted, file, options)
    if not plan.compares:
        raise ParameterError(f"{file}: names one build, and nothing to compare it with; name two, or use --self")
    if options["only_plan"]:
        show_plan(plan, options["scheduler"])
        return None
    campaign, code = run_plan(plan, options["scheduler"])
    return code if code is ExitCode.INTERRUPTED else _print_verdict(campaign.folder)


@click.command()
@click.argument("campaigns", nargs=-1, required=True, metavar="CAMPAIGN...")
@click.option("--margin", type=float, help="Change in percent that does not matter; default: the plan's.")
@click.option("--baseline", help="Label of the build that the others are compared with; default: the plan's.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, and write no page.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print a table for a pull request, and write no page.")
@click.option("--output", type=click.Path(path_type=Path), help="HTML file; default: compare.html in the campaign.")
def verdict(
    campaigns: tuple[str, ...],
    margin: float | None,
    baseline: str | None,
    as_json: bool,
    as_markdown: bool,
    output: Path | None,
) -> ExitCode:
    """Compare the builds of a campaign that has run.

    Prints the verdicts and writes compare.html, with the exit codes of `picolab compare`.

    Builds of several campaigns are listed side by side without a verdict, because they did not run at the same time.

    \b
    Examples:
      picolab verdict compare-20260101T120000
      picolab verdict compare-20260101T120000 --markdown --margin 3
      picolab verdict release-1.4.4 release-1.5.4 --json
    """
    from picolab.analysis.comparison.compare import compare as compare_builds
    from picolab.analysis.comparison.compare import compare_campaigns
    from picolab.cli.terminal import print_lines
    from picolab.report import comparison_json, comparison_lines, comparison_markdown
    from picolab.results.folders import find_campaign
    from picolab.results.load import read_campaign

    if as_json and as_markdown:
        raise ParameterError("--json and --markdown exclude each other; give one")
    if margin is not None and not 0 < margin <= 50:
        raise ParameterError(f"--margin {margin:g} should be a change in percent, above 0 and at most 50")
    folders = [find_campaign(name) for name in campaigns]
    share = None if margin is None else margin / 100
    if len(folders) == 1 and not as_json and not as_markdown:
        return _print_verdict(folders[0], output, share, baseline)
    read = [read_campaign(folder) for folder in folders]
    found = compare_campaigns(read, share, baseline) if len(read) > 1 else compare_builds(read[0], share, baseline)
    if as_json:
        echo(json.dumps(comparison_json.as_json(found), indent=1, allow_nan=False))
    elif as_markdown:
        echo(visible(comparison_markdown.as_markdown(found)))
    else:
        print_lines(comparison_lines.as_lines(found))
    return found.exit_code


def _print_verdict(
    folder: Path, output: Path | None = None, margin: float | None = None, baseline: str | None = None
) -> ExitCode:
    """Compare the builds of a campaign, write the page, print the verdicts, and return the exit code among them."""
    from picolab.analysis.comparison.compare import compare as compare_builds
    from picolab.cli.terminal import print_lines
    from picolab.report.comparison_lines import as_lines
    from picolab.report.render import render_comparison
    from picolab.results.load import read_campaign

    found = compare_builds(read_campaign(folder), margin, baseline)
    # The page first: a page that cannot be written ends the command with another exit code than the one printed here.
    page = render_comparison(folder, output, margin, baseline)
    print_lines(["", *as_lines(found), "", f"Page: {page}"])
    return found.exit_code
