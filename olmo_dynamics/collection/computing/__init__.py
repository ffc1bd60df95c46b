"""Choice of the engine and the device on which a collection computes."""

from olmo_dynamics.collection.computing.devices import check_place, require_device

__all__ = ["check_place", "require_device"]
