"""Interventions: read activations, or ablate, scale, add to and patch them, and measure the effect on the loss.

>>> import olmo_dynamics as od
>>> editable = od.interventions.open_model(od.load_model(run, "step400-tokens409600"))  # doctest: +SKIP
>>> editable.ablate(probe, 45, site="residual_out").increase  # doctest: +SKIP

The tracing is done by nnsight, which is an extra: collecting and plotting do not need it.
"""

from typing import TYPE_CHECKING

from olmo_dynamics.errors import OptionError, unknown_name

try:
    import nnsight as _nnsight  # noqa: F401 - imported here so that its absence is one plain error
except ModuleNotFoundError as error:
    raise OptionError(
        f"interventions need nnsight; this Python has no {error.name}: pip install 'olmo-dynamics[notebooks]'"
    ) from error

from olmo_dynamics.interventions.edited_model import EditableModel, open_model
from olmo_dynamics.interventions.edits import Edit, Fill
from olmo_dynamics.interventions.effects import Effect, ProbeLoss

__all__ = ["Edit", "EditableModel", "Effect", "Fill", "ProbeLoss", "open_model"]


def __dir__() -> list[str]:
    return sorted(__all__)


if not TYPE_CHECKING:  # a type checker would take any name for known

    def __getattr__(name):
        raise unknown_name(__name__, name, __all__)
