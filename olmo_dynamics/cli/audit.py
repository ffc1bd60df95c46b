"""`olmo-dyn audit`: what is wrong with a published run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from olmo_dynamics.cli.printing import format_option, quiet_option, remark

if TYPE_CHECKING:
    from olmo_dynamics.auditing import Audit, Finding


@click.command()
@click.argument("source")
@click.option("--lists", multiple=True, type=click.Path(), metavar="FILE|DIR", help="Audit official lists of native "
              "checkpoints too: a CSV file, or a folder in which SOURCE's are found. May be repeated.")  # fmt: skip
@click.option("--lists-only", is_flag=True, help="Ask the hub nothing: audit the lists alone.")
@click.option("--headers", default="", metavar="EXPR", help="Read the safetensors headers of these revisions too, for the "
              "dtype and shape of every tensor. On a hub that costs about two requests and 64 KiB a weight file.")  # fmt: skip
@click.option("--quarantine", type=click.Path(), metavar="FILE.json", help="Write the revisions to leave out here too.")
@format_option("table", "json")
@quiet_option
def audit(
    source: str,
    *,
    lists: tuple[str, ...],
    lists_only: bool,
    headers: str,
    quarantine: str | None,
    style: str,
    quiet: bool,
) -> None:
    """Say what is wrong with the revisions of SOURCE, without downloading weights.

    Looks for the same bytes under several names; missing shards, configs and steps; configs, dtypes and shapes that differ
    between branches; labels and names that contradict the step; branches that moved since the last audit; mistakes in
    official lists; and what is known already. The first audit of a hub repo costs a request a revision, a later one only
    those that changed.

    Revisions whose weights cannot be what their names say go into a quarantine, which 'collect' leaves out.

    \b
    Examples:
      olmo-dyn audit allenai/OLMo-2-1124-7B
      olmo-dyn audit allenai/OLMo-2-1124-13B --lists manifests/ --lists-only
      olmo-dyn audit cache/demo/run --headers all --quarantine leave-out.json --format json
    """
    from olmo_dynamics.auditing import audit as audit_source
    from olmo_dynamics.progress import Silent, Steps

    with Silent() if quiet or lists_only else Steps() as listener:
        found = audit_source(source, lists=lists, headers=headers, lists_only=lists_only,
                             quarantine=quarantine, progress=listener)  # fmt: skip
    if style == "json":
        for finding in found.findings:
            click.echo(json.dumps(_fields(finding), ensure_ascii=False))
    else:
        _print(found)
    if found.quarantine.path:
        held = len(found.quarantine.revisions)
        remark(f"{held} of {found.revisions} revisions in quarantine: {found.quarantine.path}", quiet)


def _fields(finding: Finding) -> dict[str, Any]:
    return {
        "severity": str(finding.severity),
        "kind": finding.kind,
        "place": finding.place,
        "revisions": list(finding.revisions),
        "expected": finding.expected,
        "found": finding.found,
        "reference": finding.reference,
        "quarantine": list(finding.quarantine),
    }


def _print(found: Audit) -> None:
    """A line a finding, and under it the revisions it is about."""
    from olmo_dynamics.auditing import Severity, some

    for finding in found.findings:
        click.echo(f"{finding.severity:<8}  {finding.line}")
        if finding.revisions:
            click.echo(f"{'':<8}    {some(finding.revisions, 4)}")
    counts = ", ".join(f"{found.count(severity)} {severity}" for severity in Severity)
    looked = f"{found.revisions} revisions" if found.revisions else "lists only"
    click.echo(f"{found.source}: {counts} ({looked})")
