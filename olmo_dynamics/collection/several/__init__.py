"""Collections of several runs."""

from olmo_dynamics.collection.several.append_runs import append_runs, require_runs

__all__ = ["append_runs", "require_runs"]
