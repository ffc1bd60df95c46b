"""A checkpoint folder: a model that transformers loads, and the state that an exact resume needs.

    step40-tokens81920/
        config.json  model.safetensors  generation_config.json      the model, float32
        tokenizer.json  tokenizer_config.json                       for AutoTokenizer
        training_state/optimizer.safetensors, state.json            moments; counters, recipe, random state (no pickle)
        training_state/SHA256SUMS                                   the hashes of all files
        lineage.json                                                the parent of the run, library versions

It is written in a hidden folder, flushed to the disk and renamed, so a folder under its final name is complete, after a power
cut too.

    >>> from tempfile import TemporaryDirectory
    >>> from olmo_dynamics.model import ModelConfig
    >>> from olmo_dynamics.training.checkpoint_reader import read_checkpoint
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

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from olmo_dynamics.checkpoints.file_hashes import SUMS_FILE, format_sums
from olmo_dynamics.checkpoints.identity import LINEAGE_FILE
from olmo_dynamics.errors import DiskFullError, OptionError, TrainingError
from olmo_dynamics.files import sync_folder
from olmo_dynamics.model import family_of, published_config, to_config_json
from olmo_dynamics.training.distributed import gather_state
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.saved_state import MOMENTS_FILE, STATE_FILE, SavedState, format_training_state
from olmo_dynamics.training.state import TrainState
from olmo_dynamics.training.trainer import Event

PARTIAL = ".partial"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
LIBRARIES = ("olmo-dynamics", "numpy", "safetensors", "torch")

_NAME = re.compile(r"step([0-9]{1,18})-tokens[0-9]{1,18}")


def checkpoint_name(step: int, tokens_seen: int) -> str:
    """`step{N}-tokens{T}`, T a plain integer."""
    return f"step{step}-tokens{tokens_seen}"


@dataclass(frozen=True)
class CheckpointWriter:
    """A callback of `train` that writes a checkpoint at each of the recipe's `save_at` steps, unless it exists.

    With `keep`, only that many of the latest stay, and the run's first: an older one is deleted when a new one is complete.
    A checkpoint whose name is in `damaged` is written anew.
    """

    run: Path
    recipe: Recipe
    tokenizer_json: bytes | None
    lineage: Mapping[str, Any]
    keep: int | None = None
    damaged: frozenset[str] = frozenset()

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
        name = checkpoint_name(state.step, state.tokens_seen)
        replace = name in self.damaged
        if replace or not (self.run / name).exists():
            write_checkpoint(
                self.run,
                whole,
                recipe=self.recipe,
                tokenizer_json=self.tokenizer_json,
                lineage=self.lineage,
                replace=replace,
            )
        if self.keep is not None:
            for folder in written_checkpoints(self.run)[1 : -self.keep]:
                _remove(folder)


def written_checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders of a run that training wrote, damaged ones among them, in order of their steps."""
    found = {}
    for folder in run.glob("step*-tokens*"):
        name = _NAME.fullmatch(folder.name)
        if name and any((folder / file).is_file() for file in (LINEAGE_FILE, STATE_FILE, SUMS_FILE)):
            found[folder] = int(name[1])
    return sorted(found, key=lambda folder: (found[folder], folder.name))


def write_checkpoint(
    run: Path,
    state: TrainState,
    *,
    recipe: Recipe,
    tokenizer_json: bytes | None,
    lineage: Mapping[str, Any],
    replace: bool = False,
) -> Path:
    """Write `state` as a new folder of `run` and return the folder; without a tokenizer, its files are left out.

    With `replace`, a folder of that name is deleted once the new one is complete.

    Raises:
        TrainingError: the folder exists.
        DiskFullError: the checkpoint does not fit on the disk.
    """
    folder = run / checkpoint_name(state.step, state.tokens_seen)
    if folder.exists() and not replace:
        raise TrainingError(f"a new checkpoint needs the name {folder.name}, but {folder} exists: move or delete it")
    config = to_config_json(state.model.config, dtype="float32")
    with _folder_or_nothing(folder) as temporary:
        _write_model(temporary, state, config)
        if tokenizer_json is not None:
            _write_tokenizer(temporary, tokenizer_json, config)
        _write_training_state(temporary, state, recipe)
        _write_json(temporary / LINEAGE_FILE, {**lineage, "libraries": {name: version(name) for name in LIBRARIES}})
        _write_sums(temporary)
    return folder


def _write_model(folder: Path, state: TrainState, config: Mapping[str, Any]) -> None:
    special = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write_json(folder / CONFIG_FILE, published_config(state.model.config, dtype="float32"))
    _write_json(folder / "generation_config.json", special)
    model = state.model
    published = family_of(model.config.model_type).publish(model.config, model.state_dict())
    weights = {name: tensor.detach().float().contiguous() for name, tensor in published.items()}
    _write_tensors(folder / WEIGHTS_FILE, weights, mode_of=folder / CONFIG_FILE)


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
    (folder / STATE_FILE).parent.mkdir()
    moments = {
        f"{name}.{kind}": tensor
        for name, parameter in state.model.named_parameters()
        for kind, tensor in state.optimizer.state.get(parameter, {}).items()
    }
    counters = (state.step, state.tokens_seen, state.position)
    saved = SavedState(*counters, recipe, state.generator, state.loss, state.history)
    (folder / STATE_FILE).write_bytes(format_training_state(saved))
    _write_tensors(folder / MOMENTS_FILE, moments, mode_of=folder / STATE_FILE)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], *, mode_of: Path) -> None:
    """Write a safetensors file with the permissions of another: the library's own are its owner's alone."""
    save_file(dict(tensors), path, metadata={"format": "pt"})
    shutil.copymode(mode_of, path)


def _write_sums(folder: Path) -> None:
    """Write the hashes of all files; they are read back, from memory if the system still holds them."""
    sums = {}
    for path in _files(folder):
        with path.open("rb") as file:
            sums[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    (folder / SUMS_FILE).write_bytes(format_sums(sums))


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _folder_or_nothing(folder: Path) -> Iterator[Path]:
    """A folder under a temporary name that is renamed on success, in place of one of that name, and deleted on failure.

    It lies one level deeper than finished checkpoints, so that listing the run does not find it.
    """
    temporary = folder.parent / PARTIAL / folder.name
    shutil.rmtree(temporary.parent, ignore_errors=True)  # left by a process that was killed
    temporary.mkdir(parents=True)
    try:
        yield temporary
        _sync(temporary)
        if folder.exists():
            folder.rename(temporary.with_name(f"old {folder.name}"))
        temporary.rename(folder)
        sync_folder(folder.parent)
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


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sync(folder: Path) -> None:
    """Put the files of a new checkpoint on the disk, then the names of its folders and of the run's own."""
    for path in _files(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    for each in (folder / SUMS_FILE).parent, folder:
        sync_folder(each)
    with suppress(PermissionError):  # a folder that may be entered and not listed
        sync_folder(folder.parent.parent.parent)
