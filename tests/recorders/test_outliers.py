import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.names import NO_LAYER, Site
from olmo_dynamics.quantities import RMS_THRESHOLDS, THRESHOLDS, of_group
from olmo_dynamics.quantities.declaration import Status
from olmo_dynamics.recorders import OutlierRecorder
from tests.recorders.material import Tokens, by_name, everything, shown, started

SHAPE = (3, 5, 8)
IDS = np.arange(15).reshape(3, 5) + 100
EVERYTHING = np.ones((3, 5), dtype=bool)
PER_FEATURE = ("feature_fraction_above", "feature_fraction_above_rms", "feature_abs_max")


def activations(seed, shape=SHAPE):
    return np.random.default_rng(seed).standard_t(2, shape) * 4


SITES = (Site.EMBEDDING, Site.RESIDUAL_MIDDLE, Site.RESIDUAL_OUT)
ENTERING = Site.RESIDUAL_IN
"""Stands for the site that comes before a block, whose values are those that enter it."""


def observe(recorder, x, *, site=ENTERING, layer=0, mask=EVERYTHING, sequences=slice(0, 3), dtype=torch.float64):
    if site is ENTERING:
        site, layer = (Site.RESIDUAL_OUT, layer - 1) if layer else (Site.EMBEDDING, NO_LAYER)
    recorder.observe(shown(site, layer, x, mask, rows=sequences, dtype=dtype))
    return recorder


def recorder():
    return started(OutlierRecorder(), Tokens(IDS, 200), sites=SITES)


def at(records, **labels):
    return by_name([record for record in records if record.at == labels])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_fractions_agree_with_numpy(dtype):
    x = torch.as_tensor(activations(0)).to(dtype)
    mask = EVERYTHING.copy()
    mask[2, 2:] = False
    records = everything(observe(recorder(), x, mask=mask, layer=4, dtype=dtype))
    found = at(records, input="attention_input", layer=4)
    for suffix, chosen in (("", mask), ("_without_first", mask & (np.arange(5) > 0))):
        tokens = np.abs(x.double().numpy()[chosen])
        rms = np.sqrt(np.mean(tokens**2, axis=1, keepdims=True))
        above = np.array([np.mean(tokens >= limit, axis=0) for limit in THRESHOLDS])
        above_rms = np.array([np.mean(tokens >= limit * rms, axis=0) for limit in RMS_THRESHOLDS])
        np.testing.assert_array_equal(found["feature_fraction_above" + suffix], above.astype(np.float32))
        np.testing.assert_array_equal(found["feature_fraction_above_rms" + suffix], above_rms.astype(np.float32))
        np.testing.assert_array_equal(found["feature_abs_max" + suffix], tokens.max(axis=0).astype(np.float32))


def test_thresholds_include_their_own_value():
    x = np.zeros(SHAPE)
    x[..., 0] = -6.0
    found = at(everything(observe(recorder(), x)), input="attention_input", layer=0)
    np.testing.assert_array_equal(found["feature_fraction_above"][:, 0], [limit <= 6 for limit in THRESHOLDS])


def test_relative_thresholds_do_not_see_the_scale():
    x = np.ones(SHAPE)
    x[..., 3] = 40.0  # rms is about 14.2
    for scale in (1e-4, 1.0, 1e4):
        found = at(everything(observe(recorder(), x * scale)), input="attention_input", layer=0)
        above = found["feature_fraction_above_rms"]
        assert above[:, [0, 1, 2, 4]].sum() == 0
        np.testing.assert_array_equal(above[:, 3], 0)  # 40 / 14.2 < 3
    wide = np.ones((1, 5, 400))
    wide[..., 3] = 400.0
    found = at(
        everything(observe(recorder(), wide, mask=EVERYTHING[:1], sequences=slice(0, 1))),
        input="attention_input",
        layer=0,
    )
    np.testing.assert_array_equal(found["feature_fraction_above_rms"][:, 3], [1, 1, 1, 0, 0])


def test_both_inputs_of_every_layer_enter_the_rule():
    seen = recorder()
    for layer in range(2):
        for site in (ENTERING, Site.RESIDUAL_MIDDLE):
            x = np.zeros(SHAPE)
            x[:, 0, 5] = 7.0 if (layer, site) == (1, Site.RESIDUAL_MIDDLE) else 0.0
            x[:, 1, 6] = -8.0
            observe(seen, x, layer=layer, site=site)
    rule = at(everything(seen))
    assert rule["llmint8_count"] == 2
    assert rule["llmint8_layer_share"] == (0.25 + 1) / 2
    assert rule["llmint8_token_share"] == pytest.approx(0.2)
    assert rule["llmint8_magnitude"] == 7.5
    assert rule["llmint8_count_without_first"] == 1
    assert rule["llmint8_magnitude_without_first"] == 8
    assert rule["llmint8_rms_count"] == 0


def test_finishing_layer_by_layer_changes_no_number():
    together, apart = recorder(), recorder()
    finished = []
    for layer in range(NO_LAYER, 3):
        for seen in (together, apart):
            if layer >= 0:
                observe(seen, activations(layer), layer=layer, site=Site.RESIDUAL_MIDDLE)
            site = Site.RESIDUAL_OUT if layer >= 0 else Site.EMBEDDING
            observe(seen, activations(layer + 10), layer=layer, site=site)
        finished += apart.finish_layer(layer)
        assert apart.finish_layer(layer) == []
    finished += apart.finish_layer(3)  # the next block is entered by the stream that left the last
    assert_same(everything(together), [*finished, *apart.finish()])


def keyed(records):
    return {(record.quantity.name, *sorted(record.at.items())): record.values for record in records}


def assert_same(a, b):
    a, b = keyed(a), keyed(b)
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key], err_msg=str(key))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 3))
def test_halves_merge_to_the_whole_exactly(seed, cut):
    whole, one, two = recorder(), recorder(), recorder()
    mask = np.random.default_rng(seed).random((3, 5)) < 0.7
    for site in SITES:
        x = activations(seed)
        layer = NO_LAYER if site is Site.EMBEDDING else 0
        observe(whole, x, site=site, layer=layer, mask=mask)
        observe(one, x[:cut], site=site, layer=layer, mask=mask[:cut], sequences=slice(0, cut))
        observe(two, x[cut:], site=site, layer=layer, mask=mask[cut:], sequences=slice(cut, 3))
    two.merge(one)
    assert_same(everything(whole), everything(two))


def test_status():
    x = activations(0)
    assert at(everything(observe(recorder(), x)), layer=0)["status"] == Status.MEASURED
    assert at(everything(observe(recorder(), x, mask=~EVERYTHING)), layer=0)["status"] == Status.NOT_MEASURED
    x[1, 2, 3] = np.nan
    for site in (ENTERING, Site.RESIDUAL_OUT):
        assert at(everything(observe(recorder(), x, site=site)), layer=0)["status"] == Status.NONFINITE
    found = at(everything(observe(recorder(), x)), input="attention_input", layer=0)
    np.testing.assert_array_equal(np.isnan(found["feature_abs_max"]), np.arange(8) == 3)


def test_every_declared_quantity_is_recorded_with_its_dtype():
    seen = recorder()
    for site in (ENTERING, Site.RESIDUAL_MIDDLE, Site.RESIDUAL_OUT):
        observe(seen, activations(0), site=site)
    records = everything(seen)
    assert {record.quantity for record in records} == set(of_group("outliers"))
    for record in records:
        assert record.values.dtype == record.quantity.dtype, record.quantity.name
        assert record.values.ndim == len(record.quantity.axes) - len(record.at)


def test_a_rule_over_no_tokens_is_not_given():
    only_first = np.zeros((3, 5), dtype=bool)
    only_first[:, 0] = True
    rule = at(everything(observe(recorder(), activations(0), mask=only_first)))
    assert "llmint8_count" in rule
    assert "llmint8_count_without_first" not in rule


def test_other_sites_are_passed_over():
    assert everything(observe(recorder(), activations(0), site=Site.MLP_OUTPUT)) == []
