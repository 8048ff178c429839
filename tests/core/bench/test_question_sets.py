"""SugarCrepe, Winoground and ARO, in small files of their own layouts."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vladapt.core.bench.places import sets_at
from vladapt.core.bench.sets.aro import LEAST
from vladapt.core.bench.sets.aro_order import shortened_caption, shuffled
from vladapt.core.bench.sets.sugarcrepe import KINDS
from vladapt.core.contracts.bench import BenchTowers
from vladapt.core.errors import CapabilityError, ConfigError, DataError

from .conftest import encoded

WIDTH = 8


class Told(BenchTowers):
    """Towers whose features are drawn by name; those of texts in `near` lie beside an image's."""

    def __init__(self, near=None, missing=(), seed=1):
        self.near, self.missing, self.seed, self.skipped, self.loaded = near or {}, missing, seed, [], {}

    def images(self, data):
        rows = [row for row, item in enumerate(data.items) if item.id not in self.missing]
        self.loaded = {data.items[row].id: data.load(data.items[row]) for row in rows}
        return torch.stack([vector(data.items[row].id) for row in rows]), rows

    def texts(self, texts):
        return torch.stack([vector(self.near.get(text, text)) for text in texts])

    def read(self, folder):
        raise AssertionError("no set here is read as a plain folder")


def vector(name):
    seed = sum(ord(letter) * 131**place for place, letter in enumerate(name)) % 2**31
    return F.normalize(torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed)), dim=0)


def checked(folder, towers, **options):
    (benchmark,) = sets_at([str(folder)], options)
    benchmark.check(towers)
    return benchmark


def scored(benchmark, towers):
    return {(score.part, score.measure): score for score in benchmark.score(towers)}


def image(folder, name, number=0):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(encoded(number))


@pytest.fixture
def sugarcrepe(tmp_path):
    """Two questions of each kind; the wrong captions are numbered."""
    for place, kind in enumerate(KINDS):
        entries = {
            str(n): {"filename": f"{n}.png", "caption": f"{kind} {n}", "negative_caption": f"not {kind} {n}"}
            for n in range(2)
        }
        (tmp_path / f"{kind}.json").write_text(json.dumps(entries))
        image(tmp_path / "val2017", f"{place % 2}.png", place)
    return tmp_path


def test_sugarcrepe_is_scored_per_kind_and_as_means_of_kinds(sugarcrepe):
    near = {f"{kind} {n}": f"{n}.png" for kind in KINDS for n in range(2)}
    near["swap_obj 1"], near["not swap_obj 1"] = "elsewhere", "1.png"
    near["not add_att 0"] = "0.png"  # a tie
    towers = Told(near)
    scores = scored(checked(sugarcrepe, towers), towers)
    values = {part: score.value for (part, measure), score in scores.items() if measure == "accuracy"}
    assert values == {kind: 0.5 if kind in ("swap_obj", "add_att") else 1.0 for kind in KINDS}
    means = {part: score.value for (part, measure), score in scores.items() if measure == "macro_accuracy"}
    assert means == pytest.approx({"add": 0.75, "replace": 1.0, "swap": 0.75, "": 6 / 7})
    whole = scores["", "macro_accuracy"]
    assert whole.guessing == 0.5 and whole.count == 14 and whole.interval[0] < whole.value <= whole.interval[1]
    assert len(whole.units.unique()) == 2  # questions about one image belong together


def test_an_image_that_cannot_be_read_is_left_out_with_its_questions(sugarcrepe):
    towers = Told(missing={"0.png"})
    assert scored(checked(sugarcrepe, towers), towers)["", "macro_accuracy"].count == 7


def test_images_lie_where_an_option_says(sugarcrepe, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("coco") / "val"
    (sugarcrepe / "val2017").rename(elsewhere)
    with pytest.raises(DataError, match=r"2 of 2 images are not in .* --set sugarcrepe.images=DIR"):
        checked(sugarcrepe, Told())
    assert checked(sugarcrepe, Told(), sugarcrepe={"images": str(elsewhere)}).size == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "no entries by number"),
        ('{"0": {"filename": "0.png", "caption": "a"}}', "entry 0: has no usable 'negative_caption'"),
        ('{"0": {"filename": "../0.png", "caption": "a", "negative_caption": "b"}}', "leaves the folder"),
        ("{", "not valid JSON"),
    ],
)
def test_files_of_another_version_are_one_line(sugarcrepe, content, words):
    (sugarcrepe / "add_obj.json").write_text(content)
    with pytest.raises(DataError, match=words):
        checked(sugarcrepe, Told())


def test_a_kind_that_is_missing_is_told(sugarcrepe):
    (sugarcrepe / "swap_att.json").unlink()
    with pytest.raises(DataError, match=r"swap_att\.json: missing; give all seven"):
        checked(sugarcrepe, Told())


@pytest.fixture
def winoground(tmp_path):
    lines = []
    for n in range(4):
        images = {f"image_{place}": f"ex_{n}_img_{place}" for place in range(2)}
        captions = {f"caption_{place}": f"caption {n} {place}" for place in range(2)}
        lines.append(json.dumps({"id": n, **images, **captions, "collapsed_tag": ("Object", "Relation")[n % 2]}))
        for place in range(2):
            image(tmp_path / "images", f"ex_{n}_img_{place}.png", n)
    (tmp_path / "examples.jsonl").write_text("\n".join(lines))
    return tmp_path


def told_apart(*, tie):
    near = {f"caption {n} {place}": f"ex_{n}_img_{place}" for n in range(4) for place in range(2)}
    near |= {"caption 0 0": "ex_0_img_1", "caption 0 1": "ex_0_img_0"}  # exchanged
    return near | ({"caption 1 1": "ex_1_img_0"} if tie else {})


def test_winoground_asks_pairs_against_pairs(winoground):
    towers = Told(told_apart(tie=False))
    scores = scored(checked(winoground, towers), towers)
    for name, guessing in (("text", 0.25), ("image", 0.25), ("group", 1 / 6)):
        assert (scores["", name].value, scores["", name].guessing, scores["", name].count) == (0.75, guessing, 4)
    assert scores["Object", "group"].value == 0.5 and scores["Relation", "group"].value == 1.0


def test_ties_of_winoground_are_wrong_or_decided_by_position(winoground):
    towers = Told(told_apart(tie=True))
    assert scored(checked(winoground, towers), towers)["", "text"].value == 0.5
    by_position = scored(checked(winoground, towers, winoground={"ties": "position"}), towers)
    assert by_position["", "text"].value == 0.5 and by_position["", "image"].value >= 0.5
    with pytest.raises(ConfigError, match="ties"):
        checked(winoground, towers, winoground={"ties": "right"})


def test_a_file_of_another_version_of_winoground_is_one_line(winoground):
    file = winoground / "examples.jsonl"
    file.write_text(file.read_text().replace("caption_0", "caption_a"))
    with pytest.raises(DataError, match=r"line 1: has no usable 'caption_0'; give the file of Winoground"):
        checked(winoground, Told())


def test_winoground_without_its_images_is_one_line(winoground):
    (winoground / "images" / "ex_2_img_1.png").unlink()
    with pytest.raises(DataError, match=r"1 of 8 images are not in .*'ex_2_img_1.png'; unpack images.zip"):
        checked(winoground, Told())


@pytest.fixture
def aro(tmp_path):
    def case(kind, number, **named):
        box = {"bbox_x": 2, "bbox_y": 1, "bbox_w": 4 + number % 3, "bbox_h": 5}
        captions = {"true_caption": f"true {kind} {number}", "false_caption": f"false {kind} {number}"}
        return {"image_path": f"{number % 3}.png", **box, **captions, **named}

    relations = [case("r", n, relation_name="on" if n < 3 else "near") for n in range(4)]
    attributes = [case("a", n, attributes=["white", "tall"]) for n in range(LEAST)]
    attributes += [case("b", n, attributes=["red", "small"]) for n in range(LEAST - 1)]
    (tmp_path / "visual_genome_relation.json").write_text(json.dumps(relations))
    (tmp_path / "visual_genome_attribution.json").write_text(json.dumps(attributes))
    for number in range(3):
        image(tmp_path / "images", f"{number}.png", number)
    return tmp_path


def test_aro_takes_the_mean_over_relations_and_frequent_attributes(aro):
    near = {f"true r {n}": f"{n % 3}.png#2,1,{4 + n % 3},5" for n in range(4)}
    near["false r 1"] = near["true r 1"]  # a tie
    towers = Told(near)
    benchmark = checked(aro, towers, aro={"each": True})
    scores = scored(benchmark, towers)
    assert scores["relation", "macro_accuracy"].value == pytest.approx((2 / 3 + 1) / 2)
    assert scores["relation", "accuracy"].value == 0.75 and scores["relation", "accuracy"].guessing == 0.5
    assert scores["relation/on", "accuracy"].value == pytest.approx(2 / 3)
    directed = scores["asymmetric relation", "macro_accuracy"]  # without "near", as released
    assert directed.value == pytest.approx(2 / 3) and directed.count == 3
    assert scores["attribution", "accuracy"].count == LEAST and ("attribution/red_small", "accuracy") not in scores
    assert len(scores["attribution", "accuracy"].units.unique()) == 3  # parts of one picture belong together
    whole = Told().images(benchmark.data)
    assert {loaded.shape for loaded in towers.loaded.values()} == {(5, 4, 3), (5, 5, 3), (5, 6, 3)} and len(
        whole[1]
    ) == 3


def test_rows_of_each_relation_are_an_option(aro):
    parts = {part for part, _ in scored(checked(aro, Told()), Told())}
    assert parts == {"relation", "asymmetric relation", "attribution"}


WORDS = [("a", "DT"), ("black", "JJ"), ("cat", "NN"), ("sees", "VBZ"), ("two", "CD"), ("white", "JJ"), ("dogs", "NNS")]


def test_shuffles_move_only_the_words_that_they_name():
    texts = [text for text, _ in WORDS]
    for seed in range(20):
        described, others, within, groups = (each.split() for each in shuffled(WORDS, np.random.default_rng(seed)))
        assert [described[place] for place in (0, 3, 4)] == ["a", "sees", "two"]
        assert {described[1], described[5]} == {"black", "white"} and {described[2], described[6]} == {"cat", "dogs"}
        assert [others[place] for place in (1, 2, 5, 6)] == ["black", "cat", "white", "dogs"]
        assert [sorted(within[start : start + 3]) for start in (0, 3, 6)] == [
            sorted(texts[start : start + 3]) for start in (0, 3, 6)
        ]
        assert sorted(groups) == sorted(texts) and " ".join(texts[:3]) in " ".join(groups)
    assert len({tuple(shuffled(WORDS, np.random.default_rng(seed))) for seed in range(9)}) > 5


def test_captions_are_in_lower_case_without_punctuation_and_cut():
    assert shortened_caption('A  "Cat" (small); it sits, alone.', 4) == "a cat small it"


@pytest.fixture
def order(tmp_path, monkeypatch):
    from vladapt.core.bench.sets.aro_order import AroOrder

    tags = dict(WORDS)
    cut = lambda self, captions: ([(word, tags.get(word, "NN")) for word in c.split()] for c in captions)  # noqa: E731
    monkeypatch.setattr(AroOrder, "tagged", cut)
    captions = ["a black cat sees two white dogs", "dogs"]
    (tmp_path / "coco_karpathy_test.json").write_text(json.dumps([{"image": "val2014/0.png", "caption": captions}]))
    image(tmp_path, "val2014/0.png")
    return tmp_path


def test_a_caption_must_score_above_its_shuffles(order):
    near = {"a black cat sees two white dogs": "val2014/0.png"}
    towers = next(each for seed in range(30) if checked(order, each := Told(near, seed=seed)).unchanged == 1)
    benchmark = checked(order, towers)
    score = scored(benchmark, towers)["", "p1"]
    assert (score.value, score.count, score.guessing) == (0.5, 2, 0.2)  # "dogs" is its own shuffle
    assert "1 captions equal one of their own shuffles" in benchmark.notes[0]
    tied = checked(order, towers, **{"aro-order": {"ties": "position"}})
    assert scored(tied, towers)["", "p1"].value == 1.0 and "counted as right" in tied.notes[0]


def test_the_seed_and_the_length_of_captions_change_the_options(order):
    def asked(seed=1, **options):
        return [each.texts for each in checked(order, Told(seed=seed), **{"aro-order": options}).asked]

    assert asked() == asked() != asked(seed=2)
    assert all(len(text.split()) <= 3 for texts in asked(max_words=3) for text in texts)


def test_without_a_tagger_one_line_says_how_to_get_it(tmp_path):
    (tmp_path / "flickr30k_test.json").write_text(json.dumps([{"image": "0.png", "caption": ["a cat"]}]))
    image(tmp_path, "0.png")
    with pytest.raises(CapabilityError, match="needs spaCy and its model no_such_model; install them"):
        checked(tmp_path, Told(), **{"aro-order": {"tagger": "no_such_model"}})


CHECKLIST = {
    "Attribute/vg/color": "vg",
    "Attribute/vaw/color": "vg",
    "Attribute/vaw/action": "vg",
    "Object/Location/swig_location/swig_item/swig_item_mid": "swig",
    "Object/Size/hake_size/hake_obj_small": "hake",
    "Relation/swig_action": "swig",
    "Relation/vg/spatial": "vg",
}
"""File -> folder of its images."""


@pytest.fixture
def checklist(tmp_path):
    """Two questions in each file, with a second positive and a second negative text each."""
    for place, (file, folder) in enumerate(CHECKLIST.items()):
        texts = [{"POS": [f"{file} {n}", f"also {n}"], "NEG": [f"not {file} {n}", f"nor {n}"]} for n in range(2)]
        path = tmp_path / "data" / f"{file}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([[f"some/{n}.png", texts[n]] for n in range(2)]))
        for n in range(2):
            image(tmp_path / folder, f"some/{n}.png", place)
    return tmp_path


def told_of_checklist():
    return {f"{file} {n}": f"{folder}/some/{n}.png" for file, folder in CHECKLIST.items() for n in range(2)}


def test_vl_checklist_is_scored_per_aspect_and_as_means_of_aspects(checklist):
    near = told_of_checklist()
    near["not Attribute/vg/color 0"] = "vg/some/0.png"  # a tie
    near["Relation/vg/spatial 1"], near["not Relation/vg/spatial 1"] = "elsewhere", "vg/some/1.png"
    towers = Told(near)
    benchmark = checked(checklist, towers, **{"vl-checklist": {"each": True}})
    scores = scored(benchmark, towers)
    values = {part: score.value for (part, _), score in scores.items()}
    assert values == pytest.approx(
        {
            "Attribute/action": 1.0,
            "Attribute/color": 0.75,
            "Object/location": 1.0,
            "Object/size": 1.0,
            "Relation/action": 1.0,
            "Relation/spatial": 0.5,
            "Attribute": 0.875,
            "Object": 1.0,
            "Relation": 0.75,
            "": 5.25 / 6,
        }
        | {file: 0.5 if file in ("Attribute/vg/color", "Relation/vg/spatial") else 1.0 for file in CHECKLIST}
    )
    whole = scores["", "macro_accuracy"]
    assert whole.guessing == 0.5 and whole.count == 14 and whole.interval[0] < whole.value <= whole.interval[1]
    assert benchmark.size == len(whole.units.unique()) == 6  # VAW asks of Visual Genome's images
    absent = "Attribute/material, Attribute/size, Attribute/state"
    assert benchmark.notes == [f"{checklist.name}: no questions of {absent}; means are over the other aspects."]


def test_vl_checklist_asks_by_the_first_text_of_each_side(checklist):
    near = told_of_checklist() | {f"nor {n}": f"vg/some/{n}.png" for n in range(2)}  # a later negative does not count
    towers = Told(near)
    assert scored(checked(checklist, towers), towers)["", "macro_accuracy"].value == 1.0
    near = {f"not {text}": name for text, name in told_of_checklist().items()}
    near |= {f"also {n}": f"vg/some/{n}.png" for n in range(2)}  # nor does a later positive
    towers = Told(near)
    assert scored(checked(checklist, towers), towers)["", "macro_accuracy"].value == 0.0


def test_sources_and_questions_of_vl_checklist_are_options(checklist):
    for file in (checklist / "hake" / "some").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"2 of 6 images are not in .*'hake/some/0.png'; .*vl-checklist.sources=vg,vaw"):
        checked(checklist, Told())
    towers = Told()
    some = checked(checklist, towers, **{"vl-checklist": {"sources": "vg,vaw", "per_file": 1}})
    assert [each.kind for each in some.asked] == [file for file in sorted(CHECKLIST) if CHECKLIST[file] == "vg"]
    assert "Object/location" not in {part for part, _ in scored(some, towers)}
    elsewhere = checklist / "elsewhere"
    elsewhere.mkdir()
    (checklist / "vg").rename(elsewhere / "vg")
    moved = {"sources": "vg", "images": str(elsewhere)}
    assert checked(checklist, Told(), **{"vl-checklist": moved}).size == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}", r"color\.json: has no list of images"),
        ('[["0.png", {"POS": ["a"], "NEG": []}]]', "entry 0: .* is no image with POS and NEG texts"),
        ('[["../../0.png", {"POS": ["a"], "NEG": ["b"]}]]', "leaves the folder"),
        ("[", "not valid JSON"),
    ],
)
def test_damaged_files_of_vl_checklist_are_one_line(checklist, content, words):
    (checklist / "data" / "Attribute" / "vg" / "color.json").write_text(content)
    with pytest.raises(DataError, match=words):
        checked(checklist, Told())
