"""Video files by PyAV: which frames there are, and those that are asked for, each decoded once, from the nearest key
frame on.

Frames are counted in the order in which they are shown, whatever their distances in time, without those that a file
says are not shown. They come upright, their pixels square. A file is read as it is: lists of other files (HLS, concat)
and addresses are none. The index of a two-hour file is a number per frame; its frames are never held together.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...core.contracts import Decoded, Item
from ...core.data import remember_by_file
from ...core.errors import DataError, LimitError, shortened
from ...core.runtime import check_regular

CONTAINERS = "mov,mp4,matroska,webm,avi,mpeg,mpegts,asf,flv,ogg,gif,ivf,h264,hevc,mjpeg,m4v,mpegvideo,dv"
"""FFmpeg's names of what is read; those that open further files are not among them."""
CLAIMING = ("mov", "mp4", "flv")
"""Containers whose header says how long the video is; of others than these and the next FFmpeg estimates it."""
CLAIMING_END = ("matroska", "webm", "avi", "asf")
"""Containers whose header says when the video ends, counted from 0, where it may begin later."""
GUESSING = ("mpeg",)
"""Containers that do not say when each frame is shown: it is another guess after seeking."""
LEAST_SHARE = 0.95
"""Of the frames, or the time, that a header claims: with fewer the file is cut short."""
KEPT_INDEXES = 64
UNTIMED = np.iinfo(np.int64).min
USUAL_RATE = 25.0
CURE = "replace or remove it"


@dataclass(frozen=True)
class VideoIndex:
    """What a file shows, without its pixels.

    Args:
        pts: (n,) int64 of each frame in the order shown, in units of the stream; a file that has none is counted.
        keys: (k,) rising positions of frames that decoding may begin at.
        times: (n,) seconds since the first frame.
        width, height: of a frame as stored.
        codec: its name.
        stream: which of the file's it is.
        seekable: whether frames are found by `pts`; else all before them are decoded.
    """

    pts: np.ndarray
    keys: np.ndarray
    times: np.ndarray
    width: int
    height: int
    codec: str
    stream: int = 0
    seekable: bool = True

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def rate(self) -> float:
        """Frames per second, on average."""
        return (len(self) - 1) / self.times[-1] if len(self) > 1 else USUAL_RATE

    @property
    def duration(self) -> float:
        """Seconds, the last frame shown as long as the others are on average."""
        return float(self.times[-1] + 1 / self.rate)

    def key_before(self, position: int) -> int:
        """Which of the keys is the last at or before a frame."""
        return max(0, int(np.searchsorted(self.keys, position, side="right")) - 1)


@remember_by_file(size=KEPT_INDEXES)
def index_of(path: Path, max_pixels: int = Item.MAX_PIXELS) -> VideoIndex:
    """The index of a file, whose packets are looked at and not decoded. Of several video streams it is that of most
    frames; pictures of the cover are none.

    Raises:
        DataError: no video file, no video stream, a codec that is not built in, no frame, or cut short.
        LimitError: frames of more than `max_pixels`.
    """
    with opened_video(path) as (container, streams):
        packets, end = _packets(container, streams)
        stream = max(streams, key=lambda each: len(packets[each.index].pts))
        if stream.codec_context is None:
            raise DataError(f"{path}: its codec is not built into PyAV; convert it to H.264, or remove it")
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > max_pixels:
            raise LimitError.too_large(f"{path}: frames of {width} x {height} pixels", max_pixels)
        number = stream.index
        values, keys = packets[number].arrays
        shown = len(values)
        _check_length(path, container, stream, packets[number], end)
        codec, base, kind = stream.codec_context.name, stream.time_base, container.format.name
        rate = float(stream.average_rate or stream.guessed_rate or USUAL_RATE)
    if not shown:
        raise DataError(f"{path}: holds no frame; {CURE}")
    seekable = kind not in GUESSING and UNTIMED not in values and len(np.unique(values)) == shown
    if not seekable:
        every = np.arange(shown)
        return VideoIndex(every, np.zeros(1, np.int64), every / rate, width, height, codec, number, seekable=False)
    order = np.argsort(values, kind="stable")
    marked = np.flatnonzero(keys[order])
    marked = marked if len(marked) and marked[0] == 0 else np.concatenate([[0], marked])
    values = values[order]
    return VideoIndex(values, marked, (values - values[0]) * float(base), width, height, codec, number)


def read_frames(
    path: str | Path,
    positions: Sequence[int],
    *,
    short_side: int | None = None,
    max_pixels: int = Item.MAX_PIXELS,
    threads: int = 1,
) -> Decoded:
    """Some frames of a video.

    Args:
        positions: T of them, in any order, each as often as it is wanted.

    Returns:
        (T, H, W, 3) uint8.

    Raises:
        DataError: as `frames_at`.
    """
    pixels = dict(frames_at(path, positions, short_side=short_side, max_pixels=max_pixels, threads=threads))
    return np.stack([pixels[int(position)] for position in positions])


def frames_at(
    path: str | Path,
    positions: Sequence[int],
    *,
    short_side: int | None = None,
    max_pixels: int = Item.MAX_PIXELS,
    threads: int = 1,
) -> Iterator[tuple[int, np.ndarray]]:
    """(position, frame) of some frames, one after the other: (H, W, 3) uint8, each once, in rising order.

    A frame that the decoder does not show is replaced by the next that it shows.

    Args:
        path: the file.
        positions: which.
        short_side: larger frames are reduced until their shorter side has so many pixels.
        max_pixels: larger frames are refused.
        threads: of the decoder; 0 as many as it likes.

    Raises:
        DataError: as `index_of`; or a frame is damaged, or there is none at a position.
    """
    path = Path(path)
    index = index_of(path, max_pixels)
    wanted = np.unique(np.asarray(positions, dtype=np.int64))
    if not len(wanted) or wanted[0] < 0 or wanted[-1] >= len(index):
        raise DataError(f"{path}: has frames 0 to {len(index) - 1}; ask for one or more of these")
    with opened_video(path) as (container, _):
        size, stream = None, container.streams[index.stream]
        stream.codec_context.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        for position, frame in _shown(container, stream, index, wanted.tolist()):
            size = size or _size(frame, stream, short_side)
            # (H, W, 3) uint8.
            rgb = frame.reformat(width=size[0], height=size[1], format="rgb24", interpolation="BICUBIC").to_ndarray()
            yield position, np.ascontiguousarray(np.rot90(rgb, round(frame.rotation / 90) % 4))


@contextmanager
def opened_video(path: str | Path) -> Iterator[tuple[Any, list[Any]]]:
    """(container, video streams) of a file; what goes wrong while they are used becomes a DataError.

    Raises:
        DataError: no video file, or no video stream.
    """
    import av

    path = Path(path)
    if check_regular(path) == 0:
        raise DataError(f"{path}: empty file (0 bytes); {CURE}")
    av.logging.set_level(None)
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    try:
        with av.open(f"file:{path.absolute()}", container_options=options, metadata_errors="replace") as container:
            yield container, _video_streams(path, container)
    except IndexError:  # of PyAV, where a damaged file has more streams than it began with
        raise DataError(f"{path}: not a video, or damaged (its streams change); {CURE}") from None
    except av.error.EOFError:
        raise DataError(f"{path}: holds no frame, or is cut short; {CURE}") from None
    except av.error.FFmpegError as error:
        reason = shortened(" ".join(str(error.strerror or error).split()), 120)
        raise DataError(f"{path}: not a video, or damaged ({reason}); {CURE}") from error


def _video_streams(path: Path, container: Any) -> list[Any]:
    import av

    pictures = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & pictures]
    if not streams:
        others = sorted({stream.type for stream in container.streams})
        raise DataError(f"{path}: has no video stream, only {' and '.join(others) or 'a header'}; {CURE}")
    return streams


@dataclass
class _Packets:
    """Of each frame of a stream that is shown, in the order stored: pts, `UNTIMED` without one, and whether decoding
    may begin there; and the last dts."""

    pts: array = field(default_factory=lambda: array("q"))
    keys: bytearray = field(default_factory=bytearray)
    last: int = -1

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self.pts, dtype=np.int64), np.array(self.keys, dtype=bool)


def _packets(container: Any, streams: Sequence[Any]) -> tuple[dict[int, _Packets], float]:
    """The packets of each stream by its number, and where all streams of the file end, in seconds."""
    packets, end = {stream.index: _Packets() for stream in streams}, 0.0
    for packet in container.demux():
        if packet.size and packet.dts is not None:
            end = max(end, float((packet.dts + (packet.duration or 0)) * packet.time_base))
        of_stream = packets.get(packet.stream_index)
        if of_stream is None or not packet.size or packet.is_discard:
            continue
        of_stream.pts.append(UNTIMED if packet.pts is None else packet.pts)
        of_stream.keys.append(packet.is_keyframe)
        of_stream.last = max(of_stream.last, -1 if packet.dts is None else packet.dts)
    return packets, end


def _check_length(path: Path, container: Any, stream: Any, packets: _Packets, end: float) -> None:
    names = container.format.name.split(",")
    counts_from_0 = not {*names}.isdisjoint(CLAIMING_END)
    if not counts_from_0 and {*names}.isdisjoint(CLAIMING):
        return
    # the header of an AVI counts places, of which those that repeat a frame are empty
    there = packets.last + 1 if "avi" in names else len(packets.pts)
    if there < LEAST_SHARE * stream.frames:
        raise DataError(f"{path}: cut short, {there} of its {stream.frames} frames are there; copy it again")
    began = 0 if counts_from_0 else max(0, container.start_time or 0)
    claimed = (container.duration or 0) / 1e6
    if end - began / 1e6 < LEAST_SHARE * claimed - 1:
        raise DataError(f"{path}: cut short, {end:.1f} of its {claimed:.1f} seconds are there; copy it again")


def _shown(container: Any, stream: Any, index: VideoIndex, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """(position, frame) of each position wanted, which rise."""
    waiting, back = deque(wanted), 0
    while waiting:
        key = max(0, index.key_before(waiting[0]) - back)
        if index.seekable and (key or back):
            container.seek(int(index.pts[index.keys[key]]), stream=stream)
        given, first, frame = 0, True, None
        for count, frame in enumerate(_decoded(container, stream, index, waiting)):
            place = count
            if index.seekable and frame.pts is not None:
                place = int(np.searchsorted(index.pts, frame.pts))
            if first and place > waiting[0] and key:
                break  # the file was entered behind the frame
            first = False
            while waiting and waiting[0] <= place:
                yield waiting.popleft(), frame
                given += 1
            if not waiting:
                return
            if given and index.seekable and index.keys[index.key_before(waiting[0])] > place + 1:
                break
        else:
            if frame is None and not key:
                raise DataError(f"{container.name.removeprefix('file:')}: no frame can be decoded; {CURE}")
            while waiting and frame is not None:  # packets at the end that show nothing
                yield waiting.popleft(), frame
        back = 0 if given else 2 * back + 1


def _decoded(container: Any, stream: Any, index: VideoIndex, waiting: deque[int]) -> Iterator[Any]:
    """Frames from where the file stands on; before the next one wanted, none that no other refers to."""
    decoder = stream.codec_context
    for packet in container.demux(stream):
        if index.seekable and packet.pts is not None and waiting:
            decoder.skip_frame = "NONREF" if packet.pts < index.pts[waiting[0]] else "DEFAULT"
        yield from packet.decode()


def _size(frame: Any, stream: Any, short_side: int | None) -> tuple[int, int]:
    """(width, height) in square pixels, before the frame is turned."""
    aspect = float(stream.sample_aspect_ratio or 1)
    width, height = frame.width, frame.height
    if not 0.98 < aspect < 1.02 and 0.1 < aspect < 10:
        width, height = (width * aspect, height) if aspect > 1 else (width, height / aspect)
    shrink = min(1.0, (short_side or min(width, height)) / min(width, height))
    return max(1, round(width * shrink)), max(1, round(height * shrink))
