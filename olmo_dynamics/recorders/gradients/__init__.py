"""Recorders of gradients: their norms, the noise between windows, growth along the depth, and rows of embeddings."""

from olmo_dynamics.recorders.gradients.embedding_rows import GradientRowRecorder
from olmo_dynamics.recorders.gradients.gradient_norms import GradientRecorder

__all__ = ["GradientRecorder", "GradientRowRecorder"]
