"""The classes of a config: numbers replaced wherever they stand, texts given names."""

from __future__ import annotations

import copy

import pytest
from mmengine import Config

from vladapt.core.errors import ConfigError
from vladapt.domains.open_vocab.plans.classes import takes_names, with_classes
from vladapt.domains.open_vocab.plans.kinds import DETECTION
from vladapt.domains.open_vocab.plans.pipelines import nodes
from vladapt.domains.open_vocab.plans.plan import make_plan
from vladapt.domains.open_vocab.stack.packaged_configs import packaged_config

NAMES = ["cat", "dog", "hen"]


def packaged(name):
    return Config.fromfile(str(packaged_config(name))).to_dict()


def counts(model):
    return [node["num_classes"] for node in nodes(model) if "num_classes" in node]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", [80]),
        ("mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py", [80, 80]),
        ("mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py", [80] * 4),
        ("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py", [80]),
        ("mmseg::sem_fpn/fpn_r50_4xb2-80k_cityscapes-512x1024.py", [19]),
        ("mmseg::upernet/upernet_r50_4xb4-80k_ade20k-512x512.py", [150, 150]),
    ],
)
def test_a_packaged_config_gets_the_number_of_the_data_everywhere(name, found):
    model = packaged(name)["model"]
    assert counts(model) == found and not takes_names(model)
    notes = with_classes(model, NAMES, None)
    assert counts(model) == [3] * len(found)
    assert notes == [f"The config counts {found[0]} classes; the model has the 3 of the data."]
    assert with_classes(model, NAMES, None) == []


def test_weights_of_classes_are_made_for_the_new_ones():
    model = packaged("mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py")["model"]
    assert model["decode_head"]["loss_cls"]["class_weight"] == [1.0] * 150 + [0.1]
    with_classes(model, NAMES, None)
    assert model["decode_head"]["loss_cls"]["class_weight"] == [1.0, 1.0, 1.0, 0.1]


def test_weights_of_other_classes_are_left_out_and_told():
    model = {"decode_head": {"num_classes": 2, "loss_decode": {"class_weight": [0.5, 2.0]}}}
    notes = with_classes(model, NAMES, None)
    assert model["decode_head"] == {"num_classes": 3, "loss_decode": {}}
    assert notes[1] == "Weights of the config's 2 classes in a loss (class_weight) were left out."


def test_a_config_of_one_class_gets_the_classes_of_the_data_and_its_proposals_stay():
    model = {
        "rpn_head": {"num_classes": 1},
        "roi_head": {"bbox_head": {"num_classes": 1}, "mask_head": {"num_classes": 1, "class_agnostic": True}},
    }
    with_classes(model, NAMES, None)
    assert counts(model) == [1, 3, 1]
    of_many = {"rpn_head": {"num_classes": 1}, "a": {"num_classes": 1}, "roi_head": {"num_classes": 80}}
    with_classes(of_many, NAMES, None)
    assert counts(of_many) == [1, 1, 3]


def test_texts_get_names_and_what_is_said_of_them_and_templates():
    model = {
        "head": {"num_classes": 7, "classifier": {"backbone": "embedded", "classes": ["x"], "templates": "photo"}},
        "backbone": {"type": "vladapt.CLIPVisionBackbone", "backbone": "embedded"},
    }
    plain, described = copy.deepcopy(model), copy.deepcopy(model)
    with_classes(plain, NAMES, None)
    assert takes_names(model)
    assert plain["head"]["classifier"] == {"backbone": "embedded", "classes": NAMES, "templates": "photo"}
    said = {"cat": {"descriptions": ["it purrs"]}, "dog": {}, "hen": {"synonyms": ["chicken"]}, "cow": {}}
    with_classes(described, NAMES, said, templates=["a {}."])
    assert described["head"]["classifier"]["classes"] == {name: said[name] for name in NAMES}
    assert described["head"]["classifier"]["templates"] == ["a {}."]
    assert "classes" not in described["backbone"]


def test_novel_names_are_not_learned_and_need_texts(boxes, options):
    from vladapt.domains.open_vocab.domain import OpenVocab

    config = Config.fromfile(str(OpenVocab().recipes["faster-rcnn"])).to_dict()
    plan = make_plan(config, DETECTION, options(novel="hen"), boxes)
    assert plan.vladapt.classes == ["cat", "dog"] and plan.vladapt.novel == ["hen"]
    assert plan.model.roi_head.bbox_head.classifier.classes == ["cat", "dog"]
    with pytest.raises(ConfigError, match="--novel: the config's model has no texts as classes"):
        without = packaged("mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py")
        make_plan(without, DETECTION, options(novel="hen"), boxes)
