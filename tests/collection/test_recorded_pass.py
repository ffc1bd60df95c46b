"""A recorded pass: the same records from any number of threads, and from weights prepared ahead; part of it on demand."""

import numpy as np
import pytest
import scipy.special
import torch

from olmo_dynamics.collection.recorded_pass import RecordedPass
from olmo_dynamics.model import MODEL_TYPES, Compute, stages
from olmo_dynamics.probes import load_probe
from olmo_dynamics.recorders import BUILT_IN
from tests.model.drawing import random_model, random_tokens, same_in_transformers, tiny_config


def make_probe(folder, config, sequences=11, positions=12):
    path = folder / "tokens.npy"
    np.save(path, random_tokens(config, sequences, positions).numpy())
    return load_probe(None, tokens=path, batch=(sequences, positions), vocab_size=config.vocab_size)


def recorded(model, probe, *, until=None, ahead=False, **compute):
    forward = RecordedPass(
        model.config, probe, [each() for each in BUILT_IN if not each().lacks], until=until, compute=Compute(**compute)
    )
    weights = {stage.name: {name: model.state_dict()[name] for name in stage.tensors} for stage in forward.stages}
    if ahead:
        ready = [forward.prepare(stage, weights[stage.name]) for stage in forward.stages]
        return [record for each in ready for record in forward.run_prepared(each)]
    return [record for stage in forward.stages for record in forward.run(stage, weights[stage.name])]


def keyed(records):
    return {(record.quantity.key, *sorted(record.at.items())): record.values for record in records}


def assert_same_bits(a, b):
    assert len(a) == len(keyed(a)) == len(b)
    for one, other in zip(a, b, strict=True):
        assert (one.quantity, one.at) == (other.quantity, other.at)
        np.testing.assert_array_equal(one.values, other.values, err_msg=str((one.quantity.key, one.at)))


BFLOAT16 = ("olmo2", "olmoe")
"""A dense model and one of experts: other families differ in their layers, not in what is done to values of a dtype."""


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        pytest.param(family, dtype, marks=[] if dtype == torch.float32 or family in BFLOAT16 else [pytest.mark.slow])
        for dtype in (torch.bfloat16, torch.float32)
        for family in MODEL_TYPES
    ],
)
def test_threads_change_no_bit_of_the_records(family, dtype, tmp_path):
    model = random_model(tiny_config(family), dtype=dtype)
    probe = make_probe(tmp_path, model.config)
    one = recorded(model, probe, dtype=dtype, threads=1)
    assert_same_bits(one, recorded(model, probe, dtype=dtype, threads=2))
    assert_same_bits(one, recorded(model, probe, dtype=dtype, threads=3, ahead=True))


def test_until_a_layer_nothing_later_is_recorded(tmp_path):
    model = random_model(tiny_config())
    probe = make_probe(tmp_path, model.config)
    whole, part = keyed(recorded(model, probe)), keyed(recorded(model, probe, until=2))
    layers = {dict(key[1:]).get("layer") for key in part}
    assert layers == {-1, 0, 1}
    for key, values in part.items():
        np.testing.assert_array_equal(values, whole[key])
    assert {key[0].split("/")[0] for key in part} == {
        "activations", "outliers", "attention", "writes", "induction", "representations",
    }  # fmt: skip
    assert not any("llmint8" in key[0] for key in part)
    assert len(stages(model.config, until=2)) == 3


@pytest.mark.parametrize("family", MODEL_TYPES)
def test_losses_from_slices_of_the_vocabulary_are_transformers_losses(family, tmp_path):
    model = random_model(tiny_config(family))
    probe = make_probe(tmp_path, model.config)
    found = keyed(recorded(model, probe, columns_at_once=7))
    ids = torch.tensor(probe.token_ids)
    with torch.no_grad():
        logits = same_in_transformers(model)(ids).logits.double().numpy()
    lse = scipy.special.logsumexp(logits, axis=-1)
    chosen = np.take_along_axis(logits[:, :-1], probe.token_ids[:, 1:, None], axis=-1)[..., 0]
    losses = lse[:, :-1] - chosen
    np.testing.assert_allclose(found[("tokens/token_cross_entropy",)][:, 1:], losses, rtol=1e-5)
    np.testing.assert_allclose(found[("logits/lse_mean",)], lse.mean(), rtol=1e-6)
    probabilities = scipy.special.softmax(logits[..., : probe.tokenizer_size], axis=-1)
    np.testing.assert_allclose(found[("logits/entropy",)], scipy.special.entr(probabilities).sum(-1).mean(), rtol=1e-6)
    np.testing.assert_allclose(found[("logits/top_probability",)], probabilities.max(-1).mean(), rtol=1e-5)
