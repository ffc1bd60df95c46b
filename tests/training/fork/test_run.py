"""Forks against the trainers that wrote their parents: the same weights, losses and gradient norms, step by step."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from olmo_dynamics.checkpoints import open_source
from olmo_dynamics.errors import DivergedError, OptionError, TrainingError
from olmo_dynamics.frames import metrics
from olmo_dynamics.model import parse_config
from olmo_dynamics.training.checkpoint import CheckpointWriter
from olmo_dynamics.training.checkpoint_reader import read_checkpoint
from olmo_dynamics.training.fork.options import ForkOptions
from olmo_dynamics.training.fork.plan import ForkPlan
from olmo_dynamics.training.fork.run import fork, next_batches, open_checkpoint
from olmo_dynamics.training.parent.restore import load_weights, read_moments
from olmo_dynamics.training.recipe import Recipe
from olmo_dynamics.training.state import new_state
from olmo_dynamics.training.trainer import Event, train

OLMO, CORE = ("olmo/tiny-olmo2", "step40-unsharded", "step80-unsharded"), ("olmo_core/tiny-olmo3", "step40", "step80")


@pytest.fixture
def native(shared: Path) -> Path:
    return shared / "data" / "native"


@pytest.fixture
def plan(native: Path, tmp_path: Path) -> Callable[..., ForkPlan]:
    """The plan of 40 more steps of a native run, with changes."""

    def make(parent: tuple[str, str, str] = OLMO, **changes: Any) -> ForkPlan:
        data = [native / "tokens" / "train.npy"]
        return fork(native / parent[0], parent[1], data=data, out=tmp_path, steps=40, dry_run=True, **changes).plan

    return make


def logged(native: Path, run: str) -> dict[int, tuple[float, float]]:
    """Loss and gradient norm by step, as the trainer wrote them."""
    if run == OLMO[0]:
        rows = json.loads((native / run / "metrics.json").read_bytes())
        return {row["step"]: (row["cross_entropy"], row["total_grad_norm"]) for row in rows}
    rows = [json.loads(line) for line in (native / run / "metrics.jsonl").read_text().splitlines()]
    keys = ("train/CE loss", "optim/total grad norm")
    return {row["step"]: (row[keys[0]], row[keys[1]]) for row in rows if keys[0] in row}


@pytest.mark.parametrize(
    # Farthest from the trainer's weights at step 80, after 40 updates in float32 with sums in another order; the trainer's
    # own distance from itself with another micro-batch is 2e-5 for the first. A wrong detail gives 1e-3 and more.
    ("parent", "farthest", "moment_farthest"),
    [(OLMO, 1e-4, 1e-4), (CORE, 5e-6, 2e-6)],
)
def test_an_unchanged_fork_is_the_original(
    parent: tuple[str, str, str], farthest: float, moment_farthest: float, native: Path, tmp_path: Path
) -> None:
    run, first, last = parent
    events: list[tuple[int, float, float, float]] = []

    def listen(event: Event) -> None:
        events.append((event.step, event.loss, event.gradient_norm, event.learning_rate))

    data = [native / "tokens" / "train.npy"]
    made = fork(native / run, first, data=data, out=tmp_path / "fork", steps=40, callbacks=lambda plan, state: [listen])
    assert made.folder is not None and made.folder.name == "step80-tokens163840"
    state, _ = read_checkpoint(made.folder)
    with open_checkpoint(native / run, last) as checkpoint:
        wanted, moments = load_weights(checkpoint), read_moments(checkpoint)
        rate = checkpoint.optimizer.groups[0]["lr"]
    for (name, ours), theirs in zip(state.model.named_parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=farthest, msg=name)
        for kind, theirs_moment in moments[name].items():
            torch.testing.assert_close(
                state.optimizer.state[ours][kind], theirs_moment, rtol=0, atol=moment_farthest, msg=f"{name} {kind}"
            )
    written = logged(native, run)
    same = sum(float(f"{norm:.4g}") == written[step][1] for step, _, norm, _ in events)
    assert same >= 36 or parent is CORE
    assert [step for step, *_ in events] == list(range(41, 81)) and events[-1][3] == rate
    for step, loss, norm, _ in events:
        if parent is OLMO:  # it wrote four digits; 1.5e-5 is how far sums in another order take a norm over a border
            assert float(f"{loss:.4g}") == written[step][0], step
            assert norm == pytest.approx(written[step][1], rel=0, abs=6.5e-5), step
        else:  # it wrote all digits of a float32
            assert loss == pytest.approx(written[step][0], rel=2e-6), step
            assert norm == pytest.approx(written[step][1], rel=1e-5), step
    statuses = {field.name: field.status for field in made.fields}
    assert all(statuses[name] == "restored" for name in ("weights", "moments", "schedule", "data", "data position"))
    lineage = json.loads((made.folder / "lineage.json").read_bytes())
    assert lineage["parent"]["revision"] == first and lineage["overrides"] == {}
    assert {field["name"]: field["status"] for field in lineage["fields"]} == statuses


@pytest.mark.parametrize("parent", [OLMO, CORE])
def test_a_fork_loads_in_transformers_with_our_logits(
    parent: tuple[str, str, str], native: Path, tmp_path: Path
) -> None:
    data = [native / "tokens" / "train.npy"]
    made = fork(native / parent[0], parent[1], data=data, out=tmp_path, steps=1, batch=(1, 128))
    assert made.folder is not None
    theirs = transformers.AutoModelForCausalLM.from_pretrained(made.folder, attn_implementation="eager")
    token_ids = made.plan.batches.batch(1).token_ids
    with torch.no_grad():
        ours = read_checkpoint(made.folder)[0].model(token_ids)
        torch.testing.assert_close(ours, theirs(token_ids).logits, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def demo(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The small demo's run, and its tokens in a headerless file."""
    out = tmp_path_factory.mktemp("demo")
    run = shutil.copytree(small_run, out, dirs_exist_ok=True) / "run"
    from olmo_dynamics.experiments.corpus import Corpus

    data = out / "train.bin"
    Corpus.load(out / "corpus").train.astype(np.uint16).tofile(data)
    return run, data


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {**load_file(folder / "model.safetensors"), **load_file(folder / "training_state" / "optimizer.safetensors")}


def test_a_fork_of_ours_is_the_uninterrupted_run_bit_for_bit(demo: tuple[Path, Path], tmp_path: Path) -> None:
    run, data = demo
    wanted = weights_of(run / "step20-tokens10240")
    made = fork(run, "step9-tokens4608", data=[data], out=tmp_path / "whole", steps=11)
    assert made.folder is not None and made.expected_from == "the parent's own, of the step before"
    logged = metrics(run)["loss"]  # of the steps from 1 on
    assert (made.first_loss, made.expected_loss) == (pytest.approx(logged[9], abs=1e-5), logged[8])
    found = weights_of(made.folder)
    assert wanted.keys() == found.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)

    def stop(event: Event) -> None:
        if event.step == 15:
            raise KeyboardInterrupt

    halves = tmp_path / "halves"
    with pytest.raises(KeyboardInterrupt):
        fork(run, "step9-tokens4608", data=[data], out=halves, steps=11, callbacks=lambda plan, state: [stop])
    again = fork(run, "step9-tokens4608", data=[data], out=halves, steps=11)
    assert again.folder is not None and again.expected_from == "resumed"
    lineages = [json.loads(path.read_bytes()) for path in sorted(halves.glob("step*/lineage.json"))]
    assert all(lineage == lineages[0] for lineage in lineages) and lineages[0]["first_batch"]["loss"] == made.first_loss
    found = weights_of(again.folder)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    names = [revision.name for revision in open_source(halves).revisions()]
    assert (names[0], names[-1], len(names)) == ("step9-tokens4608", "step20-tokens10240", 12)
    second = fork(halves, "step15-tokens7680", data=[data], out=tmp_path / "second", steps=5)  # a fork of a fork
    found = weights_of(second.folder or Path())
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    with pytest.raises(TrainingError, match=r"^.*halves must hold this fork or nothing, but holds another run: choose"):
        fork(run, "step9-tokens4608", data=[data], out=halves, steps=11, lr=1e-3)


def test_moments_of_bare_weights_must_be_chosen(demo: tuple[Path, Path], tmp_path: Path) -> None:
    run, data = demo
    bare = tmp_path / "bare" / "step9"
    bare.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (bare / name).write_bytes((run / "step9-tokens4608" / name).read_bytes())
    given = {"data": [data], "out": tmp_path / "out", "steps": 3}
    with pytest.raises(TrainingError, match=r"^bare weights have no recipe: give --lr \(the rate"):
        fork(bare.parent, "step9", **given)
    given |= {"lr": 1e-3, "batch": (4, 64)}
    with pytest.raises(
        TrainingError, match=r"^the parent's data position is not known: choose --order olmo, olmo-core"
    ):
        fork(bare.parent, "step9", moments="zero", **given)
    given |= {"order": "sequential"}
    with pytest.raises(
        TrainingError, match=r"^AdamW's moments were not published with these weights: choose --moments zero"
    ):
        fork(bare.parent, "step9", **given)
    step, [batch] = next_batches(bare.parent, "step9", data=[data], batch=(4, 64), order="sequential")
    assert step == 10 and np.array_equal(batch.token_ids.numpy().ravel(), np.fromfile(data, np.uint16)[:256])
    rates: list[float] = []
    made = fork(
        bare.parent,
        "step9",
        moments="warm",
        warmup=2,
        callbacks=lambda plan, state: [lambda event: rates.append(event.learning_rate)],
        **given,
    )
    assert rates == [5e-4, 1e-3, 1e-3] and made.folder is not None and made.folder.name == "step12-tokens768"
    assert ("moments", "missing", "zero") in [(each.name, each.status, each.value) for each in made.fields]
    warm = fork(bare.parent, "step9", moments="warm", dry_run=True, **given)
    assert str(warm.plan.recipe.schedule).endswith("; re-warmed over 100 steps")


def test_changes_of_the_schedule(plan: Callable[..., ForkPlan]) -> None:
    def rates(**changes: Any) -> list[float]:
        recipe = plan(**changes).recipe
        return [recipe.learning_rate(step, step * 2048) for step in (41, 60, 80)]

    parent, now = rates(), 0.0018915263760858401  # the second as the trainer wrote it at step 40
    assert rates(schedule="linear") == pytest.approx([now * 39 / 40, now / 2, 0.0], rel=1e-12)
    assert rates(schedule="constant", lr=1e-4) == [1e-4] * 3
    assert rates(schedule="cosine", lr=1.0) == pytest.approx(
        [0.1 + 0.45 * (1 + np.cos(np.pi / 40)), 0.55, 0.1], rel=1e-12
    )
    assert rates(lr=10 * now) == pytest.approx([10 * rate for rate in parent], rel=1e-12)
    assert rates(warmup=40) == pytest.approx([parent[0] / 40, parent[1] / 2, parent[2]], rel=1e-12)


def test_a_schedule_that_has_ended_at_nothing_is_refused(demo: tuple[Path, Path], tmp_path: Path) -> None:
    run, data = demo
    out = tmp_path / "annealed"
    fork(run, "step9-tokens4608", data=[data], out=out, steps=2, schedule="linear", save=())
    message = (
        "the parent's schedule has ended at a rate of 0: choose --schedule constant, linear, cosine or wsd, and --lr"
    )
    with pytest.raises(TrainingError, match=f"^{re.escape(message)}$"):
        fork(out, "step11-tokens5632", data=[data], out=tmp_path / "more", steps=2)


def test_changes_of_everything_else(plan: Callable[..., ForkPlan], native: Path) -> None:
    changed = plan(z_loss=0.0, weight_decay=0.5, clip=2.0, seed=3, batch=(8, 64), order="olmo", save=(5,), workers=2)
    recipe = changed.recipe
    assert (recipe.z_loss, recipe.weight_decay, recipe.clip, recipe.seed, recipe.workers) == (0.0, 0.5, 2.0, 3, 2)
    assert (recipe.tokens_per_step, recipe.save_at) == (512, (40, 45, 80))
    assert (changed.batches.order.seed, changed.batches.order.skipped) == (3, 0)
    statuses = {field.name: field.status for field in changed.fields}
    assert {statuses[name] for name in ("z-loss", "weight decay", "clip", "batch", "data position")} == {"replaced"}
    assert plan(CORE).recipe.mean_over == "labels" and plan(OLMO).recipe.mean_over == "positions"
    smaller = plan(batch=(4, 128)).batches  # goes on at the same place
    assert np.array_equal(
        np.concatenate([smaller.batch(each).token_ids for each in range(4)]), plan().batches.batch(0).token_ids
    )
    for parent in (OLMO, CORE):  # its place counts sequences of 128
        with pytest.raises(
            OptionError, match=r"^the parent's data position counts sequences of 128 tokens, but --batch has"
        ):
            plan(parent, batch=(16, 64))
    step, [batch] = next_batches(native / OLMO[0], OLMO[1], data=[native / "tokens" / "train.npy"], step=43)
    assert step == 43 and np.array_equal(batch.token_ids, plan().batches.batch(2).token_ids)
    with pytest.raises(
        OptionError, match=r"^schedule must be one of parent, constant, linear, cosine, wsd \(got 'step'\)$"
    ):
        ForkOptions(schedule="step")
    with pytest.raises(OptionError, match=r"^save must be steps after the fork within 0\.\.40 \(got \[41\]\)$"):
        plan(save=(41,))


def test_frozen_parameters_stay(native: Path, tmp_path: Path) -> None:
    data = [native / "tokens" / "train.npy"]
    made = fork(
        native / OLMO[0], OLMO[1], data=data, out=tmp_path, steps=1, freeze=("*norm*", "lm_head*"), batch=(2, 128)
    )
    assert made.folder is not None
    before, after = weights_of(tmp_path / "step40-tokens81920"), weights_of(made.folder)
    same = {name for name in before if name.endswith("weight") and torch.equal(before[name], after[name])}
    assert same == {name for name in before if name.endswith("weight") and ("norm" in name or "lm_head" in name)}
    assert "lm_head.weight.exp_avg" not in after


def test_a_loss_that_jumps_is_an_error(native: Path, tmp_path: Path) -> None:
    noise = tmp_path / "noise.npy"
    np.random.default_rng(0).integers(0, 510, 128 * 1000).astype(np.uint16).tofile(noise)
    given = {"data": [noise], "out": tmp_path / "out", "steps": 1, "order": "sequential"}
    message = r"the first batch's loss must be about 6\.238 \(ln\(vocabulary\), as nothing better is known\), "
    message += r"but is \d\.\d+: check"
    with pytest.raises(TrainingError, match=f"^{message} data, dtype and tokenizer, or pass --accept-loss-jump$"):
        fork(native / OLMO[0], OLMO[1], **given)
    assert not (tmp_path / "out").exists()
    assert fork(native / OLMO[0], OLMO[1], accept_loss_jump=True, **given).folder
    wide = tmp_path / "wide.npy"
    np.full(128 * 1000, 600, np.uint16).tofile(wide)
    message = (
        f"{wide}: token ids must be below 512, the model's vocabulary (got 600 at token 0, read as uint16): check "
        "--data-dtype and the tokenizer"
    )
    with pytest.raises(TrainingError, match=f"^{re.escape(message)}$"):
        fork(native / OLMO[0], OLMO[1], **{**given, "data": [wide], "out": tmp_path / "other"})


def test_a_loss_that_is_not_finite_leaves_the_last_good_state_behind(demo: tuple[Path, Path], tmp_path: Path) -> None:
    run, data = demo
    seen: list[dict[str, torch.Tensor]] = []

    def keep(event: Event) -> None:
        seen.append({name: tensor.clone() for name, tensor in event.state.model.state_dict().items()})

    with pytest.raises(DivergedError, match=r"^step 11: loss and gradient must be finite \(got loss nan and "):
        fork(run, "step9-tokens4608", data=[data], out=tmp_path, steps=5, save=(), lr=1e30, callbacks=lambda *_: [keep])
    assert sorted(path.parent.name for path in tmp_path.glob("*/lineage.json")) == [
        "step10-tokens5120",
        "step9-tokens4608",
    ]
    state, _ = read_checkpoint(tmp_path / "step10-tokens5120")
    assert len(seen) == 1 and (state.step, state.tokens_seen, state.position) == (10, 5120, 1)
    assert all(torch.equal(tensor, seen[0][name]) for name, tensor in state.model.state_dict().items())


def test_a_model_with_experts_is_forked_with_its_routers_losses(tmp_path: Path) -> None:
    config = parse_config({
        "model_type": "olmoe", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 16, "vocab_size": 64, "num_experts": 8, "num_experts_per_tok": 2,
    })  # fmt: skip
    recipe = Recipe(steps=12, sequences_per_step=4, sequence_length=16, seed=3)
    tokens = np.random.default_rng(0).integers(0, 64, 16 * 100).astype(np.uint16)
    tokens.tofile(tmp_path / "train.bin")
    state, events = new_state(config, recipe), list[Event]()
    writer = CheckpointWriter(tmp_path / "run", replace(recipe, save_at=(6, 12)), None, {})
    (tmp_path / "run").mkdir()
    train(state, recipe, tokens, callbacks=[writer, events.append])
    assert all(event.losses.balance is not None and event.losses.balance >= 0.9 for event in events)
    made = fork(tmp_path / "run", "step6-tokens384", data=[tmp_path / "train.bin"], out=tmp_path / "fork", steps=6)
    found, wanted = weights_of(made.folder or Path()), weights_of(tmp_path / "run" / "step12-tokens768")
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
