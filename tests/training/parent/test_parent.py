"""What published configs say of their runs, those of old versions and incomplete ones among them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from olmo_dynamics.errors import TrainingError
from olmo_dynamics.training.data.masks import Repeats
from olmo_dynamics.training.fork.run import fork
from olmo_dynamics.training.parent.config_reader import ConfigReader, ParentConfig
from olmo_dynamics.training.parent.olmo import olmo_config
from olmo_dynamics.training.parent.olmo_core import olmo_core_config
from olmo_dynamics.training.recipe import EMBEDDING

OLMO_7B = {  # the published config of OLMo 7B, as far as training goes
    "seed": 6198,
    "model": {"max_sequence_length": 2048},
    "optimizer": {"name": "adamw", "learning_rate": 3.0e-4, "weight_decay": 0.1, "betas": [0.9, 0.95]},
    "scheduler": {"name": "linear_with_warmup", "t_warmup": 5000, "alpha_f": 0.1, "grad_clip_warmup_steps": 1000},
    "data": {"paths": ["s3://a/part-0.npy", "s3://a/part-1.npy"], "pad_direction": "right"},
    "max_duration": "2e12T",
    "global_train_batch_size": 2160,
    "precision": "amp_bf16",
    "max_grad_norm": 1.0,
}
CORE_V1: dict[str, Any] = {  # OLMo-core's first form, with all of training in the trainer's callbacks
    "dataset": {"sequence_length": 4096, "max_target_sequence_length": 8192, "mix": "OLMoE-mix-0824"},
    "data_loader": {"global_batch_size": 8388608, "seed": 34521},
    "optim": {"lr": 6e-4, "betas": [0.9, 0.95], "_CLASS_": "olmo_core.optim.SkipStepAdamWConfig",
              "group_overrides": [{"params": ["embeddings.weight"], "opts": {"weight_decay": 0.0}}]},
    "trainer": {"z_loss_multiplier": 1e-5, "callbacks": {
        "lr_scheduler": {"scheduler": {"warmup_steps": 2000, "_CLASS_": "olmo_core.optim.CosWithWarmup"}},
        "grad_clipper": {"max_grad_norm": 1.0}}},
}  # fmt: skip


def native(config: dict[str, Any], **trainer: Any) -> tuple[ParentConfig, set[str]]:
    words = ConfigReader("run@step10", config, trainer)
    return olmo_config(words, 10), words.assumed


def core(config: dict[str, Any], **trainer: Any) -> tuple[ParentConfig, set[str]]:
    words = ConfigReader("run@step10", config, trainer)
    return olmo_core_config(words, 10), words.assumed


@pytest.mark.parametrize(
    ("said", "dtype", "is_assumed"),
    [
        ("amp_bf16", "bfloat16", False),
        ("fp32", "float32", False),
        ("amp_fp16", "float32", True),
        (None, "float32", True),
    ],
)
def test_a_native_run_continues_in_its_own_precision(said: str | None, dtype: str, is_assumed: bool) -> None:
    parts, assumed = native({**OLMO_7B, "precision": said})
    assert parts.recipe.dtype == dtype and ("precision" in assumed) == is_assumed


@pytest.mark.parametrize(
    ("module", "dtype", "is_assumed"),
    [
        ({}, "float32", False),  # what that trainer takes silence for
        ({"dp_config": {"name": "fsdp", "param_dtype": "bfloat16", "reduce_dtype": "float32"}}, "bfloat16", False),
        ({"autocast_precision": "torch.bfloat16"}, "bfloat16", False),
        ({"dp_config": {"param_dtype": "float16"}}, "float32", True),
    ],
)
def test_so_does_one_of_olmo_core(module: dict[str, Any], dtype: str, is_assumed: bool) -> None:
    parts, assumed = core({**CORE_V1, "train_module": module})
    assert parts.recipe.dtype == dtype and ("precision" in assumed) == is_assumed


def test_olmo_7b_as_it_was_published() -> None:
    parts, assumed = native(OLMO_7B, global_data_step=10, epoch=0)  # the oldest counter, in batches
    recipe, schedule = parts.recipe, parts.recipe.schedule
    assert schedule is not None and (schedule.kind, schedule.units) == ("linear", "steps")
    assert schedule.end == pytest.approx(2e12 / (2160 * 2048)) and schedule.warmup == 5000
    assert (
        schedule.warmup_from == pytest.approx(3e-5)
        and recipe.sequences_per_step == 2160
        and recipe.mean_over == "positions"
    )
    assert parts.optimizer["no_decay"] == ("*norm*", "*.bias", EMBEDDING) and parts.optimizer["eps"] == 1e-5
    assert assumed == {"betas, eps"} and parts.left_out == ("clip warm-up",)
    assert parts.order is not None and (parts.order.skipped, parts.order.seed) == (21600, 6198)
    assert parts.data == ("s3://a/part-0.npy", "s3://a/part-1.npy") and parts.token_dtype == "uint16"


def test_what_olmo_does_to_its_batches_is_taken_over() -> None:
    data = {"instance_filter": {"repetition_max_period": 13, "repetition_min_period": 1, "repetition_max_count": 32},
            "generate_doc_lengths": True, "datasets": {"b": ["2"], "a": ["0", "1"]}}  # fmt: skip
    model = {"max_sequence_length": 2048, "moe_loss_weight": 0.01, "moe_zloss_weight": 0.001}
    parts, assumed = native({**OLMO_7B, "data": data, "model": model, "seed": None})
    assert parts.recipe.repeats == Repeats() and parts.recipe.mask_documents and parts.data == ("0", "1", "2")
    assert (parts.recipe.balance_loss, parts.recipe.router_z_loss) == (0.01, 0.001)
    assert "data position" in assumed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"global_train_batch_size": None},
            "run@step10: continuing needs global_train_batch_size in its config, which is missing: fork its weights from "
            "the hub, with a recipe of your own",
        ),
        (
            {"optimizer": {"name": "lionw"}},
            "run@step10: the parent's optimiser must be AdamW (got lionw): it cannot be continued",
        ),
    ],
)
def test_native_configs_that_cannot_be_continued_are_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError) as caught:
        native(OLMO_7B | changes)
    assert str(caught.value) == message


def test_a_schedule_without_its_end_is_refused_only_where_it_is_needed() -> None:
    for changes in ({"max_duration": "1ep"}, {"scheduler": {"name": "max_scheduler"}}, {"scheduler": None}):
        parts, _ = native(OLMO_7B | changes)
        assert parts.recipe.schedule is None and parts.no_schedule.startswith(
            "it must be of a known kind and have an end (got "
        )


def test_olmo_core_before_train_modules() -> None:
    parts, assumed = core(CORE_V1, max_steps=774_861, global_train_tokens_seen=10 * 8388608)
    recipe, schedule = parts.recipe, parts.recipe.schedule
    assert schedule is not None and (schedule.kind, schedule.warmup, schedule.end) == ("cosine", 2000, 774_861)
    assert float(f"{schedule.learning_rate(721_901, 0):.4e}") == 6.6232e-5  # OLMo 2 32B's, where its stage 2 begins
    assert (recipe.sequences_per_step, recipe.z_loss, recipe.clip, parts.unit) == (2048, 1e-5, 1.0, 8192)
    assert parts.optimizer["no_decay"] == (EMBEDDING,) and assumed == {"betas, eps", "weight decay"}
    assert parts.order is None and parts.left_out == ("step skipping (no checkpoint has its history)",)


def test_olmo_cores_wsd_is_continued() -> None:
    scheduler = {"_CLASS_": "olmo_core.optim.scheduler.WSD", "warmup": 10, "decay": 20}
    module = {"optim": {"lr": 1e-3}, "scheduler": scheduler}
    loader = {"dataset_type": "fsl", "seed": 7, "epoch": 2, "tokens_processed": 40960, "sequence_length": 4096}
    parts, _ = core(CORE_V1 | {"train_module": module}, max_steps=100, data_loader=loader)
    schedule = parts.recipe.schedule
    assert schedule is not None
    rates = [schedule.learning_rate(step, 0) for step in (5, 50, 80, 90, 100)]
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 5e-4, 0.0], abs=1e-18)
    assert parts.order is not None and (parts.order.epoch, parts.order.seed, parts.order.block) == (2, 7, 2)


def test_a_native_directory_without_its_optimiser(shared: Path, tmp_path: Path) -> None:
    data = [shared / "data/native/tokens/train.npy"]
    folder = tmp_path / "run" / "step40-unsharded"
    shutil.copytree(shared / "data/native/olmo/tiny-olmo2/step40-unsharded", folder)
    folder.chmod(0o755)
    (folder / "optim.pt").unlink()
    given: dict[str, Any] = {"data": data, "out": tmp_path / "out", "steps": 2, "dry_run": True}
    with pytest.raises(
        TrainingError, match=r"^AdamW's moments were not published with these weights: choose --moments zero"
    ):
        fork(tmp_path / "run", "step40-unsharded", **given)
    made = fork(tmp_path / "run", "step40-unsharded", moments="zero", **given)
    statuses = {field.name: (field.status, field.value) for field in made.fields}
    assert statuses["moments"] == ("missing", "zero")
    assert statuses["betas, eps"] == ("restored", "(0.9, 0.95), 1e-08")  # its config has them
    assert statuses["data position"] == ("restored", "olmo, seed 6198, epoch 0, after 640 sequences")
    assert statuses["weight decay"] == ("restored", f"0.1, none on {EMBEDDING}")
