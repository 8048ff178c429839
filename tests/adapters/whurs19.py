"""Stored CLIP features of WHU-RS19, real scenes from above, and draws of some images a class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vladapt.core.contracts import FeatureSet, TextClassifier


def whurs19(data_dir: Path, model: str) -> tuple[FeatureSet, TextClassifier]:
    path = data_dir / "features" / "whurs19_clip" / f"whurs19_CLIP_{model}.npz"
    if not path.is_file():
        pytest.skip("the whurs19 features are not there")
    with np.load(path) as stored:
        features = F.normalize(torch.from_numpy(stored["image_features"].astype(np.float32)), dim=-1)
        text = TextClassifier(torch.from_numpy(stored["text_average"].astype(np.float32)))
        return FeatureSet(features, torch.from_numpy(stored["labels"]), raw_norms=False), text


def few_shots(data: FeatureSet, shots: int, seed: int, val: int = 4) -> tuple[FeatureSet, ...]:
    """Support, `val` images a class, the same for any number of shots, and all beyond the first 20 of a class."""
    generator = torch.Generator().manual_seed(seed)
    rows: tuple[list[int], ...] = ([], [], [])
    for label in data.labels.unique():
        of_class = (data.labels == label).nonzero().flatten()
        of_class = of_class[torch.randperm(len(of_class), generator=generator)].tolist()
        for part, drawn in zip(rows, (of_class[:shots], of_class[16 : 16 + val], of_class[20:]), strict=True):
            part += drawn
    return tuple(map(data.select, rows))
