"""Sentences that tell two classes, or words, apart: from JSON files, with one line for what cannot be used."""

from __future__ import annotations

import json

import pytest

from vladapt.core.errors import DataError
from vladapt.core.prompts.descriptions import read_pair_attributes, read_word_sentences

CLASSES = ["red_fox", "Wolf", "dog"]


@pytest.fixture
def written(tmp_path):
    """A file with this content."""

    def write(content) -> str:
        (tmp_path / "told.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return str(tmp_path / "told.json")

    return write


def test_pairs_of_the_datas_classes_are_read_in_their_spelling(written):
    path = written({"Red Fox": {"wolf": [" a fox  is red"], "cat": ["unknown"]}, "wolf": {"red_fox": ["grey", "tall"]}})
    assert read_pair_attributes(path, CLASSES) == {
        "red_fox": {"Wolf": ("a fox is red",)},
        "Wolf": {"red_fox": ("grey", "tall")},
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not valid JSON"),
        ({"dog": ["a dog"]}, "class 'dog' has no other classes; write"),
        ({"dog": {"wolf": []}}, "class 'wolf' needs a list of sentences"),
        ({"dog": {"cat": ["small"]}}, "no two classes of the data are compared"),
        ({"dog": {"dog": ["itself"]}}, "no two classes of the data are compared"),
    ],
)
def test_what_cannot_be_used_is_one_line(written, content, words):
    with pytest.raises(DataError, match=words):
        read_pair_attributes(written(content), CLASSES)


def test_sentences_of_words(written):
    assert read_word_sentences(written({"tabby": ["a striped  cat"]})) == {"tabby": ("a striped cat",)}
    with pytest.raises(DataError, match="'tabby' needs a list"):
        read_word_sentences(written({"tabby": "a striped cat"}))
