"""Long videos of the sample: drawn clips one after the other, whose times are known.

Each video shows six things in turn, each of another colour, for 3 to 10 seconds. A frame is drawn when it is
asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ...core.contracts import Captions, Decoded, DomainData, Item
from ...core.data import Drawing
from .clips import Sampling, chosen_frames, clip_of
from .drawn_clips import CAPTIONS, DRAWING, MOTIONS, NOTE, SEED, draw_clip, object_of
from .long_videos import LENGTH

RATE = 4
"""Drawn frames per second."""
SHOWN, SHORTEST, LONGEST = 6, 3, 10
VIDEOS = {"train": 24, "val": 6, "test": 20}
FIRST = 1_000
"""Number of the first clip, far from those of the other samples."""
DRAWN = Drawing(__file__, DRAWING.version)
TAUGHT = Sampling("uniform", 2)
"""Frames of a moment that a training sees."""


@dataclass(frozen=True)
class ShownClip:
    """One clip of a long video.

    Args:
        motion, number: of `draw_clip`.
        seconds: how long it is shown.
    """

    motion: int
    number: int
    seconds: int

    @property
    def sentence(self) -> str:
        """What is said of it."""
        colour, shape = object_of(self.motion // 2, self.number)
        return CAPTIONS[self.number % len(CAPTIONS)].format(colour, shape, MOTIONS[self.motion])


def drawn_moments() -> DomainData:
    """300 sentences, each about one of the six clips of 50 videos, with the times at which it is shown."""
    splits = DomainData.drawn_splits(VIDEOS)
    items = [item for video, split in enumerate(splits) for item in _moments(video, split)]
    return DomainData.drawn("drawn-moments", NOTE, items, load_drawn, kind="captions")


@lru_cache(maxsize=256)
def shown_in(video: int) -> tuple[ShownClip, ...]:
    """The clips of a long video, no two of one colour."""
    rng = np.random.default_rng([SEED, 2, video])
    clips: list[ShownClip] = []
    colours: set[str] = set()
    number = FIRST + 100 * video
    while len(clips) < SHOWN:
        motion, number = int(rng.integers(len(MOTIONS))), number + 1
        colour, _ = object_of(motion // 2, number)
        if colour not in colours:
            colours.add(colour)
            clips.append(ShownClip(motion, number, int(rng.integers(SHORTEST, LONGEST + 1))))
    return tuple(clips)


def load_drawn(item: Item) -> Decoded:
    """(T, 64, 64, 3) uint8 frames of a drawn video, or of a stretch of it."""
    clips, decode = shown_in(int(item.decode["video"])), dict(item.decode)
    times = np.arange(RATE * sum(clip.seconds for clip in clips)) / RATE

    def draw(seed: int | None) -> np.ndarray:
        positions = chosen_frames(item.source, times, float(decode[LENGTH]), decode, seed)
        return np.stack([_frame(clips, int(position)) for position in positions])

    return clip_of(draw, decode)


def _moments(video: int, split: str) -> list[Item]:
    clips, begin, items = shown_in(video), 0, []
    length = sum(clip.seconds for clip in clips)
    whole = {"video": video, LENGTH: length, **TAUGHT.as_decode()}
    for clip in clips:
        times = {"start": float(begin), "end": float(begin + clip.seconds)}
        name = f"video-{video:03d}"
        id_ = f"{name}#{begin}-{begin + clip.seconds}"
        decode = {**whole, **times}
        items.append(
            DRAWN.item(id_, "video", video, target=Captions((clip.sentence,)), group=name, split=split, **decode)
        )
        begin += clip.seconds
    return items


def _frame(clips: tuple[ShownClip, ...], position: int) -> np.ndarray:
    for clip in clips:
        count = RATE * clip.seconds
        if position < count:
            return _drawn(clip.motion, clip.number, count)[position]
        position -= count
    raise IndexError(position)


@lru_cache(maxsize=32)
def _drawn(motion: int, number: int, frames: int) -> np.ndarray:
    return draw_clip(motion, number, frames)
