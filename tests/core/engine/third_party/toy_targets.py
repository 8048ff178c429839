"""Third-party domains whose targets are labels, several labels, and labels of clips."""

import hashlib
from pathlib import Path

import numpy as np

from vladapt import Domain, DomainData, Item, Label, Labels

COLOURS = {"red": (0.9, 0.1, 0.1), "green": (0.1, 0.8, 0.2), "blue": (0.1, 0.2, 0.9)}


def drawn(item, colour, noise=0.1, size=(24, 24)):
    """A noisy patch of one colour."""
    rng = np.random.default_rng(item.decode["index"])
    return np.clip(np.array(colour) + rng.normal(0, noise, (*size, 3)), 0, 1).astype(np.float32)


def item_of(kind, index, target=None, group=None):
    digest = hashlib.sha256(f"{kind} {index}".encode()).hexdigest()
    return Item(f"{kind}-{index:03d}", Path(__file__), {"index": index, "digest": digest}, target, group)


class ToyLabels(Domain):
    """One colour an image."""

    name = "toy-labels"

    def read(self, path, task, **options):
        items = [item_of("labels", i, Label(i % 3)) for i in range(90)]
        return DomainData(items, tuple(COLOURS), self._draw, name="toy colours", licence="CC0-1.0")

    def sample(self, task):
        return self.read("sample", task)

    def templates(self, task):
        return ["a {} patch."]

    def _draw(self, item):
        return drawn(item, list(COLOURS.values())[item.target.index])


class ToyFindings(Domain):
    """None, one or two of two colours an image; one label in ten is unknown."""

    name = "toy-findings"

    def read(self, path, task, **options):
        items = []
        for i in range(120):
            labels = [float(i % 2), float(i // 2 % 2)]
            if i % 10 == 0:
                labels[0] = float("nan")
            items.append(item_of("findings", i, Labels(tuple(labels))))
        return DomainData(items, ("red", "green"), self._draw, kind="multilabel", name="toy findings")

    def sample(self, task):
        return self.read("sample", task)

    def templates(self, task):
        return ["a patch with {}."]

    def negative_templates(self, task):
        return ["a patch without {}."]

    def _draw(self, item):
        index = item.decode["index"]
        return drawn(item, (0.1 + 0.8 * (index % 2), 0.1 + 0.8 * (index // 2 % 2), 0.1))


class ToyClips(ToyLabels):
    """Clips of five frames of one colour."""

    name = "toy-clips"

    def read(self, path, task, **options):
        items = [item_of("clips", i, Label(i % 3), group=f"video {i // 3}") for i in range(60)]
        return DomainData(items, tuple(COLOURS), self._clip, kind="clips", name="toy clips")

    def transforms(self, backbone, train, task):
        return FrameByFrame(backbone.preprocess(train))

    def _clip(self, item):
        return np.stack([self._draw(item)] * 5)


class FrameByFrame:
    """(T, H, W, 3) -> (T, 3, S, S)."""

    def __init__(self, transform):
        self.transform = transform
        self.spec = {"frames": "all", "each": transform.spec}

    def __call__(self, clip, seed=None):
        import torch

        return torch.stack([self.transform(frame, seed) for frame in clip])
