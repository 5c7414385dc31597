"""A figure of a notebook: panels that a report can make interactive, and a picture for everywhere else.

The output of a cell holds the Vega-Lite specs of the panels with an SVG of each under a mime type of our own
(altair's is refused by the schema of the notebook format), and one PNG of all panels: JupyterLab shows it
without network, also in a notebook that it does not trust yet.
"""

import base64
from collections.abc import Sequence
from typing import Any

import altair as alt
import vl_convert

from picolab.chart_style import CONFIG

FIGURE_MIME = "application/vnd.picolab.vegalite+json"
PANEL_WIDTH = 640
_COLUMNS = 2


class Figure:
    """What a notebook shows of a list of charts."""

    def __init__(self, panels: Sequence[alt.LayerChart], caption: str) -> None:
        self.panels = list(panels)
        self.caption = caption

    def __repr__(self) -> str:
        return self.caption

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        specs = [panel.to_dict() | {"config": CONFIG} for panel in self.panels]
        shown = [{"spec": spec, "svg": vl_convert.vegalite_to_svg(_still(spec))} for spec in specs]
        return {
            FIGURE_MIME: {"caption": self.caption, "panels": shown},
            "image/png": base64.b64encode(self._png()).decode(),
            "text/plain": self.caption,
        }

    def _png(self) -> bytes:
        columns = min(_COLUMNS, len(self.panels))
        sized = [panel.properties(width=PANEL_WIDTH // columns + 100) for panel in self.panels]
        for panel in sized:
            panel.usermeta = alt.Undefined  # allowed only at the top of a spec
        together = alt.concat(*sized, columns=columns).resolve_scale(color="independent", shape="independent")
        spec = together.to_dict() | {"config": CONFIG, "background": "white"}
        return vl_convert.vegalite_to_png(spec, scale=1.5)


def _still(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the spec of a picture: of fixed size, without the invisible marks that only carry tooltips."""
    visible = [layer for layer in spec["layer"] if layer["mark"].get("opacity") != 0]
    return spec | {"layer": visible, "width": PANEL_WIDTH, "background": "white", "padding": 8}
