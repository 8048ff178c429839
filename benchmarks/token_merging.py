"""What token merging saves and what it costs: the time of a ViT-B/16, and the accuracy of a ViT on drawn scenes.

    python benchmarks/token_merging.py speed     # a ViT-B/16 of random weights, R of 0 to 16, 5 rounds in alternation
    python benchmarks/token_merging.py scenes    # a ViT of 64 patches, trained here, with and without merging

Times are those of the process's CPU, of batches that take turns, so that a busy machine slows all of them alike. Of
accuracies the difference is paired, over the same test images of all seeds: Tango's interval at 95 %.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vladapt import Backbone, load_backbone
from vladapt.core.backbones.spec_options import Reduction
from vladapt.core.backbones.token_merging import MergedTokens
from vladapt.core.data.pairs.scenes import COLOURS, SCENES, draw_scene, scene
from vladapt.core.engine.front import flops_of
from vladapt.core.metrics.intervals import paired_shares

ROUNDS = 5
REDUCTIONS = (4, 8, 13, 16)
OF_SCENES = ("4", "8", "13")
VIT = {"image_size": 96, "patch_size": 12, "width": 48, "layers": 4, "head_width": 16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("speed", "scenes"))
    parser.add_argument("--batch", type=int, default=4, help="images of a batch whose time is taken")
    parser.add_argument("--arch", default="ViT-B-16", help="of open_clip, whose time is taken")
    parser.add_argument("--images", type=int, default=2000, help="drawn scenes to learn from, and as many to test on")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=1)
    asked = parser.parse_args()
    if asked.what == "speed":
        print(speed(f"open_clip:{asked.arch}@random", asked.batch))
    else:
        print(scenes(asked.images, asked.epochs, asked.seeds))


def speed(spec: str, batch: int) -> str:
    """A table of what one image costs."""
    plain = load_backbone(spec, "cpu")
    assert plain.model is not None  # built, for all of them
    towers = {0: plain} | {count: merging(plain, str(count)) for count in REDUCTIONS}
    pixels = torch.randn(batch, 3, *plain.transform.sides, generator=torch.Generator().manual_seed(0))
    seconds = in_alternation(towers, pixels)
    lines = ["| R | tokens left | GFLOP | CPU seconds | of those without |", "|---:|---:|---:|---:|---:|"]
    for count, tower in towers.items():
        share = statistics.median(one / other for one, other in zip(seconds[count], seconds[0], strict=True))
        cost = f"{flops_of(tower) / 1e9:.1f} | {statistics.median(seconds[count]) / batch:.3f} | {share:.2f}"
        lines.append(f"| {count} | {tokens_left(tower, pixels[:1])} | {cost} |")
    return "\n".join(lines)


@torch.inference_mode()
def in_alternation(towers: Mapping[int, Backbone], pixels: Tensor) -> dict[int, list[float]]:
    """Name -> CPU seconds of each round, after one that does not count."""
    seconds: dict[int, list[float]] = {name: [] for name in towers}
    for number in range(1 + ROUNDS):
        for name, tower in towers.items():
            started = time.process_time()
            tower.encode_image(pixels)
            if number:
                seconds[name].append(time.process_time() - started)
    return seconds


@torch.inference_mode()
def tokens_left(backbone: Backbone, pixels: Tensor) -> int:
    """Behind the last block."""
    tower = backbone.image_tower
    if tower.reduction is None:
        return tower.embed(pixels).shape[1]
    tokens = MergedTokens(tower.reduction, tower.prefix)
    x = tower.embed(pixels)
    tokens.through(tower.blocks, x, [])
    return x.shape[1] if tokens.sizes is None else tokens.sizes.shape[1]


def scenes(images: int, epochs: int, seeds: int) -> str:
    """A table of what merging loses."""
    right: dict[str, list[Tensor]] = {}
    left: dict[str, int] = {}
    for seed in range(seeds):
        taught, tested = drawn(images, 2 * seed), drawn(images, 2 * seed + 1)
        with tempfile.TemporaryDirectory() as folder:
            (config := Path(folder) / "vit.json").write_text(json.dumps({"embed_dim": 48, "vision_cfg": VIT}))
            spec = f"open_clip:{config}@random:{seed}"
            plain, head = trained(spec, *taught, epochs, seed)
            towers = {"": (plain, head)} | {r: (merging(plain, r), head) for r in OF_SCENES}
            towers["8, trained with it"] = trained(f"{spec}#merge=8", *taught, epochs, seed)
            for name, (tower, classifier) in towers.items():
                right.setdefault(name, []).append(classified(tower, classifier, tested[0]) == tested[1])
                left[name] = tokens_left(tower, tested[0][:1])
    return _table(right, left)


def _table(right: Mapping[str, Sequence[Tensor]], left: Mapping[str, int]) -> str:
    lines = ["| R | tokens left | accuracy | points lost | 95 % interval |", "|---|---:|---:|---:|---|"]
    before = torch.cat(list(right[""]))
    for name, each in right.items():
        after = torch.cat(list(each))
        row = f"| {name or 'none'} | {left[name]} | {100 * after.double().mean():.1f} |"
        if name:
            low, high = paired_shares(after, before).interval(0.95)
            lost = 100 * float(before.double().mean() - after.double().mean())
            lines.append(f"{row} {lost:.2f} | {100 * low:.2f} to {100 * high:.2f} |")
        else:
            lines.append(f"{row} | |")
    return "\n".join(lines)


def drawn(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """(N, 3, 96, 96) normalised drawings, no two of one scene, and (N,) the colour of the things above or left."""
    numbers = np.random.default_rng(seed).permutation(SCENES)[:count]
    pixels = np.stack([draw_scene(int(number), seed) for number in numbers])
    classes = [list(COLOURS).index(scene(int(number)).main.colour) for number in numbers]
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1, torch.tensor(classes)


def trained(spec: str, pixels: Tensor, classes: Tensor, epochs: int, seed: int) -> tuple[Backbone, nn.Linear]:
    """The image tower and a linear classifier on it."""
    torch.manual_seed(seed)
    backbone = load_backbone(spec, "cpu")
    head = nn.Linear(backbone.embed_dim, len(COLOURS))
    model = backbone.model.train().requires_grad_(True)
    weights = [*model.parameters(), *head.parameters()]
    steps = epochs * -(-len(pixels) // 64)
    optimizer = torch.optim.AdamW(weights, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.15)
    for _ in range(epochs):
        for rows in torch.randperm(len(pixels)).split(64):
            loss = F.cross_entropy(head(backbone.encode_image(pixels[rows], normalize=False)), classes[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval().requires_grad_(False)
    return backbone, head


def merging(backbone: Backbone, reduction: str) -> Backbone:
    """The same towers, whose images have tokens merged."""
    made = copy(backbone)
    made.merge_tokens(Reduction.of(reduction))
    return made


@torch.inference_mode()
def classified(backbone: Backbone, head: nn.Linear, pixels: Tensor) -> Tensor:
    """(N,) classes."""
    return torch.cat([head(backbone.encode_image(each, normalize=False)).argmax(dim=1) for each in pixels.split(250)])


if __name__ == "__main__":
    main()
