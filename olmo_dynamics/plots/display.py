"""Charts in notebooks, without a network: interactive where scripts run, with a static picture beside.

Altair's own renderer loads Vega from a server for every chart. The one here writes Vega into the first chart of a
notebook, and each chart holds a picture that stays wherever scripts do not run (a notebook that is not trusted, a mail, a
PDF). It is enabled when `olmo_dynamics.plots` is imported, unless another one of altair's was chosen before; to choose
again, call `alt.renderers.enable("default")`, or `alt.renderers.enable("olmo_dynamics")`.

    >>> import altair as alt
    >>> alt.renderers.active
    'olmo_dynamics'
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import sys
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from importlib.resources import files
from string import Template
from typing import Any

import altair as alt

RENDERER = "olmo_dynamics"
"""The name under which altair knows the renderer."""

_SCALE = 2.0  # pixels of the static picture per pixel of its place

Bundle = tuple[dict[str, Any], dict[str, Any]]
"""An output of a notebook cell in several formats, and the formats' metadata."""


class NotebookRenderer:
    """Draws the charts of one notebook; the first chart carries Vega for all of them.

    A cell that is run again replaces its output, so it carries Vega again if it did before.
    """

    def __init__(self) -> None:
        self._carrier: str | None = None
        self._run = ""
        self._sent = False

    def __call__(self, spec: dict[str, Any], **options: Any) -> Bundle:
        """The chart as HTML, as PNG and as its title.

        Args:
            spec: the chart in Vega-Lite.
            options: `embed_options`, as altair's `set_embed_options` leaves them, are passed to vega-embed.
        """
        png, width, height = _picture(spec)
        text = html.escape(_title(spec), quote=True)
        place = f"chart-{uuid.uuid4().hex}"
        source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        chart = Template(_part("notebook_chart.js")).substitute(
            place=place, spec=_json(spec), options=_json(options.get("embed_options") or {})
        )
        vega = f"<script>{_vega()}</script>" if self._carries() else ""
        page = (
            f'<div id="{place}"><img alt="{text}" width="{width}" height="{height}" src="{source}"></div>'
            f"{vega}<script>{chart}</script>"
        )
        data = {"text/html": page, "image/png": png, "text/plain": _title(spec)}
        return data, {"image/png": {"width": width, "height": height}}

    def _carries(self) -> bool:
        """True for the first chart of the notebook, and for the first one of each later run of its cell."""
        cell, run = _cell()
        again = cell is not None and cell == self._carrier and run != self._run
        if self._sent and not again:
            return False
        self._sent, self._carrier, self._run = True, cell, run
        return True


def enable() -> None:
    """Register the renderer, and enable it if none was chosen."""
    if RENDERER in alt.renderers.names():
        return
    alt.renderers.register(RENDERER, NotebookRenderer())
    if alt.renderers.active == "default":
        alt.renderers.enable(RENDERER)


def vega_script(then: str) -> str:
    """Vega, Vega-Lite and vega-embed in the versions that altair writes for, as one script that ends with `then`."""
    import vl_convert

    bundle = vl_convert.javascript_bundle(then, _version())
    return f"(()=>{{{bundle}}})();".replace("</script", "<\\/script")


def page_libraries() -> str:
    """Vega and its parts as one script of a page, which draws by `vegaEmbed`."""
    return begin_libraries().result()


@cache
def begin_libraries() -> Future[str]:
    """Make the script of `page_libraries` in another thread: a second, in which this one can draw."""
    thread = ThreadPoolExecutor(1)
    script = thread.submit(vega_script, "window.vegaEmbed = vegaEmbed;")
    thread.shutdown(wait=False)
    return script


def allowed_hash(script: str) -> str:
    """The hash by which a page's content-security policy allows one script to run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


@cache
def _vega() -> str:
    return vega_script(_part("notebook_vega.js"))


def _picture(spec: dict[str, Any]) -> tuple[bytes, int, int]:
    """The chart as PNG, and the size at which it is shown."""
    import vl_convert

    png = vl_convert.vegalite_to_png(json.dumps(spec), vl_version=_version(), scale=_SCALE)
    width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
    return png, round(width / _SCALE), round(height / _SCALE)


def _title(spec: dict[str, Any]) -> str:
    return str(spec.get("description") or "a chart")


def _cell() -> tuple[str | None, str]:
    """The running cell, where the notebook names it, and the run; neither outside a notebook."""
    shell: Any = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    parent = shell.get_parent() if hasattr(shell, "get_parent") else {}
    return parent.get("metadata", {}).get("cellId"), parent.get("header", {}).get("msg_id", "")


def _json(value: Any) -> str:
    """JSON with no character that could end a script element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _version() -> str:
    """The version of Vega-Lite as vl_convert spells it."""
    return ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])


@cache
def _part(name: str) -> str:
    """A file of this package's `static` folder."""
    return files("olmo_dynamics.plots").joinpath("static", name).read_text(encoding="utf-8")
