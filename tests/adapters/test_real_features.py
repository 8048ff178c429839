"""Few-shot adapters on real CLIP features: WHU-RS19 remote-sensing scenes."""

from __future__ import annotations

import pytest
from whurs19 import few_shots, whurs19

from vladapt.core.registry import build_adapter

LEARNING = ("linear-probe", "tip-adapter", "tip-adapter-f", "ape", "ape-t")


@pytest.mark.thorough(but=("ViT",))
@pytest.mark.parametrize("model, zero_shot", [("RN50", 71.54), ("ViTB32", 81.29)])
def test_16_shots_beat_zero_shot_on_real_features(data_dir, model, zero_shot):
    """Average prompt, one draw, hyper-parameters from 4 val images a class, test on all others."""
    data, text = whurs19(data_dir, model)
    accuracy = {}
    support, val, test = few_shots(data, 16, seed=1)
    for name in ("zero-shot", *LEARNING):
        adapter = build_adapter(name)
        adapter.fit(support, text, val=val, seed=1)
        right = adapter.logits(test).argmax(dim=-1) == test.labels
        accuracy[name] = 100 * float(right.double().mean())
    everything = 100 * float((text.logits(data.unit).argmax(dim=-1) == data.labels).double().mean())
    assert everything == pytest.approx(zero_shot, abs=0.01)
    for name in LEARNING:
        assert accuracy[name] > max(zero_shot, accuracy["zero-shot"]) + 10
