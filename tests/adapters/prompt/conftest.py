"""A small random CLIP, made from a seed, that prompts are learned through."""

from __future__ import annotations

import json

import pytest
import torch

CONFIG = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "patch_size": 8, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="session")
def small_clip_spec(tmp_path_factory) -> str:
    """`open_clip:<json>@<safetensors>`; embeddings are scaled up so that words matter to a random tower."""
    open_clip = pytest.importorskip("open_clip", reason="extra open-clip is not installed")
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("small-clip")
    (folder / "small.json").write_text(json.dumps(CONFIG))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.CLIP(**CONFIG)
        model.token_embedding.weight.data.mul_(10)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "small.safetensors")
    return f"open_clip:{folder / 'small.json'}@{folder / 'small.safetensors'}"


@pytest.fixture(scope="session")
def small_clip(small_clip_spec):
    """The backbone, D = 24."""
    from vladapt.core.backbones.load import load_backbone

    return load_backbone(small_clip_spec, device="cpu")
