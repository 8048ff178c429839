"""benchmarks/person.py on a tiny set of the public ones' form; how benchmarks/person_proof.py makes and compares."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vladapt.core.metrics.retrieval import TEXT_TO_IMAGE, rankings
from vladapt.core.tasks.retrieval.scoring import DomainPairs, RetrievalScores
from vladapt.domains.person.drawn_pedestrians import drawn_pedestrians
from vladapt.domains.person.tasks.person_search import PeoplePairs

ROOT = Path(__file__).resolve().parents[2]
SIZE = {"size": (32, 16), "val": 2, "test": 3}


@pytest.fixture
def script(monkeypatch):
    """`script(name)`: a script of `benchmarks/`."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    return importlib.import_module


def test_a_set_is_trained_on_beside_published_numbers(script, small_clip_spec, tmp_path, monkeypatch, capsys):
    cuhk, entries = tmp_path / "person" / "cuhk_pedes", []
    data = drawn_pedestrians(8, 2, 2, **SIZE)
    for item in data.items:
        name = f"{item.id.replace('/', '_')}.png"
        (cuhk / "imgs").mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.load(item)).save(cuhk / "imgs" / name)
        number = item.decode["identity"] + 1
        entry = {"split": item.split, "captions": list(item.target.texts), "file_path": name, "id": number}
        entries.append({**entry, "processed_tokens": []})
    (cuhk / "reid_raw.json").write_text(json.dumps(entries))
    person = script("person")
    monkeypatch.setattr(person, "DATA", tmp_path)
    monkeypatch.chdir(tmp_path)
    sets = ["adapter.epochs=1", "adapter.batch_size=4"]
    person.main(
        ["--backbone", small_clip_spec, "--recipes", "clip", *(word for each in sets for word in ("--set", each))]
    )
    lines = capsys.readouterr().out.splitlines()
    assert "| IRRA | ViT-B/16 | 73.38 (66.13) | 63.46 (38.05) | 60.20 (47.17) | its README |" in lines
    (ours,) = [line for line in lines if line.startswith("| ours: clip")]
    assert ours.count("–") == 2
    (run,) = (tmp_path / "runs").iterdir()
    adapted = json.loads((run / "metrics.json").read_text())["adapted"]
    assert f"| {100 * adapted['text_to_image/r1']:.2f} ({100 * adapted['text_to_image/map']:.2f}) |" in ours


def test_wrong_pairs_are_captions_of_others(script):
    proof = script("person_proof")
    rows = PeoplePairs.of(DomainPairs.of(drawn_pedestrians(10, 3, **SIZE))).split("train").by_caption()
    wrong = proof.with_wrong_pairs(rows, 0.2, seed=1)
    changed = [a.target.texts != b.target.texts for a, b in zip(rows.items, wrong.items)]
    assert sum(changed) == round(0.2 * len(rows)) and list(wrong.labels) == list(rows.labels)
    assert sorted(i.target.texts for i in rows.items) == sorted(i.target.texts for i in wrong.items)
    assert proof.with_wrong_pairs(rows, 0.2, seed=1) == wrong != proof.with_wrong_pairs(rows, 0.2, seed=2)


def test_methods_are_compared_query_by_query(script):
    proof = script("person_proof")
    labels = torch.arange(40) // 2
    good = torch.eye(40) + 0.1 * torch.eye(40).flip(1)
    scores = [_scores(good, labels), _scores(torch.roll(good, 2, dims=1), labels)]
    cells = proof._compared(scores[:1], scores[1:])
    difference, _, p_value = cells.split(" | ")
    assert float(difference) == 100.0 and float(p_value) < 0.01
    difference, interval, p_value = proof._compared(scores[:1], scores[:1]).split(" | ")
    low, high = map(float, interval.split(" to "))
    assert (difference, float(p_value)) == ("+0.0", 1) and low == -high < 0
    assert proof._cell([_with(0.25), _with(0.75)], "r1") == f"50.0 ± {np.std([25, 75], ddof=1):.1f}"


def _with(r1):
    return RetrievalScores({TEXT_TO_IMAGE: {"r1": r1}}, {}, ())


def _scores(similarity, labels):
    ranked = rankings(similarity, torch.eye(len(labels)), labels, labels)
    return RetrievalScores({}, {TEXT_TO_IMAGE: ranked}, (), units={TEXT_TO_IMAGE: labels})


def test_parts_left_out_are_named(script):
    proof = script("person_proof")
    assert {name for pair in proof.COMPARED for name in pair} <= set(proof.METHODS)
    assert proof.METHODS["no-words"].options["words"] == 0 and proof.METHODS["rde-wrong"].wrong == proof.WRONG


@pytest.mark.thorough
def test_the_towers_that_all_rows_start_from(script, monkeypatch):
    proof, gradients = script("person_proof"), script("person_gradients")
    towers, people = proof.Joined(image_size=proof.SIZE), proof.drawn(3, 0, proof.OTHERS)
    assert towers.tokenize(["a red coat"]).shape == (1, proof.LONGEST)
    image = towers.encode_image(torch.rand(1, 3, *proof.SIZE))
    assert not image[:, -1280:].any() and image.norm() == pytest.approx(1)  # in the space of texts, whole
    assert float(towers.logit_scale) == pytest.approx(15)
    monkeypatch.setattr(gradients, "PARTS", {"sdm": ("sdm",), "irra": ("sdm", "identity")})
    lengths_and_cosines = gradients.compared(towers, people)
    lengths, cosines = lengths_and_cosines["clip"]
    assert min(lengths) > 0 and cosines == pytest.approx([1, 1], abs=1e-3)
    (sdm, _), (whole, _) = lengths_and_cosines["sdm"], lengths_and_cosines["irra"]
    assert sdm != whole and not any(each.requires_grad for each in towers.model.parameters())
