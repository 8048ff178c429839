"""YOLO-World with its names as texts and as weights of convolutions: seconds per image, and how far scores differ.

    python benchmarks/folded_vocabulary.py [--repeats 5]

The recipe `yolo-world` as it is, with batch norms before the texts (the authors' second release), and with image
pooling (the paper), untrained, on an image of 512 x 320. The names are random directions in the space of the texts,
since time does not depend on their meaning. "neck and head" leaves out the image tower, which is the same for both.
Both ways run in turn in one process on one thread; medians of CPU seconds.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

import vladapt.domains.open_vocab as open_vocab
from vladapt.registry import MODELS

NAMES = (16, 80, 1203)
SIZE = (320, 512)
VARIANTS = {
    "second release": {"model.neck.image_pooling": False, "model.bbox_head.norm": "bn"},
    "yolo-world": {},
    "paper": {"model.neck.image_pooling": True},
}


def model_of(options: dict) -> nn.Module:
    """The recipe's, with batch norms that have seen something."""
    config = Config.fromfile(str(Path(open_vocab.__file__).parent / "recipes" / "yolo_world.py"))
    config.merge_from_dict(options)
    init_default_scope("mmdet")
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.eval()


def ask(model: nn.Module, count: int) -> None:
    """As many names, anywhere in the space of the texts."""
    model.texts.embeddings = F.normalize(torch.randn(count, model.texts.embed_dim), dim=-1)
    model.unfold()


def cpu_seconds(run: Callable[[], object]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


@torch.no_grad()
def compare(model: nn.Module, repeats: int, size: tuple[int, int] = SIZE) -> tuple[dict[str, dict[str, float]], float]:
    """What is run -> seconds as texts and as weights; the largest difference of a logit or distance."""
    pixels = torch.randn(1, 3, *size)
    maps = model.backbone(pixels)
    runs = {
        "neck and head": lambda: model.bbox_head(model.neck(maps, model.texts()[None])),
        "whole": lambda: model.bbox_head(model.extract_feat(pixels)),
    }
    seconds = {name: {"texts": [], "weights": []} for name in runs}
    outputs = {}
    for way in ("texts", "weights") * (repeats + 1):  # the first of each warms up
        model.unfold()
        if way == "weights":
            model.fold()
        for name, run in runs.items():
            seconds[name][way].append(cpu_seconds(run))
        outputs[way] = [level for part in runs["whole"]() for level in part]
    apart = max((one - other).abs().max().item() for one, other in zip(*outputs.values(), strict=True))
    return {name: {way: median(times[1:]) for way, times in ways.items()} for name, ways in seconds.items()}, apart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    print("names  recipe           part            as texts   as weights   faster   apart")
    for variant, options in VARIANTS.items():
        model = model_of(options)
        for count in NAMES:
            ask(model, count)
            found, apart = compare(model, repeats)
            for part, times in found.items():
                ratio = times["texts"] / times["weights"]
                row = f"{count:<6,} {variant:16} {part:14} {times['texts']:8.3f} s {times['weights']:10.3f} s"
                print(f"{row} {ratio:7.2f} x   {apart:.0e}", flush=True)


if __name__ == "__main__":
    main()
