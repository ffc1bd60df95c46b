"""A row of a store beside a reference: the place of labels in arrays, errors, and cells that hold nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.quantities import WITHOUT_FIRST
from tests.conformance.of_weights import Expected

FLOAT32 = 1e-5
"""The relative error of float32 passes, as transformers' and ours differ by."""

TOLERANCES = {"activations": {"abs_median": 2**-14, "max_sparsity": 2**-13}}
"""Larger relative errors that are declared: medians of float32 numbers are those of bins 2^-14 wide."""

WITHOUT_REFERENCE = {
    "gradients": {"noise_scale_low", "noise_scale_high"},
    "routing": {
        "vocabulary_specialisation", "expert_vocabulary_specialisation", "vocabulary_id_count",
    },
}  # fmt: skip
"""Quantities that are drawn, or need ids that occur often: tests of their own have their references."""

OF_SIZE_1 = {
    "activations/mean", "logit_mean", "in_context_score", "kl_to_final", "write_cosine", "logit_share",
    "lambda_vecmean_activation", "lambda_vecmean_gradient", "lambda_meannorm_activation", "lambda_meannorm_gradient",
}  # fmt: skip
"""Differences, logarithms, cosines and shares: their errors are relative to 1."""

DISCONTINUOUS = {
    "status", "top1_agreement", "massive_sequence", "massive_position", "massive_token_id", "massive_feature",
    "massive_count", "chosen_experts",
    "max_median_ratio",
}  # fmt: skip
"""Quantities that a single rounding may change by more than itself: choices, and ratios to a median near 0."""


OF_A_SMALL_DIFFERENCE = {"noise_square", "noise_scale"}
"""The difference of two mean squared gradients, and a ratio to it: errors are relative to these squares."""

COUNTED = {"feature_fraction_above"}
"""Shares of tokens above a threshold: one token within rounding of it may count here and not there, in very few cells."""

ONE_TOKEN = 1 / 40
"""More than one token's share of the shortest probe."""


class Row:
    """One revision's arrays of one group."""

    def __init__(self, store: RecordedStore, revision: str, group: str) -> None:
        self.store, self.group = store, group
        self.arrays = store.row(group, revision)

    def assert_equal(self, expected: Expected) -> None:
        """Assert that all values are those of a float32 reference, and every other cell is blank."""
        covered = {name: np.zeros(values.shape, dtype=bool) for name, values in self.arrays.items()}
        sizes = largest(expected)
        for key, values in expected.items():
            name, place = key[0], self.place(key)
            covered[name][place] = True
            rtol = self._tolerance(name, expected)
            of_size_1 = {base(name), f"{self.group}/{base(name)}"} & OF_SIZE_1
            mean = sizes.get(name.removesuffix("_se"), 0.0)  # a standard error is made of differences from its mean
            atol = rtol * max(sizes[name], mean, 1.0 if of_size_1 else 1e-6)
            found = self.arrays[name][place]
            wanted = but_for_one_token(found, values, atol) if base(name) in COUNTED else values
            np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol, err_msg=f"{self.group} {key}")
        for name, values in self.arrays.items():
            if name not in WITHOUT_REFERENCE.get(self.group, ()):
                assert blank(values[~covered[name]]), f"{self.group}/{name} holds values that no reference has"

    def assert_rounded(self, exact: Expected, rounded: Expected) -> None:
        """Assert that errors of a bfloat16 pass are at most twice transformers' own, and a rounding of the number itself."""
        sizes, ours, theirs = largest(exact), dict[str, float](), dict[str, float]()
        for key, values in exact.items():
            name = key[0]
            ours[name] = max(ours.get(name, 0.0), distance(self.arrays[name][self.place(key)], values))
            theirs[name] = max(theirs.get(name, 0.0), distance(rounded.get(key, np.nan), values))
        for name in (each for each in ours if base(each) not in DISCONTINUOUS):
            assert ours[name] <= 2 * theirs[name] + 2**-8 * sizes[name], f"{self.group}/{name}"

    def place(self, key: tuple[Any, ...]) -> tuple[Any, ...]:
        """The place of labels in an array."""
        name, labels = key[0], dict(key[1:])
        axes = self.store.quantity(self.group, name).axes
        assert labels.keys() <= set(axes), key
        return tuple(
            self.store.axis(axis).labels.tolist().index(labels[axis]) if axis in labels else slice(None)
            for axis in axes
        )

    def _tolerance(self, name: str, expected: Expected) -> float:
        known = TOLERANCES.get(self.group, {}).get(base(name), FLOAT32)
        if name in OF_A_SMALL_DIFFERENCE:
            return known * (1 + largest(expected)["l2_norm"] ** 2 / abs(float(expected["noise_square",])))
        return known


def but_for_one_token(found: np.ndarray, values: np.ndarray, atol: float) -> np.ndarray:
    """The expected shares; where one cell in five hundred differs by a single token, as they were found."""
    apart = np.abs(found - values)
    differs = (apart > atol) & (apart < ONE_TOKEN)
    return np.where(differs, found, values) if differs.sum() <= max(1, differs.size // 500) else values


def base(name: str) -> str:
    """The name of a quantity without the ending of those that leave out position 0."""
    return name.removesuffix(WITHOUT_FIRST)


def largest(expected: Expected) -> dict[str, float]:
    """The largest magnitude of each quantity."""
    found: dict[str, float] = {}
    for (name, *_), values in expected.items():
        found[name] = max(found.get(name, 0.0), distance(values, 0.0))
    return found


def distance(one: Any, other: Any) -> float:
    """The largest distance of two arrays, where both are finite."""
    apart = np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float))
    return float(np.max(apart, initial=0.0, where=np.isfinite(apart)))


def blank(values: np.ndarray) -> bool:
    """True if nothing was measured: NaN, -1, or status 0."""
    if values.dtype.kind == "f":
        return bool(np.isnan(values).all())
    return bool((values == (0 if values.dtype == np.uint8 else -1)).all())
