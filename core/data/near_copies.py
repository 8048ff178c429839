"""Near copies: one image resized, re-encoded, or saved in another format or in grey, told from thumbnails.

Each image has a perceptual hash: the lowest frequencies of its thumbnail's discrete cosine transform, as in pHash
(Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010), kept as numbers and not as signs:
numbers tell X-rays of two patients apart where 64 signs agree. Two images are near copies if their hashes lie close
together, and their thumbnails agree in brightness, in colour, in detail (the frequencies between a shape that a set of
images has in common and the noise of encoders) and part by part in what they show. An image that is flat, or shows
something in a few of its parts alone, has nothing by which copies could be told, and has none.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..contracts.items import Decoded, ThumbnailStore
from ..runtime.files import write_cached
from ..runtime.shards import ShardFolder, ShardWriter

if TYPE_CHECKING:
    from scipy.spatial import cKDTree


GREY_SIDE, COLOUR_SIDE = 32, 8
GREY_BYTES, COLOUR_BYTES = GREY_SIDE**2, 2 * COLOUR_SIDE**2
BYTES = GREY_BYTES + COLOUR_BYTES + 8
SPACE = "thumbnails 1"
"""Another number makes all anew."""
FLUSH_ROWS, FLUSH_SECONDS = 2048, 30.0


@dataclass(frozen=True)
class Pictures:
    """N thumbnails.

    Args:
        grey: (N, 32, 32) uint8 luminance.
        colour: (N, 8, 8, 2) uint8, Cb and Cr; 128 is grey.
        sides: (N,) shorter side of the image in pixels.
    """

    grey: np.ndarray
    colour: np.ndarray
    sides: np.ndarray

    def __len__(self) -> int:
        return len(self.grey)

    def take(self, rows: np.ndarray) -> Pictures:
        """Those at some positions."""
        return Pictures(self.grey[rows], self.colour[rows], self.sides[rows])


def thumbnail(pixels: Decoded, size: tuple[int, int] | None = None) -> np.ndarray | None:
    """The thumbnail of an image as stored, (1160,) uint8: grey, colour, height and width; None where it has no pixels.

    Args:
        pixels: (H, W, 3) uint8, or float32 in 0..1; of (T, H, W, 3) the middle frame is taken, of more channels the
            first three.
        size: height and width of the image, where the pixels are of a reduced version.
    """
    frame = pixels[len(pixels) // 2] if pixels.ndim == 4 and len(pixels) else pixels
    if frame.ndim != 3 or frame.shape[-1] < 3 or not frame.size:
        return None
    frame = frame[..., :3]
    if frame.dtype != np.uint8:
        frame = np.rint(np.clip(np.nan_to_num(frame), 0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(frame))
    small = _resized(image, GREY_SIDE)
    grey = np.asarray(small.convert("L"))  # (32, 32)
    colour = np.asarray(small.convert("YCbCr").resize((COLOUR_SIDE, COLOUR_SIDE), Image.Resampling.BOX))[..., 1:]
    sizes = np.array(size or frame.shape[:2], dtype="<u4").view(np.uint8)
    return np.concatenate([grey.reshape(-1), colour.reshape(-1), sizes])


def _resized(image: Image.Image, side: int) -> Image.Image:
    """Means over the area where the image is larger, smooth between pixels where it is smaller."""
    if min(image.size) >= side:
        return image.resize((side, side), Image.Resampling.BOX)
    return image.resize((side, side), Image.Resampling.BICUBIC)


class Thumbnails:
    """Thumbnails by content key, on disk; threads may share one.

    Args:
        root: folder of the cache.
    """

    def __init__(self, root: Path):
        self.root = Path(root)
        self._folder = ShardFolder(self.root / "thumbnails", SPACE)
        self._writer = ShardWriter(self._folder, FLUSH_ROWS, FLUSH_SECONDS)
        self._writing = threading.Lock()

    def missing(self, keys: Collection[str]) -> set[str]:
        """Those of some content keys (hex sha256) that have none yet."""
        wanted = {bytes.fromhex(key) for key in keys}
        with self._writing:
            return {key.hex() for key in wanted - self._folder.known(wanted)}

    def add(self, key: str, row: np.ndarray | None) -> None:
        """Keep a row of `thumbnail`, if there is one.

        Raises:
            DataError: the cache cannot be written.
        """
        if row is None:
            return
        with self._writing:
            self._writer.add([bytes.fromhex(key)], _as_stored(row[None]))

    def flush(self) -> None:
        """Write what is not on disk yet."""
        with self._writing:
            self._writer.flush()
            self._folder.merge()

    def find(self, keys: Collection[str]) -> Iterator[tuple[list[str], Pictures]]:
        """Keys and their thumbnails, some thousands at a time; keys that have none are passed over."""
        for found, rows in self._folder.find({bytes.fromhex(key) for key in keys}):
            yield [key.hex() for key in found], _from_stored(rows)


def _as_stored(rows: np.ndarray) -> np.ndarray:
    """(n, 1160) uint8 as (n, 290) float32: the store keeps four bytes as one number, and never reckons with it."""
    return np.ascontiguousarray(rows).view(np.float32)


def _from_stored(rows: np.ndarray) -> Pictures:
    values = np.ascontiguousarray(rows).view(np.uint8)  # (n, 1160)
    grey, colour, sizes = np.split(values, [GREY_BYTES, GREY_BYTES + COLOUR_BYTES], axis=1)
    sides = np.ascontiguousarray(sizes).view("<u4").min(axis=1)
    return Pictures(
        grey.reshape(-1, GREY_SIDE, GREY_SIDE), colour.reshape(-1, COLOUR_SIDE, COLOUR_SIDE, 2), sides.astype(np.int64)
    )


VERSION = 1
"""Of the pairs that are kept: another number has all found anew."""
DIGEST_BYTES = 32
COMPARED, SEARCHED = 8, 4
DETAIL = 16
"""Frequencies from `SEARCHED` up to this one are an image's detail."""
"""Frequencies in each direction: of a hash, and of the part of it that is searched first."""
NEIGHBOURS = 16
AT_ONCE = 16_384
LEAST_CONTRAST = 2.0
"""Standard deviation of grey levels below which an image is flat."""
BLOCK = 8
LEAST_BLOCK_CONTRAST = 3.0
LEAST_BLOCKS = 4
SAMPLE = 512
LEAST_SAMPLE = 40
"""Images by which is told how alike the images of a set are; of fewer nothing is told."""
ALIKE, LEAST_TOLERANCE = 0.5, 0.035
LARGE = 100
AGREEING, AGREEING_IF_SMALL = (0.85, 0.7), (0.7, 0.4)
"""Share of the blocks that must agree, and how well; of images with a side below `LARGE` encoders change more."""
DETAIL_CORRELATION = 0.8
BRIGHTNESS, COLOUR, GAIN = 10.0, 8.0, 1.2
GREY_TOLERANCE = 2.0


def near_copies(keys: Sequence[str], thumbnails: ThumbnailStore, apart: np.ndarray | None = None) -> np.ndarray:
    """Pairs of near copies among some images, (M, 2) positions, the smaller first.

    Time grows as N log N; held in memory are half a kilobyte per image, and the thumbnails of some candidates.

    Args:
        keys: N content keys, each once; those without a thumbnail have no copies.
        thumbnails: where they are kept.
        apart: (N,) numbers; images of the same number are not compared, since they belong together anyway.
    """
    position = {key: place for place, key in enumerate(keys)}
    places, hashes, sides, contrasts = [], [], [], []
    for found, pictures in thumbnails.find(keys):
        places.append(np.array([position[key] for key in found]))
        hashes.append(_hashes(pictures.grey))
        sides.append(pictures.sides)
        contrasts.append(pictures.grey.std(axis=(1, 2)))
    if not places:
        return np.zeros((0, 2), dtype=np.int64)
    place, contrast = np.concatenate(places), np.concatenate(contrasts)
    order = np.argsort(place)  # the order of the images, whatever the shards say
    order = order[contrast[order] >= LEAST_CONTRAST]
    place, hashed = place[order], np.concatenate(hashes)[order]
    most = _most_tolerable(hashed)
    tolerance = np.minimum(_tolerance(np.concatenate(sides)[order], contrast[order]), most)
    pairs = _candidates(hashed, tolerance, None if apart is None else np.asarray(apart)[place])
    return _confirmed(place[pairs], keys, thumbnails, most)


def remembered_near_copies(keys: Sequence[str], thumbnails: ThumbnailStore, apart: np.ndarray) -> np.ndarray:
    """As `near_copies`, kept beside the thumbnails under a digest of all that the pairs depend on.

    That is the keys, which of them have a thumbnail, and which are not compared. A damaged file counts as none.

    Raises:
        CacheError: the pairs cannot be written.
    """
    lacking = thumbnails.missing(keys)
    seen = np.array([key not in lacking for key in keys], dtype=np.uint8)
    first = np.unique(apart, return_index=True, return_inverse=True)
    together = first[1][first[2]].astype("<i8")  # each number as the place of the first image that has it
    digest = hashlib.sha256(f"near copies {VERSION}\n".encode() + "\n".join(keys).encode())
    digest.update(seen.tobytes() + together.tobytes())
    path = thumbnails.root / "near-copies" / f"{digest.hexdigest()}.pairs"
    pairs = _kept_pairs(path, len(keys))
    if pairs is None:
        pairs = near_copies(keys, thumbnails, apart)
        rows = pairs.astype("<i8").tobytes()
        write_cached(path, hashlib.sha256(rows).digest() + rows)
    return pairs


def _kept_pairs(path: Path, count: int) -> np.ndarray | None:
    """(M, 2) positions among so many images; None where they are not kept, or not as they were written."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    check, rows = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(rows).digest() != check or len(rows) % 16:
        return None
    pairs = np.frombuffer(rows, dtype="<i8").reshape(-1, 2).astype(np.int64)
    return pairs if not pairs.size or (pairs.min() >= 0 and pairs.max() < count) else None


def are_near_copies(one: Pictures, other: Pictures, most: float = 1.0) -> np.ndarray:
    """(N,) whether the images of each pair are near copies.

    Args:
        one, other: N thumbnails each.
        most: how far apart their hashes may lie at most, whatever the images' size.
    """
    first, second = one.grey.astype(np.float32), other.grey.astype(np.float32)  # (N, 32, 32)
    contrasts = first.std(axis=(1, 2)), second.std(axis=(1, 2))
    lowest, highest = np.minimum(*contrasts), np.maximum(*contrasts)
    means = first.mean(axis=(1, 2)) - second.mean(axis=(1, 2))
    distances = np.linalg.norm(_hashes(first) - _hashes(second), axis=1)
    tolerance = np.minimum(_tolerance(np.minimum(one.sides, other.sides), lowest), most)
    return (
        (lowest >= LEAST_CONTRAST)
        & (highest <= GAIN * lowest)
        & (np.abs(means) <= BRIGHTNESS)
        & (distances <= tolerance)
        & _same_colours(one.colour, other.colour)
        & _same_detail(first, second)
        & _same_parts(first, second, np.minimum(one.sides, other.sides) >= LARGE)
    )


def _hashes(grey: np.ndarray) -> np.ndarray:
    """(N, 63) float32, the lowest frequencies of images (N, 32, 32) of unit contrast; the mean is left out."""
    spectra = _spectra(grey)
    spectra[:, 0, 0] = 0
    norms = np.linalg.norm(spectra.reshape(len(grey), -1), axis=1)
    low = spectra[:, :COMPARED, :COMPARED].reshape(len(grey), -1)[:, 1:]
    return low / np.maximum(norms, 1e-6)[:, None]


def _spectra(grey: np.ndarray) -> np.ndarray:
    from scipy.fft import dctn  # SciPy is slow to import, and kept pairs do without

    return dctn(grey.astype(np.float32), axes=(1, 2), norm="ortho").reshape(len(grey), GREY_SIDE, GREY_SIDE)


def _searched(hashes: np.ndarray) -> np.ndarray:
    """(N, 15) the part of the hashes that is searched first."""
    rows, columns = np.mgrid[:SEARCHED, :SEARCHED]
    return np.ascontiguousarray(hashes[:, (rows * COMPARED + columns).reshape(-1)[1:] - 1])


def _most_tolerable(hashes: np.ndarray) -> float:
    """How far apart copies may lie at most in this set: where all images share a frame and a shape, as pictures of one
    organ do, different ones are close."""
    if len(hashes) < LEAST_SAMPLE:
        return 1.0
    from scipy.spatial.distance import pdist

    some = hashes[np.linspace(0, len(hashes) - 1, min(SAMPLE, len(hashes))).astype(int)]
    return max(LEAST_TOLERANCE, ALIKE * float(np.quantile(pdist(some), 0.1)))


def _tolerance(sides: np.ndarray, contrasts: np.ndarray) -> np.ndarray:
    """(N,) how far apart the hashes of copies may lie, in units of the contrast.

    JPEG at quality 20 changes an image of 28 pixels far more than one of 280, and grey levels are whole numbers.
    """
    coarse = np.minimum(0.045 + 2.5 / np.maximum(sides, 1), 0.2)
    return np.minimum(np.hypot(coarse, 0.3 / np.maximum(contrasts, 1e-6)), 0.2)


def _candidates(hashes: np.ndarray, tolerance: np.ndarray, apart: np.ndarray | None) -> np.ndarray:
    """(M, 2) positions of neighbours closer than the tolerance of one of them, each pair once.

    Fewer frequencies bring hashes closer together, never further apart, so that none that counts is missed. Of an
    image with too many neighbours the nearest by the whole hash are taken; more copies hang together by a chain.
    """
    if len(hashes) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    from scipy.spatial import cKDTree

    tree, whole = cKDTree(_searched(hashes)), None
    steps = np.array([0.02, 0.035, 0.05, 0.065, 0.085, 0.12, 1.0])  # rows of about the same tolerance are asked at once
    step_of = np.searchsorted(steps, tolerance, side="left")
    found = []
    for step in np.unique(step_of):
        rows = np.flatnonzero(step_of == step)
        for start in range(0, len(rows), AT_ONCE):
            some = rows[start : start + AT_ONCE]
            radius = float(tolerance[some].max()) + 1e-6
            ends, crowded = _neighbours(tree, some, radius)
            if len(crowded):
                whole = whole or cKDTree(hashes)
                ends = np.concatenate([ends, _neighbours(whole, crowded, radius)[0]])
            if apart is not None:
                ends = ends[apart[ends[:, 0]] != apart[ends[:, 1]]]
            found.append(np.sort(ends, axis=1))
    return np.unique(np.concatenate(found), axis=0).reshape(-1, 2)


def _neighbours(tree: cKDTree, rows: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """(M, 2) each row with its nearest neighbours within the radius, and the rows that may have more."""
    k = min(NEIGHBOURS, tree.n)
    distances, others = tree.query(tree.data[rows], k=k, distance_upper_bound=radius, workers=-1)
    which, column = np.nonzero(np.isfinite(distances))
    ends = np.stack([rows[which], others[which, column]], axis=1)
    return ends[ends[:, 0] != ends[:, 1]], rows[np.isfinite(distances).all(axis=1)]


def _confirmed(pairs: np.ndarray, keys: Sequence[str], thumbnails: ThumbnailStore, most: float) -> np.ndarray:
    """Those of the pairs whose thumbnails agree."""
    kept = [pairs[:0]]
    for start in range(0, len(pairs), AT_ONCE):
        some = pairs[start : start + AT_ONCE]
        places = np.unique(some)
        row_of, parts = {}, []
        for found, pictures in thumbnails.find([keys[place] for place in places]):
            row_of.update({key: len(row_of) + n for n, key in enumerate(found)})
            parts.append(pictures)
        every = Pictures(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("grey", "colour", "sides")))
        rows = np.array([[row_of[keys[place]] for place in pair] for pair in some])
        kept.append(some[are_near_copies(every.take(rows[:, 0]), every.take(rows[:, 1]), most)])
    return np.concatenate(kept)


def _same_colours(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(N,) whether colours agree, or one image of the two is grey."""
    first, second = one.astype(np.float32) - 128, other.astype(np.float32) - 128  # (N, 8, 8, 2)
    is_grey = [np.abs(colour).mean(axis=(1, 2, 3)) <= GREY_TOLERANCE for colour in (first, second)]
    return is_grey[0] | is_grey[1] | (np.abs(first - second).mean(axis=(1, 2, 3)) <= COLOUR)


def _same_detail(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(N,) whether the details correlate."""
    first, second = _detail(one), _detail(other)  # (N, 240)
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return (first * second).sum(axis=1) >= DETAIL_CORRELATION * np.maximum(norms, 1e-6)


def _detail(grey: np.ndarray) -> np.ndarray:
    spectra = _spectra(grey)[:, :DETAIL, :DETAIL]
    spectra[:, :SEARCHED, :SEARCHED] = 0
    return spectra.reshape(len(grey), -1)


def _same_parts(one: np.ndarray, other: np.ndarray, large: np.ndarray) -> np.ndarray:
    """(N,) whether most blocks that show anything correlate; a frame, a mask or a speck in common is not enough."""
    first, second = _blocks(one), _blocks(other)  # (N, 16, 64)
    spread = first.std(axis=2), second.std(axis=2)
    correlation = (first * second).mean(axis=2) / np.maximum(spread[0] * spread[1], 1e-6)
    shown = np.maximum(*spread) >= LEAST_BLOCK_CONTRAST
    share, needed = (np.where(large, *pair) for pair in zip(AGREEING, AGREEING_IF_SMALL, strict=True))
    agreeing = (shown & (correlation >= needed[:, None])).sum(axis=1)
    counted = shown.sum(axis=1)
    return (counted >= LEAST_BLOCKS) & (agreeing >= share * counted)


def _blocks(grey: np.ndarray) -> np.ndarray:
    """(N, 32, 32) -> (N, 16, 64), the mean of each block taken away."""
    count = GREY_SIDE // BLOCK
    blocks = grey.reshape(-1, count, BLOCK, count, BLOCK).swapaxes(2, 3).reshape(-1, count**2, BLOCK**2)
    return blocks - blocks.mean(axis=2, keepdims=True)
