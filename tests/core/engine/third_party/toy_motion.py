"""A third-party domain of clips whose classes only order can tell, and a method that looks at the order of parts."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from toy_targets import FrameByFrame

from vladapt import Adapter, Domain, DomainData, FitReport, Item, Label
from vladapt.core.contracts import require

SIDE, SQUARE = 24, 10
DIRECTIONS = ("moving left", "moving right")


class ToyMotion(Domain):
    """A bright square crosses the picture. Each path is there twice, forwards and backwards: the same frames."""

    name = "toy-motion"
    decoded = 0

    def read(self, path, task, **options):
        items = [motion(number, label) for number in range(40) for label in (0, 1)]
        return DomainData(items, DIRECTIONS, self._load, kind="clips", name="toy motion", licence="CC0-1.0")

    def read_images(self, paths, **options):
        """Paths like "left-7", "right-7" and "still-7": which way, and which path."""
        items = []
        for path in paths:
            way, _, number = str(path).partition("-")
            item = motion(int(number), int(way == "right")).with_(id=str(path), target=None)
            items.append(still(item) if way == "still" else item)
        return DomainData(items, (), self._load, kind="clips", name="clips")

    def sample(self, task):
        return self.read("sample", task)

    def templates(self, task):
        return ["a square {}."]

    def transforms(self, backbone, train, task):
        return OfFramesOrOne(backbone.preprocess(train))

    def _load(self, item):
        ToyMotion.decoded += 1
        frames = clip(item.decode["number"], item.decode["backwards"])
        return frames[0] if item.decode.get("still") else frames


class OfFramesOrOne(FrameByFrame):
    """Clips frame by frame; of a still the pixels of an image."""

    def __call__(self, decoded, seed=None):
        return self.transform(decoded, seed) if decoded.ndim == 3 else super().__call__(decoded, seed)


def motion(number, label):
    """One clip; the same path has the same frames in both directions."""
    backwards = label == 0
    digest = hashlib.sha256(f"motion {number} {backwards}".encode()).hexdigest()
    decode = {"number": number, "backwards": backwards, "digest": digest}
    return Item(f"motion-{number:03d}-{label}", Path(__file__), decode, target=Label(label), group=f"path {number}")


def still(item):
    """The first frame of a clip alone, as an image."""
    return item.with_(decode={**item.decode, "still": True})


def clip(number, backwards):
    """(T, H, W, 3) float32, T from 4 to 7: a square that moves from left to right, or the same frames backwards."""
    rng = np.random.default_rng(number)
    y, bright, length = rng.integers(0, SIDE - SQUARE), rng.uniform(0.8, 1.0), 4 + number % 4
    frames = np.zeros((length, SIDE, SIDE, 3), dtype=np.float32) + rng.uniform(0, 0.1)
    for frame, x in zip(frames, np.linspace(0, SIDE - SQUARE, length).round().astype(int)):
        frame[y : y + SQUARE, x : x + SQUARE] = bright
    return frames[::-1].copy() if backwards else frames


@dataclass(eq=False, kw_only=True)
class OrderOfParts(Adapter):
    """Ridge regression on how the features of a sample change from its first part to its last.

    Args:
        ridge: strength of the regularisation, in units of the mean squared change.
    """

    needs: ClassVar = frozenset({"parts"})
    at_predict: ClassVar = frozenset({"parts"})
    state: ClassVar = ("weight",)

    ridge: float = 1e-3

    def __post_init__(self):
        require(self.ridge > 0, "ridge", self.ridge, "give a number above 0")

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed):
        change = changes(support.parts, support.parts_mask)  # (N, D)
        wanted = 2 * support.one_hot() - 1  # (N, C)
        gram = change.T @ change
        gram += self.ridge * gram.trace() * torch.eye(len(gram), device=gram.device)
        self.weight = torch.linalg.solve(gram, change.T @ wanted).contiguous()  # (D, C)
        return FitReport("order-of-parts", chosen={"ridge": self.ridge})

    def _logits(self, batch):
        return changes(batch.parts, batch.parts_mask) @ self.weight  # (B, C)


def changes(parts, mask):
    """(N, T, D), (N, T) -> (N, D): the slope of the features over the parts that are there; 0 where there is one."""
    there = mask.float()
    place = (there.cumsum(dim=1) - 1) * there  # (N, T)
    place = (place - place.sum(dim=1, keepdim=True) / there.sum(dim=1, keepdim=True)) * there
    return torch.einsum("nt,ntd->nd", place, parts) / place.square().sum(dim=1, keepdim=True).clamp(min=1)
