"""Towers that see nothing but colour, so that what a crop shows can be told by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vladapt.core.contracts import Batch, FeatureSet, TextClassifier
from vladapt.core.contracts.features import Detection
from vladapt.core.prompts.classifier import build_classifier

COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0)}


class ColourTowers:
    """An image is its mean colour, a text the sum of the colours it names and of a hum all texts share."""

    spec, fingerprint, embed_dim = "colours", "colours", 3
    device = torch.device("cpu")
    logit_scale, logit_bias = torch.tensor(20.0), None

    def need_texts(self, method=""):
        """It has texts."""

    def check_channels(self, method, trains):
        """It sees three."""

    def preprocess(self, train=False):
        def mean_colour(image):
            array = np.asarray(image, dtype=np.float32)
            array = array / 255 if np.asarray(image).dtype == np.uint8 else array
            return torch.from_numpy(array.mean(axis=(0, 1)).reshape(3, 1, 1).astype(np.float32))

        return mean_colour

    def encode_image(self, pixels, normalize=True):
        rows = pixels.mean(dim=(2, 3))
        return F.normalize(rows, dim=-1) if normalize else rows

    def encode_text(self, texts, normalize=True):
        rows = [sum((torch.tensor(c) * (n in text) for n, c in COLOURS.items()), torch.full((3,), 0.01 * len(text)))
                for text in texts]  # fmt: skip
        rows = torch.stack(rows)
        return F.normalize(rows, dim=-1) if normalize else rows


@dataclass(frozen=True)
class Problem:
    """Towers, their classifier, a support of one image a class, and images to look at."""

    backbone: object
    classifier: TextClassifier
    support: FeatureSet
    images: tuple[np.ndarray, ...]

    def fit(self, adapter, seed=0, **resources):
        adapter.report = adapter.fit(
            self.support, self.classifier, backbone=self.backbone, resources=resources, seed=seed
        )
        return adapter

    def features(self, images=None) -> torch.Tensor:
        """Not normalised."""
        transform = self.backbone.preprocess()
        pixels = torch.stack([transform(image) for image in images or self.images])
        with torch.no_grad():
            return self.backbone.encode_image(pixels, normalize=False)

    def batch(self, images=None, **more) -> Batch:
        images = images or self.images
        return Batch(features=self.features(images), images=images, **more)

    def zero_shot(self, images=None) -> torch.Tensor:
        return self.classifier.logits(F.normalize(self.features(images), dim=-1))


def problem_of(backbone, names, images, templates=("a photo of a {}.",)) -> Problem:
    classifier = build_classifier(backbone, names, templates)
    features = classifier.weights.detach().clone()
    return Problem(backbone, classifier, FeatureSet(features, torch.arange(len(names)), tuple(names)), tuple(images))


def patch(ground, spot, box, size=(40, 60), noise=0, seed=0) -> np.ndarray:
    """(H, W, 3) uint8 of one colour with a box (x0, y0, x1, y1) of another."""
    image = np.zeros((*size, 3), dtype=np.float32) + np.array(COLOURS[ground], dtype=np.float32)
    x0, y0, x1, y1 = box
    image[y0:y1, x0:x1] = COLOURS[spot]
    shaken = image + noise * np.random.default_rng(seed).random(image.shape, dtype=np.float32)
    return np.clip(255 * shaken, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def colours() -> Problem:
    """Three images, each with a small patch of another colour at (10, 5)-(22, 17), and the middle one noisy."""
    box = (10, 5, 22, 17)
    images = [
        patch("blue", "red", box),
        patch("green", "blue", box, noise=0.5, seed=1),
        patch("red", "green", box, (48, 36)),
    ]
    return problem_of(ColourTowers(), ("red", "green", "blue"), images)


@pytest.fixture(scope="session")
def random_clip(small_clip) -> Problem:
    """A random tower, D = 24, on images of noise."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (24 + 8 * n, 40 - 4 * n, 3), dtype=np.uint8) for n in range(4)]
    return problem_of(small_clip, ("sea", "polka_dotted", "X-ray", "annual crop land"), images)


@pytest.fixture(scope="session")
def found():
    """found((x0, y0, x1, y1), score, label)."""

    def make(box, score=0.9, label="") -> Detection:
        return Detection(tuple(box), score, label)

    return make


@pytest.fixture(scope="session")
def embedded():
    """The default backbone, where its weights are installed."""
    from vladapt.core.backbones.load import load_backbone
    from vladapt.core.errors import CapabilityError

    try:
        backbone = load_backbone("embedded", device="cpu")
        backbone.encode_text(["a dog"])
    except CapabilityError as error:
        pytest.skip(str(error))
    return backbone


@pytest.fixture(scope="session")
def drawn_small():
    """drawn_small(things, side): drawings of things, each small in a large grey image, with where it lies."""
    from PIL import Image

    from vladapt.core.forgetting.drawings.things import draw

    def make(things, side=64, canvas=256):
        images, boxes = [], []
        for n, thing in enumerate(things):
            small = np.asarray(Image.fromarray(np.asarray(draw(thing, n))).resize((side, side)))
            image = np.full((canvas, canvas, 3), 128, dtype=np.uint8)
            x, y = (37 * n) % (canvas - side), (91 * n) % (canvas - side)
            image[y : y + side, x : x + side] = small
            images.append(image)
            boxes.append((x, y, x + side, y + side))
        return images, boxes

    return make


@pytest.fixture(scope="session")
def problem():
    """problem(backbone, names, images, templates)."""
    return problem_of
