"""The sample is a crowd: shapes hide parts of each other, and what is annotated is what is seen."""

import json

import numpy as np
import pytest

from vladapt.domains.open_vocab import shapes


def test_no_pixel_is_of_two_shapes():
    for number in range(20):
        _, things = shapes.draw_shapes(number)
        masks = np.array([mask for _, mask in things])
        assert masks.sum(axis=0).max() == 1


def test_shapes_hide_parts_of_others_but_never_more_than_half(monkeypatch):
    whole, hidden = {}, 0
    filled = shapes._filled
    monkeypatch.setattr(shapes, "_filled", lambda outline: whole.setdefault(len(whole), filled(outline)))
    for number in range(10):
        whole.clear()
        for _, seen in shapes.draw_shapes(number)[1]:
            around = [mask.sum() for mask in whole.values() if (seen <= mask).all()]
            assert seen.sum() >= shapes.SEEN * min(around)
            hidden += seen.sum() < min(around)
    assert hidden > 5


def test_some_shapes_have_no_name(monkeypatch):
    drawn = []
    outline_of = shapes.outline_of
    monkeypatch.setattr(
        shapes, "outline_of", lambda shape, *how, **more: drawn.append(shape) or outline_of(shape, *how, **more)
    )
    named = [shapes.NAMES[label].split()[1] for number in range(10) for label, _ in shapes.draw_shapes(number)[1]]
    assert "pentagon" in drawn and "pentagon" not in named


def test_the_encoding_of_a_mask_is_the_mask(monkeypatch, tmp_path):
    codec = pytest.importorskip("pycocotools.mask", reason="extra open-vocab is not installed")
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path))
    monkeypatch.setattr(shapes, "COUNTS", {"train": 5})
    written = json.loads((shapes.shapes_folder() / "instances_train.json").read_text())["annotations"]
    things = [thing for number in range(5) for thing in shapes.draw_shapes(number)[1]]
    for entry, (label, mask) in zip(written, things, strict=True):
        decoded = codec.decode(codec.frPyObjects(entry["segmentation"], *mask.shape)).astype(bool)
        assert entry["category_id"] == label + 1 and (decoded == mask).all() and entry["area"] == mask.sum()
        (x, y, width, height), (rows, columns) = entry["bbox"], np.nonzero(mask)
        assert (x, x + width, y, y + height) == (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1)
