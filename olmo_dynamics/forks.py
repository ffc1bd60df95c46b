"""`od.fork`: train on from a published step, with its metrics in a table and, on request, recordings in a store.

>>> made = fork("cache/demo/run", "step445-tokens455680", data=["train.npy"], out="forks/a", steps=100,  # doctest: +SKIP
...             schedule="linear", record="parameters,activations", every=10)
>>> od.metrics("forks/a"), od.open_store("forks/a/store.zarr")                              # doctest: +SKIP

Training has no access to tables and stores: it takes callbacks, and this module chooses them. It imports torch, and the
recorders, only when a fork needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from olmo_dynamics.errors import OptionError, reject_unknown
from olmo_dynamics.names import Revision
from olmo_dynamics.training.fork.keywords import ForkKeywords
from olmo_dynamics.training.fork.option import (
    FILE,
    PYTHON_ONLY,
    check_options,
    declared_options,
    option,
)
from olmo_dynamics.training.fork.options import FORK_OPTIONS

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from olmo_dynamics.checkpoints import Source
    from olmo_dynamics.model import LanguageModel
    from olmo_dynamics.progress import Progress
    from olmo_dynamics.recorders import Recorder
    from olmo_dynamics.training.fork.plan import ForkPlan
    from olmo_dynamics.training.fork.run import Fork, HasSource
    from olmo_dynamics.training.loggers import TensorBoard, WandB
    from olmo_dynamics.training.metrics import Row
    from olmo_dynamics.training.state import TrainState
    from olmo_dynamics.training.trainer import Event

STORE = "store.zarr"
"""Default name of the store of a fork's recordings, within its folder."""


@dataclass(frozen=True, kw_only=True)
class ForkMonitoring:
    """Logs and recordings of a fork.

    Attributes:
        record: groups to measure while training, as `od.collect` takes them (names, `parameters,activations`, or recorders of
            your own); empty for none.
        every: steps between two recordings, counted from the fork; its first and last steps are always recorded.
        store: the store of the recordings; `store.zarr` in the fork's folder by default.
        measure: further keyword options of `od.record`, such as `{"batch": "4x128"}`.
        tensorboard: a folder for TensorBoard's event files.
        wandb: a project of Weights & Biases.
        callbacks: called after each update with its `Event`.
        progress: a listener for progress; a bar on stderr by default, `Progress()` for none.
    """

    record: str | Collection[Any] = option(
        "Groups to record while training: parameters,activations,… or package.module:Class", metavar="NAMES", default=()
    )
    every: int = option("Steps between two recordings.", int, "STEPS", default=10, at_least=1)
    store: str | Path | None = option("Store of the recordings. Default: store.zarr in --out.", FILE, "STORE")  # noqa: RUF009
    measure: Mapping[str, Any] | None = field(default=None, metadata=PYTHON_ONLY)
    tensorboard: str | Path | None = option("Also write TensorBoard's event files to this folder.", FILE, "DIR")  # noqa: RUF009
    wandb: str | None = option("Also log to a project of Weights & Biases.", metavar="PROJECT")
    callbacks: Sequence[Callable[[Event], None]] = field(default=(), metadata=PYTHON_ONLY)
    progress: Progress | None = field(default=None, metadata=PYTHON_ONLY)

    def __post_init__(self) -> None:
        check_options(self)
        _ = self.recorders  # refuses unknown groups
        if self.tensorboard is not None or self.wandb is not None:
            from olmo_dynamics.training.loggers import TensorBoard, WandB

            _ = self.tensorboard is None or TensorBoard.library()
            _ = self.wandb is None or WandB.library()

    @property
    def recorders(self) -> tuple[Recorder, ...]:
        """The recorders of what is recorded; empty where nothing is, and then no recorder is imported."""
        if not self.record:
            return ()
        from olmo_dynamics.collection.options import CollectOptions

        return CollectOptions(record=self.record, counts=(self.measure or {}).get("counts")).recorders


MONITORING_OPTIONS = declared_options(ForkMonitoring)


class MonitoredForkKeywords(ForkKeywords, total=False):
    """Keyword options of `od.fork`: those of `ForkOptions`, then those of `ForkMonitoring`."""

    record: str | Collection[Any]
    every: int
    store: str | Path | None
    measure: Mapping[str, Any] | None
    tensorboard: str | Path | None
    wandb: str | None
    callbacks: Sequence[Callable[[Event], None]]
    progress: Progress | None


def fork(
    run: HasSource | Source | str | Path,
    revision: str | int | Revision,
    *,
    data: Sequence[str | Path],
    out: str | Path,
    steps: int,
    dry_run: bool = False,
    **options: Unpack[MonitoredForkKeywords],
) -> Fork:
    """Train `steps` more updates from a revision into `out`, one folder per checkpoint; the same call resumes a stopped fork.

    `revision` is a name, a place such as -1 for the last one, or a `Revision` such as `run.at(step=1000)`.
    Without options it does what the parent would have done. The options are the fields of
    `olmo_dynamics.training.fork.options.ForkOptions` (how the fork departs from its parent: `lr=1e-4, schedule="linear"`) and
    those of `ForkMonitoring` (`record="parameters", every=10`). `metrics.parquet` in `out` gets one row per update.
    Processes that torchrun started fork together: the first reports, writes and records; callbacks are called in each,
    with its part of the state.

    Raises:
        TrainingError: the parent cannot be continued, or the first loss is far above the expected one.
        OptionError: an option is unknown or invalid.
    """
    from olmo_dynamics.training.fork.run import fork as train_on

    given: dict[str, Any] = dict(options)
    reject_unknown(given, [*FORK_OPTIONS, *MONITORING_OPTIONS, "data", "out", "steps", "dry_run"])
    monitoring = ForkMonitoring(**{name: given.pop(name) for name in MONITORING_OPTIONS if name in given})
    source: Any = getattr(run, "source", run)
    name = _name(source, revision)
    parent = f"{source if isinstance(source, str | Path) else source.name}@{name}"
    with ExitStack() as opened:

        def callbacks(plan: ForkPlan, state: TrainState) -> list[Callable[[Event], None]]:
            return opened.enter_context(_monitored(monitoring, Path(out), plan, state, parent))

        return train_on(run, name, data=data, out=out, steps=steps, dry_run=dry_run, callbacks=callbacks, **given)


def _name(source: Source | str | Path, revision: str | int | Revision) -> str:
    """The name of a revision that is given by name, by its place among the revisions, or as `run[-1]` gives it."""
    if isinstance(revision, int):
        from olmo_dynamics.frames.run import Run

        revision = Run(source)[revision]
    return revision if isinstance(revision, str) else revision.name


@contextmanager
def _monitored(
    monitoring: ForkMonitoring, out: Path, plan: ForkPlan, state: TrainState, parent: str
) -> Iterator[list[Callable[[Event], None]]]:
    """The callbacks of a fork that is about to train; their logs and recordings are completed when it ends, in any way."""
    from olmo_dynamics.training.distributed import rank
    from olmo_dynamics.training.metrics import Metrics

    with ExitStack() as ending:
        callbacks = list(monitoring.callbacks)
        if monitoring.record:
            recording = Recording(monitoring, out, plan, parent)
            ending.callback(recording.close)
            callbacks.insert(0, recording.begin(state))
        if rank() == 0:
            callbacks.insert(0, Metrics(_sinks(monitoring, out, plan, state, ending), state.tokens_seen))
        yield callbacks


def _sinks(
    monitoring: ForkMonitoring, out: Path, plan: ForkPlan, state: TrainState, ending: ExitStack
) -> list[Callable[[Row], None]]:
    """The receivers of each update's metrics: the table, the loggers, the progress bar; `ending` closes them."""
    from olmo_dynamics.frames.curves import MetricsTable
    from olmo_dynamics.progress import StepBar
    from olmo_dynamics.training.loggers import TensorBoard, WandB

    table = MetricsTable(out, step=state.step, save_at=plan.recipe.save_at)
    ending.callback(table.save)
    loggers: list[TensorBoard | WandB] = []
    if monitoring.tensorboard is not None:
        loggers.append(TensorBoard(monitoring.tensorboard))
    if monitoring.wandb is not None:
        loggers.append(WandB(monitoring.wandb, plan.to_json()))
    for logger in loggers:
        ending.callback(logger.close)
    progress = ending.enter_context(monitoring.progress or StepBar())
    for note in plan.notes:
        progress.note(note)
    return [table, *loggers, _progress_sink(progress, plan, state)]


def _progress_sink(progress: Progress, plan: ForkPlan, state: TrainState) -> Callable[[Row], None]:
    """A sink that advances a progress bar."""
    from olmo_dynamics.training.checkpoint import checkpoint_name

    saved = set(plan.recipe.save_at)
    left = sum(step > state.step for step in saved)
    progress.expect(revisions=left, nbytes=plan.recipe.steps - state.step)

    def report(row: Row) -> None:
        progress.begin(f"loss {row['loss']:.3f}  {row['tokens_per_second']:,.0f} tokens/s")
        progress.advance(1)
        if row["step"] in saved:
            progress.finish(checkpoint_name(int(row["step"]), int(row["tokens"])))

    return report


@dataclass(frozen=True)
class Recording:
    """A callback of `train` that measures the model into a store every so many steps after the fork, and at its end."""

    monitoring: ForkMonitoring
    out: Path
    plan: ForkPlan
    parent: str

    def begin(self, state: TrainState) -> Recording:
        """Record the state that the fork begins with; a resumed fork has recorded it before.

        Raises:
            OptionError: a group is measured on text and there is no tokenizer.
        """
        of_text = [each.group.name for each in self.monitoring.recorders if each.reads_probe]
        if of_text and self.plan.tokenizer_json is None and "probe" not in (self.monitoring.measure or {}):
            raise OptionError(
                f"recording {of_text[0]} reads text and the revision has no tokenizer.json: give --tokenizer FILE, or record "
                "weights alone, such as parameters"
            )
        if state.step == self.plan.begin:
            self._record(state)
        return self

    def __call__(self, event: Event) -> None:
        """Record the model if its step is due."""
        if (event.step - self.plan.begin) % self.monitoring.every == 0 or event.step == self.plan.recipe.steps:
            self._record(event.state)

    def close(self) -> None:
        """Compact the store, so that series over revisions are fast to read."""
        from olmo_dynamics.collection.collector import compact
        from olmo_dynamics.frames import open_store
        from olmo_dynamics.training.distributed import rank

        if rank() == 0 and self.store.exists():
            compact(open_store(self.store, mode="a"))

    @property
    def store(self) -> Path:
        """The path of the store."""
        return Path(self.monitoring.store or self.out / STORE)

    def _record(self, state: TrainState) -> None:
        from olmo_dynamics.collection.live import record

        found = self._gathered(state)
        if found is None:
            return
        model, optimizer = found
        record(
            model,
            self.store,
            step=state.step,
            tokens=state.tokens_seen,
            source=str(self.out),
            parent=self.parent,
            tokenizer=self.plan.tokenizer_json,
            optimizer=optimizer,
            record=self.monitoring.record,
            **(self.monitoring.measure or {}),
        )

    def _gathered(self, state: TrainState) -> tuple[LanguageModel, Optimizer | None] | None:
        """The whole model, and its optimiser if a group reads it; None on all ranks but 0. All processes must call this."""
        from olmo_dynamics.quantities.declaration import Reads
        from olmo_dynamics.training.distributed import gather_model, gather_state

        if all(each.reads is not Reads.OPTIMIZER for each in self.monitoring.recorders):
            model = gather_model(state.model)
            return None if model is None else (model, None)
        whole = gather_state(state, self.plan.recipe)
        if whole is None:
            return None
        rate = self.plan.recipe.learning_rate(state.step, state.tokens_seen)
        for group in whole.optimizer.param_groups:
            group["lr"] = rate  # before a fork's first update, and where it was gathered, it is the peak
        return whole.model, whole.optimizer
