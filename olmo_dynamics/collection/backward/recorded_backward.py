"""A backward pass that is recorded: stages forward, keeping the stream between layers, and then back.

>>> backward = RecordedBackward(config, probe, recorders, infos)         # doctest: +SKIP
>>> for stage in stages(config):                                         # doctest: +SKIP
...     records += backward.run(backward.prepare(stage, weights(stage)))
>>> for stage in stages_back(config):                                    # doctest: +SKIP
...     records += backward.run_back(backward.prepare(stage, weights(stage)))

Windows go back one after another, so the order of the observations does not depend on the number of threads, and records
do so by the rounding of float32 alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from olmo_dynamics.collection.recorded_pass import Masks, observation, pass_context
from olmo_dynamics.model import Compute, ModelConfig, Prepared, SiteValues, Stage, expected_shapes
from olmo_dynamics.model.backward import BackwardPass, GradientObserver, TensorGradient, stages_back
from olmo_dynamics.model.stream import HEAD
from olmo_dynamics.names import TensorInfo
from olmo_dynamics.quantities.declaration import Reads, Record
from olmo_dynamics.recorders import Observation, ProbeTokens, Recorder, RecorderSet


class RecordedBackward:
    """One revision's gradients: `run` for every stage in order, then `run_back` for those of `stages_back(config)`."""

    def __init__(
        self,
        config: ModelConfig,
        probe: ProbeTokens,
        recorders: Sequence[Recorder],
        tensors: Sequence[TensorInfo],
        *,
        groups: Collection[str] | None = None,
        compute: Compute | None = None,
    ) -> None:
        self._recorders = RecorderSet(recorders, pass_context(config, probe, None), groups, {Reads.GRADIENTS})
        self._masks = Masks(probe.mask.copy())
        scored = torch.zeros(probe.token_ids.shape, dtype=torch.bool)
        scored[:, :-1] = torch.tensor(probe.mask[:, :-1] & probe.mask[:, 1:])
        there = expected_shapes(config)
        read = [info.name for info in tensors if info.name in there and any(each.selects(info) for each in recorders)]
        self._passed = BackwardPass(
            config, torch.tensor(probe.token_ids), scored, sites=self._recorders.sites, tensors=read, compute=compute
        )
        self._last = stages_back(config)[-1]
        self._observer = GradientObserver(self._observe_tensor, self._observe_site)

    def prepare(self, stage: Stage, weights: Mapping[str, Tensor]) -> Prepared:
        """Weights, as they were stored, made ready; may be called ahead, from another thread."""
        return self._passed.prepare(stage, weights)

    def run(self, prepared: Prepared) -> None:
        """Carry the probe through one stage; at the head, the way back begins."""
        if prepared.stage.name == HEAD:
            self._passed.run_head(prepared, self._observer)
        else:
            self._passed.run_forward(prepared)

    def run_back(self, prepared: Prepared) -> list[Record]:
        """Take the gradient back through one stage, and give what was recorded there."""
        self._passed.run_back(prepared, self._observer)
        records = self._recorders.finish_layer(prepared.stage.layer)
        return [*records, *self._recorders.finish()] if prepared.stage == self._last else records

    def _observe_tensor(self, seen: TensorGradient) -> None:
        values = seen.values
        info = TensorInfo(seen.name, "F32", tuple(values.shape), "", 0, values.numel() * values.element_size())
        self._recorders.observe(
            Observation(
                values=values,
                reads=Reads.GRADIENTS,
                layer=info.layer,
                tensor=info,
                rows=seen.rows,
                columns=seen.columns,
            )
        )

    def _observe_site(self, seen: SiteValues) -> None:
        self._recorders.observe(observation(seen, self._masks, Reads.GRADIENTS))
