"""S3A's structural alignment: clusters vote for words, each gets one, and images move to the nearest of those words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ...core.errors import CapabilityError

ROWS = 4096
"""Images whose cosines with all words are held at once."""


def nearest_words(features: Tensor, text: Tensor, count: int = 1) -> Tensor:
    """(N, count) the words nearest to each image.

    Args:
        features: (N, D) unit rows. text: (V, D) unit rows.
    """
    return torch.cat([(some @ text.T).topk(count, dim=1).indices for some in features.split(ROWS)])


def votes_of(clusters: Tensor, words: Tensor, vocabulary: int) -> Tensor:
    """(K, V) how often an image of each cluster names each word.

    Args:
        clusters: (N,) from 0 to K - 1.
        words: (N, n) that each image names.
    """
    sizes = clusters.bincount()
    cells = clusters[:, None] * vocabulary + words
    counts = cells.flatten().bincount(minlength=len(sizes) * vocabulary).view(len(sizes), vocabulary)
    return counts / sizes[:, None]


def words_of_clusters(votes: Tensor) -> Tensor:
    """(K,) a word for each cluster, no two alike, with the most votes in all. There are K words at least."""
    cost = votes.cpu().double().numpy()
    return torch.from_numpy(linear_sum_assignment(cost.max() - cost)[1]).to(votes.device)


def nearest_word_of(features: Tensor, text: Tensor, words: Tensor) -> Tensor:
    """(N,) the nearest of some words to each image."""
    some = words.unique()
    return some[(features @ text[some].T).argmax(dim=1)]


def renumbered(labels: Tensor) -> Tensor:
    """(N,) the same groups, numbered from 0."""
    return labels.unique(return_inverse=True)[1]


def aligned_words(features: Tensor, text: Tensor, clusters: Tensor, rounds: int) -> tuple[Tensor, Tensor, Tensor]:
    """Vote, assign and move, some times.

    Args:
        features: (N, D) unit rows. text: (V, D) unit rows.
        clusters: (N,) to begin with.

    Returns:
        (N,) the word of each image; and of the last round the (N,) clusters that voted and their (K, V) votes.
    """
    named = nearest_words(features, text)
    for _ in range(rounds):
        clusters = renumbered(clusters)
        votes = votes_of(clusters, named, len(text))
        words = nearest_word_of(features, text, words_of_clusters(votes))
        voted, clusters = clusters, words
    return words, voted, votes


def realigned(
    features: Tensor,
    text: Tensor,
    clusters: Tensor,
    votes: Tensor,
    sentences: Callable[[Sequence[int]], list[Tensor]],
    candidates: int,
    nearest: int,
) -> Tensor:
    """(N,) the word of each image after clusters chose among their candidates by sentences that tell these apart.

    A cluster's candidates are the words of most votes. Each of its images names its nearest sentences of all of them;
    a candidate's score is how often its sentences were named, on average over these.

    Args:
        clusters, votes: as `aligned_words` returns them.
        sentences: words -> of each the (n, D) unit features of its sentences.
        candidates: words of a cluster.
        nearest: sentences that an image names.
    """
    scores = torch.zeros_like(votes)
    for cluster, words in enumerate(votes.topk(min(candidates, votes.shape[1]), dim=1).indices):
        rows = sentences(words.tolist())
        owners = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(some) for some in rows]))
        cosines = features[clusters == cluster] @ torch.cat(rows).T
        named = cosines.topk(min(nearest, cosines.shape[1]), dim=1).indices.flatten()
        counts = named.bincount(minlength=len(owners)).to(scores)
        sums = scores.new_zeros(len(rows)).index_add_(0, owners.to(scores.device), counts)
        scores[cluster, words] = sums / torch.tensor([len(some) for some in rows]).to(sums)
    return nearest_word_of(features, text, words_of_clusters(scores))


@cache
def broad_vocabulary() -> tuple[str, ...]:
    """The names of ImageNet-21k's classes as timm has them, of several synonyms the first, each once.

    Raises:
        CapabilityError: timm is not installed.
    """
    try:
        from timm.data import ImageNetInfo
    except ImportError:
        raise CapabilityError(
            "the words of ImageNet-21k come with the package 'timm'; install it with: pip install timm, or give "
            "--resource vocabulary=FILE"
        ) from None
    info = ImageNetInfo("imagenet-21k")
    names = (info.index_to_description(index) for index in range(info.num_classes()))
    return tuple(dict.fromkeys(name.split(",")[0].strip() for name in names))
