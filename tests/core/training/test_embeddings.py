"""Features that are not brought to length 1, for losses that read their length."""

import pytest
import torch
import torch.nn.functional as F

from vladapt.core.training.tower_outputs import Outputs

UNIT = {"image_features", "text_features"}
RAW = {"image_embedding", "text_embedding"}


@pytest.fixture(scope="module")
def batch(small_clip):
    side = small_clip.image_size
    pixels = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0))
    return {"pixels": pixels, "tokens": small_clip.tokenize(["a red coat", "trousers", "a hat and a bag"])}


def made(backbone, batch, names):
    with torch.no_grad():
        return Outputs(backbone, names).per_sample(batch)


@pytest.mark.parametrize("further", [set(), {"image_tokens", "image_hidden"}], ids=["alone", "with tokens"])
def test_they_are_what_towers_give(small_clip, batch, further):
    out = made(small_clip, batch, RAW | further)
    assert out.keys() == RAW | further
    for name, wanted in (
        ("image_embedding", small_clip.encode_image(batch["pixels"], normalize=False)),
        ("text_embedding", small_clip.encode_text(batch["tokens"], normalize=False)),
    ):
        torch.testing.assert_close(out[name], wanted, rtol=1e-4, atol=1e-5)
        assert (out[name].norm(dim=1) - 1).abs().min() > 1e-3


@pytest.mark.parametrize("further", [set(), {"image_tokens"}], ids=["alone", "with tokens"])
def test_unit_features_beside_them_are_theirs(small_clip, batch, further):
    out, units = made(small_clip, batch, RAW | UNIT | further), made(small_clip, batch, UNIT)
    for side in ("image", "text"):
        torch.testing.assert_close(out[f"{side}_features"], F.normalize(out[f"{side}_embedding"], dim=1))
        torch.testing.assert_close(out[f"{side}_features"], units[f"{side}_features"], rtol=1e-4, atol=1e-5)


def test_frames_of_a_clip_are_averaged(small_clip, batch):
    frames = batch["pixels"][None]
    (mean,) = made(small_clip, {**batch, "pixels": frames}, {"image_embedding"})["image_embedding"]
    torch.testing.assert_close(mean, small_clip.encode_image(batch["pixels"], normalize=False).mean(dim=0))
