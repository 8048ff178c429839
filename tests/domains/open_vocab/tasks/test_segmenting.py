"""Segmentation scored, drawn for a report, and told as rows: by a model that answers what it is told."""

import numpy as np
import pytest

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

from vladapt import ConfigError
from vladapt.domains.open_vocab.data.outlines import decode
from vladapt.domains.open_vocab.inference.segmentation import SHOWN, evaluate_segmentation, predict_segmentation

NAMES = ("background", "cat", "dog")


def _silent(done, total):
    pass


@pytest.fixture
def truth():
    """Eight masks: background above, cats and dogs in turn below, the last column ignored."""
    masks = []
    for number in range(8):
        mask = np.zeros((20, 30), np.uint8)
        mask[10:], mask[:, -1] = 1 + number % 2, 255
        masks.append(mask)
    return masks


@pytest.fixture
def data(make_images, truth):
    return make_images([(20, 30)] * 8, NAMES, kind="masks", masks=truth)


def _right(truth, map_sample, table=(0, 1, 2)):
    return lambda number: map_sample(np.array([*table, *[0] * 253])[truth[number]])


def _sections(found):
    return {section.title: section for section in found.sections}


def test_what_is_right_scores_one_whatever_stands_on_ignored_pixels(data, truth, answering, map_sample):
    found = evaluate_segmentation(answering(_right(truth, map_sample), NAMES, "segmentation"), data, _silent)
    assert found.metrics == {"mIoU": 1.0, "pixel_accuracy": 1.0, "mean_accuracy": 1.0}
    rows = _sections(found)["Class by class"].rows
    assert rows == [["background", 1, 1, 8 * 290], ["cat", 1, 1, 4 * 290], ["dog", 1, 1, 4 * 290]]


def test_one_class_everywhere_scores_as_counted_by_hand(data, answering, map_sample):
    model = answering(lambda number: map_sample(np.zeros((20, 30))), NAMES, "segmentation")
    metrics = evaluate_segmentation(model, data, _silent).metrics
    assert metrics == pytest.approx({"mIoU": 0.5 / 3, "pixel_accuracy": 0.5, "mean_accuracy": 1 / 3})


def test_the_models_numbers_are_read_by_name(data, truth, answering, map_sample):
    names = ("dog", "background", "cat")
    model = answering(_right(truth, map_sample, (1, 2, 0)), names, "segmentation")
    assert evaluate_segmentation(model, data, _silent).metrics["mIoU"] == 1
    with pytest.raises(ConfigError, match=r"config has 2 classes .* annotation has 3 .*only in the annotation: 'dog'"):
        evaluate_segmentation(answering(None, NAMES[:2], "segmentation"), data, _silent)


def test_base_and_novel_come_first_with_their_harmonic_mean(data, truth, text_model, map_sample):
    def answer(number):
        return map_sample(np.where(truth[number] == 255, 0, truth[number]) if number != 7 else np.zeros((20, 30)))

    model = text_model(answer, NAMES[:2], "segmentation", novel=["dog"])
    found = evaluate_segmentation(model, data, _silent)
    assert list(found.metrics)[:3] == ["base_mIoU", "novel_mIoU", "hIoU"]
    base, novel, harmonic = list(found.metrics.values())[:3]
    assert novel == pytest.approx(0.75) and base == pytest.approx((8 / 9 + 1) / 2)
    assert harmonic == pytest.approx(2 * base * novel / (base + novel))
    assert _sections(found)["Class by class"].rows[2][:2] == ["dog", "no"]


def test_the_report_shows_some_images_marked_and_found_side_by_side(data, truth, answering, map_sample, make_images):
    many = make_images([(20, 30)] * 20, NAMES, kind="masks", masks=truth * 3)
    model = answering(lambda number: map_sample(np.full((20, 30), 1)), NAMES, "segmentation", notes=["said"])
    found = evaluate_segmentation(model, many, _silent)
    pictures = _sections(found)["What it finds"].pictures
    assert len(pictures) == SHOWN and found.notes == ["said"]
    assert [caption for _, caption in pictures] == [f"{number:02d}.png" for number in range(0, 18, 3)]
    picture = pictures[0][0]
    times = picture.shape[1] // 62
    left, right = picture[5 * times, 10 * times], picture[5 * times, 50 * times]
    assert (left == 0).all() and (right > 0).any()


def test_predictions_are_rows_in_the_models_names(data, truth, text_model, map_sample):
    model = text_model(_right(truth, map_sample), NAMES, "segmentation")
    rows = predict_segmentation(model, data, _silent)
    assert [row["id"] for row in rows] == [item.id for item in data.items]
    assert rows[1]["summary"].startswith("background 5") and set(rows[1]["masks"]) == {"background", "dog"}
    assert (decode(rows[1]["masks"]["dog"]) == (truth[1] == 2)).all()
    model.asked_for = ("x", "y", "z")
    assert set(predict_segmentation(model, data, _silent)[1]["shares"]) == {"x", "z"}
