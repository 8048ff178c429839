from __future__ import annotations

import json

import pytest

from vladapt.core.errors import DataError
from vladapt.core.prompts.descriptions import read_descriptions

CLASSES = ["polka_dotted", "banded"]


def write(tmp_path, content) -> str:
    path = tmp_path / "cupl.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


def test_names_match_without_case_and_underscores_and_come_in_class_order(tmp_path):
    path = write(tmp_path, {"Banded": ["Bands."], "polka dotted": ["Dots,\n many.", "Round."]})
    described = read_descriptions(path, CLASSES)
    assert list(described.items()) == [("polka_dotted", ["Dots, many.", "Round."]), ("banded", ["Bands."])]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"banded": ["b"]}, "no sentences for class 'polka_dotted'"),
        ({"polka dotted": ["d"], "banded": ["b"], "bandid": ["x"]}, "describes 'bandid'.*did you mean banded"),
        ({"polka dotted": ["d"], "bandee": ["b"]}, "bandee"),
        ({"polka dotted": ["d"], "polka_dotted": ["e"], "banded": ["b"]}, "the same class"),
        ({"polka dotted": [], "banded": ["b"]}, "'polka dotted' needs a list of sentences"),
        ({"polka dotted": "d", "banded": ["b"]}, "'polka dotted' needs a list of sentences"),
        ({"polka dotted": [" "], "banded": ["b"]}, "'polka dotted' needs a list of sentences"),
        ({"polka dotted": [3], "banded": ["b"]}, "'polka dotted' needs a list of sentences"),
        (["d"], "holds no object"),
        ({}, "holds no object"),
        ("{", "not valid JSON"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_the_file(tmp_path, content, says):
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=says) as error:
        read_descriptions(path, CLASSES)
    assert path in str(error.value)


def test_a_missing_class_is_answered_with_the_nearest_in_the_file(tmp_path):
    path = write(tmp_path, {"polka dot": ["d"], "banded": ["b"]})
    with pytest.raises(DataError, match="did you mean polka dot"):
        read_descriptions(path, CLASSES, others=True)


def test_a_file_of_more_classes_serves_a_part_of_them_when_asked(tmp_path):
    path = write(tmp_path, {"banded": ["b"], "striped": ["s"]})
    assert read_descriptions(path, ["banded"], others=True) == {"banded": ["b"]}


def test_missing_and_binary_files_are_said(tmp_path):
    with pytest.raises(DataError, match=r"none\.json: cannot be read"):
        read_descriptions(tmp_path / "none.json", CLASSES)
    with pytest.raises(DataError, match="cannot be read"):
        read_descriptions(tmp_path, CLASSES)
    (tmp_path / "bin.json").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(DataError, match="not UTF-8 text, but UTF-16"):
        read_descriptions(tmp_path / "bin.json", CLASSES)
