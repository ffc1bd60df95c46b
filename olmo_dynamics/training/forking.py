"""Train on from any published step, and say what was restored: `od.fork`.

>>> made = fork("native/olmo/tiny-olmo2", "step40-unsharded", data=["train.npy"], out="forks/a", steps=40)  # doctest: +SKIP
>>> made.folder, made.first_loss                                                            # doctest: +SKIP
(PosixPath('forks/a/step80-tokens163840'), 5.227)
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from olmo_dynamics.checkpoints import Checkpoint, Source, open_source
from olmo_dynamics.errors import DivergedError, TrainingError
from olmo_dynamics.model import parse_config
from olmo_dynamics.training.batch import Batch
from olmo_dynamics.training.checkpoint import CheckpointWriter, checkpoint_name, read_checkpoint, written_checkpoints
from olmo_dynamics.training.objective import evaluate
from olmo_dynamics.training.parents import Parent, read_parent
from olmo_dynamics.training.plans import Field, Options, Plan, make_plan
from olmo_dynamics.training.restoring import restore_state
from olmo_dynamics.training.state import TrainState
from olmo_dynamics.training.trainer import Event, next_batch, train

JUMP = 0.5
"""How much worse than expected the first batch may be, nats per token, before it is an error."""

RESUMED = "resumed"
TOKENIZER_FILE = "tokenizer.json"


@runtime_checkable
class HasSource(Protocol):
    """What `od.Run` is to this room."""

    source: Source


@dataclass(frozen=True)
class Fork:
    """A fork that is done, or only planned: `folder` is then None."""

    plan: Plan
    out: Path
    folder: Path | None = None  # of its last checkpoint
    first_loss: float = math.nan
    expected_loss: float = math.nan  # what `first_loss` was held against, see `expected_from`
    expected_from: str = ""

    @property
    def fields(self) -> tuple[Field, ...]:
        """What was restored, replaced, assumed, or is missing."""
        return self.plan.fields


def fork(
    run: HasSource | Source | str | Path,
    revision: str,
    *,
    data: Sequence[str | Path],
    out: str | Path,
    steps: int,
    dry_run: bool = False,
    watch: Callable[[Plan, TrainState], Sequence[Callable[[Event], None]]] = lambda plan, state: (),
    **changes: Any,
) -> Fork:
    """Train `steps` more updates from a revision into `out`, one folder a checkpoint; run again, it continues.

    `watch` is asked once the state is restored, and its first checkpoint written, for callbacks; what they see of an update
    is seen before that update's checkpoint is written.

    Without changes it does what the parent would have done. Changes are given by name, as in `lr=1e-4, schedule="linear"`:
    the fields of `olmo_dynamics.training.plans.Options`.

    Raises: TrainingError for what cannot be continued, or a first loss that jumps; OptionError for changes without meaning.
    """
    options, folder = Options(**changes), Path(out)
    with open_checkpoint(run, revision) as checkpoint:
        parent = read_parent(checkpoint)
        plan = make_plan(parent, parse_config(checkpoint.config), data=data, steps=steps, options=options)
        if dry_run:
            return Fork(plan, folder)
        words = read_tokenizer(checkpoint, options.tokenizer)
        resumed = _resume(folder, checkpoint, plan)
        if resumed:
            (state, lineage), losses = resumed, (math.nan, math.nan, RESUMED)
        else:
            state = restore_state(checkpoint, parent, plan.recipe, moments=plan.moments)
            losses = first_losses(checkpoint, state, plan, parent_loss=options.parent_loss)
            _refuse_jump(*losses, accepted=options.accept_loss_jump)
            lineage = _lineage(checkpoint, parent, plan, options, losses)
    writer = CheckpointWriter(folder, plan.recipe, words, lineage, options.keep)
    folder.mkdir(parents=True, exist_ok=True)
    writer.write(state)
    try:
        train(state, plan.recipe, plan.batches, callbacks=[*watch(plan, state), writer])
    except DivergedError:
        writer.write(state)  # the last good one
        raise
    last = folder / checkpoint_name(state.step, state.tokens_seen)
    return Fork(plan, folder, last, *losses)


def next_batches(
    run: HasSource | Source | str | Path,
    revision: str,
    *,
    data: Sequence[str | Path],
    first: int = 0,
    count: int = 1,
    **changes: Any,
) -> tuple[int, list[Batch]]:
    """The step of the first of `count` batches, `first` steps after the next one, and those; no weight is read."""
    with open_checkpoint(run, revision) as checkpoint:
        parent = read_parent(checkpoint)
        if parent.recipe is None:
            changes = {"moments": "zero", "lr": 1.0, **changes}  # neither decides which tokens come
        config = parse_config(checkpoint.config)
        plan = make_plan(parent, config, data=data, steps=1, options=Options(**changes))
    return parent.step + 1 + first, [plan.batches.batch(first + number) for number in range(count)]


def open_checkpoint(run: HasSource | Source | str | Path, revision: str) -> Checkpoint:
    """The revision of a run, pinned."""
    if isinstance(run, str | Path):
        run = open_source(run)
    source = run if isinstance(run, Source) else run.source
    return source.open(source.find(revision))


def read_tokenizer(checkpoint: Checkpoint, given: str | Path | None = None) -> bytes | None:
    """The given `tokenizer.json`, or the revision's own; None where there is neither.

    Raises: TrainingError if the given one does not exist.
    """
    if given is not None:
        if not Path(given).is_file():
            raise TrainingError(f"wanted a tokenizer.json, {given} is no file; check the path")
        return Path(given).read_bytes()
    return checkpoint.read_file(TOKENIZER_FILE) if TOKENIZER_FILE in checkpoint.files else None


def first_losses(
    checkpoint: Checkpoint, state: TrainState, plan: Plan, *, parent_loss: float | None
) -> tuple[float, float, str]:
    """The loss of the fork's first batch, what it should be about, and how that is known."""
    first = evaluate(state.model, next_batch(plan.batches, state), plan.recipe).cross_entropy
    if parent_loss is not None:
        return first, parent_loss, "given as the parent's"
    if not math.isnan(state.loss):
        return first, state.loss, "the parent's own, of the step before"
    order, sequences = plan.batches.order, plan.recipe.sequences_per_step
    if order.skipped >= sequences:
        instances = plan.batches.instances_before(sequences)
        last = Batch(torch.from_numpy(plan.batches.files.read(instances)))
        return (
            first,
            evaluate(state.model, last, plan.recipe).cross_entropy,
            "the parent's own, of the batch it saw last",
        )
    return first, math.log(state.model.config.vocab_size), "ln(vocabulary), knowing nothing better"


def _refuse_jump(first: float, expected: float, known_from: str, *, accepted: bool) -> None:
    if not accepted and not first - expected <= JUMP:
        raise TrainingError(
            f"the first batch's loss was to be about {expected:.3f} ({known_from}); got {first:.3f}: check data, dtype and "
            "tokenizer, or pass --accept-loss-jump"
        )


def _resume(out: Path, checkpoint: Checkpoint, plan: Plan) -> tuple[TrainState, dict[str, Any]] | None:
    """State and lineage of the fork's last checkpoint, if `out` holds this fork; None if it holds nothing.

    Raises: TrainingError if it holds something else.
    """
    found = written_checkpoints(out)
    if not found:
        return None
    last = found[-1]
    lineage = json.loads((last / "lineage.json").read_bytes())
    parent, revision = lineage.get("parent") or {}, checkpoint.revision
    same_parent = (parent.get("revision"), parent.get("commit")) == (revision.name, revision.commit)
    if not same_parent or lineage.get("fork") != json.loads(json.dumps(plan.to_json())):
        raise TrainingError(f"{out} must hold this very fork or nothing; got another run: choose another --out")
    return read_checkpoint(last)[0], lineage


def _lineage(
    checkpoint: Checkpoint, parent: Parent, plan: Plan, options: Options, losses: tuple[float, float, str]
) -> dict[str, Any]:
    return {
        "parent": {
            "source": checkpoint.source,
            "revision": checkpoint.revision.name,
            "commit": checkpoint.revision.commit,
            "format": parent.form,
            "step": parent.step,
            "tokens": parent.tokens_seen,
            "weights_sha256": checkpoint.weights_sha256(),
        },
        "overrides": options.given(),
        "fields": [asdict(field) for field in plan.fields],
        "first_batch": dict(zip(("loss", "expected", "expected_from"), losses, strict=True)),
        "fork": plan.to_json(),
    }
