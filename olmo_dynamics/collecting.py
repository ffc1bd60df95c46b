"""Collect, plan, record and stream activations as users call them: a run goes in by any of its names.

>>> store = collect("cache/demo/run", out="cache/demo/store.zarr")  # doctest: +SKIP
>>> store.table("parameters")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Unpack, overload

from torch import nn

from olmo_dynamics import collection
from olmo_dynamics.checkpoints import Checkpoint, Source
from olmo_dynamics.collection import CollectKeywords, LiveOptions, Plan
from olmo_dynamics.collection.feed import ActivationFeed, FeedKeywords, FeedOptions
from olmo_dynamics.collection.landscape import path_losses, path_shares
from olmo_dynamics.collection.live import due_groups
from olmo_dynamics.collection.options import ProbeKeywords
from olmo_dynamics.collection.several import append_runs, require_runs
from olmo_dynamics.errors import OptionError
from olmo_dynamics.files import Place
from olmo_dynamics.frames import RecordedStore, open_store
from olmo_dynamics.frames.landscape.interpolated import LossCurve, interpolation_table
from olmo_dynamics.frames.run import Run
from olmo_dynamics.names import Revision, Site
from olmo_dynamics.progress import Progress, StepBar
from olmo_dynamics.store import Store
from olmo_dynamics.store.several.run_folder import RunFolder

AnyRun = Run | Source | str | Path
AnyRevision = str | int | Revision


def collect(
    run: AnyRun | Sequence[AnyRun],
    *,
    revisions: str | Collection[str] = "all",
    out: str | Place,
    quarantine: str | Path | None = None,
    include_quarantined: bool = False,
    progress: Progress | None = None,
    **options: Unpack[CollectKeywords],
) -> RecordedStore:
    """Measure every selected revision into one store; revisions that are there already are not measured again.

    A group that the store lacks is added to it, and measured for the revisions that are there already as well. Quantities
    that a group of the store lacks are named, and added with `back_fill`.

    Several runs go into one folder, each with its own config into a store of its own, and are returned as `join` views them.
    A run that fails does not end the others. Run again, it continues; further runs may be added.

    Args:
        run: a hub repo id, a folder of revisions, or a `Run`; or a list of them.
        revisions: a selection expression such as `stage1:log24,main`, or a list of its terms.
        out: the store's folder; made if it is not there, continued if it is.
        quarantine: a file of revisions to exclude; unless given, the one that the last audit of this run left.
        include_quarantined: measure them all the same.
        progress: is told how far the collection is; a bar on stderr unless given (`Progress()` for none).
        **options: the measurements, see `CollectOptions`, and their limits, see `Limits`.

    Raises:
        SelectionError: the expression cannot be read, or matches nothing.
        OptionError: an option is unknown, or its value cannot be used.
        StoreMismatchError: the store was made from another run, probe or dtype.
        CheckpointError: some revisions contradict themselves or do not fit the store; all others have been measured.
        EngineError: there is no such cluster, or its workers cannot measure the run.
        SourceError: of several runs, some could not be measured wholly; all others have been.
    """
    several = [run] if isinstance(run, Run | Source | str | Path) else list(run)
    if not isinstance(run, Run | Source | str | Path) or RunFolder(out).exists:
        names = [name_of(each) for each in several]
        require_runs(names)
        append_runs(
            {name: partial(_source, each) for name, each in zip(names, several, strict=True)},
            revisions=revisions,
            out=out,
            quarantine=quarantine,
            include_quarantined=include_quarantined,
            progress=progress,
            **options,
        )
        return open_store(out)
    store = collection.append_revisions(
        _source(run),
        revisions=revisions,
        out=out,
        quarantine=quarantine,
        include_quarantined=include_quarantined,
        progress=progress,
        **options,
    )
    collection.compact(store)
    return open_store(out)


def plan(
    run: Run | Source | str | Path,
    *,
    revisions: str | Collection[str] = "all",
    out: str | Place | None = None,
    rate: float | str | None = None,
    quarantine: str | Path | None = None,
    include_quarantined: bool = False,
    **options: Unpack[CollectKeywords],
) -> Plan:
    """Estimate what `collect` with the same arguments would cost, from one revision's headers and this machine's speed.

    `rate` is in bytes per second, 100 MB/s unless given; "measured" reads at most 8 MiB of one tensor to find it out.

    Raises:
        SelectionError: the expression cannot be read, or matches nothing.
        OptionError: the rate is not positive, or an option is unknown.
    """
    return collection.plan(
        _source(run),
        revisions=revisions,
        out=out,
        rate=rate,
        quarantine=quarantine,
        include_quarantined=include_quarantined,
        **options,
    )


@overload
def record(
    model: nn.Module,
    store: Store | str | Place,
    *,
    step: int,
    tokens: int | None = None,
    **options: Unpack[LiveOptions],
) -> RecordedStore: ...


@overload
def record(
    model: nn.Module,
    store: Store | str | Place,
    *,
    step: int,
    tokens: int | None = None,
    every: Mapping[str, int],
    **options: Unpack[LiveOptions],
) -> RecordedStore | None: ...


def record(
    model: nn.Module,
    store: Store | str | Place,
    *,
    step: int,
    tokens: int | None = None,
    every: Mapping[str, int] | None = None,
    **options: Unpack[LiveOptions],
) -> RecordedStore | None:
    """Measure a model in training into a store, as `collect` would measure its checkpoint; a step already there is left.

    A recording is appended, whatever the store holds: `compact` it when the loop is over, and series are read at once. Of a model
    that FSDP2 shards, every process must call this: the weights are gathered, and the first process measures and writes.

    Args:
        model: a model of this package, or an OLMo model of transformers; compiled, sharded, or wrapped for data parallelism as
            well.
        store: its folder, which all processes must see; made if it is not there, continued if it is.
        step: updates made so far.
        tokens: tokens seen so far.
        every: in place of `record`, the steps between two recordings of each group: `{"parameters": 10, "activations": 100}`. At
            a step at which none is due, nothing is done and None is returned.
        **options: the measurements, and the probe: see `LiveOptions`.

    Raises:
        OptionError: the model is of neither kind, or an option is unknown.
        ProbeError: the probe is text, and no tokenizer was given.
        StoreMismatchError: the store was made from another run, probe or dtype.
    """
    if every is not None:
        if "record" in options:
            raise OptionError("give every or record, since every names the groups")
        options["record"] = due_groups(every, step)
        if not options["record"]:
            return None
    return open_store(collection.record(model, store, step=step, tokens=tokens, **options).path)


def stream_activations(
    run: Run | Source | str | Path,
    *,
    revisions: str | Collection[str] = "all",
    site: Site | str = Site.RESIDUAL_OUT,
    layer: int | Sequence[int] | None = None,
    **options: Unpack[FeedKeywords],
) -> ActivationFeed:
    """Iterate over batches of activations of the same tokens in several revisions, for sparse autoencoders and probes.

    Each batch has `activations` [revision, token, feature]. Nothing is written, and two layers' weights are held at a time. A
    chunk of the text passes through one revision after another, so weights are read once per revision and chunk; `chunk_memory`
    sets its size, and `print(feed)` tells how often that is.

    Args:
        run: a hub repo id, a folder of revisions, a native checkpoint store, or a `Run`.
        revisions: a selection expression such as `stage1:log24,main`, or a list of its terms. They come in training order.
        site: a place in the model, such as `residual_out`; see `Site`.
        layer: a layer, counted from 0, or a list of them, which gives activations a layer axis; none outside the blocks.
        **options: the text, the size of batches and chunks, and the device: see `FeedOptions`.

    Raises:
        SelectionError: the expression cannot be read or matches nothing, or a revision that it names is in quarantine.
        OptionError: the model has no such site or layer, or an option is unknown or cannot be used.
        ProbeError: the text cannot be read, or there is no tokenizer to read it with.
        CheckpointError: a revision cannot be read, or differs from the first at the site; the message names it.
    """
    return ActivationFeed(_source(run), revisions, site=site, layer=layer, options=FeedOptions.of(options))


def interpolate(
    run: AnyRun | tuple[AnyRun, AnyRevision],
    first: AnyRevision | tuple[AnyRun, AnyRevision],
    second: AnyRevision | None = None,
    *,
    points: int | Sequence[float] = 11,
    progress: Progress | None = None,
    **options: Unpack[ProbeKeywords],
) -> LossCurve:
    """Measure the loss of a probe along the line between the weights of two revisions, of one run or of two.

    `interpolate(run, "step100", "step900")`, or `interpolate((parent, -1), (fork, -1))`. The weights at a share a of the way are
    (1 - a) θ₁ + a θ₂ in float32; both checkpoints are streamed once, stage by stage, with one forward pass per point beside
    each other. `frames.barriers` gives the barrier of the line, and `plots.interpolation` draws it. Only checkpoints that have a
    part of their training in common are expected to have a low barrier (Frankle et al. 2020, arXiv:1912.05671).

    Args:
        run: the run of both revisions, or a pair of a run and a revision.
        first: the revision at share 0, by name, place or `Revision`; or the pair at share 1.
        second: the revision at share 1, unless pairs are given.
        points: evenly spaced points with both ends, or shares from 0 to 1; both ends are added.
        progress: is told how far it is; a bar on stderr unless given (`Progress()` for none).
        **options: `text`, `tokens`, `tokens_dtype`, `tokenizer`, `batch`, `device`, `dtype`, `threads`, as `collect` takes them.

    Returns:
        One row per share and domain, and of the mean over all tokens (domain `all tokens`): `start`, `end`, `share`, `domain`,
        `cross_entropy` (nats per token), `bits_per_byte`, `scored_tokens`.

    Raises:
        UnknownRevisionError: there is no such revision.
        CheckpointError: a checkpoint cannot be read, or the two are not of one model.
        OptionError: an option is unknown or cannot be used.
        ProbeError: the text cannot be read, or there is no tokenizer to read it with.
    """
    shares, (mine, theirs) = path_shares(points), _endpoints(run, first, second)
    with mine.open() as one, theirs.open() as other, progress or StepBar() as shown:
        found = path_losses(one, other, shares, options, shown)
        names = (one.revision.name, other.revision.name) if one.source == other.source else (one.label, other.label)
        shown.finish(f"{names[0]} → {names[1]}")
    return interpolation_table(*names, found)


class _Endpoint(NamedTuple):
    """A revision of a run."""

    run: Run
    revision: AnyRevision

    def open(self) -> Checkpoint:
        return self.run.open(self.revision)


def _endpoints(
    run: AnyRun | tuple[AnyRun, AnyRevision],
    first: AnyRevision | tuple[AnyRun, AnyRevision],
    second: AnyRevision | None,
) -> tuple[_Endpoint, _Endpoint]:
    if not isinstance(run, tuple) and not isinstance(first, tuple) and second is not None:
        opened = run if isinstance(run, Run) else Run(run)
        return _Endpoint(opened, first), _Endpoint(opened, second)
    if isinstance(run, tuple) and isinstance(first, tuple) and second is None:
        pairs = [(each if isinstance(each, Run) else Run(each), revision) for each, revision in (run, first)]
        return _Endpoint(*pairs[0]), _Endpoint(*pairs[1])
    raise OptionError('write interpolate(run, "step0", "step100"), or interpolate((a, "step0"), (b, "step0"))')


def name_of(run: AnyRun) -> str:
    """The name of a run's source; a folder's whole path, so that it is the same from any working directory."""
    name = run.name if isinstance(run, Run | Source) else str(run)
    place = Path(name).expanduser()
    return str(place.resolve()) if place.is_dir() else name


def _source(run: AnyRun) -> Source:
    return run.source if isinstance(run, Run) else Run(run).source
