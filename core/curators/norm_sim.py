"""NormSim: pairs whose images lie where a target task's do."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import numpy as np

from ..contracts.curator import IMAGE_FEATURES, Curator, Decision, PairTable, Progress, Survey
from ..contracts.options import option
from ..contracts.recipe import check_features_place
from ..errors import ConfigError
from ._kmeans import unit_rows
from ._ranks import PAIRS_AT_ONCE, best, count_of, rounded
from ._targets import read_target

POOL = "pool"
TARGETS_AT_ONCE = 8192
NORMS = ("2", "inf")


@dataclass(eq=False, kw_only=True)
class NormSim(Curator):
    """CLIPLoss and Norm-Based Data Selection Methods for Multimodal Contrastive Learning (2024, arXiv 2405.19547),
    the second of its methods.

    With x the image feature of a pair and z_1 .. z_M those of a target, all of length 1, the score is the p-norm of
    (<x, z_1>, .., <x, z_M>); the pairs with the highest are kept. p = 2 prefers images that many targets are like;
    p = infinity, the largest absolute cosine, those that one target is like. Training images of the tasks that count
    are the usual target, never test images.

    Since |Z x|^2 = x' Z'Z x, the 2-norm needs no target but its (D, D) second moment. Divided by M its square is the
    Variance Alignment Score (arXiv 2402.02055), which gives the same order.

    Without a target, the pool is its own (NormSim_2-D): the share that is too many is dropped in equal steps, and the
    second moment is that of the pairs that are left.

    Example:
        >>> build_curator("norm-sim", target="imagenet-train.safetensors").decide_all(pairs).keep.sum()
        200
    """

    stage: ClassVar[str] = "filter"

    keep: float = option(0.2, "share of the pairs to keep, at least one pair", above=0.0, high=1.0)
    target: str = option(POOL, f"file or folder of image features of the target task; '{POOL}' for the pool's own")
    norm: str | None = option(
        None, "of the cosines with the target: 2, or inf for the largest, as by default; 2 for the pool", choices=NORMS
    )
    steps: int = option(100, "in which the pool is cut down where it is its own target", low=1)

    def __post_init__(self):
        super().__post_init__()
        if self.target != POOL:
            self.refuse_unused(f"with a target, only target={POOL} is cut down in steps", "steps")
        self.norm = norm_for(f"curator '{self.name}'", self.norm, self.target)

    @property
    def reads(self) -> tuple[str, ...]:
        return (IMAGE_FEATURES,)

    def check(self, columns: Collection[str]) -> None:
        check_target(self.target)

    def survey(self, pairs: PairTable, progress: Progress = lambda done, total: None) -> Survey:
        count = count_of(len(pairs), self.keep)
        scores, chosen, notes = most_similar(pairs, count, self.target, self.norm, self.steps, progress)
        return Survey(rows={"norm_sim": scores, "chosen": chosen}, notes=notes)

    def decide(self, pairs: PairTable, survey: Survey) -> Decision:
        rule = f"not among the {100 * self.keep:g} % with the highest NormSim"
        return Decision.of({rule: ~survey.rows["chosen"]}, scores={"norm_sim": survey.rows["norm_sim"]})


def check_target(target: str) -> None:
    """Raise DataError where a target is a file that is not there."""
    if target and target != POOL:
        check_features_place(target)


def norm_for(who: str, norm: str | None, target: str) -> str:
    """The norm to use with a target.

    Raises:
        ConfigError: it does not go with it.
    """
    if target == POOL and norm == "inf":
        raise ConfigError(
            f"{who}: norm=inf with target={POOL}: each image is nearest to itself; give norm=2 or a target"
        )
    return norm or ("2" if target == POOL else "inf")


def most_similar(
    pairs: PairTable, count: int, target: str, norm: str | None, steps: int, progress: Progress
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """The pairs with the highest NormSim.

    Args:
        target: a file or folder, or `POOL`.
        norm: as `norm_for` gives it.
        steps: of `top_of_pool`.

    Returns:
        (N,) float32 scores, (N,) flags of the `count` highest, and notes.
    """
    if target == POOL:
        return *top_of_pool(pairs, count, steps, progress), ()
    targets = read_target(target, pairs)
    notes = targets.overlap(pairs)
    if norm == "2":
        parts = range(0, len(targets.features), PAIRS_AT_ONCE)
        scores = norm_sim_2(pairs, second_moment(targets.features[i : i + PAIRS_AT_ONCE] for i in parts))
    else:
        scores = np.empty(len(pairs), np.float32)
        for rows in pairs.blocks(PAIRS_AT_ONCE):
            scores[rows] = norm_sim_inf(unit_rows(pairs, IMAGE_FEATURES, rows), targets.features)
            progress(rows.stop, len(pairs))
        scores = rounded(scores)
    return scores, best(scores, count), notes


def second_moment(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """(D, D) float64 sum of the outer products of rows (.., D)."""
    return sum((each.T @ each).astype(np.float64) for each in blocks)


def norm_of_moment(image: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """NormSim with p = 2.

    Args:
        image: (N, D) unit rows.
        moment: (D, D), `second_moment` of the target.

    Returns:
        (N,) float32; the square divided by the number of targets is the Variance Alignment Score.
    """
    squares = np.einsum("nd,nd->n", image @ moment.astype(np.float32), image)
    return np.sqrt(np.maximum(squares, 0))


def norm_sim_inf(image: np.ndarray, target: np.ndarray) -> np.ndarray:
    """NormSim with p = infinity: (N, D) and (M, D) unit rows -> (N,) float32."""
    scores = np.zeros(len(image), np.float32)
    for start in range(0, len(target), TARGETS_AT_ONCE):
        cosines = image @ target[start : start + TARGETS_AT_ONCE].T  # (N, M')
        np.maximum(scores, cosines.max(axis=1), out=scores)
        np.maximum(scores, -cosines.min(axis=1), out=scores)
    return scores


def norm_sim_2(pairs: PairTable, moment: np.ndarray) -> np.ndarray:
    """(N,) float32 `norm_of_moment` of all pairs, rounded."""
    made = [norm_of_moment(unit_rows(pairs, IMAGE_FEATURES, rows), moment) for rows in pairs.blocks(PAIRS_AT_ONCE)]
    return rounded(np.concatenate(made))


def top_of_pool(pairs: PairTable, count: int, steps: int, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """NormSim_2-D: of the pairs that are left, those with the lowest NormSim to all of these are dropped, until `count`
    are left.

    Returns:
        (N,) float32 scores towards the pairs that are left in the end, and (N,) flags of these.
    """
    left = np.arange(len(pairs))
    moment = second_moment(unit_rows(pairs, IMAGE_FEATURES, rows) for rows in pairs.blocks(PAIRS_AT_ONCE))
    dropped = ceil((len(left) - count) / steps)
    for step in range(steps):
        if len(left) == count:
            break
        among = pairs.among(left)
        high = best(norm_sim_2(among, moment), max(count, len(left) - dropped))
        others = among.among(~high)
        moment = moment - second_moment(others.unit(IMAGE_FEATURES, rows) for rows in others.blocks(PAIRS_AT_ONCE))
        left = left[high]
        progress(step + 1, steps)
    chosen = np.zeros(len(pairs), bool)
    chosen[left] = True
    return norm_sim_2(pairs, moment), chosen
