"""A ResNet whose last stage goes one cell at a time: a map of twice the size, by the same weights."""

import pytest
import timm
import torch
from open_clip.modified_resnet import ModifiedResNet
from timm.models import resnet
from torch import nn
from torchvision import models

from vladapt.core.backbones.last_stride import at_stride_one, is_timm_resnet
from vladapt.core.backbones.load import load_backbone, save_fine_tuned
from vladapt.core.errors import CapabilityError


def pixels(*size, seed=0):
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))


def loaded(spec, size=None, last_stride=1):
    backbone = load_backbone(spec, "cpu", image_size=size)
    if last_stride == 1:
        backbone.set_last_stride()
    return backbone


@pytest.mark.parametrize("size", [(64, 64), (96, 64)])
def test_the_last_map_is_twice_as_fine_and_that_of_a_resnet_made_so(open_clip_resnet, size):
    plain, fine = (loaded(open_clip_resnet, size, stride) for stride in (2, 1))
    before, after = (each.feature_maps(pixels(*size)) for each in (plain, fine))
    assert after[-1].shape[-2:] == before[-2].shape[-2:] == tuple(2 * side for side in before[-1].shape[-2:])
    assert all(torch.equal(a, b) for a, b in zip(before[:3], after[:3]))
    assert (plain.image_stride, fine.image_stride) == (32, 16) and plain.fingerprint != fine.fingerprint

    literal = ModifiedResNet(layers=[1, 1, 1, 1], output_dim=24, heads=8, image_size=64, width=8)
    literal._inplanes = 8 * 4 * 4  # what layer 3 gives
    literal.layer4 = literal._make_layer(8 * 8, 1, stride=1)
    own = {name: value for name, value in fine.model.visual.state_dict().items() if not name.startswith("attnpool")}
    assert not literal.load_state_dict(own, strict=False).unexpected_keys
    literal.eval()
    x = literal.layer4(literal.layer3(literal.layer2(literal.layer1(literal.stem(pixels(*size))))))
    torch.testing.assert_close(after[-1], x)


def test_positions_are_resampled_and_the_tower_is_open_as_before(open_clip_resnet):
    plain, fine = (loaded(open_clip_resnet, None, stride) for stride in (2, 1))
    table, finer = (each.model.visual.attnpool.positional_embedding for each in (plain, fine))
    assert (len(table), len(finer)) == (1 + 2 * 2, 1 + 4 * 4) and torch.equal(table[0], finer[0])
    image = pixels(64, 64)
    torch.testing.assert_close(fine.project(fine.hidden(image)), fine.encode_image(image), rtol=1e-4, atol=1e-5)
    assert fine.image_tokens(image)[1] == (4, 4) and not torch.allclose(
        fine.encode_image(image), plain.encode_image(image)
    )


def test_a_trained_tower_keeps_its_stride(open_clip_resnet, tmp_path):
    fine = loaded(open_clip_resnet)
    path = save_fine_tuned(fine, tmp_path)
    again, other = load_backbone(str(path), "cpu"), load_backbone(str(path), "cpu", image_size=(96, 64))
    torch.testing.assert_close(again.encode_image(pixels(64, 64)), fine.encode_image(pixels(64, 64)))
    again.set_last_stride()  # it is so already
    assert other.feature_maps(pixels(96, 64))[-1].shape[-2:] == (6, 4)
    assert other.encode_image(pixels(96, 64)).shape == (2, 24)


@pytest.mark.parametrize("name", ["BasicBlock", "Bottleneck"])
def test_timms_resnet_is_torchvisions_with_a_last_stage_of_stride_one(name):
    theirs, torchvisions = (module.ResNet(getattr(module, name), [1, 1, 1, 1]) for module in (resnet, models.resnet))
    block = getattr(models.resnet, name)
    torchvisions.inplanes = 256 * block.expansion
    torchvisions.layer4 = torchvisions._make_layer(block, 512, 1, stride=1)
    torchvisions.load_state_dict(theirs.state_dict())
    at_stride_one(theirs.eval(), name)
    literal = nn.Sequential(*list(torchvisions.eval().children())[:-2])  # without pool and head
    with torch.inference_mode():
        found = theirs.forward_features(pixels(32, 32))
        torch.testing.assert_close(found, literal(pixels(32, 32)))
    assert found.shape[-2:] == (2, 2)


def test_what_pools_otherwise_is_refused():
    blurred = timm.create_model("resnetblur18", pretrained=False)
    averaged = timm.create_model("resnet10t", pretrained=False).eval()
    at_stride_one(averaged, "x")
    assert averaged.forward_features(pixels(64, 64)).shape[-2:] == (4, 4)
    with pytest.raises(CapabilityError, match="the last stride is that of a BlurPool2d"):
        at_stride_one(blurred, "x")
    assert is_timm_resnet("resnet18.a1_in1k") and not is_timm_resnet("convnext_tiny") and not is_timm_resnet("none")


def test_timms_resnet_in_open_clip(small, tmp_path):
    vision = {"timm_model_name": "resnet10t", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64}
    config = small.open_clip_config({**vision, "layers": None, "width": None, "patch_size": None, "head_width": None})
    spec = small.write_open_clip(tmp_path, {**config, "custom_text": True})
    plain, fine = loaded(spec, None, 2), loaded(spec)
    shapes = [each.model.visual.trunk.forward_features(pixels(64, 64)).shape[-1] for each in (plain, fine)]
    assert shapes == [2, 4] and not torch.allclose(*(each.encode_image(pixels(64, 64)) for each in (plain, fine)))


def test_other_towers_are_refused_in_one_line(open_clip_vit, open_clip_resnet):
    for spec in (open_clip_vit, "embedded"):
        with pytest.raises(CapabilityError, match=r"has no ResNet for an image tower.*omit last_stride"):
            loaded(spec)
    built = loaded(open_clip_resnet, None, 2)
    built.encode_image(pixels(64, 64))
    with pytest.raises(CapabilityError, match="is built already"):
        built.set_last_stride()
