"""Small random vision towers of every family, as specs."""

from __future__ import annotations

import json

import pytest

VIT = {"image_size": 32, "layers": 4, "width": 32, "patch_size": 8, "head_width": 16}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}
TIMM = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token", "timm_proj": "linear", "image_size": 224}
TEXT = {"context_length": 16, "vocab_size": 8192, "width": 32, "heads": 2, "layers": 1}
HF_TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
HF_VISION = {**HF_TOWER, "image_size": 32, "patch_size": 8}
HF_TEXT = {**HF_TOWER, "vocab_size": 40, "max_position_embeddings": 16}


@pytest.fixture(scope="session")
def towers(tmp_path_factory) -> dict[str, str]:
    """Name -> spec: `vit` has 4 blocks and patches of 8, D = 24."""
    made = {"embedded": "embedded"}
    for name, vision in {"vit": VIT, "resnet": RESNET, "timm": TIMM}.items():
        path = tmp_path_factory.mktemp(name) / "tiny.json"
        custom = {"custom_text": True} if name == "timm" else {}
        path.write_text(json.dumps({"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT, **custom}))
        made[name] = f"open_clip:{path}@random"
    return made


@pytest.fixture(scope="session")
def hf_towers(tmp_path_factory) -> dict[str, str]:
    """ "clip" and "siglip" -> spec."""
    transformers = pytest.importorskip("transformers", reason="extra hf is not installed")
    configs = {
        "clip": transformers.CLIPConfig(text_config=HF_TEXT, vision_config=HF_VISION, projection_dim=24),
        "siglip": transformers.SiglipConfig(text_config=HF_TEXT, vision_config=HF_VISION),
    }
    made = {}
    for name, config in configs.items():
        folder = tmp_path_factory.mktemp(name)
        transformers.AutoModel.from_config(config).save_pretrained(folder)
        made[name] = f"hf:{folder}"
    return made
