"""Samples with parts: each part is encoded and stored once, whoever asks for the parts or for their mean."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tower import DIM, SIZE, Frames, TinyTower, Unbuildable, clip_set, drawn_clip, drawn_set

from vladapt import FeatureStore
from vladapt.core.data.file_hashes import FileHashes
from vladapt.core.data.verify import content_key
from vladapt.core.features import extract as extract_module
from vladapt.core.features.extract import BatchSizeTuner, DecodeJob, averaged, extract
from vladapt.core.features.table import folder_name, image_key, space_of, transform_spec
from vladapt.core.runtime.shards import ShardFolder

HERE = Path(__file__).parent


def extracted(store, data, backbone, parts, **options):
    return store.get_or_compute(data, data.items, backbone, Frames(), parts=parts, **options)


def directly(lengths, **options) -> list[torch.Tensor]:
    """The features of each sample's parts (T, D), by a tower that nobody counts."""
    data, tower = clip_set(lengths), TinyTower()
    pixels = [Frames()(data.load(item), **options) for item in data.items]
    return [tower.encode_image(p if p.ndim == 4 else p[None], normalize=False) for p in pixels]


def shards_of_features(store, tower) -> list[Path]:
    """In the order in which they were written."""
    return sorted((store.root / folder_name(space_of(tower, "projected", "float32"))).iterdir())


def refuse(item):
    raise AssertionError("decoded again")


LENGTHS = [3, 1, 5, 2]


def test_parts_come_in_their_order_with_a_mask_and_the_feature_is_their_mean(tower):
    found = extracted(FeatureStore(), clip_set(LENGTHS), tower, parts=True)
    features, expected = found.features, directly(LENGTHS)
    assert features.parts.shape == (4, 5, DIM) and features.parts_mask.sum(dim=1).tolist() == LENGTHS
    for i, (length, parts) in enumerate(zip(LENGTHS, expected)):
        assert features.parts_mask[i].tolist() == [True] * length + [False] * (5 - length)
        torch.testing.assert_close(features.parts[i, :length], parts)
        assert features.parts[i, length:].eq(0).all()
        torch.testing.assert_close(features.features[i], parts.mean(dim=0))
    assert (found.computed, found.cached, tower.images) == (4, 0, 11)
    assert features.ids == tuple("0123") and features.labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("first", [False, True], ids=["mean first", "parts first"])
def test_the_backbone_runs_once_whether_the_mean_or_the_parts_are_asked_for_first(tower, first):
    one = extracted(FeatureStore(), clip_set(LENGTHS), tower, parts=first)
    again = clip_set(LENGTHS, load=refuse)
    other = extracted(FeatureStore(), again, Unbuildable(), parts=not first)
    assert tower.images == sum(LENGTHS) and (other.computed, other.cached) == (0, 4)
    assert torch.equal(one.features.features, other.features.features), "bit for bit the same mean"
    with_parts = one if first else other
    assert (one.features.parts is None) != (other.features.parts is None)
    for found, expected in zip(with_parts.features.parts, directly(LENGTHS)):
        torch.testing.assert_close(found[: len(expected)], expected)


def test_parts_of_several_samples_share_a_batch(tower):
    extracted(FeatureStore(), clip_set(LENGTHS), tower, parts=False, batch_size=4)
    assert tower.batches == [4, 4, 3]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6), st.integers(1, 5), st.booleans())
@settings(max_examples=25)
def test_any_lengths_and_batches_give_the_same(tmp_path_factory, lengths, batch_size, parts):
    store = FeatureStore(tmp_path_factory.mktemp("store"))
    found = extracted(store, clip_set(lengths), TinyTower(), parts=parts, batch_size=batch_size).features
    expected = directly(lengths)
    torch.testing.assert_close(found.features, torch.stack([rows.mean(dim=0) for rows in expected]))
    assert (found.parts is not None) == (parts and any(lengths))
    if found.parts is not None:
        assert found.parts_mask.sum(dim=1).tolist() == [length or 1 for length in lengths]
        torch.testing.assert_close(found.parts[found.parts_mask], torch.cat(expected))
    later = extracted(store, clip_set(lengths, load=refuse), Unbuildable(), parts=False).features
    assert torch.equal(later.features, found.features)


def test_an_image_among_clips_is_its_own_only_part(tower):
    mixed = [2, 0, 3, 0]
    mean = extracted(FeatureStore(), clip_set(mixed), tower, parts=False)
    data = clip_set(mixed)
    found = extracted(FeatureStore(), data, Unbuildable(), parts=True)
    assert data.decoded == ["1", "3"], "what was stored as an image is looked at once, to see that it is none"
    assert (found.computed, found.cached) == (0, 4)
    assert found.features.parts_mask.sum(dim=1).tolist() == [2, 1, 3, 1]
    assert torch.equal(found.features.parts[[1, 3], 0], mean.features.features[[1, 3]])
    again = extracted(FeatureStore(), clip_set(mixed, load=refuse), Unbuildable(), parts=True)
    assert torch.equal(again.features.parts, found.features.parts)


def test_images_alone_have_no_parts(tower, drawn):
    assert extracted(FeatureStore(), drawn(3), tower, parts=True).features.parts is None
    assert extracted(FeatureStore(), drawn_set(3, load=refuse), Unbuildable(), parts=True).features.parts is None
    assert extracted(FeatureStore(), drawn(0), Unbuildable(), parts=True).features.parts is None


def test_images_without_parts_cost_the_store_nothing_more(tower, drawn):
    store = FeatureStore()
    extracted(store, drawn(3), tower, parts=False)
    assert len(list(store.root.iterdir())) == 1


def test_a_mean_stored_before_parts_were_is_used_until_parts_are_asked_for(tower):
    lengths, store = [3, 2], FeatureStore()
    data, space = clip_set(lengths), space_of(tower, "projected", "float32")
    contents = [content_key(item, FileHashes()) for item in data.items]
    keys = [image_key(space, content, transform_spec(Frames())) for content in contents]
    means = np.stack([rows.mean(dim=0).numpy() for rows in directly(lengths)])
    ShardFolder(store.root / folder_name(space), space).append(keys, means)
    old = extracted(FeatureStore(), clip_set(lengths, load=refuse), Unbuildable(), parts=False)
    assert np.array_equal(old.features.features.numpy(), means)
    new = extracted(FeatureStore(), data, tower, parts=True)
    assert tower.images == 5 and new.computed == 2
    assert new.features.parts_mask.sum(dim=1).tolist() == lengths
    later = extracted(FeatureStore(), clip_set(lengths, load=refuse), Unbuildable(), parts=False)
    assert torch.equal(later.features.features, new.features.features)


def test_a_clip_stopped_half_way_goes_on_with_the_parts_it_lacks(tower):
    def interrupt(batch):
        if tower.images >= 6:
            raise KeyboardInterrupt

    tower.before_batch = interrupt
    with pytest.raises(KeyboardInterrupt):
        extracted(FeatureStore(flush_rows=1), clip_set([4, 9, 3]), tower, parts=False, batch_size=2)
    rest = TinyTower()
    found = extracted(FeatureStore(), clip_set([4, 9, 3]), rest, parts=True, batch_size=2)
    assert rest.images == 16 - 6 and (found.computed, found.cached) == (2, 1)
    for parts, expected in zip(found.features.parts, directly([4, 9, 3])):
        torch.testing.assert_close(parts[: len(expected)], expected)


def test_a_damaged_shard_costs_only_its_own_parts(tower):
    store = FeatureStore(flush_rows=1)
    first = extracted(store, clip_set([6]), tower, parts=True, batch_size=2)
    _, second, _ = shards_of_features(store, tower)
    second.write_bytes(second.read_bytes()[:-3])
    repair = TinyTower()
    found = extracted(FeatureStore(), clip_set([6]), repair, parts=True)
    assert repair.images == 2
    torch.testing.assert_close(found.features.parts, first.features.parts)


def test_a_lost_number_of_parts_is_made_again(tower):
    store = FeatureStore()
    first = extracted(store, clip_set([3]), tower, parts=True)
    for path in store.root.rglob("*.safetensors"):
        path.write_bytes(b"")
    again = extracted(FeatureStore(), clip_set([3]), TinyTower(), parts=True)
    assert torch.equal(again.features.parts, first.features.parts)


def test_samples_with_the_same_content_share_their_parts(tower):
    data = clip_set([3, 2])
    data.items.append(data.items[0].with_(id="0"))
    found = extracted(FeatureStore(), data, tower, parts=True)
    assert tower.images == 5 and torch.equal(found.features.parts[0], found.features.parts[2])


def test_views_of_clips_are_means_over_their_parts(tower):
    options = {"views": 2, "view_transform": Frames(), "seed": 3}
    found = extracted(FeatureStore(), clip_set(LENGTHS), tower, parts=True, **options)
    assert found.features.views.shape == (4, 2, DIM) and found.features.parts.shape == (4, 5, DIM)
    assert tower.images == 3 * sum(LENGTHS)
    again = extracted(FeatureStore(), clip_set(LENGTHS, load=refuse), Unbuildable(), parts=False, **options)
    assert torch.equal(again.features.views, found.features.views)


def test_one_part_that_is_not_finite_leaves_its_sample_out(tower):
    class Spoiled(Frames):
        def __call__(self, decoded, seed=None):
            pixels = super().__call__(decoded, seed)
            if len(pixels) == 5:
                pixels[3] = float("nan")
            return pixels

    data = clip_set(LENGTHS)
    found = FeatureStore().get_or_compute(data, data.items, tower, Spoiled(), parts=True)
    assert found.skipped == [("2", "the backbone gives NaN or infinity for part 3 of it")]
    assert found.features.ids == ("0", "1", "3") and found.features.parts.shape == (3, 3, DIM)


def test_images_beside_a_clip_that_cannot_be_used_have_no_parts(tower):
    class Spoiled(Frames):
        def __call__(self, decoded, seed=None):
            pixels = super().__call__(decoded, seed)
            if pixels.ndim == 4:
                pixels[-1] = float("inf")
            return pixels

    data = clip_set([0, 3, 0])
    found = FeatureStore().get_or_compute(data, data.items, tower, Spoiled(), parts=True)
    assert found.features.ids == ("0", "2") and found.features.parts is None


@pytest.mark.parametrize(("shape", "said"), [((0, 3, SIZE, SIZE), "at least one part"), ((3, SIZE), r"\(3, 8\)")])
def test_pixels_of_no_use_leave_their_sample_out(tower, shape, said):
    class Odd(Frames):
        def __call__(self, decoded, seed=None):
            return torch.zeros(shape) if len(decoded) == 5 else super().__call__(decoded, seed)

    data = clip_set(LENGTHS)
    found = FeatureStore().get_or_compute(data, data.items, tower, Odd())
    assert found.features.ids == ("0", "1", "3")
    ((name, reason),) = found.skipped
    assert name == "2" and said.replace("\\", "") in reason


def test_a_decoding_that_gives_another_number_of_parts_is_named(tower):
    store = FeatureStore(flush_rows=1)
    extracted(store, clip_set([6]), tower, parts=True, batch_size=2)
    shards_of_features(store, tower)[1].unlink()
    longer = clip_set([6], load=lambda item: drawn_clip(0, 7))
    found = extracted(FeatureStore(), longer, TinyTower(), parts=True)
    assert found.skipped == [("0", "it had 6 parts and now has 7; decoding must give the same number each time")]


def test_progress_counts_samples_not_parts(tower):
    seen = []
    extracted(
        FeatureStore(), clip_set([4, 4]), tower, parts=False, batch_size=3, progress=lambda *done: seen.append(done)
    )
    assert seen == [(0, 2), (1, 2), (2, 2)]


def test_a_store_that_keeps_nothing_gives_parts_too(tower):
    found = extracted(FeatureStore(keep=False), clip_set(LENGTHS), tower, parts=True)
    assert found.features.parts_mask.sum(dim=1).tolist() == LENGTHS


def test_averaged_gives_one_row_per_sample():
    lengths = [2, 0, 3]
    data, tower = clip_set(lengths), TinyTower()
    jobs = [DecodeJob(item, (item.id.encode(),), (None,)) for item in data.items]
    results = extract(
        jobs, lambda job: [Frames()(data.load(job.item))], lambda p: tower.encode_image(p, False), BatchSizeTuner(2)
    )
    rows = {key: row for result in averaged(results) for key, row in zip(result.keys, result.rows)}
    assert list(rows) == [b"0", b"1", b"2"]
    expected = torch.stack([parts.mean(dim=0) for parts in directly(lengths)])
    torch.testing.assert_close(torch.from_numpy(np.stack(list(rows.values()))), expected)


def test_samples_of_very_many_parts_are_not_decoded_one_per_thread(monkeypatch):
    """Pixels that were made and are not yet encoded stay few, however many threads could decode."""
    monkeypatch.setattr(extract_module, "MOST_AHEAD", 100)
    made, encoded, most, lock = 0, 0, 0, threading.Lock()

    def render(job):
        nonlocal made, most
        with lock:
            made += 50
            if encoded > 8 * 50:  # the first samples show how many parts there are
                most = max(most, made - encoded)
        return [torch.zeros(50, 3, 2, 2)]

    def encode(pixels):
        nonlocal encoded
        with lock:
            encoded += len(pixels)
        return pixels.flatten(1)

    jobs = [DecodeJob(item, (item.id.encode(),), (None,)) for item in drawn_set(40).items]
    results = averaged(extract(jobs, render, encode, BatchSizeTuner(4), workers=8))
    rows = [row for result in results for row in result.rows]
    assert len(rows) == 40 and 0 < most <= 100 + 2 * 50


BOUNDED = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
import numpy as np, torch
from tiny_tower import SIZE, TinyTower, Transform, drawn_set
from vladapt import FeatureStore

class Wide(TinyTower):
    embed_dim = 16384
    def encode_image(self, pixels, normalize=True):
        return self.hidden(pixels).repeat(1, 2400)[:, :16384]

class Frames(Transform):
    def __call__(self, clip, seed=None):
        return torch.stack([super(Frames, self).__call__(frame) for frame in clip])

def load(item):
    return np.random.default_rng(int(item.id)).integers(0, 256, ({parts}, SIZE, SIZE, 3), dtype=np.uint8)

def ask(count, **options):
    data = drawn_set(count, load=load)
    store = FeatureStore({root!r}, flush_rows=64)
    return store.get_or_compute(data, data.items, Wide(), Frames(), workers=1, batch_size=32, **options)

def peak_mib():
    # of this program alone: ru_maxrss begins at the peak of the process that started it
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

ask(8)
before = peak_mib()
assert ask({count}).computed == {count} - 8
assert ask({count}).computed == 0
mean = peak_mib()
assert ask({count}, parts=True).features.parts is not None
print(mean - before, peak_mib() - before)
"""


def test_memory_does_not_grow_with_the_number_of_parts_where_the_mean_is_wanted(tmp_path):
    count, parts, bound_mib = 80, 24, 40
    all_mib = count * parts * 16384 * 4 / 2**20
    assert all_mib == 120
    code = BOUNDED.format(here=str(HERE), root=str(tmp_path / "store"), count=count, parts=parts)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    of_means, of_parts = map(float, done.stdout.split())
    assert of_means < bound_mib < all_mib <= of_parts
