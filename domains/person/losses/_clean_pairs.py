"""Which pairs of a training set belong together, told by their losses: two Gaussians, of clean and of wrong pairs."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

FITS = {
    "coarse": {"max_iter": 10, "tol": 1e-2, "reg_covar": 5e-4},
    "fine": {"max_iter": 100, "tol": 1e-4, "reg_covar": 1e-6},
}
"""How a mixture is fitted: the released settings, and those it has for more than 40 % wrong pairs and for RSTPReid."""
SURE = 0.5
"""Above this posterior a pair counts as clean."""


def clean_by_loss(losses: Tensor, fit: str, seed: int) -> Tensor:
    """(N,) bool: pairs that more likely belong to the Gaussian of lower losses.

    Where all do, the hundredth part that is least likely to is left out, as released. Equal losses tell nothing: all
    are clean.

    Args:
        losses: (N,) on the CPU.
        fit: of `FITS`.
        seed: of where the mixture starts.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    values = losses.double().numpy()
    low, high = values.min(), values.max()
    if len(values) < 2 or not high > low:
        return torch.ones(len(values), dtype=torch.bool)
    scaled = ((values - low) / (high - low)).reshape(-1, 1)
    mixture = GaussianMixture(n_components=2, random_state=seed, **FITS[fit])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # as few steps as are published
        mixture.fit(scaled)
    clean = mixture.predict_proba(scaled)[:, int(mixture.means_.argmin())]
    least = np.sort(clean)[len(clean) // 100] if clean.min() > SURE else SURE
    return torch.from_numpy(clean > least)


def agreed(first: Tensor, second: Tensor, generator: torch.Generator) -> Tensor:
    """(N,) bool: what two say alike; where they do not, a coin says it."""
    coins = torch.randint(0, 2, (len(first),), generator=generator).bool()
    return torch.where(first == second, first, coins)


def chunks_of(count: int, size: int, generator: torch.Generator) -> list[Tensor]:
    """The rows 0 to `count` in a drawn order, in equal parts of at most about `size`."""
    order = torch.randperm(count, generator=generator)
    return list(order.tensor_split(max(1, -(-count // size))))
