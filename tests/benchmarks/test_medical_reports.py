"""benchmarks/medical_reports.py: its command line, its studies and the towers that all recipes start from."""

import csv
import importlib
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def proof(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    return importlib.import_module("medical_reports")


def test_all_recipes_are_asked_unless_some_are_named(proof):
    assert proof.parsed(["--store", "s"]).recipes == list(proof.RECIPES) == list(proof.ASKED)
    assert proof.parsed(["--store", "s", "gloria"]).recipes == ["gloria"]
    with pytest.raises(SystemExit):
        proof.parsed(["--store", "s", "glory"])


def test_studies_have_reports_findings_and_boxes_of_the_same_images(proof, tmp_path):
    folder = proof.set_of(tmp_path / "set", 3, {"train": 5, "val": proof.NONE, "test": 2})
    rows, boxes, findings = (
        list(csv.DictReader((folder / name).open()))
        for name in ("reports/table.csv", "phrases/phrases.csv", "findings.csv")
    )
    assert [row["split"] for row in rows] == ["train"] * 5 + ["val"] + ["test"] * 2
    names = {row["study_id"] for row in rows}
    assert {box["patient"] for box in boxes} <= names and {each["study"] for each in findings} <= names
    for box in boxes:
        assert (folder / "phrases" / "images" / box["image"]).is_file()
        [row] = [row for row in rows if row["study_id"] == box["patient"]]
        assert row[box["finding"]] == "1" and row["split"] == box["split"]


def test_a_seed_has_the_text_tower_that_learned_words_and_an_image_tower_of_its_own(proof, tmp_path, monkeypatch):
    vision, text = ({**proof.TOWERS[part], "width": 8, "layers": 1} for part in ("vision_cfg", "text_cfg"))
    vision["head_width"] = 4
    monkeypatch.setattr(proof, "TOWERS", {"embed_dim": 8, "vision_cfg": vision, "text_cfg": text})
    for name in ("words", "0"):
        (tmp_path / name).mkdir()
    proof.towers_of(tmp_path / "0", 0, proof.towers_of(tmp_path / "words", proof.WORDS_SEED))
    learned, own = (load_file(tmp_path / name / "towers.safetensors") for name in ("words", "0"))
    same = {name for name, value in own.items() if torch.equal(value, learned[name])}
    assert {name for name in own if not name.startswith("visual.")} <= same
    assert not same & {"visual.conv1.weight", "visual.proj", "visual.positional_embedding"}


def test_a_cell_counts_the_seeds_whose_lower_limit_is_above_guessing(proof):
    answers = {"clip": {"findings": [proof.Answer(0.7, 0.6, 0.5), proof.Answer(0.55, 0.45, 0.5)]}}
    assert "| `clip` | 0.625 (1 of 2) |  |  |" in proof.table(answers)
