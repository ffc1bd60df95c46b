"""What if an activation were another: read, ablate, scale, add, patch, and what it does to the loss.

>>> import olmo_dynamics as od
>>> opened = od.interventions.open_model(od.load_model(run, "step900-tokens921600"))  # doctest: +SKIP
>>> opened.ablate(probe, 45, site="residual_out").increase  # doctest: +SKIP

The tracing is nnsight's, which is an extra: whoever only collects and plots does not need it.
"""

from olmo_dynamics.errors import OptionError

try:
    import nnsight as _nnsight  # noqa: F401 - asked for here, so that its absence is told once and plainly
except ModuleNotFoundError as error:
    raise OptionError(
        f"interventions need nnsight; this Python has no {error.name}: pip install 'olmo-dynamics[notebooks]'"
    ) from error

from olmo_dynamics.interventions.edits import Edit, Fill
from olmo_dynamics.interventions.effects import Effect, Losses
from olmo_dynamics.interventions.opened import Opened, open_model

__all__ = ["Edit", "Effect", "Fill", "Losses", "Opened", "open_model"]
