"""Stored pairs as a backbone: both sides are looked up."""

import numpy as np
import pytest
import torch

from vladapt.core.backbones.load import load_backbone
from vladapt.core.errors import CapabilityError, ConfigError


@pytest.fixture
def file(tmp_path):
    drawn = np.random.default_rng(0)
    sides = {f"{side}_features": drawn.normal(size=(3, 4)).astype(np.float32) for side in ("image", "text")}
    np.savez(tmp_path / "pairs.npz", **sides, captions=np.array(["one", "two", "three"]), logit_scale=7.0)
    return tmp_path / "pairs.npz"


def test_an_image_is_its_row_and_a_text_its_words(file):
    towers = load_backbone(f"stored:{file}", "cpu")
    row = towers.pairs.images.numpy()[1:2]
    pixels = torch.stack([towers.preprocess(False)(row)])
    assert torch.equal(towers.encode_image(pixels), torch.nn.functional.normalize(towers.pairs.images[1:2], dim=-1))
    assert torch.allclose(towers.encode_text(["three", "one"]), towers.pairs.texts[[2, 0]])
    tokens = towers.tokenize(["three", "one"])
    assert torch.equal(towers.encode_text(tokens), towers.encode_text(["three", "one"]))
    assert towers.token_mask(tokens).all() and float(towers.logit_scale) == 7.0
    assert (towers.embed_dim, sorted(towers.capabilities)) == (4, [])


def test_new_words_and_new_images_need_towers(file):
    towers = load_backbone(f"stored:{file}", "cpu")
    with pytest.raises(CapabilityError, match=r"'four' is none of the 3 texts .* need the text tower"):
        towers.encode_text(["one", "four"])
    with pytest.raises(CapabilityError, match="no image tower"):
        towers.preprocess(False)(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ConfigError, match="sees no image"):
        load_backbone(f"stored:{file}", "cpu", image_size=224)
