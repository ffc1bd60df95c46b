import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.names import NO_LAYER, Site
from olmo_dynamics.quantities import of_group
from olmo_dynamics.quantities.declaration import Status
from olmo_dynamics.recorders import LossRecorder
from tests.recorders.material import Tokens, by_name, everything, shown, started

SEQUENCES, POSITIONS, KNOWN, VOCAB = 4, 6, 40, 48


def probe(seed=0, **changes):
    rng = np.random.default_rng(seed)
    lengths = np.array([POSITIONS, 3, POSITIONS, 1])
    fields = {
        "token_ids": rng.integers(0, KNOWN, (SEQUENCES, POSITIONS)),
        "tokenizer_size": KNOWN,
        "mask": np.arange(POSITIONS) < lengths[:, None],
        "domain": np.array([0, 1, 1, 2]),
        "domains": ("code", "prose", "short"),
        "token_bytes": rng.integers(1, 9, (SEQUENCES, POSITIONS)),
    }
    return Tokens(**(fields | changes))


def logits(seed=0, scale=3.0):
    return np.random.default_rng(seed).normal(0.5, scale, (SEQUENCES, POSITIONS, VOCAB))


def recorder_of(tokens):
    return started(LossRecorder(), tokens)


def observe(recorder, tokens, values, rows=slice(0, None), positions=slice(0, None)):
    there = slice(*rows.indices(len(tokens.mask))[:2]), slice(*positions.indices(tokens.mask.shape[1])[:2])
    recorder.observe(shown(Site.LOGITS, NO_LAYER, values[there], tokens.mask[there], *there))


def measure(tokens, values, dtype=torch.float64):
    recorder = recorder_of(tokens)
    observe(recorder, tokens, torch.as_tensor(values).to(dtype))
    return everything(recorder)


def of(records, group, **labels):
    return by_name([each for each in records if each.quantity.group == group and each.at == labels])


def reference_logits(tokens, z, suffix):
    chosen = tokens.mask & (np.arange(POSITIONS) > 0) if suffix else tokens.mask
    z = z[chosen]
    lse = scipy.special.logsumexp(z, axis=1)
    p = scipy.special.softmax(z[:, :KNOWN], axis=1)
    return {
        "lse_mean": lse.mean(), "lse_square_mean": np.mean(lse**2), "lse_std": lse.std(), "lse_max": lse.max(),
        "logit_mean": z.mean(), "logit_rms": np.sqrt(np.mean(z**2)),
        "logit_centred_rms": np.sqrt(np.mean(z.var(axis=1))),
        "entropy": scipy.special.entr(p).sum(axis=1).mean(), "top_probability": p.max(axis=1).mean(),
    }  # fmt: skip


def reference_losses(tokens, z):
    """-ln p of each token given what is before it, at the token's own place."""
    logp = z - scipy.special.logsumexp(z, axis=2, keepdims=True)
    losses = np.full(tokens.shape, math.nan)
    for s in range(SEQUENCES):
        for t in range(POSITIONS - 1):
            if tokens.mask[s, t] and tokens.mask[s, t + 1]:
                losses[s, t + 1] = -logp[s, t, tokens.token_ids[s, t + 1]]
    return losses


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("suffix", ["", "_without_first"])
def test_logits_agree_with_scipy(dtype, rtol, suffix):
    tokens, z = probe(), torch.as_tensor(logits()).to(dtype)
    found = of(measure(tokens, z, dtype), "logits")
    for name, value in reference_logits(tokens, z.double().numpy(), suffix).items():
        np.testing.assert_allclose(found[name + suffix], value, rtol=rtol, err_msg=name)
    assert found["status"] == Status.MEASURED


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_losses_agree_with_scipy(dtype, rtol):
    tokens, z = probe(), torch.as_tensor(logits()).to(dtype)
    records = measure(tokens, z, dtype)
    losses = reference_losses(tokens, z.double().numpy())
    np.testing.assert_allclose(of(records, "tokens")["token_cross_entropy"], losses, rtol=1e-6)
    for number, domain in enumerate(tokens.domains[:2]):
        found = of(records, "loss", domain=domain)
        inside = losses[tokens.domain == number]
        for suffix, start in (("", 1), ("_without_first", 2)):
            scored = inside[:, start:]
            real = ~np.isnan(scored)
            size = tokens.token_bytes[tokens.domain == number][:, start:][real].sum()
            np.testing.assert_allclose(found["cross_entropy" + suffix], scored[real].mean(), rtol=rtol)
            np.testing.assert_allclose(
                found["bits_per_byte" + suffix], scored[real].sum() / size / math.log(2), rtol=rtol
            )
            assert found["scored_tokens" + suffix] == real.sum()
        assert found["status"] == Status.MEASURED
        for position in range(POSITIONS):
            column = inside[:, position][~np.isnan(inside[:, position])]
            expected = column.mean() if len(column) else math.nan
            np.testing.assert_allclose(found["position_cross_entropy"][position], expected, rtol=1e-6)


def test_a_domain_without_scored_tokens_is_not_measured():
    found = of(measure(probe(), logits()), "loss", domain="short")
    assert found["status"] == Status.NOT_MEASURED
    assert found["scored_tokens"] == 0
    assert np.isnan(found["cross_entropy"])
    assert np.isnan(found["bits_per_byte"])
    assert np.isnan(found["position_cross_entropy"]).all()


def test_unknown_bytes_leave_bits_per_byte_unknown():
    tokens = probe(token_bytes=np.full((SEQUENCES, POSITIONS), -1))
    found = of(measure(tokens, logits()), "loss", domain="code")
    assert np.isnan(found["bits_per_byte"])
    assert np.isfinite(found["cross_entropy"])


@pytest.mark.parametrize("level", [0.0, -30.0, 1e4])
def test_uniform_model(level):
    tokens = probe(token_bytes=np.full((SEQUENCES, POSITIONS), 4))
    records = measure(tokens, np.full((SEQUENCES, POSITIONS, VOCAB), level))
    found, loss = of(records, "logits"), of(records, "loss", domain="code")
    assert found["lse_mean"] == pytest.approx(level + math.log(VOCAB))
    assert found["entropy"] == pytest.approx(math.log(KNOWN))
    assert found["top_probability"] == pytest.approx(1 / KNOWN)
    assert found["logit_centred_rms"] == 0
    assert loss["cross_entropy"] == pytest.approx(math.log(VOCAB))
    assert loss["bits_per_byte"] == pytest.approx(math.log2(VOCAB) / 4)


def test_small_random_logits_start_at_the_logarithm_of_the_vocabulary():
    tokens = Tokens(np.zeros((2, 64), np.int64), tokenizer_size=320)
    z = torch.as_tensor(np.random.default_rng(0).normal(0, 0.1, (2, 64, 320)))
    recorder = recorder_of(tokens)
    observe(recorder, tokens, z)
    found = of(everything(recorder), "logits")
    assert found["lse_mean"] == pytest.approx(math.log(320) + 0.1**2 / 2, abs=1e-3)


def test_certain_model_has_no_loss_and_no_entropy():
    tokens = probe()
    z = np.zeros((SEQUENCES, POSITIONS, VOCAB))
    for s, t in np.ndindex(SEQUENCES, POSITIONS - 1):
        z[s, t, tokens.token_ids[s, t + 1]] = 800.0
    records = measure(tokens, z, torch.float32)
    assert of(records, "loss", domain="prose")["cross_entropy"] == 0
    losses = of(records, "tokens")["token_cross_entropy"]
    assert np.nanmax(losses) == 0


def test_large_padding_columns_count_in_the_loss_but_not_in_the_entropy():
    z = logits()
    z[..., KNOWN:] = 500.0
    tokens = probe()
    found = of(measure(tokens, z, torch.float32), "logits")
    assert found["lse_mean"] == pytest.approx(500 + math.log(VOCAB - KNOWN))
    assert found["entropy"] == pytest.approx(reference_logits(tokens, z, "")["entropy"], rel=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nonfinite_logits(value):
    z = logits()
    z[0, 2, 7] = value
    records = measure(probe(), z)
    assert of(records, "logits")["status"] == Status.NONFINITE
    assert of(records, "tokens")["status"] == Status.NONFINITE
    assert of(records, "loss", domain="code")["status"] == Status.NONFINITE
    assert of(records, "loss", domain="prose")["status"] == Status.MEASURED
    assert np.isnan(of(records, "loss", domain="code")["cross_entropy"])


def test_nothing_seen_gives_nothing():
    assert everything(recorder_of(probe())) == []


def test_logits_seen_in_part_are_not_measured():
    tokens = probe()
    recorder = started(LossRecorder(), tokens, config=SimpleNamespace(vocab_size=VOCAB))
    recorder.observe(shown(Site.LOGITS, NO_LAYER, logits()[..., :-1], tokens.mask))
    records = everything(recorder)
    assert of(records, "logits")["status"] == of(records, "tokens")["status"] == Status.NOT_MEASURED
    assert of(records, "loss", domain="code")["status"] == Status.NOT_MEASURED
    assert np.isnan(of(records, "logits")["lse_mean"])
    assert np.isnan(of(records, "loss", domain="code")["cross_entropy"])


def test_padding_ids_may_be_anything():
    tokens = probe()
    expected = of(measure(tokens, logits()), "tokens")["token_cross_entropy"]
    tokens.token_ids[~tokens.mask] = -1
    np.testing.assert_array_equal(of(measure(tokens, logits()), "tokens")["token_cross_entropy"], expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, SEQUENCES), st.integers(1, POSITIONS))
def test_slices_in_any_order_and_merged_give_the_whole(seed, sequences_at_once, positions_at_once):
    tokens, z = probe(), torch.as_tensor(logits(seed))
    recorders = recorder_of(tokens), recorder_of(tokens)
    parts = [
        (slice(s, min(s + sequences_at_once, SEQUENCES)), slice(t, min(t + positions_at_once, POSITIONS)))
        for s in range(0, SEQUENCES, sequences_at_once)
        for t in range(0, POSITIONS, positions_at_once)
    ]
    np.random.default_rng(seed).shuffle(parts)
    for number, (rows, positions) in enumerate(parts):
        observe(recorders[number % 2], tokens, z, rows, positions)
    recorders[0].merge(recorders[1])
    for whole, merged in zip(measure(tokens, z), everything(recorders[0]), strict=True):
        assert (whole.quantity, whole.at) == (merged.quantity, merged.at)
        np.testing.assert_allclose(whole.values, merged.values, rtol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-50, 50))
def test_a_shift_of_all_logits_moves_only_their_level(seed, shift):
    z = logits(seed)
    before, after = (of(measure(probe(), values), "logits") for values in (z, z + shift))
    assert after["lse_mean"] == pytest.approx(float(before["lse_mean"] + shift))
    assert after["logit_mean"] == pytest.approx(float(before["logit_mean"] + shift))
    for name in ("lse_std", "logit_centred_rms", "entropy", "top_probability"):
        assert after[name] == pytest.approx(float(before[name]), rel=1e-9)


def test_every_declared_quantity_is_recorded_with_its_dtype():
    records = measure(probe(), logits())
    expected = {quantity for group in ("logits", "loss", "tokens") for quantity in of_group(group)}
    assert {each.quantity for each in records} == expected
    for each in records:
        assert each.values.dtype == each.quantity.dtype, each.quantity.name
        assert each.values.ndim == len(each.quantity.axes) - len(each.at)
