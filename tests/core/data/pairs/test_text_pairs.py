"""Sentences with their translations, read from a table."""

from __future__ import annotations

import json

import pytest

from vladapt import ConfigError, DataError, UnknownNameError
from vladapt.core.data.pairs.text_pairs import read_text_pairs
from vladapt.core.tasks.pretraining.several import TextSplits

ROWS = [
    ("a red bus", "ein roter Bus", "akai basu"),
    ("a dog", "ein Hund", ""),
    ("", "nichts", "nai"),
    ("a sea", "", ""),
]


def table(folder, rows, header="caption,caption_de,caption_ja"):
    file = folder / "words.csv"
    file.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n", encoding="utf-8")
    return file


def sentences(pairs, split):
    part = pairs.split(split)
    return {part[row][0] for row in range(len(part))}


def test_each_translation_is_a_row_of_its_sentence(tmp_path):
    pairs = read_text_pairs(table(tmp_path, ROWS))
    wanted = [("a red bus", "ein roter Bus"), ("a red bus", "akai basu"), ("a dog", "ein Hund")]
    assert [pairs[row] for row in range(len(pairs))] == wanted
    assert (pairs.name, pairs.languages) == ("words", ("caption_de", "caption_ja"))
    assert [place for place, _ in pairs.skipped] == ["words.csv line 4", "words.csv line 5"]
    assert [pairs.language("caption_de")[row] for row in range(2)] == [wanted[0], wanted[2]]
    assert pairs.id(1) == "sentence 1, caption_ja"


def test_columns_are_named_in_their_order(tmp_path):
    pairs = read_text_pairs(table(tmp_path, ROWS), ["caption_ja", "caption"])
    assert [pairs[row] for row in range(len(pairs))] == [("akai basu", "a red bus")]
    (tmp_path / "words.jsonl").write_text("".join(json.dumps({"en": a, "de": b}) + "\n" for a, b, _ in ROWS))
    assert read_text_pairs(tmp_path / "words.jsonl")[1] == ("a dog", "ein Hund")


@pytest.mark.parametrize(
    "header, read",
    [
        ("caption,caption_de,note,caption_pt-br", ("caption_de", "caption_pt-br")),
        ("en,de,ja,note", ("de", "ja")),
        ("caption_en,caption_de,note,other_ja", ("caption_de",)),
        ("english,german,note", ("german",)),
    ],
)
def test_columns_of_languages_are_told_by_their_names(tmp_path, header, read):
    rows = [[f"{name} {row}" for name in header.split(",")] for row in range(3)]
    assert read_text_pairs(table(tmp_path, rows, header)).languages == read


def test_equal_sentences_are_in_one_split_whatever_their_order(tmp_path):
    rows = [(f"a {n % 40}", f"ein {n}", f"ja {n}") for n in range(120)]
    pairs = read_text_pairs(table(tmp_path, rows), seed=3, val=0.1, test=0.2)
    of = {
        name: {pairs.split(name)[row][0] for row in range(len(pairs.split(name)))} for name in ("train", "val", "test")
    }
    assert {name: len(some) for name, some in of.items()} == {"train": 28, "val": 4, "test": 8}
    assert not of["train"] & of["test"] and not of["train"] & of["val"] and not of["val"] & of["test"]
    assert sum(len(pairs.split(name)) for name in of) == 240
    again = read_text_pairs(table(tmp_path, rows[::-1]), seed=3, val=0.1, test=0.2)
    assert sentences(again, "test") == of["test"]
    other = read_text_pairs(tmp_path / "words.csv", seed=4, val=0.1, test=0.2)
    assert sentences(other, "test") != of["test"]


def test_a_given_split_is_kept(tmp_path):
    rows = [("one", "eins", "train"), ("two", "zwei", "validation"), ("three", "drei", "test")]
    pairs = read_text_pairs(table(tmp_path, rows, "en,de,split"))
    assert pairs.languages == ("de",)
    assert [pairs.split(name)[0] for name in ("train", "val", "test")] == [row[:2] for row in rows]


def test_bad_input_is_one_line(tmp_path):
    file = table(tmp_path, ROWS)
    for error, said, columns in [
        (UnknownNameError, "no column 'caption_fr'; did you mean", ["caption", "caption_fr"]),
        (ConfigError, "translations named caption: give two columns or more, FROM,TO", ["caption"]),
    ]:
        with pytest.raises(error, match=said):
            read_text_pairs(file, columns)
    with pytest.raises(DataError, match="no such file; give a"):
        read_text_pairs(tmp_path / "no.csv")
    with pytest.raises(DataError, match="no line has both 'caption' and 'caption_de'"):
        read_text_pairs(table(tmp_path, ROWS[2:]))
    (tmp_path / "words.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match="not a table"):
        read_text_pairs(tmp_path / "words.parquet")


def test_lines_without_a_split_are_train_where_others_have_one(tmp_path):
    rows = [(f"sentence {n}", f"Satz {n}", "test" if n < 2 else "" if n < 5 else "train") for n in range(8)]
    place = table(tmp_path, rows, "en,de,split")
    pairs = read_text_pairs(place)
    assert [len(pairs.split(name)) for name in ("train", "val", "test")] == [6, 0, 2]
    beside = TextSplits.read(str(place))  # beside pairs of images
    assert len(beside.train) == 6 and "2 marked as val or test are left out" in beside.notes[0]


def test_a_checkpoint_of_pairs_of_texts_knows_their_words(tmp_path):
    rows = [(f"sentence {n}", f"Satz {n}") for n in range(4)]
    before = TextSplits.read(str(table(tmp_path, rows, "en,de"))).identity
    assert TextSplits.read(str(table(tmp_path, rows, "en,de"))).identity == before
    rows[2] = ("sentence 2", "ein anderer Satz")
    assert TextSplits.read(str(table(tmp_path, rows, "en,de"))).identity != before
