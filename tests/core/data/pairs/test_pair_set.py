"""PairSet: rows as they were added, parts that share columns, and little memory."""

import pickle
import time
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vladapt.core.data.images import decode_image
from vladapt.core.data.pairs.builder import PairBuilder
from vladapt.core.data.pairs.columns import text_at, text_column
from vladapt.core.data.pairs.joined_pairs import JoinedPairs
from vladapt.core.data.pairs.pair_set import Pair
from vladapt.core.data.pairs.sample import sample_pairs
from vladapt.core.errors import DataError


def built(*rows, base=""):
    builder = PairBuilder(base, "list.csv")
    for place, (name, captions, more) in enumerate(rows, start=1):
        builder.add(name, captions, place=place, **more)
    return builder.build(name="set")


@given(st.lists(st.text(st.characters())))
def test_strings_come_back(texts):
    column = text_column(texts)
    assert [text_at(column, row) for row in range(len(column))] == texts


@given(st.lists(st.tuples(st.integers(0, 5), st.lists(st.text(), min_size=1, max_size=3)), min_size=1, max_size=12))
def test_rows_of_an_image_become_one_in_order(rows):
    expected = {}
    for image, captions in rows:
        expected.setdefault(f"{image}.jpg", []).extend(captions)
    pairs = built(*((f"{image}.jpg", captions, {}) for image, captions in rows))
    assert [(pair.id, list(pair.captions)) for pair in pairs] == list(expected.items())
    assert [pair.image for pair in pairs] == list(range(len(expected)))
    assert pairs.caption_count == len([caption for _, captions in rows for caption in captions])
    chosen, twice = pairs.select([len(pairs) - 1]), JoinedPairs(("a", "b"), (pairs, pairs))
    assert chosen.caption_count == len(chosen[0].captions) and twice.caption_count == 2 * pairs.caption_count


def test_a_pair_has_what_was_added():
    more = {"texts": {"short": ["s"], "negative": ["n", "m"]}, "negative_image": "b.jpg", "label": "7", "split": "val"}
    pairs = built(("a.jpg", ["x", "y"], more), ("c.jpg", ["z"], {}), base="/data")
    assert pairs[0] == Pair(
        id="a.jpg",
        source="/data/a.jpg",
        offset=None,
        size=None,
        captions=("x", "y"),
        texts={"short": ("s",), "negative": ("n", "m")},
        negative_image="/data/b.jpg",
        label=0,
        split="val",
        image=0,
    )
    assert pairs[1] == Pair("c.jpg", "/data/c.jpg", None, None, ("z",), image=1)
    assert pairs.class_names == ("7",) and pairs.labels.tolist() == [0, -1]


def test_joined_rows_pool_their_texts_and_agree_on_the_rest():
    pairs = built(
        ("a.jpg", ["1"], {"texts": {"short": ["s"]}}),
        ("b.jpg", ["2"], {}),
        ("a.jpg", ["3"], {"texts": {"short": ["t"]}, "label": "cat", "split": "test", "negative_image": "n.jpg"}),
    )
    assert pairs[0].captions == ("1", "3") and pairs[0].texts == {"short": ("s", "t")}
    assert (pairs[0].label, pairs[0].split, pairs[0].negative_image) == (0, "test", "n.jpg")
    assert (pairs[1].label, pairs[1].split, pairs[1].negative_image) == (None, "", None)


def test_a_row_that_contradicts_an_earlier_one_is_skipped():
    pairs = built(
        ("a.jpg", ["1"], {"label": "cat", "split": "train"}),
        ("a.jpg", ["2"], {"label": "dog", "split": "train"}),
        ("a.jpg", ["3"], {"label": "cat", "split": "test"}),
        ("a.jpg", ["4"], {"label": "cat"}),
    )
    assert pairs[0].captions == ("1", "4")
    assert pairs.skipped == [
        ("list.csv line 2", "gives its image a class that differs from line 1"),
        ("list.csv line 3", "gives its image a split that differs from line 1"),
    ]
    assert pairs.total == 3


def test_classes_are_sorted_numbers_by_value():
    pairs = built(*((f"{i}.jpg", ["x"], {"label": name}) for i, name in enumerate(["10", "b", "9", "a", "9"])))
    assert pairs.class_names == ("9", "10", "a", "b") and pairs.labels.tolist() == [1, 3, 0, 2, 0]


def test_fields_are_what_most_rows_have():
    rows = [(f"{i}.jpg", ["x", "y"], {"label": "c", "texts": {"short": ["s"]} if i else {}}) for i in range(40)]
    rows[1][2]["texts"]["negative"] = ["n"]
    pairs = built(*rows)
    assert pairs.fields == {"label", "short", "several_captions"}
    assert pairs.notes == [
        "'negative' is missing from 39 of 40 images: too few for losses that need it.",
        "'short' is missing from 1 of 40 images: used where it is.",
    ]
    assert pairs.select([0]).fields == {"label", "several_captions"}


def test_labels_of_very_many_digits_are_names():
    long = "9" * 5000
    assert built(("a", ["x"], {"label": long}), ("b", ["x"], {"label": "9"})).class_names == ("9", long)


def test_an_empty_set_is_refused():
    builder = PairBuilder("", "list.csv")
    with pytest.raises(DataError, match=r"list.csv: holds no image-text pair"):
        builder.build(name="x")
    builder.skip("list.csv line 2", "empty caption")
    with pytest.raises(DataError, match=r"none of its 1 rows can be used; the first is list.csv line 2 \(empty cap"):
        builder.build(name="x")


@given(st.lists(st.integers(0, 9)), st.data())
def test_selections_are_the_rows_asked_for(chosen, data):
    pairs = sample_pairs(10)
    part = pairs.select(chosen)
    assert [pair.id for pair in part] == [pairs[i].id for i in chosen]
    assert len({pair.image for pair in part}) == len(set(chosen))
    again = data.draw(st.lists(st.integers(0, len(chosen) - 1))) if chosen else []
    assert [pair.id for pair in part.select(again)] == [pairs[chosen[i]].id for i in again]


def test_rows_that_are_not_there_are_refused():
    pairs = sample_pairs(3)
    for index in (3, -1):
        with pytest.raises(IndexError):
            pairs[index]
        with pytest.raises(IndexError):
            pairs.select([index])


def test_splits_are_given_anew():
    pairs = sample_pairs(3).with_split(["val", "", "test"])
    assert pairs.splits == ("val", "test") and [pair.split for pair in pairs] == ["val", "", "test"]
    assert [len(pairs.split(name)) for name in ("train", "val", "test", "")] == [0, 1, 1, 1]
    assert pairs.select([2, 0]).splits == ("val", "test")
    with pytest.raises(ValueError, match="2 splits for 3 pairs"):
        pairs.with_split(["val", "val"])


def test_images_are_read_from_files(tmp_path):
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (5, 4), colour).save(tmp_path / name)
    pairs = built(("a.png", ["x"], {"negative_image": "b.png"}), ("b.png", ["y"], {}), base=tmp_path)
    assert np.array_equal(pairs.load_image(0), decode_image(tmp_path / "a.png", {}))
    assert pairs.image_bytes(1) == (tmp_path / "b.png").read_bytes() and pairs.image_sizes(np.array([1]))[0] == len(
        pairs.image_bytes(1)
    )
    assert pairs.load_negative_image(0)[0, 0].tolist() == [0, 0, 255]
    with pytest.raises(DataError, match=r"b.png: has no negative image"):
        pairs.load_negative_image(1)
    (tmp_path / "a.png").unlink()
    for read in (pairs.load_image, pairs.image_bytes):
        with pytest.raises(DataError, match=r"a.png: cannot be read"):
            read(0)


def test_a_set_travels_to_a_worker():
    pairs = built(("a.jpg", ["x"], {"label": "c"}), ("b.jpg", ["y"], {"texts": {"short": ["s"]}}))
    assert list(pickle.loads(pickle.dumps(pairs.select([1, 0])))) == list(pairs.select([1, 0]))


class _Decoded(torch.utils.data.Dataset):
    def __init__(self, pairs):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, row):
        return torch.from_numpy(self.pairs.load_image(row)), self.pairs[row].captions[0]


def test_workers_of_a_loader_read_what_this_process_reads():
    pairs = sample_pairs(8)
    loader = torch.utils.data.DataLoader(
        _Decoded(pairs), batch_size=4, num_workers=2, multiprocessing_context="fork", generator=torch.Generator()
    )
    images, captions = zip(*loader)
    assert np.array_equal(torch.cat(images).numpy(), np.stack([pairs.load_image(row) for row in range(8)]))
    assert [text for batch in captions for text in batch] == [pair.captions[0] for pair in pairs]


def test_a_row_costs_little_beside_its_text_and_building_is_fast():
    count, caption, name = 30_000, "a caption of one of very many pictures", "folder/%07d.jpg"
    tracemalloc.start()
    builder = PairBuilder("/data", "list.csv")
    for row in range(count):
        builder.add(name % row, [caption], label="c", split="train", place=row)
    pairs = builder.build(name="large")
    del builder
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    text = count * (len(caption) + len(name % 0))
    assert len(pairs) == count and pairs[count - 1].source == "/data/folder/0029999.jpg"
    assert (held - text) / count < 60 and (peak - text) / count < 200
    began = time.process_time()
    part = pairs.select(np.arange(0, count, 2)).split("train")
    assert len(part) == count // 2 and time.process_time() - began < 0.15
