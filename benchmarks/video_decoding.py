"""What reading clips costs: time, and peak memory, which does not depend on the length of the video.

python benchmarks/video_decoding.py draw long.mp4 7200    a drawn video of 7,200 seconds, 25 frames/s, 320 x 180
python benchmarks/video_decoding.py read long.mp4         8 frames of it, then 20 clips of ten seconds; peak memory
vladapt doctor --video long.mp4                           frames per second by decoder and number of threads
"""

import resource
import sys
import time
from pathlib import Path

import numpy as np
from usage import print_help

RATE, HEIGHT, WIDTH = 25, 180, 320
CLIPS, SECONDS = 20, 10.0


def draw(path: Path, seconds: int) -> None:
    """Write a video of a bright square that goes round, on a ground that changes slowly."""
    from video_writing import write_video

    def frames():
        for number in range(seconds * RATE):
            angle = number / RATE
            frame = np.full((HEIGHT, WIDTH, 3), (number // RATE) % 200, np.uint8)
            y, x = int(70 + 50 * np.sin(angle)), int(140 + 120 * np.cos(angle))
            frame[y : y + 40, x : x + 40] = 255
            yield frame

    write_video(path, frames(), fps=RATE, codec="mpeg4", key_every=50)


def read(path: Path) -> None:
    """Decode some frames of the whole, and of stretches of it."""
    from vladapt.domains.video.clips import Sampling, load_clip
    from vladapt.domains.video.video_files import index_of

    how, before = Sampling().as_decode(), peak()
    started = time.perf_counter()
    load_clip(path, how)
    whole, duration = time.perf_counter() - started, index_of(path).duration
    started = time.perf_counter()
    starts = np.linspace(0, max(duration - SECONDS, 0), CLIPS)
    for start in starts:
        load_clip(path, {**how, "start": float(start), "end": min(float(start) + SECONDS, duration)})
    clips = (time.perf_counter() - started) / CLIPS
    print(f"{path.name}: {duration:,.0f} s; 8 frames of the whole in {whole:.2f} s, of {SECONDS:g} s in {clips:.3f} s")
    print(f"peak memory {peak():.0f} MB, {peak() - before:.0f} MB of it by reading")


def peak() -> float:
    """MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    print_help(__doc__, words=2)
    command, name, *rest = sys.argv[1:]
    draw(Path(name), int(rest[0])) if command == "draw" else read(Path(name))
