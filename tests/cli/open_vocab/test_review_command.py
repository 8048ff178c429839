"""`vladapt review DIR` without its page: decisions are written, and what cannot be reviewed is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pycocotools", reason="extra open-vocab is not installed")


@pytest.fixture(scope="module")
def labelled(place) -> Path:
    folder = place / "labelled"
    (folder / "images").mkdir(parents=True)
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "crack"}]}
    for number in (1, 2):
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(folder / "images" / f"{number}.png")
        entry = {"id": number, "file_name": f"{number}.png", "width": 30, "height": 20, "source": "model"}
        content["images"].append(entry)
        box = {
            "id": number,
            "image_id": number,
            "category_id": 1,
            "bbox": [1, 2, 5, 6],
            "source": "model",
            "score": 0.5,
        }
        content["annotations"].append(box)
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


def test_decisions_are_applied_and_counted(command, labelled):
    decision = {"image": "2.png", "boxes": [{"name": "crack", "corners": [1, 2, 6, 8], "outline": None}], "accepted": 1}
    (labelled / "review.jsonl").write_text(json.dumps({**decision, "dropped": 0}) + "\n")
    told = command("review", labelled, "--apply", "--json").json
    assert told == {"unreviewed": 1, "images": 1, "accepted": 1, "dropped": 0}
    content = json.loads((labelled / "instances.json").read_text())
    assert [entry["source"] for entry in content["annotations"]] == ["model", "person"]
    outcome = command("review", labelled, "--apply")
    assert outcome.code == 0 and "1 of 2 images reviewed; boxes: accepted 1, corrected 0" in outcome.out


def test_what_is_no_folder_of_labels_is_told_in_one_line(command, place):
    assert "holds no labels" in command("review", place / "nothing", "--apply").error
