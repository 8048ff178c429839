"""`--data PATH[=WEIGHT]`, what weights mean, and the file of stages."""

from __future__ import annotations

import json

import pytest
from tar_shards import shard, simple

from vladapt import ConfigError, DataError, UnknownNameError
from vladapt.core.contracts.sources import NamedSource, SourceOptions, parse_sources, source_weights, sources_in
from vladapt.core.data.pairs.reading import options_of_sources
from vladapt.core.data.pairs.source_list import check_sources, holds_text_pairs, read_stages


def test_an_existing_path_wins_and_else_a_number_after_the_last_sign_is_the_weight(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=2").mkdir()
    texts = [
        "a=2",
        "a=2=3",
        "b.csv",
        "c.csv=.5",
        "d=x.csv",
        "s3://bucket/{0..9}.tar=4",
        "https://host/a.tar?n=7",
        "sample=2",
    ]
    expected = [
        *(("a=2", None), ("a=2", 3), ("b.csv", None), ("c.csv", 0.5), ("d=x.csv", None)),
        *(("s3://bucket/{0..9}.tar", 4), ("https://host/a.tar?n=7", None), ("sample", 2)),
    ]
    parsed = [parse_sources([text])[0] for text in texts]
    assert [(each.path, each.weight) for each in parsed] == expected
    assert [parse_sources([each.text])[0] for each in parsed[1:]] == parsed[1:]  # as it stands in a run's recipe


@pytest.mark.parametrize("text", ["a.csv=0", "a.csv=-1", "a.csv=nan", "a.csv=inf"])
def test_a_weight_is_above_0(text):
    with pytest.raises(ConfigError, match="a number above 0"):
        parse_sources([text, "b.csv"])


def test_weights_that_are_not_given_are_1_and_without_any_sources_count_by_size():
    sources, shares = [NamedSource("a", 3.0), NamedSource("b")], SourceOptions()
    assert source_weights(sources, [10, 90], shares) == [3.0, 1.0]
    plain = [NamedSource("a"), NamedSource("b")]
    assert source_weights(plain, [10, 90], shares) == [10.0, 90.0]
    assert source_weights(plain, [10, 90], SourceOptions(weights="factor")) == [1.0, 1.0]


def test_a_group_of_a_recipe_names_sources_and_options():
    sources, options = sources_in({"data": ["a.csv", "b.csv=2"], "batch": "one"})
    assert [each.weight for each in sources] == [None, 2.0] and options.batch == "one"
    assert sources_in({}) == ([], SourceOptions())


def test_a_source_that_is_missing_is_named(tmp_path):
    check_sources([NamedSource("sample"), NamedSource("s3://b/a.tar"), NamedSource(f"{tmp_path}/{{0..3}}.tar")])
    with pytest.raises(DataError, match=r"--data gone.csv: no such file"):
        check_sources([NamedSource(str(tmp_path)), NamedSource("gone.csv")])


def stages(tmp_path, content):
    place = tmp_path / "stages.json"
    place.write_text(json.dumps(content))
    return read_stages(str(place), {"a.csv": 0, "b.csv": 1, "a": 0, "b": 1})


def test_stages_name_sources_by_name_by_path_or_in_order(tmp_path):
    read = stages(
        tmp_path, [{"until": 5, "weights": {"a": 2}}, {"until": 9, "weights": {"b.csv": 1}}, {"weights": [1, 3]}]
    )
    assert read == [(5, [2.0, 0.0]), (9, [0.0, 1.0]), (None, [1.0, 3.0])]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([], "not a list of stages"),
        ({"until": 1}, "not a list of stages"),
        ([{"until": 5, "weights": [1, 1]}], "the last stage alone has no end"),
        ([{"weights": [1, 1]}, {"weights": [1, 1]}], "the last stage alone has no end"),
        ([{"until": 5, "weights": [1, 1]}, {"until": 5, "weights": [1, 1]}, {"weights": [1, 1]}], "rise from stage"),
        ([{"until": 1.5, "weights": [1, 1]}, {"weights": [1, 1]}], "whole steps"),
        ([{"weights": [1]}], "one for each of the 2 sources"),
        ([{"weights": [0, 0]}], "none below 0 and one above"),
        ([{"weights": [1, -1]}], "none below 0"),
        ([{"weights": {"c": 1}}], "there is no source 'c'"),
        ([{"weight": [1, 1]}], "has 'weight'"),
    ],
    ids=str,
)
def test_stages_that_are_none_are_refused(tmp_path, content, reason):
    with pytest.raises(DataError, match=reason):
        stages(tmp_path, content)


def test_a_table_of_texts_alone_is_told_by_its_columns(tmp_path):
    for header, expected in (
        ("en,de", True),
        ("en,de,split", True),
        ("image,caption", False),
        ("caption,split", False),
    ):
        place = tmp_path / f"{header}.csv"
        place.write_text(f"{header}\n{','.join('x' for _ in header.split(','))}\n")
        assert holds_text_pairs(str(place)) == expected
    lines = tmp_path / "test.jsonl"
    lines.write_text('{"img_path": "1.jpg", "sentences": ["a"], "id": "1"}\n')
    assert not holds_text_pairs(str(lines)) and not holds_text_pairs(str(tmp_path))


def test_a_name_that_no_file_can_have_is_a_path_without_a_weight():
    long = "a" * 300
    assert parse_sources([f"{long}=3"])[0] == NamedSource(long, 3.0)
    with pytest.raises(DataError, match="no such file"):
        check_sources([NamedSource(long)])


def test_a_source_that_no_stage_draws_from_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"source 'b.csv' has no weight in any stage"):
        stages(tmp_path, [{"until": 5, "weights": {"a": 1}}, {"weights": {"a": 2}}])


def test_each_source_takes_the_options_of_its_kind(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("image,caption\na.png,a\n")
    shard(tmp_path / "t.tar", simple(3))
    tables, tar = [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")], str(tmp_path / "t.tar")
    given = {"order": "shards", "val_samples": 1, "caption_column": "caption", "seed": 3}
    of_table, of_shards = options_of_sources([tables[0], tar], given)
    assert of_table == {"caption_column": "caption", "seed": 3}
    assert of_shards == {"order": "shards", "val_samples": 1, "seed": 3}
    assert options_of_sources([tables[0], tar], {"val": 0.2}) == [{"val": 0.2}] * 2
    for paths, options, error, reason in [
        (tables, {"order": "shards"}, ConfigError, "option order applies to none of the sources .*; omit it$"),
        ([*tables, tar], {"block": 9}, ConfigError, "option block applies to none .*omit it, or add order=shards"),
        (tables, {"ordr": "shards"}, UnknownNameError, "did you mean order"),
        (tables, {"val": 2}, ConfigError, "val"),
    ]:
        with pytest.raises(error, match=reason):
            options_of_sources(paths, options)
