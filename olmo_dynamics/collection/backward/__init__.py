"""Gradients within a collection: a backward pass that is recorded, and its memory."""

from olmo_dynamics.collection.backward.gradient_memory import gradient_bytes
from olmo_dynamics.collection.backward.recorded_backward import RecordedBackward

__all__ = ["RecordedBackward", "gradient_bytes"]
