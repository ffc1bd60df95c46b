"""What `config.yaml` and `train.pt` of Ai2's first trainer say, from OLMo 1's oldest runs on.

>>> parts = native_parts(Words(label, config, trainer), step=40)                            # doctest: +SKIP
>>> parts.recipe.mean_over, parts.recipe.z_loss                                             # doctest: +SKIP
('positions', 0.0001)
"""

from __future__ import annotations

from typing import Any

from olmo_dynamics.errors import TrainingError
from olmo_dynamics.training.marks import Repeats
from olmo_dynamics.training.orders import Order
from olmo_dynamics.training.parent_words import Parts, Words
from olmo_dynamics.training.recipe import EMBEDDING, Recipe
from olmo_dynamics.training.schedule import Schedule

Z_LOSS = 1e-4
"""What the trainer really multiplies by: it reads `auxiliary_loss_multiplier` and never uses it."""

_KINDS = {
    "cosine_with_warmup": "cosine",
    "linear_with_warmup": "linear",
    "constant": "constant",
    "constant_with_warmup": "constant",
}


def native_parts(words: Words, step: int) -> Parts:
    """The recipe, and the place in the data.

    Raises: TrainingError for a config without batch size or length, and for an optimiser other than AdamW.
    """
    name = words.find("optimizer.name")
    if name not in (None, "adamw"):
        raise TrainingError(f"{words.label}: the parent's optimiser must be AdamW; got {name}: it cannot be continued")
    batch, length = int(words.need("global_train_batch_size")), int(words.need("model.max_sequence_length"))
    seed = int(words.get("data.seed", "seed", 6198, field="place in the data"))
    schedule, no_schedule = _schedule(words, batch * length)
    recipe = Recipe(
        steps=max(step, 1),
        sequences_per_step=batch,
        sequence_length=length,
        clip=float(words.find("max_grad_norm") or 1e30),
        z_loss=Z_LOSS if words.find("softmax_auxiliary_loss") else 0.0,
        mean_over="positions",
        seed=seed,
        schedule=schedule,
        dtype=words.dtype("precision"),
        mask_documents=bool(words.find("data.generate_doc_lengths")),
        repeats=_repeats(words),
        balance_loss=float(words.find("model.moe_loss_weight") or 0.0),
        router_z_loss=float(words.find("model.moe_zloss_weight") or 0.0),
    )
    return Parts(
        recipe=recipe,
        tokens_seen=int(words.of_trainer("global_train_tokens_seen") or step * batch * length),
        order=_order(words, seed, step * batch, batch),
        optimizer=_optimizer(words),
        no_schedule=no_schedule,
        token_dtype=words.find("data.memmap_dtype") or "uint16",
        data=_files(words),
        left_out=_left_out(words),
    )


def _order(words: Words, seed: int, all_seen: int, batch: int) -> Order:
    seen = words.of_trainer("global_train_examples_seen_this_epoch", "global_train_examples_seen")
    old = words.of_trainer("global_data_step")  # counts batches, in the oldest runs
    if seen is None and old is not None:
        seen = old * batch
    if seen is None:
        words.assume("place in the data")
    epoch = int(words.of_trainer("epoch") or 0)
    return Order(kind="olmo", seed=seed, epoch=epoch, skipped=int(all_seen if seen is None else seen))


def _repeats(words: Words) -> Repeats | None:
    if not words.find("data.instance_filter"):
        return None
    known = {kind: words.find(f"data.instance_filter.repetition_{kind}") for kind in Repeats.__slots__}
    return Repeats(**{kind: int(value) for kind, value in known.items() if value is not None})


def _files(words: Words) -> tuple[str, ...]:
    """In the trainer's order: `paths` as they stand, those of `datasets` by sorted label."""
    datasets = words.find("data.datasets") or {}
    return tuple(words.find("data.paths") or (path for label in sorted(datasets) for path in datasets[label]))


def _optimizer(words: Words) -> dict[str, Any]:
    """AdamW as the config has it, else as the trainer's defaults do."""
    bare = words.find("optimizer.no_decay_norm_and_bias")
    norms = words.find("optimizer.decay_norm_and_bias") if bare is None else not bare
    no_decay = () if norms else ("*norm*", "*.bias")
    return {
        "betas": tuple(map(float, words.get("optimizer.betas", (0.9, 0.95), field="betas, eps"))),
        "eps": float(words.get("optimizer.eps", 1e-5, field="betas, eps")),
        "weight_decay": float(words.get("optimizer.weight_decay", 0.01, field="weight decay")),
        "no_decay": no_decay if words.find("optimizer.decay_embeddings") else (*no_decay, EMBEDDING),
    }


def _schedule(words: Words, tokens_per_step: int) -> tuple[Schedule | None, str]:
    """The curve, or why it is not known."""
    name, peak = str(words.find("scheduler.name")), float(words.find("optimizer.learning_rate") or 0.0)
    kind, units = _KINDS.get(name), words.find("scheduler.units") or "steps"
    end = words.find("scheduler.t_max")
    if end is None:
        tokens = _duration(words.find("max_duration"), tokens_per_step)
        end = tokens if units == "tokens" or tokens is None else tokens / tokens_per_step
    if kind is None or not peak or (end is None and kind != "constant"):
        return None, f"it must be a known one with its end; got {name}, end {end}, peak {peak}"
    least = words.find("scheduler.warmup_min_lr")
    return Schedule(
        kind=kind,
        units=units,
        peak=peak,
        warmup=float(words.find("scheduler.t_warmup") or 0),
        warmup_from=0.1 * peak if least is None else float(least),  # a tenth where nothing is said
        end=float(end or 1),
        final_fraction=float(words.get("scheduler.alpha_f", 0.1, field="schedule")),
    ), ""


def _duration(text: Any, tokens_per_step: int) -> float | None:
    """Tokens of a `max_duration`: steps, `2e12T` tokens, or `1ep`, which only the data tell."""
    words = str(text)
    try:
        return float(words[:-1]) if words.endswith("T") else float(words) * tokens_per_step
    except ValueError:
        return None


def _left_out(words: Words) -> tuple[str, ...]:
    unknown = {
        "label masks": words.find("data.label_mask_paths"),
        "clip warm-up": words.find("scheduler.grad_clip_warmup_steps"),
        "gradient-norm ratio": words.find("max_grad_norm_ratio"),
    }
    return tuple(name for name, value in unknown.items() if value)
