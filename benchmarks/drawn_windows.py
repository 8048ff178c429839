"""What drawing training windows of a large raster costs, and what the windows show of a rare class.

A map of three common classes in patches of 25 pixels and of some 20 to 40 ponds of 40 pixels, under a raster of three
bands, both written some rows at a time. The last three columns are shares of windows that show a pond.

    python benchmarks/drawn_windows.py 5000,20000    a row per side of the raster, in a folder that is removed
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin
from usage import print_help

PATCH, ROWS, POND, PONDS, COMMON = 25, 500, 40, 20, 3
WINDOW, BLOCK, DRAWN, SEED = 512, 2560, 200, 0
HEAD = ("side", "windows", "read, s", "drawn per second", "memory, MB", "grid", "random", "balanced")
PLACE = {"crs": "EPSG:32633", "transform": from_origin(500_000, 5_000_000, 1, 1)}


def draw(folder: Path, side: int) -> None:
    """Write land.tif (3 bands) and classes.tif (1 to 4)."""
    random = np.random.default_rng(SEED)
    shape = {"height": side, "width": side, "dtype": "uint8", "tiled": True, "compress": "deflate", "zlevel": 1}
    with (
        rasterio.open(folder / "land.tif", "w", driver="GTiff", count=3, **shape, **PLACE) as land,
        rasterio.open(folder / "classes.tif", "w", driver="GTiff", count=1, **shape, **PLACE) as layer,
    ):
        for top in range(0, side, ROWS):
            patches = random.integers(1, COMMON + 1, (ROWS // PATCH, side // PATCH), dtype=np.uint8)
            classes = patches.repeat(PATCH, axis=0).repeat(PATCH, axis=1)
            for _ in range(-(-PONDS * ROWS // side)):
                row, column = random.integers(ROWS - POND), random.integers(side - POND)
                classes[row : row + POND, column : column + POND] = COMMON + 1
            window = ((top, top + ROWS), (0, side))
            layer.write(classes, 1, window=window)
            for band in (1, 2, 3):
                land.write(classes * (20 * band), band, window=window)


def measure(folder: Path) -> dict[str, float]:
    """Read windows with their targets, then draw, decode and label some of them; in a process of its own."""
    import resource

    from vladapt import load_domain

    domain, started = load_domain("remote-sensing"), time.perf_counter()
    options = {"labels": str(folder / "classes.tif"), "window_size": WINDOW, "block_size": BLOCK}
    data = domain.read(folder / "land.tif", "segmentation", draw_windows="balanced", **options)
    read, pond = time.perf_counter(), data.class_names.index(f"class {COMMON + 1}")
    rows = {"windows": len(data.items), "read": read - started}
    rows["grid"] = float(np.mean([pond in item.target.outlines.labels for item in data.items]))
    for how in ("random", "balanced"):
        items = [item.with_(draw={**item.draw, "how": how}) for item in data.items]
        draw, began, shown = domain.drawer(items, data.class_names), time.perf_counter(), []
        for k in range(DRAWN):
            item = draw(k * 7919 % len(items), k)
            assert data.load(item).shape[:2] == (WINDOW, WINDOW)
            shown.append(bool((data.load_mask(item) == pond).any()))
        rows |= {how: float(np.mean(shown)), "per_second": DRAWN / (time.perf_counter() - began)}
    return {**rows, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def row_of(side: int) -> list[str]:
    with tempfile.TemporaryDirectory() as place:
        # each by itself: what a process holds when it starts another counts among the most that the other has held
        subprocess.run([sys.executable, __file__, "draw", place, str(side)], check=True)
        command = [sys.executable, __file__, "measure", place]
        made = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    numbers = f"{made['windows']:,}", f"{made['read']:.0f}", f"{made['per_second']:.0f}", f"{made['memory']:.0f}"
    return [f"{side:,}", *numbers, *(f"{made[how]:.1%}" for how in ("grid", "random", "balanced"))]


if __name__ == "__main__":
    print_help(__doc__)
    if sys.argv[1:2] == ["draw"]:
        draw(Path(sys.argv[2]), int(sys.argv[3]))
        sys.exit()
    if sys.argv[1:2] == ["measure"]:
        print(json.dumps(measure(Path(sys.argv[2]))))
        sys.exit()
    print(f"| {' | '.join(HEAD)} |\n|{'---:|' * len(HEAD)}")
    for side in map(int, (sys.argv[1] if len(sys.argv) > 1 else "5000,20000").split(",")):
        print(f"| {' | '.join(row_of(side))} |", flush=True)
