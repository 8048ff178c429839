"""The packaged features of a real CLIP."""

import json

import pytest
import torch

from vladapt import fit
from vladapt.core.errors import DataError
from vladapt.core.features import packaged
from vladapt.core.features.files import load_features
from vladapt.core.features.pair_files import load_pairs


def test_it_holds_what_its_page_says():
    file = load_features("sample")
    assert (file.features.features.shape, len(file.classifier)) == ((209, 512), 8)
    test = torch.tensor([split == "test" for split in file.split])
    assert int(test.sum()) == 106 and f"Its {int(test.sum())} test images" in packaged.NOTE
    logits = file.features.features @ file.classifier.weights.T
    right = (logits.argmax(dim=1) == file.features.labels)[test]
    assert 0.9 < float(right.double().mean()) < 1, "zero-shot leaves something to learn"
    beside = {each.name: each.stat().st_size for each in packaged.FOLDER.iterdir()}
    assert set(beside) == {"coco8.npz", "coco500.npz", "README.md", "LICENSE-MIT.txt"}
    assert sum(beside.values()) < 1_000_000


def test_the_pairs_are_a_real_clips_and_the_classes_are_rows_of_them():
    pairs, classes = load_pairs("sample"), load_features("sample")
    assert (pairs.images.shape, pairs.texts.shape) == ((500, 512), (500, 512))
    similarities = pairs.images @ pairs.texts.T
    own = torch.arange(500)
    found = [float((similarities.argmax(dim=dim) == own).double().mean()) for dim in (1, 0)]
    assert found == pytest.approx([0.552, 0.506], abs=0.005), "as its source tells"
    row_of = {name: row for row, name in enumerate(pairs.ids)}
    rows = pairs.images[[row_of[name] for name in classes.features.ids]]
    assert torch.allclose(rows, classes.features.features, atol=1e-6)


def test_a_fit_says_whose_they_are_and_what_they_cannot_show(tmp_path):
    run = fit(features="sample", adapter="tip-adapter", shots=2, out=tmp_path)
    data = json.loads((run.run / "run.json").read_text(encoding="utf-8"))["data"]
    assert (data["name"], data["licence"]) == (packaged.NAME, packaged.LICENCE)
    assert any(packaged.NOTE in note for note in run.notes)


def test_a_folder_of_that_name_is_told_apart_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sample").mkdir()
    assert len(load_features("sample").features) == 209
    with pytest.raises(DataError, match="sample"):
        load_features("./sample/")
