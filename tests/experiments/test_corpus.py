"""The corpus: always the same, never the machine's own files, and every token decodes to its text."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from olmo_dynamics.errors import OptionError
from olmo_dynamics.experiments.corpus import Corpus, build_corpus, gather_texts, split_texts


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return build_corpus(max_bytes=100_000, entries=400)


def test_tokens_decode_to_the_text_and_documents_end(corpus: Corpus) -> None:
    tokenizer = Tokenizer.from_str(corpus.tokenizer_json.decode())
    train, held_out = split_texts(gather_texts(100_000))
    for tokens, texts in ((corpus.train, train), (corpus.held_out, held_out)):
        ends = np.flatnonzero(tokens == 0)
        assert len(ends) == len(texts)
        assert ends[-1] == len(tokens) - 1
        assert tokenizer.decode(tokens.tolist(), skip_special_tokens=False) == "".join(
            t + "<|endoftext|>" for t in texts
        )


def test_the_vocabulary_has_its_size_and_its_special_tokens(corpus: Corpus) -> None:
    tokenizer = Tokenizer.from_str(corpus.tokenizer_json.decode())
    assert tokenizer.get_vocab_size() == 400
    assert (tokenizer.token_to_id("<|endoftext|>"), tokenizer.token_to_id("<|pad|>")) == (0, 1)
    assert corpus.train.dtype == np.uint16
    assert corpus.train.max() < 400
    assert not (corpus.train == 1).any()
    anything = "any text at all: π ≈ 3.14159, 中文, \x00\x7f"
    assert tokenizer.decode(tokenizer.encode(anything).ids) == anything


def test_it_is_the_same_every_time(corpus: Corpus) -> None:
    again = build_corpus(max_bytes=100_000, entries=400)
    assert again.tokenizer_json == corpus.tokenizer_json
    np.testing.assert_array_equal(again.train, corpus.train)
    np.testing.assert_array_equal(again.held_out, corpus.held_out)


def test_it_is_bounded_and_a_twentieth_is_held_out() -> None:
    texts = gather_texts(150_000)
    assert sum(len(text.encode()) for text in texts) == pytest.approx(150_000, abs=4)
    assert len(texts) > 5
    _train, held_out = split_texts(texts)
    assert sum(map(len, held_out)) == pytest.approx(0.05 * sum(map(len, texts)), abs=1)


def test_it_holds_code_and_prose_but_nothing_generated_or_installed_here() -> None:
    texts = gather_texts(1 << 40)
    assert any("class Fraction(numbers.Rational)" in text for text in texts)
    assert any(text.startswith('The "assert" statement') for text in texts)
    assert not any("build_time_vars" in text.split("=")[0] for text in texts)
    assert not any("import numpy as np" in text for text in texts)
    assert sum(map(len, texts)) > 4_000_000


@given(st.lists(st.text(max_size=30), min_size=1))
def test_splitting_loses_nothing(texts: list[str]) -> None:
    before, after = split_texts(texts)
    assert "".join(before) + "".join(after) == "".join(texts)
    assert all(before)
    assert all(after)


def test_saving_replaces_what_was_there(tmp_path: Path, corpus: Corpus) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "stale").touch()
    corpus.save(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "held_out.npy",
        "tokenizer.json",
        "train.npy",
    ]
    assert list(tmp_path.iterdir()) == [folder]
    loaded = Corpus.load(folder)
    assert loaded.tokenizer_json == corpus.tokenizer_json
    np.testing.assert_array_equal(loaded.train, corpus.train)
    np.testing.assert_array_equal(loaded.held_out, corpus.held_out)


@pytest.mark.parametrize("entries", [257, 65537])
def test_a_vocabulary_that_cannot_be_is_refused(entries: int) -> None:
    with pytest.raises(OptionError) as caught:
        build_corpus(max_bytes=1000, entries=entries)
    assert str(caught.value) == f"a byte-level vocabulary in 16 bits must have 258 to 65536 entries (got {entries})"
