"""The pages of a campaign: run a notebook over it and write one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import json
import os
import re
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from picolab.config.project import project_root
from picolab.errors import CampaignNotFound, ParameterError, PicolabError
from picolab.files.writing import write_atomically
from picolab.jupyter.kernel_folders import ipc_kernel
from picolab.report.script_bundle import script_bundle
from picolab.slow_imports import import_papermill
from picolab.text.foreign import one_line, visible

if TYPE_CHECKING:
    from picolab.jupyter.kernel_process import KernelWatch

TEMPLATE_DIR = Path(__file__).with_name("template")
_IOPUB_TIMEOUT_S = 300
_HEADING = re.compile(r"^## +(.+?) *#*$", re.MULTILINE)
_SECTION = re.compile(r'<h2 id="([^"]*)">(.*?)</h2>')
"""Begins an output that is a section of its own; text from outside in it is escaped."""


def analysis_notebook() -> Path:
    """Return the notebook that a report is made from."""
    return project_root() / "notebooks" / "analysis.ipynb"


def comparison_notebook() -> Path:
    """Return the notebook that a comparison of builds is made from."""
    return project_root() / "notebooks" / "compare.ipynb"


def floor_notebook() -> Path:
    """Return the notebook that the page of a memory floor is made from."""
    return project_root() / "notebooks" / "floor.ipynb"


def answer_notebook() -> Path:
    """Return the notebook that the page of an answer is made from."""
    return project_root() / "notebooks" / "answer.ipynb"


def render_report(campaign_folder: Path, output: Path | None = None) -> Path:
    """Run the analysis notebook over a campaign, finished or not, and write its report.

    Leaves the executed notebook as `analysis.ipynb` in the campaign's folder. Files appear whole or not.

    Args:
        output: the HTML file; by default `report.html` in the campaign's folder.

    Returns:
        The HTML file.

    Raises:
        CampaignNotFound: no such folder.
        ParameterError: the file cannot be written.
        PicolabError: the notebook failed, and the message names the file that holds the traceback; or its kernel was
            killed.
    """
    return _render(analysis_notebook(), campaign_folder, {}, "picolab benchmark report", output, "report.html")


def render_comparison(
    campaign_folder: Path, output: Path | None = None, margin: float | None = None, baseline: str | None = None
) -> Path:
    """Run the comparison notebook over a campaign of several builds, finished or not, and write its page.

    Leaves the executed notebook as `compare.ipynb` in the campaign's folder. Files appear whole or not.

    Args:
        output: the HTML file; by default `compare.html` in the campaign's folder.
        margin: relative change that does not matter, such as 0.05; by default the plan's.
        baseline: label of the build that others are compared with; by default the plan's.

    Returns:
        The HTML file.

    Raises:
        CampaignNotFound: no such folder.
        ParameterError: the file cannot be written.
        PicolabError: as of `render_report`, perhaps since there is nothing to compare.
    """
    parameters = {"margin": margin, "baseline": baseline}
    title = "picolab comparison of builds"
    return _render(comparison_notebook(), campaign_folder, parameters, title, output, "compare.html")


def render_floor(campaign_folder: Path, output: Path | None = None) -> Path:
    """Run the floor notebook over a campaign that searched the memory floor, finished or not, and write its page.

    Leaves the executed notebook as `floor.ipynb` in the campaign's folder. Files appear whole or not.

    Args:
        output: the HTML file; by default `floor.html` in the campaign's folder.

    Returns:
        The HTML file.

    Raises:
        CampaignNotFound: no such folder.
        ParameterError: the file cannot be written.
        PicolabError: as of `render_report`, perhaps since the campaign searched no floor.
    """
    return _render(floor_notebook(), campaign_folder, {}, "picolab memory floor", output, "floor.html")


def render_answer(campaign_folder: Path, output: Path | None = None) -> Path:
    """Run the answer notebook over a campaign that answers a question, finished or not, and write its page.

    Leaves the executed notebook as `answer.ipynb` in the campaign's folder. Files appear whole or not.

    Args:
        output: the HTML file; by default `answer.html` in the campaign's folder.

    Returns:
        The HTML file.

    Raises:
        CampaignNotFound: no such folder.
        ParameterError: the file cannot be written.
        PicolabError: as of `render_report`, perhaps since the campaign answers no question.
    """
    return _render(answer_notebook(), campaign_folder, {}, "picolab answer", output, "answer.html")


def check_output(output: Path) -> None:
    """Refuse a file for a page that cannot be written, before anything takes its time; leaves nothing behind.

    Raises:
        ParameterError: it is a folder or a device, or its folder cannot be made or written.
    """
    try:
        target = output.resolve()
        folder, odd = target.is_dir(), target.exists() and not target.is_file()
        if not folder and not odd:
            _try_folder(target.parent)
    except OSError as error:
        raise ParameterError(
            f"{output}: cannot be written ({error.strerror or error}); name a file in a folder that you can write"
        ) from None
    if folder:
        raise ParameterError(f"{output} is a folder; name a file")
    if odd:
        raise ParameterError(f"{output} is no ordinary file, and the page would replace it; name another file")


def _try_folder(folder: Path) -> None:
    """Write a nameless file in a folder; what has to be made for that is removed again."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    finally:
        for made in missing:
            with contextlib.suppress(OSError):
                made.rmdir()


def _render(
    source: Path, campaign_folder: Path, parameters: dict[str, Any], title: str, output: Path | None, page_name: str
) -> Path:
    """Run a notebook over a campaign; leave it and its page there, both under names that follow the notebook's."""
    folder = campaign_folder.resolve()
    if not folder.is_dir():
        raise CampaignNotFound(f"{campaign_folder}: there is no such campaign; `picolab status` lists those there are")
    target = output.resolve() if output else folder / page_name
    check_output(output or target)
    notebook = _execute(source, folder, parameters)
    target.parent.mkdir(parents=True, exist_ok=True)
    page = _to_html(notebook, f"{folder.name} · {title}")
    import nbformat

    write_atomically(folder / source.name, nbformat.writes(notebook))
    write_atomically(target, page)
    return target


def _execute(source: Path, folder: Path, parameters: dict[str, Any]) -> Any:
    papermill = import_papermill()
    from picolab.jupyter.kernel_process import KernelWatch, watched_manager

    watch = KernelWatch()
    # papermill writes while it runs, and not atomically: it gets a name of its own until all is well.
    working = folder / f".{source.stem}.{os.getpid()}.ipynb"
    failed = folder / f"{source.stem}.failed.ipynb"
    try:
        with ipc_kernel() as config:
            notebook = papermill.execute_notebook(
                str(source),
                str(working),
                parameters={"campaign": str(folder), **parameters},
                kernel_name="python3",
                progress_bar=False,
                kernel_manager_class=watched_manager(watch),
                config=config,
                # The kernel answers while it sends a large output; on a busy host that takes its time.
                iopub_timeout=_IOPUB_TIMEOUT_S,
                # Saved once, at the end, also after a failure: writing it after each cell takes longer than the cells.
                request_save_on_cell_execute=False,
                autosave_cell_every=0,
            )
    except papermill.PapermillExecutionError as error:
        working.replace(failed)
        raise PicolabError(
            f"{source.name}: the analysis failed: {error.ename}: {error.evalue}; the traceback is in {failed}"
        ) from None
    except (RuntimeError, TimeoutError) as error:
        # So do the errors of nbclient and jupyter_client about a kernel begin: it is dead, or does not answer.
        raise PicolabError(f"{source.name}: {_why_no_answer(error, watch)}") from None
    finally:
        working.unlink(missing_ok=True)
    failed.unlink(missing_ok=True)
    notebook.metadata.papermill["output_path"] = str(folder / source.name)
    return notebook


def _why_no_answer(error: Exception, watch: KernelWatch) -> str:
    """Return why the kernel of a page gave no answer, and what helps.

    Raises:
        Exception: `error`, which is not about the kernel.
    """
    if watch.ends:
        why = ", probably since the host ran out of memory" if watch.ends[-1] == -signal.SIGKILL else ""
        return (
            f"the Jupyter kernel that makes the page {watch.end_in_words}{why}; end other programs or use a host with "
            f"more memory, then make the page again"
        )
    if isinstance(error, TimeoutError) or str(error).startswith("Kernel"):
        words = one_line(str(error).strip().partition("\n")[0])
        return f"the Jupyter kernel that makes the page does not answer ({words}); try again while the host is idle"
    raise error


def _to_html(notebook: Any, title: str) -> str:
    from nbconvert import HTMLExporter

    from picolab.charts.figure import FIGURE_MIME

    bundle = _inside_script(script_bundle())
    boot = _inside_script((TEMPLATE_DIR / "report.js").read_text(encoding="utf-8"))
    exporter = HTMLExporter(template_name=TEMPLATE_DIR.name, extra_template_basedirs=[str(TEMPLATE_DIR.parent)])
    exporter.register_filter("in_script", _json_in_script)
    exporter.register_filter("data_uri", _svg_uri)
    resources = {
        "report": {
            "title": visible(title),
            "figure_mime": FIGURE_MIME,
            "contents": _contents(notebook),
            "style": (TEMPLATE_DIR / "report.css").read_text(encoding="utf-8"),
            "bundle": bundle,
            "boot": boot,
            # Only these two scripts may run, and nothing may be loaded: whatever a server's message holds.
            "policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
            f"script-src {_digest(bundle)} {_digest(boot)}",
        }
    }
    page, _ = exporter.from_notebook_node(notebook, resources=resources)
    return str(page)


def _contents(notebook: Any) -> list[dict[str, str]]:
    """Sections of the notebook: headings with the ids that nbconvert gives them, and outputs that begin with one."""
    sections = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            titles = _HEADING.findall(cell.source)
            sections += [{"title": html.escape(title), "id": html.escape(title.replace(" ", "-"))} for title in titles]
        for output in cell.get("outputs", []):
            if found := _SECTION.match(output.get("data", {}).get("text/html", "")):
                sections.append({"title": found[2], "id": found[1]})
    return sections


def _inside_script(script: str) -> str:
    """Return JavaScript that cannot end the script element it stands in."""
    return re.sub(r"<(?=/script|!--)", r"\\x3c", script, flags=re.IGNORECASE)


def _json_in_script(data: Any) -> str:
    """Return JSON that cannot end the script element it stands in."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _digest(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _svg_uri(svg: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
