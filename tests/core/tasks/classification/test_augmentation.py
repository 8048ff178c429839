"""Which crop and which views a method gets on a data set, and that a comparison gives each method its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import vladapt
from vladapt.core.backbones import EachPart
from vladapt.core.contracts.images import CropTransform
from vladapt.core.recipes.asked_for import adapter_of, with_published_views
from vladapt.core.recipes.resolve import resolve, task_of
from vladapt.core.registry import build_adapter
from vladapt.core.runtime.progress import Reporter
from vladapt.core.tasks.classification.base import augmentations_of
from vladapt.core.tasks.classification.fitting import tighter

pytest.importorskip("open_clip", reason="extra open-clip is not installed")

SAFE = (0.8, 1.0)


@pytest.fixture
def flags(tmp_path, monkeypatch, small_clip_spec):
    """Red and blue images, eight each, and small towers."""
    monkeypatch.chdir(tmp_path)
    drawn = np.random.default_rng(0)
    for number, name in enumerate(("red", "blue")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for image in range(8):
            pixels = drawn.integers(0, 120, (24, 30, 3)) + np.roll((100, 0, 0), 2 * number)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / name / f"{image}.png")
    return {"data": str(tmp_path / "data"), "backbone": small_clip_spec, "shots": 2}


@pytest.fixture
def augmented(flags):
    """augmented(name, domain=, **keys of the recipe) -> its `Augmentation`; options as `options=`."""

    def call(name, domain="natural", options=None, **given):
        recipe = resolve(flags={**flags, "domain": domain, "adapter": {"name": name, **(options or {})}, **given})
        task = task_of(recipe)
        recipe = task.settled(recipe)
        adapters = {name: adapter_of(recipe)}
        return augmentations_of(recipe, task.prepared(recipe, Reporter(quiet=True)), adapters)[name]

    return call


def test_the_tighter_of_two_crops_is_what_both_allow():
    assert tighter(SAFE, (0.08, 1.0)) == SAFE == tighter((0.08, 1.0), SAFE)
    assert tighter(SAFE, (0.9, 1.0)) == (0.9, 1.0)
    assert tighter((0.3, 0.9), (0.5, 1.0)) == (0.5, 0.9)
    assert tighter(SAFE, (0.1, 0.5)) == SAFE  # nothing is both: the domain knows its images


def test_photos_are_cropped_as_each_method_publishes(augmented):
    for name, crop in {"coop": (0.08, 1.0), "tip-adapter": (0.5, 1.0), "lora": (0.08, 1.0)}.items():
        found = augmented(name)
        assert found.transform.scale == crop and found.note.endswith("as published")


def test_a_domain_s_safe_crop_goes_before_a_smaller_one_and_not_before_a_larger(augmented):
    coop = augmented("coop", "medical", {"views": 3})
    assert (
        coop.transform.transform.scale == SAFE
        and "the safe share for domain medical (published: 8 to 100 %)" in coop.note
    )
    mild = augmented("wise-ft", "medical")
    assert mild.transform.transform.scale == (0.9, 1.0) and mild.note.endswith("as published")
    assert type(mild.transform.transform) is type(coop.transform.transform)  # the domain's own otherwise


@pytest.mark.parametrize("asked", [{"protocol": "coop"}, {"options": {"preset": "dtd"}}])
def test_a_protocol_and_a_preset_take_all_that_the_method_publishes(augmented, asked):
    found, photos = augmented("coop", "medical", **asked), augmented("coop")
    assert found.spec == photos.spec and found.views == 10
    assert found.transform.scale == (0.08, 1.0)


def test_what_the_user_says_goes_before_both(augmented):
    for domain in ("natural", "medical"):
        for asked in ({}, {"protocol": "coop"}):
            found = augmented("coop", domain, {"crop_scale": (0.2, 0.4), "views": 2}, **asked)
            of_one = getattr(found.transform, "transform", found.transform)
            assert of_one.scale == (0.2, 0.4) and found.note == "" and found.views == 2


def test_randaugment_is_for_photos_or_asked_for(augmented):
    photos, mild = augmented("pomp"), augmented("pomp", "medical", {"views": 2})
    assert photos.spec != augmented("coop").spec and photos.transform.randaugment
    assert "randaugment" not in mild.spec
    assert augmented("pomp", "medical", protocol="coop").transform.randaugment


def test_who_looks_at_no_augmented_image_is_told_nothing_of_crops(augmented):
    assert augmented("coop", "medical").note == augmented("nearest-mean").note == ""
    assert augmented("coop", options={"views": 0}).note == "" and augmented("coop", options={"views": 0}).views == 0
    assert (
        augmented("coop", options={"fresh_views": True}).note
        and not augmented("coop", options={"fresh_views": True}).views
    )


def test_images_whose_crop_cannot_be_changed_are_as_their_domain_says(augmented, monkeypatch):
    from vladapt.domains.natural.domain import Natural

    def flipped(image, seed=None):
        raise AssertionError("nothing is encoded here")

    flipped.spec = "flips alone"
    monkeypatch.setattr(Natural, "transforms", lambda self, backbone, train, task: flipped)
    for asked in ({}, {"protocol": "coop"}):
        found = augmented("coop", **asked)
        assert found.transform is flipped
        assert found.note == "augmented as domain natural does (published: crops of 8 to 100 %)"


@pytest.mark.parametrize(
    ("given", "new"),
    [
        ({}, False),
        ({"protocol": "full-val"}, True),
        ({"preset": "dtd"}, True),
        ({"preset": "none"}, False),
        ({"preset": "none", "protocol": "coop"}, True),
        ({"features": "rows.npz", "protocol": "coop"}, False),
        ({"resources": {"keys": "dinov2"}, "protocol": "coop"}, False),
        ({"adapter": {"name": "coop", "fresh_views": False}, "protocol": "coop"}, False),
        ({"adapter": {"name": "coop", "preset": "dtd"}}, True),
    ],
)
def test_new_views_are_taken_where_published_settings_are_asked_for(given, new):
    recipe = with_published_views(resolve(flags={"adapter": "coop", **given}), ["coop", "tip-adapter"])
    assert build_adapter("coop", **recipe.with_adapter("coop").adapter_options).pool.fresh is new
    assert "fresh_views" not in recipe.with_adapter("tip-adapter").adapter_options  # it publishes none


def test_a_method_is_the_same_in_a_comparison_as_alone(flags, monkeypatch):
    """Each has the views of its own crop, and as many as it asks for."""
    from vladapt.core.tasks.classification import contest

    drawn = {}
    original = contest.fit_adapter

    def watched(adapter, prepared, shots, *rest, **named):
        drawn[adapter.name] = shots
        return original(adapter, prepared, shots, *rest, **named)

    monkeypatch.setattr(contest, "fit_adapter", watched)
    options = {"coop": {"epochs": 2}, "kgcoop": {"epochs": 2, "views": 2}, "tip-adapter": {}}
    recipe = resolve(flags={**flags, "domain": "natural", "adapters": options})
    found = vladapt.compare(recipe, [*options, "nearest-mean"], [2], [1], splits=1)
    assert not found.refused
    views = {name: shots.support.views for name, shots in drawn.items()}
    assert (views["coop"].shape[1], views["kgcoop"].shape[1], views["tip-adapter"].shape[1]) == (10, 2, 10)
    assert views["nearest-mean"] is None
    assert torch.equal(views["kgcoop"], views["coop"][:, :2])
    assert not torch.isclose(views["coop"], views["tip-adapter"]).all(dim=2).any()
    assert "random crops keep 8 to 100 % of an image, as published: coop, kgcoop" in found.notes
    compared = {row["adapter"]: row["accuracy"] for row in found.rows}
    for name, given in options.items():
        alone = vladapt.fit(domain="natural", adapter={"name": name, **given}, seed=1, **flags)
        assert alone.metrics["adapted"]["accuracy"] == compared[name], name


def test_a_domain_that_says_nothing_allows_any_crop():
    class Any(CropTransform):
        def with_crop(self, scale):
            return self

    assert Any().safe_crop is None and Any().with_randaugment() is None


def test_parts_of_a_sample_take_the_changes_of_a_single_image(small_clip):
    parts = EachPart(small_clip.preprocess(True))
    assert parts.with_crop((0.2, 0.4)).transform.scale == (0.2, 0.4)
    assert parts.with_randaugment().transform.randaugment and EachPart(lambda image: image).with_randaugment() is None
