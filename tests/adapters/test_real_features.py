"""Few-shot adapters on real CLIP features: WHU-RS19 remote-sensing scenes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vladapt.core.contracts import FeatureSet, TextClassifier
from vladapt.core.registry import build_adapter

LEARNING = ("linear-probe", "tip-adapter", "tip-adapter-f", "ape", "ape-t")


def whurs19(data_dir, model):
    path = data_dir / "features" / "whurs19_clip" / f"whurs19_CLIP_{model}.npz"
    if not path.is_file():
        pytest.skip("the whurs19 features are not there")
    with np.load(path) as stored:
        features = F.normalize(torch.from_numpy(stored["image_features"].astype(np.float32)), dim=-1)
        text = TextClassifier(torch.from_numpy(stored["text_average"].astype(np.float32)))
        return FeatureSet(features, torch.from_numpy(stored["labels"]), raw_norms=False), text


def sixteen_shots(labels, seed):
    """Rows of 16 support and 4 val images a class, and of all others."""
    generator = torch.Generator().manual_seed(seed)
    support, val, test = [], [], []
    for label in labels.unique():
        rows = (labels == label).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=generator)].tolist()
        support, val, test = support + rows[:16], val + rows[16:20], test + rows[20:]
    return support, val, test


@pytest.mark.thorough(but=("ViT",))
@pytest.mark.parametrize("model, zero_shot", [("RN50", 71.54), ("ViTB32", 81.29)])
def test_16_shots_beat_zero_shot_on_real_features(data_dir, model, zero_shot):
    """Average prompt, one draw, hyper-parameters from 4 val images a class, test on all others."""
    data, text = whurs19(data_dir, model)
    accuracy = {}
    support, val, test = (data.select(rows) for rows in sixteen_shots(data.labels, seed=1))
    for name in ("zero-shot", *LEARNING):
        adapter = build_adapter(name)
        adapter.fit(support, text, val=val, seed=1)
        right = adapter.logits(test).argmax(dim=-1) == test.labels
        accuracy[name] = 100 * float(right.double().mean())
    everything = 100 * float((text.logits(data.unit).argmax(dim=-1) == data.labels).double().mean())
    assert everything == pytest.approx(zero_shot, abs=0.01)
    for name in LEARNING:
        assert accuracy[name] > max(zero_shot, accuracy["zero-shot"]) + 10
