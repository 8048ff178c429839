"""Options of the methods that train tokens inside the towers: what the best epoch is, and what is refused."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vladapt import CapabilityError, ConfigError, build_adapter

sys.path.insert(0, str(Path(__file__).parent))

from token_towers import ALL, QUICK, fitted, logits


@pytest.mark.parametrize("name", ALL)
def test_the_best_epoch_on_val_is_kept(make_problem, name):
    problem = make_problem()
    adapter = fitted(problem, name, epochs=5, select="best_val")
    report, labels = adapter.report, torch.tensor([item.target.index for item in problem.images.val])
    scores = [row["val"] for row in report.history]
    assert report.val_score == max(scores) and report.chosen["epoch"] == scores.index(max(scores)) + 1
    assert float((logits(adapter, problem).argmax(1) == labels).double().mean()) == pytest.approx(max(scores))
    assert len(fitted(problem, name, epochs=8, select="best_val", patience=1).report.history) < 8
    with pytest.raises(CapabilityError, match="no val images"):
        fitted(problem, name, images=replace(problem.images, val=()), select="best_val")


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("vpt", {"warmup": 0.5}, "warmup=0.5"),
        ("vpt", {"layer_decay": 0.5}, "layer_decay"),
        ("maple", {"prompts_a_class": 1}, "prompts_a_class"),
        ("prompt-src", {"text_weight": 0, "image_weight": 0, "scores_weight": 0}, "give loss=cross-entropy"),
        ("prompt-src", {"gpa": False, "gpa_mean": 3.0}, "gpa_mean=3"),
        ("prompt-src", {"ema": 0.5}, "ema=0.5"),
        ("prompt-src", {"teacher_templates": ["a photo"]}, "no place for the class name"),
    ],
)
def test_options_out_of_range_are_refused(name, options, said):
    with pytest.raises(ConfigError, match=said):
        build_adapter(name, **options)


@pytest.mark.parametrize("name", ALL)
def test_published_settings(name):
    published = {
        "vpt": {"n_ctx": 8, "depth": 12, "lr": 2.5e-3},
        "maple": {"n_ctx": 2, "depth": 9, "lr": 3.5e-3, "ctx_init": "a photo of a"},
        "prompt-src": {"n_text": 4, "n_image": 4, "text_depth": 9, "image_depth": 9, "lr": 2.5e-3}
        | {"text_weight": 25.0, "image_weight": 10.0, "scores_weight": 1.0, "gpa": True},
    }
    adapter = build_adapter(name)
    common = {"batch_size": 4, "weight_decay": 5e-4, "warmup": 1, "select": "last", "loss": None}
    assert {**common, **published[name]}.items() <= adapter.options.items()
    assert adapter.default_epochs == (20 if name == "prompt-src" else 5)
    assert QUICK.keys() <= adapter.options.keys()
