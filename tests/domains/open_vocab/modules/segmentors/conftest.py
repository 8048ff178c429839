"""A small CLIP with blocks enough for every method, and segmentors on it."""

from __future__ import annotations

import json

import pytest

DEEP_CLIP = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 8192, "width": 32, "heads": 2, "layers": 2},
}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}


def written(folder, config, seed):
    """A spec of a seeded CLIP; its embeddings and its logit scale are such that words and places matter."""
    import torch

    pytest.importorskip("open_clip", reason="extra open-clip is not installed")
    from safetensors.torch import save_file

    from vladapt.core.testing.towers import drawn_clip

    (folder / "clip.json").write_text(json.dumps(config))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = drawn_clip(config)
        model.token_embedding.weight.data.mul_(10)
        model.logit_scale.data.fill_(100.0).log_()
        for block in getattr(getattr(model.visual, "transformer", None), "resblocks", ()):
            block.attn.in_proj_weight.data.mul_(4)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "clip.safetensors")
    return f"open_clip:{folder / 'clip.json'}@{folder / 'clip.safetensors'}"


@pytest.fixture(scope="session")
def deep_clip(tmp_path_factory) -> str:
    """Spec of a vision transformer of 3 blocks, 2 heads, patches of 8."""
    return written(tmp_path_factory.mktemp("deep-clip"), DEEP_CLIP, seed=0)


@pytest.fixture(scope="session")
def resnet_clip(tmp_path_factory) -> str:
    """Spec of CLIP's ResNet, cells of 32."""
    return written(tmp_path_factory.mktemp("resnet-clip"), {**DEEP_CLIP, "vision_cfg": RESNET}, seed=1)


@pytest.fixture
def build(deep_clip):
    """build(method, **options) -> the segmentor from a plain dict, windows and images of test size."""
    pytest.importorskip("mmseg", reason="extra open-vocab is not installed")
    import vladapt.domains.open_vocab  # noqa: F401
    from vladapt.registry import MODELS

    small = {"classes": "cat, dog, sea", "templates": "name", "short_side": None, "stride": 16}

    def made(method, **options):
        chosen = {"backbone": deep_clip, "crop": 0 if method == "MaskCLIP" else 32, **small, **options}
        if method == "ProxyCLIP":
            chosen.setdefault("proxy", deep_clip)
        if method == "SegEarthOV":
            chosen.setdefault("long_side", None)
        return MODELS.build({"type": f"vladapt.{method}", **chosen})

    return made
