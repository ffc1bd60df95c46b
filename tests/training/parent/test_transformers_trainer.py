"""Forks from checkpoints that transformers' Trainer wrote, against torch continuing with the same optimiser."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from olmo_dynamics.errors import TrainingError
from olmo_dynamics.training.fork.run import Fork, fork
from tests.runs import tiny_model

CHANGES: dict[str, Any] = {"steps": 1, "batch": (2, 16), "order": "sequential"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the Trainer, saved at its second of four steps; read it, never change it."""
    ids = torch.randint(300, (16, 16), generator=torch.Generator().manual_seed(1))
    out = tmp_path_factory.mktemp("trainer")
    arguments = TrainingArguments(
        str(out / "run"), max_steps=4, save_steps=2, per_device_train_batch_size=4, learning_rate=1e-3, weight_decay=0.1,
        adam_beta2=0.95, warmup_steps=1, use_cpu=True, report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
        include_num_input_tokens_seen="all",
    )  # fmt: skip
    rows = [{"input_ids": row, "labels": row} for row in ids]
    Trainer(tiny_model(0), arguments, train_dataset=rows).train()
    np.random.default_rng(0).integers(2, 300, 400).astype(np.uint16).tofile(out / "data.npy")
    return out


def forked(run: Path, out: Path, revision: str = "checkpoint-2", **changes: Any) -> Fork:
    return fork(run / "run", revision, data=[run / "data.npy"], out=out, **{**CHANGES, **changes})


def rows(made: Fork) -> dict[str, tuple[str, str]]:
    return {field.name: (field.status, field.value) for field in made.fields}


def copied(run: Path, tmp_path: Path) -> Path:
    """A copy of the run whose files may be changed."""
    shutil.copytree(run, tmp_path / "copy")
    return tmp_path / "copy"


def test_the_next_step_is_that_of_torch(run: Path, tmp_path: Path) -> None:
    made = forked(run, tmp_path / "out")
    assert made.folder is not None and made.folder.name == "step3-tokens160"  # 2 · 4 · 16 of the Trainer, and 2 · 16
    found = rows(made)
    rate = 1e-3 * 2 / 3  # linear from step 1 down to 0 at step 4: the rate of the third update
    assert found["moments"] == ("restored", "with their steps as stored")
    assert found["schedule"] == ("assumed", f"constant over steps from 2: {rate:.6g}; {rate:.6g} at step 3")
    assert found["betas, eps"] == ("restored", "(0.9, 0.95), 1e-08")
    assert found["weight decay"] == ("restored", "0.1, none on 9 parameters")
    assert found["z-loss"] == ("assumed", "0.0")
    assert found["step"] == ("restored", "2, of trainer_state.json")
    assert found["rng_state.pth, scheduler.pt, training_args.bin"] == (
        "missing",
        "present, but not read: its contents are not used",
    )

    folder = run / "run" / "checkpoint-2"
    model = AutoModelForCausalLM.from_pretrained(folder)
    norms = {name for name, _ in model.named_parameters() if "norm" in name}
    groups = [
        {"params": [each for name, each in model.named_parameters() if (name in norms) == bare]}
        for bare in (False, True)
    ]
    optimizer = torch.optim.AdamW(groups)
    optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True))
    ids = torch.from_numpy(np.fromfile(run / "data.npy", np.uint16)[:32].astype(np.int64).reshape(2, 16))
    model(input_ids=ids, labels=ids).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    ours = load_file(made.folder / "model.safetensors")
    moments = load_file(made.folder / "training_state" / "optimizer.safetensors")
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.detach(), rtol=0, atol=2e-6, msg=name)
        for kind, value in optimizer.state[parameter].items():
            torch.testing.assert_close(moments[f"{name}.{kind}"], value, rtol=1e-3, atol=1e-8, msg=f"{name} {kind}")


class Attack:
    """A pickle that would run a command."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("attacked",)


def test_a_state_that_does_not_fit_the_model_is_left_out_by_name(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = copied(run, tmp_path) / "run" / "checkpoint-2" / "optimizer.pt"
    state: dict[str, Any] = torch.load(path, weights_only=True)
    groups = state["param_groups"]
    swapped = {**state["state"], 0: state["state"][1], 1: state["state"][0]}
    cases: list[tuple[Any, str]] = [
        ({**state, "param_groups": groups[:1]}, "its groups have 16 parameters, but the model has 16 and 9 norms"),
        ({**state, "param_groups": groups[::-1]}, "its groups must number all parameters in order"),
        ({**state, "param_groups": [{**groups[0], "betas": (0.5, 0.5)}, groups[1]]}, "its groups may differ only in having"),
        ({**state, "param_groups": [{**each, "amsgrad": True} for each in groups]}, "only AdamW without amsgrad and max"),
        ({**state, "param_groups": [{**each, "eps": 0.0} for each in groups]}, "betas must be below 1 and eps above 0 (got"),
        ({**state, "param_groups": [{**each, "lr": "high"} for each in groups]}, "its lr, betas, eps and weight_decay must"),
        (
            {**state, "state": swapped},
            "in the model's order, model.embed_tokens.weight must have two moments of shape [320, 32] (got exp_avg [32, 32], "
            "exp_avg_sq [32, 32])",
        ),
        ({**state, "state": {}}, "in the model's order, model.embed_tokens.weight must have two moments of shape [320, 32] (got"),
        ({"state": {0: Attack()}}, "optimizer.pt: its pickle uses 'posix.mkdir', which weights never need; nothing was exec"),
        (b"", "optimizer.pt must be a zip of torch.save, but it has 0 bytes"),
        (path.read_bytes()[:-3000], "optimizer.pt"),
    ]  # fmt: skip
    for case, problem in cases:
        path.unlink()
        path.write_bytes(case) if isinstance(case, bytes) else torch.save(case, path)
        made = forked(path.parents[2], tmp_path / "out", dry_run=True, moments="zero", lr=1e-4)
        status, value = rows(made)["optimizer.pt"]
        assert status == "missing" and value.startswith(f"present, but not read: {problem}"), value
        assert rows(made)["betas, eps"] == ("assumed", "(0.9, 0.999), 1e-08")
        with pytest.raises(
            TrainingError, match=r"^AdamW's moments are not known \(optimizer\.pt is not read: .*\): choose --m"
        ):
            forked(path.parents[2], tmp_path / "out", lr=1e-4)
    assert not (tmp_path / "attacked").exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "trainer_state.json must be JSON (got b'': "),
        ("[1]", "trainer_state.json must be a JSON object (got [1]); "),
        ('{"global_step": -3}', "global_step must be a whole number of at least 0 (got -3)"),
        ('{"global_step": true}', "global_step must be a whole number of at least 0 (got True)"),
    ],
)
def test_a_damaged_trainer_state_leaves_the_step_of_the_name(
    run: Path, tmp_path: Path, text: str, problem: str
) -> None:
    copy = copied(run, tmp_path)
    folder = copy / "run" / "checkpoint-2"
    (folder / "trainer_state.json").write_text(text)
    folder.rename(folder.with_name("step7"))
    made = forked(copy, tmp_path / "out", "step7", dry_run=True)
    assert made.plan.begin == 7 and made.plan.recipe.steps == 8 and "step" not in rows(made)
    assert rows(made)["trainer_state.json"][1].startswith(f"present, but not read: {problem}")


def test_the_step_of_the_trainer_wins_and_a_batch_must_be_given(run: Path, tmp_path: Path) -> None:
    copy = copied(run, tmp_path)
    path = copy / "run" / "checkpoint-2" / "trainer_state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "global_step": 200, "num_input_tokens_seen": 0}))
    assert forked(copy, tmp_path / "out", dry_run=True).plan.begin == 200
    with pytest.raises(TrainingError, match=r"^transformers' Trainer does not store its batch: give --batch BxT$"):
        forked(copy, tmp_path / "out", batch=None)
    (path.with_name("optimizer.pt")).unlink()
    with pytest.raises(
        TrainingError, match=r"^AdamW's moments were not published with these weights: choose --moments ze"
    ):
        forked(copy, tmp_path / "out", lr=1e-4)
