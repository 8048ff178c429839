"""The worklist: studies by urgency, with hashed ids."""

from __future__ import annotations

import csv
import hashlib

import pytest
import torch

from vladapt.core.contracts import Item
from vladapt.core.errors import ConfigError, UnknownNameError
from vladapt.core.registry.build import outputs_of

STUDY = "1.2.826.0.1.3680043.8.498.1"


def listed(kind, predicted, use, folder):
    (path,) = outputs_of(kind)[0].write(predicted, use, None, folder)
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_study_is_as_urgent_as_its_most_urgent_image(predicted, use, radiograph, series, tmp_path):
    made = predicted(
        {"a": [radiograph("a.dcm")], "s0": [series[0]], "s1": [series[1]], "p.png": [tmp_path / "p.png"]},
        [[0.6, 0.4], [0.9, 0.1], [0.3, 0.7], [0.55, 0.45]],
        called=torch.tensor([1, 0, 1, 0]),
        finding="pneumothorax",
        columns={"unlike": [False, True, False, False]},
    )
    rows = listed("worklist", made, use, tmp_path)
    assert [row["urgency"] for row in rows] == ["0.700000", "0.400000", "0.450000"]  # answers first
    assert [row["answer"] for row in rows] == ["yes", "yes", "no"] and [row["rank"] for row in rows] == ["1", "2", "3"]
    assert [row["images"] for row in rows] == ["2", "1", "1"] and [row["unlike"] for row in rows] == ["yes", "no", "no"]
    digest = {name: hashlib.sha256(name.encode()).hexdigest()[:16] for name in (STUDY, f"{STUDY}.5", "p.png")}
    assert [row["study"] for row in rows] == [
        *(f"study-{digest[uid]}" for uid in (STUDY, f"{STUDY}.5")),
        f"image-{digest['p.png']}",
    ]
    assert rows[0]["patient"] == rows[1]["patient"] != "" == rows[2]["patient"]


def test_of_several_labels_the_largest_and_of_classes_the_sum_is_urgent(predicted, use, tmp_path):
    names, sources = ("mass", "effusion", "clear"), {"a": [tmp_path / "a.png"], "b": [tmp_path / "b.png"]}
    probabilities = [[0.3, 0.35, 0.35], [0.5, 0.1, 0.4]]
    answers = torch.tensor([[False, False, True], [True, False, False]])
    several = listed("worklist", predicted(sources, probabilities, names, answers=answers), use, tmp_path)
    assert [(row["urgency"], row["finding"], row["answer"]) for row in several] == [
        ("0.500000", "mass", "yes"),
        ("0.350000", "clear", "yes"),
    ]
    classes = listed("worklist:urgent=mass,effusion", predicted(sources, probabilities, names), use, tmp_path)
    assert [(row["urgency"], row["finding"], row["answer"]) for row in classes] == [
        ("0.650000", "effusion", "yes"),
        ("0.600000", "mass", "yes"),
    ]


def test_images_of_a_patient_in_several_studies_are_called_by_their_row(predicted, use, radiograph, series, tmp_path):
    made = predicted(
        {"someone": [Item("a", radiograph("a.dcm")), Item("s", series[0])]}, [[0.6, 0.4]], finding="normal"
    )
    (row,) = listed("worklist", made, use, tmp_path)
    assert row["study"].startswith("image-") and row["patient"].startswith("patient-") and row["images"] == "2"


def test_what_is_urgent_must_be_a_class_and_known(use):
    use.run.info.class_names = ("mass", "effusion", "clear")
    with pytest.raises(UnknownNameError, match="urgent=masss: is no class of this run; did you mean mass"):
        outputs_of("worklist:urgent=masss")[0].check(use, None)
    with pytest.raises(ConfigError, match="tells 3 classes; name the urgent ones"):
        outputs_of("worklist")[0].check(use, None)
    outputs_of("worklist:urgent=mass")[0].check(use, None)
