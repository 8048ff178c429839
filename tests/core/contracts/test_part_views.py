"""Views of a sample: each is looked at by itself, what is predicted is averaged, one of them is learned from."""

from __future__ import annotations

import math

import pytest
import torch

from vladapt import Batch, FeatureSet, TextClassifier, build_adapter
from vladapt.core.contracts.part_views import PartViews, averaged_views
from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.core.judgements.part_order import reversed_parts, shuffled_parts

VIEWS = PartViews(2, middle=1)


@pytest.fixture
def classifier():
    """Two classes along two axes, cosines times ln 3."""
    weights = torch.eye(2, 4)
    names = {"texts": (("a",), ("b",)), "class_names": ("a", "b")}
    return TextClassifier(weights, weights, tuple(w[None] for w in weights), **names, logit_scale=math.log(3))


def test_averages_are_those_worked_out_by_hand():
    logits = torch.tensor([[[math.log(3), 0.0]], [[0.0, math.log(7)]]])  # 3/4 and 1/4, 1/8 and 7/8
    assert averaged_views(logits, "probabilities", several=False).softmax(dim=1).tolist() == [
        pytest.approx([(3 / 4 + 1 / 8) / 2, (1 / 4 + 7 / 8) / 2])
    ]
    assert averaged_views(logits, "scores", several=False).tolist() == [
        pytest.approx([math.log(3) / 2, math.log(7) / 2])
    ]
    several = averaged_views(logits, "probabilities", several=True).sigmoid()
    assert several.tolist() == [pytest.approx([(3 / 4 + 1 / 2) / 2, (1 / 2 + 7 / 8) / 2])]
    sure = torch.tensor([[[800.0, -800.0]], [[-800.0, 800.0]]])
    assert averaged_views(sure, "probabilities", several=False).softmax(dim=1).tolist() == [[0.5, 0.5]]
    assert averaged_views(sure, "probabilities", several=True).tolist() == [[0.0, 0.0]]


def test_views_of_shorter_samples_are_shorter():
    parts = torch.arange(1, 13.0).view(2, 6, 1)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    divided, there = VIEWS.divided(parts.masked_fill(~mask[..., None], 0), mask)
    assert divided[..., 0].tolist() == [[[1, 2, 3], [4, 5, 6]], [[7, 8, 0], [9, 10, 0]]]
    assert there.tolist() == [[[True] * 3] * 2, [[True, True, False]] * 2]
    mask[1, 3] = False
    with pytest.raises(DataError, match="row 1 has 3 parts, which do not divide into 2 views"):
        VIEWS.divided(parts, mask)


def test_every_method_averages_over_views_and_by_hand(classifier):
    first, second = torch.eye(4)[0], torch.eye(4)[1]
    parts = torch.stack([first, first, second, first])[None]  # the mean of the second view lies between the classes
    clips = FeatureSet.of_parts(parts, part_views=VIEWS)
    adapter = build_adapter("zero-shot")
    adapter.fit(None, classifier)
    half = 3 ** math.sqrt(0.5)
    by_hand = [(3 / 4 + half / (2 * half)) / 2, (1 / 4 + 1 / 2) / 2]
    assert adapter.logits(clips).softmax(dim=1).tolist() == [pytest.approx(by_hand)]
    mean = FeatureSet.of_parts(parts)
    assert adapter.logits(mean).softmax(dim=1).tolist() != [pytest.approx(by_hand)]
    scores = FeatureSet.of_parts(parts, part_views=PartViews(2, average="scores"))
    cosine = math.sqrt(0.5) * math.log(3)
    assert adapter.logits(scores).tolist() == [pytest.approx([(math.log(3) + cosine) / 2, cosine / 2])]


@pytest.mark.parametrize("name", ["temporal-adapter", "clip4clip"])
def test_heads_learn_from_one_view_and_see_each_by_itself(name):
    generator = torch.Generator().manual_seed(0)
    parts = torch.randn(8, 6, 12, generator=generator)
    weights = torch.nn.functional.normalize(torch.randn(2, 12, generator=generator), dim=1)
    texts = {"texts": (("a",), ("b",)), "class_names": ("a", "b")}
    classifier = TextClassifier(weights, weights, tuple(w[None] for w in weights), **texts, logit_scale=10.0)
    labels, options = torch.arange(8) % 2, {"epochs": 2}
    options |= {"use": "order", "hidden": 4} if name == "temporal-adapter" else {"layers": 1, "heads": 2}
    heads = []
    for some, views in ((parts, VIEWS), (parts[:, 3:], None)):
        heads.append(build_adapter(name, **options))
        heads[-1].fit(FeatureSet.of_parts(some, labels=labels, class_names=("a", "b"), part_views=views), classifier)
    viewed, alone = heads
    for key, value in alone.weights.items():
        assert torch.equal(viewed.weights[key], value), "the second view alone teaches"
    each = torch.stack([alone.logits(FeatureSet.of_parts(parts[:, at : at + 3])) for at in (0, 3)])
    wanted = each.softmax(dim=2).mean(dim=0)
    found = viewed.logits(FeatureSet.of_parts(parts, part_views=VIEWS)).softmax(dim=1)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    in_a_row = viewed.logits(FeatureSet.of_parts(parts)).softmax(dim=1)
    assert not torch.allclose(in_a_row, wanted, atol=1e-4)


def test_parts_are_shuffled_and_reversed_within_their_views():
    parts = torch.arange(1, 13.0).view(2, 6, 1)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    clips = FeatureSet.of_parts(parts.masked_fill(~mask[..., None], 0), mask, part_views=VIEWS)
    assert reversed_parts(clips).parts[..., 0].tolist() == [[3, 2, 1, 6, 5, 4], [8, 7, 10, 9, 0, 0]]
    shuffled = [shuffled_parts(clips, torch.Generator().manual_seed(s)).parts[..., 0].tolist() for s in range(6)]
    for first, second in shuffled:
        assert [sorted(first[:3]), sorted(first[3:])] == [[1, 2, 3], [4, 5, 6]]
        assert [sorted(second[:2]), sorted(second[2:4]), second[4:]] == [[7, 8], [9, 10], [0, 0]]
    assert len({str(each) for each in shuffled}) > 1


def test_what_has_no_views_is_said(classifier):
    for count, middle, average in ((1, 0, "scores"), (2, 2, "scores"), (2, 0, "median")):
        with pytest.raises(ConfigError, match="at least two views"):
            PartViews(count, middle, average)
    assert PartViews.of_text(VIEWS.as_text) == VIEWS
    for text in ("many", "2,x,scores", "2,1", "9" * 5000 + ",0,scores"):
        with pytest.raises(ConfigError, match="give three values"):
            PartViews.of_text(text)
    adapter = build_adapter("zero-shot")
    adapter.fit(None, classifier)
    seen = {"features": torch.ones(1, 4), "parts": torch.ones(1, 2, 4), "part_views": VIEWS}
    with pytest.raises(CapabilityError, match="looks at whole images while it predicts"):
        adapter.logits(Batch(**seen, images=[None]))
