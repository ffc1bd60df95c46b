"""Watch a language model being trained.

    >>> import olmo_dynamics as od
    >>> od.Run  # doctest: +ELLIPSIS
    <class 'olmo_dynamics.frames.run.Run'>

The door is lazy: nothing heavy (torch, zarr, altair) is imported until a name below is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from olmo_dynamics import interventions as interventions
    from olmo_dynamics import plots as plots
    from olmo_dynamics.auditing import audit as audit
    from olmo_dynamics.collecting import collect as collect
    from olmo_dynamics.collecting import interpolate as interpolate
    from olmo_dynamics.collecting import plan as plan
    from olmo_dynamics.collecting import record as record
    from olmo_dynamics.collecting import stream_activations as stream_activations
    from olmo_dynamics.errors import OlmoDynamicsError as OlmoDynamicsError
    from olmo_dynamics.experiments.batch_branches import critical_batch as critical_batch
    from olmo_dynamics.forks import fork as fork
    from olmo_dynamics.frames import between as between
    from olmo_dynamics.frames import displacement as displacement
    from olmo_dynamics.frames import embedding_decay as embedding_decay
    from olmo_dynamics.frames import findings as findings
    from olmo_dynamics.frames import forest as forest
    from olmo_dynamics.frames import join as join
    from olmo_dynamics.frames import join_logs as join_logs
    from olmo_dynamics.frames import join_scores as join_scores
    from olmo_dynamics.frames import memorisation as memorisation
    from olmo_dynamics.frames import metrics as metrics
    from olmo_dynamics.frames import moment_cosine as moment_cosine
    from olmo_dynamics.frames import open_store as open_store
    from olmo_dynamics.frames import pairwise as pairwise
    from olmo_dynamics.frames import read_logs as read_logs
    from olmo_dynamics.frames import rotation as rotation
    from olmo_dynamics.frames import similarity as similarity
    from olmo_dynamics.frames import trajectory as trajectory
    from olmo_dynamics.frames.run import Run as Run
    from olmo_dynamics.lazy_weights import weights as weights
    from olmo_dynamics.loading import load_model as load_model
    from olmo_dynamics.names import Site as Site
    from olmo_dynamics.plots.comparing import compare as compare
    from olmo_dynamics.plots.explorer import explore as explore
    from olmo_dynamics.quantities.declaration import Group as Group
    from olmo_dynamics.quantities.declaration import Quantity as Quantity
    from olmo_dynamics.quantities.declaration import Reads as Reads
    from olmo_dynamics.recorders import Observation as Observation
    from olmo_dynamics.recorders import Recorder as Recorder
    from olmo_dynamics.reporting import write_report as write_report
    from olmo_dynamics.store.publishing import copy_store as copy_store

_HOMES = {
    "Group": "olmo_dynamics.quantities.declaration",
    "Observation": "olmo_dynamics.recorders",
    "Quantity": "olmo_dynamics.quantities.declaration",
    "Reads": "olmo_dynamics.quantities.declaration",
    "Recorder": "olmo_dynamics.recorders",
    "Site": "olmo_dynamics.names",
    "Run": "olmo_dynamics.frames.run",
    "audit": "olmo_dynamics.auditing",
    "between": "olmo_dynamics.frames",
    "collect": "olmo_dynamics.collecting",
    "compare": "olmo_dynamics.plots.comparing",
    "copy_store": "olmo_dynamics.store.publishing",
    "critical_batch": "olmo_dynamics.experiments.batch_branches",
    "displacement": "olmo_dynamics.frames",
    "embedding_decay": "olmo_dynamics.frames",
    "explore": "olmo_dynamics.plots.explorer",
    "findings": "olmo_dynamics.frames",
    "forest": "olmo_dynamics.frames",
    "fork": "olmo_dynamics.forks",
    "interpolate": "olmo_dynamics.collecting",
    "join": "olmo_dynamics.frames",
    "join_logs": "olmo_dynamics.frames",
    "join_scores": "olmo_dynamics.frames",
    "load_model": "olmo_dynamics.loading",
    "memorisation": "olmo_dynamics.frames",
    "metrics": "olmo_dynamics.frames",
    "moment_cosine": "olmo_dynamics.frames",
    "open_store": "olmo_dynamics.frames",
    "pairwise": "olmo_dynamics.frames",
    "plan": "olmo_dynamics.collecting",
    "read_logs": "olmo_dynamics.frames",
    "record": "olmo_dynamics.collecting",
    "rotation": "olmo_dynamics.frames",
    "similarity": "olmo_dynamics.frames",
    "stream_activations": "olmo_dynamics.collecting",
    "trajectory": "olmo_dynamics.frames",
    "weights": "olmo_dynamics.lazy_weights",
    "write_report": "olmo_dynamics.reporting",
    "OlmoDynamicsError": "olmo_dynamics.errors",
}

__all__ = [
    "Group",
    "Observation",
    "OlmoDynamicsError",
    "Quantity",
    "Reads",
    "Recorder",
    "Run",
    "Site",
    "__version__",
    "audit",
    "between",
    "collect",
    "compare",
    "copy_store",
    "critical_batch",
    "displacement",
    "embedding_decay",
    "explore",
    "findings",
    "forest",
    "fork",
    "interpolate",
    "interventions",
    "join",
    "join_logs",
    "join_scores",
    "load_model",
    "memorisation",
    "metrics",
    "moment_cosine",
    "open_store",
    "pairwise",
    "plan",
    "plots",
    "read_logs",
    "record",
    "rotation",
    "similarity",
    "stream_activations",
    "trajectory",
    "weights",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("olmo-dynamics")
    if name in ("interventions", "plots"):
        return import_module(f"olmo_dynamics.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    from olmo_dynamics.errors import unknown_name

    raise unknown_name(__name__, name, __all__)


def __dir__() -> list[str]:
    return sorted(__all__)
