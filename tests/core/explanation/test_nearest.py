"""What a run keeps of its labelled images, and which of them a new image is near."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import safe_open, save_file

from vladapt.core.contracts.features import FeatureSet
from vladapt.core.contracts.items import Item
from vladapt.core.errors import CapabilityError, DataError
from vladapt.core.explanation.evidence import LABELLED, MOST_KEPT, LabelledImages, kept_rows
from vladapt.core.runs.redaction import Redaction

NAMES = ("cat", "dog")
FEATURES = torch.tensor([[2.0, 0, 0], [0, 3, 0], [0, 0, 1], [1, 1, 0]])


def labelled(labels=(0, 1, 1, 0), rows=(0, 1, 2, 3), total=4, ids=("a.png", "b.png", "c.png", "d.png")):
    kept = FeatureSet(FEATURES, torch.tensor(labels), NAMES, ids=ids)
    return LabelledImages.of(kept, rows, total, NAMES)


def test_the_nearest_come_first_with_labels_and_cosines():
    first, second = labelled().nearest(torch.tensor([[0, 5.0, 0], [7, 7, 0]]), 2)
    assert [(each.id, each.labels, each.similarity) for each in first] == [
        ("b.png", ("dog",), 1.0),
        ("d.png", ("cat",), pytest.approx(0.5**0.5, abs=1e-6)),
    ]
    assert second[0].id == "d.png" and len(labelled().nearest(FEATURES, 99)[0]) == 4


def test_several_labels_are_named_where_they_are_known_to_hold():
    several = labelled([[1.0, 1.0], [0.0, float("nan")], [0.0, 1.0], [1.0, 0.0]])
    assert [several.names(i) for i in range(3)] == [("cat", "dog"), (), ("dog",)]


def test_parts_of_a_score_are_shared_out_whole():
    parts = torch.tensor([[0.0, 6.0, -2.5, 0.0, 1.5]])
    some = labelled(rows=(0, 1, 2, 3), total=5)
    found = some.by_part(FEATURES[:1], parts)[0]
    assert [(each.row, each.part, each.share) for each in found] == [(1, 6.0, 0.6), (2, -2.5, 0.25), (4, 1.5, 0.15)]
    assert found[2].id == "labelled image 5" and found[2].similarity is None, "its features were not kept"
    assert [each.row for each in some.by_part(FEATURES[:1], parts, 1)[0]] == [1]


def test_a_run_folder_gives_back_what_was_written(tmp_path):
    items = [Item(name, tmp_path / name, {"slice": n}) for n, name in enumerate(labelled().ids)]
    made = labelled().with_places(items, ["0", "1", "2", "3"])
    made.save(tmp_path)
    again = LabelledImages.load(tmp_path)
    assert again.ids == made.ids and again.places == made.places and again.total == 4
    assert again.places[1]["decode"] == {"slice": 1}
    assert again.nearest(FEATURES[1:2])[0][0].id == "b.png"
    assert (tmp_path / LABELLED).stat().st_size < 2000
    assert LabelledImages.load(tmp_path / "elsewhere") is None


def test_images_that_are_no_files_have_no_places(tmp_path):
    items = [Item(name, tmp_path / name) for name in labelled().ids]
    assert labelled().with_places(items, ["0", "", "2", "3"]).places is None


def test_a_redacted_run_has_numbers_for_names_and_no_places(tmp_path):
    items = [Item(f"Meyer_{name}", tmp_path / name) for name in "abcd"]
    made = labelled(ids=tuple(item.id for item in items)).with_places(items, ["0", "1", "2", "3"])
    made.redacted(Redaction((item.id, item.source.name) for item in items)).save(tmp_path)
    assert b"Meyer" not in (tmp_path / LABELLED).read_bytes() and b"source" not in (tmp_path / LABELLED).read_bytes()
    assert LabelledImages.load(tmp_path).ids == ("sample 1", "sample 2", "sample 3", "sample 4")


@pytest.mark.parametrize("count", [1, MOST_KEPT, MOST_KEPT + 1, 10 * MOST_KEPT])
def test_of_many_images_evenly_some_are_kept(count):
    rows = kept_rows(count)
    assert 0.5 * min(count, MOST_KEPT) < len(rows) <= MOST_KEPT and rows[-1] < count
    assert len(rows) == count or rows[1] > 1


def test_features_of_another_backbone_are_refused():
    with pytest.raises(CapabilityError, match="7 wide, those of the labelled images 3"):
        labelled().nearest(torch.ones(1, 7))


@pytest.mark.parametrize(
    ("change", "tensors"),
    [
        ({"ids": ["a"]}, {}),
        ({"ids": [1, 2, 3, 4]}, {}),
        ({"class_names": ["cat"]}, {}),
        ({"total": 2}, {}),
        ({"format": 2}, {}),
        ({"places": [{"source": 3, "decode": {}, "digest": ""}] * 4}, {}),
        ({}, {"rows": torch.tensor([0, 0, 1, 2])}),
        ({}, {"labels": torch.tensor([0, 1, 2, 0])}),
        ({}, {"features": torch.full((4, 3), float("nan"))}),
    ],
)
def test_a_damaged_file_is_told_in_a_line(tmp_path, change, tensors):
    path = labelled().save(tmp_path)
    with safe_open(str(path), "pt") as file:
        header = {**json.loads(file.metadata()["vladapt"]), **change}
        tensors = {**{name: file.get_tensor(name) for name in ("features", "labels", "rows")}, **tensors}
    save_file(tensors, str(path), metadata={"vladapt": json.dumps(header)})
    with pytest.raises(DataError, match=r"labelled\.safetensors: damaged, .*fit again"):
        LabelledImages.load(tmp_path)
    path.write_bytes(b"no such thing")
    with pytest.raises(DataError, match="not a readable safetensors file"):
        LabelledImages.load(tmp_path)
