"""Where a score comes from: maps find the place of the evidence where it is known, and say where they cannot look."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vladapt.core.backbones.load import load_backbone
from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.core.explanation.evidence import (
    GRAD_CAM,
    OCCLUSION,
    ROLLOUT,
    Seen,
    as_seen,
    check_method,
    default_method,
    heat_map,
    overlaid,
)


def method(logits=lambda batch: batch.features, **claims):
    """An adapter as far as explanations ask."""
    usual = {"at_predict": frozenset({"features"}), "needs": frozenset(), "can": frozenset(), "transductive": False}
    return SimpleNamespace(**{"name": "mine", "multilabel_": False, "logits": logits, **usual, **claims})


def corner_tower(**more):
    """Features (B, 2): the mean of 6 x 6 pixels at the left below, and half of it, for which class 1 stands."""

    def encode_image(pixels, normalize):
        own = pixels[:, :, 20:26, 2:8].mean(dim=(1, 2, 3))
        return torch.stack([own, 0.5 * own], dim=1)

    facts = {"spec": "corner", "device": torch.device("cpu"), "joint": None, "in_rows": False}
    facts["capabilities"] = frozenset()
    return SimpleNamespace(encode_image=encode_image, **facts, **more)


def a_picture(seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = 0.1 * torch.randn(3, 28, 28, generator=generator)
    pixels[:, 20:26, 2:8] += 3
    return pixels


def test_occlusion_finds_what_the_score_is_made_of():
    heat = heat_map(OCCLUSION, Seen(corner_tower(), method()), a_picture(), 0)
    row, column = divmod(int(heat.argmax()), 28)
    assert 20 <= row < 26 and 2 <= column < 8
    assert heat.shape == (28, 28) and heat.max() == 1 and heat.min() == 0
    assert heat[:12].max() == 0 and heat[:, 16:].max() == 0, "nothing there counts"


def test_what_speaks_against_a_class_is_not_marked():
    assert heat_map(OCCLUSION, Seen(corner_tower(), method()), a_picture(), 1).max() == 0


def test_what_is_added_to_all_classes_alike_explains_nothing():
    shifted = method(lambda batch: batch.features + 100 * batch.features[:, :1])
    maps = [heat_map(OCCLUSION, Seen(corner_tower(), each), a_picture(), 0) for each in (method(), shifted)]
    assert torch.allclose(*maps, atol=1e-4)


def test_rollout_is_the_product_of_mean_attentions(small_clip_spec):
    backbone = load_backbone(small_clip_spec, "cpu")
    seen, pixels = Seen(backbone, method()), torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(1))
    expected, x = torch.eye(5), backbone.embed_image(pixels[None])
    for block in backbone.model.visual.transformer.resblocks:  # open_clip's own attention says its weights
        normal = block.ln_1(x)
        weights = block.attn(normal, normal, normal, need_weights=True)[1][0]
        expected, x = (weights + torch.eye(5)) / 2 @ expected, block(x)
    patches = expected[0, 1:] - expected[0, 1:].min()
    heat = heat_map(ROLLOUT, seen, pixels, 0)
    assert default_method(backbone) == ROLLOUT
    # The largest value of the enlarged map: corners of a 2 x 2 map keep theirs.
    assert torch.allclose(heat[[0, 0, -1, -1], [0, -1, 0, -1]], patches / patches.max(), atol=1e-4)


def test_the_default_of_the_default_backbone_points_at_the_evidence():
    pytest.importorskip("efficientnet_lite_pytorch")
    from explanations import FIRST_TESTED, learned, played, scenes

    backbone = load_backbone("embedded", "cpu")
    assert default_method(backbone) == GRAD_CAM
    seen = learned(backbone, "linear-probe", scenes(4, kinds=4))
    hits = [each.hit for each in played(GRAD_CAM, seen, scenes(3, FIRST_TESTED, kinds=4))]
    assert len(hits) >= 10 and np.mean(hits) > 0.8


def test_grad_cam_is_that_of_captum():
    pytest.importorskip("efficientnet_lite_pytorch")
    from captum.attr import LayerGradCam
    from explanations import learned, scenes

    seen = learned(load_backbone("embedded", "cpu"), "linear-probe", scenes(4, kinds=4))
    pixels = torch.randn(3, 224, 224, generator=torch.Generator().manual_seed(0))
    target = 0

    class FromMap(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.last = torch.nn.Identity()

        def forward(self, pixels):
            with torch.no_grad():
                cells, pool = seen.towers.pooled_map(pixels)
            return seen.of_features(pool(self.last(cells.detach().requires_grad_())), target)

    model = FromMap()
    cells = LayerGradCam(model, model.last).attribute(pixels[None], relu_attributions=True)
    theirs = torch.nn.functional.interpolate(cells.detach(), pixels.shape[-2:], mode="bilinear")[0, 0]
    assert torch.equal(heat_map(GRAD_CAM, seen, pixels, target), theirs / theirs.max())


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"transductive": True}, "reads all images together"),
        ({"can": frozenset({"streams"})}, "learns from the images it predicts"),
        ({"at_predict": frozenset({"features", "parts"})}, "reads the parts"),
        ({"needs": frozenset({"images"})}, "tunes itself on views"),
        ({"at_predict": frozenset({"features", "further_backbones"})}, "further backbones"),
    ],
)
def test_a_score_that_is_not_of_one_picture_is_not_explained(claims, why):
    with pytest.raises(CapabilityError, match=f"'mine' .*{why}"):
        check_method(OCCLUSION, Seen(corner_tower(), method(**claims)))


def test_a_method_that_does_not_suit_the_tower_says_which_does(small_clip_spec):
    clip = load_backbone(small_clip_spec, "cpu")
    for name, towers in ((ROLLOUT, corner_tower()), (GRAD_CAM, clip), (GRAD_CAM, corner_tower())):
        with pytest.raises(CapabilityError, match=f"{name}: backbone .*--explain-method occlusion"):
            check_method(name, Seen(towers, method()))
    with pytest.raises(ConfigError, match="--explain-method lime: give one of grad-cam, occlusion, rollout"):
        check_method("lime", Seen(clip, method()))


def test_a_map_lies_over_the_picture_as_the_tower_sees_it():
    towers = corner_tower(image_mean=(0.5, 0.5, 0.5), image_std=(0.25, 0.25, 0.25))
    picture = as_seen(torch.full((3, 4, 4), 2.0), towers)
    assert picture.shape == (4, 4, 3) and (picture == 255).all()
    heat = torch.zeros(4, 4)
    heat[1, 2] = 1
    over = overlaid(picture, heat).astype(int)
    assert over.shape == (4, 4, 3) and len(np.unique(over[heat.numpy() == 0])) == 1
    assert over[1, 2, 0] > over[1, 2, 2] + 50, "red where it counts"
