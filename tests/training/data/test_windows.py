"""The order of the data against orders that OLMo's own loaders made, and epochs that visit everything once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmo_dynamics.errors import TrainingError
from olmo_dynamics.training.data.windows import Windows


@pytest.mark.parametrize(
    ("seed", "position", "order"),
    [
        (34521, 0, [15, 14, 13, 1, 11, 0, 2, 5, 6, 4, 8, 12, 9, 10, 7, 3]),
        (1337, 0, [9, 3, 10, 6, 4, 0, 11, 2, 14, 1, 15, 8, 13, 5, 7, 12]),
        (6197, 0, [4, 14, 6, 15, 3, 2, 13, 0, 10, 11, 9, 7, 8, 1, 12, 5]),
        (6197, 1, [5, 6, 15, 8, 4, 9, 11, 12, 2, 1, 14, 3, 10, 13, 0, 7]),  # the second epoch
    ],
)
def test_windows_come_in_the_order_of_olmos_loaders(seed: int, position: int, order: list[int]) -> None:
    windows = Windows(np.repeat(np.arange(16, dtype=np.uint16), 4), length=4, sequences=16, seed=seed)
    batch = windows.batch(position).token_ids.numpy()
    assert batch.dtype == np.int64
    np.testing.assert_array_equal(batch, np.repeat(order, 4).reshape(16, 4))


@given(st.integers(1, 40), st.integers(1, 7), st.integers(2, 5), st.integers(0, 3), st.integers(0, 4))
def test_an_epoch_visits_each_window_at_most_once_and_positions_stand_alone(
    count: int, sequences: int, length: int, seed: int, tail: int
) -> None:
    tokens = np.arange(max(count, sequences) * length + tail % length)
    windows = Windows(tokens, length, sequences, seed)
    for epoch in range(2):
        first = epoch * windows.batches_per_epoch
        batches = [windows.batch(first + row).token_ids.numpy() for row in range(windows.batches_per_epoch)]
        seen = np.concatenate(batches)
        assert len(np.unique(seen[:, 0])) == windows.count // sequences * sequences
        assert (np.diff(seen, axis=1) == 1).all()
        assert (seen[:, 0] % length == 0).all()
        np.testing.assert_array_equal(
            Windows(tokens, length, sequences, seed).batch(first).token_ids.numpy(), batches[0]
        )


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (np.zeros(31, np.int64), "one batch is 4 windows of 8, 32 tokens (got 31): give more data or a smaller batch"),
        (
            np.zeros((8, 8), np.int64),
            "training tokens must be a one-dimensional integer array (got int64 of shape (8, 8))",
        ),
        (
            np.zeros(64, np.float32),
            "training tokens must be a one-dimensional integer array (got float32 of shape (64,))",
        ),
    ],
)
def test_tokens_that_make_no_batch_are_refused(tokens: np.ndarray, message: str) -> None:
    with pytest.raises(TrainingError) as caught:
        Windows(tokens, length=8, sequences=4, seed=0)
    assert str(caught.value) == message
