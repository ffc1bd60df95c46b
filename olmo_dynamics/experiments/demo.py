"""A whole pretraining run in a minute, offline: a tiny OLMo 2 on the standard library's text, saved 24 times.

The revisions are log-spaced from step 0 and have the form of a published run, so everything that reads checkpoints reads
them.

    >>> from tempfile import mkdtemp
    >>> run = pretrain(Path(mkdtemp()), size=SMALL)
    >>> sorted(folder.name for folder in run.glob("step*"))[0]
    'step0-tokens0'
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path

import torch

from olmo_dynamics.errors import TrainingError
from olmo_dynamics.experiments.corpus import END_OF_TEXT_ID, PADDING_ID, Corpus, build_corpus
from olmo_dynamics.frames.curves import MetricsTable
from olmo_dynamics.model import ModelConfig
from olmo_dynamics.progress import Progress, ProgressBar, StepBar
from olmo_dynamics.training.checkpoint import CheckpointWriter, checkpoint_name
from olmo_dynamics.training.checkpoint_reader import open_written, read_checkpoint, read_lineage
from olmo_dynamics.training.metrics import Metrics
from olmo_dynamics.training.recipe import Recipe, log_spaced
from olmo_dynamics.training.state import TrainState, new_state
from olmo_dynamics.training.trainer import Event, train

WORKERS = 2  # more are no faster with matrices this small


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoSize:
    """The size of the demo: its text, its model and its run."""

    corpus_bytes: int = 6_000_000
    entries: int = 4096  # of the tokenizer
    hidden_size: int = 96
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    intermediate_size: int = 256
    sequence_length: int = 128
    sequences_per_step: int = 8
    steps: int = 900
    peak_lr: float = 6e-3
    revisions: int = 24

    @property
    def config(self) -> ModelConfig:
        """The model; its embedding has up to 64 rows more than the tokenizer has entries, as OLMo 2's has 74 more."""
        return ModelConfig(
            hidden_size=self.hidden_size,
            layers=self.layers,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.hidden_size // self.heads,
            intermediate_size=self.intermediate_size,
            vocab_size=(self.entries // 64 + 1) * 64,
            max_positions=self.sequence_length,
            norm_eps=1e-6,
            rope_theta=5e5,
            pad_token_id=PADDING_ID,
            eos_token_id=END_OF_TEXT_ID,
        )

    @property
    def recipe(self) -> Recipe:
        """The training recipe."""
        return Recipe(
            steps=self.steps,
            sequences_per_step=self.sequences_per_step,
            sequence_length=self.sequence_length,
            peak_lr=self.peak_lr,
            warmup_steps=self.steps // 20,
            save_at=log_spaced(self.steps, self.revisions),
            workers=WORKERS,
        )

    def make_corpus(self) -> Corpus:
        """The text, as tokens."""
        return build_corpus(max_bytes=self.corpus_bytes, entries=self.entries)


STANDARD = DemoSize()  # of the notebooks
BRIEF = DemoSize(steps=400)  # of `olmo-dyn demo`: a minute from the command to the report
SMALL = DemoSize(
    corpus_bytes=200_000,
    entries=512,
    hidden_size=32,
    layers=2,
    intermediate_size=96,
    sequence_length=64,
    sequences_per_step=8,
    steps=20,
    revisions=6,
)  # seconds: for tests


def pretrain(out: Path, *, size: DemoSize = STANDARD, progress: Progress | None = None) -> Path:
    """Train the demo's model and return the folder of its revisions, `out/run`; the corpus goes into `out/corpus`.

    A finished run is returned at once, and an interrupted one resumes from its last checkpoint.

    Raises:
        TrainingError: `out` holds a run of another size.
    """
    run, recipe = out / "run", size.recipe
    names = [checkpoint_name(step, step * recipe.tokens_per_step) for step in recipe.save_at]
    done = list(takewhile(lambda name: (run / name).is_dir(), names))
    for name in done[-1:]:
        _require_same_size(run / name, size)
    if done == names:
        return run
    corpus = _corpus(out / "corpus", size, keep=bool(done))
    writer = CheckpointWriter(run, recipe, corpus.tokenizer_json, _lineage(size, corpus))
    with _one_thread():
        state = read_checkpoint(run / done[-1])[0] if done else new_state(size.config, recipe)
        writer.write(state)
        _train(state, writer, corpus, progress or Progress())
    return run


@dataclass(frozen=True, slots=True)
class Demo:
    """The paths of the demo's results."""

    run: Path  # a folder of revisions
    fork: Path  # another, from the middle of the first
    store: Path
    report: Path


def run_demo(out: str | Path, *, size: DemoSize = BRIEF, quiet: bool = False) -> Demo:
    """Pretrain, collect every revision, fork the run and write the report; finished parts are reused, the rest resumes.

    Raises:
        TrainingError: `out` holds a run of another size.
    """
    from olmo_dynamics.collecting import collect
    from olmo_dynamics.experiments.compiling import compiling_aside
    from olmo_dynamics.reporting import write_report

    folder = Path(out)
    with compiling_aside():
        run = pretrain(folder, size=size, progress=Progress() if quiet else StepBar())
    demo = Demo(run, folder / "fork", folder / "store.zarr", folder / "report.html")
    store = collect(run, out=demo.store, progress=Progress() if quiet else ProgressBar())
    fork_from_the_middle(folder, demo.fork, size=size, progress=Progress() if quiet else StepBar())
    write_report(store, demo.report, forks=[demo.fork])
    return demo


def fork_from_the_middle(out: Path, fork: Path, *, size: DemoSize = STANDARD, progress: Progress | None = None) -> None:
    """Fork the demo in its middle, with a learning rate that falls to zero over a fifteenth of its steps, into `fork`."""
    from olmo_dynamics.forks import fork as fork_run

    recipe, steps = size.recipe, max(size.steps // 15, 2)
    middle = max(step for step in recipe.save_at if 2 * step <= size.steps)
    with _one_thread():
        fork_run(
            out / "run",
            checkpoint_name(middle, middle * recipe.tokens_per_step),
            data=[out / "corpus" / "train.npy"],
            out=fork,
            steps=steps,
            schedule="linear",
            save=(),
            record=("parameters", "activations"),
            every=-(-steps // 2),  # at the fork, in its middle and at its end
            accept_loss_jump=True,  # between two batches this small the loss may jump by more than a fork's may
            progress=progress,
        )


def _train(state: TrainState, writer: CheckpointWriter, corpus: Corpus, progress: Progress) -> None:
    recipe = writer.recipe
    table = MetricsTable(writer.run, step=state.step, save_at=recipe.save_at)
    metrics = Metrics([table], state.tokens_seen)

    def report(event: Event) -> None:
        progress.advance(1)
        if event.step in recipe.save_at:
            progress.finish(checkpoint_name(event.step, event.tokens_seen))

    with progress:
        left = [step for step in recipe.save_at if step > state.step]
        progress.expect(revisions=len(left), nbytes=recipe.steps - state.step)
        progress.begin("training")
        train(state, recipe, corpus.train, callbacks=[metrics, writer, report])


def _corpus(folder: Path, size: DemoSize, *, keep: bool) -> Corpus:
    """The corpus of the interrupted run, or a new one."""
    if keep and folder.is_dir():
        return Corpus.load(folder)
    corpus = size.make_corpus()
    corpus.save(folder)
    return corpus


def _lineage(size: DemoSize, corpus: Corpus) -> dict[str, object]:
    data = {"tokens": corpus.train.size, "sha256": hashlib.sha256(corpus.train.tobytes()).hexdigest()}
    return {"parent": None, "demo": asdict(size), "data": data}


def _require_same_size(checkpoint: Path, size: DemoSize) -> None:
    with open_written(checkpoint) as opened:
        lineage = read_lineage(opened)
    if lineage.get("demo") != asdict(size):
        raise TrainingError(
            f"{checkpoint.parent} must hold a demo of this size or nothing (got another run); choose another folder"
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread outside the workers too, where the work is too small to share."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
