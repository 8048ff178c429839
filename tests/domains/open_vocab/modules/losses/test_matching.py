"""Matching and its losses against transformers' numbers, and OWL-ViT's own rules against loops over images."""

import json

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
pytest.importorskip("vladapt.domains.open_vocab")  # the operators, before modules of mmdet ask for them

from safetensors.torch import load_file
from torchvision.ops import box_convert, generalized_box_iou

from vladapt import ConfigError
from vladapt.domains.open_vocab.modules.losses.matching import BoxTargets, MatchingLoss
from vladapt.registry import MODELS

DETR = {"alpha": 0.25, "normalisation": "global", "l1_format": "cxcywh"}


@pytest.fixture(scope="module")
def reference(parity_dir):
    folder = parity_dir / "dev"
    facts = json.loads((folder / "detection_matching.json").read_text())
    return load_file(folder / "detection_matching.safetensors"), facts["tolerance"], facts["hyper_parameters"]


@pytest.fixture
def detr(reference):
    options = reference[2]
    costs = {name: options[name] for name in ("class_cost", "bbox_cost", "giou_cost")}
    weights = {f"{name.replace('ce', 'class')}_weight": value for name, value in options["weights"].items()}
    return MatchingLoss(**costs, **weights, **DETR, gamma=options["focal_gamma"])


def targets_of(tensors, classes=4):
    sizes = tensors["targets_per_image"].tolist()
    boxes, labels = tensors["target_boxes"].split(sizes), tensors["target_labels"].split(sizes)
    return [BoxTargets.of(box, label, classes) for box, label in zip(boxes, labels)]


def test_matched_pairs_are_those_of_transformers(reference, detr):
    tensors = reference[0]
    pairs = detr.match(tensors["logits"], tensors["boxes"], targets_of(tensors))
    assert torch.equal(torch.cat([predicted for predicted, _ in pairs]), tensors["matched_query"])
    assert torch.equal(torch.cat([true for _, true in pairs]), tensors["matched_target"])


def test_losses_and_gradients_are_those_of_transformers(reference, detr):
    tensors, tolerance, _ = reference
    logits, boxes = (tensors[name].clone().requires_grad_() for name in ("logits", "boxes"))
    parts = detr.parts(logits, boxes, targets_of(tensors))
    for ours, theirs in (("loss_class", "loss_ce"), ("loss_bbox", "loss_bbox"), ("loss_giou", "loss_giou")):
        torch.testing.assert_close(parts[ours], tensors[theirs], **tolerance)
    total = sum(detr(logits, boxes, targets_of(tensors)).values())
    torch.testing.assert_close(total, tensors["total"], **tolerance)
    total.backward()
    torch.testing.assert_close(logits.grad, tensors["grad_logits"], **tolerance)
    torch.testing.assert_close(boxes.grad, tensors["grad_boxes"], **tolerance)


def test_the_cost_uses_the_generalised_iou_of_the_fixture(reference):
    tensors, tolerance, _ = reference
    target = targets_of(tensors)[0]
    iou_only = MatchingLoss(class_cost=0, bbox_cost=0, giou_cost=1)
    cost = iou_only.cost(tensors["logits"][0], tensors["boxes"][0], target)
    torch.testing.assert_close(-cost, tensors["giou_matrix_image0"], **tolerance)


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
