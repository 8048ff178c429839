"""Options of the methods that train tokens inside the towers: each counts, and only usable ones are taken."""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from vladapt import CapabilityError, ConfigError, build_adapter
from vladapt.core.registry import adapter_class

sys.path.insert(0, str(Path(__file__).parent))

from token_towers import ALL, QUICK, fitted, logits

TRAINING = {
    "epochs": (2, 4), "batch_size": (4, 12), "lr": (0.01, 0.1), "weight_decay": (0.0, 1.0), "warmup": (0, 2),
    "loss": ("cross-entropy", "clip"), "crop_scale": ((0.1, 0.2), (0.9, 1.0)), "clip_grad": (None, 1e-3),
    "amp": (None, "bf16"), "ema": (None, 0.9),
    "loss_options": ({"cross-entropy": {"label_smoothing": 0.0}}, {"cross-entropy": {"label_smoothing": 0.5}}),
}  # fmt: skip
CHANGES = {
    "vpt": {**TRAINING, "n_ctx": (1, 8), "depth": (1, 3), "prompts_a_class": (1, None)},
    "maple": {**TRAINING, "n_ctx": (2, 3), "depth": (1, 3), "ctx_init": ("a photo of a", "a drawing of a")},
    "prompt-src": {
        **TRAINING, "n_text": (2, 4), "n_image": (2, 4), "text_depth": (1, 3), "image_depth": (1, 3),
        "ctx_init": ("a photo of a", None), "text_weight": (0.0, 25.0), "image_weight": (0.0, 100.0),
        "scores_weight": (1.0, 500.0), "teacher_templates": ("published", "own"), "gpa": (True, False),
        "gpa_mean": (1.0, 3.0), "gpa_std": (0.1, 5.0),
    },
}  # fmt: skip
BASE = {"loss_options": {"loss": "cross-entropy"}, "ema": {"gpa": False}}
"""What else an option's two values need."""
SAME = {"micro_batch_size": (None, 2), "checkpointing": (False, True), "save_every": (None, 1), "workers": (0, 2)}
TOGETHER = {"select", "patience"}


@pytest.mark.parametrize("name, option", [(n, o) for n, options in CHANGES.items() for o in options])
def test_every_option_changes_the_result(make_problem, deep_clip, name, option):
    problem, found = make_problem(backbone=deep_clip), []
    known = {field.name for field in fields(adapter_class(name))}
    base = {key: value for key, value in BASE.get(option, {}).items() if key in known}
    for value in CHANGES[name][option]:
        found.append(logits(fitted(problem, name, **{**base, option: value}), problem))
    assert not torch.allclose(*found, atol=1e-4)


@pytest.mark.parametrize("option", SAME)
@pytest.mark.parametrize("name", ["maple", "prompt-src"])
def test_options_of_speed_and_memory_change_nothing(make_problem, deep_clip, name, option):
    problem = make_problem(backbone=deep_clip)
    found = [logits(fitted(problem, name, lr=0.01, **{option: value}), problem) for value in SAME[option]]
    torch.testing.assert_close(*found, atol=2e-4, rtol=1e-4)
    assert set(SAME) == adapter_class(name).cost_options


def test_no_option_goes_untested():
    for name in ALL:
        assert {f.name for f in fields(adapter_class(name)) if f.init} == {*CHANGES[name], *SAME, *TOGETHER}


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
        ("vpt", {"n_ctx": 0}, "n_ctx=0"),
        ("vpt", {"depth": 0}, "depth=0"),
        ("vpt", {"warmup": 0.5}, "warmup=0.5"),
        ("vpt", {"lr": 0}, "lr=0"),
        ("vpt", {"layer_decay": 0.5}, "layer_decay"),
        ("maple", {"n_ctx": 1.5}, "n_ctx=1.5"),
        ("maple", {"prompts_a_class": 1}, "prompts_a_class"),
        ("prompt-src", {"n_text": 0}, "n_text=0"),
        ("prompt-src", {"image_depth": 0}, "image_depth=0"),
        ("prompt-src", {"text_weight": -1}, "text_weight=-1"),
        ("prompt-src", {"text_weight": 0, "image_weight": 0, "scores_weight": 0}, "give loss=cross-entropy"),
        ("prompt-src", {"gpa_std": 0.0}, "gpa_std=0"),
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
