"""What every task of core keeps, by the checks of `vladapt.testing`: one that it says, fits, and does with its run.

Detection and segmentation by names are held to the same in tests/domains/open_vocab/test_tasks.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vladapt import load_domain
from vladapt.core.registry import task_class
from vladapt.testing import check_task

pytest.importorskip("open_clip", reason="extra open-clip is not installed")


@pytest.mark.thorough
def test_classification(tmp_path):
    """On a few drawings, which are cheaper than the sample of a domain."""
    for number in range(24):
        draw(tmp_path / ("cat", "dog")[number % 2] / f"{number}.png", number)
    check_task(task_class("classification"), load_domain("medical"), data=str(tmp_path), shots=2)


def test_classification_of_a_features_file(tmp_path):
    generator = np.random.default_rng(0)
    centres, labels = generator.normal(size=(3, 12)), np.arange(60) % 3
    features = centres[labels] + 0.5 * generator.normal(size=(60, 12))
    texts, names = centres + 0.5 * generator.normal(size=(3, 12)), np.array(["a", "b", "c"])
    file = tmp_path / "features.npz"
    np.savez(file, image_features=features, labels=labels, text_features=texts, class_names=names)
    check_task(task_class("classification"), features=str(file), shots=2, adapter="linear-probe")


@pytest.fixture
def pairs(tmp_path):
    """A table of 24 drawn images, each with a text; and two generic classes, which are cheaper than all drawn ones."""
    lines = ["image,caption"]
    for number in range(24):
        draw(tmp_path / f"{number}.png", number)
        lines.append(f"{number}.png,drawing number {number}")
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    for number in range(8):
        draw(tmp_path / "generic" / ("cat", "dog")[number % 2] / f"{number}.png", number)
    return {"data": str(tmp_path / "pairs.csv"), "generic": str(tmp_path / "generic")}


def draw(file, number):
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 255, (20, 20, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file)


def test_retrieval(pairs):
    check_task(task_class("retrieval"), **pairs, adapter={"name": "lora", "epochs": 1})


def test_pretraining(pairs):
    check_task(task_class("pretraining"), **pairs, epochs=1, batch_size=8)
