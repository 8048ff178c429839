"""Whether heat maps point at the evidence, on generated pictures in which its place is known: the pointing game.

    python benchmarks/explanations.py [--images 4] [--method occlusion]

Each picture shows one drawn thing, whose name is its class, somewhere on a plain canvas, and a disc that carries no
information. A map scores if its largest value lies in the box of the thing, or within 15 pixels of it ("Top-down Neural
Attention by Excitation Backprop", Zhang et al., 2016, arXiv 1608.00507). Only pictures classified correctly count.
Prints the table of docs/measurements/explanations.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from vladapt import build_adapter
from vladapt.core.backbones.load import load_backbone
from vladapt.core.contracts.backbone import Backbone
from vladapt.core.contracts.features import Batch, FeatureSet, TextClassifier
from vladapt.core.explanation.evidence import GRAD_CAM, OCCLUSION, ROLLOUT, Seen, heat_map
from vladapt.core.forgetting.drawings.pen import SIDE, Pen
from vladapt.core.forgetting.drawings.things import THINGS

KINDS = ("umbrella", "clock", "butterfly", "car", "fish", "house")
TOLERANCE = 15
FIRST_TESTED = 1000
"""Numbers of pictures that no method learns from begin here."""
TOWER = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 224, "layers": 3, "width": 96, "patch_size": 28, "head_width": 32},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
STEPS, BATCH, FEW_KINDS = 500, 24, 3
"""Of the training of the small transformer, which is to tell the first kinds apart and no more."""


class Scene(NamedTuple):
    """A picture (224, 224, 3) uint8, its class index, and the box of the thing: top, left, bottom, right in pixels."""

    picture: np.ndarray
    label: int
    box: tuple[int, int, int, int]


def scene(label: int, number: int) -> Scene:
    """The same at every call; numbers tell pictures of a class apart."""
    rng = np.random.default_rng([label, number])
    pen = Pen(rng, outlined=True)
    THINGS[KINDS[label]](pen)
    thing = pen.sheet.crop(pen.sheet.getbbox())
    scale = int(rng.integers(76, 104)) / max(thing.size)
    thing = thing.resize([max(1, round(side * scale)) for side in thing.size], Image.Resampling.LANCZOS)
    grey = 205 + rng.normal(scale=4, size=(SIDE, SIDE, 1)).repeat(3, axis=2)
    canvas = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    quarters, disc = rng.permutation(4), int(rng.integers(40, 70))
    shape = Image.new("RGBA", (disc, disc))
    ImageDraw.Draw(shape).ellipse((0, 0, disc - 1, disc - 1), fill=(*map(int, rng.integers(40, 230, 3)), 255))
    left, top = _put(canvas, thing, int(quarters[0]), rng)
    _put(canvas, shape, int(quarters[1]), rng)
    return Scene(np.asarray(canvas), label, (top, left, top + thing.height, left + thing.width))


def _put(canvas: Image.Image, shape: Image.Image, quarter: int, rng: np.random.Generator) -> tuple[int, int]:
    half, size = SIDE // 2, shape.size
    corner = half * (quarter % 2), half * (quarter // 2)
    left, top = (start + int(rng.integers(half - side + 1)) for start, side in zip(corner, size))
    canvas.paste(shape, (left, top), shape)
    return left, top


def scenes(each: int, first: int = 0, kinds: int = len(KINDS)) -> list[Scene]:
    """So many of each kind."""
    return [scene(label, first + number) for label in range(kinds) for number in range(each)]


def pointed(heat: Tensor, box: Sequence[int], tolerance: int = TOLERANCE) -> bool:
    """Whether the largest value of a map (H, W) lies in a box or beside it."""
    row, column = divmod(int(heat.argmax()), heat.shape[1])
    top, left, bottom, right = box
    return top - tolerance <= row < bottom + tolerance and left - tolerance <= column < right + tolerance


def features_of(backbone: Backbone, shown: Sequence[Scene]) -> tuple[list[Tensor], Tensor]:
    """Pixels of each picture, and features (N, D)."""
    pixels = [backbone.preprocess(False)(each.picture) for each in shown]
    with torch.no_grad():
        return pixels, torch.cat([backbone.encode_image(each[None], normalize=False) for each in pixels])


def learned(backbone: Backbone, name: str, shown: Sequence[Scene]) -> Seen:
    """A method fitted on pictures, without texts."""
    features, labels = features_of(backbone, shown)[1], torch.tensor([each.label for each in shown])
    names = KINDS[: int(labels.max()) + 1]
    support = FeatureSet(features, labels, names, ids=tuple(map(str, range(len(shown)))))
    adapter = build_adapter(name)
    adapter.fit(support, TextClassifier.without_texts(names, features.shape[1]))
    return Seen(backbone, adapter)


class Played(NamedTuple):
    """Whether a map points at the thing, and the CPU seconds it took."""

    hit: bool
    seconds: float


def played(method: str, seen: Seen, shown: Sequence[Scene]) -> Iterator[Played]:
    """The game on each picture whose class is told right."""
    for each, pixels, features in zip(shown, *features_of(seen.towers, shown)):
        if int(seen.adapter.logits(Batch(features=features[None])).argmax()) == each.label:
            started = time.process_time()
            heat = heat_map(method, seen, pixels, each.label)
            yield Played(pointed(heat, each.box), time.process_time() - started)


def transformer(folder: Path, seed: int = 0) -> Backbone:
    """A small vision transformer, trained on such pictures for some minutes."""
    from open_clip.model import CLIP

    torch.manual_seed(seed)
    (folder / "small.json").write_text(json.dumps(TOWER))
    spec = f"open_clip:{folder / 'small.json'}@{folder / 'small.pt'}"
    model = CLIP(**TOWER)
    torch.save(model.state_dict(), folder / "small.pt")
    backbone = load_backbone(spec, "cpu")
    head = nn.Linear(backbone.embed_dim, FEW_KINDS)
    weights = [weight.requires_grad_() for weight in backbone.model.visual.parameters()]
    optimiser = torch.optim.AdamW([*weights, *head.parameters()], lr=2e-3, weight_decay=0.05)
    rng = np.random.default_rng(seed)
    for step in range(STEPS):
        shown = [scene(int(rng.integers(FEW_KINDS)), 10_000 + BATCH * step + n) for n in range(BATCH)]
        pixels = torch.stack([backbone.preprocess(False)(each.picture) for each in shown])
        scores = head(backbone.encode_image(pixels, normalize=False))
        loss = nn.functional.cross_entropy(scores, torch.tensor([each.label for each in shown]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    backbone.model.requires_grad_(False)
    return backbone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5, help="pictures per kind of thing")
    parser.add_argument("--tower", choices=("embedded", "transformer"), default="embedded")
    parser.add_argument("--adapters", default="tip-adapter,linear-probe")
    parser.add_argument("--methods", help="comma-separated; by default all that the tower allows")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        small = given.tower == "transformer"
        kinds = FEW_KINDS if small else len(KINDS)
        backbone = transformer(Path(folder)) if small else load_backbone("embedded", "cpu")
        methods = given.methods.split(",") if given.methods else [ROLLOUT if small else GRAD_CAM, OCCLUSION]
        print("| tower | adapter | heat map | points at the thing | pictures | seconds per map |")
        print("| --- | --- | --- | ---: | ---: | ---: |")
        for name in given.adapters.split(","):
            seen = learned(backbone, name, scenes(8, kinds=kinds))
            for method in methods:
                games = list(played(method, seen, scenes(given.images, FIRST_TESTED, kinds)))
                share, seconds = (float(np.mean(column)) for column in zip(*games))
                print(f"| {given.tower} | {name} | {method} | {share:.2f} | {len(games)} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
