"""Small video files, written by PyAV."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np


def write_video(
    path: str | Path,
    frames: Sequence[np.ndarray],
    *,
    fps: int = 25,
    codec: str = "libx264",
    times: Sequence[float] | None = None,
    key_every: int = 12,
    rotation: int = 0,
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> Path:
    """A video file of some frames; its suffix says which container.

    Args:
        path: the file.
        frames: of (H, W, 3) uint8, one size; an iterator is written without being held.
        times: seconds at which they are shown; by default evenly spaced.
        key_every: frames from one key frame to the next.
        rotation: degrees, counter-clockwise, by which a player is to turn the frames.
        options: of the codec.
    """
    import av

    path = Path(path)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.codec_context.time_base = Fraction(1, 1000) if times is not None else Fraction(1, fps)
        for number, pixels in enumerate(frames):
            if number == 0:
                stream.width, stream.height, stream.pix_fmt = pixels.shape[1], pixels.shape[0], pixel_format
                stream.codec_context.gop_size = key_every
                if rotation:
                    stream.set_display_rotation(rotation)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.time_base = stream.codec_context.time_base
            frame.pts = number if times is None else round(times[number] * 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
