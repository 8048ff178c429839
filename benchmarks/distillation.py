"""What distillation brings to a smaller model at equal steps? The table of docs/measurements/faster-towers.md.

    python benchmarks/distillation.py [--seeds 0,1,2] [--steps 600] [--scores FILE]

A teacher learns by InfoNCE from drawn pictures and captions (`curation_pool.py`, right pairs only). Students half as
wide and half as deep learn from other pictures, with and without it, each recipe with its published losses, all for the
same number of steps, at one rate. `distilbert` is of texts: its student has the teacher's image tower, locked, and a
text tower of half the layers that starts as every second of the teacher's, and stands beside the same student without
the teacher's words. Scored: R@1 in per cent, the mean of both ways, among 576 held-out pictures and their captions, no
two of which say the same (guessing: 0.2). Steps and sizes are set so that the teacher and the student alone learn
within a minute. Means over seeds, plus or minus half of a 95 % interval by Student's t; the gain is paired by seed.
Milliseconds are CPU time of a batch of 64 pictures or texts on one core, the least of 15 passes. What FILE holds of an
earlier call is not measured again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from curation_pool import Pool, drawn_pool, test_pairs
from joined_towers import _words as interval

from vladapt import Backbone, load_backbone
from vladapt.core.backbones.inheritance import inherit
from vladapt.core.recipes.resolve import resolve, task_of
from vladapt.core.training.parts import TrainingTask
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.train import train

PAIRS, BATCH, RATE = 6_000, 64, 2e-3
TEACHER_STEPS, STEPS = 1200, 600
WIDTH, DEPTH = 64, 4
TEXTS = {"context_length": 24, "vocab_size": 2048}
ALONE, INHERITED = "CLIP's loss alone", "the same, inherited weights"
HALF_TEXT, DISTILBERT = "text tower halved, CLIP's loss", "text tower halved, distilbert"
RECIPES = ("clip-kd", "tiny-clip", "mobile-clip")
BESIDE = {INHERITED: ALONE, **dict.fromkeys(RECIPES, ALONE), DISTILBERT: HALF_TEXT}
"""Model -> the one that it is compared with."""
PASSES = 15


@dataclass(frozen=True)
class Measured:
    """A model of a seed: its R@1, and costs; `cpu` is the seconds that it took to learn."""

    seed: int
    model: str
    recall: float
    parameters: int
    image_ms: float
    text_ms: float
    cpu: float


@dataclass(frozen=True)
class Planned:
    """What a recipe says of losses, weights to start from, and towers that stay."""

    losses: Mapping[str, float]
    loss_options: Mapping[str, Mapping[str, Any]]
    inherit: bool
    lock: tuple[str, ...] = ()


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
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--scores", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    lines = asked.scores.read_text(encoding="utf-8").splitlines() if asked.scores and asked.scores.is_file() else []
    measured = [Measured(**json.loads(line)) for line in lines]
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            before = {each.model for each in measured if each.seed == seed}
            for each in of_seed(Path(folder), seed, asked.steps, before):
                measured.append(each)
                print(json.dumps(asdict(each)), flush=True)
                if asked.scores:
                    with asked.scores.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(each)) + "\n")
    print(table([each for each in measured if each.seed in seeds]))


def of_seed(folder: Path, seed: int, steps: int, before: set[str]) -> Iterator[Measured]:
    """Each model of a seed but those that were measured before."""
    models = ("teacher", ALONE, INHERITED, *RECIPES, HALF_TEXT, DISTILBERT)
    if before.issuperset(models):
        return
    tests, plans = test_pairs(5000 + seed, 1), {recipe: planned(recipe) for recipe in (None, *RECIPES, "distilbert")}
    started = time.process_time()
    teacher = built(folder, (WIDTH, DEPTH), (WIDTH, DEPTH), seed)
    learned(teacher, 1000 + seed, {"clip": 1.0}, TEACHER_STEPS, seed)
    if "teacher" not in before:
        yield measure("teacher", seed, teacher, tests, started)
    for name in [each for each in models[1:] if each not in before]:
        started = time.process_time()
        plan = plans["distilbert" if name == DISTILBERT else name if name in RECIPES else None]
        if name in (HALF_TEXT, DISTILBERT):
            student = built(folder, (WIDTH, DEPTH), (WIDTH, DEPTH // 2), 100 + seed)
            plan = replace(plan, inherit=True, lock=("image",))
        else:
            student = built(folder, (WIDTH // 2, DEPTH // 2), (WIDTH // 2, DEPTH // 2), 100 + seed)
        if name == INHERITED:
            plan = replace(plan, inherit=True)
        if name == "mobile-clip":
            of_teacher = {"synthetic": 0.0, "scales": (float(teacher.logit_scale.detach()),)}
            plan = replace(plan, loss_options={name: of_teacher})
        if plan.inherit:
            inherit(student, teacher)
        teachers = [] if plan.losses == {"clip": 1.0} else [teacher]
        learned(student, 2000 + seed, plan.losses, steps, seed, teachers, plan.loss_options, plan.lock)
        yield measure(name, seed, student, tests, started)


def planned(recipe: str | None) -> Planned:
    """What is a packaged recipe's own; without one, CLIP's loss."""
    if recipe is None:
        return Planned({"clip": 1.0}, {}, False)
    made = resolve(recipe=f"pretraining/{recipe}", flags={"data.path": "drawn", "out": "out"})
    task = task_of(made)
    plan = task.plan(task.settled(made))
    return Planned(plan.losses, dict(plan.loss_options), plan.inherit, plan.settings.lock)


def built(folder: Path, image: tuple[int, int], text: tuple[int, int], seed: int) -> Backbone:
    """A CLIP with random weights, heads of 32, of image and text towers of a width and a depth."""
    config = {
        "embed_dim": image[0] // 2,
        "vision_cfg": {"image_size": 32, "layers": image[1], "width": image[0], "patch_size": 8, "head_width": 32},
        "text_cfg": {**TEXTS, "width": text[0], "heads": text[0] // 32, "layers": text[1]},
    }
    file = folder / f"{image}-{text}.json"
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
    lock: tuple[str, ...] = (),
) -> None:
    """So many steps."""
    source = pairs(drawn)
    look = lru_cache(maxsize=None)(lambda row: backbone.preprocess(train=False)(source.pool.images[row]))
    task = TrainingTask(
        source, losses, loss_options=dict(options or {}), teachers=list(teachers), view=lambda row, _: look(row)
    )
    epochs = -(-steps * BATCH // PAIRS)
    settings = TrainingSettings(
        epochs=epochs,
        steps=steps,
        batch_size=BATCH,
        lr=RATE,
        weight_decay=0.05,
        seed=seed,
        lock=lock,
        workers=0,
    )
    train(backbone, task, settings, None)


@lru_cache(maxsize=2)
def pairs(drawn: int) -> DrawnPairs:
    return DrawnPairs(drawn_pool(PAIRS, drawn, {}))


def measure(name: str, seed: int, backbone: Backbone, tests: Pool, started: float) -> Measured:
    """Score and costs."""
    recall, cpu = score(backbone, tests), time.process_time() - started
    # the embeddings of words are the same table for all but their width: left out
    words = backbone.model.token_embedding.weight.numel()
    parameters = sum(each.numel() for each in backbone.model.parameters()) - words
    pixels, texts = torch.randn(64, 3, 32, 32), tests.texts[:64]
    image, text = (
        milliseconds(partial(*each)) for each in ((backbone.encode_image, pixels), (backbone.encode_text, texts))
    )
    return Measured(seed, name, recall, parameters, image, text, cpu)


@torch.no_grad()
def score(backbone: Backbone, tests: Pool) -> float:
    """R@1, the mean of both ways."""
    look = backbone.preprocess(train=False)
    images = backbone.encode_image(torch.stack([look(each) for each in tests.images]))
    cosines, own = images @ backbone.encode_text(tests.texts).T, torch.arange(len(tests.texts))
    return float(torch.stack([(cosines.argmax(dim=axis) == own).float().mean() for axis in (0, 1)]).mean())


@torch.no_grad()
def milliseconds(forward: Callable[[], Any]) -> float:
    passes = []
    for _ in range(PASSES):
        started = time.process_time()
        forward()
        passes.append(1000 * (time.process_time() - started))
    return min(passes)


def table(measured: list[Measured]) -> str:
    """Markdown."""
    lines = [
        "| model | R@1 | gain, points | parameters, thousands | image tower, ms | text tower, ms |",
        "|---" * 6 + "|",
    ]
    of = {
        name: sorted((each for each in measured if each.model == name), key=lambda each: each.seed)
        for name in dict.fromkeys(each.model for each in measured)
    }
    for name, rows in of.items():
        scores = {each.seed: each.recall for each in rows}
        beside = {each.seed: each.recall for each in of.get(BESIDE.get(name, ""), [])}
        gain = interval([scores[seed] - beside[seed] for seed in scores if seed in beside]) if beside else ""
        costs = [f"{rows[0].parameters / 1000:,.0f}"]
        costs += [f"{min(getattr(each, side) for each in rows):.1f}" for side in ("image_ms", "text_ms")]
        lines.append("| " + " | ".join((name, interval(list(scores.values())), gain, *costs)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
