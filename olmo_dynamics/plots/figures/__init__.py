"""Figures for print: a stated total width, type sizes in points, no title, and the caption as a text."""

from olmo_dynamics.plots.figures.caption_text import caption_text
from olmo_dynamics.plots.figures.printed import POINTS_PER_MM, TOTAL_MM, printed

__all__ = ["POINTS_PER_MM", "TOTAL_MM", "caption_text", "printed"]
