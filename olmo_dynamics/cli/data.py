"""What `fork` and `batches` share: `SOURCE@REVISION`, and the options that say which tokens come.

>>> split_revision("allenai/OLMo-2-0425-1B@stage1-step10000-tokens21B")
('allenai/OLMo-2-0425-1B', 'stage1-step10000-tokens21B')
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from olmo_dynamics.errors import OptionError

_Command = TypeVar("_Command", bound=Callable[..., Any])


def data_options(command: _Command) -> _Command:
    """`--data`, `--order`, `--batch` and what else decides which tokens come, and how they are marked."""
    for option in reversed((
        click.option("--data", multiple=True, required=True, metavar="FILE[=WEIGHT]",
                     help="Headerless token files or http(s) addresses of such, in the parent's order, or text (.txt, .jsonl, "
                          ".jsonl.gz, .json.gz); may be repeated. Weights mix the files."),
        click.option("--order", default="parent", show_default=True, metavar="NAME",
                     help="parent, olmo, olmo-core, sequential or shuffled."),
        click.option("--batch", metavar="BxT", help="B sequences of T tokens a step. Default: the parent's."),
        click.option("--batch-warmup", metavar="STEP:B,…", help="From so many steps after the fork on, B sequences."),
        click.option("--mask-documents/--no-mask-documents", default=None, help="Attention within documents."),
        click.option("--mask-repeated-ngrams/--no-mask-repeated-ngrams", default=None,
                     help="Labels of sequences with 32 or more repeats of 1 to 13 tokens do not count."),
        click.option("--seed", type=int, help="Another seed: the data begin anew, in another order."),
        click.option("--data-dtype", metavar="DTYPE", help="uint16 or uint32. Default: the parent's, or by vocabulary."),
        click.option("--tokenizer", type=click.Path(), metavar="FILE", help="A tokenizer.json, where the revision has none."),
    )):  # fmt: skip
        command = option(command)
    return command


def split_revision(name: str) -> tuple[str, str]:
    """Source and revision of `SOURCE@REVISION`.

    Raises: OptionError if either is missing.
    """
    source, _, revision = name.rpartition("@")
    if not source or not revision:
        raise OptionError(f"wanted SOURCE@REVISION, such as allenai/OLMo-2-0425-1B@main; got {name!r}")
    return source, revision


def data_changes(given: Mapping[str, Any]) -> dict[str, Any]:
    """What those options change, as `od.fork` takes it; what was not given is left out."""
    names = ("order", "seed", "data_dtype", "tokenizer", "mask_documents", "mask_repeated_ngrams")
    changes = {name: given[name] for name in names if given[name] is not None}
    if given["batch"] is not None:
        changes["batch"] = parse_batch(given["batch"])
    if given["batch_warmup"] is not None:
        changes["batch_warmup"] = parse_growth(given["batch_warmup"])
    return changes


def parse_growth(text: str) -> tuple[tuple[int, int], ...]:
    """`500:32,1000:64` as pairs.

    Raises: OptionError for anything else.
    """
    found = [re.fullmatch(r"(\d{1,9}):(\d{1,9})", word.strip(), re.ASCII) for word in text.split(",")]
    if not all(found):
        raise OptionError(f"--batch-warmup wants step:sequences, such as 500:32,1000:64; got {text!r}")
    return tuple((int(each[1]), int(each[2])) for each in found if each)


def parse_batch(text: str | None) -> tuple[int, int] | None:
    """`16x128` as two numbers.

    Raises: OptionError for anything else.
    """
    if text is None:
        return None
    found = re.fullmatch(r"([1-9]\d{0,8})x([1-9]\d{0,8})", text, re.ASCII)
    if not found:
        raise OptionError(f"--batch wants sequences x tokens, such as 16x128; got {text!r}")
    return int(found[1]), int(found[2])
