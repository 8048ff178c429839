from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from parity_checks.crops import wca as wca_parity

from vladapt.adapters.crops.wca import content_seed, random_squares, weighted_mean
from vladapt.core.contracts import Batch, FeatureSet, TextClassifier
from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.core.registry import build_adapter

SAID = (
    ("waves with foam.", "a beach of sand.", "blue water."),
    ("dots in rows.", "a round spot."),
    ("bones in grey.", "a film on a light box.", "ribs.", "a hand with no skin."),
    ("green rows of wheat.", "a brown field."),
)


def wca(problem, seed=0, descriptions=SAID, **options):
    resources = {} if descriptions is None else {"descriptions": descriptions}
    return problem.fit(build_adapter("wca", **{"n_crops": 8, **options}), seed=seed, **resources)


# the weighting -------------------------------------------------------------------------------------------------------


def test_agrees_with_the_reference(agrees):
    agrees(wca_parity)


def test_published_settings_are_the_defaults():
    options = build_adapter("wca").options
    assert options["image_scale"] == pytest.approx(math.exp(4)) and options["text_scale"] == pytest.approx(math.exp(2))
    assert (options["n_crops"], options["alpha"], options["beta"]) == (60, 0.5, 0.9)
    assert options["templates"] == ("a photo of a {}.",)


def test_a_scale_of_zero_is_the_plain_mean():
    rows = F.normalize(torch.randn(5, 7, 6, generator=torch.Generator().manual_seed(0)), dim=-1)
    plain = weighted_mean(rows, rows[:, 0], 0.0)
    torch.testing.assert_close(plain, F.normalize(rows.mean(dim=1), dim=-1))
    sharp = weighted_mean(rows, rows[:, 3], 1e4)
    torch.testing.assert_close(sharp, rows[:, 3], atol=1e-5, rtol=0)


# the crops -----------------------------------------------------------------------------------------------------------


@given(
    height=st.integers(1, 90), width=st.integers(1, 90), alpha=st.floats(0.01, 1), more=st.floats(0, 1),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_crops_are_squares_inside_the_image_with_sides_in_range(height, width, alpha, more, seed):
    beta = alpha + more * (1 - alpha)
    boxes = random_squares(height, width, 9, alpha, beta, torch.Generator().manual_seed(seed))
    shorter = min(height, width)
    for x0, y0, x1, y1 in boxes:
        assert 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height
        assert x1 - x0 == y1 - y0
        assert max(1, math.floor(alpha * shorter) - 1) <= x1 - x0 <= max(1, math.floor(beta * shorter + 1e-9))
    assert len(boxes) == 9


def test_crops_reach_every_side_and_place():
    boxes = random_squares(100, 140, 4000, 0.5, 0.9, torch.Generator().manual_seed(0))
    boxes = torch.tensor(boxes)
    side = boxes[:, 2] - boxes[:, 0]
    assert side.min() == 50 and side.max() == 89
    assert side.double().mean() == pytest.approx(69.5, abs=1)
    assert boxes[:, 0].min() == 0 and boxes[:, 2].max() == 140 and boxes[:, 1].min() == 0 and boxes[:, 3].max() == 100
    place = boxes[:, 0].double() / (140 - side)
    assert place.mean() == pytest.approx(0.5, abs=0.02)
    below = boxes[:, 1].double() / (100 - side)
    assert torch.corrcoef(torch.stack([place, below, side.double()])).triu(1).abs().max() < 0.1  # each for itself


def test_the_seed_follows_pixels_shape_and_kind():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    other = image.copy()
    other[1, 3, 2] += 1
    seeds = [
        content_seed(image, 0),
        content_seed(image, 1),
        content_seed(other, 0),
        content_seed(image.reshape(4, 2, 3), 0),
        content_seed(image.astype(np.float32), 0),
    ]
    assert len(set(seeds)) == 5
    assert content_seed(np.asfortranarray(image), 0) == seeds[0]
    assert content_seed(np.repeat(image, 2, axis=1)[:, ::2], 0) == seeds[0]


# the whole -----------------------------------------------------------------------------------------------------------


def test_logits_are_the_formula_written_out(random_clip):
    """The parts are those the transform was given; all else is computed again, sum by sum."""
    adapter = wca(random_clip)
    backbone, seen = random_clip.backbone, []

    def watching(part):
        seen.append(np.array(part))
        return backbone.preprocess()(part)

    adapter.crops_at_once = 1  # one after the other, so that they are seen in their order
    logits = adapter.logits(random_clip.batch(transform=watching))
    assert len(seen) == 4 * 8
    text = []
    for name, sentences in zip(random_clip.classifier.class_names, SAID, strict=True):
        rows = backbone.encode_text(list(sentences)).double()
        label = backbone.encode_text([f"a photo of a {name.replace('_', ' ')}."])[0].double()
        weights = [math.exp(math.exp(2) * float(row @ label)) for row in rows]
        text.append(F.normalize(sum(w * row for w, row in zip(weights, rows, strict=True)), dim=-1))
    for i, whole in enumerate(random_clip.features()):
        parts = seen[8 * i : 8 * i + 8]
        for part in parts:
            assert part.shape[0] == part.shape[1] < min(random_clip.images[i].shape[:2])
        rows = torch.stack([backbone.encode_image(backbone.preprocess()(p)[None])[0] for p in parts]).double()
        weights = [math.exp(math.exp(4) * float(row @ F.normalize(whole.double(), dim=-1))) for row in rows]
        image = F.normalize(sum(w * row for w, row in zip(weights, rows, strict=True)), dim=-1)
        for c, of_class in enumerate(text):
            expected = random_clip.classifier.logit_scale * float(image @ of_class)
            assert float(logits[i, c]) == pytest.approx(expected, abs=1e-3)


def test_crops_that_are_the_whole_image_give_the_global_logits(colours):
    square = tuple(image[:36, :36] for image in colours.images)
    adapter = wca(colours, descriptions=None, alpha=1.0, beta=1.0)
    torch.testing.assert_close(adapter.logits(colours.batch(square)), colours.zero_shot(square), atol=1e-4, rtol=1e-5)
    assert not torch.allclose(wca(colours, descriptions=None).logits(colours.batch(square)), colours.zero_shot(square))


def test_sentences_like_the_name_count_more(colours):
    said = (("red and blue", "red and blue", "red"), ("green",), ("blue",))
    sharp, blunt = (wca(colours, descriptions=said, text_scale=s) for s in (50.0, 0.0))
    name = colours.classifier.weights[0]
    assert sharp.text[0] @ name > blunt.text[0] @ name + 0.05


def test_results_do_not_depend_on_the_batch(random_clip):
    adapter = wca(random_clip)
    together = adapter.logits(random_clip.batch())
    alone = torch.cat([adapter.logits(random_clip.batch((image,))) for image in random_clip.images])
    back = adapter.logits(random_clip.batch(random_clip.images[::-1])).flip(0)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(together, back, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("at_once", [1, 5, 8, 1000])
def test_the_chunk_changes_no_result_and_bounds_what_is_held(random_clip, at_once):
    backbone, sizes = random_clip.backbone, []

    class Counting:
        device, preprocess = backbone.device, staticmethod(backbone.preprocess)

        def encode_image(self, pixels):
            sizes.append(len(pixels))
            return backbone.encode_image(pixels)

    adapter = wca(random_clip, crops_at_once=at_once)
    usual = wca(random_clip).logits(random_clip.batch())
    adapter.attach(Counting())
    torch.testing.assert_close(adapter.logits(random_clip.batch()), usual, atol=1e-4, rtol=1e-5)
    assert max(sizes) == min(at_once, 32) and sum(sizes) == 32
    assert "crops_at_once" in adapter.cost_options


def test_features_that_are_not_given_are_computed(random_clip):
    adapter = wca(random_clip)
    given = adapter.logits(random_clip.batch())
    torch.testing.assert_close(adapter.logits(Batch(images=random_clip.images)), given, atol=1e-4, rtol=1e-5)
    assert adapter.logits(Batch(images=())).shape == (0, 4)


def test_the_transform_of_the_batch_is_what_parts_go_through(random_clip):
    adapter = wca(random_clip)
    usual = random_clip.backbone.preprocess()
    torch.testing.assert_close(
        adapter.logits(random_clip.batch(transform=usual)), adapter.logits(random_clip.batch()), atol=1e-5, rtol=1e-5
    )
    dark = adapter.logits(random_clip.batch(transform=lambda part: usual(part // 4)))
    assert not torch.allclose(dark, adapter.logits(random_clip.batch()), atol=1e-3)


def test_the_seed_fixes_the_crops_and_only_it(random_clip):
    first, again, other = (wca(random_clip, seed=s).logits(random_clip.batch()) for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-4)


def test_the_order_of_classes_does_not_matter(random_clip):
    order = [2, 0, 3, 1]
    names = random_clip.classifier.class_names
    support = FeatureSet(random_clip.support.features, random_clip.support.labels, tuple(names[i] for i in order))
    turned = replace(random_clip, classifier=random_clip.classifier.select(order), support=support)
    adapter = wca(turned, descriptions=tuple(SAID[i] for i in order))
    expected = wca(random_clip).logits(random_clip.batch())[:, order]
    torch.testing.assert_close(adapter.logits(turned.batch()), expected, atol=1e-4, rtol=1e-5)


def test_without_descriptions_the_classifiers_prompts_stand_in(random_clip, problem):
    adapter = wca(random_clip, descriptions=None)
    torch.testing.assert_close(adapter.text, random_clip.classifier.weights, atol=1e-5, rtol=1e-5)
    assert "stand in" in adapter.report.notes[0]
    names = random_clip.classifier.class_names
    several = problem(random_clip.backbone, names, random_clip.images, ["a photo of a {}.", "art of {}.", "no {}."])
    weighted = wca(several, descriptions=None).text
    assert (weighted * several.classifier.weights).sum(dim=-1).min() < 1 - 1e-4
    said = wca(several, descriptions=several.classifier.texts)
    torch.testing.assert_close(said.text, weighted, atol=1e-5, rtol=1e-5)
    assert said.report.notes == ["3 to 3 sentences per class"]
    assert wca(random_clip).report.notes == ["2 to 4 sentences per class"]


def test_scale_and_bias_of_the_model_are_kept(random_clip):
    plain = wca(random_clip).logits(random_clip.batch())
    scaled = replace(random_clip, classifier=replace(random_clip.classifier, logit_scale=430.0, logit_bias=-9.0))
    expected = plain * 430 / random_clip.classifier.logit_scale - 9
    torch.testing.assert_close(wca(scaled).logits(scaled.batch()), expected, atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("kind", ["float", "grey", "one pixel"])
def test_images_of_every_kind(random_clip, kind):
    image = random_clip.images[0]
    image = {"float": image.astype(np.float32) / 255, "grey": image[..., 0], "one pixel": image[:1, :1]}[kind]
    logits = wca(random_clip).logits(random_clip.batch((image,)))
    assert logits.shape == (1, 4) and torch.isfinite(logits).all()


def test_a_support_without_labels_will_do(random_clip):
    for support in (
        FeatureSet(random_clip.support.features, None, random_clip.support.class_names),
        FeatureSet(random_clip.support.features[:0], torch.zeros(0, dtype=torch.long)),
    ):
        bare = wca(replace(random_clip, support=support))
        assert torch.equal(bare.logits(random_clip.batch()), wca(random_clip).logits(random_clip.batch()))
    narrow = FeatureSet(torch.ones(2, 5), None)
    with pytest.raises(CapabilityError, match="5 wide"):
        wca(replace(random_clip, support=narrow))
    with pytest.raises(CapabilityError, match="text tower"):
        build_adapter("wca").fit(FeatureSet(random_clip.support.features, None), random_clip.classifier)


def test_many_classes(colours):
    names = tuple(f"red {i}" for i in range(1000))
    text = F.normalize(torch.randn(1000, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    support = FeatureSet(text[:2], torch.arange(2), names)
    many = replace(colours, classifier=TextClassifier(text, class_names=names), support=support)
    assert wca(many, descriptions=None).logits(colours.batch()).shape == (3, 1000)


# what is refused -----------------------------------------------------------------------------------------------------


def test_clips_and_missing_images_are_refused(random_clip):
    adapter = wca(random_clip)
    clip = np.stack([random_clip.images[0]] * 2)
    with pytest.raises(CapabilityError, match=r"clip.*\(2, 24, 40, 3\)"):
        adapter.logits(Batch(images=[clip]))
    with pytest.raises(CapabilityError, match="images="):
        adapter.logits(random_clip.features())
    with pytest.raises(CapabilityError, match="4 images for 1 row"):
        adapter.logits(Batch(features=random_clip.features()[:1], images=random_clip.images))


def test_what_cannot_be_fitted_says_so(random_clip):
    several = FeatureSet(random_clip.support.features, torch.eye(4), random_clip.support.class_names)
    with pytest.raises(CapabilityError, match="one label"):
        wca(replace(random_clip, support=several))
    nameless = replace(
        random_clip,
        support=FeatureSet(random_clip.support.features, random_clip.support.labels),
        classifier=TextClassifier(random_clip.classifier.weights),
    )
    with pytest.raises(ConfigError, match="class names"):
        wca(nameless)
    with pytest.raises(DataError, match="2 classes for 4"):
        wca(random_clip, descriptions=SAID[:2])
    with pytest.raises(DataError, match="'X-ray' has none"):
        wca(random_clip, descriptions=(*SAID[:2], (), SAID[3]))


@pytest.mark.parametrize("bad", [{"templates": ()}, {"templates": ["a photo"]}, {"beta": 0.4}], ids=str)
def test_what_cannot_be_used_is_refused(bad):
    with pytest.raises(ConfigError, match=next(iter(bad)).removesuffix("s")):
        build_adapter("wca", **bad)


@pytest.mark.thorough
def test_runs_on_the_embedded_towers(embedded, drawn_small, problem):
    names = ("banana", "car", "umbrella")
    images, _ = drawn_small(names, side=200)
    task = problem(embedded, names, images)
    said = (("a yellow fruit.",), ("wheels and windows.",), ("a round cloth on a stick.",))
    adapter = wca(task, descriptions=said, n_crops=6)
    first, again = (adapter.logits(task.batch()) for _ in range(2))
    assert first.shape == (3, 3) and torch.isfinite(first).all() and torch.equal(first, again)
