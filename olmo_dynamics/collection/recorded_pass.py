"""A forward pass that is recorded: one stage's weights in, the records of that stage out.

>>> forward = RecordedPass(config, probe, groups=("activations", "loss"), compute=Compute(threads=2))  # doctest: +SKIP
>>> for stage in forward.stages:                                                                       # doctest: +SKIP
...     records += forward.run(stage, {name: weights[name] for name in stage.tensors})

Each part of the probe's sequences is recorded by recorders of its own, in the thread that runs it, and merged when the
stage is done, in the order of the parts: the records do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

import torch
from torch import Tensor

from olmo_dynamics.model import Compute, ModelConfig, Prepared, Stage, StreamedPass, model_sites, stages
from olmo_dynamics.names import Record
from olmo_dynamics.probes import Probe
from olmo_dynamics.recorders import ForwardRecorders


class RecordedPass:
    """One revision's way through the probe, stage by stage; `stages` are to be run in order, each once.

    With `until` it stops before that layer: then losses, and what spans all layers, are not recorded.
    """

    def __init__(
        self,
        config: ModelConfig,
        probe: Probe,
        *,
        groups: Collection[str],
        compute: Compute | None = None,
        until: int | None = None,
    ) -> None:
        self.stages = stages(config, until=until)
        self._new_recorders = partial(
            ForwardRecorders, probe, config.layers, groups,
            available=model_sites(config), vocab_size=config.vocab_size,
        )  # fmt: skip
        self._recorders = self._new_recorders()
        token_ids = torch.tensor(probe.token_ids)
        self._pass = StreamedPass(config, token_ids, sites=self._recorders.sites, compute=compute)

    def prepare(self, stage: Stage, weights: Mapping[str, Tensor]) -> Prepared:
        """Weights, as they were stored, made ready for `run_prepared`; may be called ahead, from another thread."""
        return self._pass.prepare(stage, weights)

    def run(self, stage: Stage, weights: Mapping[str, Tensor]) -> list[Record]:
        """Carry the probe through one stage and give what was recorded there; weights as they were stored."""
        return self.run_prepared(self.prepare(stage, weights))

    def run_prepared(self, prepared: Prepared) -> list[Record]:
        """The same for weights that were made ready."""
        of_parts = [self._new_recorders() for _ in self._pass.parts]
        self._pass.run(prepared, lambda seen: of_parts[seen.part].observe(seen))
        for recorders in of_parts:
            self._recorders.merge(recorders)
        return self._recorders.harvest()
