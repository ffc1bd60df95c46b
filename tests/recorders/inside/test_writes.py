"""Writes to the stream: equal to what transformers' sublayers add, and their shares of the logits sum to 1."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.quantities.declaration import Status
from olmo_dynamics.recorders.inside.lens_sample import LensSample
from olmo_dynamics.recorders.inside.writes import WritesRecorder
from tests.model.drawing import configs, has_norm_bias, random_model, random_tokens, same_in_transformers, tiny_config
from tests.recorders.inside.material import padded, recorded


@torch.no_grad()
def in_transformers(model, token_ids):
    """Streams, writes and heads' outputs of transformers' model in float64, and its logits."""
    theirs, post = same_in_transformers(model), model.config.model_type in ("olmo2", "olmo3")
    seen = {"before": [], "attention": [], "middle": [], "mlp": [], "heads": []}

    def first(value):
        return (value[0] if isinstance(value, tuple) else value).double().numpy()

    def on_output(module, name):
        module.register_forward_hook(lambda module, _, output: seen[name].append(first(output)))

    for block in theirs.base_model.layers:
        block.register_forward_pre_hook(lambda block, inputs: seen["before"].append(first(inputs)))
        attention = block.attention if hasattr(block, "attention") else block.self_attn
        projection = attention.dense if hasattr(attention, "dense") else attention.o_proj
        projection.register_forward_pre_hook(lambda module, inputs: seen["heads"].append(first(inputs)))
        on_output(block.post_attention_layernorm if post else attention, "attention")
        on_output(block.post_feedforward_layernorm if post else block.mlp, "mlp")
    logits = theirs(token_ids).logits.double().numpy()
    if model.config.parallel_residual:  # the MLP reads what attention reads
        return seen | {"middle": seen["before"], "logits": logits}
    seen["middle"] = [x + w for x, w in zip(seen["before"], seen["attention"], strict=True)]
    return seen | {"logits": logits}


def shares(model, seen, probe, sample, rounding=1e-4):
    """The share of each part, by covariances over the vocabulary; the logits add up to within `rounding`."""
    at = sample.rows, sample.positions
    parts = {(-1, "embedding"): seen["before"][0][at]}
    for layer in range(model.config.layers):
        parts |= {(layer, part): seen[part][layer][at] for part in ("attention", "mlp")}
    stream = sum(parts.values())
    state = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    head = state.get("lm_head.weight", state["model.embed_tokens.weight"])[: probe.tokenizer_size]
    gain, bias = state.get("model.norm.weight"), state.get("model.norm.bias", 0)
    norms = model.config.norms
    centres = norms.centred if norms else gain is None or "model.norm.bias" in state
    if centres:
        parts = {key: part - part.mean(-1, keepdims=True) for key, part in parts.items()}
        stream = stream - stream.mean(-1, keepdims=True)
    scale = 1 / np.sqrt((stream**2).mean(-1, keepdims=True) + model.config.norm_eps)
    z = seen["logits"][at][:, : probe.tokenizer_size]
    given = {key: part * scale * (1 if gain is None else gain) @ head.T for key, part in parts.items()}
    offset = bias @ head.T if np.any(bias) else 0
    np.testing.assert_allclose(sum(given.values()) + offset, z, rtol=10 * rounding, atol=rounding)
    covariances = {
        key: [np.cov(c, y, bias=True)[0, 1] for c, y in zip(each, z, strict=True)] for key, each in given.items()
    }
    return {key: (np.array(each) / z.var(axis=1)).mean() for key, each in covariances.items()}


def assert_like_transformers(config, **compute):
    model, ids = random_model(config), random_tokens(config, 4, 9)
    probe = padded(ids, [9, 9, 4, 9])
    probe.tokenizer_size = config.vocab_size - 5
    found, seen = recorded(model, probe, WritesRecorder(), **compute), in_transformers(model, ids)
    for layer in range(config.layers):
        for part, before in (("attention", "before"), ("mlp", "middle")):
            at = (("layer", layer), ("part", part))
            w, x = seen[part][layer][probe.mask], seen[before][layer][probe.mask]
            one, other = np.linalg.norm(w, axis=1), np.linalg.norm(x, axis=1)
            np.testing.assert_allclose(found["write_ratio", *at], (one / other).mean(), rtol=1e-4)
            cosine = ((w * x).sum(1) / one / other).mean()
            np.testing.assert_allclose(found["write_cosine", *at], cosine, atol=1e-5)
            assert found["status", *at] == Status.MEASURED
        matrix = model.state_dict()[f"model.layers.{layer}.self_attn.o_proj.weight"].double().numpy()
        heads = np.split(seen["heads"][layer][probe.mask], config.heads, axis=1)
        slices = np.split(matrix, config.heads, axis=1)
        norms = [np.linalg.norm(a @ m.T, axis=1).mean() for a, m in zip(heads, slices, strict=True)]
        np.testing.assert_allclose(found["head_write_l2", ("layer", layer)], norms, rtol=1e-4, atol=1e-6)
    expected = shares(model, seen, probe, LensSample.of(probe.mask, 512))
    ours = {key: found["logit_share", ("layer", key[0]), ("part", key[1])] for key in expected}
    np.testing.assert_allclose(list(ours.values()), list(expected.values()), rtol=1e-3, atol=1e-4)
    if not has_norm_bias(config):  # which belongs to no part
        assert sum(ours.values()) == pytest.approx(1, abs=1e-4)


@settings(max_examples=6)
@given(configs(), st.sampled_from([1, 3]), st.sampled_from([7, 1000]))
def test_all_families_are_as_in_transformers(config, at_once, columns):
    assert_like_transformers(config, sequences_at_once=at_once, columns_at_once=columns)


def test_a_pass_that_stops_early_has_no_share_of_the_logits():
    config = tiny_config()
    model, probe = random_model(config), padded(random_tokens(config, 3, 9), [9, 9, 1])
    early, whole = (recorded(model, probe, WritesRecorder(), until=until) for until in (2, None))
    assert {key for key in whole if key[0] != "logit_share" and key[1] != ("layer", 2)} - early.keys() == {
        ("status", ("layer", -1), ("part", "embedding"))
    }
    for key, values in early.items():
        np.testing.assert_array_equal(values, whole[key])


def test_threads_change_nothing_and_a_stream_of_zeros_has_no_ratio():
    config = tiny_config("olmo2")
    model, probe = random_model(config), padded(random_tokens(config, 9, 12), [12] * 9)
    one, two = (recorded(model, probe, WritesRecorder(), threads=threads) for threads in (1, 2))
    for key, values in one.items():
        np.testing.assert_array_equal(values, two[key])
    with torch.no_grad():
        model.model.embed_tokens.weight[int(probe.token_ids[0, 0])] = 0
    found = recorded(model, probe, WritesRecorder())
    at = (("layer", 0), ("part", "attention"))
    assert found["status", *at] == Status.DEGENERATE
    assert math.isnan(found["write_ratio", *at])
