"""Every method on an encoder without texts: those that learn without them run; the others say so before it runs."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import vladapt
from vladapt.core.errors import CapabilityError
from vladapt.core.registry import adapter_class
from vladapt.core.registry.catalogue import adapters


class Encoder(nn.Module):
    calls = 0

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 12, 4, 4)

    def forward(self, pixels):
        type(self).calls += 1
        return self.conv(pixels).relu().mean(dim=(2, 3))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for channel, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir()
        for number in range(10):
            pixels = random.integers(0, 90, (24, 24, 3)).astype(np.uint8)
            pixels[..., channel] += 130
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.mark.parametrize("name", sorted(adapters()))
def test_a_method_runs_without_texts_or_says_at_once_that_it_needs_them(name, photos, tmp_path):
    backbone = vladapt.Backbone.from_module(Encoder(), image_size=24, embed_dim=12)
    how = {"domain": "natural", "data": str(photos), "shots": 2, "workers": 0, "out": str(tmp_path / "runs")}
    Encoder.calls, made = 0, adapter_class(name)
    if name == "lora":
        with pytest.raises(CapabilityError, match="no attention that can be split in its image tower"):
            vladapt.fit(**how, adapter=name, backbone=backbone)
        return
    if made.text_free and "parts" not in made.needs:
        result = vladapt.fit(**how, adapter=name, backbone=backbone)
        assert result.metrics["adapted"]["accuracy"] > 0.9 and Encoder.calls
        return
    says = "needs the parts of each sample" if made.text_free else f"adapter '{name}' learns from class texts"
    with pytest.raises(CapabilityError, match=says):
        vladapt.fit(**how, adapter=name, backbone=backbone)
    assert made.text_free or not Encoder.calls
