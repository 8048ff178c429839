"""How well near copies are found: recall on changed copies of real images, and pairs found that are not copies.

    VLADAPT_DATA=DIR python benchmarks/near_duplicates.py

Each image of each set is copied once: resized to 0.3 to 2 times its size with one of four filters (one in five is not
resized), then saved as JPEG or WebP of quality 20 to 95, PNG, GIF of 256 colours, or in grey. Pairs of different images
found as copies are false, unless their pixels are the same. The same is done with tiles cut from some sets, many of
which show next to nothing, or the same speck on the lens, and with images made as small as a thumbnail. Last comes the
cost of the thumbnails and of the search.
"""

from __future__ import annotations

import io
import os
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from usage import print_help

from vladapt.core.data.images import decode_image
from vladapt.core.data.near_copies import BYTES, Thumbnails, near_copies, thumbnail
from vladapt.core.errors import DataError

SETS = (
    *("general/grocery", "general/clothing", "detection_seg/raccoon", "detection_seg/coco_val128/images"),
    *("medical/wbc_classification", "medical/pneumoniamnist", "medical/bccd_detection", "medical/isbi_membrane/images"),
    *("remote_sensing/whu_rs19", "remote_sensing/rsscn7", "remote_sensing/neon_trees/images"),
)
TILED = (("medical/bccd_detection", 80), ("medical/isbi_membrane/images", 64), ("remote_sensing/neon_trees/images", 64))
"""Sets that are cut into tiles of so many pixels."""
SHRUNK = (("medical/wbc_classification", 28), ("general/clothing", 28))
"""Sets whose images are made so small."""
MOST_TILES = 2000
FILTERS = ("BILINEAR", "BICUBIC", "LANCZOS", "BOX")
FORMATS = ("JPEG", "JPEG", "WEBP", "PNG", "GIF", "grey JPEG")
SIZES = (20_000, 200_000)


@dataclass(frozen=True)
class Measured:
    """Of one set.

    Args:
        images: how many there are.
        recall: share of the changed copies that are told.
        false: share of the images that are told as copies of another image.
    """

    images: int
    recall: float
    false: float


def measure(files: Sequence[Path], seed: int = 0) -> Measured:
    """Recall and false pairs on one set of image files."""
    return measure_images([pixels_of(file) for file in files], seed)


def pixels_of(file: Path) -> np.ndarray:
    """(H, W, 3) uint8 of an image file."""
    pixels = decode_image(file, {})
    return np.rint(pixels * 255).astype(np.uint8) if pixels.dtype != np.uint8 else pixels


def tiles_of(images: Sequence[np.ndarray], size: int, seed: int = 0) -> list[np.ndarray]:
    """Square tiles of images, `MOST_TILES` at most."""
    tiles = [
        image[top : top + size, left : left + size]
        for image in images
        for top in range(0, image.shape[0] - size + 1, size)
        for left in range(0, image.shape[1] - size + 1, size)
    ]
    chosen = np.random.default_rng(seed).permutation(len(tiles))[:MOST_TILES]
    return [tiles[place] for place in chosen]


def shrunk(image: np.ndarray, size: int) -> np.ndarray:
    """The image as a square of so many pixels."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


def measure_images(originals: Sequence[np.ndarray], seed: int = 0) -> Measured:
    """Recall and false pairs on some images, (H, W, 3) uint8."""
    generator = np.random.default_rng(seed)
    pictures = [*originals, *(changed(pixels, generator) for pixels in originals)]
    count, keys = len(originals), [f"{number:064x}" for number in range(2 * len(originals))]
    with tempfile.TemporaryDirectory() as folder:
        store = Thumbnails(Path(folder))
        for key, pixels in zip(keys, pictures, strict=True):
            store.add(key, thumbnail(pixels))
        store.flush()
        pairs = near_copies(keys, store)
    found, wrong = 0, set()
    for first, second in pairs.tolist():
        a, b = first % count, second % count
        if a == b:
            found += 1
        elif not np.array_equal(originals[a], originals[b]):
            wrong |= {a, b}
    return Measured(count, found / count, len(wrong) / count)


def changed(pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """An image resized and saved otherwise, (H, W, 3) uint8."""
    image = Image.fromarray(pixels)
    if generator.random() < 0.8:
        scale, by = generator.uniform(0.3, 2), FILTERS[generator.integers(len(FILTERS))]
        size = [max(1, round(side * scale)) for side in image.size]
        image = image.resize(size, Image.Resampling[by])
    form, quality = FORMATS[generator.integers(len(FORMATS))], int(generator.integers(20, 96))
    if form.startswith("grey"):
        image, form = image.convert("L"), "JPEG"
    file = io.BytesIO()
    image.save(file, form, **({"quality": quality} if form in ("JPEG", "WEBP") else {}))
    return np.asarray(Image.open(file).convert("RGB"))


def files_of(folder: Path) -> list[Path]:
    """The images of a set that Pillow reads, sorted."""
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".png") and _is_read(file))


def _is_read(file: Path) -> bool:
    try:
        decode_image(file, {})
    except DataError:
        return False
    return True


def costs() -> Iterator[str]:
    """Lines on time and memory."""
    generator = np.random.default_rng(0)
    for height, width in ((375, 500), (3000, 4000)):
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        started = time.perf_counter()
        for _ in range(5):
            thumbnail(pixels)
        yield f"thumbnail of {width} x {height}: {(time.perf_counter() - started) / 5 * 1e3:.1f} ms"
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(32), np.fft.fftfreq(32)))
    frequency[0, 0] = 1
    for count in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            store, keys = Thumbnails(Path(folder)), [f"{number:064x}" for number in range(count)]
            for key in keys:
                noise = np.fft.ifft2(np.fft.fft2(generator.normal(size=(32, 32))) / frequency**1.3).real
                grey = np.clip(128 + 40 * noise / noise.std(), 0, 255).astype(np.uint8)
                row = np.full(BYTES, 128, np.uint8)
                row[: grey.size], row[-8:] = grey.reshape(-1), np.array([224, 224], "<u4").view(np.uint8)
                store.add(key, row)
            store.flush()
            started = time.perf_counter()
            pairs = near_copies(keys, store)
            seconds = time.perf_counter() - started
        yield f"search among {count:,} images: {seconds:.1f} s, process at most {_peak():,.0f} MiB; {len(pairs)} pairs"


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    root = Path(os.environ.get("VLADAPT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    rows = {}
    for name in SETS:
        if (root / name).is_dir():
            rows[name] = measure(files_of(root / name))
            row = rows[name]
            print(f"{name:34} {row.images:4} images  recall {row.recall:6.1%}  false {row.false:.2%}", flush=True)
    if rows:
        total = sum(row.images for row in rows.values())
        recall, false = (sum(getattr(r, n) * r.images for r in rows.values()) / total for n in ("recall", "false"))
        print(f"{'all':34} {total:4} images  recall {recall:6.1%}  false {false:.2%}")
    for name, size in TILED + SHRUNK:
        if (root / name).is_dir():
            images = [pixels_of(file) for file in files_of(root / name)]
            is_tiled = (name, size) in TILED
            images = tiles_of(images, size) if is_tiled else [shrunk(image, size) for image in images]
            row, what = measure_images(images), f"{name} {'tiles of' if is_tiled else 'at'} {size}"
            print(f"{what:43} {row.images:4} images  recall {row.recall:6.1%}  false {row.false:.2%}", flush=True)
    for line in costs():
        print(line, flush=True)


if __name__ == "__main__":
    print_help(__doc__)
    main()
