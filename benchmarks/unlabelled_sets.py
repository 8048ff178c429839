"""Data sets for the judge without labels: real features of CLIP and of the default backbone, and generated ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from vladapt import FeatureSet, TextClassifier
from vladapt.core.features.files import load_features

DATA = Path(os.environ.get("VLADAPT_DATA", "../shared/data"))
CLIP_FEATURES = ("CLIP_RN50", "CLIP_ViTB32", "CLIP_ViTL14", "RemoteCLIP_ViTB32")
TEMPLATES = (
    *("a photo of a {}.", "a picture of the {}.", "an image of a {}.", "a close-up photo of a {}."),
    *("a good photo of the {}.", "a photo of one {}.", "this is a {}.", "a cropped photo of a {}."),
)
IMAGES = {
    "rsscn7": ("remote-sensing", "remote_sensing/rsscn7"),
    "whu_rs19 images": ("remote-sensing", "remote_sensing/whu_rs19"),
    "wbc": ("medical", "medical/wbc_classification"),
    "clothing": ("natural", "general/clothing"),
    "pneumoniamnist": ("medical", "medical/pneumoniamnist"),
    "grocery": ("natural", "general/grocery"),
}


@dataclass(frozen=True)
class UnlabelledSet:
    """Features with labels, which serve the scores alone.

    Args:
        name: of the data set; backbones of one set share it.
        backbone: what made the features.
    """

    name: str
    backbone: str
    features: FeatureSet
    text: TextClassifier


def clip_sets() -> Iterator[UnlabelledSet]:
    """WHU-RS19 by four real backbones: one data set."""
    folder = DATA / "features" / "whurs19_clip"
    if not folder.is_dir():
        raise SystemExit(f"there is no folder {folder}; name that of the public data in VLADAPT_DATA")
    for name in CLIP_FEATURES:
        file = load_features(folder / f"whurs19_{name}.npz")
        yield UnlabelledSet("WHU-RS19", name.replace("_", " "), file.features, file.classifier)


def image_sets(folder: Path) -> Iterator[UnlabelledSet]:
    """Six sets of images by the default backbone, whose zero-shot is near chance on most.

    Args:
        folder: where features are kept.
    """
    import vladapt
    from vladapt.core.prompts.classifier import build_classifier

    backbone = vladapt.load_backbone("embedded")
    for name, (domain, place) in IMAGES.items():
        path = folder / f"{Path(place).name}.safetensors"
        if not path.exists():
            vladapt.embed(domain=domain, data=str(DATA / place), out=str(path))
        file = load_features(path)
        text = build_classifier(backbone, file.classifier.class_names, TEMPLATES)
        yield UnlabelledSet(name, "embedded", file.features, text)


def generated_sets(count: int, first: int = 0) -> Iterator[UnlabelledSet]:
    """Generated features: classes that resemble one another in families, images about them, texts beside them, and the
    gap between images and texts; as hard as a CLIP finds sets, from 35 to 97 % right by zero-shot."""
    seed = first
    while count:
        made = _generated(seed)
        logits = made.text.logits(made.features.unit)
        accuracy = float((logits.argmax(dim=1) == made.features.labels).double().mean())
        sure = float(logits.softmax(dim=1).amax(dim=1).mean())
        if 0.35 < accuracy < 0.97 and 0.3 < sure < 0.95:
            count -= 1
            yield made
        seed += 1


def _generated(seed: int) -> UnlabelledSet:
    rng, dim = np.random.default_rng(seed), 256
    classes, per_class = int(rng.choice([5, 8, 12, 16, 20, 30, 40])), int(rng.integers(20, 60))
    families = rng.normal(size=(max(2, classes // int(rng.integers(2, 5))), dim))
    means = families[rng.integers(0, len(families), classes)] * rng.uniform(0.6, 1.4) + rng.normal(size=(classes, dim))
    means = _unit(means)
    spread, rank = rng.uniform(0.9, 1.6), int(rng.integers(10, 60))
    basis = rng.normal(size=(rank, dim))
    counts = np.maximum(8, (per_class * rng.uniform(0.6, 1.4, classes)).astype(int))
    labels = np.repeat(np.arange(classes), counts)
    shared = _unit(rng.normal(size=(len(labels), rank)) @ basis)
    images = means[labels] + spread * rng.uniform(0.7, 1.5, classes)[labels, None] * shared
    images += 0.25 * spread * rng.normal(size=images.shape) / np.sqrt(dim)
    off = rng.uniform(0.5, 1.6)
    texts = means + off * (
        0.6 * _unit(rng.normal(size=(classes, dim))) + 0.5 * _unit(rng.normal(size=(classes, rank)) @ basis)
    )
    texts = np.stack([texts + 0.5 * off * rng.normal(size=texts.shape) / np.sqrt(dim) for _ in range(8)])
    scale, gaps = rng.uniform(0.25, 0.6), _unit(rng.normal(size=(2, dim)))
    images, texts = _unit(1.6 * scale * _unit(images) + gaps[0]), _unit(scale * _unit(texts) + gaps[1])
    prototypes = torch.from_numpy(texts).float().transpose(0, 1)  # (C, 8, D)
    text = TextClassifier(F.normalize(prototypes.mean(dim=1), dim=1), prototypes=tuple(prototypes))
    features = FeatureSet(torch.from_numpy(images).float(), labels=torch.from_numpy(labels))
    return UnlabelledSet(f"generated {seed}", "generated", features, text)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)
