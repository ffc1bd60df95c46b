"""Record a live model: the model as it is now, as one more row of a store, in anyone's own training loop.

    >>> for step in range(1, 1001):  # after each update of your own loop                       # doctest: +SKIP
    ...     if step % 100 == 0:
    ...         record(model, "run.zarr", step=step, record=("parameters",))

The weights are laid in memory as the files that training writes to disk, and `collect` measures those: there is one way to
measure, so a checkpoint of the same step gives the same numbers (OLMoE: to float32 rounding). Nothing is drawn at random and
no gradient is touched.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypedDict, Unpack, runtime_checkable

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from olmo_dynamics.checkpoints.catalog.positions import Origin
from olmo_dynamics.checkpoints.formats.written_state import WRITTEN_FILE
from olmo_dynamics.checkpoints.memory import MemorySource
from olmo_dynamics.collection.collector import append_revisions
from olmo_dynamics.collection.options import CollectOptions
from olmo_dynamics.collection.setup.revision_state import GROUPS_FILE
from olmo_dynamics.errors import OptionError, did_you_mean
from olmo_dynamics.files import Place, as_place, is_there
from olmo_dynamics.model import LanguageModel, to_config_json
from olmo_dynamics.progress import Progress
from olmo_dynamics.recorders.lookup import Recordable, built_in_groups
from olmo_dynamics.store import Store
from olmo_dynamics.training.checkpoint import checkpoint_name
from olmo_dynamics.training.sharded import from_first_process, is_first, is_sharded, whole_tensors


@runtime_checkable
class FastTokenizer(Protocol):
    """A fast tokenizer of transformers: it can be written as a tokenizer.json."""

    backend_tokenizer: Any


class LiveOptions(TypedDict, total=False):
    """Keyword options of `record`: those of `collect`, and what else a checkpoint would bring along.

    `source` names the run in the store; `parent` is the checkpoint from which it was forked, as `SOURCE@REVISION`;
    `optimizer` is the model's own, whose state the group `optimizer` reads;
    `tokenizer` (a tokenizer.json, its bytes, or one of transformers) reads the probe's text, which the built-in probe and
    `text` need; `probe` is a .npy file of token ids in place of a text.
    """

    source: str
    parent: str
    optimizer: Optimizer | None
    tokenizer: str | Path | bytes | FastTokenizer | None
    probe: str | Path | None
    record: Collection[Recordable] | str
    tensors: Collection[str] | str
    sketch_size: int | None
    counts: str | Path | None
    tasks: Collection[str | Path] | str | Path | None
    text: Collection[str | Path] | str | Path
    batch: str | tuple[int, int] | None
    device: str
    dtype: str


def record(
    model: nn.Module,
    store: Store | str | Place,
    *,
    step: int,
    tokens: int | None = None,
    **options: Unpack[LiveOptions],
) -> Store:
    """Measure a live model into a store, which is left to be compacted; `olmo_dynamics.record` tells the options.

    Raises:
        OlmoDynamicsError: those of `olmo_dynamics.record`.
    """
    path = store.path if isinstance(store, Store) else as_place(store)
    name = f"step{step}" if tokens is None else checkpoint_name(step, tokens)
    model, given = _unwrapped(model), dict(options)
    if not is_sharded(model):
        return Store.open(path) if _holds(path, name) else _append(path, name, _files(model, given), model, given)
    if not from_first_process(lambda: _holds(path, name)):
        files = _files(model, given)  # of all processes together
        from_first_process(lambda: _append(path, name, files, model, given).path)
    return Store.open(path)


def due_groups(every: Mapping[str, int], step: int) -> list[str]:
    """The groups whose interval divides the step; a step at which none is due costs this call alone.

        >>> due_groups({"parameters": 10, "activations": 100}, 110)
        ['parameters']

    Raises:
        OptionError: a group is unknown, or an interval is below 1.
    """
    for name, interval in every.items():
        if name not in _known_groups():
            known = _known_groups()
            raise OptionError(f"every must name groups (got {name!r}){did_you_mean(name, known)}")
        if interval < 1:
            raise OptionError(f"every must hold intervals of at least 1 step (got {interval} for {name})")
    return [name for name, interval in every.items() if step % interval == 0]


@cache
def _known_groups() -> tuple[str, ...]:
    return tuple(built_in_groups())


def _holds(path: Place, name: str) -> bool:
    return is_there(path) and name in Store.open(path).done


def _files(model: nn.Module, given: Mapping[str, Any]) -> dict[str, bytes]:
    """The files of a checkpoint of the model, with its tokenizer, and its optimiser's state if a group reads it."""
    tokenizer, optimizer = given.get("tokenizer"), given.get("optimizer")
    files = model_files(model) | ({} if tokenizer is None else {"tokenizer.json": _tokenizer_json(tokenizer)})
    chosen = CollectOptions(**{name: given[name] for name in ("record", "counts", "tasks") if name in given})
    if chosen.reads_state and (chosen.asked or optimizer is not None):
        files |= state_files(model, optimizer)
    return files


def _append(path: Place, name: str, files: dict[str, bytes], model: nn.Module, given: Mapping[str, Any]) -> Store:
    """Measure the files of a checkpoint into the store, as those of a revision of this name."""
    source = given.get("source", type(model).__name__.removeprefix("FSDP"))  # a sharded model's class is renamed
    others = {key: given[key] for key in given if key not in ("source", "parent", "tokenizer", "optimizer", "probe")}
    return append_revisions(
        MemorySource({name: files}, source, origin=_origin(given.get("parent", ""))),
        revisions=name,
        out=path,
        include_quarantined=True,
        progress=Progress(),
        tokens=given.get("probe"),
        **others,
    )


def _origin(parent: str) -> Origin | None:
    source, at, revision = parent.rpartition("@")
    return Origin.of(source, revision) if at else None


def model_files(model: nn.Module) -> dict[str, bytes]:
    """`config.json` and `model.safetensors` of a live model, as bytes."""
    config, state = _our_files(model) if isinstance(model, LanguageModel) else _their_files(model)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    return {"config.json": json.dumps(config).encode(), "model.safetensors": save(weights, metadata={"format": "pt"})}


def state_files(model: nn.Module, optimizer: Optimizer | None) -> dict[str, bytes]:
    """The optimiser's state as bytes, under the names of the files that training writes, and its groups' hyper-parameters.

    Raises:
        OptionError: no optimiser was given.
    """
    if optimizer is None:
        raise OptionError("record must be given the optimiser whose state it is to measure; add optimizer=...")
    names = {parameter: name for name, parameter in model.named_parameters()}
    tensors: dict[str, Tensor] = {}
    groups = []
    for group in optimizer.param_groups:
        chosen = [each for each in group["params"] if each in names]
        states = [_whole_state(optimizer.state[each]) for each in chosen]
        found = [_named_state(model, names[each], state) for each, state in zip(chosen, states, strict=True)]
        tensors |= {name: tensor for each in found for name, tensor in each.items()}
        of_group = sorted({name.rpartition(".")[0] for each in found for name in each})
        settings = {key: value for key, value in group.items() if key != "params" and _is_setting(value)}
        groups.append({**settings, "params": of_group})
    described = {"optimizer": type(optimizer).__name__, "groups": groups}
    plain = json.dumps(described, default=lambda number: number.item())
    return {WRITTEN_FILE: save(tensors), GROUPS_FILE: plain.encode()}


def _whole_state(kinds: Mapping[str, Any]) -> dict[str, Any]:
    """One parameter's state; if it is sharded it is gathered, and processes other than the first keep nothing of it."""
    tensors = {kind: value for kind, value in kinds.items() if hasattr(value, "full_tensor")}
    gathered = whole_tensors(tensors)
    return {**kinds, **gathered} if is_first() or not tensors else {}


def _named_state(model: nn.Module, name: str, kinds: Mapping[str, Any]) -> dict[str, Tensor]:
    """One parameter's state by canonical name and kind; stacked experts are taken apart, and share their step."""
    named: dict[str, Tensor] = {}
    for kind, value in kinds.items():
        if isinstance(value, Tensor) and value.ndim:
            named |= {f"{each}.{kind}": some for each, some in _canonical(model, {name: value}).items()}
    held = {key: tensor.detach().cpu().contiguous() for key, tensor in named.items()}
    if "step" in kinds:
        steps = {key.rpartition(".")[0] for key in named}
        held |= {f"{each}.step": torch.tensor(float(kinds["step"])) for each in steps}
    return held


def _is_setting(value: object) -> bool:
    """True for the numbers of a group, and pairs of them."""
    numbers = value if isinstance(value, tuple | list) else [value]
    return all(isinstance(each, int | float) or (isinstance(each, Tensor) and each.ndim == 0) for each in numbers)


def _canonical(model: nn.Module, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Tensors by the names that a checkpoint of the model has."""
    if isinstance(model, LanguageModel):
        return tensors
    from transformers.core_model_loading import revert_weight_conversion

    named: Any = model
    found: dict[str, Tensor] = revert_weight_conversion(named, dict(tensors))
    return found


def _our_files(model: LanguageModel) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    return to_config_json(model.config, dtype=dtype), _state(model)


def _state(model: nn.Module) -> Mapping[str, Tensor]:
    """The model's tensors; those of a sharded one gathered, and none of them in processes other than the first."""
    return whole_tensors(model.state_dict()) if is_sharded(model) else model.state_dict()


def _their_files(model: nn.Module) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    """Under the names that transformers writes: a tied head left out, experts apart."""
    config = getattr(model, "config", None)
    if not hasattr(model, "save_pretrained") or config is None:
        raise OptionError(
            f"record must be given a model of this package, or an OLMo model of transformers (got {type(model).__name__})"
        )
    state = dict(_canonical(model, _state(model)))
    if config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    return json.loads(config.to_json_string()), state


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model within `torch.compile` and `DistributedDataParallel`."""
    while True:
        inner = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _tokenizer_json(tokenizer: str | Path | bytes | FastTokenizer) -> bytes:
    if isinstance(tokenizer, bytes):
        return tokenizer
    if isinstance(tokenizer, FastTokenizer):
        return str(tokenizer.backend_tokenizer.to_str()).encode()
    if not Path(tokenizer).is_file():
        raise OptionError(f"tokenizer must be a tokenizer.json file (got {tokenizer}); check the path")
    return Path(tokenizer).read_bytes()
