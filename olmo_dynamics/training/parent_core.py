"""What `config.json` and `train/rank0.pt` of OLMo-core say; its older versions kept some of it in the trainer's callbacks.

>>> parts = core_parts(Words(label, config, trainer), step=40)                              # doctest: +SKIP
>>> parts.order.block, parts.recipe.z_loss                                                  # doctest: +SKIP
(1, 1e-05)
"""

from __future__ import annotations

from typing import Any

from olmo_dynamics.training.marks import Repeats
from olmo_dynamics.training.orders import Order
from olmo_dynamics.training.parent_words import Parts, Words
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


def core_parts(words: Words, step: int) -> Parts:
    """The recipe, and the place in the data.

    Raises: TrainingError for a config without batch size, sequence length or learning rate.
    """
    tokens = int(words.need("data_loader.global_batch_size", "dataset.global_batch_size", "trainer.global_batch_size"))
    loader = words.of_trainer("data_loader") or {}
    length = int(
        loader.get("sequence_length") or words.need("dataset.sequence_length", "train_module.max_sequence_length")
    )
    unit = int(loader.get("max_target_sequence_length") or words.find("dataset.max_target_sequence_length") or length)
    seed = loader.get("seed")
    if seed is None:
        seed = words.get("data_loader.seed", "dataset.seed", 0, field="place in the data")
    schedule, no_schedule = _schedule(words)
    recipe = Recipe(
        steps=max(step, 1),
        sequences_per_step=tokens // length,
        sequence_length=length,
        clip=float(words.find("train_module.max_grad_norm", "trainer.callbacks.grad_clipper.max_grad_norm") or 1e30),
        z_loss=float(words.find("train_module.z_loss_multiplier", "trainer.z_loss_multiplier") or 0.0),
        seed=int(seed),
        schedule=schedule,
        dtype=words.dtype(*_PRECISIONS, silent="float32"),
        mask_documents=bool(words.find("dataset.generate_doc_lengths")),
        repeats=_repeats(words),
    )
    return Parts(
        recipe=recipe,
        tokens_seen=int(words.of_trainer("global_train_tokens_seen") or step * tokens),
        order=_order(words, loader, (tokens, length), unit),
        optimizer=_optimizer(words),
        no_schedule=no_schedule,
        unit=unit,
        data=tuple(words.find("dataset.paths") or ()),
        left_out=("step skipping (its history is in no checkpoint)",) if _skips(words) else (),
    )


def _order(words: Words, loader: dict[str, Any], batch: tuple[int, int], unit: int) -> Order | None:
    """The place, unless the data are packed or padded, whose order is another one."""
    tokens, length = batch
    if loader.get("dataset_type") != "fsl" or loader.get("tokens_processed") is None:
        return None
    return Order(
        kind="olmo-core",
        seed=int(loader["seed"]),
        epoch=int(loader.get("epoch") or words.of_trainer("epoch") or 1),
        skipped=int(loader["tokens_processed"]) // tokens * (tokens // length),
        block=unit // length,
    )


def _repeats(words: Words) -> Repeats | None:
    if not words.find("dataset.instance_filter_config"):
        return None
    known = {kind: words.find(f"dataset.instance_filter_config.repetition_{kind}") for kind in Repeats.__slots__}
    return Repeats(**{kind: int(value) for kind, value in known.items() if value is not None})


def _skips(words: Words) -> bool:
    names = (words.find(f"{place}.type", f"{place}._CLASS_") or "" for place in _OPTIMIZERS)
    return any("skip" in str(name).lower() for name in names)


def _optimizer(words: Words) -> dict[str, Any]:
    """AdamW as the config has it, else as the trainer's defaults do."""

    def of(name: str, default: Any, field: str) -> Any:
        return words.get(*(f"{place}.{name}" for place in _OPTIMIZERS), default, field=field)

    overrides = words.find(*(f"{place}.group_overrides" for place in _OPTIMIZERS)) or ()
    bare = {name for each in overrides if (each.get("opts") or {}).get("weight_decay") == 0 for name in each["params"]}
    return {
        "betas": tuple(map(float, of("betas", (0.9, 0.999), "betas, eps"))),
        "eps": float(of("eps", 1e-8, "betas, eps")),
        "weight_decay": float(of("weight_decay", 0.01, "weight decay")),
        "no_decay": tuple(sorted(EMBEDDING if name == "embeddings.weight" else name for name in bare)),
    }


def _schedule(words: Words) -> tuple[Schedule | None, str]:
    """The curve, or why it is not known."""
    peak = words.need(*(f"{place}.lr" for place in _OPTIMIZERS))
    scheduler = words.find(*_SCHEDULERS) or {}
    name = str(scheduler.get("type") or scheduler.get("_CLASS_"))
    kind = _KINDS.get(name.rpartition(".")[2].lower())
    end = scheduler.get("t_max") or words.of_trainer("max_steps")
    warmup = scheduler.get("warmup", scheduler.get("warmup_steps"))
    if warmup is None and scheduler.get("warmup_fraction") is not None and end is not None:
        warmup = round(scheduler["warmup_fraction"] * end)
    if kind is None or ((end is None or warmup is None) and kind != "constant"):
        return None, f"it must be a known one with its end; got {name}, end {end}, warm-up {warmup}"
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
