import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.errors import OptionError
from olmo_dynamics.names import NO_LAYER, Site
from olmo_dynamics.quantities import MASSIVE_RANKS
from olmo_dynamics.recorders import OutlierRecorder
from tests.recorders.material import Tokens, by_name, everything, shown, started

IDS = np.arange(12).reshape(3, 4) + 100


def recorder():
    return started(OutlierRecorder(), Tokens(IDS, 200), layers=1)


def measure(x, mask=None, dtype=torch.float64):
    seen = recorder()
    seen.observe(shown(Site.RESIDUAL_OUT, 0, x, mask, dtype=dtype))
    return by_name(everything(seen))


def reference(x, mask):
    """The largest of all real activations with their places, by sorting everything."""
    places = [(-abs(x[place]), *place) for place in np.ndindex(x.shape) if mask[place[:2]]]
    top = [place[1:] for place in sorted(places)[:MASSIVE_RANKS]]
    sequences = [np.sort(np.abs(x[s][mask[s]]).ravel()) for s in range(len(x)) if mask[s].any()]
    return top, sequences


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([torch.float64, torch.float32, torch.bfloat16]), st.integers(1, 9))
def test_agrees_with_sorting_everything(seed, dtype, width):
    rng = np.random.default_rng(seed)
    x = torch.as_tensor(rng.integers(-9, 10, (3, 4, width)) * rng.choice([1.0, 50.0], (3, 4, width))).to(dtype)
    lengths = np.array([4, *rng.integers(0, 5, 2)])
    mask = np.arange(4) < lengths[:, None]
    found, x = measure(x, mask, dtype), x.double().numpy()
    top, sequences = reference(x, mask)
    ranks = len(top)
    np.testing.assert_array_equal(found["massive_value"][:ranks], [x[place] for place in top])
    np.testing.assert_array_equal(found["massive_sequence"][:ranks], [place[0] for place in top])
    np.testing.assert_array_equal(found["massive_position"][:ranks], [place[1] for place in top])
    np.testing.assert_array_equal(found["massive_feature"][:ranks], [place[2] for place in top])
    np.testing.assert_array_equal(found["massive_token_id"][:ranks], [IDS[place[:2]] for place in top])
    assert np.isnan(found["massive_value"][ranks:]).all()
    assert (found["massive_position"][ranks:] == -1).all()
    np.testing.assert_allclose(found["massive_median"], np.mean([np.median(each) for each in sequences]), rtol=1e-12)


def test_top_three_are_averaged_over_sequences():
    x = np.zeros((2, 4, 3))
    x[0, 0], x[1, 2] = [5, -7, 1], [-10, 2, 4]
    np.testing.assert_array_equal(measure(x)["massive_top3"], [8.5, 4.5, 1.5])


def test_massive_is_above_100_and_1000_medians():
    x = np.full((3, 4, 10), 0.2)
    x[0, 0, 3], x[0, 1, 4], x[1, 0, 3] = -2000.0, 150.0, 100.0
    found = measure(x)
    assert found["massive_count"] == 1  # 150 is only 750 medians
    assert (found["massive_value"][0], found["massive_position"][0], found["massive_feature"][0]) == (-2000, 0, 3)
    assert found["massive_median"] == pytest.approx(0.2)
    np.testing.assert_allclose(found["massive_top3"], [(2000 + 100 + 0.2) / 3, (150 + 0.4) / 3, 0.2])
    assert measure(x / 30)["massive_count"] == 0  # the ratios stand, the magnitudes do not


def test_threshold_ratio_is_reached_exactly():
    x = np.full((1, 4, 10), 0.25)
    x[0, 0, 0] = 250.0
    assert measure(x)["massive_count"] == 1
    x[0, 0, 0] = 249.0
    assert measure(x)["massive_count"] == 0


def test_nan_is_the_largest():
    x = np.ones((3, 4, 5))
    x[1, 2, 3] = np.nan
    found = measure(x)
    assert np.isnan(found["massive_value"][0])
    assert (found["massive_sequence"][0], found["massive_position"][0], found["massive_feature"][0]) == (1, 2, 3)
    assert np.isnan(found["massive_median"])


def test_cut_sequences_are_refused():
    message = "massive activations need whole sequences of 4 positions (got 2); do not cut them"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        recorder().observe(shown(Site.RESIDUAL_OUT, 0, torch.zeros(3, 2, 5)))


def test_the_embedding_stands_before_the_first_layer():
    seen = recorder()
    seen.observe(shown(Site.EMBEDDING, NO_LAYER, torch.ones(3, 4, 5)))
    records = [record for record in everything(seen) if record.quantity.name.startswith("massive_")]
    assert {record.at["layer"] for record in records} == {-1}
    assert by_name(records)["massive_median"] == 1
