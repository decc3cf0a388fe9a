"""Out of memory in vision, prefill and decode: the real replica and captioner, where the allocator really refuses."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.captioner import Captioner, OutOfMemory
from actors.checkpoint import geometry
from actors.replica import Replica
from pipeline.config import GenerationConfig, ModelConfig, PromptConfig
from pipeline.types import (
    Answer,
    Asset,
    Caption,
    Code,
    Cost,
    Media,
    Prepared,
    Problem,
    Shard,
    ShardFormat,
    Stage,
    Turn,
    Unit,
)
from tests import made
from tests.checkpoints import Asked, captions_of, clip, picture, write

TURNS = (Turn("user", "Describe the image in detail."),)
PROMPTS = (PromptConfig("one", TURNS), PromptConfig("two", (Turn("user", "What is shown here?"),)))
SETTINGS = GenerationConfig(max_new_tokens=8)
CULPRIT = 2  # the position of a clip of 24 frames among small pictures
UNIT = [Asked(Media.IMAGE, (picture(i, 60 + i, 70),), TURNS) for i in range(7)]
UNIT[CULPRIT] = Asked(Media.VIDEO, clip(1, 24), TURNS)
NEXT = [Asked(Media.IMAGE, (picture(i, 60 + i, 70),), TURNS) for i in range(10, 14)]
ROOT = Path(__file__).parents[2]
# In a process that may take so much more than it has: a caption each of a small picture, of a clip whose attention
# scores alone are 30 MB, and of the picture again, which is the same caption as at first.
LIMITED = """
import resource, sys
from pathlib import Path
from tests.actors.test_out_of_memory import NEXT, TURNS, captioner, clip, loaded, prepared, tokens
from tests.checkpoints import Asked, Media
folder = Path(sys.argv[1])
ours = captioner(loaded(folder, "eager"))
small = prepared(NEXT[:1], folder)
large = prepared([*NEXT, Asked(Media.VIDEO, clip(1, 100), TURNS)], folder)
free = tokens(ours.caption(small).answers)
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (30 << 20),) * 2)
limited = tokens(ours.caption(large).answers)
said = [one for one in limited.values() if isinstance(one, tuple)]
print(*set(limited.values()) - set(said), len(said))
print(free == tokens(ours.caption(small).answers))
"""


@dataclass
class Device:
    """A device that holds so many crops or tokens: asked for more, it asks torch's allocator for 1 PiB."""

    room: int
    asked: list[int]

    def hold(self, wanted: int) -> None:
        self.asked.append(wanted)
        if wanted > self.room:
            torch.empty(1 << 50, dtype=torch.uint8)


Hook = Callable[[Device, Sequence[Any], dict[str, Any]], None]


def vision(device: Device, inputs: Sequence[Any], _: dict[str, Any]) -> None:
    """Crops in one pass of the tower."""
    device.hold(len(inputs[0]))


def prefill(device: Device, _: Sequence[Any], given: dict[str, Any]) -> None:
    """Prompt tokens in one pass."""
    tokens = given["inputs_embeds"].shape[1]
    if tokens > len(given["captions"].last()):
        device.hold(tokens)


def decode(device: Device, _: Sequence[Any], given: dict[str, Any]) -> None:
    """Tokens that all slots have room for, while one by one is added to them."""
    if given["inputs_embeds"].shape[1] == len(given["captions"].last()):
        blocks = {slot.block for slot in given["captions"]._slots}
        device.hold(sum(block.count * block.room for block in blocks))


@contextmanager
def small(replica: Replica, stage: Hook, room: int) -> Iterator[Device]:
    """The replica on a device with so much room in that stage."""
    device = Device(room, [])
    model = replica._model.model
    part = model.vision_tower if stage is vision else model.language_model
    hook = part.register_forward_pre_hook(
        lambda _, inputs, given: stage(device, inputs, given), with_kwargs=True
    )
    yield device
    hook.remove()


def prepared(asked: Sequence[Asked], folder: Path) -> Prepared:
    """A unit as a preprocessor hands it on."""
    shard = Shard("mem://a", "a", "1", 1, ShardFormat.TAR)
    samples = [one.sample(geometry(folder), i) for i, one in enumerate(asked)]
    assets = [
        Asset(f"{s.view.position:032x}", "k", s.view.media, (), s.view.sha256, 1, {}, s.view.sizes)
        for s in samples
    ]
    return Prepared(
        Unit("u", shard, 0, len(asked), Cost(1, 1, 1)), tuple(assets), tuple(samples), (), made.PREPARATION
    )


def loaded(folder: Path, attention: str = "sdpa") -> Replica:
    """The checkpoint in `folder` as a replica of one thread."""
    torch.set_num_threads(1)
    config = ModelConfig(str(folder), dtype="float32", attention=attention, threads=1)
    return Replica(config, str(folder), geometry(folder), SETTINGS.max_new_tokens)


def captioner(replica: Replica) -> Captioner:
    """The real captioner, around a replica that is there already."""
    return Captioner(lambda: replica, PROMPTS, SETTINGS)


def tokens(answers: Sequence[Answer]) -> dict[tuple[int, str | None], tuple[int, ...] | Code]:
    """What became of each position and prompt."""
    return {
        (a.position, a.prompt_id): a.outcome.token_ids if isinstance(a.outcome, Caption) else a.outcome.code
        for a in answers
    }


def held() -> int:
    """Bytes of all tensors that are alive, but for packed weights, whose storage torch does not show."""
    gc.collect()
    alive = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
    return sum({one.data_ptr(): one.nbytes for one in alive if one.layout is torch.strided}.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def replica(folder: Path) -> Replica:
    return loaded(folder)


@pytest.mark.parametrize(("stage", "room"), [(vision, 4), (prefill, 200), (decode, 230)])
def test_what_does_not_fit_alone_fails_alone_in_every_stage_and_the_next_unit_runs(
    replica: Replica, folder: Path, stage: Hook, room: int
) -> None:
    unit, following = prepared(UNIT, folder), prepared(NEXT, folder)
    ours = captioner(replica)
    undisturbed = [tokens(ours.caption(one).answers) for one in (unit, following)]

    with small(replica, stage, room) as device:
        answers = [ours.caption(one).answers for one in (unit, following)]

    assert max(device.asked) > 2 * room > 2 * min(device.asked)
    lost = dict.fromkeys(((CULPRIT, "one"), (CULPRIT, "two")), Code.OUT_OF_MEMORY)
    assert [tokens(one) for one in answers] == [undisturbed[0] | lost, undisturbed[1]]
    assert {a.outcome.stage for a in answers[0] if isinstance(a.outcome, Problem)} == {Stage.GENERATE}


@pytest.mark.parametrize(("stage", "room"), [(vision, 4), (prefill, 200), (decode, 230)])
def test_a_batch_that_did_not_fit_leaves_no_tensor_behind(
    replica: Replica, folder: Path, stage: Hook, room: int
) -> None:
    samples = prepared(UNIT, folder).samples
    requests = [replica.encode(sample, prompt, {}) for sample in samples for prompt in PROMPTS]
    captions_of(replica, [replica.encode(prepared(NEXT, folder).samples[0], PROMPTS[0], {})], SETTINGS)
    before = held()

    with small(replica, stage, room), pytest.raises(OutOfMemory) as raised:
        captions_of(replica, requests, SETTINGS)

    assert held() <= before, raised.value  # which holds its traceback


@pytest.mark.slow
def test_a_process_whose_memory_is_limited_fails_what_does_not_fit_and_goes_on(folder: Path) -> None:
    # Else each thread reserves 64 MB of what may be addressed, and what large tensors leave is kept for the next.
    arena = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(folder)],
        cwd=ROOT,
        env=os.environ | arena,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.split() == ["out_of_memory", str(len(NEXT) * len(PROMPTS)), "True"], done.stderr
