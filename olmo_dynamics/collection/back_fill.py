"""Quantities that a store lacks, and groups that a collection does not continue.

>>> for note in back_fill(store, setup, opener):  # doctest: +SKIP
...     print(note)
run.zarr lacks parameters/new_ratio; measuring it in 24 finished revisions would read 71.3 GB: --back-fill does it
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from olmo_dynamics.collection.opening import Opener
from olmo_dynamics.collection.options import CollectKeywords, words
from olmo_dynamics.collection.setup import CollectionSetup
from olmo_dynamics.errors import OptionError
from olmo_dynamics.files import Place, as_place, is_there
from olmo_dynamics.names import Revision
from olmo_dynamics.recorders.lookup import offered_recorders
from olmo_dynamics.store import Damage, Store

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def back_fill(store: Store, setup: CollectionSetup, opener: Opener) -> Iterator[str]:
    """Add the quantities that groups of the store lack, if the options say so; otherwise say what that would cost."""
    lacking = store.lacking_quantities(setup.layout)
    if not lacking:
        return
    if setup.options.back_fill:
        store.add_quantities(setup.layout)
        return
    names = ", ".join(quantity.key for quantities in lacking.values() for quantity in quantities)
    weights = opener.first(tuple(lacking)).fetch_plan.nbytes
    done = len(store.done)
    yield (
        f"{store.path} lacks {names}; measuring {'it' if len(names.split()) == 1 else 'them'} in {done} finished "
        f"revision{'s' if done != 1 else ''} would read {_human(done * weights)}: --back-fill does it"
    )


def not_continued(store: Store, setup: CollectionSetup) -> Iterator[str]:
    """A line for each group of the store that was recorded by a user's class, and is not recorded now."""
    for name in store.groups:
        recorder = store.group(name).attributes.get("recorder")
        if recorder and name not in setup.groups:
            yield f"{name} is not continued: its recorder is {recorder}; add it to record to measure it too"


def repair(store: Store, revisions: Sequence[Revision]) -> Iterator[str]:
    """Count damaged rows of a store as missing, so that they are measured anew, with a line that says so."""
    damages = store.repair(revisions).damages
    if damages:
        yield f"{store.path} was damaged in {_places(damages)}; what was damaged is measured anew"


def open_as_repaired(out: str | Place) -> Store:
    """A store to read, whose damaged rows count as missing, as they do once `repair` has been there."""
    store = Store.open(out)
    store.disregard(store.check())
    return store


def damaged(store: Store) -> Iterator[str]:
    """A line that names the damaged rows of a store, if it has any."""
    damages = store.check().damages
    if damages:
        yield f"{store.path} is damaged in {_places(damages)}; a collection measures anew what is damaged"


def _places(damages: Sequence[Damage]) -> str:
    return "; ".join(map(str, damages[:3])) + (f"; and {len(damages) - 3} more" if len(damages) > 3 else "")


def check_names(out: str | Place | None, options: CollectKeywords) -> None:
    """Refuse the bare name of a group that a user's class recorded: only the class can record more of it.

    Raises:
        OptionError: such a name is given; the message names the class that the store remembers.
    """
    record = options.get("record", ())
    if out is None or not is_there(as_place(out)) or not isinstance(record, Collection):  # a generator can be read once
        return
    store = Store.open(out)
    offered = offered_recorders()
    for name in words(record):
        known = isinstance(name, str) and name in store.groups and name not in offered
        recorder = store.group(str(name)).attributes.get("recorder") if known else None
        if recorder:
            raise OptionError(
                f"group {name} was recorded by {recorder}, which is not part of this package; to record more of it, give "
                f"the class, or --record {recorder}"
            )


def _human(nbytes: float) -> str:
    """Bytes in decimal units, three digits."""
    for unit in _UNITS:
        if nbytes < 1000 or unit == _UNITS[-1]:
            break
        nbytes /= 1000
    return f"{nbytes:.3g} {unit}"
