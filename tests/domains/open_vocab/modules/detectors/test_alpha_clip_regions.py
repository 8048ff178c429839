"""Alpha-CLIP over the regions of a data set: what it learns, what it names, what each option does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from mmdet.structures.mask import BitmapMasks
from mmengine.runner import load_checkpoint
from mmengine.structures import InstanceData

from vladapt.core.errors import ConfigError, DataError
from vladapt.domains.open_vocab.text_embeddings import set_classes
from vladapt.registry import MODELS

NAMES = ["red shape", "green shape", "blue shape"]


@pytest.fixture
def build(region_towers):
    def make(tower: str = "vit", **options):
        torch.manual_seed(0)
        config = {"type": "vladapt.AlphaCLIPRegions", "backbone": region_towers[tower], "classes": NAMES, **options}
        model = MODELS.build(config)
        torch.nn.init.normal_(model.backbone.alpha_conv.weight, std=0.2)
        return model

    return make


def losses(model, batch: dict) -> torch.Tensor:
    torch.manual_seed(1)
    return model(**model.data_preprocessor(batch, True), mode="loss")["loss_region"]


@pytest.mark.thorough
def test_it_learns_to_name_regions_it_never_saw(region_towers, trained, accuracy):
    config = {
        "type": "vladapt.AlphaCLIPRegions",
        "backbone": region_towers["vit"],
        "classes": NAMES,
        "logit_scale": 20.0,
        "whole_share": 0.0,
        "label_smoothing": 0.0,
    }
    start = accuracy(MODELS.build(config))
    runner = trained(config, steps=60, lr=3e-3)
    found = accuracy(runner.model)
    assert start < 0.55  # a guess is right a third of the time
    assert found > 0.8

    again = MODELS.build(config)
    load_checkpoint(again, f"{runner.work_dir}/iter_60.pth", map_location="cpu", strict=True)
    assert accuracy(again) == found
    blind = MODELS.build(config)
    blind.load_state_dict(runner.model.state_dict())
    torch.nn.init.zeros_(blind.backbone.alpha_conv.weight)  # without alpha both regions of an image are one
    assert accuracy(blind) < 0.65


def test_the_loss_is_clips_over_regions_and_their_texts(build, packed):
    model, batch = build(whole_share=0.0), packed(0, 3)
    found = losses(model, batch)
    data = model.data_preprocessor(batch, True)
    regions = [sample.gt_instances for sample in data["data_samples"]]
    features = torch.cat(model.embed_regions(data["inputs"], regions, data["data_samples"]))
    texts = model.texts()[torch.cat([region.labels for region in regions])]
    logits, own = 100 * features @ texts.T, torch.arange(6)
    scale = float(model.image.backbone.logit_scale.detach()) / 100
    expected = sum(F.cross_entropy(scale * each, own, label_smoothing=0.1) for each in (logits, logits.T)) / 2
    torch.testing.assert_close(found, expected)


def test_texts_of_regions_go_before_the_names_of_their_classes(build, packed):
    model, batch = build(whole_share=0.0), packed(0, 3)
    by_class = losses(model, batch)
    for sample in batch["data_samples"]:
        sample.gt_instances.texts = ["a photo of a red shape.", "a dog on the grass"]
    assert not torch.allclose(losses(model, batch), by_class)
    for sample in batch["data_samples"]:
        sample.gt_instances.texts = [f"a photo of a {NAMES[label]}." for label in sample.gt_instances.labels]
    torch.testing.assert_close(losses(model, batch), by_class)


def test_each_option_of_training_counts(build, packed):
    batch = packed(0, 4)
    published = losses(build(), batch)
    changed = {
        "objective": "classes",
        "label_smoothing": 0.0,
        "whole_share": 1.0,
        "logit_scale": 5.0,
        "templates": "name",
    }
    for name, value in changed.items():
        assert not torch.allclose(losses(build(**{name: value}), batch), published), name


def test_masks_say_more_than_boxes(build, packed):
    batch = packed(0, 1)
    region = batch["data_samples"][0].gt_instances
    masks = torch.zeros(2, 32, 32, dtype=torch.uint8)
    masks[:, 10:14, 10:14] = 1
    region.masks = BitmapMasks(masks.numpy(), 32, 32)

    def predicted(model):
        model.eval()
        with torch.no_grad():
            return model.test_step(batch)[0].pred_instances.scores

    by_mask, by_box = predicted(build()), predicted(build(alpha="box"))
    assert by_mask[0] == by_mask[1]  # the same mask in the same image
    assert not torch.allclose(by_mask, by_box)
    del region.masks
    torch.testing.assert_close(predicted(build()), by_box)


@torch.no_grad()
def test_padding_of_the_batch_changes_nothing(build, packed):
    model = build().eval()
    batch = packed(0, 1)
    alone = model.test_step(batch)[0].pred_instances.scores
    data = model.data_preprocessor(batch)
    wider = F.pad(data["inputs"], (0, 32, 0, 16))
    torch.testing.assert_close(model.predict(wider, data["data_samples"])[0].pred_instances.scores, alone)


@torch.no_grad()
def test_one_image_and_its_boxes_are_classified_without_a_sample(build, packed):
    model = build().eval()
    batch = packed(0, 1)
    data = model.data_preprocessor(batch)
    boxes = data["data_samples"][0].gt_instances.bboxes
    found = model.classify_regions(data["inputs"][0], boxes=boxes)
    expected = model.test_step(batch)[0].pred_instances
    torch.testing.assert_close(found.max(dim=1).values, expected.scores)
    assert found.argmax(dim=1).tolist() == expected.labels.tolist()


@torch.no_grad()
def test_new_names_at_any_time(build, packed):
    model = build().eval()
    set_classes(model, "a cat, a dog, a tree, a car, a red shape")
    found = model.test_step(packed(0, 2))[0].pred_instances
    assert len(model.texts) == 5
    assert model.classify_regions(torch.randn(3, 32, 32), boxes=torch.tensor([[0.0, 0, 9, 9]])).shape == (1, 5)
    assert found.labels.max() < 5


@torch.no_grad()
def test_proposals_go_before_boxes_and_bring_their_scores(build, packed):
    batch = packed(0, 1)
    sample = batch["data_samples"][0]
    sample.proposals = InstanceData(bboxes=sample.gt_instances.bboxes[:1], scores=torch.tensor([0.25]))
    plain = build().eval().test_step(batch)[0].pred_instances
    assert len(plain.scores) == 1
    multiplied = build(multiply_objectness=True).eval().test_step(batch)[0].pred_instances
    torch.testing.assert_close(multiplied.scores, (plain.scores * 0.25).sqrt())


@torch.no_grad()
def test_boxes_come_back_in_the_pixels_of_the_original(build, packed):
    batch = packed(0, 1)
    batch["data_samples"][0].set_metainfo({"scale_factor": (2.0, 4.0)})
    model = build().eval()
    found = model.test_step(batch)[0].pred_instances.bboxes
    torch.testing.assert_close(found * torch.tensor([2.0, 4, 2, 4]), batch["data_samples"][0].gt_instances.bboxes)


@torch.no_grad()
def test_with_a_test_cfg_classes_of_a_region_compete(build, packed):
    test_cfg = {"score_thr": 0.0, "nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 5}
    found = build(test_cfg=test_cfg).eval().test_step(packed(0, 1))[0].pred_instances
    assert len(found.scores) == 5  # of two regions and three classes
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def test_an_image_without_regions_is_no_end(build, packed):
    batch = packed(0, 2)
    for sample in batch["data_samples"]:
        sample.gt_instances = sample.gt_instances[:0]
    for objective in ("contrastive", "classes"):
        loss = losses(build(objective=objective, whole_share=0.0), batch)
        loss.backward()
        assert float(loss.detach()) == 0
    found = build().eval().test_step(batch)[0].pred_instances
    assert len(found.scores) == 0


def test_what_cannot_be_used_is_said(build, packed):
    for name, value in {"objective": "mse", "alpha": "polygon", "label_smoothing": 1.0, "whole_share": 2.0}.items():
        with pytest.raises(ConfigError, match=name):
            build(**{name: value})
    batch = packed(0, 1)
    del batch["data_samples"][0].gt_instances
    with pytest.raises(DataError, match="image 0: no regions"):
        build().eval().test_step(batch)


def test_the_text_tower_stays_outside(build):
    names = [name for name, _ in build().named_parameters()]
    assert names
    assert all(name.startswith(("backbone.image.tower.visual", "backbone.alpha_conv")) for name in names)


def test_tensor_mode_gives_features(build, packed):
    model = build()
    data = model.data_preprocessor(packed(0, 2))
    features = model(data["inputs"], data["data_samples"], mode="tensor")
    assert [rows.shape for rows in features] == [(2, 24), (2, 24)]
    assert len(model(data["inputs"], mode="tensor")) == 4  # maps
