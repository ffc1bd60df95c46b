"""The page of a store: its head, its sections, those of its forks, and facts about the page.

>>> write_report(open_store("olmo2-1b.zarr"), "report.html", revisions="stage1:log24")  # doctest: +SKIP
PosixPath('report.html')
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from olmo_dynamics.errors import DiskFullError, OptionError, counted
from olmo_dynamics.files import atomic_writer
from olmo_dynamics.frames import JoinedStore, RecordedStore, TrainingLogs, forest, read_logs
from olmo_dynamics.frames.lineage import read_line, require_run_folder, run_folder
from olmo_dynamics.plots.display import begin_libraries
from olmo_dynamics.plots.page import Head, page
from olmo_dynamics.reporting.chapters import FORKS, within
from olmo_dynamics.reporting.choice import Choice
from olmo_dynamics.reporting.drawing import Drawn
from olmo_dynamics.reporting.fork_sections import fork_sections
from olmo_dynamics.reporting.head_lines import head_lines
from olmo_dynamics.reporting.sections import sections
from olmo_dynamics.reporting.timeline import run_sentences, source_name, timeline

_FEW = 12  # names of revisions that fit in a line of the facts


def write_report(
    store: RecordedStore,
    out: str | Path,
    *,
    forks: Sequence[str | Path] = (),
    revisions: str = "",
    tensors: Sequence[str] = (),
    x: str = "step",
    logs: Sequence[str | Path] = (),
) -> Path:
    """Write the page of a store's plots, one self-contained HTML file, and return its path.

    `forks` are folders of forks of the run, drawn beside it. `revisions` is an expression as for a collection and `tensors`
    are globs of names or roles; both choose from the store, and by default everything is drawn. `x` is `step` or `tokens`.
    `logs` are files of the training's logs, which are searched for spikes.

    Raises:
        StoreError: the store holds no finished revision.
        SelectionError: `revisions` is invalid or matches none of the store.
        OptionError: the file cannot be written there, `tensors` match none, no revision has tokens for the axis, a
            folder is not a fork made by olmo_dynamics, or logs cannot be read or are of another run.
        DiskFullError: there is no room; nothing is left behind.
    """
    target = Path(out)
    if target.is_dir() or not target.parent.is_dir():
        raise OptionError(f"--out must be a file in a folder that exists (got {target})")
    text = render_report(store, forks=forks, revisions=revisions, tensors=tensors, x=x, logs=logs)
    try:
        with atomic_writer(target, partial=target.with_name(f".{target.name}.partial")) as file:
            file.write(text.encode())
    except OSError as error:
        raise DiskFullError(
            f"{target} cannot be written ({error.strerror}); make room or give another --out"
        ) from error
    return target


def render_report(
    store: RecordedStore,
    *,
    forks: Sequence[str | Path] = (),
    revisions: str = "",
    tensors: Sequence[str] = (),
    x: str = "step",
    logs: Sequence[str | Path] = (),
) -> str:
    """The page as HTML text, of the same parts of the store as `write_report` draws.

    Raises:
        StoreError: the store holds no finished revision.
        SelectionError: `revisions` is invalid or matches none of the store.
        OptionError: `tensors` match none, no revision has tokens for the axis, a folder is not a fork, or logs
            cannot be read or are of another run.
    """
    begin_libraries()
    curves = read_logs(*logs) if logs else None
    drawn = Drawn(store, Choice(revisions=revisions, tensors=tensors, x=x))
    every = list(sections(drawn))
    if forks:
        family = forest(require_run_folder(store, forks), *forks, stores=[str(store.path)])
        every += within(FORKS, fork_sections(drawn, family))
    title = f"Training dynamics of {source_name(store)}"
    origin = lineage(store)
    return page(title, every, facts=_facts(drawn, origin), head=_head(drawn, origin, curves), x=x)


def _head(drawn: Drawn, origin: dict[str, str], curves: TrainingLogs | None) -> Head:
    """The first screen of the page."""
    told = run_sentences(drawn, origin.get("lineage", ""))
    return Head(told, head_lines(drawn.store, curves), timeline(drawn))


def lineage(store: RecordedStore) -> dict[str, str]:
    """The origin of the run, in one line; empty for a run that `fork` or `train` did not write."""
    folder = None if isinstance(store, JoinedStore) else run_folder(store)
    line = read_line(folder) if folder else None
    return {"lineage": line.description} if line else {}


def _facts(drawn: Drawn, origin: dict[str, str]) -> dict[str, str]:
    store, probe = drawn.store, drawn.attributes.get("probe") or {}
    facts = {
        "source": str(store.attributes["source"]),
        **origin,
        **_not_compared(store),
        "revisions": f"{len(store.done)} measured" + (f", {len(store.missing)} missing" if store.missing else ""),
        **_chosen(drawn),
        "model type": str(store.attributes["model_type"]),
        "forward pass": str(store.attributes["compute_dtype"]),
    }
    if probe:
        facts["probe"] = (
            f"{probe['tokens']:,} tokens in {counted(len(probe['domains']), 'domain')}, sha256 {probe['sha256'][:12]}"
        )
    if drawn.left_out:
        named = [f"{name} ({reason})" for name, reason in drawn.left_out.items()]
        more = f" and {len(named) - _FEW:,} more" if len(named) > _FEW else ""
        facts["not drawn"] = ", ".join(named[:_FEW]) + more
    return facts | _excluded(store) | {"olmo_dynamics": str(store.attributes["olmo_dynamics_version"])}


def _not_compared(store: RecordedStore) -> dict[str, str]:
    """The quantities that are left out of several runs, each with its reason."""
    held = store.left_out if isinstance(store, JoinedStore) else {}
    return {f"not compared: {name}": why for name, why in held.items()}


def _excluded(store: RecordedStore) -> dict[str, str]:
    """The tensors that are not measured, since their published bytes are not their revision's."""
    found = [f"{counted(len(tensors), 'tensor')} of {name}" for name, tensors in store.excluded().items()]
    more = f" and {len(found) - _FEW:,} more revisions" if len(found) > _FEW else ""
    words = f"{', '.join(found[:_FEW])}{more}, whose published bytes are not theirs; no forward pass of these revisions"
    return {"excluded": words} if found else {}


def _chosen(drawn: Drawn) -> dict[str, str]:
    """The options that narrow the page down."""
    choice, facts = drawn.choice, {}
    if choice.revisions:
        facts["revisions drawn"] = f"{len(drawn.revisions)}, chosen by {choice.revisions}"
    if choice.tensors:
        facts["tensors drawn"] = ", ".join(choice.tensors)
    return facts
