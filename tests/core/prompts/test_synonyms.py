"""Synonyms of class names, from JSON."""

from __future__ import annotations

import json

import pytest

from vladapt import DataError
from vladapt.core.prompts.descriptions import read_synonyms

CLASSES = ("sea_or_lake", "Golden retriever", "minivan")


def written(tmp_path, content):
    path = tmp_path / "synonyms.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_counts_and_lists_come_most_frequent_first(tmp_path):
    path = written(tmp_path, {"Sea or lake": {"pond": 2, "water_body": 7}, "golden_retriever": ["goldie", "retriever"]})
    sea, dog, car = read_synonyms(path, CLASSES)
    assert sea == (("water body", 7.0), ("pond", 2.0))
    assert dog == (("goldie", 2.0), ("retriever", 1.0))
    assert car == (("minivan", 0.0),), "a class without synonyms keeps its own name"


@pytest.mark.parametrize(
    "content, cause",
    [
        ("{", "not valid JSON"),
        ([], "no object of classes"),
        ({"lake": ["pond"]}, "'lake', not a class of the data"),
        ({"minivan": []}, "'minivan' has no usable synonyms"),
        ({"minivan": {"van": -1}}, "'minivan' has no usable synonyms"),
        ({"minivan": {"van": True}}, "'minivan' has no usable synonyms"),
        ({"minivan": {" ": 1}}, "'minivan' has no usable synonyms"),
        ({"minivan": "van"}, "'minivan' has no usable synonyms"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, content, cause):
    with pytest.raises(DataError, match=cause) as error:
        read_synonyms(written(tmp_path, content), CLASSES)
    assert "synonyms.json" in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.json: cannot be read"):
        read_synonyms(tmp_path / "none.json", CLASSES)
