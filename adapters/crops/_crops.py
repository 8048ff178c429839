"""What methods on crops share: they learn nothing from labels, and run the image tower on parts of each image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...core.contracts import Adapter, Backbone, Batch, option
from ...core.errors import CapabilityError
from ...core.features import cores

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in whole pixels, the last two not included."""


@dataclass(eq=False, kw_only=True)
class CropAdapter(Adapter):
    """Base of the methods that look at parts of images. A method says which parts, and what their features make.

    Raises:
        ConfigError: an option out of range.
        CapabilityError: at prediction, a batch without decoded images, or with clips.
    """

    cost_options: ClassVar[frozenset[str]] = frozenset({"crops_at_once"})

    crops_at_once: int = option(
        32, "crops encoded together; changes speed and memory, no result", low=1, high=1_048_576
    )

    def _images(self, batch: Batch) -> Sequence[Any]:
        if batch.images is None:
            raise CapabilityError(
                f"adapter '{self.name}' looks at parts of images; pass decoded ones as Batch(images=...)"
            )
        if batch.features is not None and len(batch.images) != len(batch.features):
            raise CapabilityError(
                f"{len(batch.images)} images for {len(batch.features)} rows of features; give one image per row"
            )
        return batch.images

    def _picture(self, image: Any) -> np.ndarray:
        """(H, W, 3) or (H, W)."""
        array = np.asarray(image)
        if array.ndim not in (2, 3):
            raise CapabilityError(
                f"adapter '{self.name}' cuts single images, and this is a clip or volume of shape {array.shape}; "
                "choose a method that works on features"
            )
        return array

    def _encoded(self, parts: Iterable[np.ndarray], batch: Batch, device: torch.device) -> Iterator[Tensor]:
        """(D,) unit features of parts of images, in their order, by the transform of the batch."""
        transform = batch.transform or self.towers.preprocess()
        return encode_parts(self.towers, transform, parts, self.crops_at_once, device)

    def _device(self, batch: Batch) -> torch.device:
        """Where logits are made: beside the features, else beside what was fitted."""
        return self.text.device if batch.features is None else batch.features.device


def cut(image: np.ndarray, box: Box) -> np.ndarray:
    """The part of an image (H, W, ...) inside a box."""
    x0, y0, x1, y1 = box
    return image[y0:y1, x0:x1]


def encode_parts(
    backbone: Backbone,
    transform: Callable[[Any], Tensor],
    parts: Iterable[np.ndarray],
    at_once: int,
    device: torch.device,
) -> Iterator[Tensor]:
    """(D,) unit features on `device`, in the order of the parts; pixels of at most `at_once` of them are held.

    Args:
        transform: a part -> pixels (3, S, S); called in threads.
    """
    parts = iter(parts)
    with ThreadPoolExecutor(cores(), thread_name_prefix="crop") as threads:
        while chunk := list(islice(parts, at_once)):
            pixels = torch.stack(list(threads.map(transform, chunk)))  # (n, 3, S, S)
            with torch.no_grad():  # not around the yield: it would hold in the caller too
                rows = backbone.encode_image(pixels.to(backbone.device)).to(device)  # (n, D)
            yield from rows
