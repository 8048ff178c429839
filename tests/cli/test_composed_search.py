"""Searching by an image and words together, one query or a file of many, as a user meets it."""

from __future__ import annotations

import csv
import json

import pytest

from .conftest import COLOURS, draw_folders

pytest.importorskip("faiss", reason="extra retrieval is not installed")


@pytest.fixture(scope="module")
def photos(tmp_path_factory, small_clip_spec, picture):
    """An index of coloured pictures, and their folder."""
    from vladapt.core.engine.index import index
    from vladapt.core.recipes.resolve import resolve

    place = tmp_path_factory.mktemp("photos")
    data = draw_folders(place / "data", COLOURS, 6, picture)
    index(resolve(flags={"backbone": small_clip_spec, "device": "cpu"}), place / "an.index", images=[str(data)])
    return place / "an.index", data


@pytest.fixture
def asked(vladapt, photos, tmp_path):
    """`asked(*options)`: the answer to a picture and words."""
    (tmp_path / "words.txt").write_text("red\ngreen\nblue\n\ngreen\nsquare\nsky\nsea\nleaf\nfire\n")

    def call(*options, text="at night"):
        query = ("--image", photos[1] / "red" / "00.png", *(["--text", text] if text else []))
        return vladapt("search", photos[0], *query, "--top", 30, *options)

    return call


def ranking(outcome):
    return [hit["id"] for hit in outcome.json["hits"]]


def test_each_way_ranks_differently_and_sum_is_what_it_was(asked):
    answers = {
        name: asked("--compose", name, "--json") for name in ("sum", "product", "slerp", "freedom:neighbours=3:words=2")
    }
    assert len({tuple(ranking(answer)) for answer in answers.values()}) == 4
    plain = asked("--json").json
    assert plain["hits"] == answers["sum"].json["hits"] and "compose" not in plain["query"]
    assert {name: answer.json["query"]["weight"] for name, answer in answers.items()} == {
        "sum": 0.5,
        "product": None,
        "slerp": 0.8,
        "freedom:neighbours=3:words=2": None,
    }
    assert asked("--weight", 0.9, "--compose", "slerp", "--json").json["hits"] != answers["slerp"].json["hits"]


def test_freedom_says_into_which_words_it_put_the_image(asked, tmp_path):
    answer = asked("--compose", "freedom:words=3", "--vocabulary", tmp_path / "words.txt", "--html", "found.html")
    assert answer.code == 0, answer.err
    assert "The image in words: " in answer.out and answer.out.count("(1.00)") >= 1
    assert "by freedom" in (tmp_path / "found.html").read_text()
    one, two = (asked("--compose", f"freedom:words={n}", "--vocabulary", "words.txt", "--json").json for n in (1, 3))
    assert one["hits"] != two["hits"] and len(two["notes"]) == 1


def test_a_file_of_many_is_answered_line_by_line_as_one_query_is(vladapt, asked, photos, tmp_path):
    picture = photos[1] / "red" / "00.png"
    queries = [{"image": str(picture), "text": "at night"}, {"text": "at night"}, {"image": str(picture)}]
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    for name in ("product", "slerp"):
        how = ("--queries", "queries.jsonl", "--compose", name, "--top", 30)
        assert vladapt("search", photos[0], *how, "--out", "found.jsonl").code == 0
        lines = [json.loads(line) for line in (tmp_path / "found.jsonl").open()]
        assert [(line["text"] if "text" in line else line["query"], line["image"]) for line in lines] == [
            (query.get("text"), query.get("image")) for query in queries
        ]
        ids = [[hit["id"] for hit in line["hits"]] for line in lines]
        assert ids[0] == ranking(asked("--compose", name, "--json"))
        assert ids[2] == ranking(asked("--json", text=None)) and ids[2][0] == str(picture)
    assert vladapt("search", photos[0], *how, "--out", "found.csv").code == 0
    rows = list(csv.DictReader((tmp_path / "found.csv").open()))
    assert len(rows) == sum(map(len, ids)) and {row["image"] for row in rows} == {"", str(picture)}


def test_what_cannot_be_composed_is_one_line(vladapt, asked, photos, tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"words": "x"}\n')
    (tmp_path / "gone.jsonl").write_text('{"text": "a"}\n{"image": "gone.png"}\n')
    (tmp_path / "texts.txt").write_text("red\n")
    for outcome, message, code in (
        (asked("--compose", "slurp"), "unknown composition 'slurp'", 2),
        (asked("--compose", "slerp", text=None), "--compose slerp: mixes a text and an image", 2),
        (asked("--compose", "product", "--weight", 0.5), "--compose product has no weight", 2),
        (asked("--compose", "slerp", "--vocabulary", "words.txt"), "--compose slerp does not use words", 2),
        (asked("--compose", "freedom", "--vocabulary", "gone.txt"), "--vocabulary gone.txt: cannot be read", 1),
        (asked("--compose", "freedom", "--vocabulary", "empty.txt"), "empty.txt: empty; write one word per line", 1),
        (vladapt("search", photos[0], "--queries", "bad.jsonl", "--out", "a.csv"), "bad.jsonl line 2: no query", 1),
        (vladapt("search", photos[0], "--queries", "gone.jsonl", "--out", "a.csv"), "line 2: gone.png is not there", 1),
        (
            vladapt("search", photos[0], "--queries", "texts.txt", "--compose", "slerp", "--out", "a.csv"),
            "--compose: is about images",
            2,
        ),
    ):
        assert outcome.code == code and message in outcome.error, outcome
    assert not (tmp_path / "a.csv").exists()


def test_the_queries_of_a_set_are_scored_beside_image_and_words_alone(vladapt, photos, tmp_path):
    index, data = photos
    lines = [f"{path} {path.parent.name} {path.stem}" for path in sorted(data.rglob("*.png"))]
    (tmp_path / "colours.csv").write_text("\n".join(lines))
    how = ("--evaluate", "colours.csv", "--compose", "slerp", "--at", "1,3")
    shown, scored = vladapt("search", index, *how), vladapt("search", index, *how, "--json").json
    assert shown.code == 0, shown.err
    assert all(word in shown.out for word in ("slerp", "image alone", "words alone", "random order", "mAP red to blue"))
    assert "R@3 mean" in shown.out and "R@3 red to blue" not in shown.out
    assert (scored["set"], scored["queries"], scored["gallery"]) == ("domain conversion", 36, 18)
    assert {score["metric"] for score in scored["scores"]} == {"mAP", "R@1", "R@3", "P@1", "P@3"}
    for options, message in (
        (("--at", "3"), "--at: is about the queries of a set; give --evaluate FILE too"),
        (("red", *how), "holds the queries; omit 'red'"),
        ((*how, "--top", 3), "--top: --evaluate does not use it"),
    ):
        refused = vladapt("search", index, *options)
        assert refused.code == 2 and message in refused.error, refused
