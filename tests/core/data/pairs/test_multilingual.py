"""Sets of several languages, in the layouts they are published in."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from PIL import Image

from vladapt import ConfigError, DataError
from vladapt.core.data.pairs.multilingual import multilingual_set
from vladapt.core.data.pairs.reading import read_pairs


def images(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", (8, 8), (20 * number, 30, 90)).save(folder / name)


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{line}\n" for line in lines)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


COCO = [f"COCO_train2014_{n:012d}.jpg" for n in (9, 25, 77)]


@pytest.fixture
def xtd(tmp_path) -> Path:
    write(tmp_path / "XTD10" / "test_image_names.txt", *COCO)
    write(tmp_path / "XTD10" / "test_1kcaptions_es.txt", "un gato", "un perro", "una casa")
    write(tmp_path / "MIC" / "test_1kcaptions_de.txt", "eine Katze", "ein Hund", "ein Haus")
    write(tmp_path / "MIC" / "test_1kcaptions_en.txt", "a cat", "a dog", "a house")
    write(tmp_path / "STAIR" / "test_1kcaptions_jp.txt", "猫", "犬", "家")
    images(tmp_path / "train2014", *COCO)
    return tmp_path


def captions(pairs) -> list[tuple[str, ...]]:
    return [pair.captions for pair in pairs]


@pytest.mark.parametrize("folder", ["", "XTD10"])
def test_xtd10_is_read_in_any_of_its_languages(xtd, folder):
    pairs = read_pairs(xtd / folder)
    assert captions(pairs) == [("a cat",), ("a dog",), ("a house",)] and pairs.splits == ("test",)
    assert [Path(pair.source).name for pair in pairs] == COCO
    assert captions(read_pairs(xtd / folder, language="ja")) == captions(read_pairs(xtd / folder, language="jp"))
    assert captions(read_pairs(xtd / folder, language="jp"))[0] == ("猫",)
    assert any("COCO train2014" in note and "has seen" in note for note in pairs.notes)


def test_other_languages_are_further_columns_where_they_are_asked_for(xtd):
    pairs = read_pairs(xtd, columns={"caption_de": "text", "caption_es": "text"})
    assert pairs.further_columns == {"caption_de": "text", "caption_es": "text"}
    assert pairs[1].captions == ("a dog",) and pairs[1].texts["caption_de"] == ("ein Hund",)


def test_crossmodal_3600_has_several_captions_a_language(tmp_path):
    rows = [
        {
            "image/key": f"{key:x}",
            "image/locale": "en",
            "en": {"caption": [f"{key}", "two"]},
            "sw": {"caption": ["paka"]},
        }
        for key in (10, 11)
    ]
    write(tmp_path / "captions.jsonl", *map(json.dumps, rows))
    images(tmp_path / "images", "a.jpg", "b.jpg")
    assert multilingual_set(tmp_path).kind == "XM3600"
    pairs = read_pairs(tmp_path)
    assert captions(pairs) == [("10", "two"), ("11", "two")] and pairs.splits == ("test",)
    assert captions(read_pairs(tmp_path / "captions.jsonl", language="sw")) == [("paka",)] * 2


def test_xflickr_co_is_read_by_folder_or_by_file(tmp_path):
    for language, cat in (("en", "a cat"), ("de", "eine Katze")):
        rows = [
            {"sentences": [cat], "id": "7", "img_path": "7.jpg"},
            {"sentences": ["x"], "id": "8", "img_path": "8.jpg"},
        ]
        write(tmp_path / "annotations" / language / "test.jsonl", *map(json.dumps, rows))
        write(tmp_path / "annotations" / language / "train_1.jsonl", json.dumps(rows[0]))
    images(tmp_path / "flickr30k-images", "7.jpg", "8.jpg")
    assert captions(read_pairs(tmp_path, language="de")) == [("eine Katze",), ("x",)]
    few = read_pairs(tmp_path / "annotations" / "de" / "train_1.jsonl", split="train")
    assert captions(few) == [("eine Katze",)] and few.splits == ("train",)


def test_multi30k_has_translations_or_five_captions_and_its_own_splits(tmp_path):
    for split, count in (("train", 3), ("val", 1), ("test_2016_flickr", 2)):
        names = [f"{split}{n}.jpg" for n in range(count)]
        write(tmp_path / "image_splits" / f"{split}.txt", *names)
        images(tmp_path / "flickr30k-images", *names)
        for language in ("en", "de"):
            write(tmp_path / "raw" / f"{split}.{language}.gz", *(f"{language} {name}" for name in names))
    pairs = read_pairs(tmp_path, language="de")
    assert [len(pairs.split(name)) for name in ("train", "val", "test")] == [3, 1, 2]
    assert pairs.split("test")[1].captions == ("de test_2016_flickr1.jpg",)
    two = tmp_path / "task2"
    write(two / "image_splits" / "train_images.txt", "train0.jpg", "train1.jpg")
    for number in (1, 2):
        write(two / "raw" / f"train.{number}.en", f"first {number}", f"second {number}")
    images(two, "train0.jpg", "train1.jpg")
    assert captions(read_pairs(two, split="train")) == [("first 1", "first 2"), ("second 1", "second 2")]


def test_what_is_wrong_is_said_in_one_line(xtd, tmp_path):
    with pytest.raises(DataError, match=r"XTD10 has no captions in 'fi'; give one of de, en, es, ja"):
        read_pairs(xtd, language="fi")
    with pytest.raises(DataError, match=r"no captions in 'ko'"):
        read_pairs(xtd, columns={"caption_ko": "text"})
    write(xtd / "MIC" / "test_1kcaptions_en.txt", "a cat")
    with pytest.raises(DataError, match=r"test_1kcaptions_en.txt: 1 lines, but test_image_names.txt names more"):
        read_pairs(xtd)
    write(xtd / "MIC" / "test_1kcaptions_en.txt", "a", "b", "c", "d")
    with pytest.raises(DataError, match=r"more lines than the 3 images"):
        read_pairs(xtd)
    table = write(tmp_path / "t" / "pairs.csv", "image,caption", "a.png,a cat")
    images(tmp_path / "t", "a.png")
    with pytest.raises(ConfigError, match="option language does not apply to a table"):
        read_pairs(table, language="de")


def test_an_image_on_several_lines_of_a_language_keeps_the_captions_of_all(tmp_path):
    rows = [{"sentences": [text], "id": "7", "img_path": "7.jpg"} for text in ("a cat", "a black cat")]
    write(tmp_path / "annotations" / "en" / "test.jsonl", *map(json.dumps, rows))
    images(tmp_path / "flickr30k-images", "7.jpg")
    assert captions(read_pairs(tmp_path)) == [("a cat", "a black cat")]


def test_files_of_multi30k_that_lie_there_twice_or_are_too_long_are_told(tmp_path):
    write(tmp_path / "image_splits" / "train_images.txt", "0.jpg", "1.jpg")
    images(tmp_path, "0.jpg", "1.jpg")
    for number in (1, 2):
        write(tmp_path / "raw" / f"train.{number}.en", f"first {number}", f"second {number}")
    write(tmp_path / "raw" / "train.1.en.gz", "first 1", "second 1")
    assert captions(read_pairs(tmp_path, split="train")) == [("first 1", "first 2"), ("second 1", "second 2")]
    write(tmp_path / "raw" / "train.2.en", "first 2", "second 2", "third 2")
    with pytest.raises(DataError, match=r"train.2.en: more lines than the 2 images"):
        read_pairs(tmp_path)
