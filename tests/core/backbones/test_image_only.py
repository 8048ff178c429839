"""Image towers without a text tower: their features are transformers' own, and texts are refused in one line."""

import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from vladapt.core.backbones.load import load_backbone, save_fine_tuned
from vladapt.core.backbones.split_attention import split_attention
from vladapt.core.errors import CapabilityError

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
KINDS = {
    "dinov2": {"image_size": 56, "patch_size": 14, "mlp_ratio": 2},
    "dinov2-giant": {"image_size": 56, "patch_size": 14, "mlp_ratio": 2, "use_swiglu_ffn": True},
    "dinov2_with_registers": {"image_size": 56, "patch_size": 14, "mlp_ratio": 2, "num_register_tokens": 3},
    "dinov3_vit": {"image_size": 64, "patch_size": 16, "intermediate_size": 48, "num_register_tokens": 4},
    "dinov3_vit-plus": {
        "image_size": 64,
        "patch_size": 16,
        "intermediate_size": 48,
        "num_register_tokens": 4,
        "use_gated_mlp": True,
    },
}
CROPPED = {
    "do_center_crop": True,
    "size": {"shortest_edge": 48},
    "crop_size": {"height": 42, "width": 42},
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "do_resize": True,
    "do_convert_rgb": True,
    "image_processor_type": "BitImageProcessor",
}
WHOLE = {**CROPPED, "do_center_crop": False, "size": {"height": 64, "width": 64}, "crop_size": None, "resample": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small):
    """kind -> a folder as it is published."""
    made = {}

    def of(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            config = transformers.AutoConfig.for_model(name.partition("-")[0], **SMALL, **KINDS[name])
            small.scrambled(transformers.AutoModel.from_config(config), seed=6).save_pretrained(made[name])
            stated = WHOLE if name.startswith("dinov3") else CROPPED
            (made[name] / "preprocessor_config.json").write_text(json.dumps(stated))
        return made[name]

    return of


def reference(path, pixels):
    model = transformers.AutoModel.from_pretrained(path).eval()
    with torch.no_grad():
        return model(pixel_values=pixels)


@pytest.mark.parametrize("name", KINDS)
def test_features_are_transformers_own(folder, name):
    backbone = load_backbone(f"hf:{folder(name)}", "cpu")
    side = 64 if name.startswith("dinov3") else 42
    assert (backbone.embed_dim, backbone.image_size, backbone.context_length) == (32, side, 0)
    assert backbone.capabilities == {"image_blocks", "image_tokens", "hidden", "feature_maps"}
    assert not backbone.has_text
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(3))
    theirs = reference(folder(name), pixels)
    torch.testing.assert_close(backbone.encode_image(pixels, normalize=False), theirs.pooler_output, **CLOSE)
    torch.testing.assert_close(backbone.hidden(pixels), theirs.pooler_output, **CLOSE)
    tokens, (rows, columns) = backbone.image_tokens(pixels)
    prefix = theirs.last_hidden_state.shape[1] - rows * columns
    torch.testing.assert_close(tokens, theirs.last_hidden_state[:, prefix:], **CLOSE)
    assert prefix == backbone.image_prefix
    assert backbone.feature_maps(pixels)[-1].shape == (2, 32, rows, columns)
    assert backbone.image_projection() is None


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size", [None, 112])
def test_blocks_one_by_one_are_the_tower_at_any_size(folder, name, size):
    backbone = load_backbone(f"hf:{folder(name)}", "cpu", image_size=size)
    side = backbone.image_size
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(3))
    x = backbone.embed_image(pixels)
    for block in range(2):
        x = backbone.run_blocks("image", x, block, block + 1)
    inside = backbone.pool_image(x, normalize=False)
    torch.testing.assert_close(inside, backbone.encode_image(pixels, normalize=False), **CLOSE)


@pytest.mark.parametrize("name", ["dinov2", "dinov3_vit"])
def test_pixels_are_made_as_published(folder, name):
    backbone = load_backbone(f"hf:{folder(name)}", "cpu")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8))
    if name == "dinov2":
        processor = transformers.BitImageProcessor(**{k: v for k, v in CROPPED.items() if k != "image_processor_type"})
        theirs = processor(picture, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(backbone.preprocess()(picture), theirs, atol=0.02, rtol=0)
        assert backbone.transform.resize == 48
        assert load_backbone(f"hf:{folder(name)}", "cpu", image_size=84).transform.resize == 96
    else:
        assert (backbone.transform.mode, backbone.transform.interpolation) == ("squash", "bilinear")
        assert "resize" not in backbone.transform.spec


@pytest.mark.parametrize("ask", ["tokenize", "encode_text", "blocks", "prompt"])
def test_texts_are_refused_in_one_line(folder, ask):
    backbone = load_backbone(f"hf:{folder('dinov2')}", "cpu")
    asks = {
        "tokenize": lambda: backbone.tokenize(["dog"]),
        "encode_text": lambda: backbone.encode_text(["dog"]),
        "blocks": lambda: backbone.blocks("text"),
        "prompt": lambda: backbone.embed_tokens(torch.zeros(1, 4).long()),
    }
    said = "no text tower" if ask in ("blocks", "prompt") else "an image tower only and reads no texts"
    with pytest.raises(CapabilityError, match=said) as caught:
        asks[ask]()
    assert "list backbones --can" in str(caught.value)


@pytest.mark.parametrize("name", ["dinov2_with_registers", "dinov3_vit"])
def test_learned_tokens_and_split_attention_have_their_place(folder, name):
    backbone = load_backbone(f"hf:{folder(name)}", "cpu")
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    before = backbone.encode_image(pixels)
    assert {layer.tower for layer in split_attention(backbone, "image")} == {"image"}
    torch.testing.assert_close(backbone.encode_image(pixels), before, **CLOSE)
    backbone.attach_prompts(image=torch.randn(1, 2, 32, generator=torch.Generator().manual_seed(1)))
    after = backbone.encode_image(pixels)
    assert (after - before).abs().max() > 1e-4
    after.sum().backward()
    assert backbone.prompts.image.tokens.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["dinov2", "dinov3_vit"])
def test_a_trained_tower_loads_again(folder, tmp_path, name):
    backbone = load_backbone(f"hf:{folder(name)}", "cpu")
    with torch.no_grad():
        next(backbone.model.parameters()).mul_(1.5)
    pixels = torch.randn(2, 3, backbone.image_size, backbone.image_size)
    again = load_backbone(str(save_fine_tuned(backbone, tmp_path / "trained")), "cpu")
    torch.testing.assert_close(again.encode_image(pixels), backbone.encode_image(pixels), **CLOSE)
