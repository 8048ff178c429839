"""s-CLIPLoss: the CLIP score of a pair, less what its image and caption score with any other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ..contracts.curator import CAPTION_FEATURES, IMAGE_FEATURES, Curator, Decision, PairTable, Progress, Survey
from ..contracts.options import option
from ..errors import ConfigError
from ._kmeans import unit_rows
from ._ranks import DECIMALS, PAIRS_AT_ONCE, best, count_of
from ._targets import read_target
from .norm_sim import NORMS, POOL, check_target, most_similar, norm_for

if TYPE_CHECKING:
    from torch import Tensor

IMAGES_AT_ONCE = 256
"""Rows of the matrix of a batch that are held."""
HIGHEST, LOWEST_SUM = 70.0, 1e-30
"""Of terms in float32: a million of exp(70) are finite, and a sum above the second number has lost nothing."""


@dataclass(eq=False, kw_only=True)
class SCLIPLoss(Curator):
    """CLIPLoss and Norm-Based Data Selection Methods for Multimodal Contrastive Learning (2024, arXiv 2405.19547).

    With x_i and t_i the features of a pair and T the temperature that their encoder was trained with, the score is

        <x_i, t_i> - T/2 log sum_j exp(<x_i, t_j> / T) - T/2 log sum_j exp(<x_j, t_i> / T),

    where j runs over a random batch that the pair is in, and the last two terms are the mean of several such batches: a
    caption that fits every image, or an image that every caption fits, loses what the CLIP score gives it. It needs no
    threshold of one encoder, and works with any.

    First the best `keep_first` of the pool by this score are kept; where a target is given, then those of them with the
    highest NormSim, down to `keep` of the pool.

    Batches are cut from the order of the hash of id, seed and number of the pass, all as long as each other: in the
    released code the last of a file is shorter, and its scores are higher for that alone.

    The first filter to try: there is no threshold to tune. `temperature` is that of the encoder: 0.01 for OpenAI's
    CLIP, 0.07 for DFN's. A million pairs of 512 numbers take about 14 minutes of one core per pass, of which there
    are 10.

    Example:
        >>> build_curator("s-cliploss", passes=5).decide_all(pairs).keep.sum()
        300
    """

    stage: ClassVar[str] = "filter"

    temperature: float = option(0.01, "of the encoder's training: 0.01 of OpenAI's CLIP, 0.07 of DFN's", above=0.0)
    batch: int = option(32768, "pairs per batch, at most", low=2)
    passes: int = option(10, "random batches that each pair is in; 5 to 50 in the paper", low=1)
    keep_first: float = option(0.3, "share of the pairs to keep by s-CLIPLoss, at least one", above=0.0, high=1.0)
    target: str = option(
        "", "file or folder of image features for NormSim, 'pool' for the pool's own, or nothing for no such step"
    )
    norm: str | None = option(
        None, "NormSim's, of the cosines: 2, or inf for the largest, as by default; 2 for the pool", choices=NORMS
    )
    keep: float = option(0.2, "share of all pairs to keep after NormSim, where there is a target", above=0.0, high=1.0)
    steps: int = option(100, "in which the pool is cut down where it is its own target", low=1)
    seed: int = option(0, "fixes the batches", low=0)

    def __post_init__(self):
        super().__post_init__()
        if not self.target:
            self.refuse_unused("without a target there is no NormSim", "norm", "keep", "steps")
        elif self.target != POOL:
            self.refuse_unused(f"with a target, only target={POOL} is cut down in steps", "steps")
        self.norm = norm_for(f"curator '{self.name}'", self.norm, self.target)
        if self.target and self.keep > self.keep_first:
            raise ConfigError(
                f"curator '{self.name}': keep {self.keep:g} is more than keep_first {self.keep_first:g}, of which it "
                "is a part; lower it"
            )

    @property
    def reads(self) -> tuple[str, ...]:
        return (IMAGE_FEATURES, CAPTION_FEATURES)

    def check(self, columns: Collection[str]) -> None:
        check_target(self.target)

    def survey(self, pairs: PairTable, progress: Progress = lambda done, total: None) -> Survey:
        if self.target and self.target != POOL:
            read_target(self.target, pairs)  # one that does not fit is told before the passes
        passes = 1 if len(pairs) <= self.batch else self.passes  # one batch is the same in every pass
        draws = (
            np.concatenate([pairs.uniform(self.seed, rows, purpose=purpose) for rows in pairs.blocks()])
            for purpose in (f"s-cliploss: pass {number}" for number in range(passes))
        )
        by_text, by_image = norms_of_batches(
            lambda rows: _features(pairs, rows),
            (cut_batches(np.argsort(drawn, kind="stable"), self.batch) for drawn in draws),
            self.temperature,
            len(pairs),
            lambda done: progress(done, passes * len(pairs)),
        )
        own = [np.einsum("nd,nd->n", *_features(pairs, rows)) for rows in pairs.blocks(PAIRS_AT_ONCE)]
        scores = np.round(np.concatenate(own) - by_text - by_image, DECIMALS)
        first = best(scores, count_of(len(pairs), self.keep_first))
        rows = {"s_cliploss": scores, "first": first}
        if not self.target:
            return Survey(rows=rows)
        passed, count = np.flatnonzero(first), count_of(len(pairs), self.keep)
        similar, chosen, notes = most_similar(pairs.among(passed), count, self.target, self.norm, self.steps, progress)
        rows["norm_sim"], rows["second"] = np.full(len(pairs), np.nan, np.float32), np.zeros(len(pairs), bool)
        rows["norm_sim"][passed], rows["second"][passed] = similar, chosen
        return Survey(rows=rows, notes=notes)

    def decide(self, pairs: PairTable, survey: Survey) -> Decision:
        rows = survey.rows
        fails = {f"not among the {100 * self.keep_first:g} % with the highest s-CLIPLoss": ~rows["first"]}
        if self.target:
            fails[f"of these not among the {100 * self.keep:g} % with the highest NormSim"] = ~rows["second"]
        scores = {name: rows[name] for name in ("s_cliploss", "norm_sim") if name in rows}
        return Decision.of(fails, scores=scores)


def _features(pairs: PairTable, rows: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray]:
    return unit_rows(pairs, IMAGE_FEATURES, rows), unit_rows(pairs, CAPTION_FEATURES, rows)


def cut_batches(order: np.ndarray, batch: int, as_released: bool = False) -> list[np.ndarray]:
    """An order of N rows as batches of at most `batch`.

    Args:
        as_released: whether all but the last have as many, and that one what is left; else they are as long as each
            other, but for one row.
    """
    if as_released:
        return np.split(order, range(batch, len(order), batch))
    return np.array_split(order, ceil(len(order) / batch))


def norms_of_batches(
    read: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    passes: Iterator[list[np.ndarray]],
    temperature: float,
    count: int,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[np.ndarray, np.ndarray]:
    """What a pair's image and caption score with any of a batch, mean over passes.

    Args:
        read: (B,) positions, ascending -> (B, D) unit image and (B, D) unit caption features.
        passes: each gives batches of positions that cover all N.
        temperature: T.
        count: N.
        progress: is told how many rows are done.

    Returns:
        T/2 log sum over the captions, and T/2 log sum over the images, both (N,) float32.
    """
    sums, done = np.zeros((2, count)), 0
    for batches in passes:
        for batch in batches:
            rows = np.sort(batch)
            sums[:, rows] += norms_of_batch(*read(rows), temperature)
            done += len(rows)
            progress(done)
    by_text, by_image = (sums / (done / count)).astype(np.float32)
    return by_text, by_image


def norms_of_batch(image: np.ndarray, caption: np.ndarray, temperature: float) -> np.ndarray:
    """(B, D) and (B, D) unit rows -> (2, B): T/2 log sum over captions, and over images. No more than
    `IMAGES_AT_ONCE` rows of the (B, B) cosines are held."""
    import torch

    images, captions = torch.from_numpy(image), torch.from_numpy(caption).T / temperature
    offset = HIGHEST - 1 / temperature  # what is largest becomes exp(HIGHEST), so that one exp serves both sums
    rows, columns = [], torch.zeros(len(caption), dtype=torch.float64)
    for some in images.split(IMAGES_AT_ONCE):
        terms = torch.addmm(torch.tensor(offset), some, captions).exp_()  # (b, B)
        rows.append(terms.sum(dim=1))
        columns += terms.sum(dim=0)
    sums = torch.stack([torch.cat(rows).double(), columns])
    logs = sums.log() - offset if sums.min() > LOWEST_SUM else _exact_logs(images, captions)
    return (logs * (temperature / 2)).numpy()


def _exact_logs(images: Tensor, captions: Tensor) -> Tensor:
    """The logarithms of the sums where a temperature is so low that float32 does not reach from the largest term to
    those of other rows: images (B, D) and captions (D, B) / T -> (2, B)."""
    import torch

    rows, columns = [], torch.full((captions.shape[1],), -torch.inf)
    for some in images.split(IMAGES_AT_ONCE):
        logits = some @ captions
        rows.append(logits.logsumexp(dim=1))
        columns = torch.logaddexp(columns, logits.logsumexp(dim=0))
    return torch.stack([torch.cat(rows), columns])
