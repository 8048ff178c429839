"""The recipe `person/bot`: the ResNet-50 that BoT publishes, and what it says where its weights are not here."""

from pathlib import Path

import pytest
import torch
from torchvision import models

import vladapt
from vladapt.core.backbones.load import load_backbone
from vladapt.core.errors import DataError
from vladapt.core.recipes.resolve import resolve, task_of
from vladapt.core.training import LabelledSource
from vladapt.domains.person.losses.bot import Bot

SPEC = "timm:resnet50.tv_in1k"


def test_it_names_the_tower_that_is_published():
    recipe = resolve(recipe="person/bot")
    settled = task_of(recipe, None).settled(recipe)
    assert (settled.backbone, settled.task_options["last_stride"]) == (SPEC, 1)


def test_without_its_weights_and_offline_it_is_refused_in_one_line(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("vladapt.core.backbones.hub.cached_file", lambda *_: None)
    with pytest.raises(DataError, match=f"give {SPEC}@FILE"):
        vladapt.fit(resolve(recipe="person/bot", flags={"data.path": "sample"}))


def test_a_step_of_its_tower_is_that_of_a_resnet_written_so(tmp_path):
    """torchvision's layers and names, with `layer4` built at stride 1, in training."""
    torch.manual_seed(0)
    literal = models.resnet50(weights=None)
    torch.save(literal.state_dict(), tmp_path / "resnet50-0676ba61.pth")
    literal.layer4[0].conv2.stride = literal.layer4[0].downsample[0].stride = (1, 1)
    literal.fc = torch.nn.Identity()

    backbone = load_backbone(f"{SPEC}@{tmp_path / 'resnet50-0676ba61.pth'}", "cpu", image_size=(64, 32))
    backbone.set_last_stride()
    assert backbone.embed_dim == 2048 and backbone.feature_maps(torch.zeros(1, 3, 64, 32))[-1].shape[-2:] == (4, 2)
    trunk = backbone.model.visual.trunk
    assert trunk.state_dict().keys() == literal.state_dict().keys()

    start = trunk.conv1.weight.clone()
    pixels, labels = torch.randn(4, 3, 64, 32), torch.randn(4, 2048)
    for each, encode in ((literal, literal), (trunk, lambda x: backbone.encode_image(x, normalize=False))):
        each.train().requires_grad_(True)
        step = torch.optim.SGD(each.parameters(), lr=1e-2)
        ((encode(pixels) * labels).sum() / 64).backward()
        step.step()
    assert (trunk.conv1.weight - start).abs().max() > 1e-3
    for (name, ours), theirs in zip(trunk.state_dict().items(), literal.state_dict().values()):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4, msg=name)


def hard(distances, labels, same):
    """Of each row the farthest of the same person, or the nearest of another, as the released code mines them."""
    rows = [row[(labels == label) == same] for row, label in zip(distances, labels)]
    return torch.stack([row.max() if same else row.min() for row in rows])


def test_two_steps_of_the_recipe_are_those_of_the_released_loop(monkeypatch):
    """Smoothed identities behind the neck, hard triplets before it, centres with an optimiser of their own, Adam with
    its decay in the gradient, and the rates of the warm-up. The tower's own batch normalisations keep their statistics,
    as in every training here."""
    torch.manual_seed(0)
    tower = models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1])
    tower.fc = torch.nn.Identity()
    backbone = vladapt.Backbone.from_module(tower, image_size=(64, 32), embed_dim=512)
    items = [vladapt.Item(str(i), Path(__file__), {"index": i}, vladapt.Label(i // 4)) for i in range(16)]
    pictures = torch.randn(16, 3, 64, 32)
    labels, people = torch.tensor([item.class_label() for item in items]), 4

    starts, made = [], Bot.__post_init__

    def noted(loss):
        made(loss)
        starts.append({name: value.clone() for name, value in loss.state_dict().items()})

    monkeypatch.setattr(Bot, "__post_init__", noted)
    options = resolve(recipe="person/bot").adapter
    changed = {"batch_size": 16, "select": "last", "epochs": 2}
    adapter = vladapt.build_adapter("full", **{k: v for k, v in options.items() if k != "name"} | changed)
    source = LabelledSource(items, lambda item: item.decode["index"], [("",)] * people)
    adapter.fit_pairs(source, backbone, view=lambda index, seed=None: pictures[index])

    tower.eval()
    neck, classifier = torch.nn.BatchNorm1d(512), torch.nn.Linear(512, people, bias=False)
    neck.bias.requires_grad_(False)
    classifier.weight.data.copy_(starts[-1]["classifier.weight"])
    centers = starts[-1]["centers"].requires_grad_()
    trained = [each for part in (tower, neck, classifier) for each in part.parameters() if each.requires_grad]
    for epoch in (1, 2):
        rate = 3.5e-4 * (0.01 * (1 - epoch / 10) + epoch / 10)
        if epoch == 1:
            step = torch.optim.Adam(trained, lr=rate, weight_decay=5e-4)
            of_centers = torch.optim.SGD([centers], lr=0.5)
        step.param_groups[0]["lr"] = rate
        step.zero_grad()
        of_centers.zero_grad()
        features = tower(pictures)
        logs = classifier(neck(features)).log_softmax(dim=1)
        targets = 0.9 * torch.nn.functional.one_hot(labels, people) + 0.1 / people
        distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
        gaps = hard(distances, labels, True) - hard(distances, labels, False)
        pulled = (features - centers[labels]).square().sum(dim=1).mean()
        loss = (-targets * logs).mean(dim=0).sum() + (gaps + 0.3).relu().mean() + 5e-4 * pulled
        loss.backward()
        step.step()
        centers.grad /= 5e-4
        of_centers.step()

    found = adapter.finder_weights
    torch.testing.assert_close(found["centers"], centers.detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["classifier.weight"], classifier.weight.detach(), atol=2e-6, rtol=1e-4)
    torch.testing.assert_close(found["neck.weight"], neck.weight.detach(), atol=2e-6, rtol=1e-4)
    torch.testing.assert_close(found["neck.mean"], neck.running_mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["neck.variance"], neck.running_var, atol=1e-5, rtol=1e-4)
    ours = adapter.adapted(backbone).model.visual.trunk.state_dict()
    # where a gradient is about 0, Adam follows its rounding
    apart = [((ours[name] - theirs).abs() > 4e-6).float().mean() for name, theirs in tower.named_parameters()]
    assert torch.stack(apart).median() < 1e-4 and max(apart) < 0.1
    start = backbone.model.visual.trunk.state_dict()
    assert all((ours[name] - start[name]).abs().max() > 5e-5 for name, _ in tower.named_parameters())
