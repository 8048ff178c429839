"""PromptSRC: its teacher, its average over epochs, and its training beside the reference code."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from parity_checks.towers import KINDS, prompt_src, prompt_src_trained

from vladapt import build_adapter
from vladapt.core.training.hooks import newest_share

sys.path.insert(0, str(Path(__file__).parent))

from token_towers import fitted


def gaussian(mean, std, epochs):
    weights = np.array([math.exp(-((e - mean) ** 2) / (2 * std**2)) for e in range(1, epochs + 1)])
    return weights / weights.sum()


def shares(mean, std, epochs):
    """What the running average leaves of each epoch at the end."""
    newest = [newest_share(e, mean, std) for e in range(1, epochs + 1)]
    return [share * math.prod(1 - later for later in newest[e + 1 :]) for e, share in enumerate(newest)]


@pytest.mark.parametrize(("mean", "std", "epochs"), [(15, 1, 20), (6, 10, 20), (30, 30, 50), (45, 5, 50)])
def test_the_published_averages(mean, std, epochs):
    assert shares(mean, std, epochs) == pytest.approx(gaussian(mean, std, epochs), abs=1e-9)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (15.0, 1.0)),
        ({"epochs": 4}, (3.0, 0.2)),
        ({"epochs": 50, "gpa_mean": 30}, (30.0, 2.5)),
        ({"gpa_std": 10}, (15.0, 10.0)),
        ({"gpa": False}, None),
    ],
    ids=str,
)
def test_the_average_moves_with_the_epochs(options, expected):
    adapter = build_adapter("prompt-src", **options)
    found = adapter._settings_of_method(adapter.epochs or adapter.default_epochs).get("epoch_average")
    assert found == (expected if expected is None else pytest.approx(expected))


# The teacher ----------------------------------------------------------------------------------------------------------


def test_the_teacher_reads_the_first_60_of_clips_templates(make_problem, small_clip):
    """With their norms, then made unit."""
    open_clip = pytest.importorskip("open_clip")
    problem = make_problem()
    adapter = build_adapter("prompt-src")
    adapter.class_names_ = problem.classifier.class_names
    with torch.no_grad():
        texts = [[t(name) for t in open_clip.OPENAI_IMAGENET_TEMPLATES[:60]] for name in adapter.class_names_]
        raw = torch.stack([small_clip.encode_text(some, normalize=False).mean(dim=0) for some in texts])
        found = adapter._frozen_classes(small_clip, problem.images)
    torch.testing.assert_close(found, F.normalize(raw, dim=-1), atol=1e-5, rtol=1e-4)
    for chosen in ("own", problem.images.templates):
        adapter.teacher_templates = chosen
        own = F.normalize(problem.classifier.unnormalized, dim=-1)
        torch.testing.assert_close(adapter._frozen_classes(small_clip, problem.images), own, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found, own, atol=1e-3)


def test_the_terms_are_told_and_may_be_left_out(make_problem):
    problem = make_problem()
    row = fitted(problem, "prompt-src").report.history[-1]
    regulation = 25 * row["self-regulation.text"] + 10 * row["self-regulation.image"] + row["self-regulation.scores"]
    assert row["self-regulation"] == pytest.approx(regulation, rel=1e-4)
    assert row["loss"] == pytest.approx(row["cross-entropy"] + regulation, rel=1e-4)
    given = fitted(problem, "prompt-src", loss_options={"self-regulation": {"text": 0.0}}).report.history[0]
    assert given["self-regulation"] == pytest.approx(
        10 * given["self-regulation.image"] + given["self-regulation.scores"], rel=1e-4
    )
    assert "self-regulation" not in fitted(problem, "prompt-src", loss="cross-entropy").report.history[0]


def test_it_stays_nearer_to_the_towers_it_came_from(make_problem, deep_clip):
    problem = make_problem(backbone=deep_clip)
    free, held = (
        fitted(problem, "prompt-src", epochs=10, **options) for options in ({"loss": "cross-entropy"}, {"lr": 0.005})
    )
    pixels = problem.pixels(problem.images.val)
    plain = deep_clip.encode_image(pixels)
    drift = [float((a.adapted(deep_clip).encode_image(pixels) - plain).norm()) for a in (free, held)]
    assert drift[1] < drift[0]


# The reference --------------------------------------------------------------------------------------------------------


def test_training_agrees_with_the_reference(agrees):
    """A few epochs of one step: each loss, the averaged tokens, and the logits they give."""
    agrees(prompt_src)


def test_the_averaged_tokens_are_not_the_last_ones(references, parity):
    for ref in references(prompt_src):
        adapter, _ = prompt_src_trained(ref, parity)
        for kind, name in KINDS.items():
            for block, tokens in enumerate(adapter.changed[f"{kind}.tokens"]):
                assert not ref.check(tokens, f"final_last__{name}_prompt_{block}").share <= 1
