"""Record while training: the model as it is now, as one more row of a store, in anyone's own loop.

    >>> for step, batch in enumerate(batches, 1):                                               # doctest: +SKIP
    ...     train_on(model, batch)
    ...     if step % 100 == 0:
    ...         record(model, "run.zarr", step=step, record=("parameters",))

The weights are laid in memory as the files that training writes to disk, and `collect` measures those: there is one way to
measure, so a checkpoint of the same step gives the same numbers. Nothing is drawn at random and no gradient is touched.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypedDict, Unpack, runtime_checkable

from safetensors.torch import save
from torch import Tensor, nn

from olmo_dynamics.checkpoints.memory import MemorySource
from olmo_dynamics.collection.conductor import append_revisions
from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import RecordedStore, open_store
from olmo_dynamics.frames.run import Run
from olmo_dynamics.model import LanguageModel, to_config_json
from olmo_dynamics.progress import Silent
from olmo_dynamics.store import Store
from olmo_dynamics.training.checkpoint import checkpoint_name


@runtime_checkable
class FastTokenizer(Protocol):
    """What a tokenizer of transformers is here: it can be written as a tokenizer.json."""

    backend_tokenizer: Any


class Recorded(TypedDict, total=False):
    """Keyword options of `record`: those of `collect`, and what else a checkpoint would bring along.

    `source` names the run in the store; `tokenizer` (a tokenizer.json, its bytes, or one of transformers) reads the probe's
    text, which the built-in probe and `text` need; `probe` is a .npy file of token ids in place of a text.
    """

    source: str
    tokenizer: str | Path | bytes | FastTokenizer | None
    probe: str | Path | None
    record: Collection[str]
    tensors: Sequence[str]
    text: Sequence[str | Path]
    batch: str | tuple[int, int] | None
    device: str
    dtype: str


def record(
    model: nn.Module, store: Store | str | Path, *, step: int, tokens: int | None = None, **options: Unpack[Recorded]
) -> RecordedStore:
    """Measure a model in training into a store, as `collect` would measure its checkpoint; a step already there is left.

    A recording is appended, whatever the store holds: `compact` it when the loop is over, and series are read at once.

    Args:
        model: one of ours, or an OLMo model of transformers; compiled or wrapped for data parallelism as well.
        store: its folder; made if it is not there, continued if it is.
        step: updates made so far.
        tokens: tokens seen so far.
        **options: what is measured, and on which probe: see `Recorded`.

    Raises:
        OptionError: the model is of neither kind.
        ProbeError: the probe is text, and no tokenizer was given.
        StoreMismatchError: the store was made from another run, probe or dtype.
    """
    path = store.path if isinstance(store, Store) else Path(store)
    name = f"step{step}" if tokens is None else checkpoint_name(step, tokens)
    if path.exists() and name in (there := open_store(path)).done:
        return there
    model = _unwrapped(model)
    given: dict[str, Any] = dict(options)
    source, tokenizer = given.pop("source", type(model).__name__), given.pop("tokenizer", None)
    files = model_files(model) | ({} if tokenizer is None else {"tokenizer.json": _tokenizer_json(tokenizer)})
    run = Run(MemorySource({name: files}, source))
    probe = given.pop("probe", None)
    return append_revisions(
        run, revisions=name, out=path, include_quarantined=True, progress=Silent(), tokens=probe, **given
    )


def model_files(model: nn.Module) -> dict[str, bytes]:
    """`config.json` and `model.safetensors` of a live model, as bytes."""
    config, state = _our_files(model) if isinstance(model, LanguageModel) else _their_files(model)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    return {"config.json": json.dumps(config).encode(), "model.safetensors": save(weights, metadata={"format": "pt"})}


def _our_files(model: LanguageModel) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    return to_config_json(model.config, dtype=dtype), model.state_dict()


def _their_files(model: nn.Module) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    """Under the names that transformers writes: a tied head left out, experts apart."""
    config = getattr(model, "config", None)
    if not hasattr(model, "save_pretrained") or config is None:
        raise OptionError(f"record wants a model of ours or an OLMo model of transformers; got {type(model).__name__}")
    from transformers.core_model_loading import revert_weight_conversion

    named: Any = model
    state: dict[str, Tensor] = revert_weight_conversion(named, model.state_dict())
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
        raise OptionError(f"tokenizer wants a tokenizer.json; {tokenizer} is no file, check the path")
    return Path(tokenizer).read_bytes()
