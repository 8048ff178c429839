"""Methods whose scores are sums over the labelled images of the fit, so that each image's part can be told."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from .adapter import Adapter
from .features import Batch


class ByExample(Adapter):
    """Base of methods that add something per labelled image to the logits: caches and kernels."""

    @abstractmethod
    def example_parts(self, batch: Batch, classes: Tensor) -> Tensor | None:
        """What each labelled image adds to a logit of each image of a batch.

        Args:
            batch: B images, as `logits` takes them.
            classes: (B,) int64, the class whose logit is looked at.

        Returns:
            (B, N V): of the N images of the support in their order V numbers each (one per view that the method
            keeps), one image's after the other's. What the logit has besides their sum does not come from single
            images. None where what was fitted is no such sum.
        """
