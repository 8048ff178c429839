"""`vladapt eval --vocabulary-steps`: extensibility and stability of a run beside zero-shot's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.core.tasks.classification.growing_vocabulary import check_steps


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
    with pytest.raises(CapabilityError, match="one label per image"):
        check_steps(3, 5, several=True)
    with pytest.raises(ConfigError, match="give 2 to 5"):
        check_steps(1, 5, several=False)
