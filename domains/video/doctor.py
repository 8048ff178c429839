"""Whether videos can be decoded here, by what, and how fast; told of a file that `--video` names."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.contracts import Finding, option
from ...core.runtime import check_regular, installed_version

CURE = "pip install 'vladapt[video]'"
USUAL = ("h264", "hevc", "vp9", "av1", "mpeg4")
"""Codecs that most videos have, by FFmpeg's names."""
MOST_FRAMES, MOST_SECONDS = 600, 3.0
"""Of a file that are decoded at most, by each decoder and number of threads."""
SPREAD = 8
"""Frames of a clip, when only some are wanted."""


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """What `vladapt doctor` may be asked of this domain."""

    video: str | None = option(
        None, "a video file, on which decoders are timed (frames per second, by number of threads)", metavar="FILE"
    )


def findings() -> list[Finding]:
    """PyAV with its codecs, and TorchCodec where it is installed."""
    return [_pyav(), *([_torchcodec()] if installed_version("torchcodec") else [])]


def examined(options: DoctorOptions) -> list[Finding]:
    """How fast a file is decoded.

    Raises:
        DataError: it cannot be read.
    """
    return [] if options.video is None else list(_speeds(Path(options.video)))


def _pyav() -> Finding:
    what, number = "video: PyAV", installed_version("av")
    if number is None:
        return Finding(what, False, "not installed: no video can be read", CURE)
    try:
        import av
    except ImportError as error:
        return Finding(what, False, f"av {number} does not import ({error})", f"{CURE} --force-reinstall")
    lacking = [codec for codec in USUAL if codec not in av.codecs_available]
    there = ", ".join(codec for codec in USUAL if codec not in lacking)
    return Finding(what, not lacking, f"av {number}: {there}" + (f"; not {', '.join(lacking)}" if lacking else ""))


def _torchcodec() -> Finding:
    reason = _why_not("torchcodec.decoders")
    found = f"torchcodec {installed_version('torchcodec')}" + (f" does not import ({reason})" if reason else "")
    cure = "install FFmpeg's shared libraries, or ignore this: PyAV reads the same files" if reason else ""
    return Finding("video: TorchCodec", not reason, found, cure)


def _speeds(path: Path) -> Iterator[Finding]:
    from .video_files import index_of

    check_regular(path)
    index = index_of(path)
    shown = f"{index.width} x {index.height}, {index.codec}, {len(index)} frames, {index.duration:.1f} s"
    keys = f"a key frame every {len(index) / len(index.keys):.0f}"
    yield Finding(f"video: {path.name}", True, f"{shown}, {index.rate:.2f} frames/s, {keys}")
    count = min(len(index), MOST_FRAMES)
    spread = [int((k + 0.5) * len(index) / SPREAD) for k in range(min(SPREAD, len(index)))]
    for name, decode in DECODERS.items():
        if name != "PyAV" and _why_not(MODULES[name]):
            continue
        # 1, 2, 4, ... up to the cores there are, these included.
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        for threads in sorted({1, cores, *(2**k for k in range(8) if 2**k < cores)}):
            rate, clips = _rate(decode, path, threads, range(count)), _rate(decode, path, threads, spread)
            words = f"{threads} thread{'s' if threads > 1 else ''}"
            found = (
                f"{rate:,.0f} frames/s one after the other, {clips / len(spread):,.1f} clips/s of {len(spread)} frames"
            )
            yield Finding(f"video: {name}, {words}", True, found)


def _rate(decode: Callable[[Path, int, Any], Iterator[Any]], path: Path, threads: int, positions: Any) -> float:
    """Frames per second, the file opened anew as often as time allows."""
    done, began = 0, time.perf_counter()
    while True:
        for _ in decode(path, threads, list(positions)):
            done += 1
            if (spent := time.perf_counter() - began) > MOST_SECONDS:
                return done / spent
        if (spent := time.perf_counter() - began) > MOST_SECONDS / 3:
            return done / spent


def _by_pyav(path: Path, threads: int, positions: list[int]) -> Iterator[Any]:
    from .video_files import frames_at

    for _, pixels in frames_at(path, positions, threads=threads):
        yield pixels


def _by_torchcodec(path: Path, threads: int, positions: list[int]) -> Iterator[Any]:
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), num_ffmpeg_threads=threads, dimension_order="NHWC")
    if len(positions) <= SPREAD:
        yield from decoder.get_frames_at(positions).data
        return
    for position in positions:
        yield decoder.get_frame_at(position).data


def _by_decord(path: Path, threads: int, positions: list[int]) -> Iterator[Any]:
    from decord import VideoReader

    reader = VideoReader(str(path), num_threads=threads)
    if len(positions) <= SPREAD:
        yield from reader.get_batch(positions).asnumpy()
        return
    for position in positions:
        yield reader[position].asnumpy()


DECODERS = {"PyAV": _by_pyav, "TorchCodec": _by_torchcodec, "decord": _by_decord}
MODULES = {"PyAV": "av", "TorchCodec": "torchcodec.decoders", "decord": "decord"}
"""Decoder -> what must import for it; but PyAV, none is needed."""


def _why_not(module: str) -> str:
    """Why a module does not import, in a line; "" where it does."""
    try:
        importlib.import_module(module)
    except Exception as error:  # a library that is lacking makes these raise several types
        return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
    return ""
