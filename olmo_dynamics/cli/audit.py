"""`olmo-dyn audit`: faults of a published run, or of what a store recorded of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from olmo_dynamics.cli.printing import format_option, quiet_option, remark
from olmo_dynamics.cli.sharing.storage import allow_http_option

if TYPE_CHECKING:
    from olmo_dynamics.auditing import Audit, Finding


@click.command()
@click.argument("source")
@click.option("--lists", multiple=True, type=click.Path(), metavar="FILE|DIR", help="Also audit official lists of "
              "native checkpoints: a CSV file, or a folder, of which SOURCE's lists are used. May be repeated.")  # fmt: skip
@click.option("--lists-only", is_flag=True, help="Audit only the lists, and send no request to the hub.")
@click.option("--headers", default="", metavar="EXPR", help="Also read the safetensors headers of these revisions, for the "
              "dtype and shape of every tensor. On a hub this costs about two requests and 64 KiB per weight file.")  # fmt: skip
@click.option(
    "--quarantine", type=click.Path(), metavar="FILE.json", help="Also write the revisions to exclude to this file."
)
@allow_http_option
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
    """Find faults in the revisions of SOURCE, without downloading weights; of a store, in what it recorded.

    Looks for the same bytes under several names; missing shards, configs and steps; configs, dtypes and shapes that differ
    between branches; labels and names that contradict the step; branches that moved since the last audit; mistakes in
    official lists; and known faults. The first audit of a hub repo costs one request per revision, a later one only one
    per changed revision.

    Revisions whose weights cannot be those that their names say are listed in a quarantine, and 'collect' excludes them:
    whole, or only the files and tensors that are not theirs.

    Where SOURCE is a store, its statistics of weights are compared: steps with bit-equal statistics of a large tensor, and
    steps far beyond both of their neighbours, with the false-alarm rate of that test. The quarantine is then written to the
    file of --quarantine alone.

    \b
    Examples:
      olmo-dyn audit allenai/OLMo-2-1124-7B
      olmo-dyn audit allenai/OLMo-2-1124-13B --lists manifests/ --lists-only
      olmo-dyn audit cache/demo/run --headers all --quarantine leave-out.json --format json
      olmo-dyn audit olmo2-1b.zarr
    """
    from olmo_dynamics.auditing import audit as audit_source
    from olmo_dynamics.progress import Progress, StepBar

    with Progress() if quiet or lists_only else StepBar() as listener:
        found = audit_source(source, lists=lists, headers=headers, lists_only=lists_only,
                             quarantine=quarantine, progress=listener)  # fmt: skip
    if style == "json":
        for finding in found.findings:
            click.echo(json.dumps(_fields(finding), ensure_ascii=False))
    else:
        _print(found)
    if found.quarantine.path:
        excluded = len(found.quarantine.revisions)
        remark(f"{excluded} of {found.revisions} revisions in quarantine: {found.quarantine.path}", quiet)


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
        "files": list(finding.files),
        "tensors": list(finding.tensors),
    }


def _print(found: Audit) -> None:
    """Print one line per finding, and under it its revisions."""
    from olmo_dynamics.auditing import Severity, some

    for finding in found.findings:
        click.echo(f"{finding.severity:<8}  {finding.line}")
        if finding.revisions:
            click.echo(f"{'':<8}    {some(finding.revisions, 4)}")
    counts = ", ".join(f"{found.count(severity)} {severity}" for severity in Severity)
    scope = f"{found.revisions} revisions" if found.revisions else "lists only"
    click.echo(f"{found.source}: {counts} ({scope})")
