"""AUROC of several labels per image: what a run reports, and what scikit-learn makes of the same logits.

On public sets each adapter that takes several labels is fitted as users fit it. On drawn sets the truth is known:
label l moves images by d along a direction of its own, under noise 1, so no method can rank better than
Phi(d / sqrt(2)), and text that points half away from that direction ranks as well as Phi(d cos / sqrt(2)).
"""

from __future__ import annotations

import csv
import json
import math
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist, fmean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor

from vladapt import FeatureSet, load_backbone
from vladapt.core.confidence import Calibration
from vladapt.core.contracts.prepared import on_adapted
from vladapt.core.engine.fit import fit
from vladapt.core.features.batches import logits_of
from vladapt.core.features.files import load_features
from vladapt.core.recipes.resolve import resolve, task_of
from vladapt.core.registry import adapter_class, build_adapter, catalogue

from .sets import COMMON, PUBLIC, QUIET, SCENES, present, write_features

SHOTS = 16
ON_FEATURES = frozenset({"features", "views"})
SHORT = {"clip-adapter": {"epochs": 20}, "lora": {"iterations": 2}, "projection": {"epochs": 20, "views": 5}}
"""Options that keep trainings short; other towers and prompts are trained for an epoch, on 4 shots."""
SMALL_VIT = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
"""A random open_clip tower, for methods that need transformer blocks."""
TRAITS = {
    "water": ("beach", "bridge", "pond", "port", "river"),
    "plants": ("farmland", "forest", "meadow", "mountain", "park"),
    "houses": ("commercial", "industrial", "residential", "railwaystation", "airport", "port"),
    "traffic": ("airport", "bridge", "parking", "railwaystation", "viaduct", "port"),
}
CELLS = {
    "granulocyte": ("Basophil", "Eosinophil", "Neutrophil"),
    "red granules": ("Eosinophil",),
    "segmented nucleus": ("Eosinophil", "Neutrophil"),
}
SHIFTS, PRESENT, COSINE = (0.5, 1.0, 1.5, 2.0), (0.5, 0.3, 0.1, 0.6), 0.8
"""Of the drawn labels: how far each moves an image, how frequent it is, and how well its text points there."""
DRAWN_SETS, TRAINED_ON, TESTED_ON, FRESH, CHANNELS = 5, 500, 300, 20_000, 48
TEST_SETS = 160
"""On which the texts alone are scored: five may all be hard ones."""


@dataclass
class Ranked:
    """Macro AUROC that a run reports, and by how much any label's differs, at most, from scikit-learn's."""

    reported: float
    apart: float


def lines(data: Path) -> Iterator[str]:
    """A row per method on public sets."""
    with tempfile.TemporaryDirectory() as folder:
        yield from _public(data, Path(folder))


def adapters() -> list[str]:
    """All that take several labels per image, those on features first."""
    own = [name for name, entry in catalogue.adapters().items() if entry.entry_point is None]
    return sorted((n for n in own if adapter_class(n).multilabel), key=lambda n: (not _on_features(n), n))


def _on_features(name: str) -> bool:
    return adapter_class(name).needs <= ON_FEATURES


# public sets -------------------------------------------------------------------------------------------------------


def _public(data: Path, folder: Path) -> Iterator[str]:
    made = {"X-rays": _x_rays, "blood cells": _blood_cells, "scenes": _scenes}
    flags = {name: make(data, folder) for name, make in made.items()}
    flags = {name: each for name, each in flags.items() if each is not None}
    if not flags:
        return
    yield f"| method | {' | '.join(flags)} | farthest from scikit-learn |"
    yield f"|---|{'---:|' * len(flags)}---:|"
    for name in adapters():
        found = {}
        for place, each in flags.items():
            if _on_features(name):
                found[place] = ranked({**each, "shots": SHOTS}, name, SHORT.get(name, {}), folder)
            elif place == "X-rays":
                found[place] = ranked(
                    {**each, "shots": 4, **_tower(name, folder)}, name, SHORT.get(name, {"epochs": 1}), folder
                )
        cells = [f"{found[place].reported:.3f}" if place in found else "–" for place in flags]
        yield f"| `{name}` | {' | '.join(cells)} | {max(each.apart for each in found.values()):.0e} |"


def ranked(flags: dict[str, Any], name: str, options: dict[str, Any], folder: Path) -> Ranked:
    """A fit as users make it; its metrics.json against scikit-learn on the logits and on the confidences of the run."""
    flags = {**flags, "adapter": {"name": name, **options}}
    result = fit(**flags, out=str(folder / "runs"))
    reported = json.loads((result.run / "metrics.json").read_text())["adapted"]
    recipe = resolve(flags=flags)
    prepared = task_of(recipe).prepared(recipe, QUIET)
    moved = on_adapted(prepared, result.adapter)
    rows = prepared.test if moved is prepared else moved.of_ids(prepared.test.ids)
    logits = logits_of(result.adapter, moved.batches(result.adapter, rows), len(rows)).cpu()
    sure, labels, apart = Calibration.load(result.run), prepared.test.labels.cpu(), []
    scores = [logits] if sure is None else [logits, sure.probabilities(logits)]
    for c, label in enumerate(prepared.class_names):
        known = ~labels[:, c].isnan()
        truth = labels[known, c].int()
        apart += [abs(reported[f"auroc/{label}"] - roc_auc_score(truth, each[known, c])) for each in scores]
    return Ranked(reported["auroc"], max(apart))


def _tower(name: str, folder: Path) -> dict[str, str]:
    """The embedded backbone, or a small random ViT where it lacks what the method needs."""
    if build_adapter(name).backbone_needs <= load_backbone("embedded", device="cpu").capabilities:
        return {}
    (folder / "small_vit.json").write_text(json.dumps(SMALL_VIT))
    return {"backbone": f"open_clip:{folder / 'small_vit.json'}@random"}


def _x_rays(data: Path, folder: Path) -> dict[str, Any] | None:
    """Pneumonia, and whether the picture is lighter than the median one."""
    place = present(data, PUBLIC["chest X-rays"])
    if place is None:
        return None
    files = sorted(path for path in place.rglob("*") if path.is_file())
    light = np.array([np.asarray(Image.open(path).convert("L")).mean() for path in files])
    columns = {"pneumonia": [path.parent.name == "pneumonia" for path in files], "light": light > np.median(light)}
    return _with_columns(folder / "x_rays", files, columns)


def _blood_cells(data: Path, folder: Path) -> dict[str, Any] | None:
    """What cells of these classes have in common."""
    place = present(data, PUBLIC["blood cells"])
    if place is None:
        return None
    files = sorted(path for path in place.rglob("*") if path.is_file())
    return _with_columns(folder / "cells", files, {t: [f.parent.name in of for f in files] for t, of in CELLS.items()})


def _with_columns(folder: Path, files: list[Path], columns: dict[str, Any]) -> dict[str, Any]:
    """A CSV with one 0/1 column per label, beside copies of the images."""
    folder.mkdir()
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *columns])
        for number, path in enumerate(files):
            name = f"{number}{path.suffix}"
            shutil.copyfile(path, folder / name)
            writer.writerow([name, *(int(values[number]) for values in columns.values())])
    return {"domain": "medical", "data": str(folder / "labels.csv")}


def _scenes(data: Path, folder: Path) -> dict[str, Any] | None:
    """Real CLIP features; what a scene shows, by its class, and as text the mean of these classes' texts."""
    place = present(data, next(iter(SCENES.values())))
    if place is None:
        return None
    file = load_features(place)
    names = file.features.class_names
    has = torch.tensor([[name in of for of in TRAITS.values()] for name in names]).float()
    text = has.T @ file.classifier.weights
    path = write_features(folder / "scenes.npz", file.features.features, has[file.features.labels], text, list(TRAITS))
    return {"features": str(path)}


# drawn sets --------------------------------------------------------------------------------------------------------


def drawn_lines(data: Path) -> Iterator[str]:
    """A row per method on features, on drawn labels."""
    yield "| method | reported | of the same runs, on new images | intervals that hold it |"
    yield "|---|---:|---:|---:|"
    yield f"| the best there can be | – | {best():.3f} | – |"
    of_texts = fmean(_of_texts(seed) for seed in range(TEST_SETS))
    yield f"| these texts, on {TEST_SETS} sets | {of_texts:.3f} | {best(COSINE):.3f} | – |"
    with tempfile.TemporaryDirectory() as folder:
        for name in filter(_on_features, adapters()):
            reported, truth, held = zip(*(_of_drawn(name, seed, Path(folder)) for seed in range(DRAWN_SETS)))
            yield f"| `{name}` | {fmean(reported):.3f} | {fmean(truth):.3f} | {sum(held)} of {len(held)} |"


def best(cosine: float = 1.0) -> float:
    """Mean AUROC of scores that point that far along each label's direction."""
    return fmean(NormalDist().cdf(shift * cosine / math.sqrt(2)) for shift in SHIFTS)


def _of_drawn(name: str, seed: int, folder: Path) -> tuple[float, float, bool]:
    """The macro AUROC that a run reports, that of its adapter on many new images, and whether the interval holds it."""
    images, text, fresh, present_in_fresh = drawn_labels(seed)
    names, split = [f"label {c + 1}" for c in range(len(SHIFTS))], ["train"] * TRAINED_ON + ["test"] * TESTED_ON
    path = write_features(folder / f"drawn{seed}.npz", images[0], images[1], text, names, split)
    adapter = {"name": name, **SHORT.get(name, {})}
    result = fit(features=str(path), adapter=adapter, shots=SHOTS, out=str(folder / "runs"))
    logits = result.adapter.logits(FeatureSet(fresh, None, tuple(names)))
    truth = fmean(roc_auc_score(present_in_fresh[:, c].int(), logits[:, c]) for c in range(len(names)))
    low, high = result.metrics["metric_intervals"]["adapted"]["auroc"]
    return result.metrics["adapted"]["auroc"], truth, low <= truth <= high


def _of_texts(seed: int) -> float:
    """Macro AUROC of the texts' scores on one small test set."""
    (features, labels), text, _, _ = drawn_labels(seed, fresh=0)
    scores, labels = F.normalize(features[TRAINED_ON:], dim=1) @ text.T, labels[TRAINED_ON:].int()
    return fmean(roc_auc_score(*columns) for columns in zip(labels.T, scores.T))


def drawn_labels(seed: int, fresh: int = FRESH) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor, Tensor]:
    """(images, labels) to fit and test on, the texts, and many new images with labels."""
    draw = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(CHANNELS, CHANNELS, generator=draw))[0].T  # rows are orthonormal
    moves, aside, common = axes[: len(SHIFTS)], axes[len(SHIFTS) : 2 * len(SHIFTS)], axes[-1]

    def images(count: int) -> tuple[Tensor, Tensor]:
        labels = (torch.rand(count, len(SHIFTS), generator=draw) < torch.tensor(PRESENT)).float()
        noise = torch.randn(count, CHANNELS, generator=draw)
        return labels @ (torch.tensor(SHIFTS)[:, None] * moves) + COMMON * common + noise, labels

    text = COSINE * moves + math.sqrt(1 - COSINE**2) * aside
    return images(TRAINED_ON + TESTED_ON), F.normalize(text, dim=1), *images(fresh)
