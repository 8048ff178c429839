"""benchmarks/compositional.py: the pairs that are trained on, and the table."""

import importlib
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from vladapt.core.bench.places import sets_at
from vladapt.core.data.pairs.compositions import KINDS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def proof():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("compositional")
    sys.path.remove(str(ROOT / "benchmarks"))


def test_no_scene_of_the_test_is_trained_on_and_negatives_are_right_of_their_own_image(proof, tmp_path):
    proof.write_pairs(tmp_path, 20, seed=5)
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert len(pairs) == 20 and {pair["image"].split("/")[1].split("-")[0] for pair in pairs} == set(KINDS)
    (asked,) = sets_at(["sample:composition"], {"composition": {"questions": proof.QUESTIONS}})
    tested = {text for each in asked.read(5)[1] for text in each.texts}
    trained = {text for pair in pairs for text in (*pair["caption"], *pair["negative"])}
    assert not tested & trained
    both = [json.loads(line) for line in (tmp_path / "both.jsonl").read_text().splitlines()]
    assert {(p["image"], *p["caption"]) for p in both} == {
        *((p["image"], *p["caption"]) for p in pairs),
        *((p["negative_image"], *p["negative"]) for p in pairs),
    }
    with Image.open(tmp_path / pairs[0]["negative_image"]) as image:
        assert image.size == (proof.SIDE, proof.SIDE)


def test_the_table_has_means_over_seeds(proof):
    keys = [(part, name) for part in ("", *KINDS, "named in turn") for name in ("text", "image", "group")]
    keys += [("", "first_named"), ("", "larger")]
    runs = [{" ".join(key): share for key in keys} for share in (0.2, 0.3, 0.4)]
    lines = proof.table({"clip": runs}).splitlines()
    assert lines[-1].startswith("| clip | 30.0 ± 24.8 |") and lines[-2].startswith("| guessing | 25.0 | 25.0 | 16.7 |")
    assert proof.mean_of([12.34]) == "12.3"
