"""Semantic FPN and UPerNet with texts as classes: they learn, predict, and take other names."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

import vladapt.domains.open_vocab  # noqa: F401
from vladapt.core.errors import ConfigError
from vladapt.domains.open_vocab.text_embeddings import set_classes

KINDS = ("fpn", "uper")
SIDE = 32
COLOURS = torch.tensor([[220, 40, 40], [40, 40, 220], [90, 160, 90]], dtype=torch.uint8)


def build(config: dict, seed: int = 0):
    torch.manual_seed(seed)
    return MODELS.build(ConfigDict(copy.deepcopy(config)))


def batch(seed: int = 0, count: int = 2) -> dict:
    """Pictures of one colour with a rectangle of another, and their masks."""
    generator = torch.Generator().manual_seed(seed)
    inputs, samples = [], []
    for _ in range(count):
        mask = torch.full((SIDE, SIDE), int(torch.randint(0, 3, (), generator=generator)))
        top, left = torch.randint(0, SIDE // 2, (2,), generator=generator).tolist()
        mask[top : top + 16, left : left + 16] = int(torch.randint(0, 3, (), generator=generator))
        sample = SegDataSample(metainfo={"img_shape": (SIDE, SIDE), "ori_shape": (SIDE, SIDE)})
        sample.gt_sem_seg = PixelData(data=mask[None])
        inputs.append(COLOURS[mask].permute(2, 0, 1))
        samples.append(sample)
    return {"inputs": inputs, "data_samples": samples}


def losses(model, data: dict) -> dict:
    return model.train()(**model.data_preprocessor(data, training=True), mode="loss")


@torch.no_grad()
def predict(model, data: dict | None = None):
    data = model.eval().data_preprocessor(data or batch(), training=False)
    return model(**data, mode="predict")


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_trains_gets_a_gradient(segmentor, kind):
    model = build(segmentor(kind))
    found = losses(model, batch())
    assert ("aux.loss_ce" in found) is (kind == "uper")
    sum(value for name, value in found.items() if "loss" in name).backward()
    unused = ("backbone.pyramid.levels.3" if kind == "none" else "backbone.none",)
    without = [
        n for n, p in model.named_parameters() if p.requires_grad and p.grad is None and not n.startswith(unused)
    ]
    assert not without
    assert not any("token_embedding" in name for name in model.state_dict())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("test_cfg", [{"mode": "whole"}, {"mode": "slide", "crop_size": (32, 32), "stride": (16, 16)}])
@pytest.mark.parametrize("names", [None, "sea, cat, dog, lake, tree", "lake"])
def test_any_names_are_predicted_whole_and_in_windows(segmentor, kind, test_cfg, names):
    model = build(segmentor(kind, test_cfg=test_cfg))
    if names:
        set_classes(model, names)
    count = len(names.split(",")) if names else 3
    sample = predict(model)[0]
    assert sample.seg_logits.data.shape == (count, SIDE, SIDE)
    assert sample.pred_sem_seg.data.max() < max(count, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_other_names_are_trained_with(segmentor, kind):
    model = build(segmentor(kind))
    set_classes(model, "sea, cat, dog, lake, tree")
    data = batch()
    for sample in data["data_samples"]:
        sample.gt_sem_seg.data = sample.gt_sem_seg.data + 2
    found = losses(model, data)
    sum(value for name, value in found.items() if "loss" in name).backward()
    assert all(value.isfinite() for value in found.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_other_names_is_loaded(segmentor, kind):
    first, other = build(segmentor(kind)), build(segmentor(kind, classes="sea, lake, cat, dog"), seed=3)
    other.load_state_dict(first.state_dict())
    mine, theirs = predict(first)[0].seg_logits.data, predict(other)[0].seg_logits.data
    torch.testing.assert_close(theirs[[2, 3, 1]], mine, atol=1e-4, rtol=1e-4)


@pytest.mark.thorough
def test_a_model_that_learned_colours_follows_its_texts(segmentor):
    model = build(segmentor("fpn", classes="red, blue, green", temperature=0.1))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    for step in range(40):
        optimizer.zero_grad()
        losses(model, batch(seed=step, count=4))["decode.loss_ce"].backward()
        optimizer.step()
    unseen = batch(seed=1000, count=8)
    truth = torch.stack([sample.gt_sem_seg.data for sample in unseen["data_samples"]])
    accuracy = torch.stack([each.pred_sem_seg.data for each in predict(model, batch(seed=1000, count=8))]) == truth
    assert accuracy.float().mean() > 0.9
    set_classes(model, "green, red")
    found = torch.stack([each.pred_sem_seg.data for each in predict(model, batch(seed=1000, count=8))])
    assert (found[truth == 0] == 1).float().mean() > 0.85  # red is the second now
    assert (found[truth == 2] == 0).float().mean() > 0.85
    shuffled = model.decode_head.conv_seg.text
    shuffled.embeddings = shuffled.embeddings.flip(0)
    found = torch.stack([each.pred_sem_seg.data for each in predict(model, batch(seed=1000, count=8))])
    assert (found[truth == 0] == 1).float().mean() < 0.15


def test_the_background_of_masks_is_learned_where_asked(segmentor):
    options = {"classes": "background, cat, dog", "background": "learned", "background_class": "background"}
    model, plain = build(segmentor("fpn", **options)), build(segmentor("fpn", classes="background, cat, dog"))
    plain.load_state_dict(model.state_dict(), strict=False)
    learned, said = predict(model)[0].seg_logits.data, predict(plain)[0].seg_logits.data
    torch.testing.assert_close(learned[1:], said[1:], atol=1e-4, rtol=1e-4)
    assert (learned[0] - said[0]).abs().max() > 0.1
    losses(model, batch())["decode.loss_ce"].backward()
    assert model.decode_head.conv_seg.background_embedding.grad.abs().max() > 0
    set_classes(model, "background, lake")
    assert predict(model)[0].seg_logits.data.shape[0] == 2


def test_options_reach_the_classifier(segmentor):
    plain = losses(build(segmentor("fpn")), batch())["decode.loss_ce"]
    for options in ({"temperature": 0.5}, {"projection": "mlp"}, {"templates": "name"}):
        changed = losses(build(segmentor("fpn", **options)), batch())["decode.loss_ce"]
        assert abs(changed - plain) > 1e-4


def test_dropout_is_before_the_classifier(segmentor):
    config = segmentor("fpn")
    config["decode_head"]["dropout_ratio"] = 0.9
    torch.manual_seed(0)
    dropped = losses(build(config), batch())["decode.loss_ce"]
    assert abs(dropped - losses(build(segmentor("fpn")), batch())["decode.loss_ce"]) > 1e-3


def test_initial_weights_are_those_of_mmseg(segmentor):
    model = build(segmentor("uper"))
    model.init_weights()
    assert model.decode_head.conv_seg.projection.bias.abs().max() == 0
    assert model.decode_head.conv_seg.projection.weight.std().item() == pytest.approx(0.01, rel=0.3)


def test_a_background_after_the_classes_is_refused(segmentor):
    with pytest.raises(ConfigError, match="background_class"):
        build(segmentor("fpn", background="learned"))
