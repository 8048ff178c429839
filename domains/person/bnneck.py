"""BNNeck: a batch normalisation without bias between what triplets compare and what names identities.

"Bag of Tricks and A Strong Baseline for Deep Person Re-identification" (Luo et al. 2019, arXiv 1903.07071).
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...core.errors import DataError

FILE = "neck.safetensors"
EPS = 1e-5


class BNNeck(nn.Module):
    """Features (N, D), not brought to length 1, by the statistics that training has kept.

    Args:
        width: D.
        momentum: share of a batch in the statistics that are kept.
    """

    def __init__(self, width: int, momentum: float = 0.1):
        super().__init__()
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, features: Tensor) -> Tensor:
        """(N, D) as they are compared."""
        return F.batch_norm(features, self.mean, self.variance, self.weight, None, False, 0.0, EPS)

    def of_batch(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, D) by the batch's own statistics, and these: mean (D,) and biased variance (D,). Keeps nothing."""
        mean, variance = features.mean(dim=0), features.var(dim=0, unbiased=False)
        return (features - mean) * (variance + EPS).rsqrt() * self.weight, mean, variance

    def follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Keep a share of a batch's statistics; the variance that is kept is unbiased, as in `nn.BatchNorm1d`."""
        self.mean.lerp_(mean.to(self.mean), self.momentum)
        self.variance.lerp_((variance * count / max(1, count - 1)).to(self.variance), self.momentum)

    def save(self, folder: Path) -> None:
        """Write `neck.safetensors` into a folder."""
        save_file({name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}, folder / FILE)

    @classmethod
    def load(cls, folder: Path, width: int) -> BNNeck | None:
        """That of a folder; None where it has none.

        Raises:
            DataError: the file is damaged, or of another width.
        """
        path = Path(folder) / FILE
        if not path.is_file():
            return None
        neck = cls(width)
        try:
            neck.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"{path}: damaged, or of other towers ({reason}); copy the whole run folder again"
            ) from error
        return neck.eval().requires_grad_(False)
