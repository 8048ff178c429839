"""Encoders of timm and torchvision: their own features from their own pixels, opened where the architecture allows."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_model_data_config
from torchvision import models

from vladapt.core.backbones.load import load_backbone, save_fine_tuned
from vladapt.core.contracts.images import InputChannels
from vladapt.core.errors import CapabilityError, ConfigError, DataError, UnknownNameError

BLOCKS = {"hidden", "image_tokens", "feature_maps", "image_blocks"}
TIMM = {
    "test_vit": BLOCKS,
    "test_resnet": BLOCKS - {"image_blocks"},
    "test_efficientnet": BLOCKS - {"image_blocks"},
    "test_byobnet": {"hidden"},
    "vit_tiny_patch16_224": BLOCKS,
    "vit_small_patch16_18x2_224": {"hidden"},  # two attentions side by side
}


def pixels(backbone, seed=0):
    return torch.randn(2, 3, *backbone.transform.sides, generator=torch.Generator().manual_seed(seed))


def picture(height, width):
    return Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8))


def saved(model, path):
    save_file(model.state_dict(), path)
    return path


@pytest.mark.thorough(but=("vit_tiny", "test_"))
@pytest.mark.parametrize("name", TIMM)
def test_features_of_timm_are_its_own(name, tmp_path):
    torch.manual_seed(3)
    whole = timm.create_model(name, pretrained=False).eval()  # with a classifier, as published
    backbone = load_backbone(f"timm:{name}@{saved(whole, tmp_path / 'w.safetensors')}", "cpu")
    assert backbone.capabilities == TIMM[name] and not backbone.has_text
    x = pixels(backbone)
    with torch.no_grad():
        theirs = whole.forward_head(whole.forward_features(x), pre_logits=True)
    features = backbone.encode_image(x, normalize=False)
    assert features.shape == (2, backbone.embed_dim)
    torch.testing.assert_close(features, theirs)
    torch.testing.assert_close(backbone.hidden(x), theirs, atol=1e-5, rtol=1e-5)
    if "image_blocks" in backbone.capabilities:
        blocks = backbone.pool_image(backbone.run_blocks("image", backbone.embed_image(x)), normalize=False)
        torch.testing.assert_close(blocks, theirs, atol=1e-5, rtol=1e-5)
    if "image_tokens" in backbone.capabilities:
        tokens, (rows, columns) = backbone.image_tokens(x)
        assert tokens.shape == (2, rows * columns, backbone.embed_dim)
        assert rows * backbone.image_stride == backbone.transform.sides[0]


@pytest.mark.parametrize(
    "name", ["test_vit.r160_in1k", "resnet50.tv_in1k", "resnet50.a1_in1k", "tf_efficientnetv2_b3.in21k_ft_in1k"]
)
def test_pixels_are_those_of_timms_data_configuration(name):
    backbone = load_backbone(f"timm:{name}@random:0", "cpu")
    theirs = create_transform(**resolve_model_data_config(timm.create_model(name, pretrained=False)), is_training=False)
    for size in ((300, 420), (500, 310), (90, 90)):
        torch.testing.assert_close(backbone.preprocess()(picture(*size)), theirs(picture(*size)))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_features_and_pixels_of_torchvision_are_its_own(name, tmp_path):
    torch.manual_seed(3)
    whole = models.get_model(name, weights=None).eval()
    backbone = load_backbone(f"torchvision:{name}@{saved(whole, tmp_path / 'w.safetensors')}", "cpu")
    last = list(whole.named_modules())[-1][0]
    whole.set_submodule(last, torch.nn.Identity())
    x = pixels(backbone)
    with torch.no_grad():
        theirs = whole(x)
    torch.testing.assert_close(backbone.encode_image(x, normalize=False), theirs)
    torch.testing.assert_close(backbone.hidden(x), theirs)
    image = picture(300, 420)
    transforms = models.get_model_weights(name).DEFAULT.transforms()
    torch.testing.assert_close(backbone.preprocess()(image), transforms(image))


def test_a_file_named_as_torchvision_names_it_is_prepared_as_its_own_weights(tmp_path):
    whole = models.resnet50(weights=None)
    for file, resize in (("resnet50-0676ba61.pth", 256), ("resnet50-11ad3fa6.pth", 232)):
        torch.save(whole.state_dict(), tmp_path / file)
        assert load_backbone(f"torchvision:resnet50@{tmp_path / file}", "cpu").transform.resize == resize


@pytest.mark.parametrize("family", ["timm:test_resnet", "torchvision:resnet18"])
def test_the_last_stage_at_stride_one(family):
    plain, fine = (load_backbone(f"{family}@random:0", "cpu", image_size=(96, 64)) for _ in range(2))
    fine.set_last_stride()
    x = pixels(plain)
    before, after = plain.feature_maps(x), fine.feature_maps(x)
    assert before[-1].shape[-2:] == (3, 2) and after[-1].shape[-2:] == (6, 4)
    assert all(torch.equal(a, b) for a, b in zip(before[:-1], after[:-1]))
    assert (plain.image_stride, fine.image_stride) == (32, 16) and plain.fingerprint != fine.fingerprint
    torch.testing.assert_close(fine.hidden(x), fine.encode_image(x, normalize=False))
    with pytest.raises(CapabilityError, match="no ResNet for an image tower"):
        load_backbone("timm:test_vit@random:0", "cpu").set_last_stride()


@pytest.mark.parametrize("family", ["timm:test_resnet", "torchvision:resnet18"])
def test_trained_weights_are_loaded_again(family, tmp_path):
    backbone = load_backbone(f"{family}@random:0", "cpu", image_size=64)
    backbone.set_last_stride()
    with torch.no_grad():
        next(backbone.model.parameters()).mul_(2)
    again = load_backbone(str(save_fine_tuned(backbone, tmp_path)), "cpu")
    x = pixels(backbone)
    torch.testing.assert_close(again.encode_image(x), backbone.encode_image(x))
    assert again.image_stride == 16 and again.preprocess().spec == backbone.preprocess().spec


@pytest.mark.parametrize("family", ["timm:test_vit", "torchvision:resnet18"])
def test_random_weights_are_those_of_their_seed(family):
    made = {seed: load_backbone(f"{family}@random:{seed}", "cpu") for seed in (0, 1)}
    again = load_backbone(f"{family}@random:0", "cpu")
    x = pixels(again)
    assert torch.equal(made[0].encode_image(x), again.encode_image(x)) and made[0].fingerprint == again.fingerprint
    assert not torch.allclose(made[1].encode_image(x), again.encode_image(x))
    assert made[1].fingerprint != again.fingerprint


def test_bands_enter_by_the_first_convolution():
    channels = InputChannels(("red", "green", "blue", "near infrared"))
    plain = load_backbone("timm:test_resnet@random:0", "cpu")
    wide = load_backbone("timm:test_resnet@random:0", "cpu", channels=channels)
    x = pixels(plain)
    torch.testing.assert_close(wide.encode_image(torch.cat([x, x[:, :1]], dim=1)), plain.encode_image(x))


def test_a_vision_transformer_takes_images_of_another_size():
    small, large = (load_backbone("timm:test_vit@random:0", "cpu", image_size=size) for size in (None, (192, 96)))
    assert small.image_tokens(pixels(small))[1] == (10, 10) and large.image_tokens(pixels(large))[1] == (12, 6)
    with pytest.raises(ConfigError, match="image_size=8 does not fit"):
        load_backbone("timm:test_vit@random:0", "cpu", image_size=8).model  # noqa: B018


@pytest.mark.parametrize(
    ("spec", "error", "says"),
    [
        ("timm:resnet5000@random", UnknownNameError, "timm has no architecture 'resnet5000'; did you mean"),
        ("timm:resnet50.nothing@random", UnknownNameError, "timm has no weights 'nothing' of resnet50"),
        ("timm:test_vit@", ConfigError, "give timm:NAME, timm:NAME@FILE or timm:NAME@random:SEED"),
        ("timm:test_vit@nowhere.pt", DataError, "nowhere.pt: no such file"),
        ("timm:test_vit@random:x", ConfigError, "the seed of random weights is a whole number"),
        ("timm:test_mambaout", DataError, r"timm publishes no weights .* give timm:test_mambaout@FILE"),
        ("torchvision:resnet19@random", UnknownNameError, "torchvision has no architecture 'resnet19'; did you mean"),
        ("torchvision:squeezenet1_0@random", CapabilityError, "no linear classifier"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_line(spec, error, says):
    with pytest.raises(error, match=says):
        load_backbone(spec, "cpu")


def test_weights_that_are_not_here_are_not_fetched_offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("vladapt.core.backbones.hub.cached_file", lambda *_: None)
    with pytest.raises(DataError, match=r"give timm:resnet50.tv_in1k@FILE .*@random:0") as raised:
        load_backbone("timm:resnet50.tv_in1k", "cpu")
    assert "HF_HUB_OFFLINE" in str(raised.value)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(DataError, match=r"download https://\S+resnet18\S+ and give torchvision:resnet18@FILE"):
        load_backbone("torchvision:resnet18", "cpu")


def test_published_weights_are_those_of_the_hub(monkeypatch, tmp_path):
    torch.manual_seed(4)
    model = timm.create_model("test_resnet", pretrained=False).eval()
    file, asked = saved(model, tmp_path / "model.safetensors"), []
    monkeypatch.setattr("vladapt.core.backbones.timm.hub_file", lambda repo, *_: asked.append(repo) or file)
    backbone = load_backbone("timm:test_resnet", "cpu")
    x = pixels(backbone)
    with torch.no_grad():
        theirs = model.forward_head(model.forward_features(x), pre_logits=True)
    torch.testing.assert_close(backbone.encode_image(x, normalize=False), theirs)
    assert asked == ["timm/test_resnet.r160_in1k"] and backbone.licence == "apache-2.0"


def test_weights_of_another_architecture_are_refused(tmp_path):
    file = saved(timm.create_model("test_vit", pretrained=False), tmp_path / "w.safetensors")
    with pytest.raises(DataError, match="these are not the weights of test_resnet"):
        load_backbone(f"timm:test_resnet@{file}", "cpu").model  # noqa: B018


def test_texts_are_refused():
    with pytest.raises(CapabilityError, match="image tower only"):
        load_backbone("timm:test_vit@random:0", "cpu").encode_text(["a cat"])
