"""Windows over the frames of a video: which there are, how well each fits a sentence, and which are left when those
that overlap with a better one are gone.

Sliding windows of several lengths and non-maximum suppression are what "TALL: Temporal Activity Localization via
Language Query" (Gao et al., 2017, arXiv 1705.02101) ranks; the score is ours: no window sees more than similarities of
single frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou, nms


@dataclass(frozen=True)
class Windows:
    """How a video is searched.

    Args:
        lengths: seconds.
        stride: from one window to the next, as a share of its length.
        contrast: what the frames around a window count against it.
        nms: IoU with a better window above which one is left out.
    """

    lengths: tuple[float, ...]
    stride: float = 0.25
    contrast: float = 1.0
    nms: float = 0.5

    def places(self, frames: int, fps: float) -> Tensor:
        """(W, 2) int64: the first frame of each window and the one after its last. Windows end where the video ends; a
        length beyond that is the whole video."""
        spans = {}
        for length in self.lengths:
            size = min(frames, max(1, round(length * fps)))
            step = max(1, round(self.stride * size))
            for first in (*range(0, frames - size, step), frames - size):
                spans[first, first + size] = None
        return torch.tensor(list(spans), dtype=torch.int64)

    def scores(self, similarity: Tensor, places: Tensor) -> Tensor:
        """(Q, W): the mean similarity of a window's frames less `contrast` times that of half as many frames before
        it and half as many after it; of a window that is the whole video its own mean.

        Args:
            similarity: (Q, T) of each frame with each sentence.
            places: (W, 2) of `places`.
        """
        count = similarity.shape[1]
        sums = torch.nn.functional.pad(similarity.double().cumsum(dim=1), (1, 0))  # (Q, T + 1)
        first, after = places.unbind(dim=1)
        inside = (sums[:, after] - sums[:, first]) / (after - first)
        margin = (after - first + 1) // 2
        low, high = (first - margin).clamp(min=0), (after + margin).clamp(max=count)
        beside = (high - low) - (after - first)
        around = sums[:, high] - sums[:, low] - (sums[:, after] - sums[:, first])
        around = torch.where(beside > 0, around / beside.clamp(min=1), inside)
        return (inside - self.contrast * around).float()

    def best(self, scores: Tensor, spans: Tensor, top: int) -> Tensor:
        """Positions of the best windows, at most `top`, the best first, none that overlaps with a better one.

        Args:
            scores: (W,).
            spans: (W, 2) seconds.
        """
        return nms(_as_boxes(spans), scores.double(), self.nms)[:top]


def in_seconds(places: Tensor, fps: float, duration: float) -> Tensor:
    """(W, 2) seconds of windows in frames, within the video."""
    return (places / fps).clamp(max=duration)


def span_overlaps(spans: Tensor, wanted: Tensor) -> Tensor:
    """(W, G) intersection over union of stretches of time (W, 2) and (G, 2)."""
    return box_iou(_as_boxes(spans), _as_boxes(wanted))


def lengths_of(durations: Sequence[float]) -> tuple[float, ...]:
    """Lengths of windows for moments like these: the 10th, 30th, 50th, 70th and 90th of a hundred, rounded to 0.1 s."""
    shares = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
    quantiles = torch.tensor(list(durations), dtype=torch.float64).quantile(shares).tolist()
    return tuple(dict.fromkeys(max(0.1, round(value, 1)) for value in quantiles))


def _as_boxes(spans: Tensor) -> Tensor:
    """Boxes as wide as stretches of time and one high, whose areas overlap as these do."""
    start, end = spans.double().unbind(dim=1)
    return torch.stack([start, torch.zeros_like(start), end, torch.ones_like(end)], dim=1)
