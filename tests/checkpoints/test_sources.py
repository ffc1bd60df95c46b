"""The contract of every source, for a folder, for memory, and for a hub."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import deserialize

from olmo_dynamics.checkpoints import FolderSource, MemorySource, open_source
from olmo_dynamics.checkpoints.catalog.revision_names import named_revision
from olmo_dynamics.checkpoints.hub import HubSource
from olmo_dynamics.errors import (
    CheckpointError,
    HeaderError,
    IndexFileError,
    UnknownRevisionError,
    UnknownSourceError,
)
from olmo_dynamics.names import Revision, TensorInfo
from tests.checkpoints.conftest import (
    CONFIG,
    RUN,
    SHARDS,
    SINGLE,
    MakeSource,
    noise,
    pack,
    sha256,
    sharded_files,
    single_files,
)

INDEX = "model.safetensors.index.json"


class TestEverySource:
    def test_lists_revisions_in_training_order(self, make_source: MakeSource) -> None:
        found = make_source(RUN).revisions()
        assert [revision.name for revision in found] == ["step3-tokens6144", "step20-tokens40960", "main"]
        assert [(revision.step, revision.tokens) for revision in found] == [(3, 6144), (20, 40960), (None, None)]

    def test_finds_a_revision_by_name(self, make_source: MakeSource) -> None:
        source = make_source(RUN)
        assert source.find("main") == source.revisions()[-1]

    def test_refuses_an_unknown_revision_with_near_names(self, make_source: MakeSource) -> None:
        source = make_source(RUN)
        message = (
            f"{source.name} has no revision 'step20'; `olmo-dyn revisions {source.name}` lists all 3; "
            "did you mean 'step20-tokens40960'?"
        )
        with pytest.raises(UnknownRevisionError) as caught:
            source.find("step20")
        assert str(caught.value) == message
        with pytest.raises(UnknownRevisionError) as caught:
            source.open(Revision("step20"))
        assert str(caught.value) == message

    def test_describes_the_tensors_that_the_library_wrote(self, make_source: MakeSource) -> None:
        source = make_source(RUN)
        with source.open(source.find("step3-tokens6144")) as checkpoint:
            written = dict(deserialize(RUN["step3-tokens6144"]["model.safetensors"]))
            assert list(checkpoint.tensors) == sorted(
                checkpoint.tensors, key=lambda name: checkpoint.tensors[name].start
            )
            assert set(checkpoint.tensors) == set(written)
            for name, tensor in checkpoint.tensors.items():
                assert (tensor.name, tensor.dtype, list(tensor.shape)) == (
                    name,
                    written[name]["dtype"],
                    written[name]["shape"],
                )
                assert checkpoint.read(tensor).tobytes() == bytes(written[name]["data"])

    def test_reads_shards_in_file_order(self, make_source: MakeSource) -> None:
        source = make_source(RUN)
        with source.open(source.find("step20-tokens40960")) as checkpoint:
            files = [tensor.file for tensor in checkpoint.tensors.values()]
            assert files == sorted(files)
            raws = checkpoint.read_many(list(checkpoint.tensors.values()))
        for file, tensors in SHARDS.items():
            for name, (dtype, shape, data) in tensors.items():
                tensor = checkpoint.tensors[name]
                assert (tensor.file, tensor.dtype, tensor.shape) == (file, dtype, shape)
                assert raws[name].tobytes() == data

    def test_sums_up_its_weights(self, make_source: MakeSource) -> None:
        source = make_source(RUN)
        with source.open(source.find("step20-tokens40960")) as checkpoint:
            assert (checkpoint.nbytes, checkpoint.dtype) == (2 * 8 * 4 * 2 + 4 * 4, "BF16+F32")
        with source.open(source.find("main")) as checkpoint:
            assert (checkpoint.nbytes, checkpoint.dtype) == (4 * (8 * 4 + 4 + 1), "F32")

    def test_hands_out_flat_bytes_that_nobody_can_change(self, make_source: MakeSource) -> None:
        source = make_source(RUN)
        with source.open(source.find("main")) as checkpoint:
            raws = checkpoint.read_many(list(checkpoint.tensors.values()))
        for raw in raws.values():
            assert (raw.dtype, raw.ndim, raw.flags.writeable, raw.flags.c_contiguous) == (np.uint8, 1, False, True)

    def test_hashes_the_weights(self, make_source: MakeSource) -> None:
        source = make_source(RUN)
        with source.open(source.find("main")) as checkpoint:
            assert checkpoint.weights_sha256() == sha256(RUN["main"]["model.safetensors"])
        with source.open(source.find("step20-tokens40960")) as checkpoint:
            lines = [f"{sha256(RUN['step20-tokens40960'][name])}  {name}" for name in sorted(SHARDS)]
            assert checkpoint.weights_sha256() == sha256("\n".join(lines).encode())

    def test_hashes_a_small_file(self, make_source: MakeSource) -> None:
        source = make_source(RUN)
        with source.open(source.find("main")) as checkpoint:
            assert checkpoint.file_sha256("config.json") == sha256(RUN["main"]["config.json"])

    def test_lists_and_reads_files(self, make_source: MakeSource) -> None:
        source = make_source(RUN)
        with source.open(source.find("main")) as checkpoint:
            assert checkpoint.files == {name: len(data) for name, data in RUN["main"].items()}
            assert checkpoint.read_file("training_state/position.json") == b"{}"
            assert checkpoint.config == CONFIG
            with pytest.raises(CheckpointError) as caught:
                checkpoint.read_file("tokenizer.json")
        assert str(caught.value) == (
            f"{source.name}@main has no file tokenizer.json; among its 3 files are "
            "config.json, model.safetensors, training_state/position.json"
        )

    def test_counts_the_bytes_it_moved(self, make_source: MakeSource) -> None:
        source = make_source(RUN)
        with source.open(source.find("main")) as checkpoint:
            assert checkpoint.bytes_moved == 0
            checkpoint.read_many(list(checkpoint.tensors.values()))
            header = checkpoint.files["model.safetensors"] - checkpoint.nbytes
            assert checkpoint.bytes_moved >= checkpoint.nbytes + header

    def test_refuses_a_tensor_of_another_checkpoint(self, make_source: MakeSource) -> None:
        source = make_source(RUN)
        with source.open(source.find("main")) as checkpoint:
            size = checkpoint.files["model.safetensors"]
            with pytest.raises(CheckpointError) as caught:
                checkpoint.read(TensorInfo("w", "F32", (2,), "model.safetensors", size, size + 8))
            assert str(caught.value) == (
                f"{source.name}@main: cannot read bytes {size} to {size + 8} of model.safetensors: the file has {size} bytes; "
                "use tensors of this checkpoint"
            )
            with pytest.raises(CheckpointError, match=r"of other\.safetensors: there is no such file"):
                checkpoint.read(TensorInfo("w", "F32", (2,), "other.safetensors", 0, 8))

    def test_reads_a_tensor_without_elements_and_an_empty_file(self, make_source: MakeSource) -> None:
        files = {**single_files({"empty": noise(0, 0, 4), "w": noise(1, 2)}), "notes.txt": b""}
        source = make_source({"main": files})
        with source.open(source.find("main")) as checkpoint:
            assert checkpoint.read(checkpoint.tensors["empty"]).size == 0
            assert checkpoint.read_file("notes.txt") == b""


def broken_index(**changes: object) -> dict[str, bytes]:
    files = sharded_files()
    index = json.loads(files[INDEX])
    homes = index["weight_map"] | changes
    return files | {INDEX: json.dumps({"weight_map": {name: file for name, file in homes.items() if file}}).encode()}


def without(files: dict[str, bytes], *names: str) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name not in names}


SECOND = "model-00002-of-00002.safetensors"
BROKEN: dict[str, tuple[dict[str, bytes], type[CheckpointError], str]] = {
    "missing shard": (
        without(sharded_files(), SECOND),
        IndexFileError,
        f"{INDEX}: tensor 'lm_head.weight' should be in '{SECOND}', which is missing; "
        f"found config.json, model-00001-of-00002.safetensors, {INDEX}",
    ),
    "shard above the repo": (
        broken_index(**{"lm_head.weight": "../secret.safetensors"}),
        IndexFileError,
        f"{INDEX}: tensor 'lm_head.weight' should be in '../secret.safetensors', which lies outside the checkpoint",
    ),
    "absolute shard": (
        broken_index(**{"lm_head.weight": "/etc/passwd"}),
        IndexFileError,
        f"{INDEX}: tensor 'lm_head.weight' should be in '/etc/passwd', which lies outside the checkpoint",
    ),
    "shard that is a number": (
        broken_index(**{"lm_head.weight": 7}),
        IndexFileError,
        f"{INDEX}: tensor 'lm_head.weight' should be in 7, which is not a file name",
    ),
    "tensor that no header holds": (
        broken_index(ghost=SECOND),
        IndexFileError,
        f"{INDEX} places tensor 'ghost' in {SECOND}, whose header does not hold it",
    ),
    "tensor that the index forgets": (
        broken_index(**{"model.embed_tokens.weight": ""}),
        IndexFileError,
        f"model-00001-of-00002.safetensors holds tensor 'model.embed_tokens.weight', which {INDEX} does not place there",
    ),
    "index without a map": (
        sharded_files() | {INDEX: b'{"weight_map": {}}'},
        IndexFileError,
        f"{INDEX}: weight_map must map tensors to files (got {{}})",
    ),
    "index that is a list": (
        sharded_files() | {INDEX: b"[]"},
        IndexFileError,
        f"{INDEX} must be a JSON object (got []); fetch the file again",
    ),
    "two files and no index": (
        without(sharded_files(), INDEX),
        IndexFileError,
        f"found 2 safetensors files (model-00001-of-00002.safetensors, …) and no {INDEX} that tells which tensor is where",
    ),
    "no weights": (
        {"config.json": b"{}"},
        CheckpointError,
        f"there must be model.safetensors or {INDEX}; found config.json",
    ),
    "truncated file": (
        single_files() | {"model.safetensors": pack(SINGLE)[:-5]},
        HeaderError,
        f"model.safetensors: its tensors end at byte {len(pack(SINGLE))}, but the file has {len(pack(SINGLE)) - 5} bytes; "
        "it is cut off, fetch it again",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_every_source_refuses_broken_weights_alike(make_source: MakeSource, case: str) -> None:
    files, kind, message = BROKEN[case]
    source = make_source({"main": files})
    with source.open(source.find("main")) as checkpoint, pytest.raises(CheckpointError) as caught:
        _ = checkpoint.tensors
    assert caught.type is kind
    assert str(caught.value) == f"{source.name}@main: {message}"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (b"[1]", "config.json must be a JSON object (got [1]); fetch the file again"),
        (b"{}x", "config.json must be JSON (got b'{}x': Extra data: line 1 column 3 (char 2)); fetch the file again"),
        (None, "has no file config.json; among its 1 files are model.safetensors"),
    ],
)
def test_every_source_refuses_broken_configs_alike(make_source: MakeSource, config: bytes | None, message: str) -> None:
    files = without(single_files(), "config.json") | ({} if config is None else {"config.json": config})
    source = make_source({"main": files})
    with source.open(source.find("main")) as checkpoint, pytest.raises(CheckpointError) as caught:
        _ = checkpoint.config
    assert str(caught.value) == f"{source.name}@main{' ' if config is None else ': '}{message}"


def test_config_of_absurd_size_is_not_read() -> None:
    source = MemorySource({"main": {"config.json": b" " * ((16 << 20) + 1)}})
    with source.open(source.find("main")) as checkpoint, pytest.raises(CheckpointError) as caught:
        _ = checkpoint.config
    assert str(caught.value) == "memory@main: config.json must have at most 16777216 bytes (got 16777217)"


def test_single_file_wins_over_an_index() -> None:
    source = MemorySource({"main": sharded_files() | single_files()})
    with source.open(source.find("main")) as checkpoint:
        assert set(checkpoint.tensors) == set(SINGLE)


class TestFolder:
    def test_is_one_revision_where_it_is_itself_a_checkpoint(self, tmp_path: Path) -> None:
        folder = tmp_path / "step7-tokens14"
        folder.mkdir()
        for name, data in single_files().items():
            (folder / name).write_bytes(data)
        [revision] = FolderSource(folder).revisions()
        assert (revision.name, revision.step, revision.tokens, revision.commit) == ("step7-tokens14", 7, 14, "")
        assert FolderSource(folder).open(revision).config == CONFIG

    def test_passes_over_other_folders_and_files(self, tmp_path: Path) -> None:
        for name in ("logs", "step1-tokens2B", "odd name", "empty"):
            (tmp_path / name).mkdir()
        (tmp_path / "step1-tokens2B" / "config.json").write_bytes(b"{}")
        (tmp_path / "odd name" / "model.safetensors").write_bytes(pack(SINGLE))
        (tmp_path / "logs" / "log.txt").write_bytes(b"")
        found = FolderSource(tmp_path).revisions()
        assert [(revision.name, revision.tokens) for revision in found] == [
            ("step1-tokens2B", None),
            ("odd name", None),
        ]

    def test_a_run_with_its_final_model_in_the_root_lists_both(self, tmp_path: Path) -> None:
        steps = ("checkpoint-2", "checkpoint-10", "checkpoint-1000")
        for folder in (tmp_path, *(tmp_path / name for name in (*steps, "onnx"))):
            folder.mkdir(exist_ok=True)
            for name, data in single_files().items():
                (folder / name).write_bytes(data)
        (tmp_path / "trainer_state.json").write_bytes(b"{}")
        source = FolderSource(tmp_path)
        assert [(each.name, each.step, each.line) for each in source.revisions()] == [
            ("checkpoint-2", 2, "run"), ("checkpoint-10", 10, "run"), ("checkpoint-1000", 1000, "run"), ("main", None, "run"),
        ]  # fmt: skip
        root = source.open(source.find("main"))
        assert not [name for name in root.files if name.startswith("checkpoint-")]
        assert {"trainer_state.json", *single_files(), *(f"onnx/{name}" for name in single_files())} == {*root.files}
        assert source.open(source.find("checkpoint-10")).files.keys() == single_files().keys()

    @pytest.mark.parametrize(
        ("lineage", "line", "position"),
        [
            ({"parent": {"source": "a/run", "revision": "step50"}}, "run/fork", 60),
            ({"parent": {"source": "a/run", "revision": "stage1-step50-seed-2"}}, "stage1/seed2/fork", 60),
            ({"parent": {"source": "a/run", "revision": "stage2-ingredient3-step50"}}, "stage2/ingredient3/fork", None),
            ({"parent": {"source": "allenai/OLMo-2-0425-1B", "revision": "stage2-ingredient3-step50"}},
             "stage2/ingredient3/fork", 1907359 + 60),
            ({"parent": None}, "run", 60),
            ({}, "run", 60),
            ([], "run", 60),
            ("torn", "run", 60),
        ],
    )  # fmt: skip
    def test_a_fork_is_a_line_of_its_own(
        self, tmp_path: Path, lineage: object, line: str, position: int | None
    ) -> None:
        for name in ("step60-tokens480", "step70-tokens560"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "config.json").write_bytes(b"{}")
            text = "{" if lineage == "torn" else json.dumps(lineage)
            (tmp_path / name / "lineage.json").write_text(text, encoding="utf-8")
        first, second = FolderSource(tmp_path).revisions()
        assert (first.line, first.position_step) == (line, position)
        assert (second.line, second.tokens) == (line, 560)

    def test_says_what_must_be_there_if_there_is_no_checkpoint(self, tmp_path: Path) -> None:
        with pytest.raises(UnknownSourceError) as caught:
            FolderSource(tmp_path).revisions()
        assert str(caught.value) == (
            f"{tmp_path} holds no checkpoint: config.json and weights must be in it, or in sub-folders such as "
            "step1000-tokens2097152"
        )
        with pytest.raises(UnknownSourceError) as caught:
            FolderSource(tmp_path / "gone").revisions()
        assert str(caught.value) == f"{tmp_path / 'gone'} is not a folder; check the path"

    def test_arrays_view_the_file_and_outlive_the_checkpoint(self, tmp_path: Path) -> None:
        (tmp_path / "main").mkdir()
        (tmp_path / "main" / "model.safetensors").write_bytes(pack(SINGLE))
        source = FolderSource(tmp_path)
        with source.open(source.find("main")) as checkpoint:
            tensor = checkpoint.tensors["model.norm.weight"]
            first, again = checkpoint.read(tensor), checkpoint.read(tensor)
        assert first.ctypes.data == again.ctypes.data
        assert first.tobytes() == SINGLE["model.norm.weight"][2]

    def test_refuses_a_file_that_changed_under_it(self, tmp_path: Path) -> None:
        (tmp_path / "main").mkdir()
        path = tmp_path / "main" / "config.json"
        path.write_bytes(b"{}")
        source = FolderSource(tmp_path)
        with source.open(source.find("main")) as checkpoint:
            path.write_bytes(b"{}  ")
            with pytest.raises(CheckpointError) as caught:
                _ = checkpoint.config
        assert str(caught.value) == (
            f"{tmp_path}@main: config.json had 2 bytes when it was opened, and now has 4; "
            "wait until it is written, and open it again"
        )


class TestOpenSource:
    def test_prefers_a_folder_that_exists(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "org" / "name").mkdir(parents=True)
        monkeypatch.chdir(tmp_path)
        assert open_source("org/name").kind == "folder"
        assert open_source(tmp_path).kind == "folder"

    def test_takes_other_names_for_repos(self) -> None:
        source = open_source("allenai/OLMo-2-0425-1B")
        assert isinstance(source, HubSource)
        assert source.name == "allenai/OLMo-2-0425-1B"

    @pytest.mark.parametrize(
        "name", ["gpt2", "a/b/c", "/no/such/folder", "./x", "org/na--me", "org/..", "", "org/na me"]
    )
    def test_refuses_what_is_neither(self, name: str) -> None:
        with pytest.raises(UnknownSourceError) as caught:
            open_source(name)
        assert str(caught.value) == (
            f"a source must be a folder of checkpoints or a hub repo such as allenai/OLMo-2-0425-1B (got {name!r}); "
            "check the spelling and the working directory"
        )

    def test_a_name_in_a_folder_that_exists_is_a_path_and_no_hub_is_asked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "runs" / "olmo-tiny").mkdir(parents=True)
        (tmp_path / "allenai").mkdir()
        with pytest.raises(UnknownSourceError) as caught:
            open_source("runs/olmo-tnyi")
        assert str(caught.value) == (
            "a source must be a folder of checkpoints or a hub repo such as allenai/OLMo-2-0425-1B (got 'runs/olmo-tnyi'); "
            "check the spelling and the working directory; if it is a hub repo, write hf://runs/olmo-tnyi; did you mean "
            "'olmo-tiny'?"
        )
        assert open_source("hf://runs/olmo-tnyi").name == "runs/olmo-tnyi"
        assert open_source("allenai/OLMo-2-0425-1B").kind == "hub"


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("step5-tokens1000", 1000),
        ("step5-tokens1B", None),
        ("step5", None),
        ("main", None),
        ("step1-tokens" + "9" * 30, None),
    ],
)
def test_only_a_label_without_unit_is_a_count(name: str, tokens: int | None) -> None:
    assert named_revision(name).tokens == tokens


def test_memory_and_folders_need_no_hub_library() -> None:
    code = (
        "import sys, olmo_dynamics.checkpoints as c; c.MemorySource({}).revisions(); "
        "print([name for name in ('torch', 'huggingface_hub', 'httpx2', 'polars', 'zarr') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
