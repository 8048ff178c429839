"""What regions are trained with, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import vladapt.domains.open_vocab  # noqa: F401
from vladapt.core.errors import ConfigError
from vladapt.domains.open_vocab.modules.losses.region_concepts import RegionConceptLoss
from vladapt.domains.open_vocab.modules.losses.region_focal import FocalScaledCrossEntropy, box_distance


def unit(rows: int, width: int = 8, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


# Focal scaling ------------------------------------------------------------------------------------------------------


def test_focal_scaling_is_cross_entropy_times_what_is_missing():
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.25, 0.25, 0.5]])
    labels = torch.tensor([0, 1, 2])  # the last is the background
    loss = FocalScaledCrossEntropy(gamma=0.5, background_weight=0.2)(probabilities.log(), labels)
    expected = -math.log(0.7) * 0.3**0.5 - math.log(0.5) * 0.5**0.5 - 0.2 * math.log(0.5) * 0.5**0.5
    assert float(loss) == pytest.approx(expected / 3, rel=1e-5)


def test_each_option_of_focal_scaling_counts():
    scores, labels = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 4
    plain = float(FocalScaledCrossEntropy(gamma=0, background_weight=1)(scores, labels))
    assert plain == pytest.approx(float(F.cross_entropy(scores, labels)), rel=1e-6)
    published = float(FocalScaledCrossEntropy()(scores, labels))
    for options in ({"gamma": 0.0}, {"gamma": 2.0}, {"background_weight": 1.0}):
        assert float(FocalScaledCrossEntropy(**options)(scores, labels)) != pytest.approx(published, rel=1e-3)
    assert float(FocalScaledCrossEntropy(loss_weight=3)(scores, labels)) == pytest.approx(3 * published, rel=1e-5)
    rows = FocalScaledCrossEntropy()(scores, labels, reduction_override="none")
    assert rows.shape == (9,)
    assert float(rows.mean()) == pytest.approx(published, rel=1e-5)
    some = (torch.arange(9) < 3).float()
    weighted = FocalScaledCrossEntropy()(scores, labels, some, avg_factor=3.0)
    assert float(weighted) == pytest.approx(float(rows[:3].mean()), rel=1e-5)
    assert float(FocalScaledCrossEntropy()(scores, labels, reduction_override="sum")) == pytest.approx(9 * published)


def test_a_region_that_is_certain_has_a_finite_gradient():
    scores = torch.tensor([[100.0, -100.0, 0.0], [30.0, 0.0, 0.0]], requires_grad=True)
    FocalScaledCrossEntropy()(scores, torch.tensor([0, 0])).backward()
    assert scores.grad.isfinite().all()
    empty = torch.zeros(0, 3, requires_grad=True)
    loss = FocalScaledCrossEntropy()(empty, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert float(loss.detach()) == 0


def test_focal_options_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="gamma=-1"):
        FocalScaledCrossEntropy(gamma=-1)
    with pytest.raises(ConfigError, match="background_weight"):
        FocalScaledCrossEntropy(background_weight=-0.1)


# Concepts -----------------------------------------------------------------------------------------------------------


def test_pseudo_labels_are_the_teachers_where_it_is_certain():
    concepts = torch.eye(3)
    seen = torch.stack([concepts[0], F.normalize(torch.tensor([1.0, 1.0, 1.0]), dim=0), concepts[2]])
    labels = RegionConceptLoss(threshold=0.5).pseudo_labels(seen, concepts)
    assert labels.kept.tolist() == [True, False, True]
    assert labels.concepts.tolist() == [0, 2]
    torch.testing.assert_close(labels.probabilities, (seen @ concepts.T / 0.01).softmax(dim=1)[[0, 2]])


def test_where_the_teacher_is_never_certain_all_regions_are_kept():
    seen = F.normalize(torch.ones(2, 3), dim=1)
    assert RegionConceptLoss(threshold=0.5).pseudo_labels(seen, torch.eye(3)).kept.all()


def test_distillation_is_the_divergence_from_the_teacher():
    concepts, seen, learned = unit(5), unit(4, seed=1), unit(4, seed=2)
    loss = RegionConceptLoss(threshold=0.0, temperature=0.1, teacher_temperature=0.1)
    labels = loss.pseudo_labels(seen, concepts)
    p, q = labels.probabilities, (learned @ concepts.T / 0.1).softmax(dim=1)
    expected = (p * (p.log() - q.log())).sum(dim=1).mean()
    torch.testing.assert_close(loss(learned, concepts, labels)["distill"], expected)
    assert float(loss(seen, concepts, labels)["distill"]) == pytest.approx(0, abs=1e-5)


def test_the_contrast_sums_the_shares_of_all_right_answers():
    concepts, learned = unit(3), unit(4, seed=1)
    loss = RegionConceptLoss(threshold=0.0, temperature=0.5)
    labels = loss.pseudo_labels(concepts[[0, 1, 0, 2]], concepts)
    assert labels.concepts.tolist() == [0, 1, 0, 2]
    shares = (learned @ concepts[[0, 1, 0, 2]].T / 0.5).softmax(dim=1)
    right = torch.stack([shares[0, [0, 2]].sum(), shares[1, 1], shares[2, [0, 2]].sum(), shares[3, 3]])
    torch.testing.assert_close(loss(learned, concepts, labels)["contrast"], -right.log().mean())


def test_each_option_of_the_concept_loss_counts():
    concepts, seen, learned = unit(6), unit(7, seed=1), unit(7, seed=2)

    def losses(**options):
        loss = RegionConceptLoss(**{"threshold": 0.1, **options})
        return torch.stack(list(loss(learned, concepts, loss.pseudo_labels(seen, concepts)).values()))

    published = losses()
    for options in ({"threshold": 0.99}, {"temperature": 0.1}, {"teacher_temperature": 0.1}):
        assert not torch.allclose(losses(**options), published)
    for name, value in {"threshold": 1.0, "temperature": 0.0, "teacher_temperature": 0.0}.items():
        with pytest.raises(ConfigError, match=name):
            RegionConceptLoss(**{name: value})


def test_no_region_at_all_costs_nothing():
    loss = RegionConceptLoss()
    none = torch.zeros(0, 8, requires_grad=True)
    found = loss(none, unit(3), loss.pseudo_labels(none, unit(3)))
    sum(found.values()).backward()
    assert float(sum(found.values()).detach()) == 0


# Boxes --------------------------------------------------------------------------------------------------------------


def test_boxes_are_as_far_as_their_numbers_and_their_overlap_say():
    target = torch.tensor([[0.5, 0.5, 0.4, 0.4]])
    l1, giou = box_distance(target, target)
    assert float(l1) == pytest.approx(0, abs=1e-6)
    assert float(giou) == pytest.approx(0, abs=1e-5)
    moved = torch.tensor([[0.7, 0.5, 0.4, 0.4]])  # half of each: overlap 0.2 x 0.4, union 0.6 x 0.4, which is the hull
    l1, giou = box_distance(moved, target)
    assert float(l1) == pytest.approx(0.2, abs=1e-6)
    assert float(giou) == pytest.approx(1 - 1 / 3, abs=1e-5)
    l1, giou = box_distance(torch.zeros(0, 4), torch.zeros(0, 4))
    assert float(l1 + giou) == 0
