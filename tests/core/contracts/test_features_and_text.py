"""FeatureSet and TextClassifier: sizes, units, selections."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vladapt import build_adapter
from vladapt.core.contracts import Batch, FeatureSet, TextClassifier
from vladapt.core.errors import DataError


def features(n=6, d=5, **kwargs):
    return FeatureSet(torch.arange(n * d, dtype=torch.float64).reshape(n, d) + 1, **kwargs)


def test_features_become_float32_and_unit_rows_on_demand():
    found = features()
    assert found.features.dtype == torch.float32
    assert torch.allclose(found.unit.norm(dim=1), torch.ones(6))
    assert not torch.allclose(found.features.norm(dim=1), torch.ones(6))


def test_select_takes_the_same_rows_of_everything():
    found = features(labels=torch.arange(6), ids=tuple("abcdef"), groups=tuple("uvwxyz"), views=torch.randn(6, 2, 5))
    picked = found.select([4, 1])
    assert picked.ids == ("e", "b") and picked.groups == ("y", "v")
    assert torch.equal(picked.labels, torch.tensor([4, 1]))
    assert torch.equal(picked.views, found.views[[4, 1]])
    by_mask = found.select(torch.tensor([False, True, False, False, True, False]))
    assert by_mask.ids == ("b", "e")


def test_one_hot_of_several_labels_counts_unknown_as_absent():
    several = FeatureSet(torch.randn(2, 3), labels=torch.tensor([[1.0, float("nan")], [0.0, 1.0]]))
    assert several.multilabel and several.num_classes == 2
    assert torch.equal(several.one_hot(), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))


def test_shots_are_the_images_of_the_largest_class():
    assert features(labels=torch.tensor([0, 2, 2, 2, 0, 1]), class_names=tuple("abcd")).shots == 3
    several = torch.tensor([[1.0, float("nan")], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    assert features(labels=several).shots == 3
    assert features(labels=torch.zeros(6, 2)).shots == 1
    assert FeatureSet(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)).shots == 1


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"labels": torch.arange(5)}, "labels has 5 rows"),
        ({"ids": ("a",)}, "ids has 1 rows"),
        ({"views": torch.randn(3, 2, 5)}, "views has 3 rows"),
    ],
)
def test_sizes_that_disagree_are_named(kwargs, says):
    with pytest.raises(DataError, match=says):
        features(**kwargs)


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match="NaN"):
        FeatureSet(torch.tensor([[1.0, float("nan")]]))


def test_labels_removed_for_transduction():
    assert features(labels=torch.arange(6)).without_labels().labels is None


def test_classifier_rows_are_unit_and_logits_scaled():
    weights = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    classifier = TextClassifier(weights, logit_scale=10)
    x = torch.tensor([[1.0, 0.0]])
    assert torch.allclose(classifier.logits(x), torch.tensor([[6.0, 0.0]]))


def test_bias_and_negative_prompts_change_logits():
    w, x = torch.eye(2), torch.tensor([[0.6, 0.8]])
    plain = TextClassifier(w, logit_scale=10).logits(x)
    assert torch.allclose(TextClassifier(w, logit_scale=10, logit_bias=-3.0).logits(x), plain - 3)
    pair = TextClassifier(w, logit_scale=10, negative=w.flip(0)).logits(x)
    assert torch.allclose(pair, torch.tensor([[-2.0, 2.0]]))


def test_classifier_select_keeps_names_and_prototypes_together():
    classifier = TextClassifier(torch.eye(3), class_names=("a", "b", "c"), texts=(("x",), ("y",), ("z",)))
    classifier = replace(classifier, unnormalized=7 * torch.eye(3))
    picked = classifier.select([2, 0])
    assert torch.equal(picked.unnormalized, 7 * torch.eye(3)[[2, 0]])
    assert picked.class_names == ("c", "a") and picked.texts == (("z",), ("x",))
    assert torch.equal(picked.prototypes[0], torch.eye(3)[2:3])


def test_classifier_with_too_few_names_is_refused():
    with pytest.raises(DataError, match="2 class names for 3"):
        TextClassifier(torch.eye(3), class_names=("a", "b"))


def test_a_set_takes_arrays_and_lists_and_is_shown_in_a_line():
    rows = np.random.default_rng(0).normal(size=(4, 3))
    plain = FeatureSet(torch.tensor(rows), labels=torch.tensor([0, 1, 0, 1]), class_names=("a", "b"))
    for features, labels in ((rows, np.array([0, 1, 0, 1])), (rows.tolist(), [0, 1, 0, 1])):
        made = FeatureSet(features, labels=labels, class_names=["a", "b"])
        assert torch.equal(made.features, plain.features) and torch.equal(made.labels, plain.labels)
        assert made.labels.dtype == torch.int64 and made.features.dtype == torch.float32
        assert repr(made) == "<FeatureSet: 4 images, 3 features, labels (4,) of 2 classes>"
    for wrong in ([[1.0, 2.0], [3.0]], [["a", "b"]]):
        with pytest.raises(DataError, match="features: not an array of numbers"):
            FeatureSet(wrong)


def test_parts_and_features_to_be_scored_may_be_arrays_and_lists():
    parts, mask = np.random.default_rng(0).normal(size=(2, 3, 4)), np.array([[True, True, False], [True, True, True]])
    parts[0, 2] = 0
    plain = FeatureSet.of_parts(torch.tensor(parts).float(), torch.tensor(mask))
    for given in ((parts, mask), (parts.tolist(), mask.astype(int).tolist())):
        made = FeatureSet.of_parts(*given, labels=[0, 1])
        torch.testing.assert_close(made.features, plain.features)
        assert torch.equal(made.parts_mask, plain.parts_mask) and made.parts_mask.dtype == torch.bool
    texts = TextClassifier(torch.eye(4), logit_scale=2.0)
    torch.testing.assert_close(texts.logits(parts[:, 0]), 2 * torch.tensor(parts[:, 0]).float())
    with pytest.raises(DataError, match="parts: not an array of numbers"):
        FeatureSet.of_parts([[1.0, 2.0], [3.0]])


def test_batches_and_classes_take_arrays_and_lists():
    rows = np.random.default_rng(0).normal(size=(4, 3))
    texts = TextClassifier(rows[:2].tolist(), negative=rows[2:])
    plain = TextClassifier(torch.tensor(rows[:2]).float(), negative=torch.tensor(rows[2:]).float())
    assert torch.equal(texts.weights, plain.weights) and torch.equal(texts.negative, plain.negative)
    adapter = build_adapter("nearest-mean")
    adapter.fit(FeatureSet(rows, [0, 1, 0, 1]), texts)
    expected = adapter.logits(torch.tensor(rows).float())
    for batch in (rows, rows.tolist(), Batch(rows), Batch(parts=rows[:, None], features=rows)):
        torch.testing.assert_close(adapter.logits(batch), expected)
