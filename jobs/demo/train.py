"""Train the demo checkpoint: python -m jobs.demo.train OUT_DIR

Stage 1 teaches the vision tower patches, stage 2 everything through the model's real forward path. Both go by the
clock, so a busy machine trains less but ends when it was told to. At last the held-out accuracy is measured.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from torch import distributed, multiprocessing
from transformers import LlavaOnevisionForConditionalGeneration

from jobs.demo import accuracy, course, hub, tower

WORKERS = 2  # a step is WORKERS times lesson's scenes: the recipe was tuned with two


def learn(rank: int, meeting: str, tower_file: Path, plan: course.Plan) -> None:
    """One process of stage 2: the same weights in each, as the seed and the files are the same."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=WORKERS)
    torch.manual_seed(0)
    tokenizer = hub.make_tokenizer()
    if plan.behind:
        model = LlavaOnevisionForConditionalGeneration.from_pretrained(plan.out, dtype=torch.float32)
        distributed.barrier()
    else:
        model = hub.make_model(tokenizer)
        load_model(model.model.vision_tower, tower_file)
    course.run(model, tokenizer, plan)
    distributed.destroy_process_group()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the checkpoint and its ACCURACY.json")
    parser.add_argument("--tower", type=Path, default=Path("tower.safetensors"), help="stage 1's weights")
    parser.add_argument("--tower-minutes", type=float, default=13, help="stage 1, if its file is not there")
    parser.add_argument("--minutes", type=float, default=60, help="stage 2")
    parser.add_argument("--resume", type=float, default=0.0, help="share of stage 2 behind OUT_DIR's weights")
    parser.add_argument("--per-kind", type=int, default=400, help="held-out scenes of each kind")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if not args.tower.exists():
        torch.manual_seed(0)
        model = hub.make_model(hub.make_tokenizer())
        tower.train(model.model.vision_tower, args.tower_minutes, seed=1)
        save_model(model.model.vision_tower, args.tower)
    plan = course.Plan(args.out, args.minutes, args.resume)
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(learn, (f"{folder}/meeting", args.tower, plan), nprocs=WORKERS)
    accuracy.record(args.out, args.per_kind, args.tower_minutes + args.minutes)


if __name__ == "__main__":
    main()
