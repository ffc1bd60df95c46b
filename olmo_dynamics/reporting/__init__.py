"""A store as one page of linked plots that opens with no network.

>>> from olmo_dynamics.frames import open_store
>>> write_report(open_store("olmo2-1b.zarr"), "report.html")  # doctest: +SKIP
PosixPath('report.html')
"""

from olmo_dynamics.reporting.report import lineage, render_report, write_report

__all__ = ["lineage", "render_report", "write_report"]


def __dir__() -> list[str]:
    return sorted(__all__)
