"""What attacks leave of a small tower, and of the same one after TeCoA and FARE.

    python benchmarks/robust_towers.py            # prints the table; some five minutes of one core

Gratings of four classes (lying or standing, coarse or fine), 32 x 32 pixels, weak and noisy, are told apart by a small
CLIP that is trained on 640 of them by cross-entropy with the texts of their classes. Copies of it are then trained on
the same images by `tecoa` and by `fare`, with attacks of 4/255. Of each, 100 other images are attacked: accuracy as
they are, after PGD of ten steps (an image stays wrong that was wrong), and after APGD, with cross-entropy and three
targets, ten steps each. Three seeds, of weights and images; intervals are over all images of these.
"""

from __future__ import annotations

import json
import tempfile
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from usage import print_help

from vladapt import Item, Label
from vladapt.core.backbones.load import load_backbone
from vladapt.core.contracts.backbone import Backbone
from vladapt.core.metrics.intervals import share_interval
from vladapt.core.robustness.apgd import fooled_by_apgd, log_odds_against
from vladapt.core.robustness.pgd import LEVELS, drawn_offsets, pgd
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.sources import LabelledSource
from vladapt.core.training.train import TrainingTask, train

SEEDS = (1, 2, 3)
SIDE, TRAIN, TEST = 32, 640, 100
FREQUENCIES = (2, 5)
NAMES = [f"{way} lines, {count}" for way in ("lying", "standing") for count in FREQUENCIES]
CONTRAST, NOISE = 0.12, 0.06
CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1},
}
CLEAN = {"epochs": 12, "lr": 2e-3}
ROBUST = {"epochs": 6, "lr": 1e-3}
SHARED = {"batch_size": 64, "weight_decay": 1e-4, "warmup": 0.07, "crop_scale": (0.9, 1.0)}
PGD = (2, 4)
"""Largest changes of a pixel, in 255ths."""
APGD, APGD_STEPS = 4, 10
COLUMNS = ("clean", *(f"PGD {radius}/{LEVELS}" for radius in PGD), f"APGD {APGD}/{LEVELS}")


def main() -> None:
    right: dict[str, list[Tensor]] = {"cross-entropy": [], "then tecoa": [], "then fare": []}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "small.json"
        config.write_text(json.dumps(CONFIG), encoding="utf-8")
        for seed in SEEDS:
            start = load_backbone(f"open_clip:{config}@random:{seed}", device="cpu")
            learn(start, "cross-entropy", seed, CLEAN)
            right["cross-entropy"].append(judged(start, seed))
            for loss in ("tecoa", "fare"):
                tower = deepcopy(start)
                learn(tower, loss, seed, ROBUST)
                right[f"then {loss}"].append(judged(tower, seed))
    print(f"| training | {' | '.join(COLUMNS)} |")
    print(f"|---|{'---|' * len(COLUMNS)}")
    for name, of in right.items():
        print(f"| {name} | {' | '.join(map(in_words, torch.cat(of, dim=1)))} |")


def drawn(row: int, seed: int, part: str) -> np.ndarray:
    """(32, 32, 3) in 0..1, of class `row` modulo 4."""
    rng = np.random.default_rng([seed, row, len(part)])
    label = row % len(NAMES)
    wave = np.sin(2 * np.pi * (FREQUENCIES[label % len(FREQUENCIES)] * np.arange(SIDE) / SIDE + rng.uniform()))
    grey = wave[:, None] if label < len(FREQUENCIES) else wave[None]
    noise = rng.normal(0, NOISE, (SIDE, SIDE, 3))
    return (0.5 + CONTRAST * rng.uniform(0.6, 1) * grey[..., None] + noise).clip(0, 1).astype(np.float32)


def learn(tower: Backbone, loss: str, seed: int, settings: dict) -> None:
    items = [Item(f"{row}", Path(__file__), {"row": row}, target=Label(row % len(NAMES))) for row in range(TRAIN)]
    prompts = [[f"a picture of {name}"] for name in NAMES]
    source = LabelledSource(items, lambda item: drawn(item.decode["row"], seed, "train"), prompts)
    task = TrainingTask(source, {loss: 1.0}, class_prompts=prompts)
    lock = {"lock": ("text",)}  # the texts of classes stay where they are, for all three
    train(tower, task, TrainingSettings(seed=seed, **lock, **SHARED, **settings), None)


def judged(tower: Backbone, seed: int) -> Tensor:
    """(1 + R + 1, n) which test images are right: as they are, and after each attack."""
    images = torch.from_numpy(np.stack([drawn(row, seed, "test") for row in range(TEST)])).permute(0, 3, 1, 2)
    labels = torch.arange(TEST) % len(NAMES)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (tower.image_mean, tower.image_std))
    with torch.no_grad():
        texts = tower.encode_text([f"a picture of {name}" for name in NAMES])

    def logits(at: Tensor) -> Tensor:
        return 100 * tower.encode_image((at - mean) / std) @ texts.T

    offsets = drawn_offsets(images, seed)
    with torch.no_grad():
        rows = [logits(images).argmax(dim=1) == labels]
    for radius in PGD:
        how = {"eps": radius / LEVELS, "step": 1 / LEVELS, "steps": 10, "start": radius / LEVELS * offsets}
        attacked = pgd(lambda at: log_odds_against(logits(at), labels), images, **how)
        with torch.no_grad():
            rows.append(rows[0] & (logits(attacked).argmax(dim=1) == labels))
    how = {"eps": APGD / LEVELS, "start": offsets, "steps": APGD_STEPS}
    rows.append(~fooled_by_apgd(logits, images, labels, **how))
    return torch.stack(rows)


def in_words(right: Tensor) -> str:
    low, high = share_interval(right)
    return f"{100 * right.double().mean():.1f} ({100 * low:.1f} to {100 * high:.1f})"


if __name__ == "__main__":
    print_help(__doc__)
    main()
