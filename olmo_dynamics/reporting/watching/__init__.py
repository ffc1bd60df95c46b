"""A live page of a store or a run, served to this machine alone."""

from olmo_dynamics.reporting.watching.live_server import LiveServer

__all__ = ["LiveServer"]


def __dir__() -> list[str]:
    return sorted(__all__)
