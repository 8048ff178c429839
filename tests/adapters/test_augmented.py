"""How methods augment images: the crop that each publishes, stored views in turn, new views in every epoch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vladapt.core.contracts.parts import RandomCrops, StoredViews, TrainingViews, part_of
from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.core.registry import adapter_class, build_adapter, catalogue
from vladapt.core.testing.method import Method
from vladapt.core.testing.towers import small_clip
from vladapt.core.testing.world import world_of

pytest.importorskip("open_clip", reason="extra open-clip is not installed")

TIP, DASSL = (0.5, 1.0), (0.08, 1.0)
PUBLISHED = {
    **dict.fromkeys(
        ["tip-adapter", "tip-adapter-f", "tip-x", "ape", "ape-t", "gda", "proker", "lp-plus-plus", "dmn"], TIP
    ),
    **dict.fromkeys(["biomed-coop", "coop", "cocoop", "kgcoop", "pomp", "maple", "vpt", "prompt-src"], DASSL),
    **dict.fromkeys(["taskres", "clap", "clip-adapter", "clipfit", "lora", "two-stage", "gist", "gta-clip"], DASSL),
    **dict.fromkeys(["dpa", "s3a"], (0.3, 1.0)),
    "lafter": (0.2, 1.0),
    "projection": TIP,
    "nmtune": (0.8, 1.0),
    "wise-ft": (0.9, 1.0),
    **dict.fromkeys(["cross-modal", "full", "lit", "reclip"]),  # publish no random crop, or none that is known
    **dict.fromkeys(["x-clip", "stan", "vifi-clip", "open-vclip", "testa", "action-clip-towers"]),
}
FRESH = sorted(name for name in PUBLISHED if part_of(adapter_class(name), TrainingViews))
QUICK = {"epochs": 2, "fresh_views": True}


def quick(name: str, **options):
    """A method that trains on new views for two epochs."""
    return build_adapter(
        name, **{**QUICK, **({"select": "last"} if name in ("tip-adapter-f", "ape-t") else {}), **options}
    )


def logits(name: str, **given) -> torch.Tensor:
    """(12, 3), fitted in the small world."""
    options, world = given.pop("options", {}), world_of(small_clip())
    return world.logits(world.fit(quick(name, **options), **given).adapter)


def test_each_method_declares_the_crop_that_it_publishes():
    crops = {name: part_of(adapter_class(name), RandomCrops) for name in catalogue.adapters()}
    assert {name: each.published_crop for name, each in crops.items() if each} == PUBLISHED
    assert {name for name, each in crops.items() if each and each.published_randaugment} == {"pomp", "dpa", "s3a"}
    caches, heads = ["ape-t", "tip-adapter-f"], ["clip-adapter", "dmn", "nmtune", "taskres"]
    assert set(FRESH) == {*caches, *heads, "biomed-coop", "coop", "cocoop", "kgcoop", "pomp"}


def test_who_needs_views_says_how_many_and_of_which_crop():
    for name in catalogue.adapters():
        if "views" in adapter_class(name).needs:
            assert part_of(adapter_class(name), StoredViews), name


@pytest.mark.parametrize("name", ["coop", "cocoop", "kgcoop", "pomp"])
def test_prompts_learn_from_ten_stored_views_unless_told_otherwise(name):
    adapter = build_adapter(name)
    assert (adapter.views, adapter.pool.pooled, adapter.pool.fresh) == (10, 10, False)
    assert "views" in adapter.needs and "images" not in adapter.needs
    told = build_adapter(name, fresh_views=True)
    assert (told.pool.pooled, told.pool.fresh) == (0, True) and "images" in told.needs
    none = build_adapter(name, fresh_views=True, views=0)
    assert (none.pool.pooled, none.pool.fresh) == (0, False) and "images" not in none.needs


@pytest.mark.parametrize("name", ["tip-adapter-f", "ape-t"])
def test_keys_of_a_cache_average_the_stored_views_all_the_same(name):
    assert build_adapter(name, fresh_views=True).pool.pooled == 10


@pytest.mark.parametrize("name", FRESH)
def test_new_views_are_others_than_the_stored_ones_and_follow_the_seed(name):
    new = logits(name)
    assert torch.equal(new, logits(name))
    assert not torch.equal(new, logits(name, options={"fresh_views": False}))
    assert not torch.equal(new, logits(name, options={"views": 0}))
    assert not torch.equal(new, logits(name, options={"crop_scale": (0.9, 1.0)}))


@pytest.mark.parametrize("name", FRESH)
def test_new_views_without_images_are_refused_in_one_line(name):
    world = world_of(small_clip())
    resources = {k: v for k, v in world.inputs(quick(name))["resources"].items() if k != "images"}
    with pytest.raises(CapabilityError, match=r"^option fresh_views: new views need the images and the backbone"):
        world.fit(quick(name), change={"resources": resources})
    with pytest.raises(CapabilityError, match=r"fresh_views: 9 of 9 rows of the support have ids of no training image"):
        world.fit(quick(name), change={"support": replace(world.inputs(quick(name))["support"], ids=None)})


def test_keys_of_another_backbone_have_no_new_views():
    with pytest.raises(CapabilityError, match=r"^option fresh_views: keys of another backbone have no views"):
        world_of(small_clip()).fit(quick("tip-adapter-f"), also=("keys",))


@pytest.mark.parametrize("name", FRESH)
def test_no_stored_views_leave_the_plain_feature_and_a_note(name):
    world = world_of(small_clip())
    adapter = quick(name, fresh_views=False)
    support = replace(world.inputs(adapter)["support"], views=None)
    fitted = world.fit(adapter, change={"support": support})
    plain = world.fit(quick(name, fresh_views=False, views=0))
    assert torch.equal(world.logits(fitted.adapter), world.logits(plain.adapter))
    assert any("as they are" in note or "no augmented views" in note for note in fitted.report.notes)


def test_what_was_trained_on_is_said():
    world = world_of(small_clip())
    said = {fresh: world.fit(quick("coop", fresh_views=fresh)).report.notes for fresh in (True, False)}
    assert said[False] == ["trained on 2 augmented views per image"]
    assert said[True] == ["trained on a new augmented view of each image in every epoch, none of them stored"]


@pytest.mark.parametrize("name", ["coop", "lora", "tip-adapter"])
def test_a_crop_is_two_shares_in_order(name):
    with pytest.raises(ConfigError, match=r"crop_scale=.*smallest <= largest"):
        build_adapter(name, crop_scale=(0.9, 0.2))
    assert build_adapter(name, crop_scale="0.2,0.9").crop_scale == (0.2, 0.9)


def test_a_part_of_the_support_sees_the_same_views(monkeypatch):
    """Where images are held out for choosing, the others look as they do in the whole."""
    seen = {}
    from vladapt.core.training import epoch_views

    original = epoch_views.EpochViews.of

    def watched(self, support, epoch):
        rows = original(self, support, epoch)
        for i, row in zip(support.ids, rows):
            seen.setdefault((i, epoch), []).append(row)
        return rows

    monkeypatch.setattr(epoch_views.EpochViews, "of", watched)
    world = world_of(small_clip(), 3, 4)
    world.fit(build_adapter("clip-adapter", epochs=2, fresh_views=True, ratio=None), use_val=False)
    assert all(torch.allclose(row, rows[0], atol=1e-5) for rows in seen.values() for row in rows)
    parts = {len(rows) for rows in seen.values()}
    assert len(parts) > 1  # some images were held out at first


@pytest.mark.parametrize("name", ["coop", "tip-adapter-f"])
def test_the_contract_holds_with_new_views(name):
    """A saved fit predicts without them, in this process and in another."""
    method = Method(adapter_class(name), {**QUICK, **({"select": "last"} if name == "tip-adapter-f" else {})})
    again = method.loaded()
    assert again.fresh_views is True
    assert torch.allclose(method.world.logits(again), method.logits, atol=1e-6)
