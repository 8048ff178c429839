"""Small videos made on the spot, whose frames show their own numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest

BITS, HEIGHT, WIDTH = 7, 32, 56


def numbered(count: int, height: int = HEIGHT, width: int = WIDTH, first: int = 0):
    """Frames with their number in white stripes on the upper half, a red square below on the left."""
    for number in range(first, first + count):
        frame = np.zeros((height, width, 3), np.uint8)
        frame[height // 2 :, : width // 2, 0] = 200
        for bit in range(BITS):
            if number >> bit & 1:
                frame[: height // 2, bit * width // BITS : (bit + 1) * width // BITS] = 255
        yield frame


@pytest.fixture(scope="session")
def numbers_in():
    """numbers_in(frames): what `numbered` frames say."""

    def read(frames) -> list[int]:
        height, width = frames.shape[1:3]
        centres = [int((bit + 0.5) * width / BITS) for bit in range(BITS)]
        return [sum(int(one[height // 4, x].mean() > 128) << bit for bit, x in enumerate(centres)) for one in frames]

    return read


@pytest.fixture(scope="session")
def make_video():
    """make_video(path, frames=24, first=0, codec="mpeg4", **options of `write_video`): numbered frames."""
    pytest.importorskip("av", reason="extra video is not installed")
    from video_writing import write_video

    def make(path, frames=24, first=0, height=HEIGHT, width=WIDTH, codec="mpeg4", **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_video(path, numbered(frames, height, width, first), codec=codec, **options)

    return make


@pytest.fixture(scope="session")
def clip_bytes(make_video, tmp_path_factory):
    """A few small videos to copy: number -> bytes, each of other frames."""
    folder = tmp_path_factory.mktemp("clips")
    return [make_video(folder / f"{n}.mp4", frames=12, first=8 * n).read_bytes() for n in range(6)]


@pytest.fixture
def clips(clip_bytes, tmp_path):
    """clips("a/x.mp4", "b/y.mp4"): videos of 12 frames, half a second, below the test's folder, all different."""

    def make(*names):
        for number, name in enumerate(names):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(clip_bytes[number % len(clip_bytes)] + b"\0" * (number // len(clip_bytes)))
        return tmp_path

    return make


@pytest.fixture
def write(tmp_path):
    """write("a.json", object), write("a.csv", text): a file below the test's folder."""

    def make(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return make
