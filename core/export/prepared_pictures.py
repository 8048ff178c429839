"""Pictures of a data set as a tower takes them, and as predict.py prepares the same files."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..contracts.items import Item
from ..data.images import IMAGE
from .folder import script_picture

AT_ONCE = 16
"""Images of a batch."""
UNDECODED = frozenset({"max_pixels"})
"""Keys of `Item.decode` that change no pixel."""
CLIP = "clip"
"""The transform that the script knows; see `Preprocess.spec`."""


@dataclass(frozen=True)
class PreparedPictures:
    """Pictures, decoded when they are asked for.

    Args:
        load: item -> its picture, decoded.
        transform: decoded picture -> pixels for the tower, with a JSON-able `spec`.
        channels: of the tower, where it takes others than red, green and blue; else None.
    """

    load: Callable[[Item], Any]
    transform: Any
    channels: Any = None

    def pixels(self, item: Item) -> Tensor:
        """(3, H, W) as the tower takes them; with another axis in front where a sample has several pictures."""
        return self.transform(self.load(item))

    def batches(self, items: Sequence[Item]) -> Iterator[tuple[Sequence[Item], Tensor]]:
        """Some items after the others, and their pixels (B, 3, H, W)."""
        for start in range(0, len(items), AT_ONCE):
            some = items[start : start + AT_ONCE]
            yield some, torch.stack([self.pixels(item) for item in some])

    @property
    def scripted(self) -> bool:
        """Whether predict.py can prepare them."""
        return self.transform.spec.get("transform") == CLIP and self.channels is None

    def of_script(self, items: Sequence[Item], pixels: Tensor) -> np.ndarray:
        """(B, 3, H, W) of files as predict.py sees them; of a picture that is no file of its own, what follows
        decoding."""
        if not self.scripted:
            return pixels.numpy()
        script = importlib.import_module(".standalone", __package__)
        made = []
        for item in items:
            file = not item.decode.keys() - UNDECODED and item.source.suffix.lower() in IMAGE.suffixes
            picture = script.decoded(item.source) if file else script_picture(self.load(item))
            made.append(script.pixels(picture, self.transform.spec)[0])
        return np.stack(made)
