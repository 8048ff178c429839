"""Patches of one superpixel belong together: the superpixel loss of SegCLIP.

SegCLIP: Patch Aggregation with Learnable Centers for Open-Vocabulary Semantic Segmentation (Luo et al., 2022, arXiv
2211.14813), section 3.4.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .....registry import MODELS


@MODELS.register_module()
class SuperpixelKL(nn.Module):
    """Where a patch goes, beside where its superpixel goes on average: the mean of both KL divergences.

    As released, both assignments go through a softmax over the groups first, hard ones too, and the sum is divided by
    the number of entries of the assignment.
    """

    def forward(self, assignment: Tensor, superpixels: Tensor) -> Tensor:
        """A scalar.

        Args:
            assignment: (B, G, P), of patches to groups.
            superpixels: (B, P) labels; they mean something within an image alone.
        """
        own = assignment.float().transpose(1, 2)  # (B, P, G)
        together = (superpixels[:, :, None] == superpixels[:, None, :]).float()  # (B, P, P)
        mean = together @ own / together.sum(dim=-1, keepdim=True)
        first, second = own.log_softmax(dim=-1), mean.log_softmax(dim=-1)
        both = F.kl_div(first, second, reduction="sum", log_target=True)
        both = both + F.kl_div(second, first, reduction="sum", log_target=True)
        return both / own.numel() / 2
