"""How much better a tiny SAM with random weights outlines boxes once its mask decoder was fine-tuned, on drawn scenes.

    python benchmarks/sam_outlines.py [--types sam,sam2] [--seeds 1,2,3] [--epochs 15] [--lr 4e-3]
        [--rank R]

Before: the model as it is (--epochs 0), shown the annotated boxes of the 80 test images of the sample. After:
fine-tuned on the boxes and outlines of its 240 training images. No released weights are used: the encoder is random and
frozen, so the numbers say that the training works, and not how well a released SAM outlines.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "domains" / "open_vocab" / "hub_models"))

from tiny_sam import TINY, saved

from vladapt.core.engine.fit import fit

SIDE = 128
LR = 4e-3


def scores(place: str, seed: int, epochs: int, lr: float, out: Path, **options) -> tuple[float, float, float]:
    """Mask AP, mask AP50, and CPU seconds."""
    started = time.process_time()
    settings = {"plan": {"train_dataloader": {"num_workers": 0, "persistent_workers": False}}}
    how = {"epochs": epochs} | ({"lr": lr, **settings} if epochs else {})
    done = fit(domain="open-vocab", task="detection", start=place, seed=seed, out=str(out), **how, **options)
    adapted = done.metrics["adapted"]
    return adapted["mask_AP"], adapted["mask_AP50"], time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", default="sam,sam2")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--lr", type=float, default=LR)
    parser.add_argument("--rank", type=int)
    given = parser.parse_args()
    options = {"lora_rank": given.rank} if given.rank else {}
    print("| type | seed | mask AP before | after | mask AP50 before | after | CPU seconds |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for kind in given.types.split(","):
        for seed in map(int, given.seeds.split(",")):
            with tempfile.TemporaryDirectory() as folder:
                place = saved(Path(folder) / "model", *TINY[kind](SIDE, seed))
                before = scores(place, seed, 0, given.lr, Path(folder) / "before")
                after = scores(place, seed, given.epochs, given.lr, Path(folder) / "after", **options)
            numbers = (before[0], after[0], before[1], after[1])
            listed = " | ".join(f"{number:.3f}" for number in numbers)
            print(f"| `{kind}` | {seed} | {listed} | {after[2]:.0f} |", flush=True)


if __name__ == "__main__":
    main()
