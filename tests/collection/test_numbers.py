"""Every statistic in the store of a transformers-written OLMo 2 run equals an independent computation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from olmo_dynamics.collecting import collect
from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.progress import Progress
from olmo_dynamics.quantities import WITHOUT_FIRST, of_group
from olmo_dynamics.recorders.lookup import built_in_groups
from tests.collection import reference
from tests.runs import write_run

DENSE_GROUPS = tuple(group for group in built_in_groups(by_default=True) if group != "routing")
PARAMETERS, ACTIVATIONS, LOSS = 1e-6, 1e-4, 1e-5  # relative


class Measured:
    """A collected run beside the folder it was collected from."""

    def __init__(self, run: Path, store: RecordedStore, dtype: torch.dtype) -> None:
        self.run, self.store, self.dtype = run, store, dtype
        probe = store.probe()
        self.token_ids, self.mask, self.domain = probe["token_id"], probe["mask"].astype(bool), probe["domain"]
        self.names = [each.name for each in store.revisions()]

    def row(self, group: str, revision: str) -> dict[str, np.ndarray]:
        index = self.names.index(revision)
        return {name: values[index] for name, values in self.store.arrays(group).items()}

    def labels(self, axis: str) -> list:
        return self.store.layout.axes[axis].labels.tolist()


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16 weights"])
def measured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    folder = tmp_path_factory.mktemp("numbers")
    run = write_run(folder / "run", ("step0-tokens0", "step10-tokens5120"), dtype=request.param)
    # The forward pass is computed in fp32 in both cases; only the stored weights differ.
    store = collect(run, out=folder / "store.zarr", batch="14x48", dtype="float32", progress=Progress())
    return Measured(run, store, torch.float32)


def close(ours: np.ndarray, theirs: np.ndarray | float, tolerance: float, what: str) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * np.abs(theirs).max(), err_msg=what)


def test_every_group_was_recorded(measured: Measured) -> None:
    assert set(measured.store.layout.groups) == set(DENSE_GROUPS)


def test_parameters(measured: Measured) -> None:
    for revision in measured.names:
        row, tensors = measured.row("parameters", revision), reference.weights(measured.run / revision)
        assert measured.labels("tensor") == list(tensors) or set(measured.labels("tensor")) == set(tensors)
        for index, name in enumerate(measured.labels("tensor")):
            for quantity, expected in reference.parameter_statistics(tensors[name]).items():
                np.testing.assert_allclose(
                    row[quantity][index], expected, rtol=PARAMETERS, atol=1e-12, err_msg=f"{revision} {name} {quantity}"
                )


@pytest.mark.parametrize(
    ("tensor", "axis"),
    [
        ("model.layers.1.self_attn.q_proj.weight", 1),
        ("model.layers.0.self_attn.o_proj.weight", 0),
        ("model.layers.1.mlp.down_proj.weight", 0),
        ("model.embed_tokens.weight", 1),
    ],
)
def test_norms_along_the_residual_stream(measured: Measured, tensor: str, axis: int) -> None:
    row = measured.row("parameters", measured.names[1])
    index = measured.labels("tensor").index(tensor)
    values = reference.weights(measured.run / measured.names[1])[tensor]
    close(row["residual_feature_l2"][index], np.sqrt((values**2).sum(1 - axis)), PARAMETERS, tensor)
    levels = measured.labels("quantile")
    expected = np.quantile(np.sqrt((values**2).sum(axis)), levels)
    close(row["residual_vector_l2_quantile"][index], expected, PARAMETERS, tensor)


def test_embeddings(measured: Measured) -> None:
    row = measured.row("embeddings", measured.names[1])
    tensors = reference.weights(measured.run / measured.names[1])
    size = measured.store.attributes["probe"]["tokenizer_size"]
    counts = np.bincount(measured.token_ids[measured.mask], minlength=320)
    for index, name in enumerate(measured.labels("embedding")):
        rows = np.sqrt((tensors[name] ** 2).sum(1))
        close(row["row_l2"][index], rows, PARAMETERS, name)
        close(row["row_l2_quantile"][index], np.quantile(rows, measured.labels("quantile")), PARAMETERS, name)
        close(row["row_rms"][index], np.sqrt((tensors[name] ** 2).mean()), PARAMETERS, name)
        close(row["mean_row_l2"][index], np.linalg.norm(tensors[name].mean(0)), PARAMETERS, name)
        close(row["padding_rms"][index], np.sqrt((tensors[name][size:] ** 2).mean()), PARAMETERS, name)
        unseen = np.flatnonzero(counts[:size] == 0)
        close(row["unseen_rms"][index], np.sqrt((tensors[name][unseen] ** 2).mean()), PARAMETERS, name)


def test_activations_at_every_site(measured: Measured) -> None:
    for revision in measured.names:
        row = measured.row("activations", revision)
        seen = reference.activations(measured.run / revision, measured.token_ids, measured.dtype)
        sites, layers = measured.labels("site"), measured.labels("layer")
        seen.pop(("logits", -1))  # measured as logits, not as a site
        for (site, layer), values in seen.items():
            at = sites.index(site), layers.index(layer)
            for suffix, first in (("", 0), (WITHOUT_FIRST, 1)):
                expected = reference.activation_statistics(values[:, first:][measured.mask[:, first:]])
                for quantity, theirs in expected.items():
                    if (
                        quantity.startswith("feature_")
                        and site in ("q", "k", "mlp_hidden", "logits")
                        and np.ndim(theirs)
                    ):
                        continue
                    close(row[quantity + suffix][at], theirs, ACTIVATIONS, f"{site} {layer} {quantity}{suffix}")


def test_outlier_features(measured: Measured) -> None:
    row = measured.row("outliers", measured.names[1])
    seen = reference.activations(measured.run / measured.names[1], measured.token_ids, measured.dtype)
    layers = measured.labels("layer")
    for index, site in enumerate(("residual_in", "residual_middle")):
        for layer in (0, 1):
            at = index, layers.index(layer)
            for suffix, first in (("", 0), (WITHOUT_FIRST, 1)):
                tokens = seen[site, layer][:, first:][measured.mask[:, first:]]
                for quantity, theirs in reference.feature_fractions(tokens).items():
                    close(row[quantity + suffix][at], theirs, ACTIVATIONS, f"{site} {layer} {quantity}{suffix}")


def test_massive_activations(measured: Measured) -> None:
    row = measured.row("outliers", measured.names[1])
    seen = reference.activations(measured.run / measured.names[1], measured.token_ids, measured.dtype)
    for layer in (0, 1):
        at = measured.labels("layer").index(layer)
        values = np.where(measured.mask[..., None], seen["residual_out", layer], 0.0)
        order = np.argsort(-np.abs(values), axis=None)[: len(measured.labels("rank"))]
        close(row["massive_value"][at], values.ravel()[order], ACTIVATIONS, "massive values")
        sequence, position, feature = np.unravel_index(order, values.shape)
        assert row["massive_sequence"][at].tolist() == sequence.tolist()
        assert row["massive_position"][at].tolist() == position.tolist()
        assert row["massive_feature"][at].tolist() == feature.tolist()
        assert row["massive_token_id"][at].tolist() == measured.token_ids[sequence, position].tolist()
        medians = [
            np.median(np.abs(each[kept])) for each, kept in zip(seen["residual_out", layer], measured.mask, strict=True)
        ]
        close(row["massive_median"][at], np.mean(medians), ACTIVATIONS, "massive median")


def test_logits(measured: Measured) -> None:
    row = measured.row("logits", measured.names[1])
    logits = reference.activations(measured.run / measured.names[1], measured.token_ids, measured.dtype)["logits", -1]
    size = measured.store.attributes["probe"]["tokenizer_size"]
    for suffix, first in (("", 0), (WITHOUT_FIRST, 1)):
        expected = reference.logit_statistics(logits[:, first:][measured.mask[:, first:]], size)
        for quantity, theirs in expected.items():
            close(row[quantity + suffix], theirs, ACTIVATIONS, quantity + suffix)


def test_loss(measured: Measured) -> None:
    for revision in measured.names:
        row = measured.row("loss", revision)
        logits = reference.activations(measured.run / revision, measured.token_ids, measured.dtype)["logits", -1]
        losses = reference.token_losses(logits, measured.token_ids, measured.mask)
        np.testing.assert_allclose(
            measured.row("tokens", revision)["token_cross_entropy"], losses, rtol=LOSS, atol=LOSS
        )
        for index, domain in enumerate(measured.labels("domain")):
            rows = measured.domain == index
            close(row["cross_entropy"][index], np.nanmean(losses[rows]), LOSS, domain)
            close(row["cross_entropy_without_first"][index], np.nanmean(losses[rows][:, 2:]), LOSS, domain)
            assert row["scored_tokens"][index] == np.isfinite(losses[rows]).sum()
            positions = losses[rows]
            scored = np.isfinite(positions).any(0)
            close(row["position_cross_entropy"][index][scored], np.nanmean(positions[:, scored], axis=0), LOSS, domain)


def test_no_declared_quantity_is_left_unmeasured(measured: Measured) -> None:
    for group in DENSE_GROUPS:
        row = measured.row(group, measured.names[0])
        for quantity in of_group(group):
            values = row[quantity.name]
            assert np.isfinite(values.astype(float)).any() and (quantity.dtype == "uint8" or np.any(values != -1)), (
                quantity.key
            )
