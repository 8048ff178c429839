"""How well a detector that learns new names keeps its old ones, with plain fine-tuning and with --remember.

    python benchmarks/open_vocab_remembering.py [--data shapes,coco_val128] [--seeds 1,2,3] [--recipe open-vocab/NAME]
        [--epochs N] [--wise-alpha A]

A detector is trained on the old names alone, once per set. It then learns the new names, once per seed, from boxes of
these alone: things with old names are in the same images, but not annotated. Scores are on images that have boxes of
both, with both sets of names asked for (the detector before: the old names alone). The images are those of the test
split and, where these are too few to tell anything, the training images as well. Runs are kept in runs/. VLADAPT_DATA
names the folder of the data sets.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from hashlib import sha1
from pathlib import Path

import torch
from plain_shapes import plain_shapes_folder
from torch import Tensor

from vladapt.core.engine.fit import fit
from vladapt.core.recipes.asked_for import read_data, split_samples
from vladapt.core.recipes.resolve import resolve
from vladapt.core.registry import load_domain
from vladapt.core.runs.folder import Run
from vladapt.core.runtime.progress import Reporter
from vladapt.core.tasks import KeptModel
from vladapt.domains.open_vocab.data.remembered import with_remembered
from vladapt.domains.open_vocab.inference.detection import evaluate_detection
from vladapt.domains.open_vocab.modules.backbones.clip_vision import CLIPVisionBackbone
from vladapt.domains.open_vocab.shapes import HELD_OUT, NAMES

DATA = Path(os.environ.get("VLADAPT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
HEADER = ("set", "seed", "images", "old names before", "fine-tuned", "with `--remember`", "kept", "new, fine-tuned")
HEADER = (*HEADER, "with `--remember`", "alpha")
FLAGS = {"domain": "open-vocab", "task": "detection", "workers": 0}
NARROW = {
    "backbone.frozen": True,
    "backbone.frozen_stages": -1,
    "neck.start_level": 1,
    "neck.num_outs": 4,
    "neck.out_channels": 64,
    "rpn_head.in_channels": 64,
    "rpn_head.feat_channels": 64,
    "rpn_head.anchor_generator.scales": [4],
    "rpn_head.anchor_generator.strides": [8, 16, 32, 64],
    "roi_head.bbox_roi_extractor.out_channels": 64,
    "roi_head.bbox_roi_extractor.featmap_strides": [8, 16, 32],
    "roi_head.bbox_head.in_channels": 64,
    "train_cfg.rpn_proposal.nms_pre": 300,
    "train_cfg.rpn_proposal.max_per_img": 150,
    "train_cfg.rcnn.sampler.num": 64,
    "test_cfg.rpn.nms_pre": 300,
    "test_cfg.rpn.max_per_img": 150,
}
"""Faster R-CNN on the frozen tower, half as wide and from stride 8 on: photographs in minutes on two cores."""


@dataclass(frozen=True)
class Case:
    """A set with its old and its new names.

    Args:
        path: of the data; None is the plain scenes of `plain_shapes.py`.
        epochs: of the first training, and of each after it.
        lr: of the first training; None is the recipe's, as in those after it.
        splits: whose images are scored.
        model: what of the recipe's model is another.
        scale: longer and shorter side of the images at most; None is the recipe's.
    """

    path: str | None
    old: Sequence[str]
    new: Sequence[str]
    epochs: tuple[int, int]
    recipe: str
    splits: Sequence[str] = ("test",)
    model: Mapping[str, object] = field(default_factory=dict)
    scale: tuple[int, int] | None = None
    lr: float | None = None

    @property
    def data(self) -> str:
        return str(plain_shapes_folder()) if self.path is None else self.path


CASES = {
    "shapes": Case(None, [name for name in NAMES if name not in HELD_OUT], HELD_OUT, (8, 2), "open-vocab/retinanet"),
    "coco_val128": Case(  # the names that four or more training images show
        str(DATA / "detection_seg/coco_val128"),
        ["person", "backpack", "car", "tie", "truck"],
        ["dining table", "cup", "bicycle", "handbag"],
        (40, 60),
        "open-vocab/faster-rcnn",
        ("train", "test"),
        NARROW,
        (320, 224),
        1e-3,
    ),
}
LEARNED_OR_NOT = {"train": "learned", "test": "held out"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=",".join(CASES), help=f"sets, comma-separated: {', '.join(CASES)}")
    parser.add_argument("--seeds", default="1,2,3", help="seeds of the second training, comma-separated")
    parser.add_argument("--recipe", help="recipe in place of the set's own")
    parser.add_argument("--epochs", type=int, help="epochs of the second training, in place of the set's own")
    parser.add_argument("--wise-alpha", type=float, help="alpha in place of the chosen one")
    parser.add_argument("--start", help="a run on the old names of the set, in place of a new one")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # two wait for each other more than they gain, where others compute
    keep_maps()
    print(_line(HEADER))
    print(_line(("---", "---:", "---", *("---:",) * (len(HEADER) - 3))), flush=True)
    for name in arguments.data.split(","):
        case = CASES[name]
        if arguments.recipe:
            case = replace(case, recipe=arguments.recipe, model={})
        if arguments.epochs:
            case = replace(case, epochs=(case.epochs[0], arguments.epochs))
        start = arguments.start or _fitted(case, case.old, 0).run
        before = {split: _scores(case, start, split, [])[0] for split in case.splits}
        for seed in map(int, arguments.seeds.split(",")):
            for row in _rows(name, case, str(start), before, seed, arguments.wise_alpha):
                print(row, flush=True)


def _rows(
    name: str, case: Case, start: str, before: Mapping[str, float], seed: int, alpha: float | None = None
) -> list[str]:
    plain = _fitted(case, case.new, 1, seed=seed, start=start)
    given = {} if alpha is None else {"wise_alpha": alpha}
    kept = _fitted(case, case.new, 1, seed=seed, start=start, remember=",".join(case.old), **given)
    alpha = next(note for note in kept.notes if note.startswith("Weights are")).split()[2]
    rows = []
    for split in case.splits:
        (old, new), (old_kept, new_kept) = (_scores(case, each.run, split, case.new) for each in (plain, kept))
        first = before[split]
        numbers = (f"{first:.3f}", f"{old:.3f}", f"{old_kept:.3f}", f"{old_kept / first:.1%}" if first else "-")
        rows.append(_line((name, seed, LEARNED_OR_NOT[split], *numbers, f"{new:.3f}", f"{new_kept:.3f}", alpha)))
    return rows


def _fitted(case: Case, classes: Sequence[str], stage: int, **flags):
    flags = {
        **FLAGS,
        "data.path": case.data,
        "classes": ",".join(classes),
        "adapter.epochs": case.epochs[stage],
        **flags,
    }
    if not stage:  # later ones have the model of the first
        flags |= {f"plan.model.{key}": value for key, value in case.model.items()}
        flags |= {} if case.lr is None else {"adapter.lr": case.lr}
    recipe = resolve(recipe=case.recipe, flags=flags)
    return fit(recipe if case.scale is None else recipe.with_(plan=_scaled(recipe.plan, case.scale)))


def keep_maps() -> None:
    """Let a frozen tower see each image, as it comes out of the transforms, once."""
    computed, kept = CLIPVisionBackbone._maps, {}

    def maps(self: CLIPVisionBackbone, pixels: Tensor) -> list[Tensor]:
        if any(parameter.requires_grad for parameter in self.parameters()):
            return computed(self, pixels)
        keys = [(tuple(image.shape), sha1(image.numpy().tobytes()).digest()) for image in pixels]
        if missing := [place for place, key in enumerate(keys) if key not in kept]:
            with torch.no_grad():
                new = computed(self, pixels[missing])
            kept.update((keys[place], [level[row].clone() for level in new]) for row, place in enumerate(missing))
        return [torch.stack(level) for level in zip(*(kept[key] for key in keys), strict=True)]

    CLIPVisionBackbone._maps = maps


def _scaled(plan: Mapping, scale: tuple[int, int]) -> dict:
    """The plan with images of another size."""
    plan = deepcopy(dict(plan))
    for loader in ("train_dataloader", "test_dataloader"):
        for step in plan[loader]["dataset"]["pipeline"]:
            if "scale" in step:
                step["scale"] = scale
    return plan


def _scores(case: Case, run: Path | str, split: str, learned: Sequence[str]) -> tuple[float, float | None]:
    """AP of the old names and of those that were learned after them, on the images of a split.

    Args:
        run: of a detector, which is asked for the old names and for `learned`.
    """
    recipe = resolve(flags={**FLAGS, "data.path": case.data})
    quiet = Reporter(quiet=True)
    data = split_samples(read_data(recipe, load_domain("open-vocab"), "detection"), quiet, 0, recipe.split_seed)
    items = [item.with_(split="test") for item in data.split(split)]
    model = KeptModel(Run.open(run)).load(torch.device("cpu"))
    model.cfg.vladapt.remember = list(case.old)
    asked = with_remembered(replace(data, items=items), learned, case.old)
    told = evaluate_detection(model, asked, lambda done, total: None).metrics
    return told["remembered_AP"], told.get("new_AP")


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
