from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vladapt.core.contracts import FeatureSet
from vladapt.core.errors import CapabilityError
from vladapt.core.registry import build_adapter


@pytest.mark.parametrize("bias", [None, -9.5])
def test_logits_are_the_classifiers(make_task, bias):
    task = make_task()
    classifier = replace(task.text, logit_bias=bias, logit_scale=42.0)
    adapter = build_adapter("zero-shot")
    adapter.fit(task.support, classifier)
    torch.testing.assert_close(adapter.logits(task.test), classifier.logits(task.test.unit))


def test_negative_prompts_are_weighed_against(make_multilabel_task):
    task = make_multilabel_task()
    adapter = build_adapter("zero-shot")
    adapter.fit(task.support, task.text)
    expected = 100 * (task.test.unit @ task.text.weights.T - task.test.unit @ task.text.negative.T)
    torch.testing.assert_close(adapter.logits(task.test), expected, atol=1e-4, rtol=1e-5)
    assert ((adapter.predict(task.test) >= 0) & (adapter.predict(task.test) <= 1)).all()


@pytest.mark.parametrize("labels", [None, torch.zeros(0, dtype=torch.long)])
def test_no_labels_are_needed(make_task, labels):
    task = make_task()
    features = task.support.features if labels is None else task.support.features[:0]
    adapter = build_adapter("zero-shot")
    adapter.fit(FeatureSet(features, labels), task.text)
    assert task.accuracy(adapter) > 0.2


def test_another_width_than_the_texts_is_refused(make_task):
    task, other = make_task(), make_task(dim=8)
    with pytest.raises(CapabilityError, match="one backbone"):
        build_adapter("zero-shot").fit(FeatureSet(other.support.features), task.text)
