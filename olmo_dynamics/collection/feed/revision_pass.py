"""One chunk's way through one revision, a layer's weights at a time.

>>> run_pass(stream, StreamedPass(config, token_ids, sites={Site.RESIDUAL_OUT}), observe)  # doctest: +SKIP
"""

from __future__ import annotations

from itertools import zip_longest

import numpy as np
import torch

from olmo_dynamics.collection.fetch_plan import Step
from olmo_dynamics.collection.measure import stage_weights, used_again
from olmo_dynamics.collection.prefetch import RevisionStream
from olmo_dynamics.model import Prepared, StreamedPass
from olmo_dynamics.model.stream import Observer


def run_pass(stream: RevisionStream, streamed: StreamedPass, observe: Observer) -> None:
    """Carry the chunk through the stages of a revision's fetch plan; each one's weights are let go of behind it.

    A GPU computes one stage while the next one's weights are copied there, and is waited for then: two stages at most are held.

    Raises:
        CheckpointError: the bytes contradict the headers, or the published hash.
    """
    opened = stream.opened
    again = used_again(opened.fetch_plan)
    kept: dict[str, np.ndarray] = {}

    def prepare(step: Step) -> Prepared:
        assert step.stage is not None
        raw = {info.name: arrived for info, arrived in stream.tensors(step)}
        kept.update((name, arrived) for name, arrived in raw.items() if name in again)
        return streamed.prepare(step.stage, stage_weights(opened.checkpoint, step.stage, kept | raw))

    on_gpu = streamed.residual.device.type == "cuda"
    steps = opened.fetch_plan.steps
    ready: Prepared | None = prepare(steps[0])
    for step, following in zip_longest(steps, steps[1:]):
        assert ready is not None
        streamed.run(ready, observe)
        if not on_gpu:
            ready = None
        ready = prepare(following) if following is not None else None
        if on_gpu:
            torch.cuda.synchronize(streamed.residual.device)
        opened.release([info for info in step.infos if info.name not in again])
