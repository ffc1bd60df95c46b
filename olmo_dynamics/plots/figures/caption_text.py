"""The caption of a chart as a text: its subject, how to read it, the probe, and the number of rows drawn.

>>> import altair as alt
>>> caption_text(alt.Chart(usermeta={"caption": "Loss by domain. Probe of 8,192 tokens."}))
'Loss by domain. Probe of 8,192 tokens.'
"""

from __future__ import annotations

from typing import Any

import altair as alt

from olmo_dynamics.errors import OptionError


def caption_text(chart: alt.TopLevelMixin) -> str:
    """The caption that a plot of this package wrote into the chart, for the text below the figure in a paper.

    It holds what title and subtitle say on the screen: the quantity with its unit, what was selected, the number of tokens
    of the probe, and notes such as how the table was thinned.

    Args:
        chart: a chart that a function of `olmo_dynamics.plots` returned.

    Raises:
        OptionError: the chart holds no caption.
    """
    usermeta: Any = getattr(chart, "usermeta", None)
    if not isinstance(usermeta, dict) or "caption" not in usermeta:
        raise OptionError("caption_text() needs a chart of olmo_dynamics.plots (this chart holds no caption)")
    return str(usermeta["caption"])
