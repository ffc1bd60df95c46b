"""Train on from any published step, and say what was restored: `od.fork`.

>>> made = fork("native/olmo/tiny-olmo2", "step40-unsharded", data=["train.npy"], out="forks/a", steps=40)  # doctest: +SKIP
>>> made.folder, made.first_loss                                                            # doctest: +SKIP
(PosixPath('forks/a/step80-tokens163840'), 5.227)
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from olmo_dynamics.checkpoints import Checkpoint, Source, open_source
from olmo_dynamics.errors import DivergedError, OptionError, TrainingError
from olmo_dynamics.model import ModelConfig, parse_config
from olmo_dynamics.training.batch import Batch
from olmo_dynamics.training.checkpoint import CheckpointWriter, checkpoint_name, read_checkpoint, written_checkpoints
from olmo_dynamics.training.data_files import DataFiles
from olmo_dynamics.training.edits import apply_edits
from olmo_dynamics.training.evaluation import TABLE as EVALUATION_TABLE
from olmo_dynamics.training.evaluation import Evaluator
from olmo_dynamics.training.objective import evaluate
from olmo_dynamics.training.options import Options
from olmo_dynamics.training.parents import Parent, read_parent
from olmo_dynamics.training.plans import Plan, make_plan
from olmo_dynamics.training.ranks import check_ranks, count, open_ranks, settle
from olmo_dynamics.training.record import Field
from olmo_dynamics.training.restoring import restore_state
from olmo_dynamics.training.state import TrainState
from olmo_dynamics.training.texts import Writer
from olmo_dynamics.training.token_files import TokenFiles
from olmo_dynamics.training.token_sources import dtype_for
from olmo_dynamics.training.trainer import Event, next_batch, train

JUMP = 0.5
"""How much worse than expected the first batch may be, nats per token, before it is an error."""

TOKENIZER_FILE = "tokenizer.json"
RESUMED = "resumed"


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
    expected_from: str = ""  # "resumed" where nothing was

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
    device: str | None = None,
    watch: Callable[[Plan, TrainState], Sequence[Callable[[Event], None]]] = lambda plan, state: (),
    **changes: Any,
) -> Fork:
    """Train `steps` more updates from a revision into `out`, one folder a checkpoint; run again, it continues.

    On the CPU unless `device` says `cuda`; processes that torchrun started do it together, see `ranks`. `watch` is asked once
    the state is restored, before anything is written, for callbacks; what they see of an update is seen before that
    update's checkpoint is written.

    Without changes it does what the parent would have done. Changes are given by name, as in `lr=1e-4, schedule="linear"`:
    the fields of `olmo_dynamics.training.options.Options`.

    Raises: TrainingError for what cannot be continued, or a first loss that jumps; OptionError for changes without meaning.
    """
    options, folder = Options(**changes), Path(out)
    with open_ranks(device) as place:
        with open_checkpoint(run, revision) as checkpoint:
            parent = read_parent(checkpoint)
            config = parse_config(checkpoint.config)
            words = read_tokenizer(checkpoint, options.tokenizer)
            opened = _open(data, parent, config, options, words)
            plan = make_plan(parent, config, data=opened, steps=steps, options=options)
            plan = replace(plan, tokenizer_json=words)
            check_ranks(plan.recipe, count())
            evaluator = _evaluator(folder, parent, config, plan, options, words)
            if dry_run:
                return Fork(plan, folder)
            resumed = _resume(folder, checkpoint, plan)
            state, lineage = resumed or _begin(checkpoint, parent, plan, options)
        writer = CheckpointWriter(folder, plan.recipe, words, lineage, options.keep)
        settle(state, plan.recipe, place)
        watchers = watch(plan, state)  # what they refuse leaves nothing behind
        folder.mkdir(parents=True, exist_ok=True)
        evaluator.resume(state.step)
        if state.step == parent.step and not evaluator.rows:
            evaluator.measure(state)
        writer.write(state)
        watching = [evaluator] if evaluator.files else []
        try:
            train(state, plan.recipe, plan.batches, callbacks=[*watching, *watchers, writer])
        except DivergedError:
            writer.write(state)  # the last good one
            raise
    last = folder / checkpoint_name(state.step, state.tokens_seen)
    found = lineage["first_batch"]
    losses = (math.nan, math.nan, RESUMED) if resumed else (found["loss"], found["expected"], found["expected_from"])
    return Fork(plan, folder, last, *losses)


def next_batches(
    run: HasSource | Source | str | Path,
    revision: str,
    *,
    data: Sequence[str | Path],
    step: int | None = None,
    count: int = 1,
    **changes: Any,
) -> tuple[int, list[Batch]]:
    """The step of the first of `count` batches, and those: from `step` on, which may be past, else the next; reads no weight.

    Raises: TrainingError for a step before the data's beginning.
    """
    with open_checkpoint(run, revision) as checkpoint:
        parent = read_parent(checkpoint)
        changes = {"moments": "zero", "lr": 1.0, "schedule": "constant", **changes}  # these decide no tokens
        options, config = Options(**changes), parse_config(checkpoint.config)
        words = read_tokenizer(checkpoint, options.tokenizer)
        first = parent.step + 1 if step is None else step
        grown = max((begin + 1 for begin, _ in options.batch_warmup), default=1)
        steps = max(first + count - 1 - parent.step, grown)
        opened = _open(data, parent, config, options, words)
        plan = make_plan(parent, config, data=opened, steps=steps, options=options)
    batches, begun = plan.batches, parent.step
    if (
        parent.form == "ours"
        and parent.order
        and parent.recipe
        and not {"order", "seed", "batch"} & options.given().keys()
    ):
        begun = parent.step - parent.position  # where this run began to read, batches of all its sizes since
        batches = replace(batches, order=parent.order, sizes=parent.recipe.sizes)
        if first <= begun:
            raise TrainingError(f"this run read its data from step {begun + 1} on; wanted step {first}: ask its parent")
    return first, [batches.batch(number - begun - 1) for number in range(first, first + count)]


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
    last = plan.batches.before()
    if last is not None:
        return first, _loss(state, last, plan), "the parent's own, of the batch it saw last"
    return first, math.log(state.model.config.vocab_size), "ln(vocabulary), knowing nothing better"


def _open(
    data: Sequence[str | Path], parent: Parent, config: ModelConfig, options: Options, words: bytes | None
) -> DataFiles:
    """The files, those of ids in the dtype that the user, the parent or the vocabulary says."""
    if not data:
        raise OptionError("a fork wants at least 1 file of tokens or text; got none")
    ends = config.eos_token_id
    end = ends[0] if isinstance(ends, tuple) else ends
    return DataFiles.open(
        data,
        dtype=options.data_dtype or parent.token_dtype or dtype_for(config.vocab_size),
        texts=lambda: Writer.of(words, vocab_size=config.vocab_size, end_of_text=end),
    )


def _evaluator(
    folder: Path, parent: Parent, config: ModelConfig, plan: Plan, options: Options, words: bytes | None
) -> Evaluator:
    opened = _open(options.eval, parent, config, options, words).sources if options.eval else ()
    length, recipe = plan.recipe.sequence_length, plan.recipe
    files = {source.name: TokenFiles.cut([source], length=length, vocab_size=config.vocab_size) for source in opened}
    return Evaluator(folder / EVALUATION_TABLE, files, recipe, options.eval_every, parent.step)


def _begin(checkpoint: Checkpoint, parent: Parent, plan: Plan, options: Options) -> tuple[TrainState, dict[str, Any]]:
    """The state at the fork and its lineage; the first loss is held against the parent's before weights are edited."""
    state = restore_state(checkpoint, parent, plan.recipe, moments=plan.moments)
    losses = first_losses(checkpoint, state, plan, parent_loss=options.parent_loss)
    _refuse_jump(*losses, accepted=options.accept_loss_jump)
    lineage = _lineage(checkpoint, parent, plan, options, losses)
    if plan.edits:
        lineage["edits"] = apply_edits(state, options)
        lineage["first_batch"]["loss_edited"] = _loss(state, next_batch(plan.batches, state), plan)
    return state, lineage


def _loss(state: TrainState, batch: Batch, plan: Plan) -> float:
    return evaluate(state.model, batch, plan.recipe).cross_entropy


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
        "overrides": {name: value for name, value in options.given().items() if name != "edit"},
        "fields": [asdict(each) for each in plan.fields],
        "first_batch": dict(zip(("loss", "expected", "expected_from"), losses, strict=True)),
        "fork": plan.to_json(),
    }
