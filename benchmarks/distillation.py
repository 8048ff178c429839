"""What distillation brings to a smaller model at equal steps? The table of docs/faster-towers.md.

    python benchmarks/distillation.py [--seeds 3] [--steps 200]

A teacher learns by InfoNCE from drawn pictures and captions (`curation_pool.py`, right pairs only). Students half as
wide and half as deep learn from other pictures, with and without it, each recipe with its published losses, all for the
same number of steps, at one rate. Scored: which of 24 classes (colour and shape) 576 held-out pictures show, by the
names alone (guessing: 4.2 %). Means over seeds, plus or minus half of a 95 % interval by Student's t; the gain is
paired by seed. Milliseconds are of a batch of 64 pictures on one core, the least of seven passes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from curation_pool import NAMES, Pool, drawn_pool, test_pairs
from joined_towers import _words as interval

from vladapt import Backbone, load_backbone
from vladapt.core.backbones.inheritance import inherit
from vladapt.core.recipes.resolve import resolve, task_of
from vladapt.core.training.parts import Task
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.train import train

PAIRS, BATCH, RATE, TEACHER_STEPS = 6_000, 64, 2e-3, 400
WIDTH, DEPTH = 64, 4
TEXTS = {"context_length": 24, "vocab_size": 2048}
ALONE, INHERITED = "CLIP's loss alone", "the same, inherited weights"
RECIPES = ("clip-kd", "tiny-clip", "mobile-clip", "distilbert")


@dataclass
class DrawnPairs:
    """A pool as the source of a training."""

    pool: Pool
    texts: ClassVar[frozenset[str]] = frozenset({"caption"})
    labelled: ClassVar[bool] = False
    columns: ClassVar[Mapping[str, str]] = {}

    def __len__(self) -> int:
        return len(self.pool.texts)

    def name(self, row: int) -> str:
        return str(row)

    def image(self, row: int) -> int:
        """Its number alone: pictures are of the towers' size, and seen as they are."""
        return row

    def text(self, kind: str, row: int, epoch: int) -> str:
        return self.pool.texts[row]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, list[float]] = {}
    facts: dict[str, tuple[Backbone, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(asked.seeds):
            for name, backbone, score in of_seed(Path(folder), seed, asked.steps):
                rows.setdefault(name, []).append(score)
                facts.setdefault(name, (backbone, milliseconds(backbone)))
                print(f"seed {seed}, {name}: {score:.3f}", flush=True)
    print(table(rows, facts))


def of_seed(folder: Path, seed: int, steps: int):
    """Each model of a seed with its score."""
    tests = test_pairs(5000 + seed, 1)
    teacher = learned(built(folder, WIDTH, DEPTH, seed), 1000 + seed, {"clip": 1.0}, TEACHER_STEPS, seed)
    yield "teacher", teacher, score(teacher, tests)
    for name in (ALONE, INHERITED, *RECIPES):
        student = built(folder, WIDTH // 2, DEPTH // 2, 100 + seed, text_width=WIDTH if name == "distilbert" else None)
        plan: dict[str, Any] = {"losses": {"clip": 1.0}, "loss_options": {}, "inherit": name == INHERITED}
        if name in RECIPES:
            plan = planned(name)
        if name == "mobile-clip":
            plan["loss_options"] = {name: {"synthetic": 0.0, "scales": (float(teacher.logit_scale.detach()),)}}
        if plan["inherit"]:
            inherit(student, teacher)
        teachers = [] if plan["losses"] == {"clip": 1.0} else [teacher]
        learned(student, 2000 + seed, plan["losses"], steps, seed, teachers, plan["loss_options"])
        yield name, student, score(student, tests)


def planned(name: str) -> dict[str, Any]:
    """Losses of a packaged recipe, and whether it inherits."""
    recipe = resolve(recipe=f"pretraining/{name}", flags={"data.path": "drawn", "out": "none"})
    task = task_of(recipe)
    plan = task.plan(task.settled(recipe))
    return {"losses": plan.losses, "loss_options": dict(plan.loss_options), "inherit": plan.inherit}


def built(folder: Path, width: int, depth: int, seed: int, text_width: int | None = None) -> Backbone:
    """A CLIP with random weights, heads of 32."""
    text_width = text_width or width
    config = {
        "embed_dim": width // 2,
        "vision_cfg": {"image_size": 32, "layers": depth, "width": width, "patch_size": 8, "head_width": 32},
        "text_cfg": {**TEXTS, "width": text_width, "heads": text_width // 32, "layers": depth},
    }
    file = folder / f"{width}-{depth}-{text_width}.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    return load_backbone(f"open_clip:{file}@random:{seed}", device="cpu")


def learned(
    backbone: Backbone,
    drawn: int,
    losses: Mapping[str, float],
    steps: int,
    seed: int,
    teachers=(),
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Backbone:
    """After so many steps."""
    source = DrawnPairs(drawn_pool(PAIRS, drawn, {}))
    look = lru_cache(maxsize=None)(lambda row: backbone.preprocess(train=False)(source.pool.images[row]))
    task = Task(
        source, losses, loss_options=dict(options or {}), teachers=list(teachers), view=lambda row, _: look(row)
    )
    epochs = -(-steps * BATCH // PAIRS)
    settings = TrainingSettings(epochs=epochs, steps=steps, batch_size=BATCH, lr=RATE, weight_decay=0.05, seed=seed)
    train(backbone, task, settings, None)
    return backbone


@torch.no_grad()
def score(backbone: Backbone, tests: Pool) -> float:
    """Share of the pictures whose class is named rightly."""
    look = backbone.preprocess(train=False)
    images = backbone.encode_image(torch.stack([look(each) for each in tests.images]))
    names = backbone.encode_text([f"a picture of a {name}" for name in NAMES])
    return float(((images @ names.T).argmax(dim=1).numpy() == tests.facts[:, 0]).mean())


@torch.no_grad()
def milliseconds(backbone: Backbone) -> float:
    pixels, passes = torch.randn(64, 3, 32, 32), []
    for _ in range(7):
        started = time.perf_counter()
        backbone.encode_image(pixels)
        passes.append(1000 * (time.perf_counter() - started))
    return min(passes)


def table(rows: Mapping[str, list[float]], facts: Mapping[str, tuple[Backbone, float]]) -> str:
    """Markdown."""
    lines = ["| model | right, % | gain, points | parameters, thousands | image tower, ms |", "|---|---|---|---|---|"]
    for name, scores in rows.items():
        backbone, ms = facts[name]
        gain = "" if name in ("teacher", ALONE) else interval(list(np.subtract(scores, rows[ALONE])))
        # the embeddings of words are the same table for all but their width: left out
        words = backbone.model.token_embedding.weight.numel()
        count = (sum(p.numel() for p in backbone.model.parameters()) - words) / 1000
        lines.append(f"| {name} | {interval(scores)} | {gain} | {count:,.0f} | {ms:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
