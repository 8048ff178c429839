"""`vladapt eval --vocabulary-steps`: extensibility and stability of a run beside zero-shot's."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.core.registry import build_judgement, judgement_class


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory) -> Path:
    """200 rows of five classes in 8 dimensions, whose texts are near those of their neighbours."""
    rng, labels = np.random.default_rng(0), np.arange(200) % 5
    features = rng.normal(size=(200, 8)) + 2 * np.eye(8)[labels]
    texts = np.eye(8)[:5] + 0.8 * np.eye(8)[[1, 2, 3, 4, 0]]
    path, names = tmp_path_factory.mktemp("rows") / "rows.npz", np.array(list("abcde"))
    np.savez(path, image_features=features.astype("f4"), labels=labels, text_features=texts, class_names=names)
    return path


def test_eval_says_how_a_run_stands_a_growing_vocabulary(vladapt, rows_file, tmp_path):
    made = vladapt("fit", "--features", rows_file, "--adapter", "ridge", "--shots", 8, "--json").json
    there = tmp_path / "there"
    told = vladapt("eval", made["run"], "--vocabulary-steps", 3, "--out", there, "--json").json
    grown = told["vocabulary"]
    assert grown["steps"] == 3 and grown["classes_by_step"][-1] == 5
    for side in ("zero_shot", "adapted"):
        of = grown[side]
        assert of["extensibility_by_step"][-1] == pytest.approx(told[side]["accuracy"])
        assert of["extensibility_by_step"][0] == pytest.approx(of["closed"])
        assert of["closed"] > of["extensibility"] > told[side]["accuracy"] and of["closed"] > of["stability"]
    assert grown["adapted"]["stability"] != grown["zero_shot"]["stability"]
    assert json.loads((there / "metrics.json").read_text())["vocabulary"] == grown
    page = (there / "report.html").read_text()
    assert "A vocabulary that grows in 3 steps" in page and f"{grown['adapted']['stability']:.1%}" in page

    words = vladapt("eval", made["run"], "--vocabulary-steps", 3, "--out", there).out
    assert "A vocabulary that grows in 3 steps" in words and f"{grown['adapted']['extensibility']:.1%}" in words


def test_steps_that_cannot_be_scored_are_refused():
    one, several = SimpleNamespace(multilabel_=False), SimpleNamespace(multilabel_=True)
    with pytest.raises(CapabilityError, match="--vocabulary-steps 3: only for one label per image"):
        build_judgement("growing-vocabulary", vocabulary_steps=3).check(several, "abcde")
    with pytest.raises(ConfigError, match="--vocabulary-steps 1: give 2 to 5"):
        build_judgement("growing-vocabulary", vocabulary_steps=1).check(one, "abcde")
    build_judgement("growing-vocabulary").check(several, "abcde")


def test_what_a_growing_vocabulary_cost_is_read_from_a_file():
    grown = {"closed": 0.9, "extensibility": 0.7, "stability": 0.8}
    grown |= {"extensibility_by_step": [0.9, 0.5], "stability_by_step": [0.8]}
    told = {"steps": 2, "trials": 3, "classes_by_step": [2.5, 5.0], "zero_shot": None, "adapted": grown}
    record = judgement_class("growing-vocabulary").record.from_json({"vocabulary": told})
    assert record.to_json() == {"vocabulary": told} and record["adapted"].stability == 0.8
    assert record.section().rows[-1] == ["mean", "70.0%", "80.0%"]
