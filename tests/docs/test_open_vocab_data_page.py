"""The page on boxes and masks states every rule that the readers count by, and its config works."""

import re
from pathlib import Path

import pytest

from vladapt.domains.open_vocab.data import boxes, coco_boxes, yolo

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "open-vocab-data.md").read_text()


@pytest.mark.parametrize(
    "sentence",
    [
        value
        for module in (boxes, coco_boxes, yolo)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str)
    ],
)
def test_every_note_is_on_the_page(sentence):
    assert sentence in PAGE


def test_the_config_of_the_page_is_built(data_dir):
    pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
    from vladapt.registry import DATASETS, METRICS

    block = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]
    config: dict = {}
    exec(block.replace("data/raccoon", str(data_dir / "detection_seg" / "raccoon")), config)
    train, test = (DATASETS.build(config[name]) for name in ("train", "test"))
    assert 0 < len(train) <= 16 and len(test) > 16 and train[0]["inputs"].shape[0] == 3
    assert METRICS.build(config["test_evaluator"]).novel is None
