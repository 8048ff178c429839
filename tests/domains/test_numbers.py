"""Domains that have regression: their samples, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vladapt import load_domain
from vladapt.core.contracts import Number
from vladapt.core.errors import ConfigError, VladaptError

HAVE_IT = ("natural", "medical", "remote-sensing")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    lines = ["image,height,label"]
    for number in range(6):
        Image.fromarray(np.full((8, 8, 3), 40 * number, np.uint8)).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{number / 2},{'ab'[number % 2]}")
    (folder / "table.csv").write_text("\n".join(lines))
    return folder / "table.csv"


@pytest.mark.parametrize("name", HAVE_IT)
def test_a_table_is_read(name, table):
    data = load_domain(name).read(table, "regression")
    assert [item.target.value for item in data.items] == [0, 0.5, 1, 1.5, 2, 2.5]
    assert data.load(data.items[3]).shape == (8, 8, 3)


@pytest.mark.parametrize("name", HAVE_IT)
def test_samples_have_numbers_that_the_pictures_show_in_whole_places(name):
    domain = load_domain(name)
    data = domain.sample("regression")
    numbers = [item.target.value for item in data.items]
    assert len(data.items) == 240 and len(set(numbers)) > 20 and data.number_names[Number.NAME]
    splits = {}
    for item in data.items:
        splits.setdefault(item.group, set()).add(item.split)
    assert len(splits) == 40 and all(len(of) == 1 for of in splits.values())
    again = domain.sample("regression").items[17]
    assert (again.id, again.target) == (data.items[17].id, data.items[17].target)
    assert np.array_equal(data.load(again), data.load(data.items[17]))


def test_berries_are_as_many_as_the_number_says():
    from scipy.ndimage import label

    from vladapt.domains.natural.drawn_counts import render

    for number in range(6):
        pixels, count = render(3, number)
        red = (pixels[..., 0].astype(int) - pixels[..., 1]) > 70
        assert label(red)[1] == count


@pytest.mark.parametrize("name", HAVE_IT)
def test_the_column_of_a_number_does_not_apply_to_classes(name, table):
    with pytest.raises(ConfigError, match="--target-column height"):
        load_domain(name).read(table, "classification", target_column="height")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("remote-sensing", {"labels": "land.gpkg"}, "--labels"),
        ("natural", {"train_list": "a.jsonl"}, "--train-list"),
        ("medical", {"label_column": "label"}, "--label-column"),
        ("medical", {"class_names": ("a", "b")}, "--class-names"),
    ],
)
def test_options_of_classes_do_not_apply_to_numbers(name, options, words, table):
    with pytest.raises(VladaptError, match=words):
        load_domain(name).read(table, "regression", **options)
