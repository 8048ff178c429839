"""Boxes of the detector before, and what is told of before and after: by models that answer what they are told."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from mmdet.structures import DetDataSample
from mmengine import Config
from mmengine.structures import InstanceData

from vladapt.core.contracts.items import Boxes, DomainData, Item
from vladapt.core.data.files import loader
from vladapt.core.data.images import IMAGE
from vladapt.domains.open_vocab.inference.detection import evaluate_detection
from vladapt.domains.open_vocab.inference.predictions import PredictedBoxes
from vladapt.domains.open_vocab.remembering.boxes import found_boxes, with_found
from vladapt.domains.open_vocab.remembering.memory import Memory

A, B, C = (2.0, 3.0, 22.0, 23.0), (30.0, 3.0, 39.0, 13.0), (4.0, 24.0, 20.0, 31.0)


class Told(nn.Module):
    """Finds the same in every image: (box, score, name); with a weight `w` of 1 it finds `later` in its place."""

    def __init__(self, names, found, later=None, remember=()):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))
        pipeline = [{"type": "vladapt.LoadItemImage"}, {"type": "mmdet.PackDetInputs", "meta_keys": ["img_id"]}]
        kept = {"classes": list(names), "novel": [], "notes": [], "test_pipeline": pipeline, "remember": list(remember)}
        self.cfg = Config({"default_scope": "vladapt", "vladapt": kept})
        self.names, self.found, self.later = list(names), found, later or found

    def test_step(self, batch):
        rows = self.later if self.w > 0.55 else self.found
        found = InstanceData(
            bboxes=torch.tensor([box for box, _, _ in rows]).reshape(-1, 4),
            scores=torch.tensor([float(score) for _, score, _ in rows]),
            labels=torch.tensor([self.names.index(name) for _, _, name in rows], dtype=torch.long),
        )
        samples = [DetDataSample() for _ in batch["inputs"]]
        for sample in samples:
            sample.pred_instances = found.clone()
        return samples


@pytest.fixture
def make(tmp_path):
    """make({split: boxes by name}, names) -> a set with an image per split."""

    def write(splits, names):
        items = []
        for split, objects in splits.items():
            path = tmp_path / f"{split}.png"
            Image.fromarray(np.full((32, 40, 3), 90, np.uint8)).save(path)
            boxes, labels = tuple(box for box, _ in objects), tuple(names.index(name) for _, name in objects)
            items.append(Item(path.name, path, split=split, target=Boxes(boxes, labels, size=(40, 32))))
        return DomainData(items, tuple(names), loader((IMAGE,)), kind="boxes", name="set")

    return write


def silent(done, total):
    pass


def test_what_is_found_of_some_names_is_numbered_as_in_the_data(make):
    data = make({"train": []}, ["emu", "garden_hose", "cat"])
    model = Told(["lorry", "Garden hose", "cat"], [(A, 0.9, "lorry"), (B, 0.8, "Garden hose"), (C, 0.7, "cat")])
    ((item, boxes),) = found_boxes(model, data, data.items, ["garden_hose"])
    assert item.id == "train.png" and boxes.labels.tolist() == [1]
    assert boxes.boxes.tolist() == [list(B)] and boxes.scores.tolist() == pytest.approx([0.8])


@pytest.mark.parametrize(("score", "labels"), [(0.5, (2, 0)), (0.95, (2,)), (0.1, (2, 0, 1))])
def test_sure_boxes_stand_beside_those_annotated_unless_they_are_of_the_same_thing(score, labels):
    item = Item("a", "a.png", target=Boxes((A,), (2,), ignored=(False,)))
    near = (2.0, 3.0, 22.0, 21.0)
    found = PredictedBoxes(np.array([near, B, C]), np.array([0.99, 0.9, 0.2]), np.array([0, 0, 1]))
    target = with_found(item, found, score).target
    assert target.labels == labels and target.boxes[: len(labels)] == (A, B, C)[: len(labels)]
    assert target.ignored == (False,) * len(labels) and target.segments is None


def test_outlines_come_along_where_the_data_have_them():
    outline = {"size": [32, 40], "counts": "x"}
    found = PredictedBoxes(np.array([B]), np.array([0.9]), np.array([0]), [outline])
    square = [[2.0, 3.0, 22.0, 3.0, 22.0, 23.0]]
    assert with_found(Item("a", "a.png", target=Boxes((A,), (1,), segments=(square,))), found, 0.5).target.segments == (
        square,
        outline,
    )
    assert with_found(Item("a", "a.png", target=Boxes((A,), (1,))), found, 0.5).target.segments is None
    assert with_found(Item("a", "a.png", target=Boxes()), found, 0.5).target.segments == (outline,)


def test_the_report_has_ap_before_and_after_and_agreement_where_nobody_marked_boxes(make):
    names = ["emu", "cat", "hose"]
    data = make({"test": [(A, "emu"), (B, "cat")]}, names)
    before = Told(["cat", "hose"], [(B, 0.9, "cat"), (C, 0.8, "hose")])
    after = Told(names, [(A, 0.9, "emu"), (A, 0.8, "cat"), (B, 0.7, "cat"), (C, 0.6, "hose")], remember=names[1:])
    told = evaluate_detection(after, data, silent, Memory(before, ("cat", "hose"), 0.5, "Weights are so."))
    assert told.metrics["remembered_AP_before"] == pytest.approx(1) and told.metrics["new_AP"] == pytest.approx(1)
    assert told.metrics["remembered_AP"] == pytest.approx(0.5)  # the surest cat is none
    assert told.metrics["agreement_AP50"] == pytest.approx(1)
    section = told.sections[0]
    assert section.title == "What it remembers" and [row[0] for row in section.rows] == ["cat", "hose"]
    assert section.rows[0][1:] == pytest.approx([1, 0.5, 0.5, 1]) and section.rows[1][1:3] == [None, None]
    assert "Weights are so." in told.notes and any(
        note.startswith("No test image has boxes of hose") for note in told.notes
    )


def test_a_later_evaluation_tells_old_and_new_apart_without_a_before(make):
    data = make({"test": [(A, "emu"), (B, "cat")]}, ["emu", "cat"])
    after = Told(["emu", "cat"], [(A, 0.9, "emu")], remember=["cat"])
    metrics = evaluate_detection(after, data, silent).metrics
    assert metrics["remembered_AP"] == 0 and metrics["new_AP"] == pytest.approx(1)
    assert "remembered_AP_before" not in metrics


@pytest.mark.parametrize("annotated", [True, False])
def test_weights_are_chosen_on_val_by_boxes_or_by_what_was_found_before(make, annotated):
    """From 0.6 on the emu is found, and of the cat only the second box is right."""
    names = ["emu", "cat"]
    data = make({"val": [(A, "emu"), *([(B, "cat")] if annotated else [])]}, names)
    cat = [(B, 0.9, "cat")]
    before = Told(["cat"], cat)
    model = Told(names, cat, [(A, 0.9, "emu"), (C, 0.9, "cat"), (B, 0.8, "cat")])
    nn.init.ones_(model.w)
    memory = Memory(before, ("cat",), 0.5)
    memory.mix(model, data, None, silent)
    assert model.w.item() == pytest.approx(1.0)  # half of the cat, all of the emu
    assert memory.chosen == "Weights are 100% those of the training and else those before it, chosen on val."
    model.later = [(C, 0.9, "cat")]
    memory.mix(model, data, None, silent)
    assert model.w.item() == pytest.approx(0.5)  # what still finds the cat; the new name is nowhere found


@pytest.mark.parametrize(
    ("least", "splits", "expected", "words"),
    [
        (64, ("val", "train"), 0.5, "chosen on val and 1 training image."),
        (64, ("train",), 0.5, "chosen on 1 training image."),
        (1, ("val", "train"), 1.0, "chosen on val."),
    ],
)
def test_where_val_is_small_training_images_choose_too(make, monkeypatch, least, splits, expected, words):
    """Of the cat, lost from 0.6 on, val tells nothing: the detector before finds none of its own there."""
    monkeypatch.setattr("vladapt.domains.open_vocab.remembering.memory.LEAST", least)
    objects = {"val": [(A, "emu"), (C, "cat")], "train": [(A, "emu")]}
    found = [(B, 0.9, "cat"), (A, 0.8, "emu")]
    model, before = Told(["emu", "cat"], found, [(A, 0.9, "emu")]), Told(["cat"], found[:1])
    nn.init.ones_(model.w)
    memory = Memory(before, ("cat",), 0.5)
    memory.mix(model, make({split: objects[split] for split in splits}, ["emu", "cat"]), None, silent)
    assert model.w.item() == pytest.approx(expected) and memory.chosen.endswith(words)


def test_weights_as_given_or_a_half_without_images(make):
    data = make({"test": [(A, "emu")]}, ["emu", "cat"])
    for alpha, expected, words in ((0.3, 0.3, "as given"), (None, 0.5, "for want of images")):
        model = Told(["emu", "cat"], [])
        nn.init.ones_(model.w)
        memory = Memory(Told(["cat"], []), ("cat",), 0.5)
        memory.mix(model, data, alpha, silent)
        assert model.w.item() == pytest.approx(expected) and words in memory.chosen
