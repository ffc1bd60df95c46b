"""`olmo-dyn collect`: measure revisions into a store."""

from typing import Any

import click

from olmo_dynamics.cli.collect_runs import collect_several, is_of_several, print_plans
from olmo_dynamics.cli.printing import (
    format_option,
    print_facts,
    progress_listener,
    quiet_option,
)
from olmo_dynamics.cli.sharing.storage import allow_http_option
from olmo_dynamics.names import SHIPPED_TASKS as SHIPPED
from olmo_dynamics.quantities import GROUPS

_MEGABYTE = 1e6


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option(
    "--revisions", default="all", show_default=True, metavar="EXPR", help="Which revisions; see 'revisions --help'."
)
@click.option(
    "--out", required=True, type=click.Path(), metavar="STORE", help="The Zarr store; continued if it exists."
)
@click.option("--record", default="", metavar="NAMES", help=f"Groups, comma-separated: {', '.join(GROUPS)}; or all; or your "
              "own recorders as package.module:Class. Default: all that the model has.")  # fmt: skip
@click.option(
    "--back-fill", is_flag=True, help="Measure quantities that groups of the store lack, of finished revisions too."
)
@click.option("--sketch-size", type=int, metavar="K", help="Components of a sketch, a multiple of 64, for the groups "
              "sketches and optimizer. Default: 1024.")  # fmt: skip
@click.option("--spectra", type=click.Choice(["norm", "top", "full"]), help="Singular values to find of large matrices, for the "
              "group spectra: the largest, the 32 largest, or all. Default: norm.")  # fmt: skip
@click.option("--lens-tokens", type=int, metavar="N", help="Tokens that the lens looks at, at least 512, for lens and writes. "
              "Default: 512.")  # fmt: skip
@click.option("--counts", metavar="FILE", help="Counts for the group ngram: an .npz of unigram [V], pair [M, 2] and count [M], "
              "or a file of token ids that is not the probe (a path or http address).")  # fmt: skip
@click.option("--gram-tokens", type=int, metavar="N", help="The most tokens that representations are measured of, at least 4. "
              "Default: 2048.")  # fmt: skip
@click.option("--gram-sites", metavar="NAMES", help="Sites whose representations are measured, comma-separated. "
              "Default: residual_out.")  # fmt: skip
@click.option("--tasks", multiple=True, metavar="FILE|NAME", help="Tasks for the group evaluation: a file of JSON lines, or "
              f"one of {', '.join(SHIPPED)}; may be repeated.")  # fmt: skip
@click.option(
    "--tensors",
    default="",
    metavar="GLOBS",
    help="Tensors for recorders of weights and optimisers: comma-separated globs or roles.",
)
@click.option("--text", multiple=True, type=click.Path(), metavar="FILE", help="Probe text, one domain a file (.txt, .jsonl, "
              ".jsonl.gz); may be repeated.")  # fmt: skip
@click.option("--tokens", multiple=True, metavar="FILE", help="Probe token ids instead of text: .npy files, or bare ones as OLMo "
              "publishes them (paths or http addresses); may be repeated, one domain a file.")  # fmt: skip
@click.option("--tokens-dtype", type=click.Choice(["uint16", "uint32"]), help="Dtype of bare token files. Default: by the "
              "size of the vocabulary, as the trainers do.")  # fmt: skip
@click.option("--tokenizer", metavar="FILE|REPO", help="A tokenizer.json, or a repo that has one, for revisions without, such as "
              "native ones.")  # fmt: skip
@click.option(
    "--batch",
    metavar="BxT",
    help="At most B windows of T tokens. Default: all of the probe, windows of 512 or of as many "
    "tokens as the model has positions.",
)
@click.option("--device", default="cpu", show_default=True, help="Where the forward pass runs.")
@click.option("--dtype", default="auto", show_default=True, help="Compute dtype: float32, bfloat16, float64, or auto: the "
              "store's, or for a new one float32 on the CPU, bfloat16 on a GPU.")  # fmt: skip
@click.option("--lists", multiple=True, type=click.Path(), metavar="FILE|DIR", help="Fetch steps that SOURCE lacks from the "
              "native directories in these official lists (CSV); may be repeated.")  # fmt: skip
@click.option("--quarantine", type=click.Path(), metavar="FILE.json", help="Exclude the revisions that this file names. "
              "Default: the file that the last audit of SOURCE left, if there was one.")  # fmt: skip
@click.option("--include-quarantined", is_flag=True, help="Measure revisions in quarantine too.")
@click.option("--until-layer", type=click.IntRange(min=0), metavar="K", help="End the forward pass after layer K; nothing "
              "behind it is read for it.")  # fmt: skip
@click.option(
    "--max-memory", default="1GiB", show_default=True, metavar="BYTES", help="Bytes that may be fetched ahead of use."
)
@click.option("--max-rate", metavar="BYTES", help="Bytes received per second at most, such as 50MB.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads that compute. Default: one a core.")
@click.option(
    "--shard",
    default="",
    metavar="K/N",
    help="Take the K-th of N parts of the revisions, for N processes on one store.",
)
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Where revisions are "
              "measured: in this process, or by the workers of a Ray cluster.")  # fmt: skip
@click.option("--address", metavar="HOST:PORT", help="The Ray cluster. Default: RAY_ADDRESS, else the one that runs here, else "
              "one that is started for the time of the collection.")  # fmt: skip
@click.option("--verify", is_flag=True, help="Compare each forward pass with transformers' first; refuse what differs.")
@click.option("--dry-run", is_flag=True, help="Print what would be read and how long it would take; measure nothing.")
@click.option("--rate", metavar="MB/S|measured", help="Rate that --dry-run assumes; 'measured' reads at most 8 MiB "
              "to find it out. Default: 100.")  # fmt: skip
@allow_http_option
@format_option("table", "json")
@quiet_option
def collect(sources: tuple[str, ...], **given: Any) -> None:
    """Measure the selected revisions of SOURCE into one Zarr store. Run again, it continues.

    Of several sources, STORE is a folder with a store of each, read as one; a source that fails does not end the others. STORE
    and SOURCE may lie in a bucket, as s3://bucket/run.zarr.

    \b
    Examples:
      olmo-dyn collect allenai/OLMo-2-0425-1B --revisions stage1:log24 --out olmo2-1b.zarr
      olmo-dyn collect cache/demo/run --out demo.zarr --record parameters --tensors 'q_norm,k_norm'
      olmo-dyn collect cache/demo/run --out demo.zarr --record loss,my_recorders:SilentFeatures
      olmo-dyn collect allenai/OLMo-2-1124-7B --revisions stage1:log8 --out 7b.zarr --dry-run --rate 50
      olmo-dyn collect allenai/OLMo-2-1124-7B --out 7b.zarr --engine ray --address 10.0.0.1:6379
      olmo-dyn collect allenai/DataDecide-c4-300M allenai/DataDecide-dclm-baseline-300M --revisions log6 --out recipes
    """
    run_collect(sources, **given)


def run_collect(
    sources: tuple[str, ...],
    revisions: str,
    out: str,
    *,
    dry_run: bool,
    rate: str | None,
    style: str,
    quiet: bool,
    **given: Any,
) -> None:
    """Collect, or print the plan of it, with the options of the command."""
    if is_of_several(sources, out):
        if dry_run:
            print_plans(sources, revisions, out=out, rate=_rate(rate), style=style, **given)
        else:
            collect_several(sources, revisions, out=out, quiet=quiet, style=style, **given)
        return
    from olmo_dynamics.frames.run import Run

    [source] = sources
    run = Run(source, lists=given.pop("lists"))
    if dry_run:
        _print_plan(run, revisions, out=out, rate=_rate(rate), style=style, options=given)
        return
    from olmo_dynamics.collecting import collect as collect_into
    from olmo_dynamics.collection import select_revisions

    listener = progress_listener(quiet)
    store = collect_into(run, revisions=revisions, out=out, progress=listener, **given)
    facts: dict[str, Any] = {"store": str(store.path), "revisions": len(store.done), "missing": len(store.missing)}
    if style == "json":
        facts["outcome"] = dict(listener.outcome)
    selected = select_revisions(
        run.source, revisions, quarantine=given["quarantine"], include_quarantined=given["include_quarantined"]
    )
    print_facts(facts | _left_out(list(selected.left_out), selected.summary, style), style)


def _rate(text: str | None) -> float | str | None:
    """Megabytes per second as bytes; text that is not a number is left for the plan to judge."""
    if text is None:
        return None
    try:
        return float(text) * _MEGABYTE
    except ValueError:
        return text


def _left_out(names: list[str], summary: str, style: str) -> dict[str, Any]:
    """The revisions in quarantine; a table has no line for none."""
    if style == "json":
        return {"quarantined": names}
    return {"quarantined": summary} if names else {}


def _print_plan(
    run: Any, revisions: str, *, out: str, rate: float | str | None, style: str, options: dict[str, Any]
) -> None:
    from olmo_dynamics.collecting import plan

    found = plan(run, revisions=revisions, out=out, rate=rate, **options)
    if style == "json":
        facts: dict[str, Any] = {
            "source": found.source, "revisions": list(found.to_do), "done": list(found.done), "bytes": found.nbytes,
            "dtype": found.compute_dtype, "requests": found.requests, "seconds": found.seconds, "rate": found.rate,
            "rate_from": found.rate_from, "peak_bytes": found.peak_bytes,
            "download_seconds": found.download_seconds, "statistics_seconds": found.statistics_seconds,
            "beside_seconds": found.beside_seconds, "forward_seconds": found.forward_seconds, "quarantined": list(found.left_out),
            "tokens": dict(found.tokens), "notes": list(found.notes),
        }  # fmt: skip
    else:
        left_out = f"{', '.join(found.left_out)}; --include-quarantined measures them too"
        facts = (
            dict(found.facts)
            | _left_out(list(found.left_out), left_out, style)
            | ({"note": "; ".join(found.notes)} if found.notes else {})
        )
    print_facts(facts, style)
