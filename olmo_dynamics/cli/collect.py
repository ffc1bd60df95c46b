"""`olmo-dyn collect`: measure revisions into a store."""

from typing import Any

import click

from olmo_dynamics.cli.printing import (
    format_option,
    human_bytes,
    human_seconds,
    print_facts,
    progress_listener,
    quiet_option,
)

_MEGABYTE = 1e6


@click.command()
@click.argument("source")
@click.option(
    "--revisions", default="all", show_default=True, metavar="EXPR", help="Which revisions; see 'revisions --help'."
)
@click.option(
    "--out", required=True, type=click.Path(), metavar="STORE", help="The Zarr store; continued if it exists."
)
@click.option("--record", default="", metavar="NAMES", help="Groups, comma-separated: parameters, embeddings, activations, "
              "outliers, logits, loss, tokens, routing (experts). All that the model has unless given.")  # fmt: skip
@click.option(
    "--tensors", default="", metavar="GLOBS", help="Tensors for the parameter groups: comma-separated globs or roles."
)
@click.option("--text", multiple=True, type=click.Path(), metavar="FILE", help="Probe text, one domain a file (.txt, .jsonl, "
              ".jsonl.gz); may be repeated.")  # fmt: skip
@click.option("--tokens", type=click.Path(), metavar="FILE.npy", help="Probe token ids instead of text.")
@click.option(
    "--batch", metavar="BxT", help="At most B windows of T tokens. Default: all of the probe, windows of 512."
)
@click.option("--device", default="cpu", show_default=True, help="Where the forward pass runs.")
@click.option(
    "--dtype", default="auto", show_default=True, help="What it is computed in: auto, float32, bfloat16, float64."
)
@click.option("--lists", multiple=True, type=click.Path(), metavar="FILE|DIR", help="Fetch steps that SOURCE lacks from the "
              "native directories in these official lists (CSV); may be repeated.")  # fmt: skip
@click.option("--quarantine", type=click.Path(), metavar="FILE.json", help="Leave out the revisions that this file names. "
              "Default: the file that the last audit of SOURCE left, if there was one.")  # fmt: skip
@click.option("--include-quarantined", is_flag=True, help="Measure revisions that are in quarantine all the same.")
@click.option("--until-layer", type=click.IntRange(min=0), metavar="K", help="End the forward pass after layer K; nothing "
              "behind it is read for it.")  # fmt: skip
@click.option(
    "--max-memory", default="1GiB", show_default=True, metavar="BYTES", help="How much may be fetched ahead of its use."
)
@click.option("--max-rate", metavar="BYTES", help="Receive at most this a second, such as 50MB.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads that compute. Default: one a core.")
@click.option(
    "--shard",
    default="",
    metavar="K/N",
    help="Take the K-th of N parts of the revisions, for N processes on one store.",
)
@click.option("--verify", is_flag=True, help="Compare each forward pass with transformers' first; refuse what differs.")
@click.option("--dry-run", is_flag=True, help="Say what would be read, and how long it would take; measure nothing.")
@click.option("--rate", metavar="MB/S|measured", help="The rate that --dry-run reckons with; 'measured' reads at most 8 MiB "
              "to find it out. Default: 100.")  # fmt: skip
@format_option("table", "json")
@quiet_option
def collect(
    source: str, revisions: str, out: str, *, dry_run: bool, rate: str | None, style: str, quiet: bool, **given: Any
) -> None:
    """Measure the selected revisions of SOURCE into one Zarr store. Run again, it continues.

    \b
    Examples:
      olmo-dyn collect allenai/OLMo-2-0425-1B --revisions stage1:log24 --out olmo2-1b.zarr
      olmo-dyn collect cache/demo/run --out demo.zarr --record parameters --tensors 'q_norm,k_norm'
      olmo-dyn collect allenai/OLMo-2-1124-7B --revisions stage1:log8 --out 7b.zarr --dry-run --rate 50
    """
    from olmo_dynamics.frames.run import Run

    run = Run(source, lists=given.pop("lists"))
    options = _options(given)
    if dry_run:
        _print_plan(run, revisions, out=out, rate=_rate(rate), style=style, options=options)
        return
    from olmo_dynamics.collection import choose
    from olmo_dynamics.collection import collect as collect_into

    listener = progress_listener(quiet)
    store = collect_into(run, revisions=revisions, out=out, progress=listener, **options)
    facts: dict[str, Any] = {"store": str(store.path), "revisions": len(store.done), "missing": len(store.missing)}
    if style == "json":
        facts["outcome"] = dict(listener.outcome)
    choice = choose(
        run, revisions, quarantine=options["quarantine"], include_quarantined=options["include_quarantined"]
    )
    print_facts(facts | _left_out(list(choice.left_out), choice.summary, style), style)


def _options(given: dict[str, Any]) -> dict[str, Any]:
    return {
        **given,
        "record": _words(given["record"]),
        "tensors": _words(given["tensors"]),
    }


def _rate(text: str | None) -> float | str | None:
    """Megabytes a second as bytes; what is no number is left for the plan to judge."""
    if text is None:
        return None
    try:
        return float(text) * _MEGABYTE
    except ValueError:
        return text


def _left_out(names: list[str], summary: str, style: str) -> dict[str, Any]:
    """What the summary says of revisions in quarantine; a table without any says nothing."""
    if style == "json":
        return {"quarantined": names}
    return {"quarantined": summary} if names else {}


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _print_plan(
    run: Any, revisions: str, *, out: str, rate: float | str | None, style: str, options: dict[str, Any]
) -> None:
    from olmo_dynamics.collection import plan

    found = plan(run, revisions=revisions, out=out, rate=rate, **options)
    if style == "json":
        facts: dict[str, Any] = {
            "source": found.source, "revisions": list(found.to_do), "done": list(found.done), "bytes": found.nbytes,
            "requests": found.requests, "seconds": found.seconds, "rate": found.rate,
            "rate_from": found.rate_from, "peak_bytes": found.peak_bytes,
            "download_seconds": found.download_seconds, "statistics_seconds": found.statistics_seconds,
            "forward_seconds": found.forward_seconds, "quarantined": list(found.left_out),
        }  # fmt: skip
    else:
        left_out = f"{', '.join(found.left_out)}; --include-quarantined measures them too"
        facts = {
            "source": found.source,
            "revisions": f"{len(found.to_do)} to measure, {len(found.done)} already in the store",
            "bytes": f"{human_bytes(found.nbytes)} ({human_bytes(found.nbytes / max(1, len(found.to_do)))} a revision)",
            "requests": found.requests,
            "memory": f"about {human_bytes(found.peak_bytes)}",
            "download": f"{human_seconds(found.download_seconds)} at {human_bytes(found.rate)}/s ({found.rate_from})",
            "compute": f"{human_seconds(found.statistics_seconds)} of statistics, at least "
            f"{human_seconds(found.forward_seconds)} of forward pass",
            "time": f"{human_seconds(found.seconds)}: the larger of both, which go on side by side",
        } | _left_out(list(found.left_out), left_out, style)
    print_facts(facts, style)
