"""`olmo-dyn collect` with several sources: what it would cost in all, and what it has measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from olmo_dynamics.cli.printing import human_bytes, human_seconds, print_facts
from olmo_dynamics.errors import OlmoDynamicsError, SourceError, counted

_SUMMED = ("nbytes", "requests", "seconds")


def is_of_several(sources: Sequence[str], out: str) -> bool:
    """True if there are several sources, or the store is a folder of runs."""
    from olmo_dynamics.store.several.run_folder import RunFolder

    return len(sources) > 1 or RunFolder(out).exists


def print_plans(sources: Sequence[str], revisions: str, *, out: str, style: str, **options: Any) -> None:
    """Print the cost of every run and the sums; a run that cannot be planned is named with its reason.

    Raises:
        SourceError: no run can be planned.
    """
    from olmo_dynamics.collecting import name_of, plan
    from olmo_dynamics.frames.run import Run
    from olmo_dynamics.store.several.run_folder import RunFolder

    lists, names = options.pop("lists"), {each: name_of(each) for each in sources}
    paths = RunFolder(out).planned(names.values())
    plans, failed = {}, {}
    for name in sources:
        try:
            plans[name] = plan(Run(name, lists=lists), revisions=revisions, out=paths[names[name]], **options)
        except OlmoDynamicsError as error:
            failed[name] = str(error)
    if not plans:
        told = "; ".join(f"{name}: {why}" for name, why in failed.items())
        raise SourceError(f"at least one of {counted(len(sources), 'run')} must be found ({told})")
    sums = {name: sum(getattr(each, name) for each in plans.values()) for name in _SUMMED}
    to_do, done = (sum(len(getattr(each, name)) for each in plans.values()) for name in ("to_do", "done"))
    if style == "json":
        runs = {name: {"revisions": list(each.to_do), "bytes": each.nbytes} for name, each in plans.items()}
        facts: dict[str, Any] = {"runs": runs, "failed": failed, "revisions": to_do, "done": done}
        facts |= {"bytes": sums["nbytes"], "requests": sums["requests"], "seconds": sums["seconds"]}
    else:
        facts = {
            f"run {name}": f"{len(each.to_do)} to measure, {human_bytes(each.nbytes)}, {human_seconds(each.seconds)}"
            for name, each in plans.items()
        }
        facts |= {f"not planned {name}": why for name, why in failed.items()}
        facts |= {
            "runs": counted(len(plans), "run"),
            "revisions": f"{to_do} to measure, {done} already there",
            "bytes": human_bytes(sums["nbytes"]),
            "requests": sums["requests"],
            "memory": f"about {human_bytes(max(each.peak_bytes for each in plans.values()))}",
            "time": f"{human_seconds(sums['seconds'])}, one run after another",
        }
    print_facts(facts, style)


def collect_several(
    sources: Sequence[str], revisions: str, *, out: str, quiet: bool, style: str, **options: Any
) -> None:
    """Measure every run, and print what the folder holds.

    Raises:
        SourceError: some runs could not be measured wholly; all others have been.
    """
    from olmo_dynamics.collecting import collect
    from olmo_dynamics.frames.run import Run
    from olmo_dynamics.progress import Progress

    lists, progress = options.pop("lists"), Progress() if quiet else None  # None: a bar for each run
    runs = [Run(name, lists=lists) for name in sources] if lists else list(sources)
    store = collect(runs, revisions=revisions, out=out, progress=progress, **options)
    facts = {"store": str(store.path), "runs": len(store.attributes["runs"]), "revisions": len(store.done)}
    print_facts(facts | {"missing": len(store.missing)}, style)
