"""What `search --image` looks for in an index of videos: a clip, a picture, or a frame by its time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...core.contracts import DomainData
from ...core.data import loader, read_unlabelled
from .annotations import seconds
from .clips import INSTANTS, check_times
from .finding import read_new_clips
from .long_videos import AT, duration_of, whole_video

if TYPE_CHECKING:
    from .reading import VideoReading

INSTANT = 1e-3
"""Seconds that a frame is looked for within."""


def read_query(path: str | Path, reading: VideoReading) -> DomainData | None:
    """A picture, or one frame of a video ("film.mp4#t=65,66"); None where it is a clip.

    Raises:
        DataError: the frame lies outside its video, or that cannot be read.
    """
    path, (videos, frames) = Path(path), reading.formats
    name, at, time = str(path).rpartition(AT)
    if at and not path.exists():
        video = whole_video(read_new_clips([name], reading).items[0])
        start = seconds(time.split(",")[0], str(path)) or 0.0
        check_times(Path(name), duration_of(video), start, start + INSTANT)
        frame = video.with_(id=str(path), decode={**video.decode, "start": start, "fps": 1.0, INSTANTS: 1})
        return DomainData([frame], (), loader(reading.formats), kind="clips", name=name)
    if path.is_file() and not videos.matches(path) and frames.matches(path):
        return read_unlabelled([path])
    return None
