"""Reading of `config.yaml` and `train.pt` of Ai2's first trainer, from OLMo 1's oldest runs on.

>>> found = olmo_config(ConfigReader(label, config, trainer), step=40)                            # doctest: +SKIP
>>> found.recipe.mean_over, found.recipe.z_loss                                             # doctest: +SKIP
('positions', 0.0001)
"""

from __future__ import annotations

from typing import Any

from olmo_dynamics.errors import TrainingError
from olmo_dynamics.training.data.masks import Repeats
from olmo_dynamics.training.data.order import DataOrder
from olmo_dynamics.training.parent.config_reader import ConfigReader, ParentConfig
from olmo_dynamics.training.recipe import EMBEDDING, Recipe
from olmo_dynamics.training.schedule import Schedule

Z_LOSS = 1e-4
"""The factor that the trainer really uses: it reads `auxiliary_loss_multiplier` and never applies it."""

_KINDS = {
    "cosine_with_warmup": "cosine",
    "linear_with_warmup": "linear",
    "constant": "constant",
    "constant_with_warmup": "constant",
}


def olmo_config(reader: ConfigReader, step: int) -> ParentConfig:
    """Read the recipe and the data position.

    Raises:
        TrainingError: the config has no batch size or length, or the optimiser is not AdamW.
    """
    name = reader.find("optimizer.name")
    if name not in (None, "adamw"):
        raise TrainingError(
            f"{reader.label}: the parent's optimiser must be AdamW (got {name}): it cannot be continued"
        )
    batch, length = int(reader.need("global_train_batch_size")), int(reader.need("model.max_sequence_length"))
    seed = int(reader.get("data.seed", "seed", 6198, field="data position"))
    schedule, no_schedule = _schedule(reader, batch * length)
    recipe = Recipe(
        steps=max(step, 1),
        sequences_per_step=batch,
        sequence_length=length,
        clip=float(reader.find("max_grad_norm") or 1e30),
        z_loss=Z_LOSS if reader.find("softmax_auxiliary_loss") else 0.0,
        mean_over="positions",
        seed=seed,
        schedule=schedule,
        dtype=reader.dtype("precision"),
        mask_documents=bool(reader.find("data.generate_doc_lengths")),
        repeats=_repeats(reader),
        balance_loss=float(reader.find("model.moe_loss_weight") or 0.0),
        router_z_loss=float(reader.find("model.moe_zloss_weight") or 0.0),
    )
    return ParentConfig(
        recipe=recipe,
        tokens_seen=int(reader.of_trainer("global_train_tokens_seen") or step * batch * length),
        order=_order(reader, seed, step * batch, batch),
        optimizer=_optimizer(reader),
        no_schedule=no_schedule,
        token_dtype=reader.find("data.memmap_dtype") or "uint16",
        data=_files(reader),
        left_out=_left_out(reader),
    )


def _order(reader: ConfigReader, seed: int, all_seen: int, batch: int) -> DataOrder:
    seen = reader.of_trainer("global_train_examples_seen_this_epoch", "global_train_examples_seen")
    old = reader.of_trainer("global_data_step")  # counts batches, in the oldest runs
    if seen is None and old is not None:
        seen = old * batch
    if seen is None:
        reader.assume("data position")
    epoch = int(reader.of_trainer("epoch") or 0)
    return DataOrder(kind="olmo", seed=seed, epoch=epoch, skipped=int(all_seen if seen is None else seen))


def _repeats(reader: ConfigReader) -> Repeats | None:
    if not reader.find("data.instance_filter"):
        return None
    known = {kind: reader.find(f"data.instance_filter.repetition_{kind}") for kind in Repeats.__slots__}
    return Repeats(**{kind: int(value) for kind, value in known.items() if value is not None})


def _files(reader: ConfigReader) -> tuple[str, ...]:
    """The files in the trainer's order: `paths` as listed, those of `datasets` by sorted label."""
    datasets = reader.find("data.datasets") or {}
    return tuple(reader.find("data.paths") or (path for label in sorted(datasets) for path in datasets[label]))


def _optimizer(reader: ConfigReader) -> dict[str, Any]:
    """AdamW's hyperparameters, of the config or else the trainer's defaults."""
    bare = reader.find("optimizer.no_decay_norm_and_bias")
    norms = reader.find("optimizer.decay_norm_and_bias") if bare is None else not bare
    no_decay = () if norms else ("*norm*", "*.bias")
    return {
        "betas": tuple(map(float, reader.get("optimizer.betas", (0.9, 0.95), field="betas, eps"))),
        "eps": float(reader.get("optimizer.eps", 1e-5, field="betas, eps")),
        "weight_decay": float(reader.get("optimizer.weight_decay", 0.01, field="weight decay")),
        "no_decay": no_decay if reader.find("optimizer.decay_embeddings") else (*no_decay, EMBEDDING),
    }


def _schedule(reader: ConfigReader, tokens_per_step: int) -> tuple[Schedule | None, str]:
    """The curve, or the reason why it is not known."""
    name, peak = str(reader.find("scheduler.name")), float(reader.find("optimizer.learning_rate") or 0.0)
    kind, units = _KINDS.get(name), reader.find("scheduler.units") or "steps"
    end = reader.find("scheduler.t_max")
    if end is None:
        tokens = _duration(reader.find("max_duration"), tokens_per_step)
        end = tokens if units == "tokens" or tokens is None else tokens / tokens_per_step
    if kind is None or not peak or (end is None and kind != "constant"):
        return None, f"it must be of a known kind and have an end (got {name}, end {end}, peak {peak})"
    least = reader.find("scheduler.warmup_min_lr")
    return Schedule(
        kind=kind,
        units=units,
        peak=peak,
        warmup=float(reader.find("scheduler.t_warmup") or 0),
        warmup_from=0.1 * peak if least is None else float(least),  # a tenth by default
        end=float(end or 1),
        final_fraction=float(reader.get("scheduler.alpha_f", 0.1, field="schedule")),
    ), ""


def _duration(text: Any, tokens_per_step: int) -> float | None:
    """Tokens of a `max_duration`: steps, `2e12T` tokens, or `1ep`, which depends on the data."""
    duration = str(text)
    try:
        return float(duration[:-1]) if duration.endswith("T") else float(duration) * tokens_per_step
    except ValueError:
        return None


def _left_out(reader: ConfigReader) -> tuple[str, ...]:
    unknown = {
        "label masks": reader.find("data.label_mask_paths"),
        "clip warm-up": reader.find("scheduler.grad_clip_warmup_steps"),
        "gradient-norm ratio": reader.find("max_grad_norm_ratio"),
    }
    return tuple(name for name, value in unknown.items() if value)
