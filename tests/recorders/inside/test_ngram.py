"""Unigram and bigram statistics: equal to NumPy on transformers' logits, however the pass is cut."""

from dataclasses import replace

import numpy as np
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.probes.counting import CountsFile, TokenCounts
from olmo_dynamics.quantities.declaration import Status
from olmo_dynamics.recorders.inside.ngram import NgramRecorder
from olmo_dynamics.recorders.inside.ngram_model import NgramModel
from olmo_dynamics.recorders.inside.ngram_samples import NgramSampleRecorder
from olmo_dynamics.recorders.inside.ngram_source import NgramSource
from olmo_dynamics.recorders.inside.ngram_sums import DivergenceSums
from tests.model.drawing import configs, random_model, random_tokens, same_in_transformers, tiny_config
from tests.recorders.inside.material import padded, recorded


class Counted(CountsFile):
    """Counts of an array of ids in place of a file's."""

    def __init__(self, ids):
        super().__init__("counted.npy")
        object.__setattr__(self, "ids", ids)

    def _of_tokens(self, known, columns):
        return TokenCounts.of_ids(self.ids, known)


def dense(ids, vocabulary):
    """Both models by definition: [V] and [V, V], add-δ with δ = 1 / V."""
    unigram, bigram = np.zeros(vocabulary), np.zeros((vocabulary, vocabulary))
    np.add.at(unigram, ids, 1)
    np.add.at(bigram, (ids[:-1], ids[1:]), 1)
    smoothed = [counts + 1 / vocabulary for counts in (unigram, bigram)]
    return [each / each.sum(-1, keepdims=True) for each in smoothed]


def divergences(p, q):
    """The means of KL(p ‖ q) and of the Jensen-Shannon divergence over rows, by scipy."""
    m = (p + q) / 2
    relative = scipy.special.rel_entr
    return relative(p, q).sum(-1).mean(), (relative(p, m).sum(-1) + relative(q, m).sum(-1)).mean() / 2


def recorders(ids):
    source = NgramSource(Counted(ids))
    return NgramRecorder(source), NgramSampleRecorder(source)


@torch.no_grad()
def logits_in_transformers(model, token_ids):
    return same_in_transformers(model)(torch.tensor(token_ids)).logits.double().numpy()


def assert_like_transformers(config, **compute):
    config = replace(config, max_positions=20)
    model, probe = random_model(config), padded(random_tokens(config, 4, 9), [9, 9, 4, 9], [0, 0, 1, 1])
    probe.tokenizer_size = known = config.vocab_size - 5
    ids = np.random.default_rng(3).integers(0, known - 2, 400)
    found = recorded(model, probe, *recorders(ids), **compute)
    scored = np.zeros_like(probe.mask)
    scored[:, :-1] = probe.mask[:, 1:]
    q = scipy.special.softmax(logits_in_transformers(model, probe.token_ids)[scored][:, :known], axis=1)
    unigram, bigram = dense(ids, known)
    sampled = NgramModel(TokenCounts.of_ids(ids, known))
    after_any = np.vstack([bigram, np.full((5, known), 1 / known)])  # the last five lie outside the vocabulary
    for order, p in ((1, unigram), (2, after_any[probe.token_ids[scored]])):
        at = ("order", order)
        np.testing.assert_allclose((found["kl", at], found["js", at]), divergences(p, q), rtol=1e-4, atol=1e-6)
        assert found["status", at] == Status.MEASURED
        windows = sampled.sample(order, 8, 20, 0)
        logits = logits_in_transformers(model, windows)[:, :-1]
        chosen = np.take_along_axis(logits, windows[:, 1:, None], axis=-1)[..., 0]
        losses = scipy.special.logsumexp(logits, axis=-1) - chosen
        np.testing.assert_allclose(found["cross_entropy", at], losses.mean(), rtol=1e-5)
        own = unigram[windows[:, 1:]] if order == 1 else bigram[windows[:, :-1], windows[:, 1:]]
        np.testing.assert_allclose(found["sample_entropy", at], -np.log(own).mean(), rtol=1e-12)
    uncounted = ~np.isin(probe.token_ids[scored], ids[:-1])
    assert (found["uncounted_share", ("order", 1)], found["uncounted_share", ("order", 2)]) == (0, uncounted.mean())


@settings(max_examples=5)
@given(configs(), st.sampled_from([1, 3]), st.sampled_from([7, 1000]))
def test_all_families_are_as_in_transformers(config, at_once, columns):
    assert_like_transformers(config, sequences_at_once=at_once, columns_at_once=columns)


def of_logits(model, contexts, logits, columns=1000):
    """KL and JS of logits [tokens, V], which come in slices: the head is the identity."""
    z = torch.from_numpy(logits)
    sums = DivergenceSums(model, contexts, z, np.arange(len(z)))
    for first in range(0, z.shape[1], columns):
        sums.add(z[:, first : first + columns], torch.eye(z.shape[1], dtype=z.dtype)[first : first + columns], first)
    return sums.measured()


@settings(max_examples=60)
@given(st.integers(2, 9), st.integers(1, 12), st.floats(0, 60), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_divergences_are_within_their_bounds_and_those_of_dense_matrices(size, tokens, scale, columns, seed):
    drawn = np.random.default_rng(seed)
    ids = drawn.integers(0, size, 30)
    model, contexts = NgramModel(TokenCounts.of_ids(ids, size)), drawn.integers(0, size, tokens)
    logits = scale * drawn.standard_normal((tokens, size))
    kl, js = of_logits(model, contexts, logits, columns)
    assert (kl >= 0).all()
    assert ((js >= 0) & (js <= np.log(2) + 1e-12)).all()
    q, (unigram, bigram) = scipy.special.softmax(logits, axis=1), dense(ids, size)
    for number, p in enumerate((unigram[None], bigram[contexts])):
        np.testing.assert_allclose((kl[number].mean(), js[number].mean()), divergences(p, q), rtol=1e-9, atol=1e-12)
    for number, p in enumerate((np.broadcast_to(unigram, q.shape), bigram[contexts])):
        of_its_own = of_logits(model, contexts, np.log(p), columns)
        assert max(np.abs(each[number]).max() for each in of_its_own) < 1e-12


def test_a_uniform_model_and_even_counts_do_not_diverge():
    ids = np.concatenate([[first, second] for first in range(4) for second in range(4)])
    counts = TokenCounts.of_ids(ids.reshape(-1, 2), 4)
    kl, js = of_logits(NgramModel(counts), np.arange(5), np.full((5, 4), 3.0))
    np.testing.assert_allclose(np.stack([kl, js]), 0, atol=1e-14)


def test_cuts_and_threads_change_nothing():
    config = tiny_config("olmo2", max_positions=16)
    model, probe = random_model(config), padded(random_tokens(config, 9, 12), [12, 3] + [12] * 7)
    ids = np.random.default_rng(0).integers(0, probe.tokenizer_size, 300)
    whole = recorded(model, probe, *recorders(ids), threads=1)
    two = recorded(model, probe, *recorders(ids), threads=2)
    cut = recorded(model, probe, *recorders(ids), sequences_at_once=1, columns_at_once=13)
    assert whole.keys() == two.keys() == cut.keys()
    for key, values in whole.items():
        np.testing.assert_array_equal(values, two[key])
        np.testing.assert_allclose(values, cut[key], rtol=2e-6)


def test_logits_that_are_not_finite_have_a_status_of_their_own():
    config = tiny_config()
    model, probe = random_model(config), padded(random_tokens(config, 2, 5), [5, 5])
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    found = recorded(model, probe, *recorders(np.arange(300) % probe.tokenizer_size))
    assert np.isnan(found["kl", ("order", 1)])
    assert [found["status", ("order", order)] for order in (1, 2)] == [Status.NONFINITE] * 2


def test_samples_have_the_frequencies_of_their_model_and_are_the_same_every_time():
    ids = np.random.default_rng(1).choice(5, 60, p=[0.5, 0.3, 0.1, 0.1, 0])
    model, (unigram, bigram) = NgramModel(TokenCounts.of_ids(ids, 5)), dense(ids, 5)
    one, two = (model.sample(order, 400, 100, 0) for order in (1, 2))
    np.testing.assert_allclose(np.bincount(one.ravel(), minlength=5) / one.size, unigram, atol=0.01)
    np.testing.assert_allclose(np.bincount(two[:, 0], minlength=5) / 400, unigram, atol=0.08)
    seen = np.zeros((5, 5))
    np.add.at(seen, (two[:, :-1].ravel(), two[:, 1:].ravel()), 1)
    error = np.sqrt(bigram / np.maximum(seen.sum(1, keepdims=True), 1))
    assert (np.abs(seen / seen.sum(1, keepdims=True) - bigram) < 5 * error).all()
    np.testing.assert_array_equal(two, model.sample(2, 400, 100, 0))
