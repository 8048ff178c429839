"""What a server is told of images by a detector or segmentor: rows of `predict`, choices among fixed names, others."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

from vladapt.core.contracts.items import Item
from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.core.features.store import FeatureStore
from vladapt.domains.open_vocab.inference.detection import predict_detection
from vladapt.domains.open_vocab.inference.finding import BoxFinder, MapFinder
from vladapt.domains.open_vocab.inference.segmentation import predict_segmentation
from vladapt.domains.open_vocab.text_embeddings import TextEmbeddings

BOXES = [[2.0, 3.0, 12.0, 13.0], [20.0, 1.0, 30.0, 9.0], [2.0, 3.5, 12.0, 13.0]]
NAMES = ["cat", "dog"]


@pytest.fixture
def images(make_images):
    return make_images([(24, 32)] * 3, NAMES)


def rows_of(finder, data):
    return finder.find([(item, finder.ready(item)) for item in data.items])


def without_ids(rows):
    return [{key: value for key, value in row.items() if key != "id"} for row in rows]


@pytest.fixture
def detector(answering, boxes_sample):
    masks = np.zeros((3, 24, 32), bool)
    masks[0, 3:13, 2:12] = masks[1, 1:9, 20:30] = True
    return answering(lambda number: boxes_sample(BOXES, [0.9, 0.6, 0.2 + number / 10], [0, 1, 1], masks), NAMES)


def test_rows_of_a_detector_are_those_of_predict(detector, images):
    finder = BoxFinder(detector)
    rows = rows_of(finder, images)
    assert rows == without_ids(predict_detection(detector, images, lambda *_: None))
    assert (finder.any_names, list(finder.names), finder.options) == (False, NAMES, ("score", "classes"))
    assert finder.chosen(rows[0], None, None) is rows[0]


def test_a_least_score_and_some_of_fixed_names_choose_boxes_with_their_masks(detector, images):
    finder = BoxFinder(detector)
    row = rows_of(finder, images)[0]
    sure = finder.chosen(row, None, 0.5)
    assert sure["scores"] == [0.9, 0.6] and sure["masks"] == row["masks"][:2] and sure["boxes"] == row["boxes"][:2]
    dogs = finder.chosen(row, ["dog"], None)
    assert dogs["labels"] == ["dog", "dog"] and dogs["summary"] == "1 dog (0.60)"
    assert dogs["masks"] == row["masks"][1:] and finder.chosen(row, ["cat"], 0.95)["boxes"] == []
    assert [finder.chosen(row, None, score)["summary"] for score in (0.1, 0.7, 0.95)] == [
        "1 cat (0.90), 2 dog (0.60)",
        "1 cat (0.90)",
        "nothing scored 0.95 or more; the best has 0.90",
    ]


def test_rows_of_a_segmentor_are_those_of_predict_and_choose_among_its_names(answering, map_sample, images):
    classes = np.zeros((24, 32), int)
    classes[:6] = 1
    model = answering(lambda number: map_sample(classes), NAMES, "segmentation")
    finder = MapFinder(model)
    rows = rows_of(finder, images)
    assert rows == without_ids(predict_segmentation(model, images, lambda *_: None))
    assert finder.chosen(rows[0], ["dog"], None) == {
        "shares": {"dog": 0.25},
        "masks": {"dog": rows[0]["masks"]["dog"]},
        "summary": "dog 25%",
    }


def test_windows_of_a_picture_are_one_row_as_of_predict(answering, boxes_sample, images):
    detector = answering(lambda number: boxes_sample(BOXES[:1], [0.9], [0]), NAMES)
    places = [{Item.WHOLE: [24, 32], "box": [x, 0, x + 20, 24]} for x in (0, 12)]
    first = images.items[0]
    data = images.with_items([first.with_(id=f"{first.id}#0_{each['box'][0]}", decode=each) for each in places])
    row = BoxFinder(detector).find_in_windows(data)
    assert row == without_ids(predict_detection(detector, data, lambda *_: None))[0] and row["size"] == [24, 32]


class Named(nn.Module):
    """A detector whose boxes say how alike its names are to the first of them."""

    def __init__(self, spec, like, boxes_sample):
        super().__init__()
        self.texts, self.weight = TextEmbeddings(spec, NAMES, "name"), nn.Parameter(torch.ones(1))
        self.cfg, self.sample = copy.deepcopy(like.cfg), boxes_sample

    def test_step(self, batch):
        scores = (self.weight.detach() * (self.texts() @ self.texts()[0])).clamp(0, 1)
        boxes = [[10.0 * n, 0.0, 10.0 * n + 9, 9.0] for n in range(len(scores))]
        return [self.sample(boxes, scores.tolist(), range(len(scores))) for _ in batch["inputs"]]


def test_other_names_are_a_copys_own_whose_weights_are_the_models(
    small_clip_spec, answering, boxes_sample, images, tmp_path, monkeypatch
):
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path / "cache"))
    model = Named(small_clip_spec, answering(None, NAMES), boxes_sample)
    finder = BoxFinder(model)
    before = rows_of(finder, images)
    stored = sorted(FeatureStore.default_root().rglob("*"))
    other = finder.named(["a secret name", "dog", "bird"])
    assert sorted(FeatureStore.default_root().rglob("*")) == stored, "names of clients are not kept"
    found = rows_of(other, images)
    assert set(found[0]["labels"]) <= {"a secret name", "dog", "bird"} and found[0]["labels"][0] == "a secret name"
    assert rows_of(finder, images) == before and list(finder.names) == NAMES
    assert other.model.weight is model.weight and other.model is not model
    assert list(other.names) == ["a secret name", "dog", "bird"] and other.any_names
    with pytest.raises(ConfigError, match="are the same class"):
        finder.check_names(["ant", "Ant"])
    with pytest.raises(ConfigError, match="names no class"):
        finder.check_names([])
    file = tmp_path / "names.txt"
    file.write_text("cat\n")
    finder.check_names([str(file)])
    assert finder.named([str(file)]).names == (str(file),), "a name is never read as a file"


def test_the_score_that_was_chosen_on_val_is_told(detector):
    assert BoxFinder(detector).score == 0.3
    detector.cfg.vladapt["confidence"] = {"score": 0.45, "f1": 0.9, "images": 3}
    assert BoxFinder(detector).score == 0.45


def test_a_model_that_looks_at_given_regions_is_not_served(detector):
    detector.names_given_regions = True
    with pytest.raises(CapabilityError, match="finds none itself, so it is not served; use vladapt predict"):
        BoxFinder(detector)
