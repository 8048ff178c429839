"""`index` and `search` of stored image-text pairs, which have no towers."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("faiss", reason="extra retrieval is not installed")

IMAGES, WIDTH = 12, 6


def pairs_file(path, seed, encoder="an encoder", **changed):
    """A file of pairs whose texts lie near their images."""
    draw = np.random.default_rng(seed)
    images = draw.normal(size=(IMAGES, WIDTH)).astype(np.float32)
    arrays = {
        "image_features": images,
        "text_features": images + draw.normal(size=images.shape).astype(np.float32) / 4,
        "captions": np.array([f"thing {seed} {row}" for row in range(IMAGES)]),
        "ids": np.array([f"{seed}-{row}.jpg" for row in range(IMAGES)]),
        "backbone": np.array(encoder),
    }
    np.savez(path, **{**arrays, **changed})
    return {**arrays, **changed}


@pytest.fixture
def stored(vladapt):
    """An index of a file of pairs, and what the file holds."""
    arrays = pairs_file("pairs.npz", 1)
    made = vladapt("index", "--features", "pairs.npz", "--out", "pairs.index")
    assert made.code == 0, made.err
    return arrays


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_stored_text_finds_what_the_products_of_the_features_say(vladapt, stored):
    cosines = unit(stored["text_features"]) @ unit(stored["image_features"]).T
    for row in (0, 7):
        result = vladapt("search", "pairs.index", stored["captions"][row], "--top", 3, "--json").json
        best = np.argsort(-cosines[row])[:3]
        assert [hit["id"] for hit in result["hits"]] == [stored["ids"][place] for place in best]
        assert [hit["score"] for hit in result["hits"]] == pytest.approx(cosines[row][best], abs=1e-5)
        assert "among_drawn" not in result, "random words cannot be looked up"


def test_an_image_is_asked_for_by_its_id_alone_or_with_words(vladapt, stored):
    cosines = unit(stored["image_features"]) @ unit(stored["image_features"]).T
    hits = vladapt("search", "pairs.index", "--image", "1-4.jpg", "--json").json["hits"]
    assert [hit["id"] for hit in hits] == [stored["ids"][place] for place in np.argsort(-cosines[4])[:10]]
    mixed = vladapt("search", "pairs.index", "thing 1 2", "--image", "1-4.jpg", "--weight", 0, "--json").json["hits"]
    assert [hit["id"] for hit in mixed] == [hit["id"] for hit in hits]


def test_new_words_and_images_are_refused_with_what_they_need(vladapt, stored):
    for query, reason in (
        (("a dog",), "'a dog' is none of the 12 texts of stored:"),
        (("--image", "dog.jpg"), "--image dog.jpg: not among the 12 images of pairs.index"),
        (("thing 1 2", "--strict"), "no answer is compared with random ones"),
    ):
        refused = vladapt("search", "pairs.index", *query)
        assert refused.code == 1 and reason in refused.error, refused.err
    assert "need the text tower" in vladapt("search", "pairs.index", "a dog").error


def test_index_names_a_query_that_has_an_answer(vladapt):
    pairs_file("pairs.npz", 2, captions=np.array([f"it's {row}" for row in range(IMAGES)]))
    shown = vladapt("index", "--features", "pairs.npz", "--out", "pairs.index").out
    assert """vladapt search pairs.index 'it'"'"'s 0'""" in shown and "new ones need the towers" in shown
    assert "encoded" not in shown


def test_other_files_of_the_encoder_are_added_and_no_others(vladapt, stored):
    pairs_file("more.npz", 3)
    pairs_file("other.npz", 4, encoder="another")
    made = vladapt("index", "--features", "more.npz", "--out", "pairs.index", "--add", "--json").json
    assert (made["added"], made["entries"]) == (12, 24)
    again = vladapt("index", "--features", "more.npz", "--out", "pairs.index", "--add", "--only-new", "--json").json
    assert (again["added"], again["already_there"]) == (0, 12)
    assert vladapt("search", "pairs.index", "--image", "3-5.jpg", "--json").json["hits"][0]["id"] == "3-5.jpg"
    spec = "stored:more.npz"
    assert (
        vladapt("search", "pairs.index", "thing 3 5", "--backbone", spec, "--json").json["hits"][0]["id"] == "3-5.jpg"
    )
    refused = vladapt("index", "--features", "other.npz", "--out", "pairs.index", "--add")
    assert refused.code == 1 and "another" in refused.error


def test_a_run_on_stored_pairs_is_searched_by_what_it_learned(vladapt, stored):
    fit = ("fit", "--task", "retrieval", "--features", "pairs.npz", "--epochs", 2, "--out", "runs", "--json")
    folder = vladapt(*fit).json["run"]
    made = vladapt("index", "--features", "pairs.npz", "--backbone", folder, "--out", "run.index")
    assert made.code == 0, made.err
    assert vladapt("search", "run.index", "--image", "1-4.jpg", "--json").json["hits"][0]["id"] == "1-4.jpg"
    pairs_file("other.npz", 4, encoder="another")
    refused = vladapt("index", "--features", "other.npz", "--backbone", folder, "--out", "other.index")
    assert refused.code == 1 and "--features other.npz: of encoder another" in refused.error


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (("photos",), "omit photos"),
        (("--domain", "natural"), "omit --domain natural"),
        (("--fast-decode",), "omit --fast-decode"),
        (("--processes", 2), "omit --engine or --processes"),
        (("--backbone", "embedded"), "has towers of its own"),
    ],
)
def test_what_is_about_images_is_refused_beside_stored_pairs(vladapt, given, reason):
    pairs_file("pairs.npz", 1)
    refused = vladapt("index", *given, "--features", "pairs.npz", "--out", "pairs.index")
    assert refused.code in (1, 2) and reason in refused.error


def test_the_page_says_that_there_is_no_picture(vladapt, stored, tmp_path):
    assert vladapt("search", "pairs.index", "thing 1 2", "--html", "page.html").code == 0
    page = (tmp_path / "page.html").read_text()
    assert "by its stored features, without the picture" in page and "thing 1 2" in page


def test_the_packaged_pairs_are_indexed_and_searched(vladapt):
    assert vladapt("index", "--features", "sample", "--out", "coco.index", "--json").json["entries"] == 500
    hits = vladapt("search", "coco.index", "A desk and chair in an office cubicle.", "--top", 5, "--json").json["hits"]
    assert "000000190236.jpg" in {hit["id"] for hit in hits}
