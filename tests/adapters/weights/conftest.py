"""Drawn images of a few colours, and small backbones to train on them."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch

from vladapt import FeatureSet, Item, Label, Labels, TextClassifier, build_classifier
from vladapt.core.contracts import TrainingImages

TESTS = Path(__file__).parents[2]
for _folder in (Path(__file__).parent, TESTS / "core" / "training"):
    sys.path.insert(0, str(_folder))

from toy_pairs import ToyPairs  # noqa: E402 (found by the lines above)

_spec = spec_from_file_location("small_models", TESTS / "core" / "backbones" / "conftest.py")
_models = module_from_spec(_spec)
_spec.loader.exec_module(_models)

open_clip_resnet, small = _models.open_clip_resnet, _models.small


@dataclass(frozen=True)
class Problem:
    """Images of classes that differ by colour."""

    support: FeatureSet
    classifier: TextClassifier
    images: TrainingImages
    backbone: object

    def fit(self, adapter, seed=1, images=None, **resources):
        given = {"images": images or self.images, **resources}
        return adapter.fit(self.support, self.classifier, backbone=self.backbone, resources=given, seed=seed)

    def pixels(self, items=None) -> torch.Tensor:
        images = self.images
        return torch.stack([images.eval_transform(images.load(item)) for item in items or images.items])


def draw(item):
    """A noisy square whose colour and brightness say its class."""
    index, label = item.decode["index"], item.decode["of"]
    colour = np.random.default_rng(label).integers(40, 215, 3)
    noise = np.random.default_rng(1000 + index).integers(-40, 40, (20, 20, 3))
    return np.clip(colour + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def make_problem(small_clip):
    """make_problem(classes=3, shots=4): `shots` is a number, or one a class."""

    def make(classes=3, shots=4, labels=None, backbone=small_clip, val=2) -> Problem:
        counts = [shots] * classes if isinstance(shots, int) else shots
        of = [label for label, count in enumerate(counts) for _ in range(count)]
        items = [_item(i, label, labels) for i, label in enumerate(of)]
        held = [_item(500 + i, i % classes, labels) for i in range(val * classes)]
        names = tuple(f"colour {i}" for i in range(classes))
        templates = ["a {} square.", "a picture of {}.", "{}"]
        negative = ["no {}."] if labels else None
        if backbone.has_text:
            classifier = build_classifier(backbone, names, templates, negative_templates=negative)
        else:
            classifier = TextClassifier.without_texts(names, backbone.embed_dim)
        images = TrainingImages(
            items,
            draw,
            backbone.preprocess(True),
            backbone.preprocess(False),
            classifier.texts or ((),) * classes,
            [[f"no {name}."] for name in names] if labels else None,
            templates,
            held,
        )
        found = [item.class_label() for item in items]
        with torch.no_grad():
            pixels = torch.stack([images.eval_transform(draw(item)) for item in items])
            features = backbone.encode_image(pixels, normalize=False)
        ids = tuple(item.id for item in items)
        support = FeatureSet(features, torch.tensor(found), names, ids=ids, backbone=backbone.fingerprint)
        return Problem(support, classifier, images, backbone)

    return make


def _item(index, of, labels) -> Item:
    target = Labels(labels(of)) if labels else Label(of)
    return Item(f"image-{index}", Path(__file__), {"index": index, "of": of}, target)


@pytest.fixture
def toy_pairs():
    """`toy_pairs(count=24)`."""
    return ToyPairs


@pytest.fixture(scope="session")
def base_state(small_clip):
    """The weights of the small backbone."""
    return copy.deepcopy(small_clip.model.state_dict())
