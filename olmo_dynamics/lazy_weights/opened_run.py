"""Every checkpoint of a run as one lazy xarray: an expression reads the bytes that it needs, and no others.

>>> arrays = weights("cache/demo/run")  # doctest: +SKIP
>>> arrays["model.layers.0.mlp.up_proj.weight"].sel(step=1000).std()  # doctest: +SKIP
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import xarray as xr
from xarray.core.indexing import LazilyIndexedArray

from olmo_dynamics.auditing import find_quarantine, recheck
from olmo_dynamics.checkpoints import Checkpoint, Source, select
from olmo_dynamics.errors import (
    CheckpointError,
    OptionError,
    SelectionError,
    UnknownRevisionError,
    counted,
    did_you_mean,
)
from olmo_dynamics.frames.run import Run
from olmo_dynamics.lazy_weights.decoding import READABLE, array_dtype
from olmo_dynamics.lazy_weights.dimensions import dimensions
from olmo_dynamics.lazy_weights.step_index import StepIndex
from olmo_dynamics.lazy_weights.tensor_history import HeldTensor, TensorHistory
from olmo_dynamics.names import Revision
from olmo_dynamics.tensor_names import expert_of, layer_of, role_of

OPENERS = 8
"""Revisions whose headers are fetched at once."""

REVISION = "revision"

_LOG = logging.getLogger(__name__)
_SHOWN = 3


def weights(
    run: Run | Source | str | Path,
    *,
    revisions: str | Collection[str] = "all",
    tensors: str | Collection[str] = (),
    quarantine: str | Path | None = None,
    include_quarantined: bool = False,
) -> xr.Dataset:
    """Every tensor of the selected revisions as a lazy array, whose first axis is `revision`; only headers are read.

    Values are read anew whenever they are used, and only those that an index keeps: whole rows of each revision, since the
    elements of a row are neighbours in a file. bf16, fp16 and fp8 become float32, which is exact.

    Args:
        run: a hub repo id, a folder of revisions, or a `Run`.
        revisions: a selection expression such as `stage1:log24,main`, or a list of its terms.
        tensors: globs of tensor names, or roles such as `q_norm`, as a list or a text with commas; empty means every tensor.
        quarantine: a file of revisions to exclude; unless given, the one that the last audit of this run left.
        include_quarantined: open them all the same.

    Returns:
        A dataset with one variable per tensor. The dimension `revision` has the coordinates `step` (`.sel(step=…)` finds
        one), `tokens`, `line`, `stage`, `ingredient`, `seed` and `commit`; numbers are NaN where a name does not tell them. A
        tensor reads NaN in revisions that lack it, which its attribute `absent` lists, and beyond the end of an axis that is
        shorter in some revisions, which `shorter` lists. Revisions that are excluded or cannot be read are left out, with
        reasons in the attribute `left_out`. `close()` ends the connections.

    Raises:
        SelectionError: the expression cannot be read, matches nothing, or matches only revisions in quarantine.
        OptionError: no tensor matches, or the quarantine cannot be read.
        CheckpointError: none of the revisions can be read.
    """
    source = run.source if isinstance(run, Run) else Run(run).source
    selected = select(source.revisions(), revisions if isinstance(revisions, str) else ",".join(revisions))
    excluded = {} if include_quarantined else _excluded(source, selected, quarantine)
    opened, refused = open_all(source, [each for each in selected if each.name not in excluded])
    left_out = excluded | refused
    if left_out:
        shown = [f"{name} ({reason})" for name, reason in left_out.items()][:_SHOWN]
        more = "; …" if len(left_out) > _SHOWN else ""
        _LOG.warning(
            "%d of %s left out: %s%s", len(left_out), counted(len(selected), "revision"), "; ".join(shown), more
        )
    names = _matching(list(dict.fromkeys(name for each in opened for name in each.tensors)), tensors)
    found = xr.Dataset(_variables(opened, names), _coordinates([each.revision for each in opened]))
    found = found.set_xindex("step", StepIndex)
    found.attrs = {"source": source.name}
    if left_out:
        found.attrs["left_out"] = [f"{name}: {reason}" for name, reason in left_out.items()]
    found.set_close(lambda: _close(opened))
    return found


def open_all(source: Source, revisions: Sequence[Revision]) -> tuple[list[Checkpoint], dict[str, str]]:
    """The checkpoints of revisions with their headers read, several at once, and the reasons of those that are refused.

    Raises:
        OlmoDynamicsError: all are refused, or an error is not about its revision alone.
    """
    with ThreadPoolExecutor(OPENERS, thread_name_prefix="olmo-dynamics-opener") as openers:
        tries = [openers.submit(_open, source, each) for each in revisions]
    errors = {each.name: tried.exception() for each, tried in zip(revisions, tries, strict=True)}
    opened = [tried.result() for tried in tries if tried.exception() is None]
    problems = [each for each in errors.values() if each is not None]
    others = [each for each in problems if not isinstance(each, CheckpointError | UnknownRevisionError)]
    if others or not opened:
        _close(opened)
        raise (others or problems)[0]
    return opened, {name: str(error) for name, error in errors.items() if error is not None}


def _open(source: Source, revision: Revision) -> Checkpoint:
    checkpoint = source.open(revision)
    try:
        _ = checkpoint.tensors
    except BaseException:
        checkpoint.close()
        raise
    return checkpoint


def _close(opened: Sequence[Checkpoint]) -> None:
    for checkpoint in opened:
        checkpoint.close()


def _excluded(source: Source, selected: Sequence[Revision], quarantine: str | Path | None) -> dict[str, str]:
    """The revisions in quarantine, with the reasons."""
    found, _ = recheck(source, find_quarantine(source, quarantine), selected)
    excluded = {each.name: reason for each in selected if (reason := found.reason(each))}
    if len(excluded) == len(selected):
        raise SelectionError(
            f"revisions must name one that is not in quarantine (got {counted(len(selected), 'revision')}, such as "
            f"{selected[0].name}, all in {found.path}); include_quarantined=True opens them"
        )
    return excluded


def _matching(names: Sequence[str], tensors: str | Collection[str]) -> list[str]:
    """The names that match some glob or role; all of them without one."""
    patterns = tensors.replace(",", " ").split() if isinstance(tensors, str) else list(tensors)
    found = [name for name in names if any(fnmatchcase(name, each) or role_of(name) == each for each in patterns)]
    if patterns and not found:
        known = dict.fromkeys((*map(role_of, names), *names))
        raise OptionError(
            f"tensors must be globs or roles that match some of the {len(names)} tensors (got {', '.join(patterns)})"
            f"{did_you_mean(patterns[0], known)}"
        )
    return found if patterns else list(names)


def _variables(opened: Sequence[Checkpoint], names: Sequence[str]) -> dict[str, xr.Variable]:
    histories = {name: history for name in names if (history := _history(opened, name))}
    dims = dimensions({name: history.shape[1:] for name, history in histories.items()})
    return {
        name: xr.Variable((REVISION, *dims[name]), LazilyIndexedArray(history), _notes(opened, name, history))
        for name, history in histories.items()
    }


def _history(opened: Sequence[Checkpoint], name: str) -> TensorHistory | None:
    """A tensor of all revisions; one that has another number of axes than in the first, or cannot be decoded, is missing."""
    readable = {each: info for each in opened if (info := each.tensors.get(name)) and info.dtype in READABLE}
    if not readable:
        return None
    axes = len(next(iter(readable.values())).shape)
    held = [
        HeldTensor(each, readable[each]) if each in readable and len(readable[each].shape) == axes else None
        for each in opened
    ]
    there = [each.info for each in held if each]
    shape = tuple(map(max, *(info.shape for info in there))) if len(there) > 1 else there[0].shape
    complete = len(there) == len(opened) and all(info.shape == shape for info in there)
    dtype = array_dtype([info.dtype for info in there], complete=complete)
    return TensorHistory(held, (len(opened), *shape), dtype)


def _notes(opened: Sequence[Checkpoint], name: str, history: TensorHistory) -> dict[str, object]:
    """The attributes of a tensor's variable: its place in the model, its stored dtypes, and the revisions that differ."""
    held = dict(zip((each.revision.name for each in opened), history.held, strict=True))
    places = {"role": role_of(name), "layer": layer_of(name), "expert": expert_of(name)}
    lists = {
        "absent": [revision for revision, tensor in held.items() if tensor is None],
        "shorter": [revision for revision, tensor in held.items() if tensor and tensor.info.shape != history.shape[1:]],
    }
    stored = "+".join(sorted({tensor.info.dtype for tensor in held.values() if tensor}))
    notes = {"long_name": name, "stored_as": stored, **places, **lists}
    return {key: value for key, value in notes.items() if value not in (None, [])}


def _coordinates(revisions: Sequence[Revision]) -> dict[str, tuple[str, np.ndarray]]:
    found = {
        REVISION: np.array([each.name for each in revisions]),
        **{name: _numbers([getattr(each, name) for each in revisions]) for name in ("step", "tokens", "stage")},
        **{
            name: np.array([getattr(each, name) or "" for each in revisions])
            for name in ("line", "ingredient", "seed", "commit")
        },
    }
    return {name: (REVISION, values) for name, values in found.items()}


def _numbers(values: Sequence[int | None]) -> np.ndarray:
    """Whole numbers, as floats if there are none in places."""
    if None in values:
        return np.array([np.nan if each is None else each for each in values], dtype=np.float64)
    return np.array(values, dtype=np.int64)
