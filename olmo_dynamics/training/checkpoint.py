"""A checkpoint folder: a model that transformers loads, and the state that an exact resume needs.

    step40-tokens81920/
        config.json  model.safetensors  generation_config.json      the model, float32
        tokenizer.json  tokenizer_config.json                       for AutoTokenizer
        training_state/optimizer.safetensors, state.json            moments; counters, recipe, random state (no pickle)
        lineage.json                                                the parent of the run, library versions

It is written in a hidden folder and renamed, so a folder under its final name is complete.

    >>> from tempfile import TemporaryDirectory
    >>> from olmo_dynamics.model import ModelConfig
    >>> from olmo_dynamics.training.state import new_state
    >>> config = ModelConfig(hidden_size=8, layers=1, heads=2, kv_heads=2, head_dim=4, intermediate_size=16, vocab_size=32,
    ...                      max_positions=16, norm_eps=1e-6, rope_theta=5e5)
    >>> recipe = Recipe(steps=10)
    >>> with TemporaryDirectory() as run:
    ...     folder = write_checkpoint(
    ...         Path(run), new_state(config, recipe), recipe=recipe, tokenizer_json=None, lineage={"parent": None}
    ...     )
    ...     state, same = read_checkpoint(folder)
    >>> folder.name, state.step, same == recipe
    ('step0-tokens0', 0, True)
"""

from __future__ import annotations

import base64
import errno
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from olmo_dynamics.errors import CheckpointError, DiskFullError, OptionError, TrainingError
from olmo_dynamics.model import build_model, parse_config, to_config_json
from olmo_dynamics.training.distributed import gather_state
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.spike_skipping import LossHistory
from olmo_dynamics.training.state import TrainState, build_optimizer
from olmo_dynamics.training.trainer import Event

STATE_VERSION = 1
PARTIAL = ".partial"
STATE_FILE = "training_state/state.json"
MOMENTS_FILE = "training_state/optimizer.safetensors"
COUNTERS = ("step", "tokens_seen", "position")
LIBRARIES = ("olmo-dynamics", "numpy", "safetensors", "torch")


def checkpoint_name(step: int, tokens_seen: int) -> str:
    """`step{N}-tokens{T}`, T a plain integer."""
    return f"step{step}-tokens{tokens_seen}"


@dataclass(frozen=True)
class CheckpointWriter:
    """A callback of `train` that writes a checkpoint at each of the recipe's `save_at` steps, unless it exists.

    With `keep`, only that many of the latest stay, and the run's first: an older one is deleted when a new one is complete.
    """

    run: Path
    recipe: Recipe
    tokenizer_json: bytes | None
    lineage: Mapping[str, Any]
    keep: int | None = None

    def __post_init__(self) -> None:
        if self.keep is not None and self.keep < 1:
            raise OptionError(f"keep must be at least 1 (got {self.keep})")

    def __call__(self, event: Event) -> None:
        """Write a checkpoint if its step is due."""
        if event.step in self.recipe.save_at:
            self.write(event.state)

    def write(self, state: TrainState) -> None:
        """Write the current state, unless its folder exists; one of several processes writes, and all must call this."""
        whole = gather_state(state, self.recipe)
        if whole is None:
            return
        if not (self.run / checkpoint_name(state.step, state.tokens_seen)).exists():
            write_checkpoint(
                self.run, whole, recipe=self.recipe, tokenizer_json=self.tokenizer_json, lineage=self.lineage
            )
        if self.keep is not None:
            for folder in written_checkpoints(self.run)[1 : -self.keep]:
                _remove(folder)


def written_checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders of a run that training wrote, in order of their steps."""
    found = (path.parent for path in run.glob("step*-tokens*/lineage.json"))
    return sorted(found, key=lambda folder: int(folder.name.removeprefix("step").partition("-")[0]))


def write_checkpoint(
    run: Path, state: TrainState, *, recipe: Recipe, tokenizer_json: bytes | None, lineage: Mapping[str, Any]
) -> Path:
    """Write `state` as a new folder of `run` and return the folder; without a tokenizer, its files are left out.

    Raises:
        TrainingError: the folder exists.
        DiskFullError: the checkpoint does not fit on the disk.
    """
    folder = run / checkpoint_name(state.step, state.tokens_seen)
    if folder.exists():
        raise TrainingError(f"a new checkpoint needs the name {folder.name}, but {folder} exists: move or delete it")
    config = to_config_json(state.model.config, dtype="float32")
    with _folder_or_nothing(folder) as temporary:
        _write_model(temporary, state, config)
        if tokenizer_json is not None:
            _write_tokenizer(temporary, tokenizer_json, config)
        _write_training_state(temporary / "training_state", state, recipe)
        _write_json(temporary / "lineage.json", {**lineage, "libraries": {name: version(name) for name in LIBRARIES}})
    return folder


def read_checkpoint(folder: Path) -> tuple[TrainState, Recipe]:
    """Read the state and recipe that `write_checkpoint` wrote; training on from them repeats the first run bit for bit.

    Raises:
        CheckpointError: the folder has no training state, one of another version, or a damaged one.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        raise CheckpointError(
            f"resuming needs {path}, which is missing: choose a checkpoint folder that training wrote"
        )
    saved = parse_training_state(path.read_bytes(), str(path))
    model = build_model(parse_config(json.loads((folder / "config.json").read_bytes())), device="cpu")
    model.load_state_dict(_tensors(folder / "model.safetensors"))
    state = TrainState(
        model,
        build_optimizer(model, saved.recipe),
        saved.generator,
        saved.step,
        saved.tokens_seen,
        saved.position,
        saved.loss,
    )
    state.history = saved.history
    _restore_moments(state, _tensors(folder / MOMENTS_FILE))
    return state, saved.recipe


@dataclass(frozen=True)
class SavedState:
    """The contents of `state.json`: the counters, the recipe, the random state, the last loss, and recent losses."""

    step: int
    tokens_seen: int
    position: int
    recipe: Recipe
    generator: torch.Generator
    loss: float  # NaN before the first update
    history: LossHistory


def parse_training_state(text: bytes, path: str) -> SavedState:
    """Parse the contents of `state.json`; `path` names it in errors.

    Raises:
        CheckpointError: the state is of another version.
    """
    saved = json.loads(text)
    if saved["state_version"] != STATE_VERSION:
        raise CheckpointError(
            f"{path} must have state_version {STATE_VERSION} (got {saved['state_version']}): train again"
        )
    generator = torch.Generator()
    generator.set_state(torch.frombuffer(bytearray(base64.b64decode(saved["random_state"])), dtype=torch.uint8))
    step, tokens_seen, position = (int(saved[name]) for name in COUNTERS)
    loss = math.nan if saved["loss"] is None else float(saved["loss"])
    return SavedState(
        step, tokens_seen, position, Recipe.from_json(saved["recipe"]), generator, loss, LossHistory(**saved["history"])
    )


def _write_model(folder: Path, state: TrainState, config: Mapping[str, Any]) -> None:
    special = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", special)
    weights = {name: tensor.detach().float().contiguous() for name, tensor in state.model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _write_tokenizer(folder: Path, tokenizer_json: bytes, config: Mapping[str, Any]) -> None:
    """Write the tokenizer unchanged, and the config by which transformers finds its class and special tokens."""
    (folder / "tokenizer.json").write_bytes(tokenizer_json)
    contents = {token["id"]: token["content"] for token in json.loads(tokenizer_json)["added_tokens"]}
    special = {key: contents.get(config[f"{key}_id"]) for key in ("bos_token", "eos_token", "pad_token")}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
    }
    _write_json(folder / "tokenizer_config.json", {**settings, **{key: text for key, text in special.items() if text}})


def _write_training_state(folder: Path, state: TrainState, recipe: Recipe) -> None:
    """Write moments by parameter name (`{name}.exp_avg`, `{name}.exp_avg_sq`, `{name}.step`), the rest as JSON."""
    folder.mkdir()
    moments = {
        f"{name}.{kind}": tensor
        for name, parameter in state.model.named_parameters()
        for kind, tensor in state.optimizer.state.get(parameter, {}).items()
    }
    save_file(moments, folder / "optimizer.safetensors")
    random_state = base64.b64encode(state.generator.get_state().numpy().tobytes()).decode()
    counters = {name: getattr(state, name) for name in COUNTERS}
    saved = {"state_version": STATE_VERSION, **counters, "loss": None if math.isnan(state.loss) else state.loss}
    saved |= {"recipe": recipe.to_json(), "random_state": random_state, "history": asdict(state.history)}
    _write_json(folder / "state.json", saved)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, FileNotFoundError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}): delete this checkpoint and resume from an earlier one"
        ) from None


def _restore_moments(state: TrainState, moments: Mapping[str, Tensor]) -> None:
    parameters = dict(state.model.named_parameters())
    for key, tensor in moments.items():
        name, _, kind = key.rpartition(".")
        shape = () if kind == "step" else tuple(parameters[name].shape) if name in parameters else None
        if shape != tuple(tensor.shape):
            raise CheckpointError(
                f"{MOMENTS_FILE}: {key} must have the shape {list(shape) if shape is not None else 'of a parameter'} (got "
                f"{list(tensor.shape)}): delete this checkpoint and resume from an earlier one"
            )
        state.optimizer.state[parameters[name]][kind] = tensor.clone()
    for name, parameter in parameters.items() if moments else ():
        if parameter.requires_grad and len(state.optimizer.state[parameter]) != 3:
            raise CheckpointError(
                f"{MOMENTS_FILE}: {name} must have a step and two moments (got "
                f"{sorted(state.optimizer.state[parameter]) or 'none'}): delete this checkpoint and resume from an earlier one"
            )


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _folder_or_nothing(folder: Path) -> Iterator[Path]:
    """A folder under a temporary name that is renamed on success and deleted on failure.

    It lies one level deeper than finished checkpoints, so that listing the run does not find it.
    """
    temporary = folder.parent / PARTIAL / folder.name
    shutil.rmtree(temporary.parent, ignore_errors=True)  # left by a process that was killed
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for path in temporary.rglob("*.*"):
            _reach_disk(path)  # before the rename, in case of a power failure
        temporary.rename(folder)
    except BaseException as error:
        if getattr(error, "errno", None) == errno.ENOSPC or "os error 28" in str(
            error
        ):  # safetensors has only the text
            raise DiskFullError(
                f"no space for {folder}: free some space and run again; finished checkpoints are kept"
            ) from None
        raise
    finally:
        shutil.rmtree(temporary.parent, ignore_errors=True)


def _remove(folder: Path) -> None:
    """Delete a folder, renamed first, so that a half-deleted one is never taken for a checkpoint."""
    aside = folder.parent / PARTIAL / folder.name
    aside.parent.mkdir(exist_ok=True)
    folder.rename(aside)
    shutil.rmtree(aside.parent)


def _reach_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
