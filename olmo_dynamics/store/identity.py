"""The run that a store was made from, recognised in whatever place it is now.

>>> require_same_run(Store.open("run.zarr"), open_source("moved/run"))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from olmo_dynamics.checkpoints import Source
from olmo_dynamics.checkpoints.identity import Comparison, compare_weights, find_folder, folders_near
from olmo_dynamics.errors import StoreMismatchError
from olmo_dynamics.files import Place
from olmo_dynamics.names import Revision
from olmo_dynamics.store.reading import ReadableStore
from olmo_dynamics.store.store import Store

_ELSEWHERE = ("web", "bucket")
"""Kinds of sources that know no hashes, and that their address names."""


def held_weights(store: ReadableStore) -> dict[str, str]:
    """The sha256 of the weights of each finished revision, by name."""
    rows = store.arrays("revisions")
    return {str(name): str(sha256) for name, sha256 in zip(rows["revision"], rows["weights_sha256"], strict=True)}


def require_same_run(store: Store, source: Source) -> None:
    """Check that a source is the run that a store was made from.

    A hub repo is known by its name. Every other source is known by its weights: each revision that both have, as far as
    `compare_weights` looks, must have the sha256 in the store. Where no revision can be compared, the source must be the
    place that the store names; a recording of a live model, one of the same name or of the folder that the store lies in.

    Raises:
        StoreMismatchError: it is another run, or nothing shows that it is the same; the message names the revision.
    """
    held, is_named = held_weights(store), store.attributes["source"] == source.name
    from_hub = source.kind in ("hub", "cache") and any(store.arrays("revisions")["commit"])
    if is_named and (from_hub or source.kind in _ELSEWHERE):
        return
    comparison = Comparison() if source.kind == "web" else compare_weights(source, held)
    if comparison.differing:
        raise StoreMismatchError(
            f"{store.path} holds another run: {comparison.differing} has weights of sha256 {comparison.held[:12]} there and "
            f"{comparison.found[:12]} in {source.name}; collect it into another store"
        )
    if held and not (comparison.same or _is_at_place(store, source)):
        raise StoreMismatchError(
            f"{store.path} was made from {store.attributes['source']}, and {source.name} has none of its {len(held)} revisions "
            "to compare; give that run, or collect this one into another store"
        )


def place_of(source: Source, out: Place) -> str:
    """A source's name as a store at `out` keeps it: a folder that cannot be found from there again by its whole path."""
    if source.kind != "folder" or Path(source.name).expanduser().is_absolute():
        return source.name
    folder = Path(source.name).resolve()
    if not isinstance(out, Path):
        return str(folder)
    reached = next((each for each in folders_near(source.name, out) if each.is_dir()), None)
    return source.name if reached is not None and reached.resolve() == folder else str(folder)


def update_place(store: Store, source: Source) -> None:
    """Write the place of a run's folder into its store, if the run was moved since."""
    if source.kind == "folder" and not _is_at_place(store, source):
        store.rename_source(place_of(source, store.path))


def moved_branches(store: Store, revisions: Sequence[Revision]) -> Iterator[str]:
    """A note for each revision that was measured at another commit than its branch has now."""
    rows = store.arrays("revisions")
    measured = dict(zip(map(str, rows["revision"]), map(str, rows["commit"]), strict=True))
    for revision in revisions:
        before = measured.get(revision.name, "")
        if before and revision.commit and before != revision.commit:
            yield (
                f"{revision.name} was measured at commit {before[:12]} and is at {revision.commit[:12]} now; its row stays, "
                "collect it into another store to measure it anew"
            )


def _is_at_place(store: Store, source: Source) -> bool:
    """True if the source's folder is the one that the store names, seen from the store; of a recording, its name counts."""
    hint, folder = store.attributes["source"], Path(source.name).expanduser().resolve()
    if source.kind == "memory":
        above = store.path.resolve().parents if isinstance(store.path, Path) else ()
        return hint == source.name or folder in above
    if Path(hint).is_absolute() and Path(hint).resolve() == folder:
        return True
    found = find_folder(hint, near=store.path, accept=lambda _: True)
    return found is not None and found.resolve() == folder
