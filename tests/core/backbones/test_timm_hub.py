"""Encoders of timm from repositories of the hub: their arguments, and Virchow2's two vectors side by side."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from vladapt.core.backbones.load import load_backbone, save_fine_tuned
from vladapt.core.backbones.timm_hub import _table
from vladapt.core.errors import ConfigError, DataError, UnknownNameError

SMALL = {"embed_dim": 24, "depth": 2, "num_heads": 3, "patch_size": 16, "img_size": 32, "init_values": 1e-5}
PIXELS = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "input_size": [3, 32, 32], "crop_pct": 1.0}


@pytest.fixture
def written(tmp_path):
    """written(reg_tokens=4, ...) -> (the file of a small random model with its config.json beside it, timm's model)."""

    def write(mlp_layer=None, act_layer=None, architecture="vit_tiny_patch16_224", **arguments):
        layers = {} if mlp_layer is None else {"mlp_layer": mlp_layer, "act_layer": act_layer}
        torch.manual_seed(1)
        model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **SMALL, **layers, **arguments).eval()
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.3)
        save_file(model.state_dict(), tmp_path / "model.safetensors")
        config = {"architecture": architecture, "model_args": {**SMALL, **arguments}, "pretrained_cfg": PIXELS}
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "README.md").write_text("---\nlicense: cc-by-nc-nd-4.0\n---\n")
        return tmp_path / "model.safetensors", model

    return write


def test_the_arguments_and_pixels_of_the_repository_are_used(written):
    file, model = written(reg_tokens=2)
    backbone = load_backbone(f"timm:hf-hub:someone/small@{file}", "cpu")
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(backbone.encode_image(pixels, normalize=False), model(pixels))
    assert (backbone.embed_dim, backbone.image_size, backbone.licence) == (24, 32, "cc-by-nc-nd-4.0")
    assert backbone.transform.mean == (0.5, 0.4, 0.3) and "image_tokens" in backbone.capabilities


def test_a_tower_of_any_size_of_image_is_opened(written):
    """UNI's, whose arguments are not all in its repository."""
    file, model = written()
    backbone = load_backbone(f"timm:hf-hub:MahmoodLab/UNI@{file}", "cpu")
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(backbone.encode_image(pixels, normalize=False), model(pixels))
    blocks = backbone.run_blocks("image", backbone.embed_image(pixels))
    torch.testing.assert_close(backbone.pool_image(blocks, normalize=False), model(pixels), atol=1e-5, rtol=1e-5)


def test_virchow2_is_the_class_token_beside_the_mean_of_the_patches_without_registers(written, tmp_path):
    file, model = written(timm.layers.SwiGLUPacked, torch.nn.SiLU, reg_tokens=4, global_pool="", mlp_ratio=4)
    backbone = load_backbone(f"timm:hf-hub:paige-ai/Virchow2@{file}", "cpu")
    pixels = torch.randn(2, 3, 32, 32)
    tokens = model.forward_features(pixels)
    assert tokens.shape == (2, 1 + 4 + 4, 24)
    expected = torch.cat([tokens[:, 0], tokens[:, 5:].mean(1)], dim=-1)
    features = backbone.encode_image(pixels, normalize=False)
    torch.testing.assert_close(features, expected)
    assert backbone.embed_dim == 48 and backbone.capabilities == {"hidden"}
    again = load_backbone(str(save_fine_tuned(backbone, tmp_path / "kept")), "cpu")
    torch.testing.assert_close(again.encode_image(pixels, normalize=False), features)


def test_pooling_and_arguments_are_part_of_the_fingerprint(written):
    file, _ = written(timm.layers.SwiGLUPacked, torch.nn.SiLU, reg_tokens=4, global_pool="", mlp_ratio=4)
    specs = ("paige-ai/Virchow2", "bioptimus/H-optimus-0")
    assert len({load_backbone(f"timm:hf-hub:{repo}@{file}", "cpu").fingerprint for repo in specs}) == 2


def test_what_h_optimus_is_given_is_what_its_card_says(written):
    file, _ = written()
    backbone = load_backbone(f"timm:hf-hub:bioptimus/H-optimus-1@{file}", "cpu")
    assert backbone.transform.mean == (0.707223, 0.578729, 0.703617) and backbone.transform.resize is None


@pytest.mark.parametrize("repo", _table())
def test_timm_makes_what_the_table_says(repo):
    """On the architecture that each repository names, without memory for its weights."""
    from vladapt.core.backbones.timm_hub import TimmHubModel

    name, width = {
        "MahmoodLab/UNI": ("vit_large_patch16_224", 1024),
        "MahmoodLab/UNI2-h": ("vit_giant_patch14_224", 1536),
        "paige-ai/Virchow2": ("vit_huge_patch14_224", 1280),
    }.get(repo, ("vit_giant_patch14_reg4_dinov2", 1536))
    stated = {"reg_tokens": 4, "mlp_ratio": 5.3375} if "Virchow2" in repo else {}
    with torch.device("meta"):
        model = TimmHubModel(repo, name, {**stated, **_table()[repo]["arguments"]}).encoder()
        assert model.num_features == width
        assert model.forward_features(torch.empty(1, 3, *model.patch_embed.img_size)).ndim == 3


def test_what_is_no_model_of_timm_is_refused_in_one_line(written, monkeypatch):
    file, _ = written(architecture="vit_of_tomorrow")
    with pytest.raises(UnknownNameError, match=r"this timm has no architecture 'vit_of_tomorrow'"):
        load_backbone(f"timm:hf-hub:someone/small@{file}", "cpu")
    (file.parent / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(DataError, match="names no architecture of timm"):
        load_backbone(f"timm:hf-hub:someone/small@{file}", "cpu")
    (file.parent / "config.json").write_text('{"architecture": "vit_tiny_patch16_224", "model_args": {"colour": 1}}')
    with pytest.raises(DataError, match="timm cannot make it"):
        load_backbone(f"timm:hf-hub:someone/small@{file}", "cpu")
    (file.parent / "config.json").unlink()
    with pytest.raises(DataError, match=r"has no config\.json with weights; give timm:hf-hub:someone/small@FILE"):
        load_backbone(f"timm:hf-hub:someone/small@{file}", "cpu")
    with pytest.raises(ConfigError, match="'nobody' is not a repository of the hub"):
        load_backbone("timm:hf-hub:nobody", "cpu")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match=r"'someone/small' is not in the hub's cache .* config\.json beside it"):
        load_backbone("timm:hf-hub:someone/small", "cpu")
