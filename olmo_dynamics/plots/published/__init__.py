"""Figures of the papers that this package's measurements come from, each by one call."""

from olmo_dynamics.plots.published.batch_panels import critical_batch
from olmo_dynamics.plots.published.interpolation_curve import interpolation
from olmo_dynamics.plots.published.published_figures import PUBLISHED, PublishedFigure, published_figure
from olmo_dynamics.plots.published.routing_panels import routing_panels

__all__ = ["PUBLISHED", "PublishedFigure", "critical_batch", "interpolation", "published_figure", "routing_panels"]
