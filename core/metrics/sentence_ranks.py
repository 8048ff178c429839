"""Retrieval with several sentences per video, equal scores sharing the mean of the places that they take.

Elsewhere here the worst place is assumed (`retrieval.py`); text-video work counts otherwise, in two ways:

* `BEST_SENTENCE`, of "CLIP4Clip" (Luo et al. 2021, arXiv 2104.08860): a video is as near to another as the best
  sentence of that one, and ranks videos.
* `OWN_SENTENCES`, of "Use What You Have: Video Retrieval Using Representations From Collaborative Experts" (Liu et al.
  2019, arXiv 1907.13487), after "VSE++": a video ranks all sentences, and counts by the best rank of its own.

Both rank all videos for each sentence. A tie for the first place is rank 1.5, and not found at 1. Medians of an even
number are the lower middle one, as CLIP4Clip's of sentences, or the mean of both, as its others.

A dual softmax, of "Improving Video-Text Retrieval by Multi-Stream Corpus Alignment and Dual Softmax Loss" (Cheng et al.
2021, arXiv 2109.04290), multiplies each score by its softmax over all queries. It reads all of them before the first is
answered, which no search can do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import DataError
from .retrieval import IMAGE_TO_TEXT, NUMBERS_AT_ONCE, TEXT_TO_IMAGE, Ranking

BEST_SENTENCE, OWN_SENTENCES = "best-sentence", "own-sentences"
LOWER, MEAN = "lower", "mean"
TIES = "equal scores share the mean of their places, so a tie for first place does not count as rank 1"


@dataclass(frozen=True)
class Similarity:
    """Scores of S sentences and V videos, some rows at a time.

    Args:
        rows: positions (n,) of sentences -> (n, V).
        video_of: (S,) int64, the video that a sentence describes.
        videos: V.
    """

    rows: Callable[[Tensor], Tensor]
    video_of: Tensor
    videos: int

    @classmethod
    def of_features(cls, texts: Tensor, videos: Tensor, video_of: Tensor) -> Similarity:
        """Cosines of unit features (S, D) and (V, D), rounded alike wherever they stand: summed in float64."""
        wide = videos.double().T
        return cls(lambda rows: (texts[rows].double() @ wide).float(), video_of.to(texts.device).long(), len(videos))

    def dual_softmax(self, scale: float, direction: str, numbers_at_once: int = NUMBERS_AT_ONCE) -> Similarity:
        """The same with each score, times `scale`, multiplied by its softmax over all queries of a direction: over
        sentences of "text_to_image", over videos of "image_to_text"."""
        if direction == IMAGE_TO_TEXT:
            return Similarity(lambda rows: _times_softmax(scale * self.rows(rows), None), self.video_of, self.videos)
        whole = torch.full((self.videos,), -torch.inf, dtype=torch.float64, device=self.video_of.device)
        for rows in _blocks(self, numbers_at_once):
            whole = torch.logaddexp(whole, (scale * self.rows(rows)).double().logsumexp(dim=0))
        return Similarity(lambda rows: _times_softmax(scale * self.rows(rows), whole), self.video_of, self.videos)


def sentence_video_metrics(
    similarity: Tensor | Similarity,
    video_of: Tensor | None = None,
    *,
    rule: str = BEST_SENTENCE,
    median: str = LOWER,
    numbers_at_once: int = NUMBERS_AT_ONCE,
) -> dict[str, dict[str, float]]:
    """Of sentences that find videos ("text_to_image"), and videos that find sentences ("image_to_text").

    Args:
        similarity: (S, V) of each sentence and each video, or a `Similarity`.
        video_of: (S,) int64, the video that a sentence describes; videos may have different numbers of sentences, and
            one without any is only found. Of a matrix.
        rule: how videos find sentences, `BEST_SENTENCE` or `OWN_SENTENCES`.
        median: `LOWER` or `MEAN`.
        numbers_at_once: scores held at a time, for memory.

    Returns:
        By direction r1, r5, r10 in 0..1, median_rank and mean_rank; ranks begin at 1.

    Raises:
        DataError: sizes disagree, a score is NaN, or the rule has another name.
    """
    scores = similarity if isinstance(similarity, Similarity) else _of_matrix(similarity, video_of)
    if rule not in (BEST_SENTENCE, OWN_SENTENCES):
        raise DataError(f"rule '{rule}' is not {BEST_SENTENCE} or {OWN_SENTENCES}")
    own_best = torch.full((scores.videos,), -torch.inf, device=scores.video_of.device)
    of_sentences = torch.empty(len(scores.video_of), dtype=torch.float64)
    for rows in _blocks(scores, numbers_at_once):
        some = scores.rows(rows)  # (n, V)
        if some.isnan().any():
            raise DataError("a score is NaN; compute the features again")
        own = some.gather(1, scores.video_of[rows, None]).squeeze(1)
        of_sentences[rows.cpu()] = mean_ranks(some, own)
        own_best = own_best.to(some.dtype).scatter_reduce(0, scores.video_of[rows], own, "amax")
    of_videos = _ranks_of_videos(scores, own_best, rule, numbers_at_once)
    described = torch.zeros(scores.videos, dtype=torch.bool).index_fill(0, scores.video_of.cpu(), True)
    return {
        TEXT_TO_IMAGE: rank_metrics(of_sentences, median),
        IMAGE_TO_TEXT: rank_metrics(of_videos[described], median),
    }


def _ranks_of_videos(scores: Similarity, own: Tensor, rule: str, numbers_at_once: int) -> Tensor:
    """(V,) mean ranks, from 1, of what is best of each video's own among what it is compared with: other videos by
    their best sentences, or all sentences."""
    above, equal = torch.zeros_like(own, dtype=torch.int64), torch.zeros_like(own, dtype=torch.int64)
    for rows in _blocks(scores, numbers_at_once):
        some = scores.rows(rows)
        if rule == BEST_SENTENCE:
            videos, place = scores.video_of[rows].unique(return_inverse=True)
            lowest = some.new_full((len(videos), scores.videos), -torch.inf)
            some = lowest.scatter_reduce(0, place[:, None].expand_as(some), some, "amax")  # (videos of the block, V)
        above += (some > own).sum(dim=0)
        equal += (some == own).sum(dim=0)
    return (above + (equal + 1) / 2.0).double().cpu()


def _blocks(scores: Similarity, numbers_at_once: int) -> Iterator[Tensor]:
    """Positions of sentences, all of a video in one block."""
    order = scores.video_of.argsort(stable=True)
    ends = scores.video_of[order].unique_consecutive(return_counts=True)[1].cumsum(dim=0).tolist()
    most, start = max(1, numbers_at_once // scores.videos), 0
    for end, following in zip(ends, [*ends[1:], None]):
        if following is None or following - start > most:
            yield order[start:end]
            start = end


def _times_softmax(scores: Tensor, over_sentences: Tensor | None) -> Tensor:
    """(n, V) scores times their softmax over sentences, of which the logarithms of the sums (V,) are given, or over
    videos."""
    wide = scores.double()
    sums = wide.logsumexp(dim=1, keepdim=True) if over_sentences is None else over_sentences
    return (wide * (wide - sums).exp()).float()


def _of_matrix(similarity: Tensor, video_of: Tensor) -> Similarity:
    sentences, videos = similarity.shape
    video_of = torch.as_tensor(video_of, device=similarity.device).long()
    if len(video_of) != sentences or not sentences or not 0 <= int(video_of.min()) <= int(video_of.max()) < videos:
        raise DataError(f"similarity of {sentences} sentences and {videos} videos, of which {len(video_of)} are told")
    return Similarity(lambda rows: similarity[rows], video_of, videos)


def mean_ranks(scores: Tensor, own: Tensor) -> Tensor:
    """(Q,) float64 ranks from 1 of the scores `own` (Q,) among `scores` (Q, G), of which they are one each."""
    above, equal = (scores > own[:, None]).sum(dim=1), (scores == own[:, None]).sum(dim=1)
    return (above + (equal + 1) / 2.0).double().cpu()


def rank_metrics(ranks: Tensor, median: str = LOWER) -> dict[str, float]:
    """r1, r5, r10 in 0..1, median_rank and mean_rank of ranks (Q,) from 1, which may be halves: the first place is one
    that nothing shares, a later one counts from the place that it shares on."""
    middle = ranks.median() if median == LOWER else ranks.quantile(0.5)
    recalls = {f"r{k}": float(((ranks <= 1) if k == 1 else (ranks < k + 1)).double().mean()) for k in Ranking.RECALL_AT}
    return {**recalls, "median_rank": float(middle), "mean_rank": float(ranks.mean())}
