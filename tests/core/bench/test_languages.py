"""Sets in several languages: each language by its own classes or captions, means over languages, files not whole."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from parity_checks.languages import languages as released_scores

from vladapt.core.bench.places import sets_at
from vladapt.core.bench.published import published_scores
from vladapt.core.errors import ConfigError, DataError

from .conftest import encoded

BABEL = {
    "EN": [[0, 1, 2, 3], ["ant", "bear", "crane", "crane"]],
    "DE": [[2, 0, 3], ["Kran", " Ameise", ""]],
    "SI": [[1, 3], ["walaha", "dodo"]],
}
PROMPTS = {"DE": ["ein Foto: {}.", "{}"], "SI": ["a {}", "b {}"]}
CAPTIONS = {
    "de": [["rot"], ["grün", "ein Baum"], ["blau"], [], ["gelb"], ["weiß"]],
    "jp": [["赤"], ["緑"], ["青"], ["黒"], ["黄"], ["白"]],
}


@pytest.fixture(scope="module")
def babel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("babel")
    (folder / "babel_imagenet-298.json").write_text(json.dumps(BABEL), encoding="utf-8")
    (folder / "prompts.json").write_text(json.dumps(PROMPTS), encoding="utf-8")
    for index in range(4):
        place = folder / "val" / f"class{index}"
        place.mkdir(parents=True)
        for number in range(5):
            (place / f"{number}.png").write_bytes(encoded(10 * index + number))
    return folder


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioned")
    names = [f"{number}.png" for number in range(6)]
    (folder / "xtd.json").write_text(json.dumps({"images": names, "captions": CAPTIONS}), encoding="utf-8")
    (folder / "images").mkdir()
    for number, name in enumerate(names):
        (folder / "images" / name).write_bytes(encoded(number))
    return folder


def test_scores_are_those_of_the_released_evaluation(agrees):
    agrees(released_scores)


def checked(folder, towers, **options):
    (benchmark,) = sets_at([str(folder)])
    (benchmark,) = sets_at([str(folder)], {benchmark.kind: options} if options else None)
    benchmark.check(towers)
    return benchmark


def by_part(benchmark, towers):
    return {(score.part, score.measure): score for score in benchmark.score(towers)}


def by_hand(benchmark, towers, indices, texts):
    """Accuracy of the images of some classes against their lists of texts alone."""
    images, _ = towers.images(benchmark.data)
    rows = [row for row, label in enumerate(benchmark.class_of.tolist()) if label in indices]
    classes = torch.stack([towers.texts(each).mean(dim=0) for each in texts])
    answers = (images[rows] @ (classes / classes.norm(dim=1, keepdim=True)).T).argmax(dim=1)
    truth = torch.tensor([indices.index(label) for label in benchmark.class_of[rows].tolist()])
    return float((answers == truth).double().mean())


def test_a_language_is_scored_on_its_own_classes_in_the_files_order(babel, towers):
    benchmark = checked(babel, towers)
    scores = by_part(benchmark, towers)
    assert set(scores) == {(part, "acc1") for part in ("EN", "DE", "SI", "mean of 3")}
    german, english = scores["DE", "acc1"], scores["EN", "acc1"]
    assert (german.count, german.guessing, english.count, english.guessing) == (10, 1 / 2, 20, 1 / 4)
    assert german.value == pytest.approx(by_hand(benchmark, towers, [2, 0], [["Kran"], ["Ameise"]]))
    texts = [["ant"], ["bear"], ["crane"], ["crane"]]
    assert english.value == pytest.approx(by_hand(benchmark, towers, [0, 1, 2, 3], texts))
    mean = scores["mean of 3", "acc1"]
    assert mean.value == pytest.approx(sum(scores[code, "acc1"].value for code in ("EN", "DE", "SI")) / 3)
    assert mean.guessing == pytest.approx((1 / 2 + 1 / 4 + 1 / 2) / 3)
    assert mean.interval[0] < mean.value < mean.interval[1]


def test_names_that_are_missing_or_shared_are_counted(babel, towers):
    notes = checked(babel, towers).notes
    assert "Classes without a name, left out with their images: 1 in 1 languages (DE 1)." in notes
    assert any(note.startswith("Classes that share the name of an earlier one") and "EN 1" in note for note in notes)


def test_prompts_of_a_file_are_averaged_and_languages_without_are_named(babel, towers):
    benchmark = checked(babel, towers, prompts="prompts.json", languages=("DE", "SI"))
    filled = [["ein Foto: Kran.", "Kran"], ["ein Foto: Ameise.", "Ameise"]]
    assert by_part(benchmark, towers)["DE", "acc1"].value == pytest.approx(by_hand(benchmark, towers, [2, 0], filled))
    assert not torch.allclose(towers.class_vectors(filled), towers.class_vectors([["Kran"], ["Ameise"]]))
    (babel / "de.json").write_text(json.dumps({"DE": ["{}!"]}), encoding="utf-8")
    lacking = checked(babel, towers, prompts="de.json", languages=("DE", "SI"))
    assert "Languages without prompts in de.json, left out: 1 (SI)" in lacking.notes[0]
    assert {part for part, _ in by_part(lacking, towers)} == {"DE"}


def test_images_per_class_are_the_first_by_name(babel, towers):
    assert checked(babel, towers, images_per_class=2, languages="SI").size == 4


def test_published_results_of_a_file_stand_beside_where_classes_and_prompts_are_the_same(babel, towers, tmp_path):
    entries = [("EN", "label", 4, 0.5), ("DE", "label", 2, 0.25), ("SI", "label", 7, 0.75), ("SI", "other", 2, 0.1)]
    results = [dict(zip(("lang", "prompt", "num_classes", "accuracy"), entry)) for entry in entries]
    file = tmp_path / "tower.json"
    file.write_text(json.dumps({"meta": {"model": "a tower"}, "results": results}), encoding="utf-8")
    scores = by_part(checked(babel, towers, published=str(file)), towers)
    assert scores["EN", "acc1"].published == {"a tower, in tower.json": 0.5}
    assert scores["SI", "acc1"].published == scores["mean of 3", "acc1"].published == {}
    two = by_part(checked(babel, towers, published=str(file), languages=("en", "de")), towers)
    assert two["mean of 2", "acc1"].published == {"a tower, in tower.json": 0.375}


def test_published_means_are_of_as_many_languages(towers):
    known = published_scores("open_clip:nllb-clip-base/v1", "babel-imagenet label", 50_000)
    assert list(known) == [("mean of 298", "acc1")] and list(known["mean of 298", "acc1"].values()) == [0.216]
    assert not published_scores("open_clip:nllb-clip-base/v1", "babel-imagenet label", 49_999)
    retrieval = published_scores("open_clip:nllb-clip-base/v1", "xtd", 1000)
    assert {part for part, _ in retrieval} == {"mean of 11"} and len(retrieval) == 3


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"DE": [[0, 1], ["a"]]}, "'DE' has no class indices with as many names"),
        ({"DE": [[0, 0], ["a", "b"]]}, "'DE' has no class indices"),
        ({"DE": [["0"], ["a"]]}, "'DE' has no class indices"),
        ({"DE": ["a"]}, "'DE' has no class indices"),
        ({"DE": [[0, 900], ["a", "b"]]}, "names class 900, and there are 4 class folders"),
        ([], "holds no object by language"),
    ],
)
def test_a_file_of_names_that_is_not_whole_is_one_line(babel, towers, tmp_path, content, what):
    folder = shutil.copytree(babel, tmp_path / "babel")
    (folder / "babel_imagenet-298.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=what):
        checked(folder, towers)


def test_a_part_of_imagenet_is_refused_since_indices_would_shift(babel, towers, tmp_path):
    folder = shutil.copytree(babel, tmp_path / "babel")
    for number, place in enumerate(sorted((folder / "val").iterdir())):
        place.rename(folder / "val" / f"n{number:08d}")
    with pytest.raises(DataError, match="has 4 class folders; give ImageNet's 1,000"):
        checked(folder, towers)


def test_captions_rank_both_ways_in_each_language(captioned, towers):
    benchmark = checked(captioned, towers)
    scores = by_part(benchmark, towers)
    assert {part for part, _ in scores} == {"de", "ja", "mean of 2"}
    images, _ = towers.images(benchmark.data)
    gallery = [0, 1, 2, 4, 5]
    texts = [(place, text) for place, number in enumerate(gallery) for text in CAPTIONS["de"][number]]
    similar = images[gallery] @ towers.texts([text for _, text in texts]).T  # (5, 6)
    owner = torch.tensor([place for place, _ in texts])
    found = [bool((owner[row.argsort(descending=True)[:1]] == place).any()) for place, row in enumerate(similar)]
    assert scores["de", "image_to_text/r1"].value == pytest.approx(sum(found) / 5)
    right = (similar.argmax(dim=0) == owner).double().mean()
    assert scores["de", "text_to_image/r1"].value == pytest.approx(float(right))
    assert scores["de", "text_to_image/r1"].guessing == pytest.approx(1 / 5)
    mean = scores["mean of 2", "text_to_image/r5"]
    assert mean.value == pytest.approx(sum(scores[code, "text_to_image/r5"].value for code in ("de", "ja")) / 2)
    assert any("left out of that language alone: de 1" in note for note in benchmark.notes)
    assert any("COCO train2014" in note for note in benchmark.notes)


def test_a_language_is_asked_for_by_either_code_and_results_are_read_by_either(captioned, towers, tmp_path):
    file = tmp_path / "r.json"
    file.write_text(json.dumps({"results": [{"lang": "jp", "t2i_r@1": 0.5}]}), encoding="utf-8")
    scores = by_part(checked(captioned, towers, languages="jp", published=str(file)), towers)
    assert scores["ja", "text_to_image/r1"].published == {"an unnamed model, in r.json": 0.5}
    with pytest.raises(ConfigError, match="has no such language"):
        checked(captioned, towers, languages="tlh")


def test_a_mean_of_languages_gains_with_its_interval(captioned, towers):
    mean = by_part(checked(captioned, towers), towers)["mean of 2", "text_to_image/r1"]
    assert mean.gain_over(mean).value == 0 and len(mean.right) == len(mean.units) == 12


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"images": ["0.png"], "captions": {"de": [["a"], ["b"]]}}, "'de' has not one list of captions per image"),
        ({"images": ["0.png"], "captions": {"de": ["a"]}}, "captions of image 1 in 'de' are no texts"),
        ({"images": ["0.png", "0.png"], "captions": {"de": [["a"], ["b"]]}}, "names an image twice"),
        ({"images": ["none.png"], "captions": {"de": [["a"]]}}, "1 of 1 images are not in"),
        ({"images": ["0.png"], "captions": {}}, "has no images or no captions"),
    ],
)
def test_captions_that_are_not_whole_are_one_line(captioned, towers, tmp_path, content, what):
    folder = shutil.copytree(captioned, tmp_path / "set")
    (folder / "xtd.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=what):
        checked(folder, towers)
