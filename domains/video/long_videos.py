"""Long videos at a fixed rate: how long they are, their stretches, and the features of their frames.

A video is decoded stretch by stretch, each a sample whose parts are the frames shown at even instants, so memory does
not grow with its length, and what was encoded is kept if the work is stopped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.contracts import DomainData, Item, Target
from ...core.errors import DataError
from .clips import INSTANTS, Sampling

if TYPE_CHECKING:
    from torch import Tensor

AT_ONCE = 64
"""Frames of a stretch: more hold more memory, fewer decode more frames between a key frame and the first one wanted."""
OF_A_CLIP = (*Sampling.__dataclass_fields__, "start", "end", INSTANTS)
"""What `Item.decode` says of which frames; the rest tells the video."""
AT = "#t="
"""Between the name of a video and the seconds of a part of it, as in addresses of media fragments (W3C)."""
LENGTH = "length"
"""In `Item.decode` of a video that is no file: its seconds."""


@dataclass(frozen=True)
class Moment(Target):
    """Where a frame or a stretch lies in its video.

    Args:
        video: its name.
        start, end: seconds.
    """

    video: str
    start: float
    end: float

    def about(self) -> Mapping[str, str]:
        """ "time" is the start in seconds, by which a search takes what comes after one."""
        times = {"start": clock_time(self.start), "end": clock_time(self.end), "time": plain_seconds(self.start)}
        return {"video": self.video, **times}


def duration_of(item: Item) -> float:
    """Seconds of the video that a clip is, or is a stretch of.

    Raises:
        DataError: it cannot be read.
    """
    if LENGTH in item.decode:
        return float(item.decode[LENGTH])
    if "rate" in item.decode:
        from .frame_folders import duration_of_folder

        return duration_of_folder(item.source, item.decode)
    from .video_files import index_of

    return index_of(Path(item.source), int(item.decode.get("max_pixels", Item.MAX_PIXELS))).duration


def looked_at(item: Item) -> tuple[float, float]:
    """Seconds at which a clip begins and ends.

    Raises:
        DataError: it cannot be read.
    """
    duration = duration_of(item)
    return float(item.decode.get("start") or 0.0), min(float(item.decode.get("end") or duration), duration)


def whole_video(item: Item) -> Item:
    """The video that a clip is a stretch of; those of one video are equal but for what is said of them."""
    decode = {key: value for key, value in item.decode.items() if key not in OF_A_CLIP}
    decode |= {key: item.decode[key] for key in ("short_side",) if key in item.decode}
    name = item.id.rpartition("#")[0] if item.decode.keys() & {"start", "end"} else ""
    return Item(name or item.id, item.source, decode, group=item.group, split=item.split)


def stretches_of(video: Item, duration: float, fps: float, at_once: int | None = None) -> list[Item]:
    """A whole video as stretches of frames at even instants from 0 on.

    Args:
        video: of `whole_video`.
        duration: its seconds.
        fps: frames per second.
        at_once: frames of a stretch at most; by default `AT_ONCE`.
    """
    count, at_once = frames_in(duration, fps), at_once or AT_ONCE
    made = []
    for first in range(0, count, at_once):
        frames = min(at_once, count - first)
        start, end = first / fps, min((first + frames) / fps, duration)
        decode = {**video.decode, "start": start, "fps": fps, INSTANTS: frames}
        made.append(video.with_(id=f"{video.id}{AT}{plain_seconds(start)},{plain_seconds(end)}", decode=decode))
    return made


def frames_in(duration: float, fps: float) -> int:
    """Instants at 0, 1 / fps, 2 / fps, ... before the end of a video; the first always."""
    return max(1, math.ceil(duration * fps - 1e-6))


def frame_at(stretch: Item, place: int) -> Item:
    """One frame of a stretch, as a sample of its own that says where it lies."""
    fps = float(stretch.decode["fps"])
    start = float(stretch.decode["start"]) + place / fps
    moment = Moment(stretch.id.rpartition(AT)[0], start, start + 1 / fps)
    id_ = f"{moment.video}{AT}{plain_seconds(moment.start)},{plain_seconds(moment.end)}"
    return stretch.with_(id=id_, decode={**stretch.decode, "start": start, INSTANTS: 1}, target=moment)


def in_stretches(data: DomainData, fps: float) -> DomainData:
    """The videos of some clips, each once, in stretches of frames at `fps`; those that cannot be read are listed in
    `skipped`. Clips that are drawn stay as they are.

    Raises:
        DataError: none can be read.
    """
    videos = {repr((str(v.source), sorted(v.decode.items()))): v for v in map(whole_video, data.items)}
    items, skipped = [], list(data.skipped)
    if all("digest" in item.decode and not item.decode.keys() & {LENGTH, "rate"} for item in data.items):
        return data
    for video in videos.values():
        try:
            items += stretches_of(video, duration_of(video), fps)
        except DataError as error:
            skipped.append((video.id, str(error)))
    if not items:
        raise DataError(f"no video can be read; the first is {skipped[0][0]}: {skipped[0][1]}")
    return replace(data, items=items, skipped=skipped)


def frame_features(
    store: Any, data: DomainData, backbone: Any, transform: Any, videos: Sequence[Item], fps: float, **how: Any
) -> Iterator[tuple[float, Tensor | str]]:
    """Of each video its seconds, and unit features (T, D) of its frames at `fps`, or why it cannot be used.

    Args:
        store: a `FeatureStore`.
        data: whose `load` decodes the videos.
        how: further arguments of `FeatureStore.get_or_compute`.
    """
    import torch
    import torch.nn.functional as F

    for some in _a_few(videos, fps):
        stretches = [stretch for _, of in some for stretch in of]
        made = store.get_or_compute(data, stretches, backbone, transform, parts=True, **how)
        rows = {}
        for place, item in enumerate(made.items):
            rows[item.id] = made.features.parts[place, made.features.parts_mask[place]]  # (T, D)
        reasons = dict(made.skipped)
        for duration, of in some:
            failed = next((reasons[stretch.id] for stretch in of if stretch.id in reasons), None)
            if isinstance(duration, str) or failed:
                yield 0.0, failed or duration
            else:
                yield duration, F.normalize(torch.cat([rows[stretch.id] for stretch in of]), dim=-1)  # (T, D)


def _a_few(videos: Sequence[Item], fps: float) -> Iterator[list[tuple[float | str, list[Item]]]]:
    """(seconds, stretches) of some videos at a time, or why one cannot be read and no stretch."""
    some: list[tuple[float | str, list[Item]]] = []
    for video in videos:
        try:
            duration = duration_of(video)
            some.append((duration, stretches_of(video, duration, fps)))
        except DataError as error:
            some.append((str(error), []))
        if sum(len(of) for _, of in some) >= AT_ONCE:
            yield some
            some = []
    if some:
        yield some


def plain_seconds(seconds: float) -> str:
    """ "65" or "65.25", without digits that say nothing."""
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


def clock_time(seconds: float) -> str:
    """ "1:05:09" of 3909 seconds; parts of a second where there are some."""
    whole, rest = divmod(round(seconds, 2), 1)
    minutes, second = divmod(int(whole), 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f"{rest:.2f}".rstrip("0").rstrip(".")[1:]
    return f"{hours}:{minutes:02d}:{second:02d}{fraction}"
