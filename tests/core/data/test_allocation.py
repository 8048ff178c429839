"""Sharing out parts that hold several classes."""

from vladapt.core.data.allocation import ItemGroup, allocate

SHARES = {"test": 0.3, "val": 0.2, "train": 0.5}


def shared(**counts):
    parts = [ItemGroup(count, name) for name, count in counts.items()]
    return dict(zip(counts, allocate(parts, SHARES, reserve_test=True), strict=True))


def test_the_only_part_of_a_class_is_spared_for_training():
    assert shared(alone={0: 1, 1: 1}, other={1: 2}) == {"alone": "train", "other": "test"}


def test_a_class_trains_although_its_part_would_fill_another_split_better():
    splits = shared(large={1: 50}, mixed={0: 1, 1: 30}, small={1: 1}, rare={0: 1})
    assert splits["rare"] == "test" and splits["mixed"] == "train"


def test_parts_without_a_class_train():
    assert shared(a={0: 1}, b={0: 1}, unlabelled={})["unlabelled"] == "train"


def test_ranks_decide_not_the_order():
    parts = [ItemGroup({0: 1}, str(rank)) for rank in range(20)]
    forward = allocate(parts, SHARES, reserve_test=True)
    assert forward == allocate(parts[::-1], SHARES, reserve_test=True)[::-1]
    assert [forward.count(split) for split in ("test", "val", "train")] == [6, 4, 10]


def test_a_rare_class_counts_as_much_as_a_common_one():
    """Of 8 images of the rare class among 106, half train; the common class would have its share either way."""
    common = {f"{n:02d}": {0: count} for n, count in enumerate((12, 8, 4, 5, 6, 11))}
    rare = {f"r{n}": {0: a, 1: b} for n, (a, b) in enumerate(((11, 1), (8, 2), (10, 1), (11, 1), (9, 2), (11, 1)))}
    splits = shared(**common, **rare)
    assert sum(rare[name][1] for name in rare if splits[name] == "train") == 4
