"""What an adapter that learned image-text pairs on the features of parts (frames, slices) says of samples and texts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from .backbone import Backbone


@dataclass(frozen=True)
class PairParts:
    """Features of the parts of the samples of some pairs, as frozen towers give them.

    Args:
        parts: (N, T, D), not normalised, zero where there is none.
        mask: (N, T) bool, which are there.
        row_of: of a sample, as `Source.image_id` numbers it, its row here; one that could not be read has none.
        skipped: (id, reason) of those.
    """

    parts: Tensor
    mask: Tensor
    row_of: Mapping[int, int]
    skipped: Sequence[tuple[str, str]] = ()


class PairHead(ABC):
    """How a fitted head compares samples with texts. It looks at features of the parts of a sample, as the image tower
    gives them, and at texts as it reads them of the text tower.

    Products of `sample_vectors` and `text_vectors` are its similarities, unless it is `pairwise`: then it looks at a
    sample and a text together, `pair_scores` are its similarities, and the vectors are those of the towers, by which
    candidates are found that it ranks again.

    Attributes:
        logit_scale: what similarities are multiplied by before a softmax.
        changed: name -> weight of the towers that its fit trained; empty where they stayed as they were.
    """

    logit_scale: float
    changed: dict[str, Tensor]

    @property
    def pairwise(self) -> bool:
        """Whether it looks at a sample and a text together."""
        return False

    @property
    @abstractmethod
    def found_dim(self) -> int:
        """E, the width of its vectors."""

    @abstractmethod
    def sample_vectors(self, parts: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) features of parts, not normalised, and (B, T) bool, which are there -> (B, E) unit.

        Raises:
            CapabilityError: more parts than it has positions for.
        """

    @abstractmethod
    def text_vectors(self, backbone: Backbone, texts: Sequence[str]) -> Tensor:
        """M texts -> (M, E) unit."""

    @abstractmethod
    def pair_scores(self, backbone: Backbone, parts: Tensor, mask: Tensor, texts: Sequence[str]) -> Tensor:
        """As `sample_vectors`, with M texts -> (B, M) similarities, in memory that does not grow with B x M."""
