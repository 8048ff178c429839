"""Faster R-CNN, Mask R-CNN and RetinaNet with texts as classes: they train, predict, and take other names."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

import numpy as np
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

import vladapt.domains.open_vocab  # noqa: F401
from vladapt.core.errors import ConfigError, UnknownNameError
from vladapt.domains.open_vocab.text_embeddings import set_classes

KINDS = ("retina", "faster", "mask")
BOXES = [[4.0, 4.0, 36.0, 36.0], [24.0, 8.0, 60.0, 60.0]]


def build(config: dict, seed: int = 0):
    torch.manual_seed(seed)
    return MODELS.build(ConfigDict(copy.deepcopy(config)))


def batch(labels=(0, 2), side: int = 64) -> dict:
    """Two pictures of noise with two boxes each."""
    pixels = torch.randint(0, 256, (2, 3, side, side), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)
    samples = []
    for _ in range(2):
        masks = np.zeros((2, side, side), np.uint8)
        for mask, (left, top, right, bottom) in zip(masks, BOXES):
            mask[int(top) : int(bottom), int(left) : int(right)] = 1
        meta = {"img_shape": (side, side), "ori_shape": (side, side), "scale_factor": (1.0, 1.0)}
        sample = DetDataSample(metainfo=meta)
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor(BOXES), labels=torch.tensor(labels), masks=BitmapMasks(masks, side, side)
        )
        samples.append(sample)
    return {"inputs": list(pixels), "data_samples": samples}


def losses(model, data: dict) -> dict[str, float]:
    torch.manual_seed(1)  # the sampler's
    found = model.train()(**model.data_preprocessor(data, training=True), mode="loss")
    return {name: sum(value) if isinstance(value, list) else value for name, value in found.items()}


@torch.no_grad()
def predict(model):
    data = model.eval().data_preprocessor(batch(), training=False)
    return [sample.pred_instances for sample in model(**data, mode="predict")]


def classifier_in(model):
    return model.bbox_head.retina_cls if hasattr(model, "bbox_head") else model.roi_head.bbox_head.fc_cls


@pytest.fixture(scope="module")
def built(detector):
    """kind -> a model, made once; for tests that leave it as it is."""
    made = {}

    def named(kind: str):
        if kind not in made:
            made[kind] = build(detector(kind))
        return made[kind]

    return named


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_trains_gets_a_gradient(detector, kind):
    model = build(detector(kind))
    found = losses(model, batch())
    sum(value for name, value in found.items() if "loss" in name).backward()
    assert all(value.isfinite() for value in found.values())
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert not any("token_embedding" in name for name in model.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_have_the_labels_of_the_names(built, kind):
    for found in predict(built(kind)):
        assert len(found) == 50
        assert set(found.labels.tolist()) <= {0, 1, 2}
        assert found.bboxes.shape == (50, 4)
        if kind == "mask":
            assert found.masks.shape == (50, 64, 64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", ["lake", "sea, cat, dog, lake, tree"])
def test_other_names_are_predicted_and_trained_with(detector, kind, names):
    model = build(detector(kind))
    set_classes(model, names)
    count = len(names.split(","))
    labels = torch.cat([found.labels for found in predict(model)])
    assert labels.max() < count
    assert count == 1 or labels.max() > 2
    found = losses(model, batch(labels=(0, count - 1)))
    sum(value for name, value in found.items() if "loss" in name).backward()
    assert all(value.isfinite() for value in found.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_keeps_its_scores_wherever_it_stands(built, detector, kind):
    model = build(detector(kind))
    model.load_state_dict(built(kind).state_dict())
    set_classes(model, "lake, cat, dog")
    place = {0: 1, 1: 2, 2: 0}
    before, after = predict(built(kind))[0], predict(model)[0]
    torch.testing.assert_close(before.scores, after.scores, atol=1e-5, rtol=1e-4)
    moved = torch.tensor([place[int(label)] for label in before.labels])
    assert (moved == after.labels).float().mean() > 0.9  # ties may come in another order


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_meaning_of_the_texts_scores_are_others(built, detector, kind):
    model = build(detector(kind))
    model.load_state_dict(built(kind).state_dict())
    text = classifier_in(model).text
    noise = torch.randn(text.embeddings.shape, generator=torch.Generator().manual_seed(2))
    text.embeddings = torch.nn.functional.normalize(noise, dim=-1)
    assert (predict(model)[0].scores - predict(built(kind))[0].scores).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_other_names_is_loaded(built, detector, kind):
    other = build(detector(kind, classes="sea, lake"), seed=3)
    other.load_state_dict(built(kind).state_dict())
    assert predict(other)[0].labels.max() == 1
    set_classes(other, "cat, dog, lake")
    torch.testing.assert_close(predict(other)[0].scores, predict(built(kind))[0].scores)


def test_weights_are_initialised_as_the_heads_want_them(detector):
    for kind in ("retina", "faster"):
        model = build(detector(kind))
        tower = copy.deepcopy(model.backbone.tower.state_dict())
        model.init_weights()
        classifier = classifier_in(model)
        assert classifier.projection.bias.abs().max() == 0
        assert all(torch.equal(tower[name], value) for name, value in model.backbone.tower.state_dict().items())
    retina = build(detector("retina"))
    retina.init_weights()
    assert retina.bbox_head.retina_cls.logit_bias.sigmoid().item() == pytest.approx(0.01)


def test_options_reach_the_classifier(detector):
    retina = build(detector("retina", prior=0.1, templates="name"))
    assert retina.bbox_head.retina_cls.logit_bias.sigmoid().item() == pytest.approx(0.1)
    assert retina.bbox_head.retina_cls.anchors == 2
    plain = losses(build(detector("faster")), batch())
    for options in ({"background": "zeros"}, {"temperature": 0.5}, {"projection": "mlp"}, {"templates": "name"}):
        changed = losses(build(detector("faster", **options)), batch())
        assert abs(changed["loss_cls"] - plain["loss_cls"]) > 1e-4


def test_base_configs_of_many_classes_become_agnostic(built):
    head, mask = built("mask").roi_head.bbox_head, built("mask").roi_head.mask_head
    assert head.num_classes == 3
    assert head.fc_reg.out_features == 4
    assert mask.conv_logits.out_channels == 1


def test_a_head_of_convolutions_is_there_too(trunk, small_clip_spec):
    classifier = {"backbone": small_clip_spec, "classes": "cat, dog"}
    head = {"in_channels": 4, "conv_out_channels": 4, "fc_out_channels": 6, "roi_feat_size": 3}
    made = MODELS.build({"type": "vladapt.TextShared4Conv1FCBBoxHead", "classifier": classifier, **head})
    scores, deltas = made(torch.randn(5, 4, 3, 3))
    assert (scores.shape, deltas.shape) == ((5, 3), (5, 4))
    free = {"num_cls_fcs": 1, "num_reg_fcs": 1, "in_channels": 4, "fc_out_channels": 6, "roi_feat_size": 3}
    made = MODELS.build({"type": "vladapt.TextConvFCBBoxHead", "classifier": classifier, **free})
    assert made(torch.randn(5, 4, 3, 3))[0].shape == (5, 3)


FOCAL = {"type": "mmdet.FocalLoss"}
SIGMOID = {"type": "mmdet.CrossEntropyLoss", "use_sigmoid": True}


@pytest.mark.parametrize(
    ("kind", "options", "error", "says"),
    [
        ("faster", {"background": None}, ConfigError, "learned' or 'zeros"),
        ("faster", {"background": "zeros", "background_class": "cat"}, ConfigError, "after the classes"),
        ("faster", {"head": {"loss_cls": SIGMOID}}, ConfigError, "softmax"),
        ("faster", {"classes": ""}, ConfigError, "names no classes"),
        ("faster", {"anchors": 2}, UnknownNameError, "no option 'anchors'"),
        ("retina", {"background": "learned"}, ConfigError, "no background"),
        ("retina", {"head": {"loss_cls": {"type": "mmdet.CrossEntropyLoss"}}}, ConfigError, "sigmoid"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(detector, kind, options, error, says):
    with pytest.raises(error, match=says):
        build(detector(kind, **options))
