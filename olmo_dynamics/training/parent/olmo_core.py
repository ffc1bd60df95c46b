"""Reading of `config.json` and `train/rank0.pt` of OLMo-core; older versions keep some of it in the trainer's callbacks.

>>> found = olmo_core_config(ConfigReader(label, config, trainer), step=40)                              # doctest: +SKIP
>>> found.order.block, found.recipe.z_loss                                                  # doctest: +SKIP
(1, 1e-05)
"""

from __future__ import annotations

from typing import Any

from olmo_dynamics.training.data.masks import Repeats
from olmo_dynamics.training.data.order import DataOrder
from olmo_dynamics.training.parent.config_reader import ConfigReader, ParentConfig
from olmo_dynamics.training.recipe import EMBEDDING, Recipe
from olmo_dynamics.training.schedule import Schedule

_KINDS = {
    "cos_with_warmup": "cosine",
    "coswithwarmup": "cosine",
    "linear_with_warmup": "linear",
    "linearwithwarmup": "linear",
    "constant": "constant",
    "constantscheduler": "constant",
    "constant_with_warmup": "constant",
    "constantwithwarmup": "constant",
    "wsd": "wsd",
}
_SCHEDULERS = ("train_module.scheduler", "trainer.callbacks.lr_scheduler.scheduler")
_OPTIMIZERS = ("train_module.optim", "optim")
_PRECISIONS = (
    "train_module.autocast_precision", "train_module.dp_config.param_dtype",
    "trainer.autocast_precision", "model.dp_config.param_dtype",
)  # fmt: skip


def olmo_core_config(reader: ConfigReader, step: int) -> ParentConfig:
    """Read the recipe and the data position.

    Raises:
        TrainingError: the config has no batch size, sequence length or learning rate.
    """
    tokens = int(reader.need("data_loader.global_batch_size", "dataset.global_batch_size", "trainer.global_batch_size"))
    loader = reader.of_trainer("data_loader") or {}
    length = int(
        loader.get("sequence_length") or reader.need("dataset.sequence_length", "train_module.max_sequence_length")
    )
    unit = int(loader.get("max_target_sequence_length") or reader.find("dataset.max_target_sequence_length") or length)
    seed = loader.get("seed")
    if seed is None:
        seed = reader.get("data_loader.seed", "dataset.seed", 0, field="data position")
    schedule, no_schedule = _schedule(reader)
    recipe = Recipe(
        steps=max(step, 1),
        sequences_per_step=tokens // length,
        sequence_length=length,
        clip=float(reader.find("train_module.max_grad_norm", "trainer.callbacks.grad_clipper.max_grad_norm") or 1e30),
        z_loss=float(reader.find("train_module.z_loss_multiplier", "trainer.z_loss_multiplier") or 0.0),
        seed=int(seed),
        schedule=schedule,
        dtype=reader.dtype(*_PRECISIONS, default="float32"),
        mask_documents=bool(reader.find("dataset.generate_doc_lengths")),
        repeats=_repeats(reader),
    )
    return ParentConfig(
        recipe=recipe,
        tokens_seen=int(reader.of_trainer("global_train_tokens_seen") or step * tokens),
        order=_order(reader, loader, (tokens, length), unit),
        optimizer=_optimizer(reader),
        no_schedule=no_schedule,
        unit=unit,
        data=tuple(reader.find("dataset.paths") or ()),
        left_out=("step skipping (no checkpoint has its history)",) if _skips(reader) else (),
    )


def _order(reader: ConfigReader, loader: dict[str, Any], batch: tuple[int, int], unit: int) -> DataOrder | None:
    """The order and the data position, unless the data are packed or padded, whose order is not supported."""
    tokens, length = batch
    if loader.get("dataset_type") != "fsl" or loader.get("tokens_processed") is None:
        return None
    return DataOrder(
        kind="olmo-core",
        seed=int(loader["seed"]),
        epoch=int(loader.get("epoch") or reader.of_trainer("epoch") or 1),
        skipped=int(loader["tokens_processed"]) // tokens * (tokens // length),
        block=unit // length,
    )


def _repeats(reader: ConfigReader) -> Repeats | None:
    if not reader.find("dataset.instance_filter_config"):
        return None
    known = {kind: reader.find(f"dataset.instance_filter_config.repetition_{kind}") for kind in Repeats.__slots__}
    return Repeats(**{kind: int(value) for kind, value in known.items() if value is not None})


def _skips(reader: ConfigReader) -> bool:
    names = (reader.find(f"{place}.type", f"{place}._CLASS_") or "" for place in _OPTIMIZERS)
    return any("skip" in str(name).lower() for name in names)


def _optimizer(reader: ConfigReader) -> dict[str, Any]:
    """AdamW's hyperparameters, of the config or else the trainer's defaults."""

    def of(name: str, default: Any, field: str) -> Any:
        return reader.get(*(f"{place}.{name}" for place in _OPTIMIZERS), default, field=field)

    overrides = reader.find(*(f"{place}.group_overrides" for place in _OPTIMIZERS)) or ()
    bare = {name for each in overrides if (each.get("opts") or {}).get("weight_decay") == 0 for name in each["params"]}
    return {
        "betas": tuple(map(float, of("betas", (0.9, 0.999), "betas, eps"))),
        "eps": float(of("eps", 1e-8, "betas, eps")),
        "weight_decay": float(of("weight_decay", 0.01, "weight decay")),
        "no_decay": tuple(sorted(EMBEDDING if name == "embeddings.weight" else name for name in bare)),
    }


def _schedule(reader: ConfigReader) -> tuple[Schedule | None, str]:
    """The curve, or the reason why it is not known."""
    peak = reader.need(*(f"{place}.lr" for place in _OPTIMIZERS))
    scheduler = reader.find(*_SCHEDULERS) or {}
    name = str(scheduler.get("type") or scheduler.get("_CLASS_"))
    kind = _KINDS.get(name.rpartition(".")[2].lower())
    end = scheduler.get("t_max") or reader.of_trainer("max_steps")
    warmup = scheduler.get("warmup", scheduler.get("warmup_steps"))
    if warmup is None and scheduler.get("warmup_fraction") is not None and end is not None:
        warmup = round(scheduler["warmup_fraction"] * end)
    if kind is None or ((end is None or warmup is None) and kind != "constant"):
        return None, f"it must be of a known kind and have an end (got {name}, end {end}, warm-up {warmup})"
    decay = scheduler.get("decay", scheduler.get("decay_steps"))
    if kind == "wsd" and decay is None:
        decay = round((scheduler.get("decay_fraction") or 0.1) * end)
    low = float(scheduler.get("decay_min_lr") or 0.0) / float(peak) if kind == "wsd" else scheduler.get("alpha_f", 0.1)
    return Schedule(
        kind=kind,
        units=scheduler.get("units") or "steps",
        peak=float(peak),
        warmup=float(warmup or 0),
        warmup_from=float(scheduler.get("warmup_min_lr") or 0.0),
        end=float(end or 1),
        final_fraction=float(low),
        decay_from=float(end - decay) if kind == "wsd" else 0.0,
    ), ""
