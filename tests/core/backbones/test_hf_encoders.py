"""Image encoders of transformers: features, pixels and maps are those that its own models and processors make."""

import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from vladapt.core.backbones.load import load_backbone, save_fine_tuned
from vladapt.core.errors import DataError

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
VIT |= {"image_size": 32, "patch_size": 8}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1]}
WINDOWS = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "window_size": 4}
KINDS = {
    "vit": ({**VIT, "hidden_act": "gelu"}, "ViTImageProcessor", {"size": {"height": 32, "width": 32}}),
    "deit": (VIT, "DeiTImageProcessor", {"size": {"height": 40, "width": 40}, "crop_size": 32}),
    "clip_vision_model": (VIT, "CLIPImageProcessor", {"size": {"shortest_edge": 32}, "crop_size": 32}),
    "siglip_vision_model": (VIT, "SiglipImageProcessor", {"size": {"height": 32, "width": 32}}),
    "convnext": (
        {**STAGES, "num_stages": 2},
        "ConvNextImageProcessor",
        {"size": {"shortest_edge": 32}, "crop_pct": 0.8},
    ),
    "convnextv2": ({**STAGES, "num_stages": 2}, "ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
    "dinov3_convnext": (
        {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
        "ViTImageProcessor",
        {"size": {"height": 64, "width": 64}, "resample": 2},
    ),
    "resnet": ({**STAGES, "embedding_size": 8}, "BitImageProcessor", {"size": {"shortest_edge": 40}, "crop_size": 32}),
    "swin": (WINDOWS, "ViTImageProcessor", {"size": {"height": 32, "width": 32}, "resample": 3}),
    "swinv2": (WINDOWS, "ViTImageProcessor", {"size": {"height": 32, "width": 32}, "resample": 3}),
}
WITH_BLOCKS = ("vit", "deit", "clip_vision_model", "siglip_vision_model")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small):
    """kind -> a folder as it is published."""
    made = {}

    def of(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            options, processor, stated = KINDS[kind]
            config = transformers.AutoConfig.for_model(kind, **options)
            small.scrambled(transformers.AutoModel.from_config(config), seed=6).save_pretrained(made[kind])
            getattr(transformers, processor)(**stated).save_pretrained(made[kind])
        return made[kind]

    return of


def pixels_of(side, count=2):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def theirs(path, kind, pixels):
    """What transformers' classifier of images of that kind is put on."""
    model = transformers.AutoModel.from_pretrained(path).eval()
    larger = {"interpolate_pos_encoding": True} if kind in WITH_BLOCKS else {}
    made = model(pixel_values=pixels, **larger)
    return made.last_hidden_state[:, 0] if kind in ("vit", "deit") else made.pooler_output.flatten(1)


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_transformers_own(folder, kind):
    backbone = load_backbone(f"hf:{folder(kind)}", "cpu")
    pixels = pixels_of(backbone.image_size)
    expected = theirs(folder(kind), kind, pixels)
    assert not backbone.has_text and backbone.embed_dim == expected.shape[1]
    torch.testing.assert_close(backbone.encode_image(pixels, normalize=False), expected, **CLOSE)
    torch.testing.assert_close(backbone.hidden(pixels), expected, **CLOSE)
    assert all(backbone.tower_of(name) == "image" for name, _ in backbone.model.named_parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sides", [(90, 120), (52, 41)])
def test_pixels_are_those_of_its_own_image_processor(folder, kind, sides):
    noise = np.random.default_rng(0).integers(0, 255, (sides[0] // 4, sides[1] // 4, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize(sides[::-1], Image.Resampling.BICUBIC)
    expected = transformers.AutoImageProcessor.from_pretrained(folder(kind))(picture, return_tensors="pt")
    made = load_backbone(f"hf:{folder(kind)}", "cpu").preprocess()(picture)
    torch.testing.assert_close(made, expected["pixel_values"][0], atol=0.05, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_another_size_of_images_and_patches(folder, kind):
    backbone = load_backbone(f"hf:{folder(kind)}", "cpu", image_size=64)
    pixels = pixels_of(64)
    features = backbone.encode_image(pixels, normalize=False)
    if kind != "siglip_vision_model" and kind != "clip_vision_model":  # whose positions are resampled in our way
        torch.testing.assert_close(features, theirs(folder(kind), kind, pixels), atol=1e-4, rtol=1e-4)
    tokens, (rows, columns) = backbone.image_tokens(pixels)
    assert tokens.shape == (2, rows * columns, backbone.embed_dim) and rows == 64 // backbone.image_stride
    maps = backbone.feature_maps(pixels)
    assert maps[-1].shape[-2:] == (rows, columns)
    if kind in WITH_BLOCKS:
        assert len(backbone.blocks("image")) == 2
        return
    assert "image_blocks" not in backbone.capabilities
    whole = backbone.pool_map(maps[-1])
    torch.testing.assert_close(whole[:, 0], features, **CLOSE)
    torch.testing.assert_close(whole[:, 1:], tokens, **CLOSE)


def test_a_classifiers_folder_gives_what_its_classifier_sees(tmp_path, small):
    """Its weights hold no pooler."""
    config = transformers.AutoConfig.for_model("vit", **VIT, num_labels=3)
    model = small.scrambled(transformers.ViTForImageClassification(config), seed=4).eval()
    model.save_pretrained(tmp_path)
    backbone, pixels = load_backbone(f"hf:{tmp_path}", "cpu"), pixels_of(32)
    features = backbone.encode_image(pixels, normalize=False)
    torch.testing.assert_close(model.classifier(features), model(pixels).logits, **CLOSE)


def test_clip_alone_is_not_projected(tmp_path, small):
    config = transformers.AutoConfig.for_model("clip_vision_model", **VIT, projection_dim=16)
    model = small.scrambled(transformers.CLIPVisionModelWithProjection(config), seed=4).eval()
    model.save_pretrained(tmp_path)
    backbone, pixels = load_backbone(f"hf:{tmp_path}", "cpu"), pixels_of(32)
    assert backbone.embed_dim == 32 and backbone.image_projection() is None
    features = backbone.encode_image(pixels, normalize=False)
    torch.testing.assert_close(model.visual_projection(features), model(pixels).image_embeds, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_tower_loads_again(folder, tmp_path, kind):
    backbone = load_backbone(f"hf:{folder(kind)}", "cpu")
    with torch.no_grad():
        next(backbone.model.parameters()).mul_(1.5)
    pixels = pixels_of(backbone.image_size)
    again = load_backbone(str(save_fine_tuned(backbone, tmp_path / "trained")), "cpu")
    torch.testing.assert_close(again.encode_image(pixels), backbone.encode_image(pixels), **CLOSE)


def test_another_kind_and_what_is_not_here_are_refused_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(DataError, match=r"model of type 'bert'; backbones of hf are .*, vit, "):
        load_backbone(f"hf:{tmp_path}", "cpu")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError) as refused:
        load_backbone("hf:owner/no-such-vit", "cpu")
    assert "hf:<folder>" in str(refused.value)
