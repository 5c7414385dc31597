"""A figure of a notebook: panels that a report can make interactive, and a picture for everywhere else.

The output of a cell holds the Vega-Lite specs of the panels with an SVG of each under a mime type of our own
(altair's is refused by the schema of the notebook format), and one PNG of all panels: JupyterLab shows it
without network, also in a notebook that it does not trust yet. Each panel is drawn once; the PNG is made of the SVGs.
"""

import base64
import re
from collections.abc import Sequence
from typing import Any

import altair as alt
import vl_convert

from picolab.charts.style import CONFIG
from picolab.text.foreign import visible

FIGURE_MIME = "application/vnd.picolab.vegalite+json"
Panels = Sequence[alt.LayerChart]
PANEL_WIDTH = 640
_COLUMNS = 2
_FEW_PANELS = 4
_SCALE_OF_FEW, _SCALE_OF_MANY = 1.25, 0.75
_SIZE = re.compile(r'<svg [^>]*?width="([0-9.]+)" height="([0-9.]+)"')


class Figure:
    """A list of charts as a notebook shows it."""

    def __init__(self, panels: Panels, caption: str) -> None:
        self.panels = list(panels)
        self.caption = visible(caption)

    def __repr__(self) -> str:
        return self.caption

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        # Charts are made here and tested against the schema; checking every value again takes longer than drawing.
        specs = [_shown(panel.to_dict(validate=False)) | {"config": CONFIG} for panel in self.panels]
        pictures = [vl_convert.vegalite_to_svg(_still(spec)) for spec in specs]
        shown = [{"spec": spec, "svg": svg} for spec, svg in zip(specs, pictures, strict=True)]
        return {
            FIGURE_MIME: {"caption": self.caption, "panels": shown},
            "image/png": base64.b64encode(_png(pictures)).decode(),
            "text/plain": self.caption,
        }


def _shown(part: Any) -> Any:
    """Return a part of a spec in which every text can be seen: data, levels, titles.

    XML has no control characters, so that one of them in a server's message would prevent the picture.
    """
    if isinstance(part, str):
        return visible(part)
    if isinstance(part, dict):
        return {name: _shown(value) for name, value in part.items()}
    return [_shown(value) for value in part] if isinstance(part, list) else part


def _still(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the spec of a picture: of fixed size, without what only tooltips and readers of a live chart need."""
    visible = [layer for layer in spec["layer"] if layer["mark"].get("opacity") != 0]
    config = spec["config"] | {"aria": False}
    return spec | {"layer": visible, "config": config, "width": PANEL_WIDTH, "background": "white", "padding": 8}


def _png(pictures: Sequence[str]) -> bytes:
    """Return SVGs as one picture, next to and below each other."""
    columns = min(_COLUMNS, len(pictures))
    parts, top, width = [], 0.0, 0.0
    for start in range(0, len(pictures), columns):
        left, height = 0.0, 0.0
        for number, svg in enumerate(pictures[start : start + columns], start):
            size = _SIZE.match(svg)
            if size is None:
                continue
            # Names of clip paths and gradients are unique in their own SVG only.
            own = re.sub(r'(\bid="|url\(#)', rf"\g<1>panel{number}-", svg)
            parts.append(own.replace("<svg ", f'<svg x="{left:g}" y="{top:g}" ', 1))
            left, height = left + float(size[1]), max(height, float(size[2]))
        top, width = top + height, max(width, left)
    together = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{width:g}" '
        f'height="{top:g}"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>'
    )
    scale = _SCALE_OF_FEW if len(pictures) <= _FEW_PANELS else _SCALE_OF_MANY
    return vl_convert.svg_to_png(together, scale=scale)
