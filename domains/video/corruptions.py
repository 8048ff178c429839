"""How clips go wrong: frames that do not arrive, and a bit rate that is too low."""

from __future__ import annotations

import io

import numpy as np

from ...core.contracts import Corruption

DROPPED = (0.1, 0.25, 0.4, 0.6, 0.8)
"""Share of the frames that do not arrive; the last one that did stands in their place."""
BITS = (0.2, 0.1, 0.05, 0.025, 0.0125)
"""Per pixel and frame."""
RATE = 25


def frame_drop(clip: np.ndarray, severity: int, seed: int) -> np.ndarray:
    """(T, H, W, 3); the first frame arrives."""
    arrives = np.random.default_rng(seed).random(len(clip)) >= DROPPED[severity - 1]
    arrives[0] = True
    return clip[np.maximum.accumulate(np.where(arrives, np.arange(len(clip)), 0))]


def bit_rate(clip: np.ndarray, severity: int, seed: int) -> np.ndarray:
    """Encoded as MPEG-4 with too few bits, and decoded again."""
    import av

    height, width = (side - side % 2 for side in clip.shape[1:3])
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as writing:
        stream = writing.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = width, height, "yuv420p", 1
        stream.bit_rate = max(1000, round(BITS[severity - 1] * height * width * RATE))
        for frame in clip[:, :height, :width]:
            writing.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        writing.mux(stream.encode())
    buffer.seek(0)
    with av.open(buffer) as reading:
        decoded = [frame.to_ndarray(format="rgb24") for frame in reading.decode(video=0)]
    changed = clip.copy()
    changed[:, :height, :width] = [decoded[min(number, len(decoded) - 1)] for number in range(len(clip))]
    return changed


CORRUPTIONS = (Corruption("frame drop", frame_drop, of_clips=True), Corruption("bit rate", bit_rate, of_clips=True))
