"""Detection scored, drawn for a report, and told as rows: by a model that answers what it is told."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from vladapt import ConfigError
from vladapt.domains.open_vocab.inference.detection import evaluate_detection, notes_on_names, predict_detection

NAMES = ("cat", "dog", "emu")
BOX, ELSEWHERE = (2.0, 3.0, 22.0, 23.0), (30.0, 3.0, 38.0, 13.0)
SQUARE = [[2.0, 3.0, 22.0, 3.0, 22.0, 23.0, 2.0, 23.0]]


def _silent(done, total):
    pass


@pytest.fixture
def data(make_images):
    """Twelve images with one object each, cat, dog, emu in turn."""
    labels = [(number % 3,) for number in range(12)]
    return make_images([(32, 40)] * 12, NAMES, boxes=[(BOX,)] * 12, labels=labels)


@pytest.fixture
def perfect(boxes_sample):
    return lambda number: boxes_sample([BOX, ELSEWHERE], [0.9, 0.05], [number % 3, 0])


def _sections(found):
    return {section.title: section for section in found.sections}


def test_what_is_right_scores_one_and_what_is_elsewhere_nothing(data, answering, perfect, boxes_sample):
    metrics = evaluate_detection(answering(perfect, NAMES), data, _silent).metrics
    assert metrics["AP"] == metrics["AP50"] == pytest.approx(1.0, abs=1e-6)
    wrong = answering(lambda number: boxes_sample([ELSEWHERE], [0.9], [number % 3]), NAMES)
    assert evaluate_detection(wrong, data, _silent).metrics["AP50"] == 0.0


def test_the_models_numbers_are_read_by_name(data, answering, perfect, boxes_sample):
    turned = answering(lambda n: boxes_sample([BOX], [0.9], [(2, 0, 1)[n % 3]]), ("dog", "emu", "cat"))
    assert evaluate_detection(turned, data, _silent).metrics["AP50"] == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(ConfigError, match="only in the config: 'fox'"):
        evaluate_detection(answering(perfect, ("cat", "dog", "fox")), data, _silent)


def test_base_and_novel_come_first_with_their_harmonic_mean(data, text_model, boxes_sample):
    """Cats and dogs are found, of the emus half."""

    def answer(number):
        return boxes_sample([BOX if number % 3 < 2 or number < 6 else ELSEWHERE], [0.9], [number % 3])

    found = evaluate_detection(text_model(answer, ["cat", "dog"], novel=["emu"]), data, _silent)
    assert list(found.metrics)[:3] == ["base_AP50", "novel_AP50", "harmonic_AP50"]
    base, novel, harmonic = list(found.metrics.values())[:3]
    assert base == pytest.approx(1, abs=1e-6) and 0.4 < novel < 0.6
    assert harmonic == pytest.approx(2 * base * novel / (base + novel))
    assert [row[:2] for row in _sections(found)["Class by class"].rows] == [
        ["cat", "yes"],
        ["dog", "yes"],
        ["emu", "no"],
    ]


@pytest.mark.parametrize("sized", [True, False])
def test_masks_are_scored_where_both_sides_have_them(data, answering, perfect, boxes_sample, sized):
    mask = np.zeros((1, 32, 40), bool)
    mask[0, 3:23, 2:22] = True
    changes = {"segments": (SQUARE,)} if sized else {"segments": (SQUARE,), "size": None}
    outlined = data.with_items([item.with_(target=replace(item.target, **changes)) for item in data.items])
    half = mask.copy()
    half[0, :13] = False
    for drawn, expected in ((mask, 1.0), (half, 0.1)):
        model = answering(lambda n, drawn=drawn: boxes_sample([BOX], [0.9], [n % 3], drawn), NAMES)
        found = evaluate_detection(model, outlined, _silent)
        assert found.metrics["AP"] == pytest.approx(1, abs=1e-6)
        assert found.metrics["mask_AP"] == pytest.approx(expected, abs=1e-6)
        table = _sections(found)["Class by class"]
        assert table.header == ["Class", "AP", "AP50", "Mask AP", "Objects"] and table.rows[0][3] == expected
    without = evaluate_detection(answering(perfect, NAMES), outlined, _silent)
    assert not any(name.startswith("mask") for name in without.metrics)


def test_the_report_has_a_table_curves_pictures_and_the_surest_mistakes(data, answering, boxes_sample):
    def answer(number):
        return boxes_sample([BOX, ELSEWHERE], [0.9, 0.31 + number / 100], [number % 3, 1])

    sections = _sections(evaluate_detection(answering(answer, NAMES, notes=["said"]), data, _silent))
    assert sections["Class by class"].rows[1][0] == "dog" and sections["Class by class"].rows[1][-1] == 4
    assert set(sections["Precision over recall"].curves) == set(NAMES)
    assert (
        sections["What it finds"].note == "Test images, with boxes that score 0.3 or more; in brackets the best score."
    )
    assert sections["What it finds"].pictures[0][1] == "00.png: 1 cat (0.90), 1 dog (0.31)"
    mistakes = [caption for _, caption in sections["Its most confident mistakes"].pictures]
    assert mistakes == [f"{number:02d}.png: dog, {0.31 + number / 100:.2f}" for number in range(11, 5, -1)]


def test_no_mistake_section_without_mistakes_and_notes_pass_through(data, answering, perfect):
    found = evaluate_detection(answering(perfect, NAMES, notes=["said"]), data, _silent)
    assert "Its most confident mistakes" not in _sections(found) and found.notes == ["said"]


def test_a_box_of_another_class_on_an_object_is_a_mistake(data, answering, boxes_sample):
    found = evaluate_detection(answering(lambda n: boxes_sample([BOX], [0.5], [0]), NAMES), data, _silent)
    mistakes = [caption[:6] for _, caption in _sections(found)["Its most confident mistakes"].pictures]
    assert set(mistakes) <= {f"{number:02d}.png" for number in range(12) if number % 3}


def test_nothing_found_at_all_is_a_score_of_nothing(data, answering, boxes_sample):
    found = evaluate_detection(answering(lambda n: boxes_sample([], [], []), NAMES), data, _silent)
    assert found.metrics["AP"] == 0 and "nothing scored" in _sections(found)["What it finds"].pictures[0][1]


def test_only_the_test_split_is_scored(data, answering, perfect):
    data = data.with_items([item.with_(split="test" if n < 3 else "train") for n, item in enumerate(data.items)])
    model = answering(perfect, NAMES)
    evaluate_detection(model, data, _silent)
    assert sum(map(len, model.batches)) == 3


def test_predictions_are_rows_in_the_models_names(data, text_model, perfect):
    model = text_model(perfect, NAMES)
    rows = predict_detection(model, data, _silent)
    assert [row["id"] for row in rows] == [item.id for item in data.items]
    assert rows[1]["labels"] == ["dog", "cat"] and rows[1]["summary"] == "1 dog (0.90)"
    model.asked_for = ("x", "y", "z")
    assert predict_detection(model, data, _silent)[1]["labels"] == ["y", "x"]


def test_lvis_form_has_fixed_ap_by_frequency_and_an_option_says_how_many_count(data, answering, perfect):
    lvis = replace(data, frequency=("r", "c", "f"))
    told = evaluate_detection(answering(perfect, NAMES), lvis, _silent).metrics
    assert [told[f"fixed_AP{part}"] for part in ("", "_rare", "_common", "_frequent")] == pytest.approx([1] * 4)
    few = answering(perfect, NAMES)
    few.cfg.vladapt.dets_per_class = 2  # of four cats: half of them are found
    assert evaluate_detection(few, lvis, _silent).metrics["fixed_AP_rare"] == pytest.approx(51 / 101)
    assert "fixed_AP" not in evaluate_detection(answering(perfect, NAMES), data, _silent).metrics


THREE = [BOX, (2.0, 3.0, 22.0, 22.0), (3.0, 3.0, 22.0, 23.0)]
"""Boxes on one thing."""


@pytest.mark.parametrize(
    ("asked", "suppress", "left"),
    [
        (("raccoon", "hose", "cat"), None, ["hose"]),
        (("raccoon", "dog", "cat"), None, ["dog", "cat"]),
        (("raccoon", "dog", "cat"), "none", ["dog", "raccoon", "cat"]),
        (("raccoon", "dog", "cat"), "all", ["dog"]),
    ],
)
def test_a_thing_has_the_surest_of_names_that_were_not_trained_together(
    data, text_model, boxes_sample, asked, suppress, left
):
    """The model was trained on dogs and cats."""
    model = text_model(lambda number: boxes_sample(THREE, [0.8, 0.9, 0.4], [0, 1, 2]), ["dog", "cat"])
    model.asked_for = asked
    if suppress:
        model.cfg.vladapt.suppress = suppress
    assert predict_detection(model, data, _silent)[0]["labels"] == left


def test_two_of_one_name_and_things_apart_stay(data, text_model, boxes_sample):
    model = text_model(lambda number: boxes_sample([*THREE[:2], ELSEWHERE], [0.8, 0.9, 0.4], [0, 0, 1]), ["dog"])
    model.asked_for = ("raccoon", "hose")
    assert predict_detection(model, data, _silent)[0]["labels"] == ["raccoon", "raccoon", "hose"]


def test_who_asks_a_model_of_one_or_two_names_for_others_is_told(text_model, perfect):
    model = text_model(perfect, ["raccoon"])
    assert notes_on_names(model) == []
    model.asked_for = ("raccoon", "hose", "cat")
    assert notes_on_names(model) == [
        "trained on raccoon alone, the model has learned to tell it from background but not from other things: "
        "scores of hose, cat say little"
    ]
    of_three = text_model(perfect, NAMES)
    of_three.asked_for = ("hose",)
    assert notes_on_names(of_three) == []
