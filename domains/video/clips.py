"""A clip: which frames of a video, or of a stretch of it, are its parts, and how they become pixels."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...core.contracts.domain import MAX_PIXELS, Decoded
from ...core.data.files import Format
from ...core.errors import ConfigError, DataError
from . import sampling as rules
from .video_files import VIDEO_SUFFIXES, index_of, read_frames

RULES = ("uniform", "segment-random", "segment-middles", "first-to-last", "fps", "dense", "slowfast")
BY_CHANCE = "segment-random"
OF_CLIPS = ("uniform", "dense", "slowfast")
"""Rules that give several clips of a video."""
CUT_FROM = re.compile(r"^(v_.+_g\d+)_c\d+")
"""Names of files that are cut from one video."""
SHORT_SIDE = 384
"""Pixels of the shorter side that larger frames are reduced to: enough for every usual tower."""


@dataclass(frozen=True)
class Sampling:
    """Which frames of a clip are decoded.

    Args:
        rule: one of `RULES`.
        frames: how many, of each clip where there are several; of "fps" and "first-to-last" at most so many.
        interval: "dense" and "slowfast": from one frame to the next.
        fps: "fps": frames per second.
        clips: how many stretches of the video, one after the other.
        short_side: larger frames are reduced to it.

    Raises:
        ConfigError: a rule without what it needs.
    """

    rule: str = "uniform"
    frames: int = 8
    interval: int = 8
    fps: float = 1.0
    clips: int = 1
    short_side: int = SHORT_SIDE

    def __post_init__(self):
        if self.clips > 1 and self.rule not in OF_CLIPS:
            raise ConfigError(f"--set data.clips={self.clips}: for the sampling {', '.join(OF_CLIPS)}; omit it")

    def as_decode(self) -> dict[str, Any]:
        """For `Item.decode`: the rule and what changes its result."""
        own = {"dense": ("interval", "clips"), "slowfast": ("interval", "clips"), "uniform": ("clips",)}
        own = {**own, "fps": ("fps",)}.get(self.rule, ())
        return {key: value for key, value in asdict(self).items() if key in ("rule", "frames", "short_side", *own)}

    @classmethod
    def of(cls, decode: Mapping[str, Any]) -> Sampling:
        """From `Item.decode`, whatever else it holds."""
        return cls(**{key: decode[key] for key in cls.__dataclass_fields__ if key in decode})

    def positions(self, times: np.ndarray) -> np.ndarray:
        """(T,) of the frames of a stretch.

        Args:
            times: (n,) seconds at which they are shown.
        """
        n = len(times)
        if self.rule == "uniform":
            return rules.uniform(n, self.frames, self.clips)
        if self.rule == BY_CHANCE:
            return rules.segment_centres(n, self.frames)
        if self.rule == "segment-middles":
            return rules.segment_middles(n, self.frames)
        if self.rule == "dense":
            return rules.even_clips(n, self.frames, self.interval, self.clips)
        if self.rule == "slowfast":
            rate = (n - 1) / (times[-1] - times[0]) if n > 1 else 30.0
            return rules.slowfast_views(n, self.frames, self.interval, self.clips, rate)
        if self.rule == "fps":
            every = np.arange(0, times[-1] - times[0] + 1e-6, 1 / self.fps)
            shown = np.unique(np.searchsorted(times, times[0] + every + 1e-6, side="right") - 1)
            return shown[rules.first_to_last(len(shown), self.frames)]
        return rules.first_to_last(n, self.frames)


class Clip(np.ndarray):
    """Decoded frames (T, H, W, 3), which may be drawn anew: `redrawn(seed)` gives others of the same stretch, by
    chance; None where the rule leaves nothing to chance."""

    redrawn: Callable[[int], np.ndarray] | None = None

    def __array_finalize__(self, other):
        self.redrawn = getattr(other, "redrawn", None)


def load_clip(path: str | Path, decode: Mapping[str, Any]) -> Decoded:
    """The frames of a clip.

    Args:
        path: the video.
        decode: of `Sampling.as_decode`; "start" and "end", seconds of a stretch; "max_pixels".

    Returns:
        (T, H, W, 3) uint8, a `Clip`.

    Raises:
        DataError: as `read_frames`; or the times lie outside the video.
    """
    path, decode = Path(path), dict(decode)
    limit = int(decode.get("max_pixels", MAX_PIXELS))

    def draw(seed: int | None = None) -> np.ndarray:
        index = index_of(path, limit)
        positions = chosen_frames(path, index.times, index.duration, decode, seed)
        return read_frames(path, positions, short_side=Sampling.of(decode).short_side, max_pixels=limit)

    clip = draw().view(Clip)
    clip.redrawn = draw if decode.get("rule") == BY_CHANCE else None
    return clip


def chosen_frames(
    path: Path, times: np.ndarray, duration: float, decode: Mapping[str, Any], seed: int | None = None
) -> np.ndarray:
    """(T,) positions in the whole video of the frames of a clip.

    Args:
        path: for messages.
        times: (n,) seconds at which the frames of the video are shown.
        duration: of the video, in seconds.
        decode: as of `load_clip`.
        seed: of frames that are drawn by chance; None for those that are always the same.

    Raises:
        DataError: the times of the clip lie outside the video.
    """
    first, after = stretch_of(path, times, duration, decode.get("start"), decode.get("end"))
    sampling = Sampling.of(decode)
    if seed is None:
        return first + sampling.positions(times[first:after])
    return first + rules.random_in_segments(after - first, sampling.frames, np.random.default_rng(seed))


def stretch_of(
    path: Path, times: np.ndarray, duration: float, start: float | None, end: float | None
) -> tuple[int, int]:
    """Positions of the first frame of a stretch, and of the one after its last; at least one frame.

    Raises:
        DataError: the times lie outside the video.
    """
    start, end = start or 0.0, duration if end is None else end
    slack = max(1.0, 0.02 * duration)  # annotations are rounded, and made on other copies
    if not 0 <= start < end or start >= duration or end > duration + slack:
        raise DataError(
            f"{path}: {start:g} to {end:g} seconds lie outside its {duration:.2f} seconds; correct the times"
        )
    first = max(0, int(np.searchsorted(times, start + 1e-6, side="right")) - 1)
    after = int(np.searchsorted(times, end - 1e-6, side="left"))
    return first, max(after, first + 1)


def video_format(sampling: Sampling, max_pixels: int = MAX_PIXELS, suffixes: Sequence[str] = VIDEO_SUFFIXES) -> Format:
    """Video files, each one clip."""

    def expand(path: Path) -> list[dict[str, Any]]:
        return [sampling.as_decode()]

    return Format("video", tuple(suffixes), load=load_clip, expand=expand, group=_source, max_pixels=max_pixels)


def _source(path: Path, name: str) -> str | None:
    """The video that several files are cut from, where their names tell it as UCF101's do."""
    match = CUT_FROM.match(path.name)
    return match[1] if match else None
