"""jobs.preflight: what can be found wrong before work begins."""

from __future__ import annotations

import io
import json
import os
import socket
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import s3fs

from jobs.preflight import check
from pipeline import storage
from pipeline.config import read
from pipeline.errors import ConfigError
from tests import made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one shard and a checkpoint."""
    write_tar(tmp_path / "shards" / "a.tar")
    made.checkpoint(tmp_path / "checkpoint")
    return tmp_path


def write_tar(path: Path) -> None:
    """A shard of one asset, whose bytes nobody looks at here."""
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"), io.BytesIO())


def job(
    folder: Path,
    *,
    uris: tuple[str, ...] = (),
    output: str = "",
    model: str = "",
    prompt: str = "What is it?",
    more: str = "",
) -> str:
    """A job file; by default a good one."""
    return f"""
[input]
dataset = "birds"
uris = {json.dumps(uris or (f"{folder}/shards/*.tar",))}
[model]
path = {json.dumps(model or f"{folder}/checkpoint")}
[[prompt]]
id = "short"
text = {json.dumps(prompt)}
[output]
uri = {json.dumps(output or f"{folder}/out")}
{more}
"""


def problems(text: str) -> tuple[str, ...]:
    """What is wrong with a job."""
    with pytest.raises(ConfigError) as raised:
        check(read(text))
    return raised.value.problems


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Lets the AWS environment lead to a port of this machine."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "test")
    s3fs.S3FileSystem.clear_instance_cache()  # instances outlive the environment that they were made in
    yield lambda port: monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_good_job_is_ready_with_its_shards_and_geometry(folder: Path) -> None:
    ready = check(read(job(folder)))

    assert [(s.path, s.bytes) for s in ready.shards] == [("a.tar", os.path.getsize(folder / "shards/a.tar"))]
    assert ready.geometry.tile == made.TILE
    assert ready.job.input.dataset == "birds"


def test_the_check_leaves_nothing_in_the_output(folder: Path) -> None:
    check(read(job(folder)))

    assert storage.listing(str(folder / "out")) == []


def test_the_same_job_is_the_same_run_wherever_its_output_goes(folder: Path) -> None:
    one, other = (check(read(job(folder, output=f"{folder}/{name}"))) for name in ("one", "other"))

    assert one.run_id == other.run_id


def test_another_prompt_is_another_run(folder: Path) -> None:
    one, other = (check(read(job(folder, prompt=prompt))) for prompt in ("What?", "Where?"))

    assert one.run_id != other.run_id


def test_the_recipe_names_the_software_that_decides_captions(folder: Path) -> None:
    software = check(read(job(folder))).recipe.software

    assert {"captionmill", "torch", "transformers", "tokenizers", "pillow", "av"} <= set(software)


def test_everything_that_is_wrong_is_said_at_once(folder: Path) -> None:
    (folder / "file").write_text("x")
    wrong = job(
        folder,
        uris=(f"{folder}/nothing/*.tar", f"{folder}/file"),
        output=f"{folder}/file/out",
        model=f"{folder}/nowhere",
        prompt="<image> What?",
        more='[generation]\nmax_tokens = 5\nbatch_size = "8"',
    )

    found = "\n".join(problems(wrong))

    for part in (
        "[generation] max_tokens; did you mean max_new_tokens?",
        "[generation] batch_size must be a whole number",
        f"{folder}/nothing/*.tar",
        f"{folder}/file: is neither .tar nor .parquet",
        f"cannot write to {folder}/file/out",
        f"{folder}/nowhere",
        "<image>",
    ):
        assert part in found


def test_problems_come_in_the_same_order_every_time(folder: Path) -> None:
    wrong = job(folder, uris=("/nowhere/*.tar",), output="/dev/null/out", model="./nowhere", more="[oops]")

    assert len({problems(wrong) for _ in range(5)}) == 1


def test_what_stands_in_other_sections_is_checked_although_one_is_missing(folder: Path) -> None:
    found = problems(job(folder, output="/dev/null/out").replace("[model]", "[modell]"))

    assert [p.split(";")[0] for p in found[:2]] == ["unknown section [modell]", "section [model] is missing"]
    assert found[2].startswith("cannot write to /dev/null/out")


def test_a_folder_without_a_checkpoint_is_a_problem(folder: Path) -> None:
    (found,) = {p.partition(":")[0] for p in problems(job(folder, model=str(folder / "shards")))}

    assert found == f"[model] path {folder}/shards"


def test_a_checkpoint_of_another_kind_is_a_problem(folder: Path) -> None:
    (folder / "checkpoint/config.json").write_text('{"model_type": "qwen2"}')

    assert "llava_onevision" in problems(job(folder))[0]


def test_flash_attention_without_its_package_is_a_problem(folder: Path) -> None:
    attention = job(folder).replace("[[prompt]]", 'attention = "flash_attention_2"\n[[prompt]]')

    assert "flash-attn" in problems(attention)[0]


def test_what_the_machine_lacks_is_said_beside_what_the_checkpoint_lacks(folder: Path) -> None:
    (folder / "checkpoint/tokenizer.json").unlink()
    wrong = job(folder, more="[cluster]\ngpus_per_replica = 0")

    found = problems(wrong.replace("[[prompt]]", 'attention = "flash_attention_2"\n[[prompt]]'))

    lacking = ("flash-attn", "a GPU", "tokenizer.json is missing")
    assert all(part in p for part, p in zip(lacking, found, strict=True))


def test_the_recipe_of_quantized_weights_names_their_software(folder: Path) -> None:
    quantized = job(folder).replace("[[prompt]]", 'quantization = "int8"\n[[prompt]]')

    assert "bitsandbytes" in check(read(quantized)).recipe.software


def test_an_address_of_an_unknown_kind_is_a_problem(folder: Path) -> None:
    found = problems(job(folder, uris=("nosuch://bucket/*.tar",), output="nosuch://bucket/out"))

    assert len(found) == 2
    assert all("nosuch" in p for p in found)


def test_a_bucket_that_does_not_exist_is_named_for_input_and_output(folder: Path, s3: str) -> None:
    found = problems(job(folder, uris=("s3://no-such-bucket/*.tar",), output="s3://no-other-bucket/out"))

    assert len(found) == 2
    assert "s3://no-such-bucket" in found[0]
    assert "s3://no-other-bucket/out" in found[1]


def test_a_job_on_an_object_store_is_ready(folder: Path, s3: str) -> None:
    storage.put(f"{s3}/in/a.tar", (folder / "shards/a.tar").read_bytes())

    ready = check(read(job(folder, uris=(f"{s3}/in/*.tar",), output=f"{s3}/out")))

    assert [s.uri for s in ready.shards] == [f"{s3}/in/a.tar"]
    assert storage.listing(f"{s3}/out") == []


@pytest.mark.timeout(60)
def test_a_store_that_does_not_answer_costs_seconds_and_hides_nothing(
    folder: Path, endpoint: Callable[[int], None]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections, and that is all
        endpoint(server.getsockname()[1])
        begun = time.monotonic()

        found = problems(job(folder, uris=("s3://bucket/*.tar", "/nowhere/*.tar"), output="s3://bucket/out"))

    assert time.monotonic() - begun < 20  # the ordinary client tries for minutes
    assert [p for p in found if "s3://bucket" not in p and "/nowhere" not in p] == []
    assert len(found) == 3


def test_a_store_that_refuses_costs_seconds(folder: Path, endpoint: Callable[[int], None]) -> None:
    endpoint(9)
    begun = time.monotonic()

    (found,) = problems(job(folder, uris=("s3://bucket/a.tar",)))

    assert time.monotonic() - begun < 20  # the ordinary client tries for minutes
    assert "s3://bucket" in found


def test_a_model_that_no_such_gpu_holds_is_refused_with_the_arithmetic(folder: Path) -> None:
    """The double's checkpoint names no text tower: it is the architecture's default."""
    (problem,) = problems(job(folder, more="[cluster]\ngpu_memory_gib = 16"))

    assert " needs 22.7 GiB of weights (12.16 B parameters in bfloat16) + " in problem
    assert "a replica has 16.0 GiB" in problem
    assert 'quantization = "int4"' in problem


def test_a_model_that_the_gpus_hold_together_is_ready(folder: Path) -> None:
    text = job(folder, more="[cluster]\ngpu_memory_gib = 16\ngpus_per_replica = 2")

    assert check(read(text)).footprint.parameters > 12_000_000_000


def test_a_share_of_a_gpu_is_a_share_of_its_memory(folder: Path) -> None:
    (problem,) = problems(job(folder, more="[cluster]\ngpu_memory_gib = 80\ngpus_per_replica = 0.25"))

    assert "a replica has 20.0 GiB" in problem


def test_a_cap_of_crops_is_in_geometry_and_recipe(folder: Path) -> None:
    ready, whole = check(read(job(folder, more="[image]\nmax_crops = 5"))), check(read(job(folder)))

    assert ready.geometry == whole.geometry.capped(5) != whole.geometry
    assert ready.recipe.recipe_id != whole.recipe.recipe_id
    assert json.loads(ready.recipe.to_json())["image"]["max_crops"] == 5


def test_a_cap_that_leaves_no_grid_is_a_problem_beside_the_memory(folder: Path) -> None:
    cap, memory = problems(job(folder, more="[image]\nmax_crops = 1\n[cluster]\ngpu_memory_gib = 16"))

    assert cap == "[image] max_crops must be 0 or at least 2 here, not 1"
    assert "a replica has 16.0 GiB" in memory
