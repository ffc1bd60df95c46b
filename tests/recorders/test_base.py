"""The contract of a recorder: copies, defaults, and what an observation gives."""

import pickle
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import olmo_dynamics.recorders.base as base
from olmo_dynamics.errors import OptionError
from olmo_dynamics.names import NO_LAYER, Site
from olmo_dynamics.quantities.declaration import Group, Quantity, Reads
from olmo_dynamics.recorders import Context, Observation, PlainProbe, Recorder, RecorderSet, tensor_stats
from olmo_dynamics.recorders.kernels.tokens import TokenStats
from tests.recorders.material import (
    OF_VALUES,
    Q_PROJ,
    Tokens,
    by_name,
    encode,
    everything,
    shown,
    shown_tensor,
    started,
)

SITE = Site.RESIDUAL_OUT


class Mean(Recorder):
    """The mean of a layer's stream, and of all layers together."""

    group = Group("means", ("layer",), "Means of the stream.", (Quantity("mean"), Quantity("whole", axes=())))
    sites = frozenset({SITE})

    def __init__(self, scale=1.0):
        self.scale, self.sums, self.all = scale, {}, np.zeros(2)
        self.began_with = None

    def begin(self):
        self.began_with = self.context

    def observe(self, seen):
        self._add(seen.layer, np.array([float(seen.real.double().sum()), seen.real.numel()]))

    def _add(self, layer, sums):
        self.sums[layer] = self.sums.get(layer, np.zeros(2)) + sums

    def merge(self, other):
        for layer, sums in other.sums.items():
            self._add(layer, sums)

    def finish_layer(self, layer):
        total, count = self.sums.pop(layer)
        self.all += total, count
        yield self.record("mean", self.scale * total / count, layer=layer)

    def finish(self):
        yield self.record("whole", self.scale * self.all[0] / self.all[1])


class Absent(Mean):
    """Reads a site that only mixtures of experts have, and fails when it is told of a model without."""

    group = Group("absent", ("layer",), "Of routers.", (Quantity("mean"), Quantity("whole", axes=())))
    sites = frozenset({Site.ROUTER_LOGITS})

    def begin(self):
        raise AssertionError("a recorder whose sites the model lacks is not told of it")


def context(**facts):
    return Context(sites=(Site.EMBEDDING, SITE), layers=2, **facts)


def test_a_copy_is_told_of_the_pass_and_the_prototype_is_left_alone():
    prototype, where = Mean(2.0), context()
    copy = prototype.start(where)
    copy.observe(shown(SITE, 0, np.ones((1, 2, 3))))
    assert (copy.context, copy.began_with, copy.scale) == (where, where, 2.0)
    assert (prototype.sums, prototype.began_with, prototype.context) == ({}, None, Recorder.context)
    assert by_name(copy.finish_layer(0)) == {"mean": 2.0}


@pytest.mark.parametrize("kind", OF_VALUES)
def test_prototypes_of_this_package_are_not_changed_by_a_pass(kind):
    prototype = kind()
    before = pickle.dumps(prototype)
    recorder = started(prototype, Tokens(np.zeros((1, 3), int), 4), layers=1)
    if kind.reads is not Reads.ACTIVATIONS:
        raw, info, _ = encode(np.ones((4, 2)), name="model.embed_tokens.weight")
        recorder.observe(shown_tensor(raw, info, reads=kind.reads, rows=slice(0, 1)))
    for site in recorder.sites_in(recorder.context.sites):
        values = torch.zeros(1, 3, 2, dtype=torch.int64) if site.is_choice else torch.ones(1, 3, 4)
        beside = {"activation": values} if kind.reads is Reads.GRADIENTS else {}
        recorder.observe(shown(site, 0 if site.in_block else NO_LAYER, values, beside=beside))
    assert everything(recorder)
    assert pickle.dumps(prototype) == before
    assert everything(prototype) == []


def test_a_recorder_whose_sites_the_model_lacks_is_left_out():
    recorders = RecorderSet([Absent(), Mean()], context())
    assert recorders.sites == {SITE}
    recorders.observe(shown(Site.ROUTER_LOGITS, 0, np.ones((1, 2, 3))))
    recorders.observe(shown(SITE, 0, np.ones((1, 2, 3))))
    assert {record.quantity.key for record in recorders.finish()} == {"means/mean", "means/whole"}


def test_fresh_recorders_have_seen_nothing():
    recorders = RecorderSet([Mean()], context())
    recorders.observe(shown(SITE, 0, np.ones((1, 2, 3))))
    fresh = recorders.fresh()
    assert fresh.sites == recorders.sites
    fresh.observe(shown(SITE, 1, np.full((1, 2, 3), 5.0)))
    assert {float(record.values) for record in fresh.finish()} == {5.0}
    assert {float(record.values) for record in recorders.finish()} == {1.0}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 6), max_size=3), st.randoms(use_true_random=False))
def test_parts_in_any_order_merge_to_the_whole(seed, cuts, random):
    rng = np.random.default_rng(seed)
    x, mask = rng.integers(-9, 10, (6, 4, 3)).astype(float), rng.random((6, 4)) < 0.8
    mask[0, 0] = True
    edges = sorted({0, 6, *cuts})
    parts = [slice(*pair) for pair in pairwise(edges)]
    random.shuffle(parts)
    merged = RecorderSet([Mean()], context())
    for rows in parts:
        part = merged.fresh()
        part.observe(shown(SITE, 1, x[rows], mask[rows], rows))
        merged.merge(part)
    assert by_name(merged.finish_layer(1)) == {"mean": x[mask].mean()}
    assert by_name(merged.finish()) == {"whole": x[mask].mean()}


def test_kinds_of_values_are_kept_apart():
    class OfTensors(Mean):
        group = Group("tensors", ("tensor",), "Means of tensors.", (Quantity("mean"), Quantity("whole", axes=())))
        reads, sites = Reads.GRADIENTS, frozenset()

        def observe(self, seen):
            self._add(seen.tensor.name, np.array([float(seen.values.sum()), 1]))

        def finish_layer(self, layer):
            return ()

        def finish(self):
            return [self.record("mean", total, tensor=name) for name, (total, _) in self.sums.items()]

    class OfTheStream(Mean):
        group = Group("stream", ("layer",), "Means of gradients.", (Quantity("mean"), Quantity("whole", axes=())))
        reads = Reads.GRADIENTS

    raw, info, _ = encode(np.ones((2, 2)))
    recorders = RecorderSet([Mean(), OfTensors(), OfTheStream()], context())
    recorders.observe(shown_tensor(raw, info, reads=Reads.GRADIENTS))
    recorders.observe(shown_tensor(raw, info, reads=Reads.WEIGHTS))
    recorders.observe(shown(SITE, 0, np.full((1, 2, 3), 7.0), reads=Reads.GRADIENTS))
    recorders.observe(shown(SITE, 0, np.full((1, 2, 3), 5.0)))
    found = {(record.quantity.key, *record.at.values()): float(record.values) for record in recorders.finish()}
    assert found == {
        ("means/mean", 0): 5, ("means/whole",): 5, ("stream/mean", 0): 7, ("stream/whole",): 7,
        ("tensors/mean", Q_PROJ): 4,
    }  # fmt: skip


def test_only_the_groups_asked_for_and_the_kinds_asked_for():
    assert RecorderSet([Mean()], context(), {"loss"}).sites == frozenset()
    assert RecorderSet([Mean()], context(), {"means"}, {Reads.WEIGHTS}).sites == frozenset()
    assert RecorderSet([Mean()], context(), {"means"}, {Reads.ACTIVATIONS}).sites == {SITE}


@pytest.mark.parametrize("name", ["observe", "merge"])
def test_what_a_recorder_must_define(name):
    class Empty(Recorder):
        group = Mean.group

    with pytest.raises(NotImplementedError, match=f"^Empty must define {name}$"):
        getattr(Empty(), name)(None)


def test_defaults_ask_for_nothing():
    class Plain(Recorder):
        group = Mean.group

    plain = Plain()
    assert plain.groups == (Mean.group,)
    assert (plain.labels(), plain.attributes(), plain.probe(), plain.kept_bytes()) == ({}, {}, None, 0)
    assert (list(plain.finish_layer(0)), list(plain.finish())) == ([], [])
    _, info, _ = encode(np.ones((2, 2)))
    assert plain.selects(info) and not Mean().selects(info)


def test_a_record_is_of_a_declared_quantity():
    record = Mean().record("mean", 3, layer=2)
    assert (record.quantity.key, float(record.values), record.at) == ("means/mean", 3.0, {"layer": 2})
    message = "group means declares no quantity 'median'; it has mean, whole; did you mean 'mean'?"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        Mean().record("median", 3)


def test_real_tokens_are_those_of_the_mask():
    x = torch.arange(24.0).view(2, 3, 4)
    assert shown(SITE, 0, x).real.data_ptr() == x.data_ptr()  # not copied where all are real
    mask = np.array([[True, True, False], [True, False, False]])
    np.testing.assert_array_equal(shown(SITE, 0, x, mask).real, x.numpy()[mask])
    mask.setflags(write=False)  # as a probe's is
    np.testing.assert_array_equal(shown(SITE, 0, x, mask).real, x.numpy()[mask])


def test_codes_are_of_the_tokens_by_their_positions():
    mask = np.array([[True, True, False], [True, False, False]])
    x = torch.randn(2, 3, 4).bfloat16()
    codes = shown(SITE, 0, x, mask).codes
    assert (codes.first.tolist(), codes.rest.tolist(), codes.codes.dtype) == ([0, 3], [1], np.uint16)
    later = shown(SITE, 0, x, mask, positions=slice(3, 6)).codes
    assert (later.first.tolist(), later.rest.tolist()) == ([], [0, 1, 3])


def test_statistics_of_tokens_are_taken_once_unless_they_are_shared():
    x = torch.tensor([[[3.0, -4.0], [1.0, 0.0]]])
    seen = shown(SITE, 0, x)
    np.testing.assert_array_equal(seen.tokens.squares, [25, 1])
    np.testing.assert_array_equal(seen.tokens.absolutes, [7, 1])
    assert seen.tokens is seen.tokens
    shared = TokenStats.zeros(2, np.dtype(np.uint32))
    other = shown(SITE, 0, x)
    other.share_tokens(shared)
    assert other.tokens is shared


def test_threads_compute_shared_properties_at_the_same_time(monkeypatch):
    both = threading.Barrier(2, timeout=20)
    monkeypatch.setattr(base, "token_codes", lambda *_: both.wait())
    with ThreadPoolExecutor(2) as pool:
        reached = list(pool.map(lambda layer: shown(SITE, layer, np.ones((1, 2, 3))).codes, range(2)))
    assert sorted(reached) == [0, 1]


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_statistics_of_a_tensor_are_its_own_or_those_given(dtype):
    raw, info, _ = encode(np.random.default_rng(0).standard_normal((6, 5)), dtype)
    expected = tensor_stats(raw, info)
    found = shown_tensor(raw, info).stats
    assert (found.square_sum, found.largest) == (expected.square_sum, expected.largest)
    transposed = Observation(values=shown_tensor(raw, info).values.T.contiguous().T, reads=Reads.WEIGHTS, tensor=info)
    assert transposed.stats.square_sum == expected.square_sum
    taken = []
    given_ = shown_tensor(raw, info, ready_stats=lambda: taken.append(1) or expected)
    assert given_.stats is given_.stats is expected
    assert taken == [1]


@pytest.mark.parametrize(("window", "positions", "first"), [
    (None, slice(0, 4), [0, 0, 0, 0]), (2, slice(0, 4), [0, 0, 1, 2]), (9, slice(0, 4), [0, 0, 0, 0]),
    (1, slice(2, 5), [2, 3, 4]), (None, slice(2, 5), [0, 0, 0]),
])  # fmt: skip
def test_how_far_back_queries_see(window, positions, first):
    x = torch.zeros(1, positions.stop - positions.start, 2)
    seen = shown(Site.QUERY_ROTATED, 0, x, positions=positions, window=window)
    assert seen.first_visible.tolist() == first


class Holding(Mean):
    """A recorder that holds whatever it is given."""

    def __init__(self, held):
        super().__init__()
        self.held = held


def test_what_cannot_be_copied_is_refused():
    message = (
        "Holding must be copyable, since each part of a pass gets a copy of it (cannot pickle '_thread.lock' object); "
        "make what cannot be copied in begin(self)"
    )
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        Holding(threading.Lock()).start(context())
    graph = torch.ones(3, requires_grad=True) * 2
    with pytest.raises(OptionError, match=r"^Holding must be copyable, "):
        Holding(graph).start(context())
    assert Holding(torch.ones(3)).start(context()).held.tolist() == [1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_a_tensor_can_be_recorded(dtype):
    values = torch.tensor([1, 2], dtype=dtype)
    if values.is_floating_point():
        values.requires_grad_()
    record = Mean().record("mean", values, layer=0)
    np.testing.assert_array_equal(record.values, [1, 2])


def test_a_probe_of_lists_is_an_array():
    assert PlainProbe([[1, 2, 3]], tokenizer_size=320).mask.shape == (1, 3)
