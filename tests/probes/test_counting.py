"""Counts of tokens and pairs: from ids, from files of counts, and from hostile ones."""

import io
import re
import zipfile
from collections import Counter
from contextlib import suppress
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo_dynamics.errors import OlmoDynamicsError, OptionError
from olmo_dynamics.probes.counting import CountsFile, TokenCounts, token_counts

KNOWN, COLUMNS = 6, 8
GOOD = {
    "unigram": np.array([3, 1, 0, 0, 2, 0]),
    "pair": np.array([[0, 1], [4, 0], [0, 1]]),
    "count": np.array([2, 1, 1]),
}


def tally(counts):
    pairs = dict(zip(map(tuple, counts.pairs.tolist()), counts.pair_counts.tolist(), strict=True))
    return counts.unigram.tolist(), pairs


@settings(max_examples=40)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 6), st.randoms())
def test_counts_are_those_of_python_however_rows_are_cut(rows, positions, at_once, random):
    ids = [[random.randrange(KNOWN) for _ in range(positions)] for _ in range(rows)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(token_counts, "_AT_ONCE", at_once)
        found = TokenCounts.of_ids(np.array(ids, dtype=np.uint16), KNOWN)
    tokens = Counter(token for row in ids for token in row)
    pairs = Counter(pair for row in ids for pair in pairwise(row))
    assert tally(found) == ([tokens[token] for token in range(KNOWN)], dict(pairs))
    assert tally(TokenCounts.of_ids(np.array(ids[0]), KNOWN)) == tally(TokenCounts.of_ids(np.array(ids[:1]), KNOWN))


def test_a_file_of_counts_and_one_of_their_tokens_are_the_same(tmp_path):
    ids = np.random.default_rng(0).integers(0, KNOWN, 500)
    expected = TokenCounts.of_ids(ids, KNOWN)
    np.save(tmp_path / "ids.npy", ids)
    ids.astype(np.uint16).tofile(tmp_path / "bare.bin")
    order = np.random.default_rng(1).permutation(len(expected.keys))
    arrays = {"pair": expected.pairs[order].astype(np.uint16), "count": expected.pair_counts[order].astype(">i4")}
    np.savez_compressed(tmp_path / "counts.npz", unigram=np.pad(expected.unigram, (0, 2)), **arrays)
    for name in ("ids.npy", "bare.bin", "counts.npz"):
        found = CountsFile(tmp_path / name).read(KNOWN, COLUMNS)
        assert (tally(found), found.sha256) == (tally(expected), expected.sha256)
    other = TokenCounts.of_ids(ids[:-1], KNOWN)
    assert other.sha256 != expected.sha256


def refused(path, message):
    with pytest.raises(OlmoDynamicsError) as raised:
        CountsFile(path).read(KNOWN, COLUMNS)
    assert str(raised.value) == message.replace("FILE", str(path))


OWN = "give counts of the run's own tokenizer"
VOCABULARY = f"--counts must hold token ids of the model's vocabulary, 0 to 5 (got {{}} in FILE); {OWN}"
WHOLE = "--counts must hold whole numbers, unigram [V], pair [M, 2] and count [M] (got {} in FILE)"
FAULTY = {
    "other vocabulary": (
        {"unigram": np.ones(5, int)},
        "--counts must be of the model's vocabulary of 6 ids (8 with padding) (got unigram of 5 in FILE); give counts of the "
        "run's own tokenizer",
    ),
    "unigram in the padding": ({"unigram": np.ones(8, int)}, VOCABULARY.format(7)),
    "pair in the padding": ({"pair": np.array([[0, 6], [1, 1], [1, 2]])}, VOCABULARY.format(6)),
    "below 0": (
        {"pair": np.array([[0, -1], [1, 1], [1, 2]])}, "--counts must hold no number below 0 (got one in FILE); count again"
    ),
    "floats": ({"count": np.array([0.5, 1, 1])}, WHOLE.format("count of float64 [3]")),
    "objects": ({"count": np.array([1, None, "x"], dtype=object)}, WHOLE.format("count of object [3]")),
    "three in a pair": (
        {"pair": np.ones((3, 3), int)},
        "--counts must hold a count for each pair of ids (got pair [3, 3] and count [3] in FILE)",
    ),
    "a count missing": (
        {"count": np.array([1])},
        "--counts must hold a count for each pair of ids (got pair [3, 2] and count [1] in FILE)",
    ),
    "no dimension": ({"count": np.array(3)}, WHOLE.format("count of int64 []")),
    "nothing counted": (
        {"count": np.zeros(3, int)}, "--counts must count at least one token and one pair (got none in FILE)"
    ),
    "overflow": (
        {"count": np.array([1 << 62, 1 << 62, 1])}, "--counts must sum to less than 2**62 (got more in FILE); scale them down"
    ),
    "unsigned overflow": (
        {"count": np.array([2**64 - 1, 1, 1], dtype=np.uint64)},
        "--counts must sum to less than 2**62 (got more in FILE); scale them down",
    ),
    "an array missing": (
        {"pair": None}, "--counts must hold the arrays unigram [V], pair [M, 2] and count [M] (FILE has no pair)"
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTY)
def test_a_faulty_file_of_counts_is_refused_in_one_line(fault, tmp_path):
    changes, message = FAULTY[fault]
    arrays = {name: array for name, array in (GOOD | changes).items() if array is not None}
    np.savez(tmp_path / "counts.npz", **arrays)
    refused(tmp_path / "counts.npz", message)


def header(shape, dtype="<i8"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue()


def zipped(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, raw in members.items():
            archive.writestr(f"{name}.npy", raw)
    return path


def test_a_header_that_promises_more_than_the_file_holds_takes_no_memory(tmp_path):
    good = {"unigram": header((6,)) + bytes(48), "pair": header((0, 2)), "count": header((0,))}
    damaged = "--counts must be an .npz that NumPy wrote; FILE is damaged: "
    path = tmp_path / "counts.npz"
    for shape in ((1 << 50, 2), (-1, -2)):
        told = f"pair is {list(shape)} of int64, and has 0 bytes"
        refused(zipped(path, **good | {"pair": header(shape)}), damaged + told)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("olmo_dynamics.probes.counting.counts_file.MOST_PAIRS", 1)
        many = {"pair": header((2, 2)) + bytes(32), "count": header((2,)) + bytes(16)}
        refused(zipped(path, **good | many), "--counts must hold at most 1 pairs (got 2 in FILE); leave out the rarest")


@pytest.mark.parametrize("raw", [b"", b"PK\x03\x04 but no zip", b"\x93NUMPY"])
def test_bytes_that_are_no_archive_are_refused(raw, tmp_path):
    path = tmp_path / "counts.npz"
    path.write_bytes(raw)
    refused(path, "--counts must be an .npz that NumPy wrote; FILE is damaged: File is not a zip file")


@settings(max_examples=60)
@given(st.data())
def test_no_damaged_byte_gives_anything_but_a_refusal_or_counts(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("counts") / "counts.npz"
    np.savez_compressed(path, **GOOD)
    raw = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.sampled_from([len(raw), place]))])
    with suppress(OptionError):
        assert CountsFile(path).read(KNOWN, COLUMNS).vocabulary == KNOWN


def test_files_of_tokens_that_cannot_be_counted_are_refused(tmp_path):
    refused(tmp_path / "none.npz", "cannot read the counts file FILE: No such file or directory")
    refused(tmp_path / "none.npy", "cannot read the token file FILE: No such file or directory")
    np.save(tmp_path / "ids.npy", np.array([1, 2, 6]))
    refused(tmp_path / "ids.npy", VOCABULARY.format(6).replace("give counts", "give a file"))
    np.save(tmp_path / "ids.npy", np.array([[1], [2]]))
    refused(tmp_path / "ids.npy", "--counts must count at least one token and one pair (got none in FILE)")
    for path, message in (
        ("a.txt", "--counts must be FILE.npz or a file of token ids (got the text a.txt); tokenize it"),
        (7, "counts must be the path of a file (got 7)"),
    ):
        with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
            CountsFile(path)
