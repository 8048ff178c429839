"""Retrieval with several sentences per video, equal scores sharing the mean of the places that they take.

Elsewhere here the worst place is assumed (`retrieval.py`); text-video work counts otherwise, in two ways:

* `BEST_SENTENCE`, of "CLIP4Clip" (Luo et al. 2021, arXiv 2104.08860): a video is as near to another as the best
  sentence of that one, and ranks videos.
* `OWN_SENTENCES`, of "Use What You Have: Video Retrieval Using Representations From Collaborative Experts" (Liu et al.
  2019, arXiv 1907.13487), after "VSE++": a video ranks all sentences, and counts by the best rank of its own.

Both rank all videos for each sentence. A tie for the first place is rank 1.5, and not found at 1. Medians of an even
number are the lower middle one, as CLIP4Clip's of sentences, or the mean of both, as its others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import DataError
from .retrieval import IMAGE_TO_TEXT, RECALL_AT, TEXT_TO_IMAGE

BEST_SENTENCE, OWN_SENTENCES = "best-sentence", "own-sentences"
LOWER, MEAN = "lower", "mean"


def sentence_video_metrics(
    similarity: Tensor, video_of: Tensor, *, rule: str = BEST_SENTENCE, median: str = LOWER
) -> dict[str, dict[str, float]]:
    """Of sentences that find videos ("text_to_image"), and videos that find sentences ("image_to_text").

    Args:
        similarity: (S, V) of each sentence and each video.
        video_of: (S,) int64, the video that a sentence describes; videos may have different numbers of sentences, and
            one without any is only found.
        rule: how videos find sentences, `BEST_SENTENCE` or `OWN_SENTENCES`.
        median: `LOWER` or `MEAN`.

    Returns:
        By direction r1, r5, r10 in 0..1, median_rank and mean_rank; ranks begin at 1.

    Raises:
        DataError: sizes disagree, a score is NaN, or the rule has another name.
    """
    sentences, videos = similarity.shape
    video_of = torch.as_tensor(video_of, device=similarity.device).long()
    if len(video_of) != sentences or not sentences or not 0 <= int(video_of.min()) <= int(video_of.max()) < videos:
        raise DataError(f"similarity of {sentences} sentences and {videos} videos, of which {len(video_of)} are told")
    if similarity.isnan().any() or rule not in (BEST_SENTENCE, OWN_SENTENCES):
        raise DataError(f"a score is NaN, or '{rule}' is not {BEST_SENTENCE} or {OWN_SENTENCES}")
    of_sentences = mean_ranks(similarity, similarity.gather(1, video_of[:, None]).squeeze(1))  # (S,)
    if rule == OWN_SENTENCES:
        of_videos = torch.stack([_best_own_rank(similarity[:, v], video_of == v) for v in range(videos)])
    else:
        best = torch.full((videos, videos), -torch.inf, dtype=similarity.dtype, device=similarity.device)
        best = best.scatter_reduce(0, video_of[:, None].expand(-1, videos), similarity, "amax").T  # query, gallery
        of_videos = mean_ranks(best, best.diagonal())
    described = torch.zeros(videos, dtype=torch.bool).index_fill(0, video_of.cpu(), True)
    return {
        TEXT_TO_IMAGE: rank_metrics(of_sentences, median),
        IMAGE_TO_TEXT: rank_metrics(of_videos[described], median),
    }


def mean_ranks(scores: Tensor, own: Tensor) -> Tensor:
    """(Q,) float64 ranks from 1 of the scores `own` (Q,) among `scores` (Q, G), of which they are one each."""
    above, equal = (scores > own[:, None]).sum(dim=1), (scores == own[:, None]).sum(dim=1)
    return (above + (equal + 1) / 2.0).double().cpu()


def rank_metrics(ranks: Tensor, median: str = LOWER) -> dict[str, float]:
    """r1, r5, r10 in 0..1, median_rank and mean_rank of ranks (Q,) from 1, which may be halves: the first place is one
    that nothing shares, a later one counts from the place that it shares on."""
    middle = ranks.median() if median == LOWER else ranks.quantile(0.5)
    found = {f"r{k}": float(((ranks <= 1) if k == 1 else (ranks < k + 1)).double().mean()) for k in RECALL_AT}
    return {**found, "median_rank": float(middle), "mean_rank": float(ranks.mean())}


def _best_own_rank(scores: Tensor, own: Tensor) -> Tensor:
    """The best mean rank, from 1, of the sentences `own` (S,) bool among all (S,); infinite where there are none."""
    if not own.any():
        return torch.tensor(torch.inf, dtype=torch.float64)
    best = scores[own].max()
    return mean_ranks(scores[None], best[None])[0]
