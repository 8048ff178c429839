"""Where an image tower adds positions to its patches, for methods that change them in training."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..contracts.backbone import Backbone
from ..contracts.errors import CapabilityError


@dataclass
class ImagePositions:
    """The learned positions of a vision transformer.

    Args:
        patches: gives the patches (B, W, h, w), to which positions are added next.
        owner: holds the table of positions.
        name: of the table in its owner.
        prefix: rows of the table that stand before those of the patches, a square of them.
    """

    patches: nn.Module
    owner: nn.Module
    name: str
    prefix: int

    @property
    def table(self) -> Tensor:
        """(prefix + P, W)."""
        table = getattr(self.owner, self.name)
        return table.reshape(-1, table.shape[-1])


def image_positions(backbone: Backbone) -> ImagePositions:
    """Where the image tower of a backbone adds its positions.

    Raises:
        CapabilityError: it adds none to its patches.
    """
    offer = getattr(getattr(backbone, "_image", None), "positions", None)
    found = None if offer is None else offer()
    if found is None:
        raise CapabilityError(
            f"backbone '{backbone.spec}' adds no positions to the patches of its images; towers that do: the vision "
            "transformers of open_clip and hf"
        )
    return found
