"""A small tower and clips to train it on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from vladapt import build_classifier, load_backbone
from vladapt.core.contracts import TrainingImages
from vladapt.domains.video.transforms import EachFrame

sys.path.insert(0, str(Path(__file__).parent))

from drawn_bars import IN_TOWER, SMALL, Problem, clip_item, draw


@pytest.fixture(scope="session")
def spec(tmp_path_factory):
    path = tmp_path_factory.mktemp("small-vit") / "vit.json"
    path.write_text(json.dumps(SMALL))
    return f"open_clip:{path}@random:0"


@pytest.fixture(scope="session")
def problem(spec):
    """Four clips of two classes that differ by the order of their frames, two more to choose on."""
    backbone = load_backbone(spec, device="cpu")
    backbone.model.token_embedding.weight.data.mul_(10)
    classifier = build_classifier(backbone, ("down", "up"), ["a clip of {}.", "{}"])
    transforms = EachFrame(backbone.preprocess(True)), EachFrame(backbone.preprocess(False))
    items, val = [clip_item(i) for i in range(4)], [clip_item(i) for i in range(4, 6)]
    images = TrainingImages(items, draw, *transforms, classifier.texts, None, ["a clip of {}.", "{}"], val)
    return Problem(backbone, classifier, images)


@pytest.fixture(scope="session")
def fitted(problem):
    return {name: problem.fit(name) for name in IN_TOWER}
