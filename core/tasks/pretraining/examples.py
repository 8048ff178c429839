"""A few captions and the images they find: what a report shows beside its numbers, before and after a training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...contracts.backbone import Backbone
from ...contracts.items import Decoded, Item
from ...contracts.options import require
from ...data.pairs.joined_pairs import JoinedPairs
from ...data.pairs.pair_set import PairSet
from ...errors import DataError
from ...features.extract import AMP, BatchSizeTuner, DecodeJob, Encoded, check_amp, extract, in_eval_mode, plain_encoder

BATCH_SIZE = 32


@dataclass(frozen=True)
class ExampleQuery:
    """A caption to search by.

    Args:
        caption: its words.
        row: of the image that it describes, in the pairs.
    """

    caption: str
    row: int


@dataclass(frozen=True)
class Match:
    """An image that a query found.

    Args:
        row: of the image, in the pairs.
        score: cosine of its feature with the query's.
        right: it is the image that the query describes.
        right_rank: where that one came among all images, from 1. Of equal scores the wrong images come first, as in
            the scores of `evaluate_retrieval`.
        same_words: it is another image, of which the very same words are said.
    """

    row: int
    score: float
    right: bool
    right_rank: int
    same_words: bool = False


class RetrievalExamples:
    """Some captions of a set, and some of its images for them to search.

    The choice depends on the set, the numbers and the seed alone, so that two models are shown on the same examples.

    Args:
        pairs: the split to choose from.
        count: how many captions, no two alike; fewer where the set has fewer.
        among: how many images, theirs included.
        seed: of the choice.

    Attributes:
        queries: the captions, each of another image.
        gallery: rows of the images that are searched, rising.

    Raises:
        ConfigError: count or among is below 1, or among below count. DataError: the set has no pairs.

    Example:
        examples = RetrievalExamples(pairs.split("test"))
        before = examples.top(backbone)
        ...  # train the towers
        after = examples.top(backbone)
    """

    def __init__(self, pairs: PairSet | JoinedPairs, count: int = 6, among: int = 200, seed: int = 0):
        require(count >= 1, "count", count, "give 1 or more")
        require(among >= count, "among", among, f"give {count} or more: the images of the queries are among them")
        if not len(pairs):
            raise DataError(f"{pairs.name or 'this set'}: holds no pairs, so there is nothing to search")
        self.pairs = pairs
        rng = np.random.default_rng(seed)
        images = np.unique(pairs.image_numbers, return_index=True)[1]  # the first row of each image
        drawn = rng.permutation(images)[:among].tolist()
        self.gallery: tuple[int, ...] = tuple(sorted(drawn))
        self.queries: tuple[ExampleQuery, ...] = _drawn_queries(pairs, drawn, count, rng)

    def load_image(self, row: int) -> Decoded:
        """The pixels of an image that was found.

        Raises:
            DataError: it cannot be read or decoded.
        """
        return self.pairs.load_image(row)

    def top(
        self,
        backbone: Backbone,
        *,
        k: int = 4,
        batch_size: int | None = None,
        workers: int | None = None,
        amp: str | None = None,
        transform: Callable[[Decoded], Tensor] | None = None,
    ) -> list[list[Match]]:
        """What each query finds first.

        The towers may be in the middle of a training: they run in eval mode without gradients, and end as they were.
        Under torchrun each rank that calls it does the whole work, and waits for no other.

        Args:
            backbone: its `preprocess()`, `encode_image` and `encode_text` are used.
            k: images per query; fewer where fewer can be read.
            batch_size: images at once; None: 32.
            workers: threads that read and preprocess; None: one per CPU core.
            amp: None, "bf16" or "fp16".
            transform: what makes an image pixels; None: the backbone's own preprocessing.

        Returns:
            For each of `queries` its best images, the best first. None at all where its own image cannot be read.

        Raises:
            ConfigError: an option is not usable.
        """
        require(k >= 1, "k", k, "give 1 or more")
        check_amp(amp)
        # What a tower keeps of its first pass (masks, positions) must still serve one that trains: not inference mode.
        with torch.inference_mode(False), torch.no_grad(), in_eval_mode(backbone.model):
            images, readable = self._encoded_images(backbone, batch_size, workers, amp, transform)  # (G, D), (G,)
            texts = self._encoded_captions(backbone, amp)  # (Q, D)
        # A matrix product rounds by position, so images of equal features are scored once and share that score.
        distinct, place = images.unique(dim=0, return_inverse=True)  # (U, D), (G,)
        return self._ranked((texts @ distinct.T)[:, place], readable, k)

    def _encoded_images(self, backbone: Backbone, batch_size, workers, amp, transform) -> tuple[Tensor, Tensor]:
        """(G, D) unit features of the gallery, and (G,) bool: which of its images have one."""
        transform, pin = transform or backbone.preprocess(False), backbone.device.type == "cuda"

        def render(job: DecodeJob) -> list[Tensor]:
            return [transform(self.pairs.load_image(int(job.item.id)))]

        jobs = [
            DecodeJob(Item(str(row), Path()), (str(place).encode(),), (None,)) for place, row in enumerate(self.gallery)
        ]
        tuner = BatchSizeTuner(BATCH_SIZE if batch_size is None else batch_size)
        rows, readable = torch.zeros(len(jobs), backbone.embed_dim), torch.zeros(len(jobs), dtype=torch.bool)
        with closing(extract(jobs, render, plain_encoder(backbone, amp), tuner, workers, pin)) as results:
            for result in results:
                if isinstance(result, Encoded):
                    places = [int(key) for key in result.keys]
                    rows[places], readable[places] = torch.from_numpy(result.rows), True
        return F.normalize(rows, dim=-1), readable

    def _encoded_captions(self, backbone: Backbone, amp: str | None) -> Tensor:
        with torch.autocast(backbone.device.type, dtype=AMP[amp], enabled=amp is not None):
            texts = backbone.encode_text([query.caption for query in self.queries], normalize=False)
        return F.normalize(texts.float().cpu(), dim=-1)

    def _ranked(self, scores: Tensor, readable: Tensor, k: int) -> list[list[Match]]:
        """The first k of each row of scores (Q, G)."""
        rows = torch.tensor(self.gallery)
        right = rows == torch.tensor([query.row for query in self.queries])[:, None]  # (Q, G)
        scores = scores.masked_fill(~readable, -torch.inf)
        true_scores = scores[right][:, None]  # (Q, 1)
        rank = (~(scores < true_scores) & readable & ~right).sum(dim=1) + 1  # (Q,)
        wrong_first = right.int().argsort(dim=1, stable=True)
        falling = scores.gather(1, wrong_first).argsort(dim=1, descending=True, stable=True)
        best = wrong_first.gather(1, falling)[:, : min(k, int(readable.sum()))]  # (Q, k)
        return [
            [self._match(query, place, scores[q, place], rank[q]) for place in best[q].tolist()]
            if bool((right[q] & readable).any())
            else []
            for q, query in enumerate(self.queries)
        ]

    def _match(self, query: ExampleQuery, place: int, score: Tensor, rank: Tensor) -> Match:
        row = self.gallery[place]
        right = row == query.row
        same_words = not right and query.caption in self.pairs[row].captions
        return Match(row, float(score), right, int(rank), same_words)


def _drawn_queries(
    pairs: PairSet | JoinedPairs, rows: list[int], count: int, rng: np.random.Generator
) -> tuple[ExampleQuery, ...]:
    """One caption of each row in turn, unless it was taken, until there are enough."""
    taken: dict[str, int] = {}
    for row in rows:
        captions = pairs[row].captions
        taken.setdefault(captions[int(rng.integers(len(captions)))], row)
        if len(taken) == count:
            break
    return tuple(ExampleQuery(caption, row) for caption, row in taken.items())
