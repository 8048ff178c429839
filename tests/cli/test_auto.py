"""--adapter auto by the command line: with options that say how a fit is repeated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def rows(tmp_path) -> Path:
    """A features file of four classes with 40 rows each."""
    drawn, labels = np.random.default_rng(0), np.repeat(np.arange(4), 40)
    texts = drawn.normal(size=(4, 16))
    images = texts[labels] + 1.5 * drawn.normal(size=(160, 16))
    arrays = {"image_features": images.astype("f4"), "text_features": texts.astype("f4"), "labels": labels}
    np.savez(tmp_path / "rows.npz", class_names=np.array(["a", "b", "c", "d"]), **arrays)
    return tmp_path / "rows.npz"


def test_a_refit_keeps_the_table_and_the_reason(vladapt, rows):
    """The second fit has one candidate; why it is that one is known from the first."""
    few = ("--set", "adapter.candidates=ridge,nearest-mean,zero-shot")
    outcome = vladapt("fit", "--features", rows, "--adapter", "auto", "--shots", "8", "--refit", *few)
    assert outcome.code == 0, outcome.err
    (file,) = Path(outcome.out.partition("Run:")[2].split()[0]).glob("run.json")
    fit = json.loads(file.read_text())["fit"]
    assert [each["method"] for each in fit["judged"]] == ["ridge", "nearest-mean", "zero-shot"]
    assert "in cross-validation" in fit["notes"][0] and any("fitted again" in note for note in fit["notes"])
    assert "only candidate" not in outcome.out and "standard error" in outcome.out
