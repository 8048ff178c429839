"""RegionCLIP: features of regions, and pretraining with pseudo labels."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.runner import load_checkpoint

from vladapt.core.backbones.load import load_backbone
from vladapt.core.errors import ConfigError, DataError
from vladapt.domains.open_vocab.modules.detectors.regionclip.proposals import region_features
from vladapt.domains.open_vocab.text_embeddings import set_classes
from vladapt.registry import MODELS

NAMES = ["red shape", "green shape", "blue shape"]
CONCEPTS = [*NAMES, "dog", "cat", "tree", "car"]


@pytest.fixture
def build(region_towers):
    def make(tower: str = "vit", **options):
        torch.manual_seed(0)
        defaults = {"concepts": CONCEPTS, "concept_templates": "photo", "classes": NAMES}
        return MODELS.build({"type": "vladapt.RegionCLIP", "backbone": region_towers[tower], **defaults, **options})

    return make


def losses(model, batch: dict) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return model(**model.data_preprocessor(copy.deepcopy(batch), True), mode="loss")


@torch.no_grad()
def stray(model) -> None:
    """Let the student differ from its teacher, as after some steps."""
    for parameter in model.image.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.02)


# Features of regions ------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_resnets_whole_image_is_the_image(region_towers):
    """A box over all of an image of the tower's own size, with a map that RoIAlign need not resample."""
    backbone = load_backbone(region_towers["resnet"], device="cpu")
    pixels = torch.randn(2, 3, 32, 32)
    whole = torch.tensor([[0.0, 0.0, 32.0, 32.0]])
    cells = torch.randn(1, 4, 2, 2)
    from vladapt.domains.open_vocab.modules.detectors.regionclip.proposals import aligned

    torch.testing.assert_close(aligned(cells, (32, 32), [whole], 2), cells)
    found = torch.cat(region_features(backbone, pixels, [whole, whole]))
    torch.testing.assert_close(found, backbone.encode_image(pixels))


@torch.no_grad()
@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_regions_are_told_from_each_other_and_from_images(region_towers, tower):
    backbone = load_backbone(region_towers[tower], device="cpu")
    pixels = torch.randn(2, 3, 64, 64)
    boxes = [torch.tensor([[0.0, 0, 32, 32], [32, 32, 64, 64]]), torch.zeros(0, 4)]
    first, none = region_features(backbone, pixels, boxes)
    assert first.shape == (2, 24)
    assert none.shape == (0, 24)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(2))
    assert (first[0] - first[1]).abs().max() > 1e-5


@torch.no_grad()
def test_a_vits_region_is_the_mean_of_its_tokens(region_towers):
    backbone = load_backbone(region_towers["vit"], device="cpu")
    pixels = torch.randn(1, 3, 32, 32)
    found = region_features(backbone, pixels, [torch.tensor([[0.0, 0.0, 32.0, 32.0]])])[0]
    tokens, grid = backbone.image_tokens(pixels)
    from torchvision.ops import roi_align

    cells = tokens.transpose(1, 2).reshape(1, -1, *grid)
    rois = roi_align(cells, [torch.tensor([[0.0, 0.0, 4.0, 4.0]])], (7, 7), aligned=True)
    torch.testing.assert_close(found, F.normalize(rois.mean(dim=(2, 3)), dim=1))
    assert F.cosine_similarity(found, tokens.mean(dim=1)) > 0.95


def test_odd_sizes_are_filled_to_whole_patches(region_towers):
    backbone = load_backbone(region_towers["vit"], device="cpu")
    pixels = torch.randn(1, 3, 29, 35)
    box = torch.tensor([[3.0, 3.0, 20.0, 20.0]])
    filled = F.pad(pixels, (0, 5, 0, 3))
    torch.testing.assert_close(region_features(backbone, pixels, [box]), region_features(backbone, filled, [box]))


# Pretraining --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taught(region_towers, packed, tmp_path_factory) -> str:
    """Spec of the ViT after it learned the shapes' names by their boxes: a teacher that knows."""
    from vladapt.core.backbones.load import save_fine_tuned

    torch.manual_seed(0)
    defaults = {"concepts": NAMES, "concept_templates": "photo", "temperature": 0.05}
    model = MODELS.build({"type": "vladapt.RegionCLIP", "backbone": region_towers["vit"], **defaults})
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(50):
        data = model.data_preprocessor(packed(16 * (step % 4), 16))
        boxes = [sample.gt_instances.bboxes for sample in data["data_samples"]]
        labels = torch.cat([sample.gt_instances.labels for sample in data["data_samples"]])
        features = torch.cat(region_features(model.image.backbone, data["inputs"], boxes))
        optimizer.zero_grad()
        F.cross_entropy(features @ model.texts().T / 0.05, labels).backward()
        optimizer.step()
    return str(save_fine_tuned(model.image.backbone, tmp_path_factory.mktemp("taught")).parent)


def test_a_student_learns_from_a_teacher_without_any_label(region_towers, taught, trained, accuracy):
    config = {
        "type": "vladapt.RegionCLIP",
        "backbone": region_towers["vit"],
        "teacher": taught,
        "concepts": NAMES,
        "concept_templates": "photo",
        "image_text_weight": 0.0,
    }
    start = accuracy(MODELS.build(config))
    runner = trained(config, steps=50, lr=2e-3, custom_hooks=[{"type": "vladapt.SaveBackboneHook"}])
    assert start < 0.55  # a guess is right a third of the time
    assert accuracy(runner.model) > 0.8

    again = MODELS.build({**config, "backbone": f"{runner.work_dir}/backbone"})  # what the hook saved
    assert accuracy(again) == accuracy(runner.model)
    by_checkpoint = MODELS.build(config)
    load_checkpoint(by_checkpoint, f"{runner.work_dir}/iter_50.pth", map_location="cpu", strict=True)
    assert accuracy(by_checkpoint) == accuracy(runner.model)


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_the_losses_are_those_of_teacher_student_and_captions(build, packed, tower, region_towers):
    model, batch = build(tower), packed(0, 3)
    stray(model)
    found = losses(model, batch)
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    boxes = [sample.gt_instances.bboxes for sample in data["data_samples"]]
    student = torch.cat(region_features(model.image.backbone, data["inputs"], boxes))
    teacher = torch.cat(region_features(load_backbone(region_towers[tower], device="cpu"), data["inputs"], boxes))
    p, log_q = (
        (teacher @ model.concept_rows.T / 0.01).softmax(1),
        (student @ model.concept_rows.T / 0.01).log_softmax(1),
    )
    kept = p.max(1).values > 0.1
    p, log_q, named = p[kept], log_q[kept], p.argmax(1)[kept]
    torch.testing.assert_close(found["loss_distill"], (p * (p.log().clamp(min=-1e4) - log_q)).sum(1).mean())
    shares = log_q[:, named].softmax(1)
    right = (shares * (named[:, None] == named[None])).sum(1)
    torch.testing.assert_close(found["loss_contrast"], -right.log().mean())
    whole = torch.tensor([[0.0, 0.0, 32.0, 32.0]])
    images = torch.cat(region_features(model.image.backbone, data["inputs"], [whole] * 3))
    texts = model.encode_texts([sample.caption for sample in data["data_samples"]])
    logits, own = images @ texts.T / 0.01, torch.arange(3)
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(found["loss_image_text"], expected)


def test_two_ranks_learn_from_the_captions_of_both(build, alike_on_two_ranks):
    alike_on_two_ranks(build(distill_weight=0, contrast_weight=0), losses)


def test_each_option_of_pretraining_counts(build, packed, taught):
    batch = packed(0, 4)

    def total(**options) -> torch.Tensor:
        model = build(**options)
        stray(model)
        return sum(losses(model, batch).values()).detach()

    published = total()
    changed = {
        "concepts": NAMES,
        "concept_templates": "name",
        "teacher": taught,
        "proposals": "random",
        "regions_sampled": 1,
        "temperature": 0.05,
        "distill_weight": 0.5,
        "contrast_weight": 0.0,
        "image_text_weight": 0.0,
    }
    for name, value in changed.items():
        assert not torch.allclose(total(**{name: value}), published, rtol=1e-5), name
    model = build()
    data = model.data_preprocessor(copy.deepcopy(batch))
    boxes = [sample.gt_instances.bboxes for sample in data["data_samples"]]
    seen = torch.cat(region_features(model.image.backbone, data["inputs"], boxes))
    middle = float((seen @ model.teacher_rows.T / 0.01).softmax(dim=1).max(dim=1).values.median().detach())
    assert not torch.allclose(total(threshold=middle), published)


def test_terms_that_are_left_out_are_left_out(build, packed):
    assert set(losses(build(), packed(0, 2))) == {"loss_distill", "loss_contrast", "loss_image_text"}
    assert set(losses(build(distill_weight=0, contrast_weight=0), packed(0, 2))) == {"loss_image_text"}
    batch = packed(0, 2)
    for sample in batch["data_samples"]:
        del sample.caption
    assert set(losses(build(image_text_weight=0), batch)) == {"loss_distill", "loss_contrast"}
    with pytest.raises(DataError, match="image 0: no caption"):
        losses(build(), batch)


def test_only_the_student_learns_and_a_resnets_first_stages_do_not(build, packed):
    model = build("resnet", teacher=None)
    with torch.no_grad():
        model.image.tower["visual"].attnpool.c_proj.weight.mul_(1.5).add_(0.1)
    sum(losses(model, packed(0, 3)).values()).backward()
    moved = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    stages = {name.split(".")[3] for name in moved}
    assert stages == {"layer2", "layer3", "layer4", "attnpool"}
    assert not any("running" in name and buffer.requires_grad for name, buffer in model.named_buffers())
    model.train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}
    losses(model, packed(0, 2))
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers() if "running" in name)
    assert not any(name.startswith(("concept", "teacher")) for name in model.state_dict())


@torch.no_grad()
def test_an_rpn_proposes_from_pixels_as_it_knows_them(build, packed):
    detector = {
        "type": "mmdet.RPN",
        "neck": None,
        "train_cfg": None,
        "data_preprocessor": {
            "type": "mmdet.DetDataPreprocessor",
            "mean": [10.0, 20.0, 30.0],
            "std": [50.0, 60.0, 70.0],
            "bgr_to_rgb": False,
        },
        "backbone": {"type": "mmdet.ResNet", "depth": 18, "base_channels": 4, "out_indices": (2,)},
        "rpn_head": {
            "type": "mmdet.RPNHead",
            "in_channels": 16,
            "feat_channels": 8,
            "anchor_generator": {"type": "mmdet.AnchorGenerator", "scales": [1], "ratios": [1.0], "strides": [16]},
            "bbox_coder": {"type": "mmdet.DeltaXYWHBBoxCoder"},
            "loss_cls": {"type": "mmdet.CrossEntropyLoss", "use_sigmoid": True},
            "loss_bbox": {"type": "mmdet.L1Loss"},
        },
        "test_cfg": {
            "rpn": {"nms_pre": 50, "max_per_img": 50, "nms": {"type": "nms", "iou_threshold": 0.7}, "min_bbox_size": 0}
        },
    }
    model = build(proposals=detector, regions_proposed=3)
    batch = packed(0, 2)
    data = model.data_preprocessor(copy.deepcopy(batch))
    seen = []
    own = model.proposals.detector.extract_feat
    model.proposals.detector.extract_feat = lambda pixels: seen.append(pixels) or own(pixels)
    found = model.regions_of(data["inputs"], data["data_samples"])
    assert [len(region) for region in found] == [3, 3]
    expected = model.proposals.detector.data_preprocessor(copy.deepcopy(batch))["inputs"]
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in model.proposals.parameters())
    assert not model.train().proposals.detector.training
    predicted = model.eval().test_step(batch)[0].pred_instances
    assert len(predicted.scores) == 3
    assert set(losses(model, batch)) == {"loss_distill", "loss_contrast", "loss_image_text"}
    with pytest.raises(ConfigError, match="has no RPN"):
        build(proposals={"type": "vladapt.CLOC", "backbone": model.image.backbone.spec, "classes": NAMES})


def test_random_boxes_lie_on_a_grid_in_the_image(build, packed):
    model = build(proposals="random", regions_proposed=200)
    data = model.data_preprocessor(packed(0, 2))
    boxes = model.regions_of(data["inputs"], data["data_samples"])[0].bboxes
    assert boxes.shape == (200, 4)
    assert (boxes % 8 == 0).all()
    assert ((boxes[:, 2:] - boxes[:, :2]) >= 8).all()
    assert boxes.max() <= 32
    assert len(boxes.unique(dim=0)) > 50


@torch.no_grad()
def test_zero_shot_scores_have_a_background_of_zeros(build, packed):
    model = build().eval()
    batch = packed(0, 1)
    data = model.data_preprocessor(copy.deepcopy(batch))
    boxes = [data["data_samples"][0].gt_instances.bboxes]
    logits = region_features(model.image.backbone, data["inputs"], boxes)[0] @ model.texts().T / 0.01
    expected = F.pad(logits, (0, 1)).softmax(dim=1)[:, :-1].max(dim=1)
    found = model.test_step(batch)[0].pred_instances
    torch.testing.assert_close(found.scores, expected.values)
    assert found.labels.tolist() == expected.indices.tolist()


def test_new_classes_leave_the_concepts_alone(build):
    model = build()
    before = model.concept_rows.clone()
    set_classes(model, "lion, tiger")
    assert torch.equal(model.concept_rows, before)
    assert model.texts.names == ("lion", "tiger")
    assert build(classes=None).texts.names == tuple(CONCEPTS)


def test_what_cannot_be_used_is_said(build):
    for name, value in {
        "proposals": "selective-search",
        "regions_sampled": 0,
        "regions_proposed": 0,
        "threshold": 1.5,
        "temperature": 0.0,
        "distill_weight": -1.0,
    }.items():
        with pytest.raises(ConfigError, match=name):
            build(**{name: value})
