"""From files to windows: round trips, byte counts, and the errors of faulty files."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from olmo_dynamics.errors import OptionError, ProbeError
from olmo_dynamics.probes import BUILT_IN, Probe, builder, documents, load_probe, token_files

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
Train = Callable[..., Tokenizer]

END = 0  # the tiny tokenizer's <|endoftext|>


def write_lines(path: Path, *texts: str) -> Path:
    lines = "".join(json.dumps({"id": number, "text": text}) + "\n" for number, text in enumerate(texts)).encode()
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return path


def write_text(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def real_ids(probe: Probe, domain: str) -> list[int]:
    first, stop = probe.spans[domain]
    return [int(token) for token in probe.token_ids[first:stop][probe.mask[first:stop]]]


def real_bytes(probe: Probe, domain: str) -> int:
    first, stop = probe.spans[domain]
    return int(probe.token_bytes[first:stop][probe.mask[first:stop]].sum())


def refused(message: str, error: type[Exception] = ProbeError) -> Any:
    return pytest.raises(error, match=rf"^{message}$")


class TestBuiltIn:
    def test_six_domains_that_decode_to_the_texts(self, real_json: bytes) -> None:
        tokenizer = Tokenizer.from_str(real_json.decode())
        probe = load_probe(real_json, length=256, vocab_size=100352)
        assert probe.domains == BUILT_IN
        assert probe.shape[1] == 256
        assert 4000 < probe.token_count < 8000
        folder = Path(__file__).resolve().parents[2] / "olmo_dynamics" / "probes" / "texts"
        for domain in BUILT_IN:
            text = (folder / f"{domain}.txt").read_text(encoding="utf-8")
            assert tokenizer.decode(real_ids(probe, domain)) == text
            assert real_bytes(probe, domain) == len(text.encode())

    def test_facts_of_the_tokenizer(self, real_json: bytes) -> None:
        probe = load_probe(real_json, batch=(2, 32), vocab_size=100352)
        assert probe.tokenizer_size in (50280, 100278)
        assert probe.tokenizer_sha256 == hashlib.sha256(real_json).hexdigest()

    def test_a_tiny_tokenizer_will_do(self, tiny_json: bytes) -> None:
        probe = load_probe(tiny_json, vocab_size=512)
        assert probe.shape[1] == 512
        assert probe.domains == BUILT_IN
        assert probe.tokenizer_size == 300
        assert (probe.token_bytes[~probe.mask] == 0).all()
        assert (probe.token_ids[~probe.mask] == 0).all()

    def test_a_small_batch_takes_the_first_domains(self, tiny_json: bytes) -> None:
        probe = load_probe(tiny_json, batch=(4, 16), vocab_size=512)
        assert probe.shape == (4, 16)
        assert probe.domains == BUILT_IN[:4]

    def test_a_batch_takes_turns_and_keeps_domains_together(self, tiny_json: bytes) -> None:
        probe = load_probe(tiny_json, batch=(8, 16), vocab_size=512)
        assert [stop - first for first, stop in probe.spans.values()] == [2, 2, 1, 1, 1, 1]
        whole = load_probe(tiny_json, length=16, vocab_size=512)
        first = whole.spans["narrative"][0]
        assert np.array_equal(probe.token_ids[2:4], whole.token_ids[first : first + 2])


class TestTextFiles:
    def test_real_documents(self, real_json: bytes) -> None:
        paths = sorted((SHARED / "data" / "text").glob("*.gz"))
        if not paths:
            pytest.skip(f"no text files in {SHARED / 'data' / 'text'}")
        probe = load_probe(real_json, text=paths, length=128, vocab_size=100352)
        assert probe.domains == ("c4-sample.01", "c4-sample.02", "c4-sample.03", "c4_100_domains-theguardian")
        tokenizer = Tokenizer.from_str(real_json.decode())
        composed = '"NFC"' in json.dumps(json.loads(real_json)["normalizer"])
        end = tokenizer.token_to_id("<|endoftext|>")
        assert end is not None
        for path, domain in zip(paths, probe.domains, strict=True):
            texts = [json.loads(line)["text"] for line in gzip.decompress(path.read_bytes()).splitlines()]
            texts = [unicodedata.normalize("NFC", text) for text in texts] if composed else texts
            ids = real_ids(probe, domain)
            assert ids.count(end) == len(texts) - 1
            assert tokenizer.decode(ids, skip_special_tokens=False) == "<|endoftext|>".join(texts)
            assert real_bytes(probe, domain) == sum(len(text.encode()) for text in texts)

    @pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json.gz"])
    def test_documents_are_joined_by_the_end_of_text(self, tiny_json: bytes, tmp_path: Path, name: str) -> None:
        path = write_lines(tmp_path / name, "the tide", "", "für Élise")
        probe = load_probe(tiny_json, text=[path], vocab_size=512)
        encode = Tokenizer.from_str(tiny_json.decode()).encode
        assert probe.domains == ("a",)
        assert real_ids(probe, "a") == [*encode("the tide").ids, END, *encode("für Élise").ids]
        assert real_bytes(probe, "a") == len("the tide") + len("für Élise".encode())

    def test_special_tokens_are_known(self, tiny_json: bytes, tmp_path: Path) -> None:
        path = tmp_path / "tokens.npy"
        np.save(path, np.arange(4))
        special = tuple(
            Tokenizer.from_str(tiny_json.decode()).token_to_id(each) for each in ("<|endoftext|>", "<|pad|>")
        )
        assert load_probe(tiny_json, tokens=path, vocab_size=400).special_ids == special
        assert load_probe(None, tokens=path, vocab_size=400).special_ids == ()

    def test_without_an_end_of_text_documents_follow_each_other(self, train: Train, tmp_path: Path) -> None:
        tokenizer = train(special=["<unknown>"])
        path = write_lines(tmp_path / "a.jsonl", "tide", "clerk")
        probe = load_probe(tokenizer.to_str().encode(), text=[path], vocab_size=512)
        assert real_ids(probe, "a") == [*tokenizer.encode("tide").ids, *tokenizer.encode("clerk").ids]

    def test_line_ends_are_kept(self, tiny_json: bytes, tmp_path: Path) -> None:
        probe = load_probe(tiny_json, text=[write_text(tmp_path / "a.txt", "one\r\ntwo\n")], vocab_size=512)
        assert real_bytes(probe, "a") == 9

    def test_blank_lines_are_skipped(self, tiny_json: bytes, tmp_path: Path) -> None:
        path = write_text(tmp_path / "a.jsonl", '\n{"text": "one two"}\n  \n')
        assert (
            load_probe(tiny_json, text=[path], vocab_size=512).token_count
            == load_probe(tiny_json, text=[write_text(tmp_path / "b.txt", "one two")], vocab_size=512).token_count
        )

    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=2), length=st.integers(2, 9))
    def test_windows_hold_the_text_once(self, tiny_json: bytes, tmp_path: Path, text: str, length: int) -> None:
        tokenizer = Tokenizer.from_str(tiny_json.decode())
        ids = tokenizer.encode(text).ids
        probe = load_probe(tiny_json, text=[write_text(tmp_path / "a.txt", text)], length=length, vocab_size=512)
        dropped = int(len(ids) % length == 1)
        assert real_ids(probe, "a") == ids[: len(ids) - dropped]
        assert probe.mask[:-1].all()
        assert probe.shape == (-(-(len(ids) - dropped) // length), length)
        if not dropped:
            assert real_bytes(probe, "a") == len(text.encode())

    def test_a_batch_reads_no_more_than_it_needs(self, tiny_json: bytes, tmp_path: Path) -> None:
        path = write_lines(tmp_path / "a.jsonl", "the tide clerk " * 20)
        with path.open("ab") as file:
            file.write(b"this is not JSON\n")
        assert load_probe(tiny_json, text=[path], batch=(2, 8), vocab_size=512).shape == (2, 8)
        with refused(rf"{re.escape(str(path))} line 2 must .*"):
            load_probe(tiny_json, text=[path], length=8, vocab_size=512)

    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(words=st.lists(st.text("aeto é→7.!\n", min_size=1, max_size=12), min_size=1), times=st.integers(1, 400))
    def test_a_batch_holds_the_first_tokens_of_the_whole_text(
        self, tiny_json: bytes, tmp_path: Path, words: list[str], times: int
    ) -> None:
        path = write_text(tmp_path / "a.txt", " ".join(words * times) + "the end")
        whole = real_ids(load_probe(tiny_json, text=[path], length=8, vocab_size=512), "a")
        few = load_probe(tiny_json, text=[path], batch=(2, 8), vocab_size=512)
        assert real_ids(few, "a") == whole[: few.token_count] and few.token_count == min(16, len(whole))

    def test_the_first_bytes_of_a_large_text_are_enough(
        self, tiny_json: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write_text(tmp_path / "a.txt", "tide clérk " * 5_000)
        whole = load_probe(tiny_json, text=[path], length=8, vocab_size=512)
        with path.open("ab") as file:
            file.write(b"\xff")  # nobody reads as far
        monkeypatch.setattr(builder, "_SLACK", 0)
        few = load_probe(tiny_json, text=[path], batch=(5, 8), vocab_size=512)
        assert np.array_equal(few.token_ids, whole.token_ids[:5])

    @pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz"])
    def test_a_byte_order_mark_is_not_text(self, tiny_json: bytes, tmp_path: Path, name: str) -> None:
        path = tmp_path / name
        content = "the tide" if name == "a.txt" else '{"text": "the tide"}\n{"text": "a \ufeff b"}\n'
        marked = b"\xef\xbb\xbf" + content.encode()
        path.write_bytes(gzip.compress(marked) if name.endswith("gz") else marked)
        tokenizer = Tokenizer.from_str(tiny_json.decode())
        texts = "the tide" if name == "a.txt" else "the tide<|endoftext|>a \ufeff b"
        ids = real_ids(load_probe(tiny_json, text=[path], vocab_size=512), "a")
        assert tokenizer.decode(ids, skip_special_tokens=False) == texts

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            (b" ", r"line 2 must be at most 1 MiB long; split its text"),
            (b'{"text": ""}\n', r"line \d+: more than 1 MiB of lines have no text; remove them"),
        ],
    )
    def test_of_a_bomb_only_its_beginning_is_read(
        self, tiny_json: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes, message: str
    ) -> None:
        monkeypatch.setattr(documents, "MOST_BYTES", 1 << 20)
        monkeypatch.setattr(documents, "_IDLE_BYTES", 1 << 20)
        path = tmp_path / "bomb.jsonl.gz"
        path.write_bytes(gzip.compress(b'{"text": "the tide clerk kept"}\n' + line * ((2 << 20) // len(line))))
        assert load_probe(tiny_json, text=[path], batch=(1, 4), vocab_size=512).shape == (1, 4)
        with refused(rf"{re.escape(str(path))} {message}"):
            load_probe(tiny_json, text=[path], vocab_size=512)

    def test_a_large_text_needs_a_batch(
        self, tiny_json: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(builder, "MOST_BYTES", 1 << 20)
        path = write_text(tmp_path / "a.txt", "the tide " * 120_000)
        assert load_probe(tiny_json, text=[path], batch=(2, 8), vocab_size=512).shape == (2, 8)
        with refused(
            rf"{re.escape(str(path))} holds more than 1 MiB of text; take a part of it with --batch BxT, such as 64x512"
        ):
            load_probe(tiny_json, text=[path], vocab_size=512)

    def test_fewer_windows_than_asked_for(self, tiny_json: bytes, tmp_path: Path) -> None:
        probe = load_probe(tiny_json, text=[write_text(tmp_path / "a.txt", "zqxjvbkwzq")], batch=(5, 4), vocab_size=512)
        assert probe.shape == (3, 4)


class TestTextFaults:
    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.md", b"x", r"a text file must be named \*.txt, \*.jsonl, \*.jsonl.gz, \*.json.gz \(got {path}\)"),
            (".txt", b"x", r"a text file must be named \*.txt, \*.jsonl, \*.jsonl.gz, \*.json.gz \(got {path}\)"),
            ("a.txt", b"", "{path} must hold at least two tokens in a row; there is nothing to predict otherwise"),
            ("a.txt", b"x", "{path} must hold at least two tokens in a row; there is nothing to predict otherwise"),
            ("a.jsonl", b"\n\n", "{path} must hold at least two tokens in a row; there is nothing to predict otherwise"),
            ("a.txt", b"caf\xc3\xa9 \xe9 bar",
             "{path} is not UTF-8: byte 0xe9 at offset 6; convert it, for example with iconv"),
            ("a.jsonl", b'{"text": "ok then"}\n{"text": "\xff"}\n',
             "{path} is not UTF-8: byte 0xff at offset 30; convert it, for example with iconv"),
            ("a.jsonl", b'{"text": "fine"}\n{"txt": "x"}\n',
             r"{path} line 2 must be a JSON object whose field 'text' is text \(got other contents\)"),
            ("a.jsonl", b'{"text": 5}', r"{path} line 1 must be a JSON object whose field 'text' is text \(got other contents\)"),
            ("a.jsonl", b'["text"]', r"{path} line 1 must be a JSON object whose field 'text' is text \(got other contents\)"),
            ("a.jsonl", b"\n\n{]", r"{path} line 3 must be a JSON object whose field 'text' is text \(got invalid JSON, "
             r"Expecting property name enclosed in double quotes at column 2\)"),
            ("a.jsonl", b'{"text": "a\\ud800"}',
             r"{path} line 1 must be a JSON object whose field 'text' is text \(got half of a surrogate pair, "
             r"at character 1\)"),
            ("a.jsonl.gz", b"not gzip", r"cannot read the text file {path}: Not a gzipped file \(b'no'\)"),
            ("a.json.gz", gzip.compress(mtime=0, data=b'{"text": "long enough"}')[:-9],
             "cannot read the text file {path}: Compressed file ended before the end-of-stream marker was reached"),
        ],
    )  # fmt: skip
    def test_the_error_names_the_fault(
        self, tiny_json: bytes, tmp_path: Path, name: str, content: bytes, message: str
    ) -> None:
        path = tmp_path / name
        path.write_bytes(content)
        with refused(message.replace("{path}", re.escape(str(path)))):
            load_probe(tiny_json, text=[path], vocab_size=512)

    def test_a_missing_file_and_a_folder(self, tiny_json: bytes, tmp_path: Path) -> None:
        with refused(rf"cannot read the text file {re.escape(str(tmp_path))}/no.txt: No such file or directory"):
            load_probe(tiny_json, text=[tmp_path / "no.txt"], vocab_size=512)
        (tmp_path / "a.jsonl").mkdir()
        with refused(rf"cannot read the text file {re.escape(str(tmp_path))}/a.jsonl: Is a directory"):
            load_probe(tiny_json, text=[tmp_path / "a.jsonl"], vocab_size=512)

    def test_two_files_of_one_stem(self, tiny_json: bytes, tmp_path: Path) -> None:
        one, two = write_text(tmp_path / "a.txt", "x y"), write_lines(tmp_path / "a.jsonl", "x y")
        paths = rf"{re.escape(str(one))} and {re.escape(str(two))}"
        with refused(rf"text files must differ in their names \(got {paths} for the domain 'a'\); rename one"):
            load_probe(tiny_json, text=[one, two], vocab_size=512)

    def test_a_tokenizer_larger_than_the_model(self, tiny_json: bytes, tmp_path: Path) -> None:
        path = write_text(tmp_path / "a.txt", "zz the tide")
        ids = Tokenizer.from_str(tiny_json.decode()).encode("zz the tide").ids
        vocab_size = max(ids)
        message = (
            rf"{re.escape(str(path))}, row 0, position {ids.index(vocab_size)}: token id {vocab_size} is outside the "
            rf"model's vocabulary of {vocab_size} ids; use the tokenizer, or token file, that belongs to the model"
        )
        with refused(message):
            load_probe(tiny_json, text=[path], vocab_size=vocab_size, length=2)

    def test_text_without_a_tokenizer(self) -> None:
        with refused(
            "text needs a tokenizer.json; the source has none; give one with --tokenizer, or token ids with --tokens"
        ):
            load_probe(None, vocab_size=512)

    @given(st.binary(max_size=40))
    def test_bytes_that_are_no_tokenizer(self, raw: bytes) -> None:
        with refused(r"tokenizer.json must be readable by the tokenizers library \(got the error: .+\)"):
            load_probe(raw, vocab_size=512)

    def test_a_truncated_tokenizer(self, tiny_json: bytes) -> None:
        with refused(
            r"tokenizer.json must be readable by the tokenizers library \(got the error: EOF while parsing .+\)"
        ):
            load_probe(tiny_json[:-30], vocab_size=512)


class TestTokenFiles:
    def save(self, path: Path, array: np.ndarray) -> Path:
        np.save(path, array)
        return path

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int64, np.dtype(">i4")])
    def test_one_row(self, tmp_path: Path, dtype: Any) -> None:
        path = self.save(tmp_path / "train.npy", np.arange(11, dtype=dtype))
        probe = load_probe(None, tokens=path, length=5, vocab_size=100352)
        assert probe.domains == ("train",)
        assert probe.token_ids.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
        assert (probe.tokenizer_size, probe.tokenizer_sha256) == (100352, "")
        assert (probe.token_bytes == -1).all()

    def test_rows_are_the_windows(self, tmp_path: Path) -> None:
        rows = np.arange(12, dtype=np.uint16).reshape(3, 4, order="F")
        probe = load_probe(None, tokens=self.save(tmp_path / "a.npy", rows), vocab_size=12)
        assert np.array_equal(probe.token_ids, rows)

    def test_rows_are_cut_but_never_joined(self, tmp_path: Path) -> None:
        path = self.save(tmp_path / "a.npy", np.arange(14).reshape(2, 7))
        probe = load_probe(None, tokens=path, batch=(9, 4), vocab_size=14)
        assert probe.token_ids.tolist() == [[0, 1, 2, 3], [4, 5, 6, 0], [7, 8, 9, 10], [11, 12, 13, 0]]
        assert probe.mask.sum(axis=1).tolist() == [4, 3, 4, 3]
        assert load_probe(None, tokens=path, batch=(3, 4), vocab_size=12).shape == (3, 4)

    def test_byte_counts_come_from_the_tokenizer(self, tiny_json: bytes, tmp_path: Path) -> None:
        tokenizer = Tokenizer.from_str(tiny_json.decode())
        ids = [*tokenizer.encode("the tide").ids, END, *tokenizer.encode("→ Élise").ids]
        path = self.save(tmp_path / "a.npy", np.array(ids))
        probe = load_probe(tiny_json, tokens=path, vocab_size=512)
        assert real_bytes(probe, "a") == len("the tide→ Élise".encode())

    def test_ids_outside_the_tokenizer_leave_every_count_unknown(self, tiny_json: bytes, tmp_path: Path) -> None:
        path = self.save(tmp_path / "a.npy", np.array([5, 6, 300]))
        assert (load_probe(tiny_json, tokens=path, vocab_size=512).token_bytes == -1).all()

    @pytest.mark.parametrize(("bad", "place"), [(512, 3), (-1, 7), (2**63 + 5, 0)])
    def test_ids_outside_the_vocabulary(self, tmp_path: Path, bad: int, place: int) -> None:
        ids = np.arange(10, dtype=np.uint64 if bad > 2**63 else np.int64)
        ids[place] = bad
        path = self.save(tmp_path / "a.npy", ids)
        message = (
            rf"{re.escape(str(path))}, row 0, position {place}: token id {bad} is outside the model's vocabulary of "
            "512 ids; use the tokenizer, or token file, that belongs to the model"
        )
        with refused(message):
            load_probe(None, tokens=path, length=4, vocab_size=512)

    @pytest.mark.parametrize(
        ("array", "found"),
        [
            (np.zeros(4), r"float64 of shape \(4,\)"),
            (np.zeros(4, dtype=np.bool_), r"bool of shape \(4,\)"),
            (np.zeros((2, 2, 2), dtype=np.int64), r"int64 of shape \(2, 2, 2\)"),
            (np.int64(3), r"int64 of shape \(\)"),
            (np.zeros((2, 0), dtype=np.uint16), r"uint16 of shape \(2, 0\)"),
        ],
    )
    def test_arrays_that_are_no_token_ids(self, tmp_path: Path, array: np.ndarray, found: str) -> None:
        path = self.save(tmp_path / "a.npy", array)
        expected = r"tokens must be a .npy file of token ids, integers in one row or in \[rows, positions\]"
        with refused(rf"{expected}; {re.escape(str(path))} holds {found}"):
            load_probe(None, tokens=path, vocab_size=512)

    def test_too_short(self, tmp_path: Path) -> None:
        path = self.save(tmp_path / "a.npy", np.zeros((5, 1), dtype=np.int64))
        with refused(
            rf"{re.escape(str(path))} must hold at least two tokens in a row; there is nothing to predict otherwise"
        ):
            load_probe(None, tokens=path, vocab_size=512)

    @pytest.mark.parametrize(("vocab_size", "dtype"), [(1 << 16, "uint16"), ((1 << 16) + 1, "uint32")])
    def test_a_file_without_a_header_holds_ids_as_the_trainers_store_them(
        self, tmp_path: Path, vocab_size: int, dtype: str
    ) -> None:
        ids = np.arange(200, 300, dtype=dtype)
        (tmp_path / "a.npy").write_bytes(ids.tobytes())
        probe = load_probe(None, tokens=str(tmp_path / "a.npy"), batch=(3, 8), vocab_size=vocab_size)
        assert probe.domains == ("a",) and probe.token_ids.tolist() == ids[:24].reshape(3, 8).tolist()
        stated = load_probe(None, tokens=[tmp_path / "a.npy"], tokens_dtype=dtype, length=50, vocab_size=300)
        assert stated.token_ids.ravel().tolist() == ids.tolist()

    def test_a_file_of_the_trainers(self) -> None:
        path = SHARED / "data" / "native" / "tokens" / "train.npy"
        if not path.is_file():
            pytest.skip(f"no token file at {path}")
        probe = load_probe(None, tokens=path, batch=(2, 64), vocab_size=512)
        assert probe.token_ids.ravel().tolist() == np.fromfile(path, np.uint16, 128).tolist()

    def test_several_files_are_a_domain_each(self, tmp_path: Path) -> None:
        for folder in ("wiki", "code"):
            (tmp_path / folder).mkdir()
        one = self.save(tmp_path / "wiki" / "part-0.npy", np.arange(8))
        two = tmp_path / "code" / "part-0.npy"
        two.write_bytes(np.arange(100, 108, dtype=np.uint16).tobytes())
        probe = load_probe(None, tokens=[one, two], batch=(3, 4), vocab_size=512)
        assert probe.spans == {"wiki/part-0": (0, 2), "code/part-0": (2, 3)}
        assert probe.token_ids[:, 0].tolist() == [0, 4, 100]
        with refused(rf"each token file must be given once \(got {re.escape(str(two))} twice\)"):
            load_probe(None, tokens=[one, two, two], vocab_size=512)

    def test_a_file_on_the_web_is_read_as_far_as_the_batch_needs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        spans: list[tuple[int, int]] = []

        class Web:
            name, dtype, size = "https://host/part-0.npy", np.dtype("uint32"), 1 << 40

            def read(self, asked: list[tuple[int, int]]) -> list[np.ndarray]:
                spans.extend(asked)
                return [np.arange(*span, dtype=np.uint32) for span in asked]

        monkeypatch.setattr(token_files, "open_tokens", lambda name, dtype: Web())
        probe = load_probe(None, tokens=Web.name, batch=(2, 8), vocab_size=100352)
        assert (probe.domains, spans) == (("part-0",), [(0, 16)])
        with refused(
            r"https://host/part-0.npy holds .* tokens; take a part of them with --batch BxT, such as 64x512 .*"
        ):
            load_probe(None, tokens=Web.name, vocab_size=100352)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.npy", b"", "{path} is empty; give a file of token ids"),
            ("a.npy", b"abc", "{path} has 3 bytes, not a multiple of the 2 of uint16: give the dtype that it was written in"),
            ("a.npy", np.arange(64, dtype=np.uint32).tobytes(),
             "{path}: every other id is 0 or 1, as in a file of uint32 read as uint16: give --tokens-dtype uint32"),
            ("a.npy", np.array([5, 600], np.uint16).tobytes(), "{path}, row 0, position 1: token id 600 is outside the model's "
             "vocabulary of 512 ids; use the tokenizer, or token file, that belongs to the model"),
            ("a.jsonl.gz", b"x", "{path} is a text file; give it with --text, or give token ids"),
        ],
    )  # fmt: skip
    def test_bytes_that_are_no_ids(self, tmp_path: Path, name: str, content: bytes, message: str) -> None:
        path = tmp_path / name
        path.write_bytes(content)
        with refused(message.replace("{path}", re.escape(str(path)))):
            load_probe(None, tokens=path, vocab_size=512)

    def test_a_large_file_needs_a_batch(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(token_files, "MOST_TOKENS", 10)
        for path in (self.save(tmp_path / "a.npy", np.arange(11)), tmp_path / "b.npy"):
            path.write_bytes(path.read_bytes() if path.exists() else np.arange(11, dtype=np.uint16).tobytes())
            assert load_probe(None, tokens=path, batch=(1, 4), vocab_size=512).token_ids.tolist() == [[0, 1, 2, 3]]
            with refused(rf"{re.escape(str(path))} holds 11 tokens; take a part of them with --batch BxT, such as 64x512 "
                         r"\(at most 10 are read without\)"):  # fmt: skip
                load_probe(None, tokens=path, vocab_size=512)

    def test_damaged_files(self, tmp_path: Path) -> None:
        path = self.save(tmp_path / "a.npy", np.arange(1000))
        whole = path.read_bytes()
        for stop in (6, 7, 9, 20, 200, 500):
            path.write_bytes(whole[:stop])
            with refused(rf"tokens must be a .npy file of token ids, .*; {re.escape(str(path))} is damaged: .+"):
                load_probe(None, tokens=path, vocab_size=2000)

    def test_pickles_are_never_opened(self, tmp_path: Path) -> None:
        path = tmp_path / "a.npy"
        np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
        with refused(rf"tokens must be a .npy file of token ids, .*; {re.escape(str(path))} is damaged: .+"):
            load_probe(None, tokens=path, vocab_size=512)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with refused(rf"cannot read the token file {re.escape(str(tmp_path))}/a.npy: No such file or directory"):
            load_probe(None, tokens=tmp_path / "a.npy", vocab_size=512)


class TestOptions:
    def test_both_kinds_of_file(self, tiny_json: bytes, tmp_path: Path) -> None:
        with refused(r"a probe must be made of text files or of token files \(got both\)", OptionError):
            load_probe(tiny_json, text=[tmp_path / "a.txt"], tokens=tmp_path / "a.npy", vocab_size=512)

    @pytest.mark.parametrize("batch", [(0, 8), (-1, 8), (2, 1), (2, 0)])
    def test_windows_too_small_to_predict_anything(self, tiny_json: bytes, batch: tuple[int, int]) -> None:
        message = (
            rf"a probe needs at least 1 window of 2 tokens \(got batch=\({batch[0]}, {batch[1]}\), length={batch[1]}\)"
        )
        with refused(message, OptionError):
            load_probe(tiny_json, batch=batch, vocab_size=512)


class TestTokenizers:
    def test_words_as_tokens_have_no_byte_counts(self, tmp_path: Path) -> None:
        tokenizer = Tokenizer(models.WordLevel({"the": 0, "tide": 1, "?": 2}, unk_token="?"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        path = write_text(tmp_path / "a.txt", "the tide turned")
        probe = load_probe(tokenizer.to_str().encode(), text=[path], vocab_size=3)
        assert probe.token_ids[probe.mask].tolist() == [0, 1, 2]
        assert (probe.token_bytes == -1).all()
        assert probe.tokenizer_size == 3

    def test_truncation_and_padding_of_the_file_are_ignored(self, tiny_json: bytes, tmp_path: Path) -> None:
        tokenizer = Tokenizer.from_str(tiny_json.decode())
        tokenizer.enable_truncation(3)
        tokenizer.enable_padding(length=100)
        path = write_text(tmp_path / "a.txt", "the tide clerk kept the tide ledger")
        limited = load_probe(tokenizer.to_str().encode(), text=[path], vocab_size=512)
        assert limited.sha256 == load_probe(tiny_json, text=[path], vocab_size=512).sha256

    def test_bytes_are_of_the_normalised_text(self, train: Train, tmp_path: Path) -> None:
        tokenizer = train(special=["<|endoftext|>"], normalizer=normalizers.NFC())
        path = write_text(tmp_path / "a.txt", "Élise")
        probe = load_probe(tokenizer.to_str().encode(), text=[path], vocab_size=512)
        assert real_bytes(probe, "a") == len("Élise".encode())

    def test_an_added_token_in_the_text_counts_its_own_bytes(self, tiny_json: bytes, tmp_path: Path) -> None:
        path = write_text(tmp_path / "a.txt", "tide<|pad|>tide<|endoftext|>tide")
        probe = load_probe(tiny_json, text=[path], vocab_size=512)
        assert real_bytes(probe, "a") == len("tide<|pad|>tidetide")
