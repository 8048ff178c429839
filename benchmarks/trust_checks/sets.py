"""The sets that tables share: public images by the embedded backbone, public CLIP features, and drawn Gaussians."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vladapt import Adapter, FitReport
from vladapt.core.confidence import Calibration
from vladapt.core.contracts.judgement import FIT, Scores
from vladapt.core.contracts.prepared import Shots
from vladapt.core.judgements.calibration import calibration_of
from vladapt.core.recipes.resolve import resolve, task_of
from vladapt.core.runtime.progress import Reporter
from vladapt.core.tasks.classification.scoring import ClassificationFit

QUIET = Reporter(quiet=True)
PUBLIC = {
    "blood cells": "medical/wbc_classification/images",
    "chest X-rays": "medical/pneumoniamnist/images",
    "groceries": "general/grocery/images",
    "clothing": "general/clothing/images",
    "satellite scenes": "remote_sensing/whu_rs19/images",
    "land use": "remote_sensing/rsscn7/images",
}
SCENES = {
    "scenes, CLIP RN50": "features/whurs19_clip/whurs19_CLIP_RN50.npz",
    "scenes, CLIP ViT-B/32": "features/whurs19_clip/whurs19_CLIP_ViTB32.npz",
}
SAMPLE = "drawn cells"
"""The sample of the medical domain, which `make fit` fits."""
COMMON = 20.0
"""Length of what all drawn images share, of noise 1 per channel: as in CLIP's features, cosines are all near 1."""


def present(data: Path, place: str) -> Path | None:
    """A public file or folder; where it is absent None, and a line that says so."""
    path = data / place
    if path.exists():
        return path
    print(f"skipped: there is no {path}; name the folder of the public data in VLADAPT_DATA", file=sys.stderr)
    return None


def prepared(data: Path, name: str):
    """A set by its name, split by the seed 1: what a fit draws from. None where it is absent."""
    if name == SAMPLE:
        return prepared_at("sample")
    path = present(data, SCENES.get(name) or PUBLIC[name])
    return None if path is None else prepared_at(str(path))


@cache
def prepared_at(path: str, split_seed: int = 1):
    """The images of a folder by the embedded backbone, or the rows of a features file."""
    if path.endswith(".npz"):
        recipe = resolve(flags={"features": path, "split_seed": split_seed})
        return task_of(recipe).prepared(recipe, QUIET)
    recipe = resolve(flags={"domain": "medical", "data.path": path, "split_seed": split_seed})
    return task_of(recipe).prepared(recipe, QUIET)


def calibration_of_fit(prepared, adapter: Adapter, report: FitReport, drawn: Shots, seed: int) -> Calibration | None:
    """What a fit keeps to say how sure it is; None where nothing can be said."""
    of_fit = {"adapter": adapter, "report": report, "shots": drawn, "seed": seed, "class_names": prepared.class_names}
    unscored = Scores(drawn.test.labels, None, torch.empty(0), {})
    how = {"at": FIT, "reporter": QUIET, "scores": unscored, "prepared": prepared, "test": drawn.test}
    return calibration_of(ClassificationFit(**of_fit, **how))[0]


def drawn_classes(file: Path, seed: int, counts: dict[str, list[int]], text_noise: float = 1.5) -> Path:
    """A features file of Gaussian classes: centres in 96 channels, correlated noise, texts that know them roughly.

    Args:
        file: .npz to write.
        seed: fixes centres and draws.
        counts: split -> images of each class; one split "" leaves the division to the fit.
        text_noise: how far texts are from their centres, in their distances from each other.
    """
    draw, dim = torch.Generator().manual_seed(seed), 96
    classes = len(next(iter(counts.values())))
    centres, common = torch.randn(classes, dim, generator=draw), 2 * torch.randn(dim, generator=draw)
    mix = 2 * torch.randn(dim, dim, generator=draw) / dim**0.5
    text = centres + text_noise * torch.randn(classes, dim, generator=draw) + common
    labels = torch.cat([torch.arange(classes).repeat_interleave(torch.tensor(each)) for each in counts.values()])
    split = [name for name, each in counts.items() for _ in range(sum(each))]
    features = centres[labels] + common + torch.randn(len(labels), dim, generator=draw) @ mix
    return write_features(file, features, labels, text, [f"class {c + 1}" for c in range(classes)], split)


def write_features(
    file: Path, features: Tensor, labels: Tensor, text: Tensor, names: list[str], split: list[str] | None = None
) -> Path:
    """A features file; see docs on `--features`."""
    arrays = {"image_features": features, "labels": labels, "text_features": F.normalize(text, dim=1)}
    words = {"class_names": np.array(names)} | ({} if split is None else {"split": np.array(split)})
    np.savez(file, **{key: value.numpy() for key, value in arrays.items()}, **words)
    return file
