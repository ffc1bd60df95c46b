"""A forward pass that is recorded: one stage's weights in, the records of that stage out.

>>> forward = RecordedPass(config, probe, groups=("activations", "loss"), dtype=torch.bfloat16)  # doctest: +SKIP
>>> for stage in forward.stages:                                                             # doctest: +SKIP
...     records += forward.run(stage, {name: weights[name] for name in stage.tensors})
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from olmo_dynamics.model import ModelConfig, StreamedPass, model_sites, stages
from olmo_dynamics.model.stream import Stage
from olmo_dynamics.names import Record
from olmo_dynamics.probes import Probe
from olmo_dynamics.recorders import ForwardRecorders


class RecordedPass:
    """One revision's way through the probe, stage by stage; `stages` are to be run in order, each once."""

    def __init__(
        self, config: ModelConfig, probe: Probe, *, groups: Collection[str], device: str = "cpu", dtype: torch.dtype
    ) -> None:
        self.stages = stages(config)
        self._recorders = ForwardRecorders(probe, config.layers, groups, available=model_sites(config))
        self._pass = StreamedPass(
            config, torch.tensor(probe.token_ids), device=device, dtype=dtype, sites=self._recorders.sites
        )

    def run(self, stage: Stage, weights: Mapping[str, Tensor]) -> list[Record]:
        """Carry the probe through one stage and give what was recorded there; weights as they were stored."""
        self._pass.run(stage, weights, self._recorders.observe)
        return self._recorders.harvest()
