"""Suspected labels: judged by models that never saw the image, and those that were flipped come first."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vladapt import FeatureSet
from vladapt.core.errors import CapabilityError, DataError
from vladapt.core.labelling import serve, wrong_labels
from vladapt.core.labelling.wrong_labels import doubt, held_out_probabilities, suspects
from vladapt.core.runtime import process

CLASSES, EACH = 3, 20


@pytest.fixture(scope="module")
def flipped() -> tuple[FeatureSet, list[int]]:
    """Three classes far apart, and the rows whose labels were flipped."""
    truth = torch.arange(CLASSES).repeat_interleave(EACH)
    features = F.one_hot(truth, CLASSES) + 0.2 * torch.randn(
        len(truth), CLASSES, generator=torch.Generator().manual_seed(0)
    )
    labels, wrong = truth.clone(), [3, 25, 50]
    labels[wrong] = (labels[wrong] + 1) % CLASSES
    return FeatureSet(features, labels, ("a", "b", "c"), groups=tuple(str(n // 2) for n in range(len(truth)))), wrong


def nearest_mean(support: FeatureSet):
    means = torch.stack([support.features[support.labels == label].mean(dim=0) for label in range(CLASSES)])
    return lambda rows: 8 * rows.features @ means.T


def test_no_image_and_no_image_of_its_group_teaches_its_own_judge(flipped):
    data, _ = flipped
    seen = []

    def fit(support):
        def logits(rows):
            seen.append((set(support.groups), set(rows.groups)))
            return nearest_mean(support)(rows)

        return logits

    probabilities = held_out_probabilities(data, fit, seed=1)
    assert len(seen) == 5 and not any(taught & judged for taught, judged in seen)
    assert set().union(*(judged for _, judged in seen)) == set(data.groups)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(len(data)))


def test_flipped_labels_are_the_most_doubtful(flipped):
    pytest.importorskip("cleanlab", reason="extra labels is not installed")
    data, wrong = flipped
    probabilities = held_out_probabilities(data, nearest_mean, seed=1)
    doubts = doubt(data.labels, probabilities)
    assert set(np.argsort(-doubts.numpy())[:3].tolist()) == set(wrong) == set(suspects(data.labels, probabilities))
    probabilities[wrong[0]] = torch.nan
    assert wrong[0] not in suspects(data.labels, probabilities) and doubt(data.labels, probabilities)[wrong[0]] == 0


def test_classes_of_one_group_cannot_be_judged():
    data = FeatureSet(torch.eye(3), torch.arange(3), ("a", "b", "c"))
    with pytest.raises(DataError, match="no label can be held out"):
        held_out_probabilities(data, nearest_mean, seed=1)


@pytest.mark.parametrize(
    ("check", "words"), [(wrong_labels.require_cleanlab, "'cleanlab'"), (serve.Labelling.require_server, "'starlette'")]
)
def test_what_is_not_installed_is_one_line(monkeypatch, check, words):
    monkeypatch.setattr(process, "find_spec", lambda name: None)
    with pytest.raises(CapabilityError, match=words + r".*pip install 'vladapt\[labels\]'"):
        check()
