"""The small demo, end to end: a run that learns, is found again, resumes after an interruption, and loads elsewhere."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from olmo_dynamics.checkpoints.catalog.revision_names import parse_revision
from olmo_dynamics.errors import TrainingError
from olmo_dynamics.experiments.demo import BRIEF, SMALL, STANDARD, pretrain
from olmo_dynamics.frames import metrics
from olmo_dynamics.progress import Progress
from olmo_dynamics.training.checkpoint_reader import read_checkpoint

STEPS = [0, 1, 2, 4, 9, 20]
NAMES = [f"step{step}-tokens{512 * step}" for step in STEPS]


class Heard(Progress):
    """A progress listener that remembers its calls."""

    def __init__(self) -> None:
        self.expected: tuple[int, int] | None = None
        self.steps = 0
        self.finished: list[str] = []

    def expect(self, *, revisions: int, nbytes: int) -> None:
        self.expected = (revisions, nbytes)

    def advance(self, nbytes: int) -> None:
        self.steps += nbytes

    def finish(self, name: str) -> None:
        self.finished.append(name)


@pytest.fixture(scope="module")
def heard() -> Heard:
    return Heard()


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, heard: Heard) -> Path:
    """A finished small demo; read it, never change it."""
    out = tmp_path_factory.mktemp("demo")
    assert pretrain(out, size=SMALL, progress=heard) == out / "run"
    return out


def weights(checkpoint: Path) -> dict[str, np.ndarray]:
    return load_file(checkpoint / "model.safetensors")


def test_the_run_holds_log_spaced_revisions_and_a_curve_that_falls(out: Path, heard: Heard) -> None:
    run = out / "run"
    assert {path.name for path in run.iterdir()} == {*NAMES, "metrics.parquet"}
    assert [parse_revision(name).step for name in NAMES] == STEPS
    table = metrics(run)
    assert table["step"].to_list() == list(range(1, 21))
    assert table["loss"][0] == pytest.approx(np.log(576), abs=0.1)
    assert table["loss"][-1] < table["loss"][0] - 0.5
    assert heard.expected == (5, 20)
    assert heard.steps == 20
    assert heard.finished == NAMES[1:]


def test_threads_are_given_back(out: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    pretrain(tmp_path, size=replace(SMALL, steps=1, revisions=2, corpus_bytes=50_000))
    assert torch.get_num_threads() == before


def test_transformers_reads_every_revision(out: Path) -> None:
    token_ids = torch.from_numpy(np.load(out / "corpus" / "held_out.npy")[:128].astype(np.int64)).reshape(2, 64)
    for name in NAMES[::5]:
        checkpoint = out / "run" / name
        theirs = transformers.AutoModelForCausalLM.from_pretrained(checkpoint)
        ours = read_checkpoint(checkpoint)[0].model
        with torch.no_grad():
            torch.testing.assert_close(ours(token_ids), theirs(token_ids).logits, rtol=0, atol=1e-5)
        tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
        assert (tokenizer.eos_token_id, tokenizer.pad_token_id, len(tokenizer)) == (0, 1, SMALL.entries)
        assert tokenizer("def f(x):")["input_ids"]


def test_rows_past_the_tokenizer_are_never_trained(out: Path) -> None:
    first, last = (weights(out / "run" / name)["model.embed_tokens.weight"] for name in (NAMES[0], NAMES[-1]))
    assert len(first) == 576
    padding = np.r_[1, SMALL.entries : 576]
    np.testing.assert_array_equal(last[padding], first[padding])
    assert (last != first).any()


def test_a_finished_run_is_found_again(out: Path) -> None:
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    heard = Heard()
    assert pretrain(out, size=SMALL, progress=heard) == out / "run"
    assert heard.expected is None
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times


@pytest.mark.parametrize("kept", [0, 3, 5])
def test_an_interrupted_run_ends_as_if_it_had_never_stopped(out: Path, tmp_path: Path, kept: int) -> None:
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    run = tmp_path / "run"
    for name in NAMES[kept:]:
        shutil.rmtree(run / name)
    heard = Heard()
    pretrain(tmp_path, size=SMALL, progress=heard)
    assert heard.finished == NAMES[max(kept, 1) :]
    for name in NAMES:
        for tensor, value in weights(out / "run" / name).items():
            np.testing.assert_array_equal(weights(run / name)[tensor], value, err_msg=f"{name} {tensor}")
    assert metrics(run)["loss"].equals(metrics(out / "run")["loss"])


def test_a_revision_missing_in_the_middle_is_made_again_and_the_others_stay(out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    run = tmp_path / "run"
    shutil.rmtree(run / NAMES[2])
    last = (run / NAMES[-1]).stat().st_mtime_ns
    pretrain(tmp_path, size=SMALL)
    assert (run / NAMES[-1]).stat().st_mtime_ns == last
    for tensor, value in weights(out / "run" / NAMES[2]).items():
        np.testing.assert_array_equal(weights(run / NAMES[2])[tensor], value)


def test_a_run_of_another_size_is_not_overwritten(out: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        pretrain(out, size=replace(SMALL, peak_lr=1e-4))
    assert str(caught.value) == (
        f"{out / 'run'} must hold a demo of this size or nothing (got another run); choose another folder"
    )


def test_the_standard_demo_is_a_few_million_parameters_in_24_revisions() -> None:
    config, recipe = STANDARD.config, STANDARD.recipe
    assert config.vocab_size == 4160 > STANDARD.entries == 4096
    assert len(recipe.save_at) == 24
    assert config.max_positions == recipe.sequence_length
    assert BRIEF.config == config
    assert len(BRIEF.recipe.save_at) == 24
