"""A clip: which frames of a video, or of a stretch of it, are its parts, and how they become pixels."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...core.contracts import Decoded, Item
from ...core.data import Format
from ...core.errors import ConfigError, DataError
from . import sampling as rules
from .frame_cache import kept_frames

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".wmv", ".flv"),
    *(".3gp", ".ogv", ".gif"),
)
CROPS = (1, 3, 10)
MIDDLE_CROP = {1: 0, 3: 2, 10: 8}
"""Which of so many crops is the one in the middle, as it is."""
AREA, MULTI_SCALE, SCALE_JITTER, CENTRE = TRAIN_CROPS = ("area", "multi-scale", "scale-jitter", "centre")
LIGHT, STRONG, UNCHANGED = COLOURS = ("light", "strong", "none")
MIRROR = "mirror"
"""In `Item.decode` of a mirror image."""
CUT_FROM = re.compile(r"^(v_.+_g\d+)_c\d+")
"""Names of files that are cut from one video."""
INSTANTS = "instants"
"""In `Item.decode` of a stretch whose frames are taken at a fixed rate: how many (`long_videos.py`)."""
SHORT_SIDE = 384
"""Pixels of the shorter side that larger frames are reduced to: enough for every usual tower."""


@dataclass(frozen=True)
class Rule:
    """Which frames: of `Sampling.rule`.

    Args:
        always: (sampling, times (n,)) -> positions, without chance.
        drawn: (sampling, times (n,), generator) -> positions by chance, for training; None where nothing is drawn.
        options: fields of `Sampling` that change the result, besides the number of frames.
    """

    always: Callable[[Sampling, np.ndarray], np.ndarray]
    drawn: Callable[[Sampling, np.ndarray, np.random.Generator], np.ndarray] | None = None
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sampling:
    """Which frames of a clip are decoded.

    Args:
        rule: one of `RULES`.
        frames: how many, of each clip where there are several; of "fps" and "first-to-last" at most so many.
        interval: from one frame to the next, of rules that have it.
        fps: "fps": frames per second.
        clips: how many stretches of the video, one after the other.
        short_side: larger frames are reduced to it.

    Raises:
        ConfigError: several clips by a rule that gives one, or more frames than a dense stretch has.
    """

    rule: str = "uniform"
    frames: int = 8
    interval: int = 8
    fps: float = 1.0
    clips: int = 1
    short_side: int = SHORT_SIDE

    def __post_init__(self):
        if self.clips > 1 and "clips" not in RULES[self.rule].options:
            several = [name for name, rule in RULES.items() if "clips" in rule.options]
            raise ConfigError(f"--clips {self.clips}: for the sampling {', '.join(several)}; omit it")
        if self.rule == "dense" and self.frames > rules.DENSE_REACH:
            raise ConfigError(
                f"--frames {self.frames}: the sampling dense takes at most {rules.DENSE_REACH}; give fewer"
            )

    def as_decode(self) -> dict[str, Any]:
        """For `Item.decode`: the rule and what changes its result."""
        kept = ("rule", "frames", "short_side", *RULES[self.rule].options)
        return {key: value for key, value in asdict(self).items() if key in kept}

    @classmethod
    def of(cls, decode: Mapping[str, Any]) -> Sampling:
        """From `Item.decode`, whatever else it holds."""
        return cls(**{key: decode[key] for key in cls.__dataclass_fields__ if key in decode})

    @property
    def draws(self) -> bool:
        """Whether training sees other frames each time."""
        return RULES[self.rule].drawn is not None

    def positions(self, times: np.ndarray, seed: int | None = None) -> np.ndarray:
        """(T,) of the frames of a stretch.

        Args:
            times: (n,) seconds at which they are shown.
            seed: of those drawn by chance; None for those that are always the same.
        """
        rule = RULES[self.rule]
        if seed is None or rule.drawn is None:
            return rule.always(self, times)
        return rule.drawn(self, times, np.random.default_rng(seed))


def _at_rate(how: Sampling, times: np.ndarray) -> np.ndarray:
    every = np.arange(0, times[-1] - times[0] + 1e-6, 1 / how.fps)
    shown = np.unique(np.searchsorted(times, times[0] + every + 1e-6, side="right") - 1)
    return shown[rules.first_to_last(len(shown), how.frames)]


def _slowfast(how: Sampling, times: np.ndarray, **starts: Any) -> np.ndarray:
    n = len(times)
    rate = (n - 1) / (times[-1] - times[0]) if n > 1 else rules.TARGET_RATE
    return rules.slowfast_views(n, how.frames, how.interval, how.clips, rate, **starts)


RULES = {
    "uniform": Rule(lambda how, times: rules.uniform(len(times), how.frames, how.clips), options=("clips",)),
    "uniform-random": Rule(
        lambda how, times: rules.uniform(len(times), how.frames),
        lambda how, times, rng: rules.random_uniform(len(times), how.frames, rng),
    ),
    "segment-random": Rule(
        lambda how, times: rules.segment_centres(len(times), how.frames),
        lambda how, times, rng: rules.random_in_segments(len(times), how.frames, rng),
    ),
    "segment-twice": Rule(lambda how, times: rules.segment_centres_and_starts(len(times), how.frames)),
    "segment-middles": Rule(lambda how, times: rules.segment_middles(len(times), how.frames)),
    "after-half": Rule(lambda how, times: rules.segments_after_half(len(times), how.frames)),
    "first-to-last": Rule(lambda how, times: rules.first_to_last(len(times), how.frames)),
    "fps": Rule(_at_rate, options=("fps",)),
    "stretches": Rule(
        lambda how, times: rules.even_clips(len(times), how.frames, how.interval, how.clips),
        lambda how, times, rng: rules.random_clips(len(times), how.frames, how.interval, how.clips, rng),
        options=("interval", "clips"),
    ),
    "dense": Rule(lambda how, times: rules.dense(len(times), how.frames, how.clips), options=("clips",)),
    "slowfast": Rule(_slowfast, options=("interval", "clips")),
    "slowfast-random": Rule(
        lambda how, times: _slowfast(how, times, to_the_end=True),
        lambda how, times, rng: _slowfast(how, times, rng=rng),
        options=("interval", "clips"),
    ),
}
"""Name -> rule; where each comes from, `sampling.py` says."""


class DecodedClip(np.ndarray):
    """Decoded frames (T, H, W, 3), which may be drawn anew: `redrawn(seed)` gives others of the same stretch, by
    chance; None where the rule leaves nothing to chance."""

    redrawn: Callable[[int], np.ndarray] | None = None

    def __array_finalize__(self, other):
        self.redrawn = getattr(other, "redrawn", None)


def load_clip(path: str | Path, decode: Mapping[str, Any], keep: bool = False) -> Decoded:
    """The frames of a clip.

    Args:
        path: the video.
        decode: of `Sampling.as_decode`; "start" and "end", seconds of a stretch; "max_pixels".
        keep: keep them in the cache, and take them from there.

    Returns:
        (T, H, W, 3) uint8, a `DecodedClip`.

    Raises:
        DataError: as `read_frames`; or the times lie outside the video.
    """
    from .video_files import index_of, read_frames

    path, decode = Path(path), dict(decode)
    limit = int(decode.get("max_pixels", Item.MAX_PIXELS))

    def decoded(seed: int | None) -> np.ndarray:
        index = index_of(path, limit)
        positions = chosen_frames(path, index.times, index.duration, decode, seed)
        return read_frames(path, positions, short_side=Sampling.of(decode).short_side, max_pixels=limit)

    def draw(seed: int | None) -> np.ndarray:
        return kept_frames(path, decode, seed, partial(decoded, seed)) if keep else decoded(seed)

    return clip_of(draw, decode)


def clip_of(draw: Callable[[int | None], np.ndarray], decode: Mapping[str, Any]) -> DecodedClip:
    """A clip of frames that are drawn by the seed, or are always the same (None); mirrored where `decode` says so."""

    def drawn(seed: int | None) -> np.ndarray:
        return draw(seed)[:, :, ::-1] if decode.get(MIRROR) else draw(seed)

    clip = drawn(None).view(DecodedClip)
    clip.redrawn = drawn if Sampling.of(decode).draws else None
    return clip


def chosen_frames(
    path: Path, times: np.ndarray, duration: float, decode: Mapping[str, Any], seed: int | None = None
) -> np.ndarray:
    """(T,) positions in the whole video of the frames of a clip.

    Args:
        path: for messages.
        times: (n,) seconds at which the frames of the video are shown.
        duration: of the video, in seconds.
        decode: as of `load_clip`; with "instants", how many, the frames shown at "start" and each 1 / "fps" after it.
        seed: of frames that are drawn by chance; None for those that are always the same.

    Raises:
        DataError: the times of the clip lie outside the video.
    """
    if INSTANTS in decode:
        return shown_at(times, float(decode["start"]) + np.arange(int(decode[INSTANTS])) / float(decode["fps"]))
    first, after = _stretch_of(path, times, duration, decode.get("start"), decode.get("end"))
    return first + Sampling.of(decode).positions(times[first:after], seed)


def shown_at(times: np.ndarray, instants: np.ndarray) -> np.ndarray:
    """Positions of the frames that are shown at some instants, the last one for all after it.

    Args:
        times: (n,) rising seconds at which frames are shown.
        instants: (T,) seconds.
    """
    return np.maximum(np.searchsorted(times, instants + 1e-6, side="right") - 1, 0)


def _stretch_of(
    path: Path, times: np.ndarray, duration: float, start: float | None, end: float | None
) -> tuple[int, int]:
    """Positions of the first frame of a stretch, and of the one after its last; at least one frame.

    Raises:
        DataError: the times lie outside the video.
    """
    start, end = start or 0.0, duration if end is None else end
    check_times(path, duration, start, end)
    first = max(0, int(np.searchsorted(times, start + 1e-6, side="right")) - 1)
    after = int(np.searchsorted(times, end - 1e-6, side="left"))
    return first, max(after, first + 1)


def check_times(path: Path, duration: float, start: float, end: float) -> None:
    """Raise the DataError of times that lie outside a video of so many seconds."""
    slack = max(1.0, 0.02 * duration)  # annotations are rounded, and made on other copies
    if not 0 <= start < end or start >= duration or end > duration + slack:
        raise DataError(
            f"{path}: {start:g} to {end:g} seconds lie outside its {duration:.2f} seconds; correct the times"
        )


def video_format(sampling: Sampling, max_pixels: int = Item.MAX_PIXELS, keep: bool = False) -> Format:
    """Video files, each one clip.

    Args:
        sampling: which of its frames.
        max_pixels: larger frames are refused.
        keep: decoded frames are kept in the cache.
    """

    def expand(path: Path) -> list[dict[str, Any]]:
        return [sampling.as_decode()]

    load = partial(load_clip, keep=True) if keep else load_clip
    return Format("video", VIDEO_SUFFIXES, load=load, expand=expand, group=_source, max_pixels=max_pixels)


def _source(path: Path, name: str) -> str | None:
    """The video that several files are cut from, where their names tell it as UCF101's do."""
    match = CUT_FROM.match(path.name)
    return match[1] if match else None
