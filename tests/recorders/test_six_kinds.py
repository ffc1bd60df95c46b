"""The contract holds for six kinds of measurements: each recorder below is a user's own, and equals another computation."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import olmo_dynamics as od
from olmo_dynamics.errors import OptionError, StoreMismatchError
from olmo_dynamics.names import Site, TensorInfo
from olmo_dynamics.progress import Progress
from olmo_dynamics.quantities.declaration import Reads
from olmo_dynamics.recorders import Context, Observation, PlainProbe, RecorderSet
from tests.runs import write_family_run

WINDOW, POSITIONS = 8, 24
NAMES = ("step0-tokens0", "step10-tokens1B")


@pytest.fixture(scope="module", params=["olmo2", "olmo3"])
def run(request, tmp_path_factory):
    """A run with grouped key-value heads; of Olmo 3, with layers that see no more than a window."""
    return write_family_run(tmp_path_factory.mktemp("six") / request.param, NAMES, request.param)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """Token ids of which the last window is not filled."""
    path = tmp_path_factory.mktemp("tokens") / "tokens.npy"
    np.save(path, np.random.default_rng(0).integers(1, 300, 5 * POSITIONS - 7))
    return path


def collect(run, out, tokens, *record):
    return od.collect(run, out=out, record=record, tokens=tokens, batch=(5, POSITIONS), progress=Progress())


def transformers_model(run, name):
    return AutoModelForCausalLM.from_pretrained(run / name, attn_implementation="eager").eval()


# Weights


class SpectralNorm(od.Recorder):
    """The largest singular value of each matrix."""

    group = od.Group("spectral", ("tensor",), "Singular values.", (od.Quantity("spectral_norm", unit="weight unit"),))
    reads = Reads.WEIGHTS

    def __init__(self):
        self.records = []

    def selects(self, info):
        return len(info.shape) == 2

    def observe(self, seen):
        norm = torch.linalg.matrix_norm(seen.values.double(), ord=2)
        self.records.append(self.record("spectral_norm", norm, tensor=seen.tensor.name))

    def finish(self):
        return self.records


def test_weights(run, tokens, tmp_path):
    store = collect(run, tmp_path / "store.zarr", tokens, "parameters", SpectralNorm)
    names = store.layout.axes["tensor"].labels
    for place, revision in enumerate(NAMES):
        weights = load_file(run / revision / "model.safetensors")
        found = dict(zip(names, store.arrays("spectral")["spectral_norm"][place], strict=True))
        for name, tensor in weights.items():
            of_matrix = np.linalg.svd(tensor.double().numpy(), compute_uv=False)[0] if tensor.ndim == 2 else np.nan
            np.testing.assert_allclose(found[name], of_matrix, rtol=1e-12, err_msg=name)
    assert store.layout.groups["spectral"].attributes["recorder"] == f"{__name__}:SpectralNorm"


# Optimiser state


class Moments(od.Recorder):
    """Sizes of Adam's two moments, and the ratio of the first to the root of the second."""

    group = od.Group(
        "moments",
        ("tensor",),
        "Moments of gradients.",
        (
            od.Quantity("exp_avg_rms"),
            od.Quantity("exp_avg_sq_mean"),
            od.Quantity("signal_to_noise"),
            od.Quantity("optimizer_step", dtype="int64"),
        ),
    )
    reads = Reads.OPTIMIZER

    def __init__(self):
        self.records = []

    def observe(self, seen):
        first, second = seen.values.double(), seen.beside["exp_avg_sq"].double()
        rms, mean = first.square().mean().sqrt(), second.mean()
        values = {
            "exp_avg_rms": rms,
            "exp_avg_sq_mean": mean,
            "signal_to_noise": rms / mean.sqrt(),
            "optimizer_step": int(seen.beside["step"]),
        }
        self.records += [self.record(name, value, tensor=seen.tensor.name) for name, value in values.items()]

    def finish(self):
        return self.records


def published_state(folder):
    """The state by parameter that AI2's trainer wrote."""
    file = torch.load(folder / "data/native/olmo/tiny-olmo2/step80-unsharded/optim.pt", weights_only=True)
    names = {
        place: name
        for group in file["param_groups"]
        for place, name in zip(group["params"], group["param_names"], strict=True)
    }
    return {name: file["state"][place] for place, name in names.items()}, 80


def trained_state(_):
    """The state after two steps of torch's AdamW."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 4)
    optimizer = torch.optim.AdamW(layer.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        layer(torch.randn(3, 6)).square().sum().backward()
        optimizer.step()
    return {name: optimizer.state[parameter] for name, parameter in layer.named_parameters()}, 2


def tensor_info(name, tensor):
    return TensorInfo(name, "F32", tuple(tensor.shape), "", 0, tensor.nbytes)


@pytest.mark.parametrize("read", [published_state, trained_state])
def test_optimiser_state(read, request):
    states, steps = read(request.getfixturevalue("shared") if read is published_state else None)
    recorders = RecorderSet([Moments(), SpectralNorm()], Context(), reads={Reads.OPTIMIZER})
    for name, state in states.items():
        beside = {key: value for key, value in state.items() if key != "exp_avg"}
        info = tensor_info(name, state["exp_avg"])
        recorders.observe(
            Observation(values=state["exp_avg"], reads=Reads.OPTIMIZER, layer=info.layer, tensor=info, beside=beside)
        )
    found = {(record.at["tensor"], record.quantity.name): record.values for record in recorders.finish()}
    assert len(found) == 4 * len(states)
    for name, state in states.items():
        first, second = (np.asarray(state[key].double()) for key in ("exp_avg", "exp_avg_sq"))
        rms = np.linalg.norm(first) / np.sqrt(first.size)
        expected = (rms, second.mean(), rms / np.sqrt(second.mean()), steps)
        of_tensor = [found[name, quantity.name] for quantity in Moments.group.quantities]
        np.testing.assert_allclose(of_tensor, expected, rtol=1e-12, err_msg=name)


# Attention


class AttentionRows(od.Recorder):
    """The entropy of each head's attention, and its weight on position 0; means over queries."""

    group = od.Group(
        "attention_rows",
        ("layer", "head"),
        "Rows of attention.",
        (od.Quantity("entropy", unit="nat"), od.Quantity("sink_mass")),
    )
    sites = frozenset({Site.QUERY_ROTATED})

    def __init__(self):
        self.sums, self.queries = {}, {}

    def observe(self, seen):
        config = self.context.config
        query, key = (
            each.unflatten(2, (-1, config.head_dim)).transpose(1, 2) for each in (seen.values, seen.beside["key"])
        )
        assert seen.beside["value"].shape == seen.beside["key"].shape
        scores = query @ key.repeat_interleave(config.heads // config.kv_heads, dim=1).transpose(2, 3)
        places = np.arange(len(seen.first_visible))
        hidden = (places > places[:, None]) | (places < seen.first_visible[:, None])
        scores = (scores.double() / config.head_dim**0.5).masked_fill(torch.from_numpy(hidden), -torch.inf)
        weights = scores.softmax(-1)
        rows = torch.stack([torch.special.entr(weights).sum(-1), weights[..., 0]])  # [2, batch, heads, positions]
        sums = (rows * torch.from_numpy(seen.mask)[:, None]).sum((1, 3)).numpy()
        self._add(seen.layer, sums, int(seen.mask.sum()))

    def _add(self, layer, sums, queries):
        self.sums[layer] = self.sums.get(layer, 0) + sums
        self.queries[layer] = self.queries.get(layer, 0) + queries

    def merge(self, other):
        for layer, sums in other.sums.items():
            self._add(layer, sums, other.queries[layer])

    def finish_layer(self, layer):
        means = self.sums.pop(layer) / self.queries.pop(layer)
        for quantity, values in zip(self.group.quantities, means, strict=True):
            yield self.record(quantity.name, values, layer=layer)


def test_attention(run, tokens, tmp_path):
    store = collect(run, tmp_path / "store.zarr", tokens, AttentionRows)
    arrays, probe = store.arrays("attention_rows"), store.probe()
    mask = probe["mask"].astype(bool)
    assert not mask.all()
    for place, revision in enumerate(NAMES):
        with torch.no_grad():
            model = transformers_model(run, revision)
            layers = model(torch.from_numpy(probe["token_id"]), output_attentions=True).attentions
        windowed = [(each[..., -1, : POSITIONS - WINDOW] == 0).all().item() for each in layers]
        assert any(windowed) == (run.name == "olmo3")
        for layer, weights in enumerate(layers):
            rows = weights.double().numpy().transpose(0, 2, 1, 3)[mask]  # [queries, heads, keys]
            logs = np.log(rows, out=np.zeros_like(rows), where=rows > 0)
            for name, expected in (("entropy", -(rows * logs).sum(2)), ("sink_mass", rows[..., 0])):
                found = arrays[name][place, layer + 1]  # labels of layers begin at -1
                np.testing.assert_allclose(found, expected.mean(0), rtol=1e-5, err_msg=f"{name} of layer {layer}")
        assert np.isnan(arrays["entropy"][place, 0]).all()
    assert store.layout.axes["head"].labels.tolist() == [0, 1, 2, 3]


# Whole layers of tokens


class TokenCloud(od.Recorder):
    """The participation ratio of the covariance of a layer's tokens, which are all kept until the layer is done."""

    group = od.Group(
        "cloud",
        ("layer",),
        "The spread of tokens.",
        (od.Quantity("participation_ratio"), od.Quantity("first_norm"), od.Quantity("last_norm")),
    )
    sites = frozenset({Site.RESIDUAL_OUT})

    def __init__(self):
        self.kept = {}

    def kept_bytes(self):
        return int(self.context.probe.mask.sum()) * self.context.config.hidden_size * 8

    def observe(self, seen):
        self.kept.setdefault(seen.layer, {})[seen.rows.start] = seen.real.double().numpy().copy()

    def merge(self, other):
        for layer, by_row in other.kept.items():
            self.kept.setdefault(layer, {}).update(by_row)

    def finish_layer(self, layer):
        by_row = self.kept.pop(layer)
        tokens = np.concatenate([by_row[row] for row in sorted(by_row)])
        covariance = np.cov(tokens.T, bias=True)
        yield self.record("participation_ratio", np.trace(covariance) ** 2 / (covariance**2).sum(), layer=layer)
        yield self.record("first_norm", np.linalg.norm(tokens[0]), layer=layer)
        yield self.record("last_norm", np.linalg.norm(tokens[-1]), layer=layer)


class WeightlessCloud(TokenCloud):
    """The same without a declaration of what it keeps."""

    def kept_bytes(self):
        return 0


def test_whole_layers_of_tokens(run, tokens, tmp_path):
    store = collect(run, tmp_path / "store.zarr", tokens, TokenCloud)
    arrays, probe = store.arrays("cloud"), store.probe()
    mask = probe["mask"].astype(bool)
    for place, revision in enumerate(NAMES):
        model, streams = transformers_model(run, revision), []
        for block in model.model.layers:
            block.register_forward_hook(lambda block, inputs, stream, to=streams: to.append(stream.double().numpy()))
        with torch.no_grad():
            model(torch.from_numpy(probe["token_id"]))
        for layer, stream in enumerate(streams):
            cloud = stream[mask]
            variances = np.linalg.svd(cloud - cloud.mean(0), compute_uv=False) ** 2
            expected = (
                variances.sum() ** 2 / (variances**2).sum(),
                np.linalg.norm(stream[0, 0]),
                np.linalg.norm(stream[-1, mask[-1].sum() - 1]),
            )
            found = [arrays[quantity.name][place, layer + 1] for quantity in TokenCloud.group.quantities]
            np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_plan_counts_what_is_kept(run, tokens, monkeypatch):
    monkeypatch.setattr("olmo_dynamics.collection.planner.resident_bytes", lambda: 0)  # which changes from plan to plan
    declared, not_declared = (
        od.plan(run, record=[recorder], tokens=tokens, batch=(5, POSITIONS)).peak_bytes
        for recorder in (TokenCloud, WeightlessCloud)
    )
    assert declared - not_declared == (5 * POSITIONS - 7) * 32 * 8


# A probe of its own


class RandomTokens(od.Recorder):
    """The length of the last hidden vectors of random tokens."""

    group = od.Group("random", (), "Of random tokens.", (od.Quantity("final_l2"),))
    sites = frozenset({Site.FINAL_NORM})

    def __init__(self, seed=0):
        self.seed, self.total, self.tokens = seed, 0.0, 0

    def attributes(self):
        return {"seed": self.seed, "sequences": 3}

    def probe(self):
        size = self.context.config.vocab_size
        return PlainProbe(np.random.default_rng(self.seed).integers(0, size, (3, 10)), tokenizer_size=size)

    def observe(self, seen):
        self.total += float(seen.real.double().norm(dim=-1).sum())
        self.tokens += len(seen.real)

    def merge(self, other):
        self.total, self.tokens = self.total + other.total, self.tokens + other.tokens

    def finish(self):
        yield self.record("final_l2", self.total / self.tokens)


def test_a_probe_of_its_own(run, tokens, tmp_path):
    store = collect(run, tmp_path / "store.zarr", tokens, "loss", RandomTokens(seed=3))
    ids = torch.from_numpy(np.random.default_rng(3).integers(0, 320, (3, 10)))
    for place, revision in enumerate(NAMES):
        with torch.no_grad():
            hidden = transformers_model(run, revision).model(ids).last_hidden_state
        expected = np.linalg.norm(hidden.double().numpy(), axis=-1).mean()
        np.testing.assert_allclose(store.arrays("random")["final_l2"][place], expected, rtol=1e-5)
    alone = collect(run, tmp_path / "alone.zarr", tokens, "loss")
    for name, values in alone.arrays("loss").items():
        np.testing.assert_array_equal(store.arrays("loss")[name], values, err_msg=name)
    attributes = store.layout.groups["random"].attributes
    assert (attributes["seed"], attributes["sequences"]) == (3, 3)


def test_a_store_of_another_seed_is_refused(run, tokens, tmp_path):
    out = tmp_path / "store.zarr"
    collect(run, out, tokens, RandomTokens(seed=3))
    collect(run, out, tokens, RandomTokens(seed=3))
    with pytest.raises(StoreMismatchError, match="attribute seed of group random is 3, not 4"):
        collect(run, out, tokens, RandomTokens(seed=4))


# Gradients


class GradientNorms(od.Recorder):
    """The norm of the gradient of each tensor."""

    group = od.Group("gradients", ("tensor",), "Of tensors.", (od.Quantity("l2_norm"),))
    reads = Reads.GRADIENTS

    def __init__(self):
        self.records = []

    def observe(self, seen):
        self.records.append(self.record("l2_norm", seen.values.double().norm(), tensor=seen.tensor.name))

    def finish(self):
        return self.records


class StreamGradients(od.Recorder):
    """The mean norm of the gradient of the stream that leaves a block."""

    group = od.Group("gradient_stream", ("layer",), "Of the stream.", (od.Quantity("l2_norm"),))
    reads = Reads.GRADIENTS
    sites = frozenset({Site.RESIDUAL_OUT})

    def __init__(self):
        self.norms = {}

    def observe(self, seen):
        self.norms.setdefault(seen.layer, []).append(seen.real.double().norm(dim=-1).numpy())

    def merge(self, other):
        for layer, norms in other.norms.items():
            self.norms.setdefault(layer, []).extend(norms)

    def finish_layer(self, layer):
        yield self.record("l2_norm", np.concatenate(self.norms.pop(layer)).mean(), layer=layer)


def loss_of(logits, ids):
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def shown_gradients(model, ids, recorders):
    """One backward pass, of which the gradients are shown: of the stream as they are made, of tensors at its end."""
    rows, positions = slice(0, len(ids)), slice(0, ids.shape[1])
    mask = np.ones(ids.shape, dtype=bool)

    def show(tap, _, stream):
        where = {"site": tap.site, "layer": tap.layer, "rows": rows, "positions": positions, "mask": mask}
        stream.register_hook(
            lambda gradient: recorders.observe(Observation(values=gradient, reads=Reads.GRADIENTS, **where))
        )

    for block in model.model.layers:
        block.residual_out.register_forward_hook(show)
    loss_of(model(ids), ids).backward()
    for name, parameter in model.named_parameters():
        info = tensor_info(name, parameter)
        recorders.observe(Observation(values=parameter.grad, reads=Reads.GRADIENTS, layer=info.layer, tensor=info))


def test_gradients(run):
    ids = torch.from_numpy(np.random.default_rng(1).integers(0, 320, (2, POSITIONS)))
    model = od.load_model(run, NAMES[0], dtype=torch.float64).requires_grad_(True)
    recorders = RecorderSet(
        [GradientNorms(), StreamGradients(), TokenCloud(), SpectralNorm()],
        Context(model.config, sites=(Site.RESIDUAL_OUT,), layers=model.config.layers),
        reads={Reads.GRADIENTS},
    )
    shown_gradients(model, ids, recorders)
    found = {(record.quantity.key, *record.at.values()): float(record.values) for record in recorders.finish()}

    theirs, streams = transformers_model(run, NAMES[0]).double(), []

    def keep(block, inputs, stream):
        stream.retain_grad()
        streams.append(stream)

    for block in theirs.model.layers:
        block.register_forward_hook(keep)
    loss_of(theirs(ids).logits, ids).backward()
    expected = {("gradients/l2_norm", name): each.grad.norm().item() for name, each in theirs.named_parameters()}
    for layer, stream in enumerate(streams):
        expected["gradient_stream/l2_norm", layer] = stream.grad.norm(dim=-1).mean().item()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-5, err_msg=str(key))


def test_a_group_of_this_package_is_recorded_by_its_name(run, tmp_path):
    message = (
        "group gradients is one of this package's (got it from GradientNorms); record it by its name, or give your group "
        "another name"
    )
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        od.collect(run, out=tmp_path / "store.zarr", record=["parameters", GradientNorms])
    assert not (tmp_path / "store.zarr").exists()
