"""The trial notebook in a real JupyterLab, in a real browser: Run All, the live view, the result, and the chart."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from conftest import eventually
from playwright.sync_api import Page, TimeoutError, sync_playwright

from picolab.config.project import project_root
from picolab.machines import registry

TOKEN = "only-for-this-test"
LOG = "lab.log"
SHOWN = """wanted => [...document.querySelectorAll('.jp-OutputArea-output')]
    .some(output => output.textContent.includes(wanted))"""
CHART = "() => [...document.querySelectorAll('.jp-OutputArea-output img')].some(image => image.naturalWidth > 100)"

# On a busy host JupyterLab may not know its kernel yet, and asks: the answer is the one that it proposes.
ACCEPT = 'document.querySelector(".jp-Dialog button.jp-mod-accept")?.click();'
IDLE = f"""() => {{
    {ACCEPT}
    return document.querySelector(".jp-Notebook-ExecutionIndicator[data-status=idle]") !== null;
}}"""
BEGUN = f"""() => {{
    {ACCEPT}
    return [...document.querySelectorAll(".jp-InputPrompt")].some(one => /\\[[*\\d]+\\]/.test(one.textContent));
}}"""


@pytest.fixture
def lab(scratch: Path) -> Iterator[str]:
    """Start JupyterLab over a copy of the notebooks, with settings of its own; yield its address."""
    notebooks = scratch / "notebooks"
    notebooks.mkdir()
    shutil.copy(project_root() / "notebooks" / "trial.ipynb", notebooks)
    own = {
        variable: str(scratch / "jupyter" / variable.lower())
        for variable in (
            "JUPYTER_CONFIG_DIR",
            "JUPYTER_DATA_DIR",
            "JUPYTER_RUNTIME_DIR",
            "JUPYTERLAB_SETTINGS_DIR",
            "JUPYTERLAB_WORKSPACES_DIR",
        )
    }
    log = scratch / LOG
    with log.open("wb") as output:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0"),
                *(f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={notebooks}"),
            ],
            env=os.environ | own,
            stdout=output,
            stderr=output,
        )

    def address() -> str | None:
        assert server.poll() is None, log.read_text()
        for line in log.read_text().splitlines():
            if "http://127.0.0.1:" in line:
                return "http://127.0.0.1:" + line.partition("http://127.0.0.1:")[2].partition("/")[0]
        return None

    try:
        found = eventually(address, "JupyterLab says where it is")
        eventually(lambda: _answers(f"{found}/api/status?token={TOKEN}"), "JupyterLab answers")
        yield str(found)
    finally:
        server.terminate()
        server.wait(60)
        registry.release_by_name("local")


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@contextlib.contextmanager
def told(page: Page, log: Path) -> Iterator[None]:
    """Have a wait that was in vain say what the page showed, and what the server has said."""
    try:
        yield
    except TimeoutError as error:
        pytest.fail(f"{error}\n\nThe page:\n{page.inner_text('body')}\n\nThe server:\n{log.read_text()[-4000:]}")


# JupyterLab has waited in vain for its kernel when it was started by a process that had run thousands of other tests.
@pytest.mark.alone
def test_run_all(lab: str, scratch: Path) -> None:
    chromium = shutil.which("chromium")
    assert chromium, "Chromium is missing; `make test` installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        # High enough for JupyterLab to keep every cell in the page.
        page = browser.new_page(viewport={"width": 1200, "height": 7000})
        page.goto(f"{lab}/lab/tree/trial.ipynb?token={TOKEN}")
        with told(page, scratch / LOG):
            # The first cell is text, and its prompt is hidden.
            page.wait_for_selector(".jp-Notebook .jp-InputPrompt", timeout=90_000, state="attached")
            # A click on Run All before the kernel is there is lost.
            page.wait_for_function(IDLE, timeout=90_000, polling=250)
            page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=90_000)
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_text("Run All Cells", exact=True).click()
            page.wait_for_function(BEGUN, timeout=90_000, polling=250)
            for wanted in ("machine 'local' made", "every byte was stored and came back", "machine 'local' taken down"):
                page.wait_for_function(SHOWN, arg=wanted, timeout=90_000, polling=250)
            page.wait_for_function(CHART, timeout=90_000, polling=250)
            assert page.evaluate(SHOWN, "ended, 100 MiB delivered"), "the view of the upload is HTML of the page"
            assert not page.evaluate(SHOWN, "Traceback")
        browser.close()
