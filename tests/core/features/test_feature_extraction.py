"""Decoding runs a bounded way ahead, the micro-batch is found by measuring, and neither changes a feature."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from forked import run as run_python
from tiny_tower import TinyTower, Transform

from vladapt import CapabilityError, FeatureStore
from vladapt.core.features.extract import BatchSizeTuner, DecodeJob, extract

HERE = Path(__file__).parent


def run(store, data, tower, **options):
    return store.get_or_compute(data, data.items, tower, Transform(), **options)


def measured(times: dict[int, float], batches: int = 100) -> BatchSizeTuner:
    """A search over sizes with given times an image."""
    tuner = BatchSizeTuner(sizes=tuple(times))
    for _ in range(batches):
        tuner.record(tuner.size, times[tuner.size] * tuner.size)
    return tuner


def test_the_fastest_size_is_kept():
    assert measured({1: 5.0, 2: 3.0, 4: 1.0, 8: 1.05}).size == 4
    assert measured({1: 5.0, 2: 3.0, 4: 2.0, 8: 1.0}).size == 8
    assert not measured({1: 1.0, 2: 2.0}).measuring


def test_the_search_ends_where_larger_batches_are_clearly_slower():
    tuner = measured({1: 2.0, 2: 1.0, 4: 1.5, 8: 1.6, 16: 0.1})
    assert tuner.size == 2


def test_a_disturbed_measurement_and_a_last_smaller_batch_do_not_mislead():
    tuner = BatchSizeTuner(sizes=(1, 2))
    tuner.record(1, 1.0)
    tuner.record(1, 90.0)
    tuner.record(1, 1.0)
    for seconds in (3.0, 3.0, 3.0):
        tuner.record(1, 0.0)  # of another size than the one asked for
        tuner.record(2, seconds)
    assert tuner.size == 1


def test_a_given_size_is_used_and_without_one_several_are_tried(drawn, tmp_path):
    fixed, free = TinyTower(), TinyTower()
    run(FeatureStore(tmp_path / "a"), drawn(10), fixed, batch_size=4)
    assert fixed.batches == [4, 4, 2]
    run(FeatureStore(tmp_path / "b"), drawn(200), free)
    assert set(free.batches) >= {1, 2, 4} and sum(free.batches) == 200


def test_what_was_measured_serves_the_store_s_next_call(drawn, tmp_path):
    store, tower = FeatureStore(tmp_path / "s"), TinyTower()
    run(store, drawn(400), tower)
    tower.batches.clear()
    run(store, drawn(60, start=400), tower)
    assert len(set(tower.batches[:-1])) <= 1


def test_smoothed_labels_stand_beside_the_known_ones(drawn, tmp_path):
    from vladapt.domains.medical.targets import SoftFindings

    data, tower, unknown = drawn(2), TinyTower(), float("nan")
    targets = (SoftFindings((1.0, unknown), smoothed=(1.0, 0.7)), SoftFindings((0.0, 1.0)))
    data.items = [item.with_(target=target) for item, target in zip(data.items, targets, strict=True)]
    features = run(FeatureStore(tmp_path / "s"), data, tower).features
    assert features.labels[0].isnan().tolist() == [False, True]
    assert features.targets.tolist() == [[1.0, pytest.approx(0.7)], [0.0, 1.0]]
    assert features.select([1]).soft_labels.tolist() == [[0.0, 1.0]]
    plain = data.with_items([item.with_(target=targets[1]) for item in data.items])
    assert run(FeatureStore(tmp_path / "s"), plain, tower).features.soft_labels is None


def test_neither_batches_nor_threads_change_a_feature(drawn, tmp_path):
    found = [
        run(FeatureStore(tmp_path / f"{i}"), drawn(37), TinyTower(), batch_size=size, workers=workers).features.features
        for i, (size, workers) in enumerate([(1, 0), (8, 4), (None, None), (64, 2)])
    ]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-6)


def test_pixels_are_never_held_for_more_than_two_batches_and_the_threads(drawn):
    held, most, lock = 0, 0, threading.Lock()

    def render(job):
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        return [torch.zeros(3, 2, 2)]

    def encode(pixels):
        nonlocal held
        with lock:
            held -= len(pixels)
        return pixels.flatten(1)

    jobs = [DecodeJob(item, (bytes([i]),), (None,)) for i, item in enumerate(drawn(200).items)]
    results = list(extract(jobs, render, encode, BatchSizeTuner(4), workers=3))
    assert [key[0] for result in results for key in result.keys] == list(range(200)), "in the order of the jobs"
    assert most <= 2 * 4 + 4 + 3


@pytest.mark.parametrize(
    "error",
    [torch.cuda.OutOfMemoryError("out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    ids=["gpu", "cpu"],
)
def test_too_little_memory_for_a_batch_halves_it_and_all_later_ones(drawn, tmp_path, error):
    tower = TinyTower()

    def small_device(batch):
        if batch > 3:
            raise error

    tower.before_batch = small_device
    found = run(FeatureStore(tmp_path / "s"), drawn(24), tower, batch_size=8)
    assert found.computed == 24 and max(tower.batches) == 2
    torch.testing.assert_close(
        found.features.features, run(FeatureStore(tmp_path / "t"), drawn(24), TinyTower()).features.features
    )


def test_too_little_memory_for_one_image_is_one_line(drawn):
    tower = TinyTower()

    def no_device(batch):
        raise torch.cuda.OutOfMemoryError("out of memory")

    tower.before_batch = no_device
    with pytest.raises(CapabilityError, match="--device cpu"):
        run(FeatureStore(), drawn(2), tower)


def test_an_error_that_is_not_of_memory_halves_nothing(drawn):
    tower = TinyTower()

    def broken(batch):
        raise RuntimeError("sizes do not match")

    tower.before_batch = broken
    with pytest.raises(RuntimeError, match="sizes do not match"):
        run(FeatureStore(), drawn(8), tower)
    assert len(tower.batches) <= 1


BOUNDED = """
import resource, sys
sys.path.insert(0, {here!r})
from tiny_tower import TinyTower, Transform, drawn_set
from vladapt import FeatureStore

def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def extract(count, start):
    data = drawn_set(count, side={side}, start=start)
    found = FeatureStore({root!r}).get_or_compute(data, data.items, TinyTower(), Transform(), workers=2)
    assert found.computed == count

extract(8, start=0)
before = peak_mib()
extract({count}, start=8)
print(peak_mib() - before)
"""


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    side, count, bound_mib = 1500, 60, 80
    decoded_mib = count * side * side * 3 / 2**20
    assert decoded_mib > 4 * bound_mib, "the set is several times larger than what may be held of it"
    code = BOUNDED.format(here=str(HERE), root=str(tmp_path / "store"), side=side, count=count)
    done = run_python(["-c", code], check=True)
    assert float(done.stdout) < bound_mib


def test_a_clip_s_feature_is_the_mean_of_its_frames(drawn):
    class Frames(Transform):
        def __call__(self, image, seed=None):
            pixels = super().__call__(image, seed)
            return torch.stack([pixels, pixels.flip(0), pixels * 0.5])  # (T, 3, S, S)

    data, tower = drawn(5), TinyTower()
    found = FeatureStore().get_or_compute(data, data.items, tower, Frames(), batch_size=2).features.features
    clips = torch.stack([Frames()(data.load(item)) for item in data.items])
    frames = tower.encode_image(clips.flatten(0, 1), normalize=False)
    torch.testing.assert_close(found, frames.unflatten(0, (5, 3)).mean(dim=1))
