"""Pictures of test samples in a report. Of one with parts (frames of a clip, slices of a volume) some of them are shown
next to each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from ...errors import DataError
from ...runs.plots import data_uri, strip
from ...runs.sections import PictureSection

MOST_CLASSES = 12
STRIP, SHEET = 856, 418
"""Width in pixels of a strip, and of one of a contact sheet."""


@dataclass(frozen=True)
class SamplePictures:
    """Of the test samples.

    Args:
        load: row -> decoded image (H, W, 3), or (T, H, W, 3); None: there are no pictures.
        ids: names; may be empty.
    """

    load: Callable[[int], np.ndarray] | None
    ids: Sequence[str] = ()

    @cached_property
    def in_parts(self) -> bool:
        """Whether the samples have parts, by the first one."""
        first = self._decoded(0)
        return first is not None and first.ndim == 4

    def of(self, row: int) -> tuple[str | None, str]:
        """A sample as a data: address, None where it can no longer be read; and its name."""
        name = self.ids[row] if row < len(self.ids) else f"test image {row + 1}"
        image = self._decoded(row)
        if image is None:
            return None, name
        return (data_uri(strip(image), STRIP) if image.ndim == 4 else data_uri(image)), name

    def contact_sheet(self, labels: Tensor, class_names: Sequence[str]) -> PictureSection | None:
        """The first test sample of each class as a strip; None of images without parts.

        Args:
            labels: (N,) class indices.
        """
        if not len(labels) or not self.in_parts:
            return None
        first = {label: row for row, label in reversed(list(enumerate(labels.tolist())))}
        rows = [(first[label], name) for label, name in enumerate(class_names) if label in first][:MOST_CLASSES]
        shown = [(strip(image), name) for row, name in rows if (image := self._decoded(row)) is not None]
        note = "The first test sample of each class" + (
            f", of the first {MOST_CLASSES} classes." if len(first) > MOST_CLASSES else "."
        )
        return PictureSection("What the samples look like", shown, note, SHEET, columns=2) if shown else None

    def _decoded(self, row: int) -> np.ndarray | None:
        try:
            return None if self.load is None else np.asarray(self.load(row))
        except DataError:
            return None
