"""`od.fork`: train on from a published step, with its metrics in a table and, if asked, its recordings in a store.

    >>> made = fork("olmo-demo/run", "step445-tokens455680", data=["train.npy"], out="forks/a", steps=100,  # doctest: +SKIP
    ...             schedule="linear", record="parameters,activations", every=10)
    >>> od.metrics("forks/a"), od.open_store("forks/a/store.zarr")                              # doctest: +SKIP

Training knows nothing of tables and stores. It takes callbacks, and here they are chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from olmo_dynamics.checkpoints import Source
from olmo_dynamics.collection.conductor import compact
from olmo_dynamics.collection.measurement import settle
from olmo_dynamics.collection.recording import record
from olmo_dynamics.errors import OptionError
from olmo_dynamics.frames import open_store
from olmo_dynamics.frames.curves import MetricsTable
from olmo_dynamics.progress import Silent, Steps
from olmo_dynamics.training.boards import TensorBoard, WandB
from olmo_dynamics.training.checkpoint import checkpoint_name
from olmo_dynamics.training.forking import Fork, HasSource
from olmo_dynamics.training.forking import fork as train_on
from olmo_dynamics.training.metrics import Metrics, Row
from olmo_dynamics.training.plans import Plan
from olmo_dynamics.training.ranks import rank, whole_model
from olmo_dynamics.training.state import TrainState
from olmo_dynamics.training.trainer import Event

STORE = "store.zarr"
"""Where a fork's recordings go, within its folder, unless another place is given."""


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Who watches a fork, and what is kept of it.

    Attributes:
        record: groups to measure while training, as names or as `parameters,activations`; empty for none.
        every: steps from one recording to the next, counted from the fork; its first and last are always recorded.
        store: where recordings go; `store.zarr` in the fork's folder unless given.
        measure: further keyword options of `od.record`, such as `{"batch": "4x128"}`.
        tensorboard: a folder for TensorBoard's event files.
        wandb: a project of Weights & Biases.
        callbacks: called after each update with its `Event`.
        progress: who is told how far it is; a bar on stderr unless given (`Silent()` for none).
    """

    record: str | Collection[str] = ()
    every: int = 10
    store: str | Path | None = None
    measure: Mapping[str, Any] = field(default_factory=dict)
    tensorboard: str | Path | None = None
    wandb: str | None = None
    callbacks: Sequence[Callable[[Event], None]] = ()
    progress: Silent | None = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise OptionError(f"every must be at least 1 step; got {self.every}")
        if self.groups:
            settle({"record": self.groups})  # refuses a group that is none
        if self.tensorboard is not None:
            TensorBoard.library()
        if self.wandb is not None:
            WandB.library()

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups to record."""
        names = self.record.split(",") if isinstance(self.record, str) else self.record
        return tuple(name.strip() for name in names if name.strip())


WATCH_OPTIONS = tuple(each.name for each in fields(Watch))


def fork(
    run: HasSource | Source | str | Path,
    revision: str,
    *,
    data: Sequence[str | Path],
    out: str | Path,
    steps: int,
    **options: Any,
) -> Fork:
    """Train `steps` more updates from a revision into `out`, one folder a checkpoint; run again, it continues.

    Without options it does what the parent would have done. They are the fields of `olmo_dynamics.training.options.Options`
    (what is done otherwise: `lr=1e-4, schedule="linear"`), those of `Watch` (`record="parameters", every=10`), `device`
    ("cpu", or "cuda"), and `dry_run`. `metrics.parquet` in `out` gets a row an update. Processes that torchrun started
    fork together: the first tells, writes and records; callbacks are called in each, with its part of the state.

    Raises: TrainingError for what cannot be continued, or a first loss that jumps; OptionError for options without meaning.
    """
    watch = Watch(**{name: options.pop(name) for name in WATCH_OPTIONS if name in options})
    with ExitStack() as opened:

        def watchers(plan: Plan, state: TrainState) -> list[Callable[[Event], None]]:
            return opened.enter_context(_watching(watch, Path(out), plan, state))

        return train_on(run, revision, data=data, out=out, steps=steps, watch=watchers, **options)


@contextmanager
def _watching(watch: Watch, out: Path, plan: Plan, state: TrainState) -> Iterator[list[Callable[[Event], None]]]:
    """The callbacks of a fork that is about to train; what they hold is written when it ends, however it ends."""
    with ExitStack() as ending:
        watchers = list(watch.callbacks)
        if watch.groups:
            recording = Recording(watch, out, plan)
            ending.callback(recording.close)
            watchers.insert(0, recording.begin(state))
        if rank() == 0:
            watchers.insert(0, Metrics(_sinks(watch, out, plan, state, ending), state.tokens_seen))
        yield watchers


def _sinks(watch: Watch, out: Path, plan: Plan, state: TrainState, ending: ExitStack) -> list[Callable[[Row], None]]:
    """Who is told of an update: the table, the boards asked for, the bar; `ending` closes them."""
    table = MetricsTable(out, step=state.step, save_at=plan.recipe.save_at)
    ending.callback(table.save)
    boards: list[TensorBoard | WandB] = []
    if watch.tensorboard is not None:
        boards.append(TensorBoard(watch.tensorboard))
    if watch.wandb is not None:
        boards.append(WandB(watch.wandb, plan.to_json()))
    for board in boards:
        ending.callback(board.close)
    progress = ending.enter_context(watch.progress or Steps())
    return [table, *boards, _tell(progress, plan, state)]


def _tell(progress: Silent, plan: Plan, state: TrainState) -> Callable[[Row], None]:
    """A sink that moves a bar on."""
    saved = set(plan.recipe.save_at)
    left = sum(step > state.step for step in saved)
    progress.expect(revisions=left, nbytes=plan.recipe.steps - state.step)

    def tell(row: Row) -> None:
        progress.begin(f"loss {row['loss']:.3f}  {row['tokens_per_second']:,.0f} tokens/s")
        progress.advance(1)
        if row["step"] in saved:
            progress.finish(checkpoint_name(int(row["step"]), int(row["tokens"])))

    return tell


@dataclass(frozen=True)
class Recording:
    """A callback of `train` that measures the model into a store every so many steps after the fork, and at its end."""

    watch: Watch
    out: Path
    plan: Plan

    def begin(self, state: TrainState) -> Recording:
        """Record the state that the fork begins with; where it goes on, that is there already, or was not asked for.

        Raises: OptionError for what is read as text where there is no tokenizer.
        """
        needy = [group for group in self.watch.groups if group != "parameters"]
        if needy and self.plan.tokenizer_json is None and "probe" not in self.watch.measure:
            raise OptionError(
                f"recording {needy[0]} reads text and the revision has no tokenizer.json: give --tokenizer FILE, or record "
                "parameters alone"
            )
        if state.step == self.plan.begin:
            self._record(state)
        return self

    def __call__(self, event: Event) -> None:
        """Record if it is time."""
        if (event.step - self.plan.begin) % self.watch.every == 0 or event.step == self.plan.recipe.steps:
            self._record(event.state)

    def close(self) -> None:
        """Make the store's series fast to read."""
        if rank() == 0 and self.store.exists():
            compact(open_store(self.store, mode="a"))

    @property
    def store(self) -> Path:
        """Where recordings go."""
        return Path(self.watch.store or self.out / STORE)

    def _record(self, state: TrainState) -> None:
        model = whole_model(state.model)
        if model is None:
            return
        record(
            model,
            self.store,
            step=state.step,
            tokens=state.tokens_seen,
            source=str(self.out),
            tokenizer=self.plan.tokenizer_json,
            record=self.watch.groups,
            **self.watch.measure,
        )
