"""What is computed is found again, by all that it depends on and nothing else; and nothing spoils it."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import run, start
from tiny_tower import DIM, TinyTower, Transform, Unbuildable, drawn_set

from vladapt import CapabilityError, ConfigError, DataError, FeatureStore, Label, Labels
from vladapt.core.runtime import reading

HERE = Path(__file__).parent


def extracted(store, data, backbone, transform=None, **options):
    return store.get_or_compute(data, data.items, backbone, transform or Transform(), **options)


def shards(store) -> list[Path]:
    return sorted(store.root.rglob("*.safetensors"))


def test_features_are_the_tower_s_own_not_normalised_with_all_that_is_known_of_the_images(tower, drawn):
    data = drawn(6)
    data.items[2] = data.items[2].with_(group="patient-7")
    found = extracted(FeatureStore(), data, tower)
    pixels = torch.stack([Transform()(data.load(item)) for item in data.items])
    torch.testing.assert_close(found.features.features, tower.encode_image(pixels, normalize=False))
    assert found.features.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert found.features.class_names == ("even", "odd")
    assert found.features.ids == tuple("012345")
    assert found.features.groups == ("0", "1", "patient-7", "3", "4", "5")
    assert (found.features.backbone, found.features.tap, found.features.raw_norms) == ("tiny", "projected", True)
    assert (found.computed, found.cached, found.skipped, found.items) == (6, 0, [], data.items)


def test_several_labels_an_image_keep_their_unknowns(tower, drawn):
    data = drawn(3)
    data.items = [item.with_(target=Labels((1.0, float("nan")))) for item in data.items]
    labels = extracted(FeatureStore(), data, tower).features.labels
    assert labels.shape == (3, 2) and labels[:, 0].eq(1).all() and labels[:, 1].isnan().all()


def test_second_call_neither_decodes_nor_builds_the_model(tower):
    first = extracted(FeatureStore(), drawn_set(9), tower)

    def refuse(item):
        raise AssertionError("decoded again")

    second = extracted(FeatureStore(), drawn_set(9, load=refuse), Unbuildable())
    assert (second.computed, second.cached, second.skipped) == (0, 9, [])
    assert torch.equal(first.features.features, second.features.features)


def test_images_that_changed_places_keep_no_answer(tower, written, put_in_place, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "SETTLED_NS", -1)  # as if they had been there for a while
    data = written(6)
    for item in data.items:  # all of one size
        item.source.write_bytes(item.source.read_bytes().ljust(1000, b"\0"))
    first = extracted(FeatureStore(), data, tower).features.features
    copies = [shutil.copy(item.source, tmp_path / f"copy-{item.id}") for item in data.items]
    for item, copy in zip(data.items, copies[::-1]):
        put_in_place(copy, item.source)
    second = extracted(FeatureStore(), data, Unbuildable())
    assert torch.equal(second.features.features, first.flip(0)) and second.computed == 0


def test_an_unreadable_image_does_not_make_a_second_call_build_the_model(tower):
    good = drawn_set(4)

    def load(item):
        if item.id == "2":
            raise OSError("truncated\n at byte 7")
        return good.load(item)

    first = extracted(FeatureStore(), drawn_set(4, load=load), tower)
    assert first.skipped == [("2", "OSError: truncated at byte 7")]
    assert first.features.ids == ("0", "1", "3") == tuple(item.id for item in first.items)
    second = extracted(FeatureStore(), drawn_set(4, load=load), Unbuildable())
    assert (second.skipped, second.cached) == (first.skipped, 3)


def test_files_are_told_by_their_bytes_not_by_their_names(tower, written):
    data = written(3)
    extracted(FeatureStore(), data, tower)
    data.items[0].source.rename(data.items[0].source.with_name("renamed.png"))
    data.items[0] = data.items[0].with_(source=data.items[0].source.with_name("renamed.png"))
    assert extracted(FeatureStore(), data, tower).computed == 0
    data.items[1].source.write_bytes(data.items[2].source.read_bytes())
    again = extracted(FeatureStore(), data, tower)
    assert again.computed == 0, "the bytes are those of another image, which is there"
    assert torch.equal(again.features.features[1], again.features.features[2])


def test_a_missing_file_is_left_out_and_the_rest_goes_on(tower, written):
    data = written(3)
    data.items[1].source.unlink()
    found = extracted(FeatureStore(), data, tower)
    ((name, reason),) = found.skipped
    assert name == "image-001.png" and str(data.items[1].source) in reason and "\n" not in reason
    assert len(found.features) == 2


def test_images_with_the_same_bytes_go_through_the_tower_once(tower, written):
    data = written(2)
    copies = [data.items[0].with_(id=f"copy-{i}") for i in range(3)]
    data = data.with_items([*data.items, *copies])
    found = extracted(FeatureStore(), data, tower)
    assert (tower.images, found.computed, found.cached) == (2, 2, 3)
    assert torch.equal(found.features.features[0], found.features.features[4])


@pytest.mark.parametrize(
    "change",
    [
        lambda call: call.update(backbone=TinyTower("another", seed=1)),
        lambda call: call.update(transform=Transform(gain=0.5)),
        lambda call: call.update(tap="pre_projection"),
        lambda call: call.update(amp="bf16"),
    ],
    ids=["backbone", "transform", "tap", "amp"],
)
def test_each_thing_a_feature_depends_on_makes_it_another(change):
    store, data = FeatureStore(), drawn_set(4)
    call = {"backbone": TinyTower(), "transform": Transform()}
    first = store.get_or_compute(data, data.items, **call)
    change(call)
    second = store.get_or_compute(data, data.items, **call)
    assert second.computed == 4
    assert first.features.features.shape != second.features.features.shape or not torch.equal(
        first.features.features, second.features.features
    )


def test_another_way_of_decoding_the_same_file_is_another_image(tower, written):
    data = written(2)
    extracted(FeatureStore(), data, tower)
    cropped = data.with_items([item.with_(decode={"box": [0, 0, 9, 9]}) for item in data.items])
    assert extracted(FeatureStore(), cropped, tower).computed == 2


def test_the_seed_does_not_matter_to_images_as_they_are(tower, drawn):
    extracted(FeatureStore(), drawn(3), tower, seed=1)
    assert extracted(FeatureStore(), drawn(3), tower, seed=2).computed == 0


def test_views_are_functions_of_seed_image_and_number(tower, drawn):
    options = {"view_transform": Transform()}
    three = extracted(FeatureStore(), drawn(4), tower, views=3, **options)
    assert three.features.views.shape == (4, 3, DIM) and three.computed == 16
    assert len({tuple(view.tolist()) for view in three.features.views.flatten(0, 1)}) == 12, "no two views are the same"
    # Each view is stored by itself: five views need two more; another order of images changes none.
    shuffled = drawn(4).with_items(drawn(4).items[::-1])
    five = extracted(FeatureStore(), shuffled, tower, views=5, **options)
    assert five.computed == 8
    assert torch.equal(five.features.views.flip(0)[:, :3], three.features.views)
    other = extracted(FeatureStore(), drawn(4), tower, views=3, seed=1, **options)
    assert other.computed == 12 and not torch.equal(other.features.views, three.features.views)
    assert extracted(FeatureStore(), drawn(4), Unbuildable(), views=3, seed=1, **options).computed == 0


def test_views_do_not_depend_on_batches_or_threads(drawn, tmp_path):
    def views(batch_size, workers):
        store = FeatureStore(tmp_path / f"{batch_size}-{workers}")
        options = {"views": 11, "view_transform": Transform(), "batch_size": batch_size, "workers": workers}
        return extracted(store, drawn(7), TinyTower(), **options).features.views

    torch.testing.assert_close(views(1, 1), views(5, 4))


def test_what_was_computed_before_an_interrupt_is_kept(tower, drawn):
    def interrupt(batch):
        if tower.images >= 8:
            raise KeyboardInterrupt

    tower.before_batch = interrupt
    with pytest.raises(KeyboardInterrupt):
        extracted(FeatureStore(), drawn(20), tower, batch_size=2)
    rest = extracted(FeatureStore(), drawn(20), TinyTower(), batch_size=2)
    assert (rest.computed, rest.cached) == (12, 8)


def test_an_interrupt_while_decoding_loses_no_finished_batch(tower, drawn):
    good = drawn(20)

    def load(item):
        if item.id == "9":
            raise KeyboardInterrupt
        return good.load(item)

    with pytest.raises(KeyboardInterrupt):
        extracted(FeatureStore(), drawn(20, load=load), tower, batch_size=2)
    assert extracted(FeatureStore(), drawn(20), TinyTower()).cached == tower.images == 8


def test_an_error_of_the_tower_keeps_what_was_computed(tower, drawn):
    def fail(batch):
        if tower.images >= 4:
            raise RuntimeError("broken kernel")

    tower.before_batch = fail
    with pytest.raises(RuntimeError, match="broken kernel"):
        extracted(FeatureStore(), drawn(8), tower, batch_size=2)
    assert extracted(FeatureStore(), drawn(8), TinyTower()).cached == 4


KILLED = """
import os, sys
sys.path.insert(0, {here!r})
from tiny_tower import TinyTower, Transform, drawn_set
from vladapt import FeatureStore
tower = TinyTower()
def die(batch):
    if tower.images >= 10:
        os.kill(os.getpid(), 9)
tower.before_batch = die
data = drawn_set(16)
FeatureStore({root!r}, flush_rows=4).get_or_compute(data, data.items, tower, Transform(), batch_size=2)
"""


def test_a_killed_extraction_goes_on_where_it_stopped(tmp_path, drawn):
    code = KILLED.format(here=str(HERE), root=str(tmp_path / "store"))
    assert run(["-c", code]).returncode == -9
    rest = extracted(FeatureStore(tmp_path / "store"), drawn(16), TinyTower())
    assert (rest.computed, rest.cached) == (8, 8), "written every 4 rows: 8 of the 10 that were computed"


def test_rows_are_written_after_some_time_too(tower, drawn):
    store = FeatureStore(flush_seconds=0.0)
    seen = []
    extracted(store, drawn(6), tower, batch_size=2, progress=lambda done, total: seen.append(len(shards(store))))
    assert seen == [1, 2, 3]


SHARER = """
import sys
sys.path.insert(0, {here!r})
from tiny_tower import TinyTower, Transform, drawn_set
from vladapt import FeatureStore
for _ in range(3):
    for start in range(0, 60, 5):
        data = drawn_set(30, start=start)
        store = FeatureStore({root!r}, flush_rows=1)
        found = store.get_or_compute(data, data.items, TinyTower(), Transform(), batch_size=3)
        assert len(found.features) == 30 and not found.skipped
"""


def test_two_processes_share_a_store(tmp_path, drawn, monkeypatch):
    root = tmp_path / "store"
    code = SHARER.format(here=str(HERE), root=str(root))
    for process in [start(["-c", code]) for _ in range(2)]:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    data = drawn(85)
    shared = extracted(FeatureStore(root), data, Unbuildable())
    assert shared.cached == 85
    torch.testing.assert_close(
        shared.features.features, extracted(FeatureStore(tmp_path / "own"), data, TinyTower()).features.features
    )


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "no safetensors"])
def test_a_damaged_shard_is_removed_and_computed_again(tower, drawn, damage):
    store = FeatureStore()
    first = extracted(store, drawn(5), tower)
    (shard,) = shards(store)
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    broken = {
        "truncated": bytes(content[:-7]),
        "flipped": bytes(content),
        "emptied": b"",
        "no safetensors": b"\x80\x04pickle me" * 40,
    }
    shard.write_bytes(broken[damage])
    for again_with in (store, FeatureStore()):  # one that knows the shard, one that does not
        shard.write_bytes(broken[damage])
        again = extracted(again_with, drawn(5), TinyTower())
        assert again.computed + again.cached == 5
        torch.testing.assert_close(again.features.features, first.features.features)
        assert not shard.exists()
    assert extracted(FeatureStore(), drawn(5), Unbuildable()).cached == 5


def test_no_space_left_is_one_line_and_leaves_nothing_half_written(tower, drawn, monkeypatch):
    store = FeatureStore(flush_rows=4)
    real = Path.write_bytes

    def full(path, content):
        if tower.images > 4:
            real(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match="No space left on device") as caught:
        extracted(store, drawn(12), tower, batch_size=2)
    said = str(caught.value)
    assert "\n" not in said and str(store.root) in said and "VLADAPT_CACHE" in said
    monkeypatch.undo()
    monkeypatch.setenv("VLADAPT_CACHE", str(store.root.parent))
    files = [path for path in store.root.rglob("*") if path.is_file()]
    assert [path.suffix for path in files] == [".safetensors"], "the first four, and no remains"
    assert extracted(FeatureStore(), drawn(12), TinyTower()).cached == 4


def test_a_store_that_cannot_be_made_is_one_line(tower, drawn, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be written"):
        extracted(FeatureStore(tmp_path / "file" / "store"), drawn(2), tower)


def test_a_feature_that_is_not_finite_leaves_its_image_out(tower):
    good = drawn_set(3)

    class Spoiled(Transform):
        def __call__(self, image, seed=None):
            pixels = super().__call__(image, seed)
            return pixels * float("nan") if (image == good.load(good.items[1])).all() else pixels

    found = extracted(FeatureStore(), good, tower, Spoiled())
    assert found.skipped == [("1", "the backbone gives NaN or infinity for it")]
    assert found.features.ids == ("0", "2")


def test_no_images_and_no_readable_images_give_empty_sets(tower, drawn):
    def load(item):
        raise DataError(f"{item.id}: not an image")

    nothing = extracted(FeatureStore(), drawn(0), Unbuildable(), views=2, view_transform=Transform())
    assert nothing.features.features.shape == (0, DIM) and nothing.features.views.shape == (0, 2, DIM)
    unreadable = extracted(FeatureStore(), drawn(3, load=load), tower)
    assert len(unreadable.features) == 0 and [reason for _, reason in unreadable.skipped] == [
        "0: not an image",
        "1: not an image",
        "2: not an image",
    ]


def test_progress_tells_of_what_is_computed_only(tower, drawn):
    extracted(FeatureStore(), drawn(4), tower)
    seen = []
    extracted(FeatureStore(), drawn(10), tower, batch_size=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 6), (6, 6)]


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"batch_size": 0}, ConfigError, "--batch-size 0"),
        ({"workers": -1}, ConfigError, "--workers -1"),
        ({"amp": "int4"}, ConfigError, "bf16"),
        ({"tap": "middle"}, ConfigError, "pre_projection"),
        ({"views": 2}, ConfigError, "view_transform"),
    ],
)
def test_options_that_mean_nothing_are_refused(tower, drawn, options, kind, said):
    with pytest.raises(kind, match=said):
        extracted(FeatureStore(), drawn(2), tower, **options)


def test_a_tap_that_the_tower_lacks_is_refused_before_anything_is_decoded(tower, drawn):
    tower.capabilities = frozenset()
    with pytest.raises(CapabilityError, match="before the projection"):
        extracted(FeatureStore(), drawn(2), tower, tap="pre_projection")


def test_a_transform_that_does_not_say_what_it_does_is_refused(tower, drawn):
    with pytest.raises(ConfigError, match="spec"):
        extracted(FeatureStore(), drawn(2), tower, lambda image: image)


def test_features_can_be_trained_on_and_the_tower_still_be_trained(tower, drawn):
    features = extracted(FeatureStore(), drawn(3), tower).features.features
    weight = torch.ones(DIM, requires_grad=True)
    (features * weight).sum().backward()
    tower.model.requires_grad_(True)
    tower.encode_image(torch.ones(2, 3, 8, 8)).sum().backward()
    assert weight.grad is not None and tower.model["image"].weight.grad is not None


def test_the_default_store_lies_in_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path))
    assert FeatureStore().root == tmp_path / "features"
    monkeypatch.delenv("VLADAPT_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert FeatureStore().root == tmp_path / ".cache" / "vladapt" / "features"


def test_a_cached_read_holds_labels_of_now_not_of_then(tower, drawn):
    extracted(FeatureStore(), drawn(4), tower)
    data = drawn(4)
    data.items = [item.with_(target=Label(1)) for item in data.items]
    again = extracted(FeatureStore(), data, Unbuildable())
    assert np.array_equal(again.features.labels.numpy(), [1, 1, 1, 1])


def test_a_store_that_keeps_nothing_looks_nothing_up_and_writes_nothing(tower, drawn, tmp_path):
    root = tmp_path / "kept"
    kept, before = extracted(FeatureStore(root), drawn(4), tower), sorted(root.rglob("*"))
    store = FeatureStore(root, keep=False)
    found = [extracted(store, drawn(4), tower) for _ in range(2)]
    assert [(each.computed, each.cached) for each in found] == [(4, 0)] * 2
    torch.testing.assert_close(found[1].features.features, kept.features.features)
    assert len(store.text_features(tower, ["a", "b"])) == 2 and store.backbone_facts(tower)["logit_scale"] > 0
    assert sorted(root.rglob("*")) == before
