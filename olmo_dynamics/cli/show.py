"""`olmo-dyn show`: the contents of a store."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from olmo_dynamics.cli.printing import format_option, human_bytes, print_facts
from olmo_dynamics.cli.sharing.storage import allow_http_option
from olmo_dynamics.errors import OlmoDynamicsError, OptionError, StoreDamagedError, counted
from olmo_dynamics.quantities.declaration import Group

_MOST = 5
_BOUND = 64 << 20  # 64 MiB: about a second

if TYPE_CHECKING:
    from olmo_dynamics.frames import RecordedStore
    from olmo_dynamics.store import Store


@click.command()
@click.argument("store", type=click.Path())
@allow_http_option
@format_option("table", "json")
@click.option(
    "--check", "verify", is_flag=True, help="Verify every checksum, and name what is damaged; exits with 2 then."
)
@click.option("--findings", "most", type=click.IntRange(0), metavar="N",
              help=f"Print the N strongest findings of all that is recorded; 0 for none.  [default: {_MOST}, of what "
                   f"takes at most {_BOUND >> 20} MiB to search]")  # fmt: skip
@click.option("--logs", multiple=True, type=click.Path(), metavar="FILE",
              help="Logs of the training, searched for spikes: metrics, a CSV export, a console log.")  # fmt: skip
@click.option("--quiet", "-q", is_flag=True, help="Accepted by every command; this one prints no progress.")
def show(store: str, *, style: str, verify: bool, most: int | None, logs: tuple[str, ...], quiet: bool) -> None:
    """Print the contents of STORE: revisions done and missing, groups, quantities, sizes, probe, versions, findings.

    A finding is something striking in the recorded numbers, in one sentence, with the rate at which its rule finds such a
    thing in data that hold none.

    \b
    Examples:
      olmo-dyn show olmo2-1b.zarr
      olmo-dyn show olmo2-1b.zarr --format json
      olmo-dyn show olmo2-1b.zarr --check
      olmo-dyn show olmo2-1b.zarr --findings 20
      olmo-dyn show olmo2-1b.zarr --logs metrics.jsonl
    """
    from olmo_dynamics.frames import open_store

    found = open_store(store)
    if verify:
        _check(found, style)
        return
    facts = {**(_contents(found) if style == "json" else _summary(found)), **_runs(found, style)}
    print_facts(facts | (_findings(found, most, style, logs) if most != 0 else {}), style)


def _contents(store: RecordedStore) -> dict[str, Any]:
    """All that a store says of itself, for programs."""
    return {
        **_origin(store),
        "done": sorted(store.done),
        "missing": sorted(store.missing),
        "groups": store.sizes(),
        "quantities": {group: [each.name for each in store.quantities(group)] for group in store.groups},
        "introductions": {group: store.group(group).introduction for group in store.groups},
        "lacking": _lacking(store),
        "excluded": {name: list(tensors) for name, tensors in store.excluded().items()},
        "compact": store.is_compact,
        "probe": store.attributes.get("probe") or {},
        **_versions(store),
    }


def _summary(store: RecordedStore) -> dict[str, Any]:
    """The same for readers: counts, and the introduction of each group."""
    excluded = store.excluded()
    return {
        **_origin(store),
        "done": counted(len(store.done), "revision"),
        "missing": _some(sorted(store.missing)),
        "groups": ", ".join(f"{name} {human_bytes(nbytes)}" for name, nbytes in store.sizes().items()),
        "lacking": "; ".join(f"{group}: {_some(names)}" for group, names in _lacking(store).items()) or "none",
        "excluded": "; ".join(map(_excluded, excluded, excluded.values())) or "none",
        "compact": "yes" if store.is_compact else f"no; olmo-dyn compact {store.path} makes series fast to read",
        "probe": _probe(store.attributes.get("probe") or {}),
        **_versions(store),
        **{f"group {name}": _group(store.group(name)) for name in store.groups},
    }


def _origin(store: RecordedStore) -> dict[str, Any]:
    names = ("source", "model_type", "compute_dtype")
    return {"store": str(store.path), **{name: store.attributes[name] for name in names}}


def _versions(store: RecordedStore) -> dict[str, Any]:
    return {name: store.attributes[name] for name in ("layout_version", "olmo_dynamics_version")}


def _lacking(store: RecordedStore) -> dict[str, list[str]]:
    """The revisions that lack a group, by group."""
    return {group: names for group in store.groups if (names := sorted(store.lacking(group)))}


def _check(store: Store, style: str) -> None:
    """Print what a check finds.

    Raises:
        StoreDamagedError: it finds damage.
    """
    found = store.check()
    names = [str(damage) for damage in found.damages]
    facts: dict[str, Any] = {
        "store": str(store.path),
        "verified": found.verified,
        "unverified": found.unverified,
        "damaged": [asdict(damage) for damage in found.damages],
    }
    if style == "table":
        facts["verified"] = counted(found.verified, "file")
        facts["unverified"] = (
            f"{found.unverified} files, since layout version 2 has no checksums; olmo-dyn compact {store.path} adds them"
            if found.unverified
            else "none"
        )
        facts["damaged"] = "none" if not names else counted(len(names), "array")
        facts |= {f"damage {number}": name for number, name in enumerate(names, 1)}
    print_facts(facts, style)
    if names:
        raise StoreDamagedError(
            f"{store.path} is damaged in {counted(len(names), 'place')}, first {names[0]}; run olmo-dyn collect again, "
            "which measures damaged revisions anew"
        )


def _findings(store: RecordedStore, most: int | None, style: str, logs: Sequence[str]) -> dict[str, Any]:
    """The strongest findings, as facts: one object each, or one sentence; with the reason if they cannot be told."""
    from olmo_dynamics.frames import Findings, findings, read_logs

    curves = read_logs(*logs) if logs else None
    try:
        found = findings(store, curves=curves, most_bytes=_BOUND if most is None else None)[: most or _MOST]
    except OptionError:
        raise
    except OlmoDynamicsError as error:
        found = Findings(note=f"The store could not be searched: {error}")
    note = f"{found.note} --findings {_MOST} searches everything." if "Not searched" in found.note else found.note
    if style == "json":
        listed = [
            {
                name: None if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in asdict(each).items()
            }
            for each in found
        ]
        return {"findings": listed, "findings_note": note}
    told = {f"finding {number}": f"{each.sentence} ({each.rate})" for number, each in enumerate(found, 1)}
    return told | ({"findings": note or "none"} if note or not told else {})


def _runs(store: Any, style: str) -> dict[str, Any]:
    """The runs of a store of several, and what does not compare between them."""
    from olmo_dynamics.frames import JoinedStore

    if not isinstance(store, JoinedStore):
        return {}
    if style == "json":
        return {"runs": store.attributes["runs"], "left_out": store.left_out}
    runs = {
        f"run {run.name}": f"{run.family}, recipe {run.recipe}, {counted(len(run.store.done), 'revision')}"
        for run in store.runs
    }
    return runs | {f"left out {name}": why for name, why in store.left_out.items()}


def _group(group: Group) -> str:
    """Count, base axes and introduction of a group."""
    along = ", ".join(("revision", *group.axes))
    return f"{len(group.quantities)} quantities by {along}. {group.introduction}".rstrip()


def _excluded(revision: str, tensors: tuple[str, ...]) -> str:
    """The tensors of a revision that are not measured, and why."""
    some = f"{', '.join(tensors[:3])}{', …' if len(tensors) > 3 else ''}"
    return f"{counted(len(tensors), 'tensor')} of {revision} and its forward pass, not its bytes: {some}"


def _some(names: list[str]) -> str:
    if not names:
        return "none"
    return f"{counted(len(names), 'revision')}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"


def _probe(probe: dict[str, Any]) -> str:
    if not probe:
        return "none"
    sequences, positions = probe["shape"]
    domains = ", ".join(probe["domains"])
    return f"{probe['tokens']} tokens in {sequences} windows of {positions} ({domains}), sha256 {probe['sha256'][:12]}"
