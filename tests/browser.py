"""Reports opened in a real browser."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, Route, sync_playwright

EVIL = "</script><script>document.title = 'taken over'</script><img src=http://192.0.2.1/x onerror=alert(1)>"


class Visit:
    """A page and what went wrong in it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.route("**/*", self._route)
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _route(self, route: Route) -> None:
        if route.request.url == self.url:
            route.continue_()
            return
        self.requests.append(route.request.url)
        route.abort()


Visiting = Callable[..., AbstractContextManager[Visit]]


@contextmanager
def browser() -> Iterator[Visiting]:
    """Start a browser and yield `visit`, which opens a report in a window of its own, without cookies or cache."""
    chromium = shutil.which("chromium")
    assert chromium, "chromium is missing: apt-get install chromium"

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])

        @contextmanager
        def visit(report: Path, width: int = 1280, ready: str = "html[data-charts]", **options: Any) -> Iterator[Visit]:
            window = started.new_context(viewport={"width": width, "height": 800}, **options)
            try:
                page = window.new_page()
                visited = Visit(page, report.as_uri())
                page.goto(report.as_uri())
                if options.get("java_script_enabled", True):
                    page.wait_for_selector(ready, state="attached")
                yield visited
                assert visited.requests == []
                assert visited.complaints == []
            finally:
                window.close()

        try:
            yield visit
        finally:
            started.close()
