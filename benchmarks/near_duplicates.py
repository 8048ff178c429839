"""How well near copies are found: recall on changed copies of real images, and pairs found that are not copies.

    VLADAPT_DATA=DIR python benchmarks/near_duplicates.py [SET ...]

Each image of each set is copied once, by each of `CHANGES` ("saved anew": resized to 0.3 to 2 times its size with one
of four filters, one in five not, then saved as JPEG or WebP of quality 20 to 95, PNG, GIF of 256 colours, or in grey).
Pairs of different images found as copies are false, unless their pixels are the same, or they are of `TWINS`; printed
is the share of images in one, by the change that has most. The same is done with tiles cut from some sets, many of
which show next to nothing, with images made as small as a thumbnail, and with 2,000 and 20,000 drawn images of which
each tenth has a copy. Last comes the cost of the thumbnails and of the search. Of sets that are named no others are
measured.
"""

from __future__ import annotations

import io
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont
from usage import print_help

from vladapt.core.data.images import decode_image
from vladapt.core.data.near_copies import near_copies
from vladapt.core.data.splits import connected
from vladapt.core.data.thumbnails import BYTES, Thumbnails, thumbnail
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
ALIKE = "medical/pneumoniamnist"
"""Whose means and covariances others are drawn by."""
MOST_TILES = 2000
FILTERS = ("BILINEAR", "BICUBIC", "LANCZOS", "BOX")
FORMATS = ("JPEG", "JPEG", "WEBP", "PNG", "GIF", "grey JPEG")
SIZES = (20_000, 200_000)


Change = Callable[[Image.Image, np.random.Generator], Image.Image]
TWINS = (
    *(("BloodImage_00037", "BloodImage_00038"), ("BloodImage_00231", "BloodImage_00256")),
    *(("BloodImage_00382", "BloodImage_00395"), ("BloodImage_00386", "BloodImage_00391")),
    ("BloodImage_00243", "BloodImage_00250"),
)
"""One field of a smear photographed twice, a few pixels apart, as one sees who looks at them."""


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


def measure(files: Sequence[Path], change: Change | None = None, seed: int = 0) -> Measured:
    """Recall and false pairs on one set of image files."""
    return measure_images([pixels_of(file) for file in files], change or saved_anew, seed, twins_among(files))


def twins_among(files: Sequence[Path]) -> set[tuple[int, int]]:
    """Positions of `TWINS`."""
    place = {file.stem.removesuffix("_1"): n for n, file in enumerate(files)}
    return {(place[one], place[other]) for one, other in TWINS if one in place and other in place}


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


def measure_images(
    originals: Sequence[np.ndarray], change: Change, seed: int = 0, twins: Collection[tuple[int, int]] = ()
) -> Measured:
    """Recall and false pairs on some images, (H, W, 3) uint8.

    Args:
        twins: pairs that show one thing.
    """
    generator = np.random.default_rng(seed)
    copies = [np.asarray(change(Image.fromarray(pixels), generator).convert("RGB")) for pixels in originals]
    count, found, wrong = len(originals), set(), set()
    for first, second in pairs_among([thumbnail(pixels) for pixels in (*originals, *copies)]).tolist():
        a, b = sorted((first % count, second % count))
        if a == b:
            found.add(a)
        elif (a, b) not in twins and not np.array_equal(originals[a], originals[b]):
            wrong |= {a, b}
    return Measured(count, len(found) / count, len(wrong) / count)


def measure_drawn(kind: str, count: int, like: Sequence[np.ndarray], seed: int = 0) -> str:
    """A line on many drawn images, of which each tenth has a copy, by one of the changes after the other.

    Args:
        kind: "noise", of no set, or "alike": by the means and covariances of the pixels of some images.
        like: (H, W, 3) uint8 each.
    """
    generator = np.random.default_rng(seed)
    draw, changes = (_noise if kind == "noise" else _alike(like)), list(CHANGES.values())
    rows, copies = [], []
    for number in range(count):
        pixels = draw(generator)
        rows.append(thumbnail(pixels))
        if number % 10 == 0:
            change = changes[number // 10 % len(changes)]
            copies.append(thumbnail(np.asarray(change(Image.fromarray(pixels), generator).convert("RGB"))))
    started = time.process_time()
    pairs = pairs_among([*rows, *copies])
    seconds = time.process_time() - started
    true = pairs[:, 1] - count == pairs[:, 0] / 10
    found = np.bincount((pairs[true, 1] - count) % len(changes), minlength=len(changes))
    asked = np.bincount(np.arange(len(copies)) % len(changes), minlength=len(changes))
    wrong = pairs[~true]
    largest = max((len(part) for part in connected(count + len(copies), wrong.tolist())), default=1)
    recalls = "".join(f"{share:12.1f}" for share in 100 * found / asked)
    tied = len(np.unique(wrong)) / count
    return f"{kind:33}{count:7}{recalls}{tied:8.2%}  largest false group {largest}, {seconds:.1f} CPU s"


def _noise(generator: np.random.Generator) -> np.ndarray:
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64)))
    frequency[0, 0] = 1
    noise = np.fft.ifft2(np.fft.fft2(generator.normal(size=(64, 64))) / frequency**1.3).real
    grey = np.clip(128 + 40 * noise / noise.std(), 0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _alike(images: Sequence[np.ndarray]) -> Callable[[np.random.Generator], np.ndarray]:
    """Draws images of 28 x 28 pixels by the principal components of some."""
    small = [np.asarray(Image.fromarray(image).convert("L").resize((28, 28))) for image in images]
    pixels = np.stack(small).reshape(len(small), -1).astype(np.float64)
    mean = pixels.mean(axis=0)
    _, sizes, parts = np.linalg.svd(pixels - mean, full_matrices=False)
    sizes /= np.sqrt(len(pixels) - 1)

    def draw(generator: np.random.Generator) -> np.ndarray:
        grey = mean + (generator.normal(size=len(sizes)) * sizes) @ parts
        return np.repeat(np.rint(np.clip(grey, 0, 255)).astype(np.uint8).reshape(28, 28, 1), 3, axis=2)

    return draw


def pairs_among(rows: Sequence[np.ndarray]) -> np.ndarray:
    """(M, 2) positions of the near copies among some thumbnails."""
    keys = [f"{number:064x}" for number in range(len(rows))]
    with tempfile.TemporaryDirectory() as folder:
        store = Thumbnails(Path(folder))
        for key, row in zip(keys, rows, strict=True):
            store.add(key, row)
        store.flush()
        return near_copies(keys, store)


def saved_anew(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    if generator.random() < 0.8:
        scale, by = generator.uniform(0.3, 2), FILTERS[generator.integers(len(FILTERS))]
        size = [max(1, round(side * scale)) for side in image.size]
        image = image.resize(size, Image.Resampling[by])
    form, quality = FORMATS[generator.integers(len(FORMATS))], int(generator.integers(20, 96))
    if form.startswith("grey"):
        image, form = image.convert("L"), "JPEG"
    return _saved(image, form, **({"quality": quality} if form in ("JPEG", "WEBP") else {}))


def _saved(image: Image.Image, form: str, **options) -> Image.Image:
    file = io.BytesIO()
    image.save(file, form, **options)
    return Image.open(file)


def as_jpeg(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Of quality 20 to 95."""
    return _saved(image, "JPEG", quality=int(generator.integers(20, 96)))


def half_size(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    by = Image.Resampling[FILTERS[generator.integers(len(FILTERS))]]
    return image.resize([max(1, side // 2) for side in image.size], by)


def marked(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """With a line of 3 to 12 letters, 5 to 11 % as high as the image, white, black or yellow, at times on a ground."""
    size, times = image.size, -(-224 // min(image.size))  # a small one is marked before it is made small
    image = image.resize([times * side for side in size], Image.Resampling.BICUBIC) if times > 1 else image.copy()
    words = "".join(generator.choice(list("ABCDEFGHKLMNPRSTUVXYZ0123456789"), int(generator.integers(3, 13))))
    font = ImageFont.load_default(generator.uniform(0.05, 0.11) * min(image.size))
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = draw.textbbox((0, 0), words, font=font)
    x = int(generator.integers(0, max(1, image.width - (right - left))))
    y = int(generator.integers(0, max(1, image.height - (bottom - top))))
    colour = ((255, 255, 255), (0, 0, 0), (255, 220, 0))[generator.integers(3)]
    if generator.random() < 0.3:
        draw.rectangle((x, y, x + right, y + bottom), fill=tuple(255 - level for level in colour))
    draw.text((x, y), words, fill=colour, font=font)
    return image.resize(size, Image.Resampling.BOX) if times > 1 else image


def _factor(generator: np.random.Generator, low: float, high: float) -> float:
    return float(generator.uniform(low, 1 / 1.2) if generator.random() < 0.5 else generator.uniform(1.2, high))


def brightened(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Times 0.6 to 1.5, but not 0.83 to 1.2; what is brighter than white is white."""
    return ImageEnhance.Brightness(image).enhance(_factor(generator, 0.6, 1.5))


def contrasted(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Times 0.5 to 1.6, but not 0.83 to 1.2."""
    return ImageEnhance.Contrast(image).enhance(_factor(generator, 0.5, 1.6))


def mirrored(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def turned(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """By 90 degrees, to the left or to the right."""
    return image.transpose(Image.Transpose.ROTATE_90 if generator.random() < 0.5 else Image.Transpose.ROTATE_270)


def cropped(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """To 95 % of each side, anywhere."""
    width, height = (round(0.95 * side) for side in image.size)
    x, y = int(generator.integers(image.width - width + 1)), int(generator.integers(image.height - height + 1))
    return image.crop((x, y, x + width, y + height))


def trimmed(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """By 5 % at each edge."""
    x, y = (round(0.05 * side) for side in image.size)
    return image.crop((x, y, image.width - x, image.height - y))


CHANGES: dict[str, Change] = {
    "saved anew": saved_anew,
    "JPEG": as_jpeg,
    "half size": half_size,
    "text": marked,
    "brightness": brightened,
    "contrast": contrasted,
    "mirror": mirrored,
    "90 degrees": turned,
    "crop": cropped,
    "trim": trimmed,
}


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
            started = time.process_time()
            pairs = near_copies(keys, store)
            seconds = time.process_time() - started
        cost = f"{seconds:.1f} CPU s, process at most {_peak():,.0f} MiB"
        yield f"search among {count:,} images: {cost}; {len(pairs)} pairs"


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    root = Path(os.environ.get("VLADAPT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    print(f"{'recall in %':33}{'images':>7}" + "".join(f"{change:>12}" for change in CHANGES) + "   false")
    for name, size in (*((name, 0) for name in SETS), *TILED, *SHRUNK):
        if not (root / name).is_dir() or (sys.argv[1:] and (size or name not in sys.argv[1:])):
            continue
        files = files_of(root / name)
        images, twins = [pixels_of(file) for file in files], twins_among(files)
        if (name, size) in TILED:
            name, images, twins = f"{name} tiles of {size}", tiles_of(images, size), set()
        elif size:
            name, images = f"{name} at {size}", [shrunk(image, size) for image in images]
        rows = [measure_images(images, change, twins=twins) for change in CHANGES.values()]
        recalls = "".join(f"{100 * row.recall:12.1f}" for row in rows)
        print(f"{name[-33:]:33}{len(images):7}{recalls}{max(row.false for row in rows):8.2%}", flush=True)
    if sys.argv[1:]:
        return
    like = [pixels_of(file) for file in files_of(root / ALIKE)] if (root / ALIKE).is_dir() else []
    for count in (2_000, 20_000):
        for kind in ("noise", "alike") if like else ("noise",):
            print(measure_drawn(kind, count, like), flush=True)
    for line in costs():
        print(line, flush=True)


if __name__ == "__main__":
    print_help(__doc__)
    main()
