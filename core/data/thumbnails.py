"""Thumbnails of images: 32 x 32 grey and 8 x 8 colour, made while images are decoded, and kept by content beside the
features, 1.2 KB per image; and whether two of them show one picture: registered, then compared part by part.

Grey levels are equalised (each becomes its rank within the image), which no change of brightness, contrast or gamma
alters, and which bounds what a text mark weighs. One picture is turned into the other's place by one of the eight
symmetries of the square, then shifted and scaled along each axis, as a crop is, by the method of Lucas and Kanade ("An
Iterative Image Registration Technique with an Application to Stereo Vision", 1981) with robust weights. The agreement
is the correlation of the detail, block by block of those that show something, as Fisher's z; of the blocks' values the
one is taken below which marks may have spoilt some.

A hash of 64 bits says how a picture looks: the signs of its lowest frequencies.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from ..contracts.items import Decoded
from ..runtime.process import keeps
from ..runtime.shards import ShardFolder, ShardWriter

GREY_SIDE, COLOUR_SIDE = 32, 8
GREY_BYTES, COLOUR_BYTES = GREY_SIDE**2, 2 * COLOUR_SIDE**2
BYTES = GREY_BYTES + COLOUR_BYTES + 8
SPACE = "thumbnails 2"
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
        pixels: (H, W, 3) uint8, or float32 in 0..1; of more channels the first three are taken. Of a clip (T, H, W, 3)
            it is the middle frame's colour, and in grey what moves in that frame: what it has beside the mean of the
            frames, since the clips of a camera that stands still share the rest.
        size: height and width of the image, where the pixels are of a reduced version.
    """
    is_clip = pixels.ndim == 4 and len(pixels) > 0
    frame = pixels[len(pixels) // 2] if is_clip else pixels
    if frame.ndim != 3 or frame.shape[-1] < 3 or not frame.size:
        return None
    small = _resized(_image(frame), GREY_SIDE)
    shown = _resized(_image(_moving(pixels)), GREY_SIDE) if is_clip else small
    grey = np.asarray(shown.convert("L"))  # (32, 32)
    colour = np.asarray(small.convert("YCbCr").resize((COLOUR_SIDE, COLOUR_SIDE), Image.Resampling.BOX))[..., 1:]
    sizes = np.array(size or frame.shape[:2], dtype="<u4").view(np.uint8)
    return np.concatenate([grey.reshape(-1), colour.reshape(-1), sizes])


def _image(frame: Decoded) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(_levels(frame[..., :3])))


def _levels(pixels: Decoded) -> np.ndarray:
    """As uint8."""
    if pixels.dtype == np.uint8:
        return pixels
    return np.rint(np.clip(np.nan_to_num(pixels), 0, 1) * 255).astype(np.uint8)


def _moving(frames: Decoded) -> np.ndarray:
    """(H, W, 3) uint8 the middle frame without the mean of all, around a grey of 128."""
    levels = _levels(frames[..., :3])
    difference = levels[len(levels) // 2] - levels.mean(axis=0, dtype=np.float32)
    return np.rint(np.clip(128 + difference, 0, 255)).astype(np.uint8)


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

    def __init__(self, root: str | Path):
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
            # as (1, 290) float32: the store keeps four bytes as one number, and never reckons with it
            self._writer.add([bytes.fromhex(key)], np.ascontiguousarray(row[None]).view(np.float32))

    def flush(self) -> None:
        """Write what is not on disk yet."""
        with self._writing:
            self._writer.flush()
            keeps("thumbnails", self.root)
            self._folder.merge()

    def find(self, keys: Collection[str]) -> Iterator[tuple[list[str], Pictures]]:
        """Keys and their thumbnails, some thousands at a time; keys that have none are passed over."""
        for found, rows in self._folder.find({bytes.fromhex(key) for key in keys}):
            yield [key.hex() for key in found], thumbnail_pictures(rows)


def thumbnail_pictures(rows: np.ndarray) -> Pictures:
    """Of N rows of `thumbnail`."""
    values = np.ascontiguousarray(rows).view(np.uint8)  # (n, 1160)
    grey, colour, sizes = np.split(values, [GREY_BYTES, GREY_BYTES + COLOUR_BYTES], axis=1)
    sides = np.ascontiguousarray(sizes).view("<u4").min(axis=1)
    return Pictures(
        grey.reshape(-1, GREY_SIDE, GREY_SIDE), colour.reshape(-1, COLOUR_SIDE, COLOUR_SIDE, 2), sides.astype(np.int64)
    )


AT_ONCE = 128
"""Images whose pixels are in the processor's cache meanwhile."""
SYMMETRIES = 8
"""Numbered by bits: 4 swaps the axes, then 2 turns upside down and 1 mirrors."""
COMPARED = 8
"""Frequencies in each direction of a low spectrum."""
LEAST_CONTRAST = 2.0
"""Standard deviation of grey levels below which an image is flat."""
BLOCK, LEAST_BLOCK_CONTRAST, LEAST_BLOCKS = 8, 3.0, 4
SPOILT, MARKED, LEAST_MARKED = 0.3, 0.55, 6
"""Share of the blocks that text may cover, or a clipped brightness flatten; that marks may cover where the others are
the very same, and how many must show something then."""
UNTOUCHED, DOUBTFUL = 1.8, 1.0
"""How far the others must agree where some blocks differ, and what counts else: a mark leaves them as they were, but
another moment seen by the same camera often does not."""
WHITE, CLIPPED = 253, 0.1
"""Grey level from which on a pixel is clipped, and share of a block that is. A block of which more is clipped in one of
two images alone, made brighter, says nothing where enough others show something."""
NO_AGREEMENT = -3.0
"""Less than any two images agree."""
FEW_BLOCKS, FEW_AGREEMENT = 12, 1.25
"""How far pictures that were moved must agree where fewer blocks than so many show something: a few agree by chance."""
LEAST_DETAIL = 0.7
"""Agreement of the detail below which no other one counts."""
GREY_TOLERANCE, COLOUR_COSINE = 2.0, 0.8
"""Chroma up to which an image counts as grey, and how alike the colours of two others must be."""
SMOOTHED, SHAPE = 0.7, 3.0
"""Pixels of a thumbnail: what is finer is noise of encoders, what is coarser is shared by alike images."""
CUTS = (*((0.95, y, x) for y in (-0.025, 0.025) for x in (-0.025, 0.025)), (0.9, 0.0, 0.0))
"""To 95 % at each corner, and by 5 % at all edges: scale, and shifts along y and x."""
REGISTERED_SIDE, STEPS = 16, 4
MOST_SCALED, MOST_SHIFTED, LONGEST_STEP = 0.13, 0.09, 0.06
"""Of the side; margins of 5 % cut away are a scale of 0.9."""
OUTLYING = 0.02
"""Difference of ranks from which on a pixel weighs less."""


def shows_enough(grey: np.ndarray) -> np.ndarray:
    """(N,) whether there is anything in images (N, 32, 32) by which copies could be told."""
    means, squares = _block_moments(grey)
    variances = squares.mean(axis=1) - means.mean(axis=1) ** 2
    shown = squares - means**2 >= LEAST_BLOCK_CONTRAST**2
    return (variances >= LEAST_CONTRAST**2) & (shown.sum(axis=1) >= LEAST_BLOCKS)


def low_spectra(grey: np.ndarray) -> np.ndarray:
    """(N, 8, 8) float32, the lowest frequencies of equalised images (N, 32, 32), of unit norm; the mean is left out."""
    low = np.zeros((len(grey), COMPARED, COMPARED), dtype=np.float32)
    for start in range(0, len(grey), AT_ONCE):
        low[start : start + AT_ONCE] = _low(_equalised(grey[start : start + AT_ONCE]))
    return low


def _low(equalised: np.ndarray) -> np.ndarray:
    waves = _waves()
    spectra = waves @ equalised @ waves.T
    return _unit(spectra)


def _unit(spectra: np.ndarray) -> np.ndarray:
    spectra[:, 0, 0] = 0
    return spectra / np.maximum(np.sqrt(np.einsum("nuv,nuv->n", spectra, spectra)), 1e-6)[:, None, None]


@lru_cache(maxsize=1)
def _waves() -> np.ndarray:
    """(8, 32) float32, the lowest cosines."""
    from scipy.fft import dct  # SciPy is slow to import, and kept pairs do without

    return dct(np.eye(GREY_SIDE), axis=0, norm="ortho")[:COMPARED].astype(np.float32)


def cut_spectra(grey: np.ndarray) -> Iterator[np.ndarray]:
    """(N, 8, 8) low spectra of images (N, 32, 32) whose edges are cut, in one way after the other."""
    equalised = _equalised(grey)
    for scale, *shifts in CUTS:
        yield _low(_warped(equalised, np.full((len(grey), 2), scale), np.tile(shifts, (len(grey), 1)))[0])


TRIMMED = 0.9
"""Cut whose spectra are searched for: each copy whose edges are cut is near to it, or to the image itself."""
UPPER, LOWER = 0.3, 0.6
"""Down to where the upper half of an image counts whole, and where no more."""


def cut_view(low: np.ndarray, scale: float) -> np.ndarray:
    """(N, 8, 8) low spectra of images cut at all edges, from their own low spectra."""
    waves = _waves()
    cut = waves @ _interpolation(scale * _places(GREY_SIDE), GREY_SIDE) @ waves.T
    return _unit(cut @ low @ cut.T)


def half_view(low: np.ndarray, lower: bool) -> np.ndarray:
    """(N, 8, 8) low spectra of the upper halves of images, from their own; or of the lower halves, upside down."""
    waves = _waves()
    fading = np.clip((_places(GREY_SIDE) + 0.5 - UPPER) / (LOWER - UPPER), 0, 1)
    upper = (waves * np.cos(np.pi / 2 * fading).astype(np.float32) ** 2) @ waves.T
    return _unit(upper @ turned_spectra(low, np.full(len(low), 2 * lower)))


def spectral_likeness(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(8, N) cosines of low spectra (N, 8, 8), the first ones turned by each symmetry."""
    each = np.stack([first * second, first.swapaxes(1, 2) * second]).reshape(2, len(first), -1)  # (2, N, 64)
    return (each @ _signs().reshape(4, -1).T).swapaxes(1, 2).reshape(SYMMETRIES, -1)


def turned_spectra(low: np.ndarray, symmetries: np.ndarray) -> np.ndarray:
    """Low spectra (N, 8, 8) of images each turned by its symmetry, (N,)."""
    swapped = np.where((symmetries & 4 > 0)[:, None, None], low.swapaxes(1, 2), low)
    return swapped * _signs()[symmetries & 3]


@lru_cache(maxsize=1)
def _signs() -> np.ndarray:
    """(4, 8, 8) float32, the signs of low spectra by the last two bits of a symmetry."""
    odd = (-1.0) ** np.arange(COMPARED, dtype=np.float32)
    even = np.ones_like(odd)
    return np.stack([np.outer(down, across) for down in (even, odd) for across in (even, odd)])


def turned(images: np.ndarray, symmetries: np.ndarray) -> np.ndarray:
    """Each of N images (N, n, n, ...) turned by its symmetry, (N,)."""
    images = images.copy()
    for bit, turn in ((4, lambda x: x.swapaxes(1, 2)), (2, lambda x: x[:, ::-1]), (1, lambda x: x[:, :, ::-1])):
        rows = np.flatnonzero(symmetries & bit)
        images[rows] = turn(images[rows])
    return images


@dataclass(frozen=True)
class PreparedThumbnails:
    """N thumbnails as they are compared, made once for all others that each is compared with.

    Attributes:
        equalised: (N, 32, 32) float32, see `_equalised`.
        detail: (N, 32, 32) float32, of which each block has a mean of 0 and a norm of 1, or is 0.
        shown: (N, 4, 4) which blocks show something.
        clipped: (N, 4, 4) which are white in part.
        colour: (N, 8, 8, 2) uint8.
    """

    equalised: np.ndarray
    detail: np.ndarray
    shown: np.ndarray
    clipped: np.ndarray
    colour: np.ndarray

    @classmethod
    def of(cls, pictures: Pictures) -> PreparedThumbnails:
        equalised = _equalised(pictures.grey)
        blocks = _blocks(_detail(equalised))
        blocks = blocks - blocks.mean(axis=2, keepdims=True)
        blocks /= np.maximum(np.linalg.norm(blocks, axis=2, keepdims=True), 1e-6)
        side = GREY_SIDE // BLOCK
        detail = blocks.reshape(-1, side, side, BLOCK, BLOCK).swapaxes(2, 3).reshape(equalised.shape)
        clipped = _block_sums((pictures.grey >= WHITE).astype(np.float32)) > CLIPPED * BLOCK**2
        shown, clipped = (each.reshape(-1, side, side) for each in (_shown(pictures.grey), clipped))
        return cls(equalised, detail, shown, clipped, pictures.colour)

    def take(self, rows: np.ndarray) -> PreparedThumbnails:
        """Those at some positions."""
        return PreparedThumbnails(*(each[rows] for each in vars(self).values()))

    def turned(self, symmetries: np.ndarray) -> PreparedThumbnails:
        """Each turned by its symmetry, (N,)."""
        return PreparedThumbnails(*(turned(each, symmetries) for each in vars(self).values()))


def agreements(one: PreparedThumbnails, other: PreparedThumbnails, likeness: np.ndarray) -> np.ndarray:
    """(4, N) how far the pictures of each pair agree: as they lie, registered, in their low spectra as they lie, and in
    the blocks that marks left as they were.

    `NO_AGREEMENT` where they show too little; in the spectra, where the detail differs. Colours do not count.

    Args:
        likeness: (N,) cosines of the low spectra, as they lie.
    """
    shown = (one.shown | other.shown).reshape(len(one.shown), -1)  # (N, 16)
    unclipped = shown & ~(one.clipped ^ other.clipped).reshape(shown.shape)
    unclipped = np.where(unclipped.sum(axis=1, keepdims=True) >= LEAST_BLOCKS, unclipped, shown)
    correlations = _block_sums(one.detail * other.detail)
    in_place = _agreement(correlations, unclipped)
    moved, inside = _warped(one.equalised, *_registration(_coarse(one.equalised), _coarse(other.equalised)))
    mass = np.maximum(_block_sums(inside), 1)
    counts = shown & (mass > BLOCK**2 / 4)
    registered = _agreement(_correlations(_detail(moved), other.detail, inside, mass), counts)
    doubtful = (counts.sum(axis=1) < FEW_BLOCKS) & (registered < FEW_AGREEMENT)
    registered = np.where(doubtful, np.minimum(registered, DOUBTFUL), registered)
    spectral = np.where(in_place < LEAST_DETAIL, NO_AGREEMENT, _fisher_z(likeness))
    return np.stack([in_place, registered, spectral, _unmarked(correlations, shown)])


def same_colours(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(N,) whether colours (N, 8, 8, 2) agree but for their strength, or one image of the two is grey: in the places
    that are left without those that differ most, which a mark may have coloured.
    """
    first, second = (each.reshape(len(each), -1, 2).astype(np.float32) - 128 for each in (one, other))  # (N, 64, 2)
    nearest = np.argsort(np.square(first - second).sum(axis=2), axis=1)[:, : round((1 - SPOILT) * first.shape[1]), None]
    first, second = (np.take_along_axis(each, nearest, axis=1).reshape(len(each), -1) for each in (first, second))
    is_grey = np.minimum(np.abs(first).mean(axis=1), np.abs(second).mean(axis=1)) <= GREY_TOLERANCE
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return is_grey | ((first * second).sum(axis=1) >= COLOUR_COSINE * norms)


def _fisher_z(correlations: np.ndarray) -> np.ndarray:
    return np.arctanh(np.clip(correlations, -0.99, 0.9999))


def _equalised(grey: np.ndarray) -> np.ndarray:
    """(N, 32, 32) float32 in -0.5..0.5: the share of an image's pixels that are darker, equal ones counted half."""
    equalised = np.zeros(grey.shape, dtype=np.float32)
    for start in range(0, len(grey), AT_ONCE):
        some = grey[start : start + AT_ONCE]
        levels = some.reshape(len(some), -1) + 256 * np.arange(len(some))[:, None]
        histograms = np.bincount(levels.ravel(), minlength=256 * len(some)).reshape(len(some), 256)
        ranks = ((histograms.cumsum(axis=1) - histograms / 2) / levels.shape[1] - 0.5).astype(np.float32)
        equalised[start : start + AT_ONCE] = ranks.ravel().take(levels).reshape(some.shape)
    return equalised


def _block_sums(images: np.ndarray) -> np.ndarray:
    """(N, 32, 32) -> (N, 16)."""
    ones = np.kron(np.eye(GREY_SIDE // BLOCK, dtype=np.float32), np.ones((BLOCK, 1), dtype=np.float32))  # (32, 4)
    return (ones.T @ (images @ ones)).reshape(len(images), ones.shape[1] ** 2)


def _blocks(images: np.ndarray) -> np.ndarray:
    """(N, 32, 32) -> (N, 16, 64)."""
    count = GREY_SIDE // BLOCK
    return images.reshape(-1, count, BLOCK, count, BLOCK).swapaxes(2, 3).reshape(-1, count**2, BLOCK**2)


def _block_moments(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of the blocks of images (N, 32, 32) uint8, and of their squares; both (N, 16), exact."""
    sums, squares = np.zeros((2, len(grey), (GREY_SIDE // BLOCK) ** 2))
    for start in range(0, len(grey), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        levels = grey[some].astype(np.float32)
        sums[some], squares[some] = _block_sums(levels), _block_sums(levels * levels)
    return sums / BLOCK**2, squares / BLOCK**2


def _shown(grey: np.ndarray) -> np.ndarray:
    """(N, 16) which blocks show something."""
    means, squares = _block_moments(grey)
    return squares - means**2 >= LEAST_BLOCK_CONTRAST**2


@lru_cache(maxsize=1)
def _smoothing() -> tuple[np.ndarray, np.ndarray]:
    """(32, 32) matrices that smooth a row of pixels a little, and down to its shape."""
    from scipy.ndimage import gaussian_filter1d

    little = gaussian_filter1d(np.eye(GREY_SIDE), SMOOTHED, axis=0)
    shape = gaussian_filter1d(little, SHAPE, axis=0)
    return little.astype(np.float32), shape.astype(np.float32)


def _detail(images: np.ndarray) -> np.ndarray:
    """(N, 32, 32), between noise and shape."""
    little, shape = _smoothing()
    return little @ images @ little.T - shape @ images @ shape.T


def _correlations(first: np.ndarray, second: np.ndarray, weights: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """(N, 16) of the blocks of images (N, 32, 32) with weights of the same shape, whose sums are the mass, (N, 16)."""
    weighted, other = first * weights, second * weights
    of_first, of_second = _block_sums(weighted), _block_sums(other)
    one = _block_sums(first * weighted) - of_first**2 / mass
    two = _block_sums(second * other) - of_second**2 / mass
    both = _block_sums(second * weighted) - of_first * of_second / mass
    return both / np.sqrt(np.maximum(one * two, 1e-12))


def _agreement(correlations: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(N,) of the correlations of blocks, (N, 16), of which some count."""
    counted = counts.sum(axis=1)
    ranked = np.sort(np.where(counts, correlations, np.inf), axis=1)
    at = np.floor(SPOILT * np.maximum(counted - 1, 0)).astype(int)
    worst, value = _fisher_z(np.minimum(ranked[:, 0], 1)), _fisher_z(ranked[np.arange(len(ranked)), at])
    doubtful = (worst < LEAST_DETAIL) & (value < UNTOUCHED)
    agreed = np.where(doubtful, np.minimum(value, DOUBTFUL), value)
    return np.where(counted >= LEAST_BLOCKS, agreed, NO_AGREEMENT)


def _unmarked(correlations: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(N,) as `_agreement`, of the blocks that are left where marks cover many."""
    counted = counts.sum(axis=1)
    ranked = np.sort(np.where(counts, correlations, np.inf), axis=1)
    at = np.ceil(MARKED * np.maximum(counted - 1, 0)).astype(int)
    value = _fisher_z(np.minimum(ranked[np.arange(len(ranked)), at], 1))
    return np.where(counted >= LEAST_MARKED, value, NO_AGREEMENT)


def _coarse(images: np.ndarray) -> np.ndarray:
    """(N, 32, 32) -> (N, 16, 16), smooth enough that a step of a few pixels is seen in the gradients."""
    from scipy.ndimage import gaussian_filter1d

    means = np.eye(GREY_SIDE).reshape(REGISTERED_SIDE, -1, GREY_SIDE).mean(axis=1)
    matrix = gaussian_filter1d(means, SMOOTHED, axis=0).astype(np.float32)  # (16, 32)
    return matrix @ images @ matrix.T


def _registration(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales (N, 2) and shifts (N, 2), in parts of the side along y and x, by which the first are to be sampled so that
    they lie like the second; (N, 16, 16) both.

    Gain and offset of the grey levels are fitted too. Each step is least squares, weighted for least absolute errors.
    """
    count, side = first.shape[:2]
    place = ((np.arange(side) + 0.5) / side - 0.5).astype(np.float32)
    slope = np.gradient(np.eye(side, dtype=np.float32), 1 / side, axis=0)
    scales, shifts = np.ones((count, 2)), np.zeros((count, 2))
    target = second.reshape(count, 1, side**2)
    errors = np.zeros_like(target)
    for _ in range(STEPS):
        image, inside = _warped(first, scales, shifts)
        along_y, along_x = slope @ image, image @ slope.T
        columns = (along_y * place[:, None], along_y, along_x * place, along_x, image, np.ones_like(image))
        design = np.stack(columns, axis=1).reshape(count, 6, side**2)
        weighted = design * (inside.reshape(count, 1, side**2) / (np.abs(errors) + OUTLYING))
        normal = (weighted @ design.swapaxes(1, 2)).astype(np.float64)  # (N, 6, 6)
        ridge = 1e-4 * np.trace(normal, axis1=1, axis2=2)[:, None, None] / 6 + 1e-9
        normal += ridge * np.diag([1, 1, 1, 1, 0.01, 0.01])
        solved = np.linalg.solve(normal, (weighted @ target.swapaxes(1, 2)).astype(np.float64))  # (N, 6, 1)
        errors = target - solved.swapaxes(1, 2).astype(np.float32) @ design
        gains = np.maximum(np.abs(solved[:, 4]), 0.2) * np.where(solved[:, 4] < 0, -1, 1)
        steps = np.clip(solved[:, :4, 0] / gains, -LONGEST_STEP, LONGEST_STEP)
        shifts = np.clip(shifts + scales * steps[:, 1::2], -MOST_SHIFTED, MOST_SHIFTED)
        scales = np.clip(scales * (1 + steps[:, ::2]), 1 - MOST_SCALED, 1 + MOST_SCALED)
    return scales, shifts


def _warped(images: np.ndarray, scales: np.ndarray, shifts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, n, n) sampled linearly at other places, and float32 weights of the same shape: 0 outside of them."""
    side = images.shape[1]
    places = scales[:, :, None] * _places(side) + shifts[:, :, None]  # (N, 2, n)
    inside = (np.abs(places) <= 0.5 + 1e-6 / side).astype(np.float32)
    rows, columns = _interpolation(places, side).swapaxes(0, 1)
    return rows @ images @ columns.swapaxes(1, 2), inside[:, 0, :, None] * inside[:, 1, None, :]


def _places(side: int) -> np.ndarray:
    """(n,) centres of pixels, from the middle, in parts of the side."""
    return (np.arange(side) + 0.5) / side - 0.5


def _interpolation(places: np.ndarray, side: int) -> np.ndarray:
    """(..., n, n) float32 weights of pixels at places (..., n)."""
    at = np.clip((places + 0.5) * side - 0.5, 0, side - 1).astype(np.float32)
    return np.maximum(0, 1 - np.abs(at[..., None] - np.arange(side, dtype=np.float32)))


NO_HASH = 0
"""Of an image that is flat, or shows something in few of its parts: there is nothing by which copies could be told."""


def perceptual_hashes(grey: np.ndarray) -> np.ndarray:
    """(N,) uint64: which of the lowest frequencies of the discrete cosine transform are above their median, as in pHash
    (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010), of equalised grey levels,
    which no change of brightness, contrast or gamma alters.

    Args:
        grey: (N, 32, 32) uint8 thumbnails.
    """
    if not len(grey):
        return np.zeros(0, np.uint64)
    spectra = low_spectra(grey).reshape(len(grey), COMPARED**2)
    above = spectra > np.median(spectra[:, 1:], axis=1, keepdims=True)  # the first is the mean, which is left out
    above[:, 0] = True  # so that no hash is `NO_HASH`
    hashes = np.packbits(above, axis=1, bitorder="little").view("<u8")[:, 0].astype(np.uint64)
    return np.where(shows_enough(grey), hashes, np.uint64(NO_HASH))
