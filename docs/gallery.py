"""Write `reference/gallery.md` and its pictures: every plot, drawn from stores of small runs that are trained here.

    python docs/gallery.py          # minutes: trains, collects, draws

`tests/documents/test_gallery.py` runs every figure's code on smaller runs, and holds that no plot is missing.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import olmo_dynamics as od
from olmo_dynamics import frames
from olmo_dynamics.experiments.demo import STANDARD, DemoSize, fork_from_the_middle, pretrain
from olmo_dynamics.model.config import Experts, ModelConfig
from olmo_dynamics.progress import Progress
from olmo_dynamics.training.fork.run import next_batches
from olmo_dynamics.training.recipe import Recipe

DOCS = Path(__file__).parent
PICTURES = DOCS / "images" / "gallery"
GROUPS = (
    *("loss", "parameters", "embeddings", "activations", "outliers", "logits", "sketches", "spectra", "optimizer"),
    *("attention", "writes", "lens", "induction", "ngram", "representations", "tokens", "gradients", "evaluation"),
)
OF_EXPERTS = ("loss", "routing", "experts")
SETTING = """import polars as pl

import olmo_dynamics as od
from olmo_dynamics import frames

store = od.open_store("demo.zarr")  # of a run like the demo's, of 900 steps, with all groups
moe = od.open_store("moe.zarr")  # of a small OLMoE
decayed = od.open_store("decayed.zarr")  # of a run with much weight decay, with sketches
memory = od.memorisation(od.open_store("memory.zarr"), batch="batch", twin="twin", step=378)
curve = od.interpolate("run", "step107-tokens109568", "step900-tokens921600")  # of that run
branches = pl.read_parquet("cbs/branches.parquet")  # of od.critical_batch, from three of its revisions
"""


@dataclass(frozen=True)
class Figure:
    """One plot of the gallery."""

    plot: str
    code: str
    shows: str
    hides: str


def figures() -> dict[str, list[Figure]]:
    """The figures by the title of their section."""
    parts = tomllib.loads((DOCS / "gallery.toml").read_text(encoding="utf-8"))["section"]
    return {part["title"]: [Figure(**each) for each in part["figure"]] for part in parts}


def prepare(folder: Path, dense: DemoSize, sparse: DemoSize) -> dict[str, Any]:
    """The names that the figures' code uses: a dense run, its store, a fork, the memory of a batch; a store with experts."""
    quiet = Progress()
    run = pretrain(folder / "dense", size=dense, progress=quiet)
    corpus = folder / "dense" / "corpus"
    store = od.collect(
        run, out=folder / "demo.zarr", record=GROUPS, counts=corpus / "train.npy", tasks=["agreement"], progress=quiet
    )
    fork_from_the_middle(folder / "dense", folder / "fork", size=dense, progress=quiet)
    with_experts = pretrain(folder / "experts", size=sparse, progress=quiet)
    moe = od.collect(with_experts, out=folder / "moe.zarr", record=OF_EXPERTS, progress=quiet)
    turning = pretrain(folder / "decayed", size=DecayedSize(**asdict(sparse)), progress=quiet)
    decayed = od.collect(turning, out=folder / "decayed.zarr", record="sketches", progress=quiet)
    return {"od": od, "pl": pl, "frames": frames, "store": store, "moe": moe, "decayed": decayed, "run": run,
            "fork": folder / "fork", "memory": _memory(folder, run, dense), "curve": _curve(run, quiet),
            "branches": _branches(folder, run, dense)}  # fmt: skip


def _curve(run: Path, quiet: Progress) -> pl.DataFrame:
    """The losses between a revision from the middle of the run and the last, without a name of this machine's."""
    revisions = od.Run(run)
    return od.interpolate(revisions, len(revisions) // 2, -1, points=21, progress=quiet)


def _branches(folder: Path, run: Path, size: DemoSize) -> pl.DataFrame:
    """Branches of three revisions, the last of which is not the run's last, on the end of the corpus."""
    revisions = [od.Run(run)[place].name for place in (2, size.revisions // 2, -2)]
    tokens = np.load(folder / "dense" / "corpus" / "train.npy").reshape(-1)
    np.save(folder / "held_out.npy", tokens[-16 * size.sequence_length :])
    return od.critical_batch(
        run, revisions, data=[folder / "dense" / "corpus" / "train.npy"], out=folder / "cbs",
        tokens=32 * size.recipe.tokens_per_step, multipliers=(0.25, 0.5, 1, 2, 4, 8), held_out=[folder / "held_out.npy"],
        progress=Progress(),
    )  # fmt: skip


def _memory(folder: Path, run: Path, size: DemoSize) -> pl.DataFrame:
    """The loss on the batch of a step in the middle, beside the last sequences of the corpus, which the run never reads."""
    step = max(step for step in size.recipe.save_at if 2 * step <= size.steps)
    length, count = size.sequence_length, size.sequences_per_step
    tokens = np.load(folder / "dense" / "corpus" / "train.npy").reshape(-1)
    revision = next(found.name for found in run.glob(f"step{step}-*"))
    _, [batch] = next_batches(str(run), revision, data=[str(folder / "dense" / "corpus" / "train.npy")])
    np.save(folder / "batch.npy", batch.token_ids.numpy().astype(tokens.dtype))
    np.save(folder / "twin.npy", tokens[-count * length :].reshape(count, length))
    probe = [folder / "batch.npy", folder / "twin.npy"]
    store = od.collect(
        run, out=folder / "memory.zarr", record="tokens", tokens=probe, batch=(2 * count, length), progress=Progress()
    )
    return od.memorisation(store, batch="batch", twin="twin", step=step + 1)


def draw(figure: Figure, names: dict[str, Any]) -> Any:
    """The chart: the value of the last line of the figure's code."""
    *before, last = figure.code.strip().splitlines()
    exec("\n".join(before), names)  # noqa: S102 - our own documents
    return eval(last, names)  # noqa: S307 - our own documents


def page() -> str:
    """The gallery's page."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield "<!-- Generated by docs/gallery.py from docs/gallery.toml; edit that, not this page. -->\n"
    yield "# Gallery\n"
    yield "Every plot at a glance. A click leads to its signature, the code that drew the figure, and what it does not show. The"
    yield "runs are small and trained in minutes (a dense one of four layers, and one with eight experts), so read the shapes and"
    yield "not the values. The code of all figures begins with:\n"
    yield f"```py\n{SETTING}```\n"
    for title, found in figures().items():
        page = f"plots/{title.split(maxsplit=1)[0].strip(',').lower()}.md"
        yield f"## [{title}]({page})\n"
        for figure in found:
            place = f"{page}#{figure.plot}"
            yield f"- [![{figure.plot}](../images/gallery/{figure.plot}.png)]({place})"
            yield f"  [`{figure.plot}`]({place}): {figure.shows}"
        yield ""


@dataclass(frozen=True, kw_only=True)
class SparseSize(DemoSize):
    """The size of a run with experts: an OLMoE with eight experts, two per token."""

    @property
    def config(self) -> ModelConfig:
        """The model."""
        experts = Experts(count=8, per_token=2)
        return replace(super().config, model_type="olmoe", experts=experts, kv_heads=self.heads)


@dataclass(frozen=True, kw_only=True)
class DecayedSize(DemoSize):
    """The size of a run with weight decay enough to come to rotational equilibrium."""

    @property
    def recipe(self) -> Recipe:
        """The recipe."""
        return replace(super().recipe, weight_decay=6 / (self.steps * self.peak_lr))


def main() -> None:
    """Train, collect, draw, and write the page with its pictures."""
    sparse = SparseSize(layers=2, intermediate_size=64, steps=300, revisions=12)
    names = prepare(DOCS.parent / "cache" / "gallery", STANDARD, sparse)
    PICTURES.mkdir(parents=True, exist_ok=True)
    for figure in (each for found in figures().values() for each in found):
        print(figure.plot)
        draw(figure, dict(names)).save(PICTURES / f"{figure.plot}.png", scale_factor=0.5)
    (DOCS / "reference" / "gallery.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
