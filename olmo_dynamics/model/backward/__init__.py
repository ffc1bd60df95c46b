"""The way back through a streamed model: gradients of the loss, one layer's weights at a time."""

from olmo_dynamics.model.backward.backward_pass import (
    ACTIVATION,
    BackwardPass,
    GradientObserver,
    TensorGradient,
    stages_back,
)

__all__ = ["ACTIVATION", "BackwardPass", "GradientObserver", "TensorGradient", "stages_back"]
