"""Captions by shares, from translated columns, and with words switched by a dictionary."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import pytest
from PIL import Image
from tar_shards import png, shard

from vladapt import ConfigError, DataError
from vladapt.core.data.pairs.captions import CaptionSampler, check_columns, columns_of_captions
from vladapt.core.data.pairs.code_switch import CodeSwitch, read_dictionary
from vladapt.core.data.pairs.pair_set import Pair
from vladapt.core.data.pairs.reading import read_pairs
from vladapt.core.data.pairs.shard_reader import ShardRun
from vladapt.core.tasks.pretraining.pairs import read_pair_splits
from vladapt.core.tasks.pretraining.pretrain import _captions
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.sources import PairSource, StreamedSource

TEXTS = {"synthetic": ("a long rewritten text of it",), "caption_de": ("ein Hund",)}
PAIR = Pair("1", "1.png", None, None, ("a dog", "another dog"), TEXTS)
DICTIONARY = {"dog": {"de": ["Hund"], "fr": ["chien", "toutou"]}, "red": {"es": ["rojo"]}}


def drawn(mode: str, pair: Pair = PAIR, count: int = 2000, **options) -> Counter:
    sampler = CaptionSampler(mode, seed=1, **options)
    return Counter(sampler.choose(pair, epoch, 0) for epoch in range(count))


def test_texts_are_drawn_by_their_shares():
    counts = drawn("raw:.5,rewritten:.3,sheared:.2")
    assert set(counts) == {"a dog", TEXTS["synthetic"][0], "a long"}
    assert [round(counts[text] / 2000, 1) for text in ("a dog", TEXTS["synthetic"][0], "a long")] == [0.5, 0.3, 0.2]
    assert drawn("raw:.5,rewritten:.3,sheared:.2") == counts  # a function of seed, epoch and row


def test_shares_may_sum_to_anything_and_columns_count_as_kinds():
    counts = drawn("raw:3,caption_de:1")
    assert set(counts) == {"a dog", "ein Hund"} and 0.2 < counts["ein Hund"] / 2000 < 0.3
    assert set(drawn("caption_de", count=5)) == {"ein Hund"}
    assert set(drawn("captions:1,sentences:1", count=50)) == {"a dog", "another dog"}
    assert columns_of_captions("raw:3,caption_de:1") == {"caption_de": "text"} and not columns_of_captions("uniform")


def test_an_image_without_a_text_of_the_kind_gives_the_original():
    assert set(drawn("rewritten:1,caption_fr:1", Pair("1", "1.png", None, None, ("a dog",)), 20)) == {"a dog"}


@pytest.mark.parametrize("mode", ["raw:0", "raw:x", "raw:.5,raw:.5", "raw:.5,,", "raw:-1,rewritten:2"])
def test_shares_that_are_none_are_refused(mode):
    with pytest.raises(ConfigError, match="captions"):
        CaptionSampler(mode)


def test_a_column_of_a_language_that_the_table_lacks_is_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "pairs.csv").write_text("image,caption,caption_de\na.png,a dog,ein Hund\n")
    pairs = read_pairs(tmp_path / "pairs.csv", columns=columns_of_captions("caption_de"), split="train")
    check_columns("raw:.5,caption_de:.5", pairs)
    assert CaptionSampler("caption_de").choose(pairs[0], 0, 0) == "ein Hund"
    with pytest.raises(DataError, match="no texts in a column 'caption_fr'"):
        check_columns("raw:.5,caption_fr:.5", pairs)


def test_a_share_of_texts_that_no_row_has_is_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "pairs.csv").write_text("image,caption,synthetic\na.png,a dog,\na.png,a dog,one dog")
    some = read_pairs(tmp_path / "pairs.csv", split="train")
    check_columns("raw:.5,rewritten:.3,sheared:.2", some)  # where one is missing, the original takes its place
    with pytest.raises(DataError, match="pairs has no texts for 'short'; add a column 'short', or omit it"):
        check_columns("raw:.5,short:.5", some)
    (tmp_path / "pairs.csv").write_text("image,caption\na.png,a dog\n")
    with pytest.raises(DataError, match="no texts for 'rewritten'; add a column 'synthetic'"):
        check_columns("rewritten", read_pairs(tmp_path / "pairs.csv", split="train"))


@pytest.mark.parametrize("order", ["global", "shards"])
def test_rewrites_in_shards_are_drawn_by_their_share(tmp_path, monkeypatch, order):
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path / "cache"))
    members: dict[str, Any] = {}
    for n in range(40):
        texts = {"caption": f"raw {n}", "synthetic": [f"rewritten {n} a", f"rewritten {n} b"]}
        members |= {f"{n:02}.png": png(n), f"{n:02}.json": json.dumps(texts)}
    shard(tmp_path / "a.tar", members)
    train = read_pair_splits(str(tmp_path / "a.tar"), 1, {"order": order}).train
    mode = "raw:.25,rewritten:.75"
    check_columns(mode, train)
    source = (StreamedSource if order == "shards" else PairSource)(train, CaptionSampler(mode, seed=1))
    if order == "shards":
        run = ShardRun(0, int(train.firsts[0]), 30)
        source = source.part(dict(enumerate(train.reader().read(run))))
    texts = [source.text("caption", row, epoch) for row in range(30) for epoch in range(20)]
    share = sum(text.startswith("rewritten") for text in texts) / len(texts)
    assert 0.7 < share < 0.8 and {text[-1] for text in texts if text.startswith("rewritten")} == {"a", "b"}


def test_a_dictionary_is_looked_up_in_the_texts_that_are_chosen(tmp_path):
    for name in ("a", "b", "c"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    rows = "".join(f"{name}.png,a dog,ein Hund,train\n" for name in "abc")
    (tmp_path / "pairs.csv").write_text(f"image,caption,caption_de,split\n{rows}")
    (tmp_path / "words.json").write_text('{"de": {"Hund": {"en": ["dog"]}}}')
    splits = read_pair_splits(str(tmp_path / "pairs.csv"), 1, {}, columns_of_captions("caption_de"))
    switched = {"code_switch": str(tmp_path / "words.json"), "code_switch_language": "de"}
    switched |= {"code_switch_sentences": 1.0, "code_switch_words": 1.0}
    sampler = _captions(TrainingSettings(captions="caption_de", **switched), splits)
    assert sampler.choose(splits.train[0], 0, 0) == "ein dog"
    with pytest.raises(DataError, match="none of the words of the captions"):
        _captions(TrainingSettings(captions="first", **switched), splits)


def test_words_are_switched_anew_in_each_epoch():
    counts = drawn("first", switch=CodeSwitch(DICTIONARY, 0.5, 1.0))
    assert set(counts) == {"a dog", "a Hund", "a chien", "a toutou"}
    assert 0.45 < counts["a dog"] / 2000 < 0.55 and 0.2 < counts["a Hund"] / 2000 < 0.3
    assert set(drawn("first", switch=CodeSwitch(DICTIONARY, 1.0, 0.0), count=20)) == {"a dog"}


def test_capital_letters_and_punctuation_are_not_switched():
    switch = CodeSwitch(DICTIONARY, 1.0, 1.0)
    assert switch("Dog dog, red", random.Random(0)) == "Dog dog, rojo"


def test_a_dictionary_without_the_words_or_the_language_is_refused(tmp_path):
    place = tmp_path / "words.json"
    place.write_text(json.dumps({"en": DICTIONARY | {"cat": {"de": []}}}))
    words = read_dictionary(place, "en")
    assert words == DICTIONARY
    CodeSwitch(words).check_known(["a dog"], "words.json")
    with pytest.raises(DataError, match=r"words.json: has none of the words of the captions"):
        CodeSwitch(words).check_known(["ein Hund", "Dog"], "words.json")
    with pytest.raises(DataError, match=r"has no language 'de'; give one of en"):
        read_dictionary(place, "de")
    place.write_text(json.dumps({"en": {"dog": ["Hund"]}}))
    with pytest.raises(DataError, match=r"'dog' has no lists of translations"):
        read_dictionary(place, "en")


def test_words_are_switched_in_whatever_a_loss_reads_of_the_captions():
    pair = Pair("1", "1.png", None, None, ("a dog", "a red dog"), {"short": ("dog",)})
    sampler = CaptionSampler("first", seed=1, switch=CodeSwitch({"dog": {"de": ["Hund"]}}, 1.0, 1.0))
    assert sampler.several(pair, 0, 0, 1) == ["a Hund", "a red Hund"]
    assert sampler.short(pair, 0, 0) == "Hund" and sampler.other(pair, "synthetic", 0, 0) == "a Hund"
