"""One walk over one checkpoint, in execution order: every byte is read once, measured, used and dropped.

>>> records = measure(checkpoint, study, advance=print)  # doctest: +SKIP

The weights of one stage (the embedding, a block, the head) are fetched while the stage before is measured, used for the
parameter statistics and for that stage's forward pass, and dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np

from olmo_dynamics.checkpoints import Checkpoint
from olmo_dynamics.collection.recorded_pass import RecordedPass
from olmo_dynamics.collection.study import Study, choose_tensors
from olmo_dynamics.errors import CheckpointError
from olmo_dynamics.model import Compute, check_shapes, parse_config, to_tensor
from olmo_dynamics.names import Record, TensorInfo
from olmo_dynamics.recorders import embedding_records, parameter_records, survey_tensor

_GROUP_BYTES = 128 << 20  # 128 MiB: tensors measured together where no forward pass sets the order
_LOOK_AHEAD = 1  # parts fetched while one is measured
_THREADS = 2


def measure(checkpoint: Checkpoint, study: Study, advance: Callable[[int], None]) -> list[Record]:
    """Measure one checkpoint in one walk over its weights; `advance` is called with the bytes of each part measured.

    Raises:
        ShapeError: this revision's tensors contradict its config.
        CheckpointError: it lacks a tensor, or has one, that the store's first revision did not.
    """
    _check_same_tensors(checkpoint, study)
    wanted = set(study.tensor_names)
    walk = _forward_walk(checkpoint, study) if study.forward else _parameter_walk(checkpoint, wanted)
    records: list[Record] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for infos, raw, run in walk:
            measured = [info for info in infos if info.name in wanted]
            for found in pool.map(partial(_parameter_records, raw=raw, study=study), measured):
                records.extend(found)
            records.extend(run(raw))
            advance(sum(info.nbytes for info in infos))
    return records


_Part = tuple[Sequence[TensorInfo], dict[str, np.ndarray], Callable[[dict[str, np.ndarray]], list[Record]]]


def _parameter_walk(checkpoint: Checkpoint, wanted: set[str]) -> Iterator[_Part]:
    groups = in_groups([info for info in checkpoint.tensors.values() if info.name in wanted])
    for infos, raw in _fetched(checkpoint, groups):
        yield infos, raw, lambda _: []


def in_groups(infos: Sequence[TensorInfo]) -> list[list[TensorInfo]]:
    """Neighbouring tensors of up to 128 MiB together, or one larger tensor alone."""
    groups: list[list[TensorInfo]] = [[]]
    for info in infos:
        if groups[-1] and sum(each.nbytes for each in groups[-1]) + info.nbytes > _GROUP_BYTES:
            groups.append([])
        groups[-1].append(info)
    return groups


def _forward_walk(checkpoint: Checkpoint, study: Study) -> Iterator[_Part]:
    assert study.probe is not None
    config = parse_config(checkpoint.config)
    check_shapes(config, checkpoint.tensors)
    compute = Compute(device=study.measurement.device, dtype=study.compute_dtype)
    forward = RecordedPass(config, study.probe, groups=study.groups, compute=compute)
    ordered = forward.stages
    used = {name for stage in ordered for name in stage.tensors}
    rest = [info for name, info in checkpoint.tensors.items() if name not in used and name in study.tensor_names]
    parts = [[checkpoint.tensors[name] for name in stage.tensors] for stage in ordered]

    def run(index: int, raw: dict[str, np.ndarray]) -> list[Record]:
        if index >= len(ordered):
            return []
        stage = ordered[index]
        weights = {name: to_tensor(raw[name], checkpoint.tensors[name]) for name in stage.tensors}
        return forward.run(stage, weights)

    for index, (infos, raw) in enumerate(_fetched(checkpoint, [*parts, rest])):
        yield infos, raw, partial(run, index)


def _fetched(
    checkpoint: Checkpoint, parts: Sequence[Sequence[TensorInfo]]
) -> Iterator[tuple[Sequence[TensorInfo], dict[str, np.ndarray]]]:
    """Each part's bytes, the next part being fetched while one is in use."""
    pending: deque[tuple[Sequence[TensorInfo], Future[dict[str, np.ndarray]]]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for infos in parts:
            pending.append((infos, pool.submit(checkpoint.read_many, infos)))
            if len(pending) > _LOOK_AHEAD:
                ready, future = pending.popleft()
                yield ready, future.result()
        while pending:
            ready, future = pending.popleft()
            yield ready, future.result()


def _parameter_records(info: TensorInfo, *, raw: dict[str, np.ndarray], study: Study) -> list[Record]:
    """Both parameter groups of one tensor, from one pass over its bytes."""
    is_embedding = "embeddings" in study.groups and info.name in study.layout.axes["embedding"].labels
    if not (is_embedding or "parameters" in study.groups):
        return []
    survey = survey_tensor(raw[info.name], info, column_sums=is_embedding)
    records = parameter_records(survey, info) if "parameters" in study.groups else []
    if is_embedding and study.probe is not None:
        counts = np.bincount(study.probe.token_ids[study.probe.mask], minlength=info.shape[0])
        size = study.probe.tokenizer_size
        records += embedding_records(survey, info, token_counts=counts, tokenizer_size=size)
    return records


def _check_same_tensors(checkpoint: Checkpoint, study: Study) -> None:
    found = {info.name for info in choose_tensors(checkpoint.tensors, study.measurement.tensors)}
    different = sorted(found.symmetric_difference(study.tensor_names))
    if different:
        where = "has" if different[0] in found else "lacks"
        raise CheckpointError(
            f"{checkpoint.revision.name} {where} {different[0]}, unlike the first revision of this store "
            f"({len(different)} tensors differ); collect it into a store of its own"
        )
