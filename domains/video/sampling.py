"""Which frames of a video are looked at: the rules of published code, as positions among its n frames.

* `segment_centres`, `random_in_segments`: "Temporal Segment Networks", Wang et al. 2016, arXiv 1608.00859.
* `even_clips`, `random_clips`, `uniform`, `random_uniform`, `dense`: MMAction2's SampleFrames, UniformSample and
  DenseSampleFrames.
* `slowfast_views`, `segment_middles`: PySlowFast's, of Kinetics and of Something-Something.
* `first_to_last`: CLIP4Clip's and CLIP2Video's; `segments_after_half`: PLLaVA's.

Rounding is half to even, as numpy's. A video shorter than what is asked for is begun again ("loop") or stands still at
its last frame ("last"), or its frames are repeated in order where the rule divides it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TypeAlias

import numpy as np

LOOP, LAST = "loop", "last"
DENSE_REACH, TARGET_RATE = 64, 30.0
"""Frames of a stretch of `dense`, and frames per second of PySlowFast's models."""
Positions: TypeAlias = np.ndarray
"""(k,) int64, each in 0..n - 1."""


def segment_centres(n: int, segments: int) -> Positions:
    """The middle frame of each of `segments` equal parts."""
    width = n / segments
    return (np.arange(segments) * width + width / 2.0).astype(np.int64)


def segment_centres_and_starts(n: int, segments: int) -> Positions:
    """The middle frames, then the first frames, of the same parts."""
    width = n / segments
    starts = np.arange(segments) * width
    return np.concatenate([starts + width / 2.0, starts]).astype(np.int64)


def random_in_segments(n: int, segments: int, rng: np.random.Generator | np.random.RandomState) -> Positions:
    """One frame of each part by chance; of fewer frames than parts as `random_clips`."""
    return random_clips(n, 1, 1, segments, rng)


def even_clips(
    n: int,
    length: int,
    interval: int,
    clips: int = 1,
    beyond: str = LOOP,
    rates: tuple[float, float] | None = None,
) -> Positions:
    """`clips` stretches of `length` frames, `interval` apart, evenly spread; a single one lies in the middle.

    Args:
        rates: frames per second that are wanted, and those of the video: a stretch lasts as long as it would at the
            first.
    """
    span = (length - 1) * interval + 1 if rates is None else max(1, length * interval * (rates[1] / rates[0]))
    free = max(n - span, 0)
    if clips == 1:
        starts = np.array([free // 2])
    else:
        step = free / (clips - 1)
        starts = np.arange(clips) * np.floor(step) if rates else np.round(np.arange(clips) * step)
    return _stretches(starts.astype(np.int64), n, length, interval, beyond, span if rates else None)


def random_clips(
    n: int,
    length: int,
    interval: int,
    clips: int,
    rng: np.random.Generator | np.random.RandomState,
    beyond: str = LOOP,
) -> Positions:
    """As `even_clips`, each beginning by chance within its share of the video."""
    room = n - length * interval + 1
    share = room // clips
    if share > 0:
        starts = np.arange(clips) * share + _integers(rng, 0, share, clips)
    elif n > max(clips, length * interval):
        starts = np.sort(_integers(rng, 0, room, clips))
    elif share == 0:
        starts = np.around(np.arange(clips) * (room / clips))
    else:
        starts = np.zeros(clips)
    return _stretches(starts.astype(np.int64), n, length, interval, beyond, None)


def uniform(n: int, frames: int, clips: int = 1) -> Positions:
    """`frames` of the whole video; several clips take frames in between."""
    step = (n - 1) / frames
    edges = np.round(step * np.arange(frames)).astype(np.int64)
    shifts = [int(step / (clips + 1) * (clip + 1)) for clip in range(clips)]
    return np.concatenate([edges + shift for shift in shifts])


def random_uniform(n: int, frames: int, rng: np.random.Generator | np.random.RandomState) -> Positions:
    """One frame by chance between each two of `frames` + 1 evenly spread ones, both included."""
    edges = np.round((n - 1) / frames * np.arange(frames + 1)).astype(np.int64)
    return np.array([int(_integers(rng, low, high + 1)) for low, high in pairwise(edges)])


def dense(n: int, frames: int, positions: int = 10, reach: int = DENSE_REACH) -> Positions:
    """`frames` of a stretch of `reach` frames, at `positions` places of the video; a shorter one is begun again."""
    room = max(1, 1 + n - reach)
    starts = np.linspace(0, room - 1, positions, dtype=int)
    return (starts[:, None] + np.arange(frames) * (reach // frames)).reshape(-1) % n


def slowfast_views(
    n: int,
    frames: int,
    rate: int,
    views: int,
    fps: float,
    target_fps: float = TARGET_RATE,
    to_the_end: bool = False,
    rng: np.random.Generator | None = None,
) -> Positions:
    """`frames` of a stretch of rate * frames frames at the target's speed, from `views` beginnings.

    Args:
        to_the_end: the last view ends with the video; by default it begins one step before that.
        rng: draws the beginnings, as in training.
    """
    import torch

    size = max(1.0, rate * frames / target_fps * fps)
    free = max(n - size, 0)
    if rng is not None:
        starts = rng.uniform(0, free, views)
    elif not to_the_end:
        starts = free * np.arange(views) / views
    else:
        starts = np.arange(views) * np.floor(free / (views - 1)) if views > 1 else np.array([free / 2])
    places = torch.stack([torch.linspace(start, start + size - 1, frames) for start in starts])  # (views, frames)
    return places.clamp(0, n - 1).long().reshape(-1).numpy()


def segment_middles(n: int, frames: int) -> Positions:
    """The middle between the rounded ends of each part."""
    edges = np.round((n - 1) / frames * np.arange(frames + 1)).astype(np.int64)
    return (edges[:-1] + edges[1:]) // 2


def first_to_last(n: int, frames: int) -> Positions:
    """`frames` from the first to the last one, both included; all of a shorter video, which then gives fewer."""
    return np.linspace(0, n - 1, frames).astype(np.int64) if n > frames else np.arange(n)


def segments_after_half(n: int, frames: int) -> Positions:
    """The rounded beginnings of parts, moved by half a part."""
    step = (n - 1) / frames
    return int(step / 2) + np.round(step * np.arange(frames)).astype(np.int64)


def three_crops(height: int, width: int, side: int) -> list[tuple[int, int]]:
    """(left, top) of MMAction2's ThreeCrop of an image whose shorter side is `side`: left or top, right or bottom,
    middle."""
    across, down = (width - side) // 2, (height - side) // 2
    if width > height:
        return [(0, down), (2 * across, down), (across, down)]
    return [(across, 0), (across, 2 * down), (across, down)]


def five_crops(height: int, width: int, side: int) -> list[tuple[int, int]]:
    """(left, top) of MMAction2's TenCrop, each of which is followed by its mirror image."""
    across, down = (width - side) // 4, (height - side) // 4
    return [(0, 0), (4 * across, 0), (0, 4 * down), (4 * across, 4 * down), (2 * across, 2 * down)]


def _stretches(starts, n: int, length: int, interval: int, beyond: str, span: float | None) -> Positions:
    """(clips * length,) the frames of stretches, within the video."""
    if span is None:
        offsets = np.arange(length) * interval
    else:
        offsets = np.linspace(0, span - 1, length).astype(np.int64)
    places = starts[:, None] + offsets[None, :]  # (clips, length)
    if beyond == LOOP:
        return (places % n).reshape(-1)
    inside = places < n
    last = np.where(inside, places, 0).max(axis=1, keepdims=True)
    return np.where(inside, places, last).reshape(-1)


def _integers(rng: np.random.Generator | np.random.RandomState, low: int, high: int, size: int | None = None):
    draw = rng.randint if isinstance(rng, np.random.RandomState) else rng.integers
    return draw(low, high, size=size)
