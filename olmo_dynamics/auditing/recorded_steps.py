"""An audit below the file: the checks of a store's statistics of weights, which tell of the published bytes.

Two steps of one training cannot have bit-equal statistics of a large tensor; `outlying` tells the other check.

>>> [finding.line for finding in find_in_store(open_store("pythia.zarr"))]  # doctest: +SKIP
['out of line: model.embed_tokens.weight: median row norm 1.306 between 1.517 and 1.513 …', …]
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np

from olmo_dynamics.auditing.duplicates import frozen_lines, places, suspects
from olmo_dynamics.auditing.findings import Finding, Severity, some
from olmo_dynamics.auditing.outlying import FALSE_ALARMS, FEWEST, LEAST_HEIGHT, count_tests, find_outlying, threshold
from olmo_dynamics.auditing.recorded_weights import LEAST_ELEMENTS, RecordedWeights
from olmo_dynamics.checkpoints import known_run
from olmo_dynamics.errors import counted
from olmo_dynamics.names import Revision
from olmo_dynamics.store import Store

Names = tuple[str, ...]


def find_in_store(
    store: Store, *, least: int = LEAST_ELEMENTS, rates: Callable[[], Mapping[int, float]] = dict
) -> list[Finding]:
    """Findings about the weights that a store's statistics were measured from, and a note on the extent of each test.

    Args:
        store: a store with the group `parameters`.
        least: fewest elements of the tensors that are compared.
        rates: gives the learning rate of each step, as far as it is known; steps without any change at rate 0 are no finding.

    Raises:
        OptionError: the store has no statistics of weights.
        StoreDamagedError: numbers of the store are damaged.
    """
    weights = RecordedWeights(store, least=least, rates=rates)
    run = known_run(store.attributes["source"])
    compared = f"{counted(len(weights.tensors), 'tensor')} of at least {least:,} elements"
    extent = f"statistics of {compared} compared bit by bit at {counted(len(weights.revisions), 'revision')}"
    equal = _bit_equal(weights, run.main_revision if run else "")
    return [*equal, *_out_of_line(weights), Finding("test", Severity.NOTE, (), "", extent)]


def _bit_equal(weights: RecordedWeights, known_main: str) -> Iterator[Finding]:
    """Steps whose statistics are bit-equal in tensors that are trained; those that never change are a note."""
    prints = dict(weights.prints())
    frozen = _frozen(weights.revisions, prints)
    groups: dict[Names, list[str]] = defaultdict(list)
    for tensor, by_name in prints.items():
        alike: dict[bytes, list[str]] = defaultdict(list)
        for each in weights.revisions:
            if each.name in by_name and tensor not in frozen.get(each.line, ()):
                alike[by_name[each.name]].append(each.name)
        for members in alike.values():
            if _claims(members, weights) > 1:
                groups[tuple(members)].append(tensor)
    for names, tensors in groups.items():
        lines = {each.line for each in weights.revisions if each.name in names}
        still = {tensor for line in lines for tensor in frozen.get(line, ())}
        trained = [tensor for tensor, by_name in prints.items() if tensor not in still and by_name.keys() >= set(names)]
        found = f"bit-equal statistics of {len(tensors)} of {len(trained)} trained tensors ({some(tensors)})"
        yield Finding("duplicate", Severity.WRONG, names, "different weights at different steps", found,
                      quarantine=suspects(names, weights.revisions, known_main),
                      tensors=() if len(tensors) == len(trained) else tuple(tensors))  # fmt: skip
    for line, tensors in frozen.items():
        of_line = tuple(each.name for each in weights.revisions if each.line == line)
        yield Finding("duplicate", Severity.NOTE, of_line, "", f"never changes in {line}, not trained: {some(tensors)}")


def _frozen(revisions: Sequence[Revision], prints: dict[str, dict[str, bytes]]) -> dict[str, list[str]]:
    """By line, the tensors that are the same at all of its steps, unless all tensors are."""
    found: dict[str, list[str]] = defaultdict(list)
    for tensor, by_name in prints.items():
        held = [each for each in revisions if each.name in by_name]
        for line in {each.line for each in held}:
            members = [each for each in held if each.line == line]
            if len({by_name[each.name] for each in members if each.step is not None}) == 1:
                found[line] += [tensor] * bool(frozen_lines([each.name for each in members], members))
    return {line: tensors for line, tensors in found.items() if 0 < len(tensors) < len(prints)}


def _claims(names: Iterable[str], weights: RecordedWeights) -> int:
    """The number of steps that names claim, where steps between which the learning rate was 0 are one."""
    lines: dict[str, list[Revision]] = defaultdict(list)
    for each in places(names, weights.revisions):
        lines[each.line].append(each)
    return sum(
        1 + sum(not weights.stands_still(*pair) for pair in pairwise(members))
        for members in (sorted(line, key=lambda each: each.step or 0) for line in lines.values())
    )


def _out_of_line(weights: RecordedWeights) -> Iterator[Finding]:
    """Steps with statistics far beyond those of both neighbours, and a note on the test."""
    blocks = list(_blocks(weights))
    tests = sum(count_tests(values) for _, _, values in blocks)
    factor = threshold(tests)
    rule = f"no value beyond both neighbours by {factor:.3g} times the run's own scatter and {LEAST_HEIGHT:.0%}"
    found: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for members, labels, values in blocks:
        for row, column in find_outlying(np.array([each.step for each in members]), values, tests=tests).tolist():
            before, value, after = values[row - 1 : row + 2, column].tolist()
            height = min(abs(np.log(value / before)), abs(np.log(value / after)))
            found[members[row].name].append(
                (height, f"{labels[column]} {value:.5g} between {before:.5g} and {after:.5g}")
            )
    for name, places_of in found.items():
        more = f" (the worst of {len(places_of)} values)" if len(places_of) > 1 else ""
        yield Finding("out of line", Severity.DOUBTFUL, (name,), rule, f"{max(places_of)[1]}{more}")
    yield Finding("test", Severity.NOTE, (), "", _words(tests, rule))


def _words(tests: int, rule: str) -> str:
    """The extent of the test, and how often it is wrong."""
    if not tests:
        return f"no step was compared with its neighbours, since no line of training has {FEWEST} revisions"
    return (
        f"{tests:,} values compared with their neighbours' ({rule}); a sound run gets a false alarm in at most "
        f"{FALSE_ALARMS:.0%} of audits, for independent noise with tails up to those of Student's t of 4 degrees of freedom"
    )


def _blocks(weights: RecordedWeights) -> Iterator[tuple[list[Revision], list[str], np.ndarray]]:
    """The revisions of a line, in order of their steps, with the series that all of these have: labels, and values."""
    lines: dict[str, dict[int, int]] = defaultdict(dict)
    for row, each in enumerate(weights.revisions):
        if each.step is not None:
            lines[each.line].setdefault(each.step, row)
    for rows_of in lines.values():
        rows = np.array([rows_of[step] for step in sorted(rows_of)])
        held: dict[bytes, list[int]] = defaultdict(list)
        for place, series in enumerate(weights.series):
            held[np.isfinite(series.values[rows]).tobytes()].append(place)
        for mask, chosen in held.items():
            kept = rows[np.frombuffer(mask, dtype=bool)]
            values = np.stack([weights.series[place].values[kept] for place in chosen], axis=1)
            yield [weights.revisions[row] for row in kept], [weights.series[place].label for place in chosen], values
