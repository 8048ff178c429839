"""How many of the classes seem to occur among images without labels, as far as predictions tell."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

FEW = 0.82
"""Predictions that spread less than this share of what images of all classes would give speak of absent classes. It is
the largest that errs in at most 10 % of batches of 32 images and more with all classes, on the CLIP features of
docs/measurements/adapters.md."""
ENOUGH = 8192
"""Images whose predictions tell as much as those of more."""
STEPS, ROWS = 50, 2048  # of the estimate of how many classes there are
TINY = 1e-30


@dataclass(frozen=True)
class Presence:
    """What predictions tell of the classes that occur.

    Args:
        classes: C.
        spread: effective number of classes of the mean prediction, over that of Q images of all classes.
        present: how many classes of equal size would spread predictions as much, at least 1; all, unless the spread
            speaks of few. More classes occur where their sizes are unequal.
    """

    classes: int
    spread: float
    present: int

    @property
    def few(self) -> bool:
        """Whether many of the classes seem to be absent, or very rare."""
        return self.spread < FEW

    def notes(self, method: str, images: int, assumes: str = "", stands_absent: bool = False) -> list[str]:
        """What a fit says of the classes: a warning where few of them seem to occur, else what the method assumes.

        Args:
            method: its name. images: how many there are in all.
            assumes: of the images, after "assumes that".
            stands_absent: whether the method is made for sets that lack many of the classes.
        """
        if not self.few:
            present = f"all {self.classes} classes seem to occur among the {images} images"
            return [f"{method} assumes that {assumes}; {present}"] if assumes else []
        seen = (
            f"some of the {self.classes} classes seem to be absent or rare among the {images} unlabelled images, whose "
        )
        seen += f"predictions spread as over {self.present} classes of equal size"
        if stands_absent:
            return [f"{seen}; '{method}' is made for that; more images of each class help it most"]
        cure = "use stat-a, or give more images of all classes at once"
        return [f"{seen}; '{method}' spreads images over all classes and is then often worse than zero-shot; {cure}"]


def presence(logits: Tensor) -> Presence:
    """The spread of predictions of unlabelled images over the classes, against that of images of all classes.

    The effective number of classes is exp of the entropy of the mean prediction. Q images of C equally frequent classes
    give less than C by chance, the less the more predictions differ from image to image: for unsure predictions, of
    which each is spread over several classes, the chance is that of more images (Q over the variance of predictions as
    a share of that of sure ones).

    Args:
        logits: (Q, C) of zero-shot, or of what else is believed before the images are looked at together; of very many
            images `ENOUGH`, evenly spaced.
    """
    count, classes = logits.shape
    y = logits.detach().double().softmax(dim=1)
    mean = y.mean(dim=0)  # (C,)
    effective = _effective(mean)
    varying = float((y.var(dim=0, correction=0) / mean.clamp_min(TINY)).sum())
    sure = min(1.0, max(1e-3, varying / (effective - 1))) if effective > 1 + 1e-9 else 1.0
    expected = _expected(classes, count / sure)
    spread = effective / expected
    return Presence(classes, spread, _present(y) if spread < FEW else classes)


def _effective(shares: Tensor) -> float:
    """exp of the entropy: C where all of C classes have the same share, 1 where one has all."""
    shares = shares[shares > 0]
    return math.exp(-float((shares * shares.log()).sum()))


def _expected(classes: int, images: float) -> float:
    """The effective number of classes of images drawn from all classes with equal probabilities: exp of the mean
    entropy of their counts, which are multinomial."""
    if classes < 2:
        return 1.0
    if images > 50 * classes:
        return classes * math.exp(-(classes - 1) / (2 * images))
    total = max(1, round(images))
    n = torch.arange(2, total + 1, dtype=torch.float64)
    whole = torch.tensor(float(total), dtype=torch.float64)
    log_ways = torch.lgamma(whole + 1) - torch.lgamma(n + 1) - torch.lgamma(whole - n + 1)
    chance = (log_ways - n * math.log(classes) + (whole - n) * math.log1p(-1 / classes)).exp()  # of n images of a class
    return math.exp(math.log(total) - classes * float((chance * n * n.log()).sum()) / total)


def _present(y: Tensor) -> int:
    """The effective number of classes of the shares under which predictions are likeliest, by expectation-maximisation:
    a class that images only resemble a little loses its share to those that they are of."""
    y = y[:: -(-len(y) // ROWS)].float()
    shares = y.new_full((y.shape[1],), 1 / y.shape[1])
    for _ in range(STEPS):
        of_image = y * shares
        shares = (of_image / of_image.sum(dim=1, keepdim=True).clamp_min(TINY)).mean(dim=0)
    return max(1, round(_effective(shares)))
