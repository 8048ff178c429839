"""StatA against outputs of the public reference code, and on real features."""

from __future__ import annotations

import pytest
import torch
from parity_checks.transductive import anchored

from vladapt.core.registry import build_adapter


def test_agrees_with_the_released_code(agrees):
    agrees(anchored)


@pytest.mark.parametrize("model", ["CLIP_RN50", "CLIP_ViTB32", "CLIP_ViTL14", "RemoteCLIP_ViTB32"])
def test_all_images_of_real_features(whurs19, model):
    """1,005 images of 19 classes, without a label."""
    data, text = whurs19(model)
    adapter = build_adapter("stat-a")
    adapter.fit(None, text, unlabeled=data.without_labels())
    before, after = (right(logits, data.labels) for logits in (text.logits(data.unit), adapter.logits(data)))
    assert after > before + 0.02 and after > 0.9


@pytest.mark.parametrize("model", ["CLIP_RN50", "CLIP_ViTB32"])
def test_it_stands_images_of_few_classes_where_transclip_falls(whurs19, model):
    """64 images of 1 to 4 of the 19 classes: mean of 12 batches."""
    (data, text), generator, sums = whurs19(model), torch.Generator().manual_seed(0), {}
    for batch in range(12):
        present = torch.randperm(len(text), generator=generator)[: 1 + batch % 4]
        pool = torch.isin(data.labels, present).nonzero().flatten()
        images = data.select(pool[torch.randperm(len(pool), generator=generator)[:64]])
        answers = {"zero-shot": text.logits(images.unit)}
        for name, options in (("transclip", {"mode": "zero-shot"}), ("stat-a", {})):
            adapter = build_adapter(name, **options)
            adapter.fit(None, text, unlabeled=images.without_labels())
            answers[name] = adapter.logits(images)
        for name, logits in answers.items():
            sums[name] = sums.get(name, 0.0) + right(logits, images.labels) / 12
    assert sums["stat-a"] > sums["zero-shot"] + 0.01 > sums["transclip"] + 0.15


def right(logits, labels):
    return float((logits.argmax(dim=1) == labels).double().mean())
