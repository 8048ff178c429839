"""Mask2Former with texts as classes: semantic and panoptic, with a learned "no object", and names that change."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

import numpy as np
from mmdet.evaluation.functional import INSTANCE_OFFSET
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from vladapt.core.errors import ConfigError, UnknownNameError
from vladapt.domains.open_vocab.modules.classifiers.text_mask2former import MaskPooling
from vladapt.domains.open_vocab.text_embeddings import set_classes

SIDE = 32
NAMES = "cat, dog, lake"
COLOURS = torch.tensor([[220, 40, 40], [40, 40, 220], [40, 200, 60]], dtype=torch.uint8)
KINDS = ("semantic", "panoptic")
QUERIES = 6


@pytest.fixture(scope="module")
def config(trunk, small_clip_spec):
    """kind, options of head and classifier -> the config of a small model."""

    def of(kind: str, head: dict | None = None, test_cfg: dict | None = None, **classifier) -> dict:
        attention = {"embed_dims": 16, "num_heads": 2, "dropout": 0.0, "batch_first": True}
        ffn = {"embed_dims": 16, "feedforward_channels": 16, "num_fcs": 2, "ffn_drop": 0.0, "act_cfg": {"type": "ReLU"}}
        position = {"num_feats": 8, "normalize": True}
        encoder = {"self_attn_cfg": {**attention, "num_levels": 3, "num_points": 2}, "ffn_cfg": ffn}
        decoder = {"self_attn_cfg": attention, "cross_attn_cfg": attention, "ffn_cfg": ffn}
        training = {
            "num_points": 64,
            "oversample_ratio": 3.0,
            "importance_sample_ratio": 0.75,
            "assigner": {
                "type": "mmdet.HungarianAssigner",
                "match_costs": [
                    {"type": "mmdet.ClassificationCost", "weight": 2.0},
                    {"type": "mmdet.CrossEntropyLossCost", "weight": 5.0, "use_sigmoid": True},
                    {"type": "mmdet.DiceCost", "weight": 5.0, "pred_act": True, "eps": 1.0},
                ],
            },
            "sampler": {"type": "mmdet.MaskPseudoSampler"},
        }
        made = {
            "classifier": {"backbone": small_clip_spec, "classes": NAMES, **classifier},
            "in_channels": [8] * 4,
            "strides": [2, 4, 8, 16],
            "feat_channels": 16,
            "out_channels": 16,
            "num_queries": QUERIES,
            "num_transformer_feat_level": 3,
            "pixel_decoder": {
                "type": "mmdet.MSDeformAttnPixelDecoder",
                "num_outs": 3,
                "norm_cfg": {"type": "GN", "num_groups": 2},
                "encoder": {"num_layers": 1, "layer_cfg": encoder},
                "positional_encoding": position,
            },
            "positional_encoding": position,
            "transformer_decoder": {"return_intermediate": True, "num_layers": 2, "layer_cfg": decoder},
            "loss_cls": {
                "type": "mmdet.CrossEntropyLoss",
                "loss_weight": 2.0,
                "class_weight": [1.0] * 133 + [0.1],  # of a base config
            },
            "loss_mask": {"type": "mmdet.CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 5.0},
            "loss_dice": {"type": "mmdet.DiceLoss", "naive_dice": True, "eps": 1.0, "loss_weight": 5.0},
            **(head or {}),
        }
        backbone = {**trunk["backbone"], "num_outs": 4}
        if kind == "semantic":
            return {
                "type": "mmseg.EncoderDecoder",
                "data_preprocessor": {"type": "mmseg.SegDataPreProcessor", "size_divisor": 32},
                "backbone": backbone,
                "decode_head": {
                    "type": "vladapt.TextMask2FormerDecodeHead",
                    "num_classes": 150,
                    "train_cfg": training,
                    **made,
                },
                "test_cfg": {"mode": "whole"},
            }
        return {
            "type": "vladapt.TextMask2Former",
            "data_preprocessor": {"type": "mmdet.DetDataPreprocessor", "pad_size_divisor": 32, "pad_mask": True},
            "backbone": backbone,
            "panoptic_head": {"type": "vladapt.TextMask2FormerHead", "num_things_classes": 80, **made},
            "panoptic_fusion_head": {"type": "mmdet.MaskFormerFusionHead", "num_things_classes": 80},
            "train_cfg": training,
            "test_cfg": {
                "panoptic_on": True,
                "instance_on": True,
                "max_per_image": 10,
                "object_mask_thr": 0.0,
                "iou_thr": 0.5,
                "filter_low_score": True,
                **(test_cfg or {}),
            },
        }

    return of


def build(settings: dict, seed: int = 0):
    torch.manual_seed(seed)
    return MODELS.build(ConfigDict(copy.deepcopy(settings)))


def head_of(model):
    return model.panoptic_head if hasattr(model, "panoptic_head") else model.decode_head


def batch(kind: str, seed: int = 0, count: int = 2, stuff: bool = False) -> dict:
    """Pictures of ground in one colour with a square in another."""
    generator = torch.Generator().manual_seed(seed)
    inputs, samples = [], []
    for _ in range(count):
        ground, thing = torch.randperm(2 if stuff else 3, generator=generator)[:2].tolist()
        ground = 2 if stuff else ground
        mask = torch.full((SIDE, SIDE), ground)
        top, left = torch.randint(0, SIDE // 2, (2,), generator=generator).tolist()
        mask[top : top + 16, left : left + 16] = thing
        inputs.append(COLOURS[mask].permute(2, 0, 1))
        meta = {"img_shape": (SIDE, SIDE), "ori_shape": (SIDE, SIDE), "scale_factor": (1.0, 1.0)}
        if kind == "semantic":
            sample = SegDataSample(metainfo=meta)
            sample.gt_sem_seg = PixelData(data=mask[None])
        else:
            sample = DetDataSample(metainfo=meta)
            square = (mask == thing).numpy().astype(np.uint8)[None]
            sample.gt_instances = InstanceData(
                labels=torch.tensor([thing]), masks=BitmapMasks(square, SIDE, SIDE), bboxes=torch.zeros(1, 4)
            )
            if stuff:
                sample.gt_sem_seg = PixelData(sem_seg=torch.where(mask == 2, 2, 255)[None])
        samples.append(sample)
    return {"inputs": inputs, "data_samples": samples}


def losses(model, data: dict) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)  # the points'
    found = model.train()(**model.data_preprocessor(data, training=True), mode="loss")
    return {name.removeprefix("decode."): value for name, value in found.items()}


@torch.no_grad()
def predict(model, data: dict):
    return model.eval()(**model.data_preprocessor(data, training=False), mode="predict")


@torch.no_grad()
def logits(model, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the last layer (B, Q, C + 1), and mask logits."""
    data = model.eval().data_preprocessor(batch(kind), training=False)
    classes, masks = head_of(model)(model.extract_feat(data["inputs"]), data["data_samples"])
    return classes[-1], masks[-1]


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_trains_gets_a_gradient(config, kind):
    model = build(config(kind))
    found = losses(model, batch(kind))
    assert {"loss_cls", "loss_mask", "loss_dice", "d0.loss_cls", "d1.loss_dice"} <= set(found)
    assert all(value.isfinite() for value in found.values())
    sum(found.values()).backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert not any("token_embedding" in name for name in model.state_dict())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", [None, "lake", "sea, cat, dog, lake, tree"])
def test_any_names_are_predicted_and_trained_with(config, kind, names):
    model = build(config(kind))
    if names:
        set_classes(model, names)
    count = len(names.split(",")) if names else 3
    found = predict(model, batch(kind))[0]
    if kind == "semantic":
        assert found.seg_logits.data.shape == (count, SIDE, SIDE)
        if count == 1:
            likely = found.seg_logits.data.logit() > 0.5  # mmseg took the sigmoid of probabilities
            assert torch.equal(found.pred_sem_seg.data.bool(), likely)
    else:
        assert len(found.pred_instances) == min(10, QUERIES * count)
        assert found.pred_instances.labels.max() < count
        assert set((found.pred_panoptic_seg.sem_seg % INSTANCE_OFFSET).unique().tolist()) <= set(range(count + 1))
    head = head_of(model)
    assert head.class_weight == head.loss_cls.class_weight == [1.0] * count + [0.1]
    if count >= 3:
        assert all(value.isfinite() for value in losses(model, batch(kind)).values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_keeps_its_scores_wherever_it_stands(config, kind):
    first, other = build(config(kind)), build(config(kind, classes="lake, cat, sea, dog"), seed=3)
    other.load_state_dict(first.state_dict())
    (one, masks), (two, again) = logits(first, kind), logits(other, kind)
    torch.testing.assert_close(two[..., [1, 3, 0, 4]], one, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(masks, again)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_cosines_with_texts_and_a_learned_no_object(config, kind):
    model = build(config(kind))
    head = head_of(model)
    seen = {}
    head.classifier.register_forward_hook(lambda module, given, out: seen.update(x=given[0], out=out))
    logits(model, kind)
    with torch.no_grad():
        embedded = head.classifier.embed(seen["x"])[..., 0, :]
        rows = torch.cat([head.classifier.text(), F.normalize(head.classifier.no_object, dim=0)[None]])
        wanted = head.classifier.scale * embedded @ F.normalize(rows, dim=-1).T
    torch.testing.assert_close(seen["out"], wanted, atol=1e-4, rtol=1e-4)
    assert head.classifier.scale.item() == pytest.approx(1 / 0.07)
    assert head.classifier.log_scale.requires_grad


def test_queries_of_nothing_are_no_object_and_weigh_a_tenth(config):
    model = build(config("semantic"))
    scores, masks = torch.randn(1, QUERIES, 4), torch.randn(1, QUERIES, 16, 16)
    truth = [InstanceData(labels=torch.tensor([1]), masks=torch.ones(1, SIDE, SIDE, dtype=torch.long))]
    targets = model.decode_head.get_targets(list(scores), list(masks), truth, [{}])
    labels = targets[0][0]
    assert sorted(labels.tolist()) == [1] + [3] * (QUERIES - 1)
    found = model.decode_head._loss_by_feat_single(scores, masks, truth, [{}])[0]
    of_each = F.cross_entropy(scores[0], labels, reduction="none")
    weights = torch.where(labels == 3, 0.1, 1.0)
    torch.testing.assert_close(found, 2.0 * (of_each * weights).sum() / weights.sum())
    heavier = build(config("semantic", head={"no_object_weight": 0.7})).decode_head
    assert heavier.class_weight == [1.0, 1.0, 1.0, 0.7]


def test_pixels_under_a_mask_are_averaged():
    pooling = MaskPooling(3, 5)
    pixels, masks = torch.randn(2, 3, 4, 4), torch.randn(2, 6, 4, 4, requires_grad=True)
    found = pooling(pixels, masks)
    for image, query in ((0, 0), (1, 5)):
        inside = masks[image, query] > 0
        mean = pixels[image][:, inside].mean(dim=1)
        torch.testing.assert_close(found[image, query], pooling.project(mean))
    nothing = pooling(pixels, -torch.ones(2, 1, 4, 4))
    torch.testing.assert_close(nothing[0, 0], pooling.project(torch.zeros(3)))
    found.sum().backward()
    assert masks.grad is None


def test_what_a_query_outlines_says_its_name(config):
    models = {by: build(config("semantic", head={"named_by": by})) for by in ("both", "queries", "pixels")}
    state, given = models["both"].state_dict(), {}
    for by, model in models.items():
        kept = {name: value for name, value in state.items() if by != "queries" or "mask_pooling" not in name}
        model.load_state_dict(kept)
        head_of(model).class_layers.register_forward_hook(lambda m, x, out, by=by: given.update({by: x[0]}))
    (one, masks), (other, again), (third, _) = (logits(model, "semantic") for model in models.values())
    torch.testing.assert_close(masks, again)
    torch.testing.assert_close(given["both"], given["queries"] + given["pixels"])
    assert (one - other).abs().max() > 1e-3
    assert (one - third).abs().max() > 1e-3


def test_hidden_layers_are_counted(config):
    linear = [len(head_of(build(config("semantic", head={"class_layers": n}))).class_layers) for n in (0, 2)]
    assert linear == [0, 4]
    for wrong, says in (({"class_layers": -1}, "give 0 or more"), ({"named_by": "all"}, "both, queries, pixels")):
        with pytest.raises(ConfigError, match=says):
            build(config("semantic", head=wrong))


def test_a_background_of_masks_is_learned_beside_no_object(config):
    options = {"classes": "background, cat, dog", "background": "learned", "background_class": "background"}
    model = build(config("semantic", **options))
    assert logits(model, "semantic")[0].shape[-1] == 4
    losses(model, batch("semantic"))["loss_cls"].backward()
    classifier = model.decode_head.classifier
    assert classifier.background_embedding.grad.abs().max() > 0
    assert classifier.no_object.grad.abs().max() > 0
    with pytest.raises(ConfigError, match="'no object' after the classes"):
        build(config("semantic", background="learned"))


def test_stuff_is_one_region_and_things_are_told_apart(config):
    model = build(config("panoptic", head={"stuff": ["lake", "sea"]}))
    fusion = model.panoptic_fusion_head
    assert (fusion.num_things_classes, fusion.num_stuff_classes, model.num_classes) == (2, 1, 3)
    found = losses(model, batch("panoptic", stuff=True))
    assert all(value.isfinite() for value in found.values())
    masks = torch.full((4, 8, 8), -5.0)
    for query, place in enumerate(((0, 0), (0, 4), (4, 0), (4, 4))):
        masks[query, place[0] : place[0] + 4, place[1] : place[1] + 4] = 5.0
    classes = 9 * F.one_hot(torch.tensor([0, 0, 2, 2]), 4).float()
    segments = fusion.panoptic_postprocess(classes, masks).sem_seg[0]
    assert segments[0, 0] != segments[0, 7]
    assert {int(value) % INSTANCE_OFFSET for value in segments[:4].unique()} == {0}
    assert segments[4:].unique().tolist() == [2]
    set_classes(model, "cat, sea, lake")
    assert (fusion.num_things_classes, fusion.num_stuff_classes) == (1, 2)
    set_classes(model, "cat, tree, dog, hen")
    assert (fusion.num_things_classes, fusion.num_stuff_classes) == (4, 0)
    with pytest.raises(ConfigError, match="'lake' is stuff and stands before things"):
        set_classes(model, "lake, cat")
    assert (fusion.num_things_classes, model.panoptic_head.num_things_classes) == (4, 4)
    assert model.panoptic_head.classifier.text.names == ("cat", "tree", "dog", "hen")


def test_more_names_than_a_panoptic_map_holds_are_refused(config):
    names = [f"thing {number}" for number in range(INSTANCE_OFFSET)]
    with pytest.raises(ConfigError, match=r"1000 names: .* hold 999; .*panoptic_on=False"):
        build(config("panoptic", classes=names))
    model = build(config("panoptic", classes=names, test_cfg={"panoptic_on": False}))
    assert predict(model, batch("panoptic"))[0].pred_instances.labels.max() < 1000


@pytest.mark.parametrize(
    ("changed", "error", "says"),
    [
        ({"classes": ""}, ConfigError, "names no classes"),
        ({"heat": 2}, UnknownNameError, "no option 'heat'"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(config, changed, error, says):
    with pytest.raises(error, match=says):
        build(config("panoptic", **changed))


def test_a_head_without_texts_is_refused(config):
    settings = config("panoptic")
    settings["panoptic_head"].update(type="mmdet.Mask2FormerHead", num_things_classes=3, num_stuff_classes=0)
    with pytest.raises(ConfigError, match=r"type='vladapt\.TextMask2FormerHead'"):
        build(settings)


@pytest.mark.parametrize("kind", KINDS)
def test_the_frozen_tower_has_its_say_in_predictions_alone(config, kind):
    """Names that were trained by `alpha`, others by `beta`; "no object" as the head says."""
    weights = {"alpha": 0.0, "beta": 1.0, "short_side": 32}
    settings = config(kind, head={"frozen_tower": weights})
    if kind == "semantic":
        settings["type"] = "vladapt.TextMask2FormerSegmentor"
    model, plain = build(settings), build(config(kind))
    assert model.state_dict().keys() == plain.state_dict().keys()
    model.load_state_dict(plain.state_dict())
    torch.testing.assert_close(losses(model, batch(kind)), losses(plain, batch(kind)))
    seen = {}
    for each, key in ((model, "with"), (plain, "without")):
        head_of(each).register_forward_hook(lambda m, x, out, key=key: seen.update({key: out[0][-1].softmax(-1)}))
    predict(model, batch(kind)), predict(plain, batch(kind))
    torch.testing.assert_close(seen["with"], seen["without"])  # all names were trained
    for each in (model, plain):
        set_classes(each, "cat, sea, cow")
    predict(model, batch(kind)), predict(plain, batch(kind))
    torch.testing.assert_close(seen["with"][..., 3], seen["without"][..., 3])
    assert (seen["with"] - seen["without"]).abs().max() > 1e-2
    head = head_of(model)
    assert [name in head.trained for name in head.classifier.text.names] == [True, False, False]
    assert head._images is None
