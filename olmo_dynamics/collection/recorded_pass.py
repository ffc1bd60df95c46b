"""A forward pass that is recorded: one stage's weights in, the records of that stage out.

>>> forward = RecordedPass(config, probe, recorders, compute=Compute(threads=2))  # doctest: +SKIP
>>> for stage in forward.stages:                                                  # doctest: +SKIP
...     records += forward.run(stage, {name: weights[name] for name in stage.tensors})

Each part of the probe's sequences is recorded by recorders of its own, in the thread that runs it, and merged when the
stage is done, in the order of the parts: the records do not depend on the number of threads. Recorders that bring a probe of
their own get a pass of their own, stage by stage beside the main one, so that no weight is read twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from olmo_dynamics.model import Compute, ModelConfig, Prepared, SiteValues, Stage, StreamedPass, model_sites, stages
from olmo_dynamics.probes.tokenizer import ProbeTokenizer
from olmo_dynamics.quantities.declaration import Reads, Record
from olmo_dynamics.recorders import Context, Observation, ProbeTokens, Recorder, RecorderSet
from olmo_dynamics.recorders.facts import own_probe
from olmo_dynamics.recorders.kernels.token_codes import TokenRows


def pass_context(
    config: ModelConfig, probe: ProbeTokens | None, until: int | None, tokenizer: ProbeTokenizer | None = None
) -> Context:
    """The facts that recorders are told of a pass through all blocks, or `until` of them."""
    whole = until is None
    layers = config.layers if until is None else min(until, config.layers)
    return Context(config, probe, model_sites(config), layers, whole, tokenizer=tokenizer)


class Masks:
    """The mask of a probe, and the rows of real tokens, for each piece of the probe that goes through a stage at once."""

    def __init__(self, mask: Bool[np.ndarray, "sequences positions"]) -> None:
        self._mask = mask
        self._pieces: dict[tuple[int, int, int, int], tuple[Bool[np.ndarray, "batch positions"], TokenRows]] = {}

    def of(self, rows: slice, positions: slice) -> tuple[Bool[np.ndarray, "batch positions"], TokenRows]:
        """Those of some sequences and positions, which are found once."""
        piece = rows.start, rows.stop, positions.start, positions.stop
        if piece not in self._pieces:
            mask = self._mask[rows, positions]
            self._pieces[piece] = mask, TokenRows.of(mask, positions.start)
        return self._pieces[piece]


def observation(seen: SiteValues, masks: Masks, reads: Reads = Reads.ACTIVATIONS) -> Observation:
    """The values at a site, as recorders are shown them; `masks` are those of the whole probe."""
    beside = dict(seen.beside)
    mask, token_rows = masks.of(seen.rows, seen.positions)
    return Observation(
        values=seen.values,
        reads=reads,
        site=seen.site,
        layer=seen.layer,
        rows=seen.rows,
        positions=seen.positions,
        columns=seen.columns,
        mask=mask,
        window=beside.pop("window", None),
        beside=beside,
        token_rows=token_rows,
    )


class RecordedPass:
    """One revision's way through the probe, stage by stage; `stages` are to be run in order, each once.

    With `until` it stops before that layer: then losses, and what spans all layers, are not recorded.
    """

    def __init__(
        self,
        config: ModelConfig,
        probe: ProbeTokens | None,
        recorders: Sequence[Recorder],
        *,
        groups: Collection[str] | None = None,
        compute: Compute | None = None,
        until: int | None = None,
        tokenizer: ProbeTokenizer | None = None,
    ) -> None:
        self.stages = stages(config, until=until)
        self._merging: Future[list[Record]] | None = None  # of the stage before
        context = pass_context(config, probe, until, tokenizer)
        of_forward = [each for each in recorders if each.reads is Reads.ACTIVATIONS]
        self._passes = [
            _ProbePass(RecorderSet(some, replace(context, probe=tokens), groups), compute)
            for tokens, some in _by_probe(of_forward, probe, context)
        ]

    def prepare(self, stage: Stage, weights: Mapping[str, Tensor]) -> Prepared:
        """Weights, as they were stored, made ready for `run_prepared`; may be called ahead, from another thread."""
        return self._passes[0].streamed.prepare(stage, weights)

    def run(self, stage: Stage, weights: Mapping[str, Tensor]) -> list[Record]:
        """Carry the probe through one stage and give what was recorded there; weights as they were stored."""
        return self.run_prepared(self.prepare(stage, weights))

    def run_prepared(self, prepared: Prepared, beside: Executor | None = None) -> list[Record]:
        """The same for weights that were made ready.

        With `beside`, what the parts of a stage saw is merged there while the next stage runs, where a core would idle between
        them. Its records come with those of the next stage; the last one gives all that are left.
        """
        merges = [each.run(prepared) for each in self._passes]
        records = self._merging.result() if self._merging else []
        self._merging = None
        if prepared.stage == self.stages[-1]:
            records = [*records, *_gathered(merges)]
            return records + [record for each in self._passes for record in each.recorders.finish()]
        if beside is None or self.looks_back:
            return [*records, *_gathered(merges)]
        self._merging = beside.submit(_gathered, merges)
        return records

    @property
    def looks_back(self) -> bool:
        """True if a recorder reads at a stage what it has of the stages before."""
        return any(each.recorders.looks_back for each in self._passes)


class _ProbePass:
    """One probe's way through the model, and the recorders that watch it."""

    def __init__(self, recorders: RecorderSet, compute: Compute | None) -> None:
        self.recorders = recorders
        config, probe = recorders.context.config, recorders.context.probe
        assert config is not None
        assert probe is not None
        self._masks = Masks(probe.mask.copy())  # torch warns of arrays that cannot be written
        token_ids = torch.tensor(probe.token_ids)
        self.streamed = StreamedPass(config, token_ids, sites=recorders.sites, compute=compute)

    def run(self, prepared: Prepared) -> Callable[[], list[Record]]:
        of_parts = [self.recorders.fresh() for _ in self.streamed.parts]
        self.streamed.run(prepared, lambda seen: of_parts[seen.part].observe(observation(seen, self._masks)))
        return partial(self._merge, of_parts, prepared.stage.layer)

    def _merge(self, of_parts: list[RecorderSet], layer: int) -> list[Record]:
        while of_parts:
            self.recorders.merge(of_parts.pop(0))
        return self.recorders.finish_layer(layer)


def _gathered(merges: Iterable[Callable[[], list[Record]]]) -> list[Record]:
    return [record for merge in merges for record in merge()]


def _by_probe(
    recorders: Iterable[Recorder], main: ProbeTokens | None, context: Context
) -> list[tuple[ProbeTokens, list[Recorder]]]:
    """The main probe with the recorders that read it, then each recorder with a probe of its own."""
    of_main: list[Recorder] = []
    others: list[tuple[ProbeTokens, list[Recorder]]] = []
    for recorder in recorders:
        own = own_probe(recorder.start(context))
        if own is None:
            of_main.append(recorder)
        else:
            others.append((own, [recorder]))
    return [(main, of_main), *others] if main is not None and (of_main or not others) else others
