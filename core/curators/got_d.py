"""GOT-D: the pairs that move the distribution of the pool towards a target set the most."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..contracts.curator import ROWS_AT_ONCE, Curator, Decision, PairTable, Progress, Survey
from ..contracts.options import option
from ..contracts.recipe import check_features_place
from ..errors import ConfigError
from ._kmeans import features_option, unit_rows
from ._ranks import best, count_of
from ._targets import read_target

if TYPE_CHECKING:
    from torch import Tensor

SMALL = 0.02
"""Below this regularisation potentials are hundreds, and float32 ends before the tolerance."""
COSTS_AT_ONCE = 2**23
"""Of a block of rows with the whole target: 32 MiB."""


@dataclass(eq=False, kw_only=True)
class GotD(Curator):
    """Get more for less: Principled Data Selection for Warming Up Fine-Tuning in LLMs (Kang et al., 2024, arXiv
    2405.02774), gradients of optimal transport, here of features of pairs.

    Of the entropic transport from the pool to the target, both with equal masses and the cost 1 - cosine, f is the
    potential of the pool. Its calibrated value f_i - sum of f_j / (n - 1) over all others is how the cost changes as a
    pair gets more mass (Just et al., 2023, arXiv 2305.00054); pairs with the smallest are kept. They are not the
    nearest neighbours of the target: what the pool has enough of already gets no credit.

    An iteration looks at all (N, M) cosines of pool and target, some rows at a time: 20 seconds of a core for 100,000 x
    10,000 rows of 512 numbers, and there are tens of them. A few thousand rows of a large target are enough.
    Below a regularisation of 0.02 it computes in float64, and takes more iterations.

    For a pool and unlabelled data of the task.

    Example:
        >>> build_curator("got-d", target="target.safetensors", fraction=0.1).decide_all(pairs).keep.sum()
        100
    """

    stage: ClassVar[str] = "subset"

    target: str | None = option(None, "file or folder of features of the target set", metavar="PATH")
    fraction: float = option(0.1, "share of the pairs to keep, at least one pair", above=0.0, high=1.0)
    away: bool = option(False, "keep what moves the pool away from the target instead, as from a set to be avoided")
    regularisation: float = option(0.05, "of the transport; costs are 0 to 2", low=1e-3, high=10.0)
    iterations: int = option(1000, "at most", low=1)
    tolerance: float = option(
        1e-6, "share of the target's mass that may be misplaced when it ends", above=0.0, below=1.0
    )
    features: str = features_option()

    def __post_init__(self):
        super().__post_init__()
        if self.target is None:
            raise ConfigError(f"curator '{self.name}': give target=PATH, features of what the pairs are chosen for")

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.features,)

    def check(self, columns: Collection[str]) -> None:
        check_features_place(str(self.target))

    def survey(self, pairs: PairTable, progress: Progress = lambda done, total: None) -> Survey:
        target = read_target(str(self.target), pairs, self.features)
        size = max(1, min(ROWS_AT_ONCE, COSTS_AT_ONCE // len(target.features)))

        def blocks() -> Iterable[np.ndarray]:
            return (unit_rows(pairs, self.features, rows) for rows in pairs.blocks(size))

        transport = log_sinkhorn(
            blocks,
            target.features,
            self.regularisation,
            self.iterations,
            self.tolerance,
            lambda done: progress(done, self.iterations),
        )
        gradient = calibrated(transport.pool)
        chosen = best(gradient if self.away else -gradient, count_of(len(pairs), self.fraction))
        ended = (
            f"ended after {transport.iterations} iterations"
            if transport.misplaced <= self.tolerance
            else f"not at its end after {transport.iterations} iterations, {100 * transport.misplaced:.2g} % of the "
            "mass is misplaced; give more iterations or more regularisation"
        )
        note = f"transport to {len(target.features)} rows of the target costs {transport.cost:.4f}: {ended}"
        return Survey(
            {"target": transport.target},
            {"chosen": chosen, "gradient": gradient},
            (note, *target.overlap(pairs, self.features)),
        )

    def decide(self, pairs: PairTable, survey: Survey) -> Decision:
        rule = "too near to the target" if self.away else "does not move the pool towards the target"
        return Decision.of({rule: ~survey.rows["chosen"]}, scores={"gradient": survey.rows["gradient"]})


@dataclass(frozen=True, eq=False)
class Transport:
    """Entropic optimal transport between N and M rows of equal masses.

    Args:
        pool: (N,) float64 potential.
        target: (M,) float64 potential.
        cost: sum of plan * cost.
        misplaced: share of the target's mass that the plan puts elsewhere.
        iterations: how many it took.
    """

    pool: np.ndarray
    target: np.ndarray
    cost: float
    misplaced: float
    iterations: int


def log_sinkhorn(
    blocks: Callable[[], Iterable[np.ndarray]],
    target: np.ndarray,
    regularisation: float,
    iterations: int,
    tolerance: float,
    progress: Callable[[int], None] = lambda done: None,
) -> Transport:
    """Sinkhorn's iterations in the log domain; a block of cosines is computed, used for both sides, and forgotten.

    Args:
        blocks: makes the iterable of the pool's unit rows, (n, D) float32 each, N in all.
        target: (M, D) float32 unit rows.
        tolerance: share of the target's mass that may be misplaced when it ends.
    """
    import torch

    kind = torch.float64 if regularisation < SMALL else torch.float32
    keys = torch.from_numpy(target).to(kind) / regularisation
    count, masses = sum(len(rows) for rows in blocks()), math.log(len(target))
    scaled = torch.zeros(len(target), dtype=kind)  # the target's potential / regularisation

    def affinities(rows: np.ndarray) -> Tensor:
        return torch.from_numpy(rows).to(kind) @ keys.T - 1 / regularisation  # (n, M)

    def pool_side(affinity: Tensor) -> Tensor:
        return masses - torch.logsumexp(affinity + scaled, dim=1)  # (n,)

    misplaced = math.inf
    for done in range(1, iterations + 1):
        sums = torch.full((len(target),), -torch.inf, dtype=torch.float64)
        for rows in blocks():
            affinity = affinities(rows)
            affinity += pool_side(affinity)[:, None]
            sums = torch.logaddexp(sums, torch.logsumexp(affinity, dim=0).double())
        following = math.log(count) - sums
        misplaced = float((scaled.double() - following).expm1().abs().mean() / 2)
        scaled = (following - following.mean()).to(kind)
        progress(done)
        if misplaced <= tolerance:
            break
    parts, cost = [], 0.0
    for rows in blocks():
        affinity = affinities(rows)
        side = pool_side(affinity)
        plan = (affinity + scaled + side[:, None] - masses).exp()  # of a pair with mass 1
        cost -= float((plan * affinity).sum(dtype=torch.float64)) * regularisation / count
        parts.append(side.double().numpy() * regularisation)
    return Transport(np.concatenate(parts), scaled.double().numpy() * regularisation, cost, misplaced, done)


def calibrated(potential: np.ndarray) -> np.ndarray:
    """(N,) f_i - sum of f_j / (N - 1) over all others: what the mean of f is, does not matter; 0 of a single pair."""
    return (potential - potential.mean()) * (len(potential) / max(1, len(potential) - 1))
