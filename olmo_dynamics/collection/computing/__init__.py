"""Where a collection computes: its engine and its device."""

from olmo_dynamics.collection.computing.devices import check_place, require_device

__all__ = ["check_place", "require_device"]
