"""Zero-shot whose scores are the same for all classes where an image shows nothing."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from vladapt import FeatureSet, TextClassifier, build_adapter, load_adapter
from vladapt.core.contracts.recipe import Recipe
from vladapt.core.errors import CapabilityError
from vladapt.core.recipes.asked_for import planned
from vladapt.core.tasks.classification.contest import ClassificationContest
from vladapt.core.testing.towers import small_clip


class Beside:
    """A backbone each of whose features has one number more, the same for all images."""

    def __init__(self, backbone, number):
        self.backbone, self.number = backbone, number

    def __getattr__(self, name):
        return getattr(self.backbone, name)

    def encode_image(self, pixels, normalize=True):
        return beside(self.backbone.encode_image(pixels), self.number)


def beside(unit, number):
    """Unit rows (B, D + 1) whose last number is given."""
    last = torch.full((len(unit), 1), number)
    return torch.cat([(1 - number**2) ** 0.5 * F.normalize(unit, dim=1), last], dim=1)


@pytest.fixture(scope="module")
def towers():
    return small_clip()


@pytest.fixture(scope="module")
def unit(towers):
    return F.normalize(torch.randn(6, towers.embed_dim, generator=torch.Generator().manual_seed(0)), dim=1)


@pytest.fixture(scope="module")
def text(towers):
    weights = torch.randn(4, towers.embed_dim, generator=torch.Generator().manual_seed(1))
    return TextClassifier(weights, class_names=tuple("abcd"), logit_scale=7.0)


def fitted(text, towers, **options):
    adapter = build_adapter("zero-shot", **{"debias": "content-free", **options})
    adapter.report = adapter.fit(None, text, backbone=towers, seed=3)
    return adapter


def pixels_of_nothing(towers, seed=3):
    shape = (1, 3, towers.image_size, towers.image_size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return torch.cat([torch.zeros(shape), torch.ones(shape), noise])


@pytest.mark.parametrize("mean", ["geometric", "arithmetic"])
def test_it_is_the_affine_map_written_out(mean, towers, text, unit):
    of_nothing = text.logits(towers.encode_image(pixels_of_nothing(towers))).softmax(dim=1)  # (3, C)
    q = of_nothing.log().mean(dim=0).exp() if mean == "geometric" else of_nothing.mean(dim=0) + 1e-4
    mapped = torch.stack([torch.diag(1 / q) @ p for p in text.logits(unit).softmax(dim=1)])
    expected = mapped / mapped.sum(dim=1, keepdim=True)
    got = fitted(text, towers, debias_mean=mean).logits(unit).softmax(dim=1)
    torch.testing.assert_close(got, expected)
    assert (got - text.logits(unit).softmax(dim=1)).abs().max() > 0.01


def test_the_mean_scores_of_images_that_show_nothing_are_uniform(towers, text):
    with torch.no_grad():
        of_nothing = towers.encode_image(pixels_of_nothing(towers))
    scores = fitted(text, towers).logits(of_nothing).mean(dim=0)
    assert text.logits(of_nothing).mean(dim=0).std() > 0.05
    torch.testing.assert_close(scores, scores[:1].expand(4), atol=1e-4, rtol=0)


def test_a_constant_added_to_one_class_is_removed(towers, text, unit):
    """Two classifiers differ in what one class makes of the number that is the same for all images."""
    wider, seen = Beside(towers, 0.6), beside(unit, 0.6)
    even = replace(text, weights=beside(text.weights, -0.3), raw=None, prototypes=None)
    raised = even.weights.clone()
    raised[2, -1] = 0.3
    raised = replace(even, weights=raised, raw=None, prototypes=None)
    added = raised.logits(seen) - even.logits(seen)
    torch.testing.assert_close(added, torch.tensor([0, 0, 7.0 * 0.6 * 0.6, 0]).expand(6, 4), atol=1e-5, rtol=0)
    one, other = fitted(even, wider).logits(seen), fitted(raised, wider).logits(seen)
    torch.testing.assert_close(one.softmax(dim=1), other.softmax(dim=1))
    assert (one.softmax(dim=1) - raised.logits(seen).softmax(dim=1)).abs().max() > 0.1


def test_it_is_kept_in_the_file_and_noted(tmp_path, towers, text, unit):
    adapter = fitted(text, towers)
    again = load_adapter(adapter.save(tmp_path / "zero-shot.safetensors"))
    assert torch.equal(again.logits(unit), adapter.logits(unit))
    assert "images that show nothing score one class up to" in adapter.report.notes[0]


def test_where_it_cannot_be_done_one_line_says_so(towers, text, unit):
    several = FeatureSet(unit, torch.eye(4)[[0, 1, 2, 3, 0, 1]])
    adapter = build_adapter("zero-shot", debias="content-free")
    with pytest.raises(CapabilityError, match="several labels; omit it"):
        adapter.fit(several, text, backbone=towers)
    with pytest.raises(CapabilityError, match="no backbone for that; give --data"):
        adapter.fit(FeatureSet(unit), text)


def test_a_comparison_takes_zero_shot_with_its_options(towers, text, unit):
    contest = object.__new__(ClassificationContest)
    recipe = Recipe(adapters={"zero-shot": {"debias": "content-free"}})
    contest.adapters, contest.seed = planned(recipe, ["zero-shot"]), 3
    made = contest.zero_shot(SimpleNamespace(classifier=text, backbone=towers), FeatureSet(unit))
    assert torch.equal(made.logits(unit), fitted(text, towers).logits(unit))
