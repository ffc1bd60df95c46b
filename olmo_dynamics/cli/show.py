"""`olmo-dyn show`: what a store holds."""

from typing import Any

import click

from olmo_dynamics.cli.printing import format_option, human_bytes, print_facts


@click.command()
@click.argument("store", type=click.Path())
@format_option("table", "json")
@click.option("--quiet", "-q", is_flag=True, help="Accepted everywhere; there is nothing to silence here.")
def show(store: str, style: str, quiet: bool) -> None:
    """Say what STORE holds: revisions done and missing, groups, sizes, probe, versions.

    \b
    Examples:
      olmo-dyn show olmo2-1b.zarr
      olmo-dyn show olmo2-1b.zarr --format json
    """
    from olmo_dynamics.frames import open_store

    found = open_store(store)
    sizes = found.sizes()
    probe = found.attributes.get("probe") or {}
    facts: dict[str, Any] = {
        "store": str(found.path),
        "source": found.attributes["source"],
        "model_type": found.attributes["model_type"],
        "compute_dtype": found.attributes["compute_dtype"],
        "done": sorted(found.done),
        "missing": sorted(found.missing),
        "groups": sizes,
        "lacking": _lacking(found),
        "probe": probe,
        "layout_version": found.attributes["layout_version"],
        "olmo_dynamics_version": found.attributes["olmo_dynamics_version"],
    }
    if style == "table":
        facts |= {
            "done": f"{len(found.done)} revisions",
            "missing": _some(sorted(found.missing)),
            "lacking": ", ".join(f"{name} of {_some(names)}" for name, names in facts["lacking"].items()) or "nothing",
            "groups": ", ".join(f"{name} {human_bytes(nbytes)}" for name, nbytes in sizes.items()),
            "probe": _probe(probe),
        }
    print_facts(facts, style)


def _lacking(store: Any) -> dict[str, list[str]]:
    """The revisions that are there without some group, by group: it was added later, and is still to be measured."""
    recorded = {name: store.recorded(name) for name in sorted(store.done)}
    lacking = {group: [name for name, there in recorded.items() if group not in there] for group in store.groups}
    return {group: names for group, names in lacking.items() if names}


def _some(names: list[str]) -> str:
    if not names:
        return "none"
    return f"{len(names)} revisions: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"


def _probe(probe: dict[str, Any]) -> str:
    if not probe:
        return "none"
    sequences, positions = probe["shape"]
    domains = ", ".join(probe["domains"])
    return f"{probe['tokens']} tokens in {sequences} windows of {positions} ({domains}), sha256 {probe['sha256'][:12]}"
