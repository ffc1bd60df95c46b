"""Training on from any published step, with a report of the restored state: `od.fork`.

>>> made = fork("native/olmo/tiny-olmo2", "step40-unsharded", data=["train.npy"], out="forks/a", steps=40)  # doctest: +SKIP
>>> made.folder, made.first_loss                                                            # doctest: +SKIP
(PosixPath('forks/a/step80-tokens163840'), 5.227)
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Unpack, runtime_checkable

from olmo_dynamics.checkpoints import Checkpoint, Source, open_source
from olmo_dynamics.errors import DivergedError, OptionError, TrainingError
from olmo_dynamics.files import write_errors_named
from olmo_dynamics.model import ModelConfig, resolve_config
from olmo_dynamics.probes.token_sources import dtype_for
from olmo_dynamics.training.checkpoint import CheckpointWriter, checkpoint_name
from olmo_dynamics.training.checkpoint_reader import Resumed, read_newest, verify_large_files
from olmo_dynamics.training.data.batch import Batch
from olmo_dynamics.training.data.data_files import DataFiles
from olmo_dynamics.training.data.instances import TokenFiles
from olmo_dynamics.training.data.tokenize import TokenWriter
from olmo_dynamics.training.distributed import check_process_count, open_process_group, place_state, process_count
from olmo_dynamics.training.evaluation import TABLE as EVALUATION_TABLE
from olmo_dynamics.training.evaluation import Evaluator
from olmo_dynamics.training.fork.keywords import ForkKeywords
from olmo_dynamics.training.fork.options import ForkOptions
from olmo_dynamics.training.fork.plan import ForkPlan, plan_fork
from olmo_dynamics.training.fork.provenance import Field
from olmo_dynamics.training.fork.weight_edits import apply_edits
from olmo_dynamics.training.objective import evaluate
from olmo_dynamics.training.parent.parent import Parent, read_parent
from olmo_dynamics.training.parent.restore import restore_state
from olmo_dynamics.training.state import TrainState
from olmo_dynamics.training.trainer import Event, next_batch, train

JUMP = 0.5
"""The largest excess of the first batch's loss over the expected one, in nats per token, that is not an error."""

TOKENIZER_FILE = "tokenizer.json"
RESUMED = "resumed"


@runtime_checkable
class HasSource(Protocol):
    """A run with a source, such as `od.Run`."""

    source: Source


@dataclass(frozen=True)
class Fork:
    """A finished fork, or a planned one, whose `folder` is None."""

    plan: ForkPlan
    out: Path
    folder: Path | None = None  # its last checkpoint
    first_loss: float = math.nan
    expected_loss: float = math.nan  # compared with `first_loss`; see `expected_from`
    expected_from: str = ""  # "resumed" if nothing was compared

    @property
    def fields(self) -> tuple[Field, ...]:
        """The provenance: fields that were restored, replaced, assumed, or are missing."""
        return self.plan.fields


def fork(
    run: HasSource | Source | str | Path,
    revision: str,
    *,
    data: Sequence[str | Path],
    out: str | Path,
    steps: int,
    dry_run: bool = False,
    callbacks: Callable[[ForkPlan, TrainState], Sequence[Callable[[Event], None]]] = lambda plan, state: (),
    **changes: Unpack[ForkKeywords],
) -> Fork:
    """Train `steps` more updates from a revision into `out`, one folder per checkpoint; the same call resumes a stopped fork.

    Processes that torchrun started train together, see `distributed`. `callbacks` makes the callbacks once the state is
    restored, before anything is written; they are called with an update before that update's checkpoint is written.

    Without changes it does what the parent would have done. Changes are given by name, as in `lr=1e-4, schedule="linear"`:
    the fields of `olmo_dynamics.training.fork.options.ForkOptions`.

    Raises:
        TrainingError: the parent cannot be continued, or the first loss is far above the expected one.
        OptionError: an option is unknown or invalid.
    """
    options, folder = ForkOptions.of(**changes), Path(out)
    with open_process_group(options.device) as place:
        with open_checkpoint(run, revision) as checkpoint:
            parent = read_parent(checkpoint)
            plan = _plan(checkpoint, parent, data=data, steps=steps, options=options)
            check_process_count(plan.recipe, process_count())
            evaluator = _evaluator(folder, parent, plan, options)
            if dry_run:
                return Fork(plan, folder)
            resumed = _resume(folder, checkpoint, plan)
            if resumed is None:
                state, lineage = _begin(checkpoint, parent, plan, options)
            else:
                state, lineage, plan = resumed.state, resumed.lineage, replace(plan, notes=resumed.notes)
        damaged = resumed.damaged if resumed else frozenset[str]()
        writer = CheckpointWriter(folder, plan.recipe, plan.tokenizer_json, lineage, options.keep, damaged)
        place_state(state, plan.recipe, place)
        chosen = callbacks(plan, state)  # their errors leave nothing behind
        with write_errors_named(folder):
            folder.mkdir(parents=True, exist_ok=True)
        evaluator.resume(state.step)
        if state.step == parent.step and not evaluator.rows:
            evaluator.measure(state)
        writer.write(state)
        _train(state, plan, writer, [*([evaluator] if evaluator.files else []), *chosen])
    last = folder / checkpoint_name(state.step, state.tokens_seen)
    found = lineage["first_batch"]
    losses = (math.nan, math.nan, RESUMED) if resumed else (found["loss"], found["expected"], found["expected_from"])
    return Fork(plan, folder, last, *losses)


def _train(
    state: TrainState, plan: ForkPlan, writer: CheckpointWriter, callbacks: Sequence[Callable[[Event], None]]
) -> None:
    """Train to the end; where the loss diverges, the last good state is written first."""
    try:
        train(state, plan.recipe, plan.batches, callbacks=[*callbacks, writer])
    except DivergedError:
        writer.write(state)
        raise


def next_batches(
    run: HasSource | Source | str | Path,
    revision: str,
    *,
    data: Sequence[str | Path],
    step: int | None = None,
    count: int = 1,
    **changes: Unpack[ForkKeywords],
) -> tuple[int, list[Batch]]:
    """Read `count` batches from `step` on, which may be past; the next step by default. Returns the first step and the batches.

    No weights are read.

    Raises:
        TrainingError: the step lies before the beginning of the data.
        OptionError: an option is unknown or invalid.
    """
    # The first three decide no tokens; without them bare weights would be refused.
    options = ForkOptions.of(**{"moments": "zero", "lr": 1.0, "schedule": "constant", **changes})
    with open_checkpoint(run, revision) as checkpoint:
        parent = read_parent(checkpoint)
        first = parent.step + 1 if step is None else step
        grown = max((begin + 1 for begin, _ in options.batch_warmup), default=1)
        steps = max(first + count - 1 - parent.step, grown)
        plan = _plan(checkpoint, parent, data=data, steps=steps, options=options)
    batches, begun = plan.batches, parent.step
    if (
        parent.form == "ours"
        and parent.order
        and parent.recipe
        and not {"order", "seed", "batch"} & options.given().keys()
    ):
        begun = parent.step - parent.position  # the step at which this run began to read
        batches = replace(batches, order=parent.order, sizes=parent.recipe.sizes)
        if first <= begun:
            raise TrainingError(f"this run read its data from step {begun + 1} on (got step {first}): use its parent")
    return first, [batches.batch(number - begun - 1) for number in range(first, first + count)]


def open_checkpoint(run: HasSource | Source | str | Path, revision: str) -> Checkpoint:
    """Open a revision of a run, pinned to a commit."""
    if isinstance(run, str | Path):
        run = open_source(run)
    source = run if isinstance(run, Source) else run.source
    return source.open(source.find(revision))


def read_tokenizer(checkpoint: Checkpoint, given: str | Path | None = None) -> bytes | None:
    """Read the given `tokenizer.json`, or the revision's own; None if there is neither.

    Raises:
        TrainingError: the given file does not exist.
    """
    if given is not None:
        if not Path(given).is_file():
            raise TrainingError(f"tokenizer {given} is not a file: check the path")
        return Path(given).read_bytes()
    return checkpoint.read_file(TOKENIZER_FILE) if TOKENIZER_FILE in checkpoint.files else None


def first_losses(
    checkpoint: Checkpoint, state: TrainState, plan: ForkPlan, *, parent_loss: float | None
) -> tuple[float, float, str]:
    """The loss of the fork's first batch, the expected loss, and the origin of that expectation."""
    first = evaluate(state.model, next_batch(plan.batches, state), plan.recipe).cross_entropy
    if parent_loss is not None:
        return first, parent_loss, "given as the parent's"
    if not math.isnan(state.loss):
        return first, state.loss, "the parent's own, of the step before"
    last = plan.batches.before()
    if last is not None:
        return first, _loss(state, last, plan), "the parent's own, of its last batch"
    return first, math.log(state.model.config.vocab_size), "ln(vocabulary), as nothing better is known"


def _plan(
    checkpoint: Checkpoint, parent: Parent, *, data: Sequence[str | Path], steps: int, options: ForkOptions
) -> ForkPlan:
    """Plan the fork on these data, with the tokenizer that reads them."""
    config = resolve_config(checkpoint.config, checkpoint.tensors, checkpoint.read_many)
    tokenizer_json = read_tokenizer(checkpoint, options.tokenizer)
    opened = _open(data, parent, config, options, tokenizer_json)
    return replace(plan_fork(parent, config, data=opened, steps=steps, options=options), tokenizer_json=tokenizer_json)


def _open(
    data: Sequence[str | Path], parent: Parent, config: ModelConfig, options: ForkOptions, tokenizer_json: bytes | None
) -> DataFiles:
    """Open the files, those of ids in the dtype of the user, of the parent, or else of the vocabulary."""
    if not data:
        raise OptionError("data must be at least 1 file of tokens or text (got none)")
    ends = config.eos_token_id
    end = ends[0] if isinstance(ends, tuple) else ends
    return DataFiles.open(
        data,
        dtype=options.data_dtype or parent.token_dtype or dtype_for(config.vocab_size),
        texts=lambda: TokenWriter.of(tokenizer_json, vocab_size=config.vocab_size, end_of_text=end),
    )


def _evaluator(folder: Path, parent: Parent, plan: ForkPlan, options: ForkOptions) -> Evaluator:
    config, recipe, length = plan.model, plan.recipe, plan.recipe.sequence_length
    opened = _open(options.eval, parent, config, options, plan.tokenizer_json).sources if options.eval else ()
    files = {source.name: TokenFiles.cut([source], length=length, vocab_size=config.vocab_size) for source in opened}
    return Evaluator(folder / EVALUATION_TABLE, files, recipe, options.eval_every, parent.step)


def _begin(
    checkpoint: Checkpoint, parent: Parent, plan: ForkPlan, options: ForkOptions
) -> tuple[TrainState, Mapping[str, Any]]:
    """The state at the fork and its lineage; the first loss is compared with the parent's before weights are edited."""
    if parent.form == "ours":
        verify_large_files(checkpoint)
    state = restore_state(checkpoint, parent, plan.recipe, moments=plan.moments)
    losses = first_losses(checkpoint, state, plan, parent_loss=options.parent_loss)
    _refuse_jump(*losses, accepted=options.accept_loss_jump)
    lineage = _lineage(checkpoint, parent, plan, options, losses)
    if plan.edits:
        lineage["edits"] = apply_edits(state, options)
        lineage["first_batch"]["loss_edited"] = _loss(state, next_batch(plan.batches, state), plan)
    return state, lineage


def _loss(state: TrainState, batch: Batch, plan: ForkPlan) -> float:
    return evaluate(state.model, batch, plan.recipe).cross_entropy


def _refuse_jump(first: float, expected: float, known_from: str, *, accepted: bool) -> None:
    if not accepted and not first - expected <= JUMP:
        raise TrainingError(
            f"the first batch's loss must be about {expected:.3f} ({known_from}), but is {first:.3f}: check data, dtype and "
            "tokenizer, or pass --accept-loss-jump"
        )


def _resume(out: Path, checkpoint: Checkpoint, plan: ForkPlan) -> Resumed | None:
    """Read the newest sound checkpoint of the fork, if `out` holds this fork; None if it holds nothing.

    Raises:
        TrainingError: `out` holds something else.
        CheckpointError: every checkpoint in `out` is damaged.
    """
    planned, revision = json.loads(json.dumps(plan.to_json())), checkpoint.revision

    def check(lineage: Mapping[str, Any]) -> None:
        given = lineage.get("parent")
        parent = given if isinstance(given, dict) else {}
        same_parent = (parent.get("revision"), parent.get("commit")) == (revision.name, revision.commit)
        if not same_parent or lineage.get("fork") != planned:
            raise TrainingError(f"{out} must hold this fork or nothing, but holds another run: choose another --out")

    return read_newest(out, check)


def _lineage(
    checkpoint: Checkpoint, parent: Parent, plan: ForkPlan, options: ForkOptions, losses: tuple[float, float, str]
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
