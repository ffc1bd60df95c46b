"""Every checkpoint of a run as one lazy xarray, which reads the bytes that an expression needs.

>>> arrays = weights("cache/demo/run")  # doctest: +SKIP
>>> arrays["model.norm.weight"].sel(step=1000)  # doctest: +SKIP
"""

from olmo_dynamics.lazy_weights.opened_run import weights as weights

__all__ = ["weights"]


def __dir__() -> list[str]:
    return sorted(__all__)
