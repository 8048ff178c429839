"""What images have beyond red, green and blue, for towers that were trained on these three."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

RGB = 3
ZERO, MEAN, TRAINED = "zero", "mean", "trained"
STARTS = (ZERO, MEAN)
"""How channels beyond the third start in a tower that was trained on three."""


@dataclass(frozen=True)
class InputChannels:
    """Four or more channels of an image, for towers that were trained on red, green and blue.

    Args:
        names: of the channels in their order; the first three are what the tower sees as red, green and blue.
        start: "zero", the further channels change nothing until they are trained; "mean", they start with the mean of
            the weights for red, green and blue, and all channels are scaled by 3 / number of channels; "trained", in
            a file of weights that were trained on these channels.
        advice: what a user can give where nothing trains them, for messages.
    """

    names: tuple[str, ...]
    start: str = ZERO
    advice: str = "three channels"

    def __len__(self) -> int:
        return len(self.names)

    @property
    def further(self) -> str:
        """Names of the channels after the first three."""
        return ", ".join(self.names[RGB:])

    def widened(self, values: Sequence[float]) -> tuple[float, ...]:
        """Means or deviations of red, green and blue -> of all channels, further ones with the mean of these."""
        return (*values, *[sum(values) / RGB] * (len(self) - RGB))
