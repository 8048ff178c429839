"""The class of an image by what is said of each class."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from vladapt.core.metrics.retrieval import named_rightly


def unit(*rows):
    return F.normalize(torch.tensor(rows, dtype=torch.float32), dim=-1)


def test_the_nearest_mean_of_captions_names_the_class():
    images = unit([1, 0, 0], [0.9, 0.1, 0], [0, 1, 0], [0.8, 0.3, 0])
    texts = unit([1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0.2])
    right = named_rightly(images, texts, torch.tensor([0, 1, 2, 3]), torch.tensor([7, 7, 9, 9]))
    assert right.tolist() == [True, True, True, False]


def test_a_caption_said_often_counts_once():
    images = unit([1, 0.2, 0], [0, 0, 1])
    texts = torch.cat([unit([1, 0, 0]).repeat(50, 1), unit([0, 1, 0], [0, 0.6, 1])])
    owners = torch.tensor([0] * 51 + [1])
    labels = torch.tensor([0, 1])
    once = named_rightly(images, texts[49:], owners[49:], labels)
    assert once.tolist() == named_rightly(images, texts, owners, labels).tolist()
    halves = F.normalize(unit([1, 0, 0])[0] + unit([0, 1, 0])[0], dim=0)
    tilted = torch.stack([F.normalize(halves + 0.02 * torch.tensor([0, 0.0, 1.0]), dim=0), images[1]])
    assert named_rightly(tilted, texts, owners, labels).all()


def test_one_class_names_nothing():
    assert named_rightly(unit([1, 0], [0, 1]), unit([1, 0], [0, 1]), torch.tensor([0, 1]), torch.tensor([3, 3])) is None
