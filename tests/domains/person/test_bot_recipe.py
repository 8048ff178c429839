"""The recipe `person/bot`: the ResNet-50 that BoT publishes, and what it says where its weights are not here."""

import pytest
import torch
from torchvision import models

import vladapt
from vladapt.core.backbones.load import load_backbone
from vladapt.core.errors import DataError
from vladapt.core.recipes.resolve import resolve, task_of

SPEC = "timm:resnet50.tv_in1k"


def test_it_names_the_tower_that_is_published():
    recipe = resolve(recipe="person/bot")
    settled = task_of(recipe, None).settled(recipe)
    assert (settled.backbone, settled.task_options["last_stride"]) == (SPEC, 1)


def test_without_its_weights_and_offline_it_is_refused_in_one_line(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("vladapt.core.backbones.hub.cached_file", lambda *_: None)
    with pytest.raises(DataError, match=f"give {SPEC}@FILE") as refused:
        vladapt.fit(resolve(recipe="person/bot", flags={"data.path": "sample"}))
    assert "\n" not in str(refused.value)


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
