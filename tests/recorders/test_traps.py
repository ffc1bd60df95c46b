"""Faults of public code that these measurements must not share; those of other subjects are beside their own tests.

Co-activation of adjacent ranks, legends and label of OLMoE's figures, the two balance losses: frames/experts, recorders/experts,
test_routing. Kurtosis of second moments: test_activations. Angles by acos: frames/weights/test_distances. Order of n-grams'
axes: inside/test_ngram. Public pickles: checkpoints/formats/test_unpickling.
"""

import numpy as np
import pytest
import torch

from olmo_dynamics.recorders import ActivationRecorder, ParameterRecorder
from olmo_dynamics.recorders.spectra import SpectraRecorder
from tests.model.drawing import random_model, random_tokens, same_in_transformers, tiny_config
from tests.recorders.inside.material import padded, recorded
from tests.recorders.inside.test_attention import observed
from tests.recorders.material import by_name, encode, shown_tensor, started


def measured(recorder, values, dtype="F32"):
    raw, info, _ = encode(values, dtype)
    recorder = started(recorder)
    recorder.observe(shown_tensor(raw, info))
    return by_name(recorder.finish())


def test_the_effective_rank_is_a_number_of_dimensions_and_not_a_share():
    found = measured(SpectraRecorder(), np.eye(12))
    for name in ("effective_rank", "effective_rank_of_squares", "participation_ratio", "stable_rank"):
        assert found[name] == pytest.approx(12)


def test_the_smallest_and_largest_element_are_signed():
    found = measured(ParameterRecorder(), [-3.0, 0.5, 2.0])
    assert (found["min"], found["max"], found["abs_max"]) == (-3, 2, 3)


def test_entropies_have_no_small_number_inside_the_logarithm():
    keys = torch.zeros(1, 64, 1)
    keys[:, 0] = 30.0  # the others have weights of 1e-13, far below 1e-9
    found = observed(torch.ones(1, 64, 1), keys, torch.ones(1, 64, 1))
    rest = np.arange(64) * np.exp(-30.0)
    exact = np.log1p(rest) + 30 * rest / (1 + rest)
    assert found["entropy"] == pytest.approx(exact.mean(), rel=0.05, abs=0)  # of 9e-11, in float32


@pytest.mark.slow
def test_quantiles_of_more_elements_than_torch_can_sort():
    values = np.resize(np.random.default_rng(0).standard_normal(1 << 20), (1 << 24) + 7)
    with pytest.raises(RuntimeError, match="too large"):
        torch.quantile(torch.from_numpy(values).float(), 0.5)
    found = measured(ParameterRecorder(), values, "BF16")
    stored = torch.from_numpy(values).bfloat16().double().numpy()
    assert found["abs_median"] == np.median(np.abs(stored))
    assert found["element_quantile"][4] == np.median(stored)


@torch.no_grad()
def test_the_stream_leaving_the_last_block_is_before_the_final_norm():
    config = tiny_config(layers=1)
    model, ids = random_model(config), random_tokens(config, 2, 9)
    last = same_in_transformers(model)(ids, output_hidden_states=True).hidden_states[-1]
    found = recorded(model, padded(ids, [9, 9]), ActivationRecorder())
    norm = last.double().norm(dim=-1).mean().item()
    assert found["l2_norm", ("layer", -1), ("site", "final_norm")] == pytest.approx(norm, rel=1e-5)
    assert found["l2_norm", ("layer", 0), ("site", "residual_out")] != pytest.approx(norm, rel=1e-2)
