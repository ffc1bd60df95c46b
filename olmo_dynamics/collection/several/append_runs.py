"""Several runs measured one after another, each into a store of its own in one folder.

>>> append_runs({"org/a": lambda: open_source("org/a")}, out="runs", revisions="all")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Unpack

from olmo_dynamics.checkpoints import Source
from olmo_dynamics.collection.collector import append_revisions, compact
from olmo_dynamics.collection.engines import connection
from olmo_dynamics.collection.options import CollectKeywords
from olmo_dynamics.errors import DiskFullError, OlmoDynamicsError, OptionError, SourceError, counted
from olmo_dynamics.files import Place
from olmo_dynamics.progress import Progress, ProgressBar
from olmo_dynamics.store.several.run_folder import RunFolder


def append_runs(
    sources: Mapping[str, Callable[[], Source]],
    *,
    out: str | Place,
    revisions: str | Collection[str] = "all",
    quarantine: str | Path | None = None,
    include_quarantined: bool = False,
    progress: Progress | None = None,
    **options: Unpack[CollectKeywords],
) -> None:
    """Measure every selected revision of each run into the run's own store; a run that fails does not end the others.

    Args:
        sources: by the name of its source, a function that opens it.
        out: the folder of runs; made if it is not there, continued if it is.
        revisions: a selection expression that every run must match.
        quarantine: as for `collect`, as are the following.

    Raises:
        OptionError: `out` holds something else, or the engine is not installed.
        EngineError: there is no cluster.
        SourceError: some runs could not be measured wholly; each is named with its reason, and all others are there.
        DiskFullError: no room; what is there stays.
    """
    folder = RunFolder(out)
    with connection(options.get("engine", "local"), options.get("address")):
        paths, failed = folder.add(sources), dict[str, str]()
        for number, (name, opened) in enumerate(sources.items(), 1):
            listener = progress or ProgressBar()
            listener.note(f"run {number} of {len(sources)}: {name}")
            try:
                store = append_revisions(
                    opened(),
                    revisions=revisions,
                    out=paths[name],
                    quarantine=quarantine,
                    include_quarantined=include_quarantined,
                    progress=listener,
                    **options,
                )
                compact(store)
                held = store.attributes
                folder.describe(name, model_type=held["model_type"], model_config=held["model_config"])
            except DiskFullError:
                raise
            except OlmoDynamicsError as error:
                failed[name] = str(error)
    if failed:
        told = "; ".join(f"{name}: {why}" for name, why in failed.items())
        raise SourceError(
            f"{counted(len(failed), 'run')} of {len(sources)} could not be measured wholly ({told}); all others are in {out}"
        )


def require_runs(names: Iterable[str]) -> None:
    """Check that there is a run, and none twice.

    Raises:
        OptionError: there is none, or one is given twice.
    """
    given = list(names)
    if not given:
        raise OptionError("collect() needs at least one run (got none)")
    for name in given:
        if given.count(name) > 1:
            raise OptionError(f"each run must be given once (got {name} {given.count(name)} times)")
