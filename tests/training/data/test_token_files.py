"""Tokens from files, from a web server by range, and from text; every way in which they cannot be what they should."""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import close_session

from olmo_dynamics.errors import OptionError, ProbeError, TrainingError
from olmo_dynamics.probes.token_sources import fingerprint, open_tokens
from olmo_dynamics.settings import cache_dir
from olmo_dynamics.training.data.data_files import DataFiles, split_weight
from olmo_dynamics.training.data.instances import TokenFiles
from olmo_dynamics.training.data.tokenize import TokenWriter, tokenize
from tests.checkpoints.http.test_web_directory import _Handler
from tests.runs import tiny_tokenizer

TOKENIZER = tiny_tokenizer().encode()


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    """40,000 ids below 320."""
    path = tmp_path / "part-0.npy"
    np.random.default_rng(1).integers(0, 320, 40_000).astype(np.uint16).tofile(path)
    return path


@pytest.fixture
def served(numbers: Path) -> Iterator[tuple[str, type[_Handler]]]:
    """The address of that file on a web server, and what was asked for."""
    handler = type("Handler", (_Handler,), {"folder": numbers.parent, "seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/part-0.npy", handler
    close_session()
    server.shutdown()
    server.server_close()


def test_of_a_web_file_only_the_bytes_of_the_asked_instances_move(
    served: tuple[str, type[_Handler]], numbers: Path
) -> None:
    address, handler = served
    here = TokenFiles.open([numbers], length=128, dtype="uint16")
    there = TokenFiles.open([address], length=128, dtype="uint16")
    assert there.count == here.count == 312
    assert np.array_equal(there.read([300, 2, 3]), here.read([300, 2, 3]))
    ranges = sorted(headers["range"] for method, _, headers in handler.seen if method == "GET")
    assert ranges == ["bytes=512-1023", "bytes=76800-77055"]  # neighbours in one request, nothing else
    known = fingerprint(here.sources[0])
    assert fingerprint(there.sources[0]) == {name: known[name] for name in ("name", "bytes")}
    with pytest.raises(ProbeError, match=r"^there is no file of token ids at http://127.*none\.npy: check"):
        open_tokens(address.replace("part-0", "none"), "uint16")
    with pytest.raises(
        TrainingError, match=r"^text must be a local file; only token ids are read over http \(got http://.*jsonl\): "
    ):
        DataFiles.open([address.replace(".npy", ".jsonl")], dtype="uint16", texts=lambda: pytest.fail("not asked"))


def test_ids_that_cannot_be_are_named_with_their_file(numbers: Path, tmp_path: Path) -> None:
    files = TokenFiles.cut([open_tokens(numbers, "uint16")], length=64, vocab_size=300)
    raw = np.fromfile(numbers, np.uint16)
    first = int(np.flatnonzero(raw[:64] == raw[:64].max())[0])
    with pytest.raises(TrainingError) as caught:
        files.read([0])
    assert str(caught.value) == (
        f"{numbers}: token ids must be below 300, the model's vocabulary (got {raw[first]} at token {first}, read as uint16): "
        "check --data-dtype and the tokenizer"
    )
    wide = tmp_path / "wide.npy"
    np.arange(1, 1000, dtype=np.uint32).tofile(wide)
    with pytest.raises(
        TrainingError, match=r"wide\.npy: every other id at token 64 is 0 or 1, as in a file of uint32 read"
    ):
        TokenFiles.open([wide], length=64, dtype="uint16").read([1])
    with pytest.raises(OptionError, match=r"^the dtype of token files must be uint16 or uint32 \(got int8\)$"):
        open_tokens(numbers, "int8")


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "int64", ">i4"])
def test_a_numpy_header_is_understood(numbers: Path, tmp_path: Path, dtype: str) -> None:
    raw, headed = np.fromfile(numbers, np.uint16), tmp_path / "headed.npy"
    np.save(headed, raw.reshape(200, 200).astype(dtype))
    bare, files = (TokenFiles.open([path], length=64, dtype="uint16") for path in (numbers, headed))
    assert files.count == bare.count and np.array_equal(files.read([3, 0]), bare.read([3, 0]))
    assert fingerprint(files.sources[0])["bytes"] == 40_000 * np.dtype(dtype).itemsize
    headed.write_bytes(headed.read_bytes()[:-1])
    with pytest.raises(ProbeError, match=r"headed\.npy has a NumPy header but is damaged: mmap"):
        open_tokens(headed, "uint16")
    np.save(headed, np.array([5, -1, 3]))
    with pytest.raises(
        TrainingError, match=r"headed\.npy: token ids must be below 9, the .* \(got -1 at token 1, read as"
    ):
        TokenFiles.cut([open_tokens(headed, "uint16")], length=3, vocab_size=9).read([0])


def test_files_are_known_again_by_their_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    raw = np.zeros(3 << 20, np.uint8)
    raw.tofile(path)
    before = fingerprint(open_tokens(path, "uint16"))
    assert before["bytes"] == 3 << 20
    for place, same in ((0, False), (-1, False), (3 << 19, True)):  # what lies between the ends is not read
        raw[:] = 0
        raw[place] = 1
        raw.tofile(path)
        assert (fingerprint(open_tokens(path, "uint16")) == before) == same


def test_text_becomes_the_ids_of_its_documents_each_with_an_end(tmp_path: Path) -> None:
    writer = TokenWriter.of(TOKENIZER, vocab_size=320)
    documents = ["the model reads", "the next token", "and then"]
    wanted = np.concatenate([[*writer.tokenizer.encode(text), 0] for text in documents])
    lines = "".join(json.dumps({"text": text}) + "\n" for text in documents)
    plain, packed, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz", tmp_path / "c.json.gz"
    plain.write_text(lines)
    packed.write_bytes(gzip.compress(lines.encode()))
    other.write_bytes(gzip.compress(lines.encode()))
    for path in (plain, packed, other):
        assert np.array_equal(np.fromfile(tokenize(path, writer), np.uint16), wanted)
    whole = tmp_path / "d.txt"
    whole.write_text(documents[0])
    assert np.fromfile(tokenize(whole, writer), np.uint16).tolist() == [*writer.tokenizer.encode(documents[0]), 0]
    first = tokenize(plain, writer)
    first.write_bytes(b"kept")  # the same contents are not tokenized again
    assert tokenize(plain, writer) == first and first.read_bytes() == b"kept"
    plain.write_text(lines + lines)
    assert tokenize(plain, writer) != first
    assert not list((cache_dir() / "tokens").glob("*.partial"))


def test_text_that_is_none_leaves_nothing_in_the_cache(tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text('{"text": "good"}\nnot json\n')
    with pytest.raises(Exception, match=r"broken\.jsonl line 2 must be a JSON object"):
        tokenize(path, TokenWriter.of(TOKENIZER, vocab_size=320))
    assert list((cache_dir() / "tokens").iterdir()) == []


@pytest.mark.parametrize(
    ("tokenizer", "vocab_size", "message"),
    [
        (None, 320, "text needs a tokenizer, and the revision has no tokenizer.json: give --tokenizer FILE"),
        (
            TOKENIZER,
            100,
            "the tokenizer must have at most 100 ids, the model's vocabulary (got {size}): give the tokenizer of this model",
        ),
    ],
)
def test_a_tokenizer_of_another_model_is_refused(tokenizer: bytes | None, vocab_size: int, message: str) -> None:
    wanted = message.format(size=TokenWriter.of(TOKENIZER, vocab_size=320).tokenizer.size)
    with pytest.raises(TrainingError, match=f"^{re.escape(wanted)}$"):
        TokenWriter.of(tokenizer, vocab_size=vocab_size)


def test_names_with_weights(numbers: Path, tmp_path: Path) -> None:
    text = tmp_path / "a.jsonl"
    text.write_text('{"text": "the model"}\n')
    found = DataFiles.open(
        [f"{numbers}=0.7", f"{text}=3e-1"], dtype="uint16", texts=lambda: TokenWriter.of(TOKENIZER, vocab_size=320)
    )
    assert found.weights == (0.7, 0.3) and [source.name for source in found.sources] == [str(numbers), str(text)]
    assert split_weight("http://a/b?c=d") == ("http://a/b?c=d", None)
    odd = tmp_path / "x=2"
    odd.write_bytes(b"")
    assert split_weight(str(odd)) == (str(odd), None)
    with pytest.raises(
        OptionError, match=r"^either all data files or none must have a weight; .*a\.jsonl has none: write "
    ):
        DataFiles.open([f"{numbers}=0.7", text], dtype="uint16", texts=lambda: pytest.fail("not asked"))
