"""A few noisy images of named things, for methods that learn prompts through a small text tower."""

from __future__ import annotations

import pytest
import torch
from forked import run
from named_images import classifier, embedded_task, make_support, several_labels, support  # noqa: F401
from safetensors.torch import load_file, save_file


@pytest.fixture
def logits_elsewhere(tmp_path):
    """logits_elsewhere(adapter, features, backbone_spec=None): of the saved adapter, in another process."""

    def logits(adapter, features, backbone_spec=None) -> torch.Tensor:
        adapter.save(tmp_path / "adapter.safetensors")
        save_file({"features": features}, tmp_path / "in.safetensors")
        code = (
            "import sys; from safetensors.torch import load_file, save_file;"
            "from vladapt.core.registry import load_adapter; from vladapt.core.backbones.load import load_backbone;"
            "backbone = load_backbone(sys.argv[2], device='cpu') if len(sys.argv) > 2 else None;"
            "a = load_adapter(sys.argv[1] + '/adapter.safetensors', backbone);"
            "x = load_file(sys.argv[1] + '/in.safetensors')['features'];"
            "save_file({'logits': a.logits(x)}, sys.argv[1] + '/out.safetensors')"
        )
        given = [str(tmp_path), *([backbone_spec] if backbone_spec else [])]
        run(["-c", code, *given], check=True)
        return load_file(tmp_path / "out.safetensors")["logits"]

    return logits


@pytest.fixture
def counted():
    """counted(backbone): prompts that go through its text tower, call by call."""

    def count(backbone) -> list[int]:
        prompts, pool = [], backbone.pool_text

        def pool_text(x, *args):
            prompts.append(len(x))
            return pool(x, *args)

        backbone.pool_text = pool_text
        return prompts

    return count
