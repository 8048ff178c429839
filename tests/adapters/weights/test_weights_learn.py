"""What each method that trains towers changes, and that it trains as published."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from trained_towers import ALL, TEXT, fitted, moved, weights

from vladapt import build_adapter
from vladapt.core.contracts import TrainingPlace
from vladapt.core.training.batches import epoch_order
from vladapt.core.training.lora import LowRank

pytest.importorskip("peft", reason="extra fine-tune is not installed")


# What each method changes ---------------------------------------------------------------------------------------------


def test_full_changes_both_towers_and_the_scale(make_problem):
    problem = make_problem()
    names = moved(fitted(problem, "full"), problem.backbone)
    assert {"logit_scale", "visual.conv1.weight", "visual.proj", "ln_final.weight", "text_projection"} <= names
    assert any(name.startswith("transformer.resblocks.0.mlp") for name in names)


@pytest.mark.parametrize(
    ("last", "trained"), [(1, {"visual.proj", "text_projection"}), (2, {"transformer.resblocks.1"})]
)
def test_full_may_train_the_last_layers_alone(make_problem, last, trained):
    problem = make_problem()
    names = moved(fitted(problem, "full", last=last), problem.backbone)
    assert all(any(name.startswith(part) for name in names) for part in trained)
    assert not any(name.startswith(("transformer.resblocks.0", "visual.conv1", "token_embedding")) for name in names)
    if last == 1:
        assert not any("resblocks" in name for name in names)


def test_lora_changes_query_key_and_value_of_both_towers_and_nothing_else(make_problem):
    problem = make_problem()
    adapter = fitted(problem, "lora")
    names = moved(adapter, problem.backbone)
    assert names == {name for name in problem.backbone.model.state_dict() if name.endswith("attn.in_proj_weight")}
    base, now = problem.backbone.model.state_dict(), weights(adapter, problem.backbone)
    for name in names:
        for part, before in zip(now[name].chunk(3), base[name].chunk(3)):
            assert torch.linalg.matrix_rank((part - before).double(), atol=1e-6) == 2


@pytest.mark.parametrize(
    ("options", "prefixes", "parts"),
    [
        ({"towers": "image"}, {"visual."}, {0, 1, 2}),
        ({"towers": "text"}, {"transformer."}, {0, 1, 2}),
        ({"params": ("q", "v")}, {"visual.", "transformer."}, {0, 2}),
        ({"positions": "top1"}, {"visual.", "transformer.resblocks.1"}, {0, 1, 2}),
    ],
)
def test_lora_where_it_is_asked_for(make_problem, options, prefixes, parts):
    problem = make_problem()
    adapter = fitted(problem, "lora", **options)
    base, now = problem.backbone.model.state_dict(), weights(adapter, problem.backbone)
    for name in base:
        same = [torch.equal(a, b) for a, b in zip(base[name].chunk(3), now[name].chunk(3))] if base[name].ndim else []
        inside = name.endswith("in_proj_weight") and any(name.startswith(prefix) for prefix in prefixes)
        assert {i for i, kept in enumerate(same) if not kept} == (parts if inside else set()), name


def test_lit_leaves_the_locked_tower_bit_for_bit(make_problem):
    problem = make_problem()
    image_locked = moved(fitted(problem, "lit"), problem.backbone)
    assert not any(name.startswith("visual.") for name in image_locked)
    assert "logit_scale" in image_locked and any(name.startswith(TEXT) for name in image_locked)
    text_locked = moved(fitted(problem, "lit", lock="text"), problem.backbone)
    assert not any(name.startswith(TEXT) for name in text_locked)
    assert any(name.startswith("visual.") for name in text_locked)


@pytest.mark.parametrize("name", ALL)
def test_the_given_backbone_stays_and_the_adapted_one_is_another(make_problem, base_state, name):
    problem = make_problem()
    adapter = fitted(problem, name)
    adapted = adapter.adapted(problem.backbone)
    assert all(torch.equal(value, base_state[key]) for key, value in problem.backbone.model.state_dict().items())
    assert adapted is not problem.backbone and adapted is adapter.adapted(problem.backbone)
    assert len(adapted.fingerprint) == len(problem.backbone.fingerprint)
    assert adapted.fingerprint != problem.backbone.fingerprint
    assert not any(parameter.requires_grad for parameter in adapted.model.parameters()) and not adapted.model.training
    other = fitted(problem, name, seed=2).adapted(problem.backbone)
    assert other.fingerprint != adapted.fingerprint


# The published training -----------------------------------------------------------------------------------------------


def test_lora_trains_as_published(make_problem):
    """Beside a plain loop: AdamW at 2e-4 with weight decay 0.01, a cosine to 1e-6 over all steps, cross-entropy on the
    first prompts, encoded anew in each step, at a fixed logit scale."""
    problem = make_problem(classes=3, shots=4)
    plain = problem.images.eval_transform
    images = replace(problem.images, train_transform=lambda decoded, seed: plain(decoded))
    rates = []
    place = TrainingPlace(None, on_step=lambda done, total, values: rates.append(values["lr"]))
    adapter = build_adapter("lora", batch_size=6, epochs=3, dropout=0.0)
    problem.fit(adapter, seed=5, images=images, place=place)

    backbone = copy.deepcopy(problem.backbone)
    torch.manual_seed(5)
    matrices = list(LowRank.add(backbone, r=2, alpha=1, dropout=0.0).matrices.values())
    optimizer = torch.optim.AdamW(matrices, lr=2e-4, betas=(0.9, 0.999), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6, eta_min=1e-6)
    pixels, labels = problem.pixels(), problem.support.labels
    texts = [f"a colour {i} square." for i in range(3)]
    expected = []
    for epoch in range(3):
        order = epoch_order(12, epoch, 5)
        for rows in order.split(6):
            text, image = backbone.encode_text(texts), backbone.encode_image(pixels[rows])
            loss = F.cross_entropy(problem.backbone.logit_scale * image @ text.T, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            expected.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
    assert rates == pytest.approx(expected, rel=1e-6)
    for name, value in LowRank(backbone).state().items():
        torch.testing.assert_close(adapter.changed[name], value, atol=2e-6, rtol=1e-4)
    torch.testing.assert_close(adapter.weights, backbone.encode_text(texts).detach(), atol=1e-5, rtol=1e-4)
    assert adapter.logit_scale == pytest.approx(float(problem.backbone.logit_scale))


def test_lora_trains_500_steps_a_shot(make_problem):
    problem = make_problem(classes=4, shots=[16, 2, 2, 12], val=0)
    report = problem.fit(build_adapter("lora", iterations=2))  # 32 steps of one batch of 32
    assert report.chosen["steps"] == 32 and report.chosen["epochs"] == 32
    assert build_adapter("lora").iterations == 500
    published = {"lr": 2e-4, "weight_decay": 1e-2, "batch_size": 32, "r": 2, "alpha": 1.0, "dropout": 0.25}
    assert published.items() <= build_adapter("lora").options.items()
    assert build_adapter("lora").params == ("q", "k", "v") and build_adapter("lora").select == "last"


def test_full_by_the_contrastive_loss_is_that_of_the_batch(make_problem):
    """FLYP: images of a batch against a prompt of each one's class, both ways."""
    problem = make_problem(classes=3, shots=2)
    plain = problem.images.eval_transform
    images = replace(problem.images, train_transform=lambda decoded, seed: plain(decoded))
    adapter = build_adapter("full", loss="clip", epochs=1, prompts_a_class=1)
    report = problem.fit(adapter, images=images)
    backbone = problem.backbone
    order = epoch_order(6, 0, 1)
    text = backbone.encode_text([f"a colour {int(problem.support.labels[row])} square." for row in order])
    scores = backbone.logit_scale * backbone.encode_image(problem.pixels()[order]) @ text.T
    same = torch.arange(6)
    expected = (F.cross_entropy(scores, same) + F.cross_entropy(scores.T, same)) / 2
    assert report.history[0]["loss"] == pytest.approx(float(expected), rel=1e-4)


def test_default_losses_and_epochs(make_problem):
    problem = make_problem(shots=2)
    assert set(problem.fit(build_adapter("full")).history[0]) >= {"cross-entropy"}
    report = problem.fit(build_adapter("lit"))
    assert "clip" in report.history[0] and report.chosen["epochs"] == 20
