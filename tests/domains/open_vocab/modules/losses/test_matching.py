"""Matching and its losses against transformers' numbers, and OWL-ViT's own rules against loops over images."""

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
pytest.importorskip("vladapt.domains.open_vocab")  # the operators, before modules of mmdet ask for them

from parity_checks.detectors import detection_matching
from torchvision.ops import box_convert, generalized_box_iou

from vladapt import ConfigError
from vladapt.domains.open_vocab.modules.losses.matching import BoxTargets, MatchingLoss
from vladapt.registry import MODELS


def test_pairs_losses_and_gradients_are_those_of_transformers(agrees):
    """Also the generalised IoU that the costs use."""
    agrees(detection_matching)


# OWL-ViT's own rules -------------------------------------------------------------------------------------------------


@pytest.fixture
def scene():
    """Two images with 3 and 1 boxes; the first box of the first image answers two queries."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 9, 5, generator=generator)
    boxes = torch.rand(2, 9, 4, generator=generator) * 0.4 + 0.2
    first = BoxTargets.of(torch.rand(3, 4, generator=generator) * 0.4 + 0.2, torch.tensor([0, 2, 4]), 5)
    first.labels[0, 3] = 1
    second = BoxTargets.of(torch.rand(1, 4, generator=generator) * 0.4 + 0.2, torch.tensor([1]), 5)
    return logits, boxes, [first, second]


def literal(loss, logits, boxes, targets):
    """OWL-ViT's loss, image by image and box by box."""
    means = []
    for image, (image_logits, image_boxes, target) in enumerate(zip(logits, boxes, targets)):
        predicted, true = loss.match(logits, boxes, targets)[image]
        given = dict(zip(predicted.tolist(), true.tolist()))
        focal = labels = l1 = giou = 0.0
        for row, row_logits in enumerate(image_logits):
            wanted = target.labels[given[row]] if row in given else torch.zeros(len(row_logits))
            for logit, want in zip(row_logits, wanted):
                p = torch.sigmoid(logit)
                focal += -(0.3 * (1 - p) ** 2 * p.log()) if want else -(0.7 * p**2 * (1 - p).log())
            labels += float(wanted.sum())
        for row, column in given.items():
            pair = box_convert(torch.stack([image_boxes[row], target.boxes[column]]), "cxcywh", "xyxy")
            l1 += (pair[0] - pair[1]).abs().sum()
            giou += 1 - generalized_box_iou(pair[:1], pair[1:])[0, 0]
        means.append((focal / labels, l1 / len(given), giou / len(given)))
    return [sum(part) / len(means) for part in zip(*means)]


def test_defaults_are_owl_vits_loss_image_by_image(scene):
    loss = MatchingLoss()
    got = loss(*scene)
    for value, expected in zip(got.values(), literal(loss, *scene)):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


def test_pairs_have_the_least_cost_of_all_assignments(scene):
    from itertools import permutations

    loss, (logits, boxes, targets) = MatchingLoss(), scene
    cost = loss.cost(logits[0], boxes[0], targets[0])
    best = min(permutations(range(9), 3), key=lambda rows: sum(cost[row, i].item() for i, row in enumerate(rows)))
    predicted, true = loss.match(logits, boxes, targets)[0]
    assert {(row, i) for i, row in enumerate(best)} == set(zip(predicted.tolist(), true.tolist()))


@pytest.mark.parametrize(
    "option",
    [
        *({f"{part}_cost": 9.0} for part in ("class", "bbox", "giou")),
        *({f"{part}_weight": 9.0} for part in ("class", "bbox", "giou")),
        {"alpha": 0.5},
        {"gamma": 1.0},
        {"normalisation": "global"},
        {"l1_format": "cxcywh"},
    ],
    ids=lambda option: next(iter(option)),
)
def test_every_option_changes_a_result(scene, option):
    logits, boxes, targets = scene
    default, changed = MatchingLoss(), MatchingLoss(**option)
    costs = [loss.cost(logits[0], boxes[0], targets[0]) for loss in (default, changed)]
    losses = [torch.stack(list(loss(*scene).values())) for loss in (default, changed)]
    assert not all(torch.allclose(*pair) for pair in (costs, losses))


def test_an_image_without_boxes_has_a_class_loss_alone(scene):
    logits, boxes, _ = scene
    empty = [BoxTargets.of(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), 5)] * 2
    parts = MatchingLoss()(logits, boxes.requires_grad_(), empty)
    assert parts["loss_class"] > 0 and parts["loss_bbox"] == 0 and parts["loss_giou"] == 0
    sum(parts.values()).backward()


def test_more_boxes_than_predictions_match_as_many_as_there_are():
    target = BoxTargets.of(torch.rand(5, 4) * 0.3 + 0.3, torch.zeros(5, dtype=torch.long), 2)
    predicted, true = MatchingLoss().match(torch.zeros(1, 3, 2), torch.rand(1, 3, 4), [target])[0]
    assert len(predicted) == len(true) == 3


def test_a_prediction_that_is_no_number_is_matched_last():
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [float("nan")] * 4]])
    target = BoxTargets.of(torch.tensor([[0.5, 0.5, 0.2, 0.2]]), torch.tensor([0]), 1)
    assert MatchingLoss().match(torch.zeros(1, 2, 1), boxes, [target])[0][0].tolist() == [0]


def test_half_precision_gives_the_loss_in_full(scene):
    logits, boxes, targets = scene
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = MatchingLoss()(logits.bfloat16(), boxes.bfloat16(), targets)
    assert all(value.dtype == torch.float32 and F.relu(value).isfinite() for value in got.values())


@pytest.mark.parametrize(
    "options", [{"class_cost": 0, "bbox_cost": 0, "giou_cost": 0}, {"normalisation": "image"}, {"l1_format": "xywh"}]
)
def test_options_that_cannot_be_used_are_refused_by_name(options):
    with pytest.raises(ConfigError, match="MatchingLoss: "):
        MatchingLoss(**options)


def test_configs_name_it():
    assert isinstance(MODELS.build({"type": "vladapt.MatchingLoss", "alpha": 0.5}), MatchingLoss)
