"""Made splits: repeatable, of the right sizes, and no image on two sides."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vladapt.core.data.file_hashes import FileHashes
from vladapt.core.data.pairs.builder import PairBuilder
from vladapt.core.data.pairs.joined_pairs import JoinedPairs
from vladapt.core.data.pairs.pair_set import PairSet
from vladapt.core.data.pairs.pair_splits import (
    assign_pair_splits,
    copies_in,
    held_out_elsewhere,
    without_divided_copies,
)
from vladapt.core.data.pairs.sample import sample_pairs
from vladapt.core.errors import ConfigError


def sides(pairs):
    return {pair.id: pair.split for pair in pairs}


def unsplit(n, seed=0):
    return sample_pairs(n, seed).with_split([""] * n)


def test_a_tenth_is_val_and_a_tenth_test():
    assert Counter(sides(assign_pair_splits(unsplit(200))).values()) == {"train": 160, "val": 20, "test": 20}
    shares = Counter(sides(assign_pair_splits(unsplit(200), val=0.25, test=0)).values())
    assert shares == {"train": 150, "val": 50}


@pytest.mark.parametrize(("n", "counts"), [(3, [1, 1, 1]), (2, [2, 0, 0]), (4, [2, 1, 1])])
def test_small_sets_have_one_of_each_where_they_can(n, counts):
    assigned = assign_pair_splits(unsplit(n))
    assert [len(assigned.split(name)) for name in ("train", "val", "test")] == counts


@given(st.permutations(range(30)), st.integers(0, 5))
def test_the_order_of_rows_does_not_matter(order, seed):
    pairs = unsplit(30)
    assert sides(assign_pair_splits(pairs, seed)) == sides(assign_pair_splits(pairs.select(order), seed))


def test_another_seed_splits_otherwise():
    assert sides(assign_pair_splits(unsplit(60), 0)) != sides(assign_pair_splits(unsplit(60), 1))


def test_rows_of_one_image_stay_together():
    pairs = unsplit(20).select(np.arange(60) % 20)
    assigned = assign_pair_splits(pairs)
    by_image = {}
    for pair in assigned:
        by_image.setdefault(pair.image, set()).add(pair.split)
    assert all(len(found) == 1 for found in by_image.values()) and assigned.splits == ("train", "val", "test")


def test_given_splits_are_kept():
    pairs = sample_pairs(40)
    assigned = assign_pair_splits(pairs.with_split(["test"] * 5 + [""] * 35))
    assert all(assigned[row].split == "test" for row in range(5)) and assigned.splits == ("train", "val", "test")


def test_copies_stay_together_when_files_are_compared(tmp_path):
    builder = PairBuilder(tmp_path, "list")
    for number in range(40):
        Image.new("RGB", (4, 4), (number // 2, 0, 0)).save(tmp_path / f"{number:02d}.bmp")  # all of one size
        builder.add(f"{number:02d}.bmp", ["x"])
    pairs = builder.build(name="copies")

    def apart(assigned):
        return sum(assigned[2 * i].split != assigned[2 * i + 1].split for i in range(20))

    assert apart(assign_pair_splits(pairs, hashes=FileHashes(tmp_path / "cache"))) == 0
    assert apart(assign_pair_splits(pairs)) > 0


def test_sets_without_copies_are_split_the_same_whether_compared_or_not(tmp_path):
    builder = PairBuilder(tmp_path, "list")
    for number in range(40):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number:02d}.bmp")
        builder.add(f"{number:02d}.bmp", ["x"])
    pairs = builder.build(name="distinct")
    compared = assign_pair_splits(pairs, hashes=FileHashes(tmp_path / "cache"))
    assert sides(compared) == sides(assign_pair_splits(pairs)) and compared.notes == []


def renamed_copies(tmp_path, count=12):
    """Images, and the same bytes under other names in another folder."""
    builder = PairBuilder(tmp_path, "list")
    generator = np.random.default_rng(0)
    for number in range(count):
        pixels = generator.integers(0, 256, (80, 80, 3), dtype=np.uint8)
        for name in (f"{number:02d}.png", f"again_{number:02d}.png"):
            Image.fromarray(pixels).save(tmp_path / name)
            builder.add(name, [f"thing {number}"])
    return builder.build(name="renamed")


def test_renamed_copies_are_found_and_told(tmp_path):
    pairs = renamed_copies(tmp_path)
    found = copies_in(pairs, np.arange(24), FileHashes(tmp_path / "cache"))
    assert sorted(found) == [[2 * n, 2 * n + 1] for n in range(12)]
    assigned = assign_pair_splits(pairs, test=0.3, hashes=FileHashes(tmp_path / "cache"))
    assert [pair.split for pair in assigned][::2] == [pair.split for pair in assigned][1::2]
    assert assigned.notes == [
        "Exact copies of other images under other names: 12; each is in the same split as its original."
    ]


def test_only_what_may_be_a_copy_is_read(tmp_path, monkeypatch):
    pairs = renamed_copies(tmp_path)
    (tmp_path / "05.png").write_bytes(b"x" * 70_000)  # of a size of its own
    same_size = (tmp_path / "07.png").read_bytes()
    (tmp_path / "07.png").write_bytes(same_size[:-9] + b"otherwise")  # of equal size, with another end
    whole = []
    monkeypatch.setattr(FileHashes, "sha256", lambda self, path: whole.append(path) or path)
    monkeypatch.setattr(PairSet, "image_bytes", None)
    copies_in(pairs, np.arange(24), FileHashes(tmp_path / "cache"))
    assert len(whole) == 20 and not any("05.png" in path or "07.png" in path for path in whole)


def test_given_splits_give_up_copies_of_test_images(tmp_path):
    pairs = renamed_copies(tmp_path, 4).with_split(["train", "test", "val", "train", "train", "val", "train", "train"])
    kept = without_divided_copies(pairs, FileHashes(tmp_path / "cache"))
    assert sides(kept) == {
        "again_00.png": "test",
        "01.png": "train",
        "again_01.png": "train",
        "02.png": "train",
        "again_02.png": "train",
        "03.png": "train",
        "again_03.png": "train",
    }
    assert kept.notes == [
        "Left out of train and val because a copy is in the given test split: 1.",
        "Moved from val to train because a copy is in the given train split: 2.",
    ]


def test_copies_join_the_persons_they_show(tmp_path):
    builder = PairBuilder(tmp_path, "list")
    for number in range(30):
        person = number // 3
        colour = (0, 0, 0) if number in (0, 29) else (number, 1, 1)  # the first person's first is the last's last
        Image.new("RGB", (4, 4), colour).save(tmp_path / f"{number:02d}.bmp")
        builder.add(f"{number:02d}.bmp", ["x"], label=str(person))
    hashes = FileHashes(tmp_path / "cache")
    for seed in range(5):
        assigned = assign_pair_splits(builder.build(name="p"), seed, 0.3, 0.3, hashes, by_class=True)
        assert assigned[0].split == assigned[2].split == assigned[27].split == assigned[29].split


@pytest.mark.parametrize("shares", [{"val": -0.1}, {"val": 1.0}, {"val": 0.5, "test": 0.5}])
def test_impossible_shares_are_refused(shares):
    with pytest.raises(ConfigError, match="share"):
        assign_pair_splits(unsplit(5), **shares)


def test_shares_of_the_splits_are_the_users(tmp_path):
    from vladapt.core.data.pairs.reading import read_pairs

    pairs = read_pairs("sample", val=0, test=0.5)
    assert pairs.splits  # the sample has its own
    rows = ["image,caption", *(f"{i}.png,a thing {i}" for i in range(20))]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    for i in range(20):
        (tmp_path / f"{i}.png").write_bytes(b"never decoded %d" % i)
    shared = read_pairs(tmp_path / "t.csv", val=0, test=0.5)
    assert (len(shared.split("train")), len(shared.split("val")), len(shared.split("test"))) == (10, 0, 10)
    assert "No splits given: 0% of the images are val, 50% test." in shared.notes


def test_an_image_that_another_source_holds_out_is_not_trained_on(tmp_path):
    splits = {"one": ["test", "train", "val", "train"], "two": ["train", "test", "test", "train"]}
    sets = []
    for name, of in splits.items():
        (tmp_path / name).mkdir()
        builder = PairBuilder(tmp_path / name, "list")
        for number, split in enumerate(of):
            Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / name / f"{name}{number}.bmp")
            builder.add(f"{name}{number}.bmp", ["x"], split=split)
        sets.append(builder.build(name=name))
    hashes = FileHashes(tmp_path / "cache")
    held_out = held_out_elsewhere(JoinedPairs(tuple(splits), tuple(sets)), hashes)
    assert held_out.reshape(2, 4).tolist() == [[False, True, True, False], [True, False, False, False]]
    alone = JoinedPairs(("one", "one"), tuple(sets))  # parts of one source, which are told apart elsewhere
    assert not held_out_elsewhere(alone, hashes).any()
