"""ZERO: the most confident views of an image vote for its class.

Take it without labels, for single images, where `tpt` would do and time matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...core.contracts import option
from ._bags import ScoredInViews
from ._memory import entropy_of, surest


@dataclass(eq=False, kw_only=True)
class Zero(ScoredInViews):
    """Frustratingly Easy Test-Time Adaptation of Vision-Language Models (Farina et al., 2024, arXiv 2405.18330).

    Each image gets 64 views: itself, and 63 random crops, flipped at random. The 30 % of the views whose predictions
    softmax(text logits) have the lowest entropy are kept, and each votes for its most probable class: the temperature
    is set to zero. The class with the most votes wins. In a tie the remaining views are asked, the most confident
    first, and the first that names a tied class gives it one more vote. Logits are the votes.

    Nothing is learned, and no image depends on another.

    Where it differs from the released code: a vote is a whole one (there a softmax at the temperature of the number
    format's precision, in float16 as little as half a vote: `temperature=9.8e-4`); where no remaining view names a tied
    class, the most confident kept view that names one decides (there a class outside the tie may win); at least one
    view is kept; crops are resized bicubically.

    Raises:
        ConfigError: an option out of range.
        CapabilityError: several labels per image, or, at prediction, a batch without decoded images.

    Example:
        >>> adapter = build_adapter("zero", n_views=8)
        >>> report = adapter.fit(None, classifier, backbone=backbone)
        >>> adapter.logits(Batch(images=images)).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "votes are whole (released: a softmax at the number format's precision, half a vote in float16); a tie that no "
        "remaining view breaks goes to the class of the most confident kept view (released: possibly to a class "
        "outside the tie); crops are resized bicubically (released: bilinear)"
    )

    at_predict: ClassVar[frozenset[str]] = frozenset({"images", "text_encoder"})

    selection: float = option(0.3, "share of the views that vote, the most confident ones", above=0, high=1)
    temperature: float = option(
        0.0, "temperature of a view's vote, in units of cosines; 0: all to its most probable class", low=0, high=1
    )

    def scored(self, bag: Tensor) -> Tensor:
        scores = self._scores(bag)  # (V, C)
        order = surest(entropy_of(scores.log_softmax(dim=1)), 1.0)
        named = scores.argmax(dim=1)[order]  # (V,) classes, the surest view first
        kept = max(1, int(len(bag) * self.selection))
        if self.temperature:
            sharp = scores[order[:kept]] / (self.logit_scale * self.temperature)
            return sharp.softmax(dim=1).sum(dim=0)
        votes = named[:kept].bincount(minlength=scores.shape[1]).float()
        tied = votes == votes.max()
        if tied.sum() > 1:
            asked = named.roll(-kept)  # the remaining views, then the kept ones
            votes[asked[tied[asked]][0]] += 1
        return votes
