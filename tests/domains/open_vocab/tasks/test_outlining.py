"""Rows of a detector get outlines from a SAM; a SAM alone outlines what is shown, and is scored on its outlines."""

import json

import pytest

pytest.importorskip("mmdet")
pytest.importorskip("transformers")

import torch

from vladapt import ConfigError, DataError
from vladapt.core.contracts.items import Boxes
from vladapt.core.tasks.config_training.runner import quiet_mm
from vladapt.domains.open_vocab.data.outlines import decode
from vladapt.domains.open_vocab.inference.detection import SHOWN_BOXES, evaluate_detection, predict_detection
from vladapt.domains.open_vocab.inference.outlining import (
    check_segmenter,
    segmenter_of,
    with_outlines,
    with_prompts,
)
from vladapt.domains.open_vocab.inference.running import ask_for

from ..hub_models.tiny_sam import saved, tiny_sam

NAMES = ("cat", "dog")
BOX, OTHER = (2.0, 3.0, 22.0, 23.0), (20.0, 3.0, 38.0, 30.0)


def _silent(done, total):
    pass


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("sam"), *tiny_sam())


@pytest.fixture(scope="module")
def sam(place):
    with quiet_mm():
        return segmenter_of(place, torch.device("cpu"))


@pytest.fixture
def data(make_images):
    outline, other = ([[x0, y0, x1, y0, x1, y1, x0, y1]] for x0, y0, x1, y1 in (BOX, OTHER))
    boxes, labels = [(BOX, OTHER), (BOX,), ()], [(1, 0), (0,), ()]
    segments = [(outline, other), (outline,), None]
    return make_images([(32, 40)] * 3, NAMES, boxes=boxes, labels=labels, segments=segments)


def test_each_box_of_a_detector_gets_its_outline_and_stays_as_it_was(data, sam, answering, boxes_sample):
    def answer(number):
        return boxes_sample([BOX, OTHER][:number], [0.4, 0.9][:number], [0, 1][:number])

    rows = predict_detection(answering(answer, NAMES), data, _silent)
    seen = []
    hook = sam.model.vision_encoder.register_forward_hook(lambda part, given, made: seen.append(len(given[0])))
    outlined = with_outlines(rows, data, sam, _silent)
    hook.remove()
    assert sum(seen) == 2  # the picture without a box is not looked at
    assert [{**row, "masks": None} for row in outlined] == [{**row, "masks": None} for row in rows]
    assert [len(row["masks"]) for row in outlined] == [0, 1, 2]
    reordered = [{**row, "boxes": row["boxes"][::-1]} for row in rows]
    assert with_outlines(reordered, data, sam, _silent)[2]["masks"] == outlined[2]["masks"][::-1]
    assert decode(outlined[2]["masks"][0]).shape == (32, 40)


def test_a_picture_of_windows_that_is_too_large_is_refused(data, sam, answering, boxes_sample):
    rows = predict_detection(answering(lambda n: boxes_sample([BOX], [0.9], [0]), NAMES), data, _silent)
    with pytest.raises(DataError, match=r"00\.png: too large to be outlined as a whole"):
        with_outlines([{**rows[0], "size": [320, 400]}], data, sam, _silent)


def test_what_is_shown_is_outlined_and_called_as_it_is_named(data, place, tmp_path):
    with quiet_mm():
        sam = segmenter_of(place, torch.device("cpu"))
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps({"01.png": [{"box": BOX, "name": "rust"}, {"points": [[9, 9]], "name": "crack"}]}))
    ask_for(sam, ["crack", "rust"])
    rows = predict_detection(sam, with_prompts(sam, data, str(file)), _silent)
    assert [len(row["labels"]) for row in rows] == [0, 2, 0]
    shown = dict(zip(rows[1]["labels"], rows[1]["boxes"], strict=True))
    assert set(shown) == {"rust", "crack"} and shown["rust"] == list(BOX)


def test_prompts_are_for_models_that_take_them_and_a_sam_needs_them(data, sam, answering, tmp_path):
    with pytest.raises(ConfigError, match=r"finds none itself; show them with --prompts FILE\.json"):
        with_prompts(sam, data, None)
    with pytest.raises(ConfigError, match="--prompts: this model finds by itself"):
        with_prompts(answering(None, NAMES), data, str(tmp_path / "p.json"))
    assert with_prompts(answering(None, NAMES), data, None) is data


def test_scores_are_of_the_outlines_by_the_names_of_the_boxes(data, place):
    """The tiny model is made to answer the whole box, which is what each object is."""
    with quiet_mm():
        sam = segmenter_of(place, torch.device("cpu"))

    def filled(model, features, prompts, three=False):
        grid = torch.full((len(prompts), 1, 16, 16), -5.0)
        for mask, prompt in zip(grid, prompts, strict=True):
            x0, y0, x1, y1 = (prompt.box / 4).round().int().tolist()
            mask[0, y0:y1, x0:x1] = 5.0
        return grid, torch.full((len(prompts), 1), 0.9)

    sam.family.masks = filled
    found = evaluate_detection(sam, data, _silent)
    assert set(found.metrics) >= {"mask_AP", "mask_AP50"} and "AP" not in found.metrics
    assert found.notes == [SHOWN_BOXES] and found.metrics["mask_AP50"] == pytest.approx(1.0, abs=1e-6)
    table = found.sections[0]
    assert [row[0] for row in table.rows] == ["cat", "dog"]
    turned = data.with_items(data.items)
    turned.class_names = ("dog", "cat")
    other = evaluate_detection(sam, turned, _silent)
    assert other.metrics["mask_AP50"] == found.metrics["mask_AP50"]
    targets = [Boxes(item.target.boxes, item.target.labels) for item in data.items]
    bare = data.with_items([item.with_(target=target) for item, target in zip(data.items, targets, strict=True)])
    with pytest.raises(DataError, match="have no outlines to compare with"):
        evaluate_detection(sam, bare, _silent)


def test_what_outlines_no_boxes_is_refused_before_anything_is_built(tmp_path):
    with pytest.raises(DataError, match=r"--masks-by runs/none: no such run"):
        check_segmenter("runs/none")
    (tmp_path / "config.json").write_text('{"model_type": "rt_detr_v2"}')
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "RTDetrImageProcessor"}')
    with pytest.raises(ConfigError, match="a rt_detr_v2, which outlines no boxes; give a sam, a sam2"):
        check_segmenter(f"hf:{tmp_path}")
