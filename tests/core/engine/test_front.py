"""What image towers cost beside what is reached with them."""

from __future__ import annotations

import pytest
import torch

from vladapt import load_backbone
from vladapt.core.engine.front import ImageCost, cost_of, flops_of, front
from vladapt.core.testing.towers import small_clip


def row(backbone, mean, adapter="ape", shots=4, data=""):
    return {"adapter": adapter, "shots": shots, "data": data, "backbone": backbone, "metric": "accuracy", "mean": mean}


def test_operations_are_those_of_the_products():
    backbone = small_clip()
    visual = backbone.model.visual
    width, patches = visual.conv1.out_channels, visual.positional_embedding.shape[0] - 1
    tokens = patches + 1
    block = 12 * width**2 * tokens + 2 * width * tokens**2
    total = visual.conv1.weight.numel() * patches + len(visual.transformer.resblocks) * block + visual.proj.numel()
    assert flops_of(backbone) == 2 * total


def test_cost_counts_the_image_tower_alone_and_leaves_no_gradient_behind():
    backbone = small_clip()
    cost = cost_of(backbone, batch=2)
    assert cost.parameters == pytest.approx(sum(p.numel() for p in backbone.model.visual.parameters()) / 1e6)
    assert cost.milliseconds > 0 and not any(weight.requires_grad for weight in backbone.model.parameters())
    assert torch.is_grad_enabled()


def test_merged_tokens_take_fewer_operations_the_more_are_merged():
    counts = [
        flops_of(load_backbone(f"timm:test_vit@random:0{option}", "cpu")) for option in ("", "#merge=8", "#merge=16")
    ]
    assert counts[0] > counts[1] > counts[2]


def test_the_front_names_the_best_method_at_the_most_shots_and_what_no_faster_one_reaches():
    costs = {"slow": ImageCost(9, 3, 1), "quick": ImageCost(1, 1, 1), "middle": ImageCost(4, 2, 1)}
    summary = [
        *(row("quick", 0.6), row("quick", 0.7, "lora"), row("quick", 0.99, shots=1)),
        *(row("middle", 0.7), row("slow", 0.8), row("unmeasured", 0.9)),
    ]
    shown = front(costs, summary, "adapter")
    assert [each["backbone"] for each in shown] == ["quick", "middle", "slow"]
    assert [each["score"] for each in shown] == [0.7, 0.7, 0.8] and shown[0]["adapter"] == "lora"
    assert [each["on_front"] for each in shown] == [True, False, True]


def test_over_several_sets_it_is_the_mean_of_a_method_that_ran_on_all():
    summary = [row("a", 0.5, data="x"), row("a", 0.9, data="y"), row("a", 0.95, "lora", data="y")]
    (only,) = front({"a": ImageCost(1, 1, 1)}, summary, "adapter")
    assert only["score"] == pytest.approx(0.7) and only["adapter"] == "ape"
