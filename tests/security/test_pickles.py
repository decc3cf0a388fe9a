"""Nothing is unpickled and no code of a checkpoint is run: pickles and modules that leave a mark lie in every place."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.data.extensions import ArrowPythonObjectType

from actors import checkpoint
from actors.replica import Replica
from pipeline.config import InputConfig, ModelConfig
from pipeline.errors import ConfigError
from pipeline.index import scan
from pipeline.types import Asset, Code, ShardFormat
from tests import checkpoints
from tests.pipeline.conftest import look, picture, shard
from tests.security.conftest import Marks

CONFIG = InputConfig(dataset="test", uris=("unused",), key_column="id")
TYPES = ("pickled_object", "tensor", "tensor_v2", "variable_shaped_tensor")  # that Ray registers with pyarrow
CODE = "import os\nos.mkdir({mark!r})\nclass Code:\n    pass\n"
CLASSES = ("Config", "Tokenizer", "Processor", "ImageProcessor", "VideoProcessor", "Model")


def field(name: str, storage: pa.DataType, extension: str, metadata: bytes) -> pa.Field:
    """A column of an extension type, as a file says it."""
    told = {b"ARROW:extension:name": f"ray.data.arrow_{extension}".encode()}
    return pa.field(name, storage, metadata={**told, b"ARROW:extension:metadata": metadata})


def parquet(extension: str, place: str, data: bytes) -> bytes:
    """A table whose column `place` is of the extension type: pickles in its cells, and what the type says a pickle."""
    columns = {
        "id": pa.array(["one"]),
        "image": pa.array([picture()], pa.binary()),
        "field": pa.array(["text"]),
    }
    columns[place] = pa.array([data], pa.large_binary())
    fields = [pa.field(name, column.type) for name, column in columns.items() if name != place]
    hostile = [field(place, pa.large_binary(), extension, b"" if extension == TYPES[0] else data)]
    schema = pa.schema([*fields, *hostile], metadata={b"pandas": data, b"PANDAS_ATTRS": data})
    sink = io.BytesIO()
    pq.write_table(pa.table({f.name: columns[f.name] for f in schema}).cast(schema), sink)
    return sink.getvalue()


@pytest.fixture
def data(mark: Path) -> bytes:
    """The pickle."""
    return pickle.dumps(Marks(mark))


def test_what_is_planted_runs_where_it_is_read_as_ray_would(mark: Path, data: bytes) -> None:
    """Else the next test could not fail."""
    evil = pa.ExtensionArray.from_storage(ArrowPythonObjectType(), pa.array([data], pa.large_binary()))
    sink = io.BytesIO()
    pq.write_table(pa.table({"evil": evil}), sink)

    pq.read_table(sink).to_pylist()

    assert mark.exists()


@pytest.mark.parametrize("place", ["image", "id", "field"])
@pytest.mark.parametrize("extension", TYPES)
def test_no_column_is_unpickled(tmp_path: Path, mark: Path, data: bytes, extension: str, place: str) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet(extension, place, data))

    rows = list(scan(shard(tmp_path / "a.parquet", ShardFormat.PARQUET), CONFIG, look))

    assert not mark.exists()
    assert [_outcome(row) for row in rows] in ([("", Code.SHARD_UNREADABLE)], [("one", None)])
    assert all("field" not in row.text for row in rows)


def _outcome(row: Asset) -> tuple[str, Code | None]:
    return row.key, row.facts.code if hasattr(row.facts, "code") else None


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint."""
    return checkpoints.write(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def hostile(good: Path, tmp_path: Path, mark: Path, data: bytes) -> Path:
    """The same with pickles of every known name, and with code that its configuration asks to be run."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    for file in good.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth",
                 "tf_model.h5", "flax_model.msgpack", "spiece.model", "adapter_model.bin"):  # fmt: skip
        (folder / name).write_bytes(data)
    for module in (
        "code",
        "configuration_code",
        "modeling_code",
        "tokenization_code",
        "processing_code",
        "__init__",
    ):
        (folder / f"{module}.py").write_text(CODE.format(mark=str(mark)))
    named = {f"Auto{name}": "code.Code" for name in CLASSES} | {"AutoModelForImageTextToText": "code.Code"}
    for said in (
        "config.json",
        "processor_config.json",
        "preprocessor_config.json",
        "generation_config.json",
    ):
        _edit(folder / said, {"auto_map": named, "custom_generate": "code"})
    _edit(folder / "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["code.Code", "code.Code"]}})
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(CODE.format(mark=str(mark)))
    return folder


def _edit(file: Path, entries: dict[str, object]) -> None:
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(content | entries))


def test_a_checkpoint_s_pickles_and_code_are_left_alone(hostile: Path, mark: Path) -> None:
    model = ModelConfig(path=str(hostile), dtype="float32", threads=1)

    checkpoint.describe(checkpoint.fetch(checkpoint.pin(model)), model)
    Replica(model, str(hostile), checkpoint.geometry(hostile), 8)

    assert not mark.exists()


@pytest.mark.parametrize(
    "asked",
    [
        {"_attn_implementation_internal": "attacker/code"},
        {"attn_implementation": {"text_config": "attacker/code:run"}},
        {"text_config": {"_attn_implementation": "paged|attacker/code"}},
    ],
)
def test_attention_code_of_the_hub_is_refused_by_name(good: Path, asked: dict[str, object]) -> None:
    """CVE-2026-4372: transformers looks for it whatever trust_remote_code says."""
    content = json.loads((good / "config.json").read_text())
    _edit(good / "config.json", asked)

    with pytest.raises(ConfigError, match=r"asks for code from the hub as attention.*attacker/code"):
        checkpoint.pin(ModelConfig(path=str(good)))
    (good / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "pytorch_model.pt", "consolidated.00.pth"])
def test_weights_that_are_pickles_are_refused(hostile: Path, mark: Path, data: bytes, weights: str) -> None:
    (hostile / "model.safetensors").unlink()
    (hostile / weights).write_bytes(data)

    with pytest.raises(ConfigError, match=r"model\.safetensors is missing; .* other formats are not loaded"):
        checkpoint.pin(ModelConfig(path=str(hostile)))

    assert not mark.exists()


@pytest.mark.parametrize("named", ["pytorch_model.bin", "../outside.safetensors", "/etc/passwd"])
def test_an_index_cannot_name_other_files(hostile: Path, mark: Path, named: str) -> None:
    """Neither pickles nor files outside of the checkpoint."""
    (hostile.parent / "outside.safetensors").write_bytes((hostile / "model.safetensors").read_bytes())
    (hostile / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": named}}))

    with pytest.raises(ConfigError, match="is no safetensors file of the checkpoint"):
        checkpoint.pin(ModelConfig(path=str(hostile)))

    assert not mark.exists()
