"""The activation feed: the activations of transformers, aligned over revisions, with two layers in memory and no file."""

from __future__ import annotations

import shutil
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import olmo_dynamics as od
from olmo_dynamics.checkpoints.hub import HubSource
from olmo_dynamics.checkpoints.tensors import HEADER_GUESS
from olmo_dynamics.collection.feed import ActivationBatch
from olmo_dynamics.errors import CheckpointError, OptionError, ProbeError, SelectionError
from olmo_dynamics.model import Prepared, StreamedPass
from olmo_dynamics.names import NO_LAYER, Site
from tests.collection import reference
from tests.hub import LocalHub
from tests.runs import FAMILIES, TINY, edit_config, write_family_run, write_revision

TWO = ("stage1-step10-tokens1B", "main")
SITES = [site for site in Site if site not in (
    Site.ATTENTION_INPUT, Site.MLP_INPUT, Site.ROUTER_LOGITS, Site.CHOSEN_EXPERTS, Site.QUERY_ROTATED,
)]  # fmt: skip
"""The sites of OLMo 2 that transformers' modules show."""


def put_together(batches: list[ActivationBatch]) -> ActivationBatch:
    whole = batches[0]
    for each in batches[1:]:
        whole = whole.join(each)
    return whole


def token_file(folder: Path, sequences: int = 5, positions: int = 12, vocabulary: int = TINY["vocab_size"]) -> Path:
    path = folder / "ids.npy"
    np.save(path, np.random.default_rng(0).integers(0, vocabulary, (sequences, positions)))
    return path


@pytest.fixture(scope="module")
def seen(
    tiny_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, dict[tuple[str, int], np.ndarray]]]:
    """Token ids, and the activations of transformers for them by revision."""
    path = token_file(tmp_path_factory.mktemp("ids"))
    return path, {name: reference.activations(tiny_run / name, np.load(path)) for name in TWO}


@pytest.mark.parametrize("site", SITES)
def test_activations_are_those_of_transformers(site: Site, tiny_run: Path, seen: tuple) -> None:
    path, expected = seen
    layers = [1, 0] if site.in_block else None
    feed = od.stream_activations(tiny_run, revisions=TWO, site=site, layer=layers, tokens=path, batch_tokens=32)
    batches = list(feed)
    assert [len(each) for each in batches] == [32, 28] and len(feed) == 2
    whole = put_together(batches)
    for name in TWO:
        found = whole[name] if layers else whole[name][None]
        for values, layer in zip(found, layers or [NO_LAYER], strict=True):
            there = expected[name][site.value, layer]
            want = there.reshape(-1, there.shape[-1])
            np.testing.assert_allclose(values.double().numpy(), want, rtol=1e-4, atol=1e-5 * np.abs(want).max())
    ids = np.load(path)
    assert whole.token_ids.tolist() == ids.ravel().tolist()
    assert whole.windows.tolist() == np.repeat(np.arange(5), 12).tolist()
    assert whole.positions.tolist() == list(range(12)) * 5
    assert feed.revisions == whole.revisions == TWO and feed.steps == (10, None)


def keyed(batch: ActivationBatch) -> dict[tuple[int, int], Tensor]:
    places = zip(batch.windows.tolist(), batch.positions.tolist(), strict=True)
    return {place: batch.activations[:, number] for number, place in enumerate(places)}


def test_shuffled_in_small_chunks_each_token_has_the_same_activations(tiny_run: Path) -> None:
    given = {"revisions": TWO, "layer": 1, "batch": "6x40", "batch_tokens": 33}
    plain = put_together(list(od.stream_activations(tiny_run, **given)))
    feed = od.stream_activations(tiny_run, chunk_memory="32kB", shuffle_seed=3, **given)
    turns = [put_together(list(feed)) for _ in range(2)]
    assert feed.plan.chunks == 3 and feed.plan.chunk_tokens == 80
    assert feed.plan.weight_bytes == 3 * od.stream_activations(tiny_run, **given).plan.weight_bytes
    assert torch.equal(turns[0].activations, turns[1].activations)
    assert not torch.equal(turns[0].windows, plain.windows)
    assert sorted(set(turns[0].windows[:80].tolist())) != [0, 1]
    one, other = keyed(plain), keyed(turns[0])
    assert one.keys() == other.keys()
    for place, values in one.items():
        torch.testing.assert_close(values, other[place], rtol=1e-5, atol=1e-6)
    ids = {place: int(each) for place, each in zip(keyed(plain), plain.token_ids, strict=True)}
    assert all(ids[place] == int(each) for place, each in zip(other, turns[0].token_ids, strict=True))


def test_padding_is_left_out_and_domains_are_told(tiny_run: Path, tmp_path: Path) -> None:
    for name, text in {"short": "the model", "long": "reads the tokens and then the next token " * 9}.items():
        (tmp_path / f"{name}.txt").write_text(text)
    texts = [tmp_path / "short.txt", tmp_path / "long.txt"]
    feed = od.stream_activations(tiny_run, revisions="main", layer=0, text=texts, batch="3x16", batch_tokens=1000)
    [batch] = feed
    counts = [int((batch.domains == number).sum()) for number in range(2)]
    assert batch.domain_names == ("short", "long") and 2 <= counts[0] < 16 == counts[1] / 2
    assert sum(counts) == len(batch) == feed.plan.tokens
    assert batch.positions.tolist() == [*range(counts[0]), *range(16), *range(16)]
    alone = od.stream_activations(tiny_run, revisions="main", layer=0, text=texts[0], batch_tokens=1000)
    torch.testing.assert_close(batch["main"][: counts[0]], next(iter(alone))["main"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, tmp_path: Path) -> None:
    run, path = write_family_run(tmp_path / "run", ("step0", "step1"), family), token_file(tmp_path, 2, 20)
    [batch] = od.stream_activations(run, layer=0, tokens=path)
    for name in batch.revisions:
        model = AutoModelForCausalLM.from_pretrained(run / name).eval()
        with torch.no_grad():
            states = model(torch.tensor(np.load(path)), output_hidden_states=True).hidden_states
        torch.testing.assert_close(batch[name], states[1].reshape(40, -1), rtol=1e-4, atol=1e-5)
    if family == "olmoe":
        chosen, logits = (
            next(iter(od.stream_activations(run, site=site, layer=1, tokens=path))).activations
            for site in ("chosen_experts", "router_logits")
        )
        assert chosen.dtype is torch.int64 and torch.equal(chosen, logits.topk(2).indices)


class Weights:
    """The weights that passes were given: how many stages' live at most, and how many now."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stages: list[list[weakref.ref[Tensor]]] = []
        self.most = 0
        prepare = StreamedPass.prepare

        def watched(streamed: StreamedPass, *arguments: object) -> Prepared:
            prepared = prepare(streamed, *arguments)
            self.stages.append([weakref.ref(each) for each in prepared.weights.values()])
            self.most = max(self.most, self.alive)
            return prepared

        monkeypatch.setattr(StreamedPass, "prepare", watched)

    @property
    def alive(self) -> int:
        return sum(any(each() is not None for each in stage) for stage in self.stages)


class Threads:
    """The threads that have begun to fetch since, and have not ended."""

    def __init__(self) -> None:
        self._before = set(threading.enumerate())

    def all_end(self) -> bool:
        """True once they have; a thread that was reading ends a moment after the feed."""
        kinds = ("olmo-dynamics-fetcher", "olmo-dynamics-reader")
        begun = [each for each in set(threading.enumerate()) - self._before if each.name.startswith(kinds)]
        for each in begun:
            each.join(5.0)
        return not any(each.is_alive() for each in begun)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    """Two revisions of four layers, stored in bfloat16, so that their weights are converted for the pass."""
    run = write_family_run(tmp_path / "of-hub", ("step0", "step1"), "olmo3")
    for each in run.iterdir():
        AutoModelForCausalLM.from_pretrained(each).to(torch.bfloat16).save_pretrained(each)
    with LocalHub() as hub:
        hub.add_repo("allenai/fed", {each.name: each for each in sorted(run.iterdir())})
        yield hub


def from_hub(hub: LocalHub) -> HubSource:
    return HubSource("allenai/fed", endpoint=hub.endpoint)


def test_from_a_hub_two_layers_are_in_memory_and_nothing_is_on_disk(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, threads, before = Weights(monkeypatch), Threads(), sorted(tmp_path.rglob("*"))
    given = {"layer": 2, "batch": "4x32", "batch_tokens": 32}
    feed = od.stream_activations(from_hub(hub), chunk_memory="40kB", **given)
    found = put_together(list(feed))
    assert feed.plan.chunks == 2 and len(weights.stages) == 2 * 2 * 4  # the embedding and three blocks
    assert weights.most <= 2 and weights.alive == 0 and threads.all_end()
    assert sorted(tmp_path.rglob("*")) == before
    local = put_together(list(od.stream_activations(tmp_path / "of-hub", **given)))
    torch.testing.assert_close(found.activations, local.activations, rtol=1e-5, atol=1e-6)
    received = sum(each.bytes_sent for each in hub.requests if each.host == "cdn")
    assert feed.plan.weight_bytes <= received <= feed.plan.weight_bytes + 6 * HEADER_GUESS


@pytest.mark.parametrize("leave", ["break", "close"])
def test_leaving_early_frees_everything_and_ends_downloads(
    leave: str, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, threads = Weights(monkeypatch), Threads()
    feed = od.stream_activations(
        from_hub(hub), layer=1, batch="4x32", batch_tokens=16, chunk_memory="20kB", max_memory=1
    )
    if leave == "break":
        for batch in feed:
            held = weakref.ref(batch.activations)
            break
        del batch
    else:
        batches = iter(feed)
        held = weakref.ref(next(batches).activations)
        batches.close()
    assert held() is None and weights.alive == 0 and threads.all_end()
    asked = len(hub.requests)
    assert len(weights.stages) == 2 * 3  # one chunk of four
    assert [len(each) for each in feed] == [16] * 8  # from the beginning
    assert len(hub.requests) > asked


def test_a_native_store_is_fed(shared: Path, tmp_path: Path) -> None:
    run, path = shared / "data" / "native" / "olmo_core" / "tiny-olmo3", token_file(tmp_path, 2, 16, 300)
    feed = od.stream_activations(run, layer=0, tokens=path, batch_tokens=8)
    batches = list(feed)
    assert len(batches) == 4 and len(feed.revisions) > 1
    model = od.load_model(run, feed.revisions[-1], dtype=torch.float32)
    with torch.no_grad():
        x = model.embed(torch.tensor(np.load(path)))
        want = model.model.layers[0](x, model.ropes(16)[0])
    whole = put_together(batches)
    torch.testing.assert_close(whole[feed.revisions[-1]], want.reshape(32, -1), rtol=1e-4, atol=1e-5)
    with pytest.raises(
        OptionError, match=r"^revision must be one of this feed's \d+ \(got 'stepp40'\); did you mean 'step40'"
    ):
        whole["stepp40"]


IN_BLOCK = "give one of 0 to 1, or a list of them"
REFUSED = {
    "unknown layer": ({"layer": 2}, OptionError, f"layer must be 0 to 1 at residual_out (got 2); {IN_BLOCK}"),
    "no layer": ({}, OptionError, f"layer must be given at residual_out (got none); {IN_BLOCK}"),
    "empty layers": ({"layer": []}, OptionError, f"layer must be 0 to 1 at residual_out (got none); {IN_BLOCK}"),
    "layer twice": ({"layer": [1, 1]}, OptionError, "layers must differ (got 1 2 times); name each once"),
    "layer outside": ({"site": "logits", "layer": 0}, OptionError,
                      "layer must be left out at logits, which lies outside the blocks (got 0)"),
    "absent site": ({"site": "router_logits", "layer": 0}, OptionError, "site must be one that olmo2 has: embedding, "),
    "misspelt site": ({"site": "residual_uot", "layer": 0}, OptionError,
                      "(got 'residual_uot'); did you mean 'residual_out', 'residual_in' or 'residual_middle'?"),
    "unknown revision": ({"layer": 0, "revisions": "step7"}, SelectionError,
                         "'step7' matches no revision; there are 3 in stage 1, "),
    "empty batch": ({"layer": 0, "batch_tokens": 0}, OptionError, "batch_tokens must be at least 1 (got 0)"),
    "little memory": ({"layer": 0, "chunk_memory": "1kB", "batch": "2x16"}, OptionError,
                      "chunk_memory must hold one window, 6,144 bytes (got '1kB'); give more, shorter windows by batch=BxT, "
                      "or fewer revisions"),
    "unknown option": ({"layer": 0, "batch_token": 3}, OptionError,
                       "unknown option 'batch_token'; did you mean 'batch_tokens'?"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refusals(what: str, tiny_run: Path) -> None:
    given, kind, message = REFUSED[what]
    with pytest.raises(kind) as refused:
        od.stream_activations(tiny_run, **{"revisions": TWO, **given})
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_a_revision_that_differs_is_named(tiny_run: Path, tmp_path: Path) -> None:
    run, threads = tmp_path / "run", Threads()
    for name in ("step0", "step1"):
        write_revision(run / name, 0)
    edit_config(run / "step1", max_position_embeddings=8)
    feed = od.stream_activations(run, layer=0, batch="2x16")
    message = r"^step1: the model must have 16 positions \(got 8\), as step0 has; leave the revision out, or feed it by itself$"
    with pytest.raises(CheckpointError, match=message):
        list(feed)
    edit_config(run / "step1", max_position_embeddings=256)
    text = (run / "step1" / "tokenizer.json").read_text()
    (run / "step1" / "tokenizer.json").write_text(text.replace('"Ġ', '"_'))
    with pytest.raises(
        ProbeError, match=r"^step1: the tokenizer must turn the text into the tokens of step0; give tokeni"
    ):
        list(od.stream_activations(run, layer=0, batch="2x16"))
    shutil.copy(run / "step0" / "tokenizer.json", run / "step1")
    (run / "step1" / "model.safetensors").write_bytes(b"{}")
    with pytest.raises(CheckpointError, match="step1"):
        list(od.stream_activations(run, layer=0, batch="2x16"))
    assert threads.all_end()


def test_the_plan_is_told(tiny_run: Path) -> None:
    feed = od.stream_activations(tiny_run, revisions=TWO, layer=[0, 1], batch="4x16", batch_tokens=50, dtype="bfloat16")
    weights = 32 * (320 + 2 * (32 + 16 + 16 + 32 + 3 * 48 + 2)) + 2 * (32 + 16)
    assert repr(feed) == (
        f"ActivationFeed: residual_out of layers 0, 1 in 2 revisions of {tiny_run}\n"
        "  64 tokens in 2 batches of 50, 32 features, torch.bfloat16\n"
        f"  1 chunk of at most 64 tokens, 0.0 MB; {2 * 4 * weights / 1e6:.1f} MB of weights to read"
    )
    assert feed.plan.held_bytes == 64 * 2 * (2 * 2 * 32 + 32)
    assert feed.plan.weight_bytes == 2 * 4 * weights
    assert next(iter(feed)).activations.dtype is torch.bfloat16
