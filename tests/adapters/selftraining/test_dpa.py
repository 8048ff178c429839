"""DPA: labels, weights and loss beside the released code, its training beside a loop written out."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from parity_checks.selftraining import dpa

from vladapt import CapabilityError, build_adapter, load_adapter, load_backbone
from vladapt.adapters.selftraining.dpa import PUBLISHED, REMEMBERED, DualPrototypes
from vladapt.core.training.batches import epoch_order

TERMS = {"share": 0.3, "fairness": 0.7, "alignment": 0.4, "sharpness": 20.0}


def test_it_agrees_with_the_released_code(agrees):
    agrees(dpa)


@pytest.fixture(scope="module")
def world(make_unlabelled):
    return make_unlabelled(classes=3, shots=4)


def mirrored(images):
    """Strong views are mirrored, so that they differ from the others."""
    plain = images.eval_transform
    return replace(images, train_transform=lambda decoded, seed: plain(decoded[:, ::-1].copy()))


def test_it_trains_as_published(world):
    adapter = build_adapter("dpa", lr=0.01, batch_size=5, epochs=2, **TERMS)
    report = world.fit(adapter, seed=3, images=mirrored(world.images))

    towers, scale = copy.deepcopy(world.backbone), float(world.backbone.logit_scale)
    norms = {
        n: p.requires_grad_() for n, p in towers.model.named_parameters() if n.startswith("visual.") and ".ln_" in n
    }
    rows = world.problem.classifier.weights.clone().requires_grad_()
    decayed = [rows, *(p for n, p in norms.items() if "bias" not in n)]
    groups = [{"params": decayed, "weight_decay": 0.1}]
    groups += [{"params": [p for n, p in norms.items() if "bias" in n], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    pixels, strong = world.pixels, world.pixels.flip(-1)
    memory, step, history = world.unit.clone(), 0, []
    labels = (memory @ rows.T).argmax(dim=1)
    for epoch in range(2):
        means = [memory[labels == c].mean(dim=0) if (labels == c).any() else rows[c].detach() for c in range(3)]
        centres, losses = F.normalize(torch.stack(means), dim=1), []
        for picked in epoch_order(12, epoch, 3).split(5):
            for group in optimizer.param_groups:
                group["lr"] = 2e-6 + (0.01 - 2e-6) * (1 + math.cos(math.pi * step / 6)) / 2
            text = F.normalize(rows, dim=1)
            with torch.no_grad():
                weak = towers.encode_image(pixels[picked])
                p, c = ((scale * weak @ w.T).softmax(dim=1) for w in (text, centres))
                history = [*history, p.mean(dim=0)][-REMEMBERED:]
                q = p / torch.stack(history).mean(dim=0)
                y = (0.3 * c + 0.7 * q / q.sum(dim=1, keepdim=True)).argmax(dim=1)
                at = torch.arange(len(y))
                weight = p[at, y] / p.max(dim=1).values * c[at, y] / c.max(dim=1).values
            logits = scale * towers.encode_image(strong[picked]) @ text.T
            loss = (weight * F.cross_entropy(logits, y, reduction="none")).mean()
            loss = loss - 0.7 * logits.softmax(dim=1).mean(dim=0).log().mean()
            loss = loss + 0.4 * F.cross_entropy(20.0 * centres @ text.T, torch.arange(3))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            memory[picked], labels[picked] = weak, y
            losses.append(float(loss.detach()))
            step += 1
        assert report.history[epoch]["loss"] == pytest.approx(sum(losses) / 3, rel=1e-3)
    torch.testing.assert_close(adapter.weights, F.normalize(rows.detach(), dim=1), atol=1e-4, rtol=1e-3)
    assert set(adapter.changed) == set(norms)
    for name, value in norms.items():
        torch.testing.assert_close(adapter.changed[name], value.detach(), atol=1e-4, rtol=1e-3)
    with torch.no_grad():
        expected = scale * towers.encode_image(pixels) @ F.normalize(rows, dim=1).T
    torch.testing.assert_close(world.logits(adapter), expected, atol=2e-2, rtol=1e-3)


def test_means_of_thirty_two_batches_are_remembered(make_task):
    task = make_task(classes=3, dim=8)
    loss = DualPrototypes(task.text.weights, task.test.unit, 10.0, TERMS)
    drawn = torch.Generator().manual_seed(0)
    seen = []
    for _ in range(REMEMBERED + 3):
        now = torch.rand(3, generator=drawn)
        seen.append(now)
        torch.testing.assert_close(loss._mean_with(now), torch.stack(seen[-REMEMBERED:]).mean(dim=0))
        loss._noted = torch.tensor([0]), task.test.unit[:1], torch.tensor([1]), now
        loss.after_step(None)
    assert int(loss.labels[0]) == 1


def test_published_settings(world):
    assert build_adapter("dpa").setting("lr") == 1e-5
    for name, lr, share in (("dtd", 5e-5, 0.2), ("oxford_pets", 7e-5, 0.01), ("eurosat", 3e-5, 0.5)):
        adapter = build_adapter("dpa", preset=name)
        assert (adapter.setting("lr"), adapter.setting("share")) == (lr, share)
    assert build_adapter("dpa", preset="eurosat", alignment=2.0).setting("alignment") == 2.0 and len(PUBLISHED) == 11
    report = world.fit(build_adapter("dpa", preset="eurosat", sharpness=3.0))
    chosen = {"epochs": 10, "lr": 3e-5, "alignment": 0.01, "sharpness": 3.0, "fairness": 1.0}
    assert chosen.items() <= report.chosen.items()
    assert report.trained_parameters == 3 * 24 + 8 * 32


def test_a_file_gives_the_same_logits_and_pairs_are_refused(world, small_clip_spec, tmp_path):
    adapter = build_adapter("dpa", lr=0.01, batch_size=4, epochs=1)
    world.fit(adapter)
    fresh = load_backbone(small_clip_spec, device="cpu")
    again = load_adapter(adapter.save(tmp_path / "a.safetensors"), fresh)
    assert torch.equal(world.logits(again, fresh), world.logits(adapter))
    with pytest.raises(CapabilityError, match="pairs do not have"):
        adapter.fit_pairs(None, fresh)
