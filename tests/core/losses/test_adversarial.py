"""FARE and TeCoA: the attack within the step, and what is learned by it."""

from __future__ import annotations

import pytest
import torch
from parity_checks import adversarial_losses

from vladapt import CapabilityError, build_loss
from vladapt.core.backbones.load import load_backbone
from vladapt.core.errors import ConfigError
from vladapt.core.losses._adversarial import START
from vladapt.core.training.parts import Parts, TrainingTask
from vladapt.core.training.settings import TrainingSettings

PROMPTS = [[f"a {colour} area"] for colour in ("red", "green", "blue", "yellow")]


@pytest.mark.parametrize("comparison", adversarial_losses.GROUPS, ids=lambda each: each.method)
def test_it_agrees_with_the_released_code(comparison, agrees):
    agrees(comparison)


@pytest.fixture(scope="module")
def towers(small_clip_spec):
    return load_backbone(small_clip_spec, device="cpu")


def batch_of(towers, loss, count=4):
    generator = torch.Generator().manual_seed(0)
    size = towers.image_size
    images = torch.rand(count, 3, size, size, generator=generator)
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (towers.image_mean, towers.image_std))
    classes = towers.encode_text([texts[0] for texts in PROMPTS])
    torch.manual_seed(0)
    start = torch.stack([loss.further_views(towers)[START](image) for image in images])
    batch = {
        "pixels": (images - mean) / std,
        START: start,
        "class_features": classes,
        "labels": torch.arange(count) % 4,
    }
    return images, batch, (mean, std)


@pytest.mark.parametrize("name", ["fare", "tecoa"])
@pytest.mark.parametrize(
    "other", [{"eps": 1.0}, {"step": 0.5}, {"steps": 2}, {"norm": "l2", "eps": 0.5, "step": 0.1}], ids=str
)
def test_every_option_changes_the_attack(towers, name, other):
    values = []
    for options in ({}, other):
        loss = build_loss(name, **options)
        loss.prepare(towers)
        batch = batch_of(towers, loss)[1]
        out = {**loss.further_outputs(batch, towers), **batch}
        values.append(float(loss(out)["loss"]))
    assert values[0] != values[1]


@pytest.mark.parametrize("name", ["fare", "tecoa"])
def test_attacked_images_lose_more_than_drawn_ones_and_stay_in_the_ball(towers, name):
    loss, still = build_loss(name, steps=3), build_loss(name, steps=1, step=1e-6)
    for each in (loss, still):
        each.prepare(towers)
    images, batch, (mean, std) = batch_of(towers, loss)
    seen = []

    def watched(pixels):
        seen.append(pixels.detach() * std + mean)
        return towers.encode_image(pixels).sum(dim=1)

    towers.model.train()
    attacked = loss.attacked(batch, towers, watched) * std + mean
    assert towers.model.training
    towers.model.eval()
    assert len(seen) == 3 and (attacked - images).abs().amax() <= 4 / 255 + 1e-5
    values = [float(each({**each.further_outputs(batch, towers), **batch})["loss"]) for each in (loss, still)]
    assert values[0] > values[1]


@pytest.mark.parametrize("name", ["fare", "tecoa"])
def test_no_step_copies_numbers_of_the_host_for_which_a_device_would_be_waited_for(towers, name, monkeypatch):
    loss = build_loss(name, steps=1)
    loss.prepare(towers)
    batch = batch_of(towers, loss)[1]
    monkeypatch.setattr(torch.Tensor, "new_tensor", None)
    monkeypatch.setattr(torch, "tensor", None)
    assert loss.further_outputs(batch, towers).keys() == loss.outputs.keys()
    assert not any("mean" in key or "std" in key for key in loss.state_dict())


@pytest.mark.parametrize("name", ["fare", "tecoa"])
def test_attacks_do_less_to_towers_that_learn_from_it(small_clip_spec, name):
    towers, loss = load_backbone(small_clip_spec, device="cpu"), build_loss(name, steps=3, eps=8.0, step=4.0)
    loss.prepare(towers)
    batch, image_tower = batch_of(towers, loss, 8)[1], towers.model.visual.requires_grad_(True)
    adam, values = torch.optim.Adam(image_tower.parameters(), lr=3e-4), []
    for _ in range(12):
        value = loss({**loss.further_outputs(batch, towers), **batch})["loss"]
        adam.zero_grad()
        value.backward()
        adam.step()
        values.append(value.item())
    assert values[-1] < 0.8 * values[0]


def test_rows_of_patches_are_refused(towers, monkeypatch):
    monkeypatch.setattr(towers, "in_rows", True)
    with pytest.raises(CapabilityError, match="loss 'fare' attacks images of one size"):
        build_loss("fare").prepare(towers)


@pytest.mark.parametrize("name", ["fare", "tecoa"])
def test_sharded_towers_are_refused_before_a_step(name, towers, monkeypatch):
    monkeypatch.setattr("vladapt.core.training.parts.world_size", lambda: 2)
    task = TrainingTask(None, {}, own={name: build_loss(name)})
    with pytest.raises(ConfigError, match=f"option parallel=fsdp: loss '{name}' has passes of its own within a step"):
        Parts(towers, task, TrainingSettings(parallel="fsdp"))
