"""Random erasing: a rectangle of a training picture is painted over, as if something stood before the person.

"Random Erasing Data Augmentation" (Zhong et al. 2017, arXiv 1708.04896), with the numbers of "Bag of Tricks and A
Strong Baseline for Deep Person Re-identification" (Luo et al. 2019, arXiv 1903.07071). What is erased is drawn as its
released code and torchreid's do, by the same calls of Python's `random`.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor

TRIES = 100
FILLS = ("mean", "released", "random")


@dataclass(frozen=True)
class RandomErasing:
    """What is erased, a pure function of the size and the generator.

    Args:
        probability: that anything is.
        area: smallest and largest share of the picture.
        aspect: smallest height over width; the largest is 1 / aspect.
        fill: "mean" paints the mean colour that pixels are normalised by. "released" puts the numbers of that mean
            where normalised pixels stand, as the code of BoT, torchreid and IRRA does, which is another colour.
            "random" draws each pixel evenly from all colours, as the paper proposes.
    """

    probability: float = 0.5
    area: tuple[float, float] = (0.02, 0.4)
    aspect: float = 0.3
    fill: str = "mean"

    def box(self, height: int, width: int, draw: random.Random) -> tuple[int, int, int, int] | None:
        """(top, left, height, width) of what is erased; None where nothing is, or none of 100 rectangles fits."""
        if draw.uniform(0, 1) >= self.probability:
            return None
        for _ in range(TRIES):
            pixels = draw.uniform(*self.area) * height * width
            aspect = draw.uniform(self.aspect, 1 / self.aspect)
            rows, columns = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
            if rows < height and columns < width:
                return draw.randint(0, height - rows), draw.randint(0, width - columns), rows, columns
        return None

    def __call__(self, pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...], draw: random.Random) -> Tensor:
        """The picture with a part painted over.

        Args:
            pixels: (C, H, W), normalised.
            mean, std: (C,) that they were normalised by, in 0..1.
        """
        box = self.box(*pixels.shape[-2:], draw)
        if box is None:
            return pixels
        top, left, rows, columns = box
        erased = pixels.clone()
        erased[:, top : top + rows, left : left + columns] = self._paint(pixels, mean, std, rows, columns, draw)
        return erased

    def _paint(self, pixels: Tensor, mean, std, rows: int, columns: int, draw: random.Random) -> Tensor:
        colour = pixels.new_tensor(mean)[:, None, None]  # (C, 1, 1)
        if self.fill == "mean":
            return torch.zeros_like(colour)
        if self.fill == "released":
            return colour
        generator = torch.Generator().manual_seed(draw.getrandbits(62))
        drawn = torch.rand(len(mean), rows, columns, generator=generator).to(pixels)
        return (drawn - colour) / pixels.new_tensor(std)[:, None, None]
