"""A large slide: how long its tissue, its tiles and their pixels take, and how much memory.

    python benchmarks/slides.py             # draws a slide of 100,000 x 80,000 pixels, and reads it
    python benchmarks/slides.py --run RUN   # predicts it by a run, and explains the answer

Seconds are the processor's. Most tiles of the file are missing, as of a slide that is mostly glass; the others are some
of a few drawn ones. Memory is the largest resident size of a process that does nothing else, after its imports and at
its end; of a prediction also the anonymous part of it, looked at every 20 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vladapt.domains.medical.slides.drawn import deflated, write_pyramid
from vladapt.domains.medical.slides.tiles import Tiling, tiles_of

WIDTH, HEIGHT, MPP = 100_000, 80_000, 0.25
LEVELS = (1, 4, 16, 32)
SIDE = 256
ROWS = 64
"""Tiles that are read at once."""


def write_slide(path: Path) -> None:
    """The slide, with an ellipse of tissue over a seventh of it."""
    random = np.random.default_rng(0)
    drawn = [
        next(deflated(np.clip(random.normal(0, 12, (SIDE, SIDE, 1)) + (222, 165, 195), 0, 255).astype(np.uint8)))
        for _ in range(4)
    ]
    sides = [(-(-HEIGHT // level), -(-WIDTH // level)) for level in LEVELS]
    write_pyramid(path, sides, [_tiles(drawn, height, width) for height, width in sides], MPP)


def _tiles(drawn: list[bytes], height: int, width: int) -> Iterator[bytes]:
    for top in range(0, height, SIDE):
        for left in range(0, width, SIDE):
            y, x = (top + SIDE / 2) / height - 0.5, (left + SIDE / 2) / width - 0.5
            yield drawn[(top + left) // SIDE % len(drawn)] if (x / 0.2) ** 2 + (y / 0.22) ** 2 < 1 else b""


def measured(path: Path) -> dict[str, float]:
    """Processor seconds and megabytes of a fresh process."""
    done = subprocess.run([sys.executable, __file__, str(path)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def read(path: Path) -> dict[str, float]:
    """What `measured` asks of its process."""
    before, started = _megabytes(), time.process_time()
    tiles = tiles_of(path, Tiling(tile=SIDE, mpp=0.5, tissue=0.5))
    found = time.process_time()
    for start in range(0, len(tiles), ROWS):
        tiles.read(range(start, min(start + ROWS, len(tiles))))
    ended = time.process_time()
    seconds = {"tissue and tiles": found - started, "pixels": ended - found}
    return {"tiles": len(tiles), "imports": before, "largest": _megabytes(), **seconds}


def predicted(path: Path, run: Path) -> dict[str, float]:
    """Processor seconds and megabytes of the command that predicts a slide and explains the answer."""
    command = [sys.executable, "-m", "vladapt", "predict", str(run), str(path), "--explain", "--out", f"{path}.why"]
    cache = {"VLADAPT_CACHE": f"{path}.cache"}  # an empty one, so that its tiles are encoded
    done, anonymous = subprocess.Popen(command, env={**os.environ, **cache}), 0.0
    while done.poll() is None:
        anonymous = max(anonymous, _anonymous(done.pid))
        time.sleep(0.02)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"seconds": used.ru_utime + used.ru_stime, "largest": used.ru_maxrss / 1024, "anonymous": anonymous}


def _anonymous(pid: int) -> float:
    """Megabytes of a process that no file backs."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0  # it has ended
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:")), 0.0)


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(run: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.tif"
        write_slide(path)
        if run is not None:
            print(
                "{seconds:.0f} s, at most {largest:,.0f} MB, {anonymous:,.0f} MB anonymous".format(
                    **predicted(path, run)
                )
            )
            return
        size, result = path.stat().st_size / 2**20, measured(path)
    print("| slide | file | tiles | tissue and tiles | their pixels | memory after imports | largest |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {WIDTH:,} x {HEIGHT:,} | {size:.0f} MB | {result['tiles']:,.0f} | {result['tissue and tiles']:.1f} s | "
        f"{result['pixels']:.1f} s | {result['imports']:.0f} MB | {result['largest']:.0f} MB |"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slide", nargs="?", type=Path, help="a slide to read, in place of the drawn one: its numbers")
    parser.add_argument("--run", type=Path, help="a run that predicts the drawn slide")
    arguments = parser.parse_args()
    if arguments.slide is None:
        main(arguments.run)
    else:
        print(json.dumps(read(arguments.slide)))
