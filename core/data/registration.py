"""Whether two thumbnails show one picture: registered, then compared part by part.

Grey levels are equalised (each becomes its rank within the image), which no change of brightness, contrast or gamma
alters, and which bounds what a text mark weighs. One picture is turned into the other's place by one of the eight
symmetries of the square, then shifted and scaled along each axis, as a crop is, by the method of Lucas and Kanade ("An
Iterative Image Registration Technique with an Application to Stereo Vision", 1981) with robust weights. The agreement
is the correlation of the detail, block by block of those that show something, as Fisher's z; of the blocks' values the
one is taken below which marks may have spoilt some.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .thumbnails import GREY_SIDE, Pictures

SYMMETRIES = 8
"""Numbered by bits: 4 swaps the axes, then 2 turns upside down and 1 mirrors."""
COMPARED = 8
"""Frequencies in each direction of a low spectrum."""
LEAST_CONTRAST = 2.0
"""Standard deviation of grey levels below which an image is flat."""
BLOCK, LEAST_BLOCK_CONTRAST, LEAST_BLOCKS = 8, 3.0, 4
SPOILT = 0.3
"""Share of the blocks that text may cover, or a clipped brightness flatten."""
UNTOUCHED, DOUBTFUL = 1.8, 1.0
"""How far the others must agree where some blocks differ, and what counts else: a mark leaves them as they were, but
another moment seen by the same camera often does not."""
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
    return (grey.std(axis=(1, 2)) >= LEAST_CONTRAST) & (_shown(grey).sum(axis=1) >= LEAST_BLOCKS)


def low_spectra(grey: np.ndarray) -> np.ndarray:
    """(N, 8, 8) float32, the lowest frequencies of equalised images (N, 32, 32), of unit norm; the mean is left out."""
    return _low(_equalised(grey)) if len(grey) else np.zeros((0, COMPARED, COMPARED), dtype=np.float32)


def _low(equalised: np.ndarray) -> np.ndarray:
    waves = _waves()
    spectra = waves @ equalised @ waves.T
    spectra[:, 0, 0] = 0
    return spectra / np.maximum(np.linalg.norm(spectra, axis=(1, 2), keepdims=True), 1e-6)


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


def spectral_likeness(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(8, N) cosines of low spectra (N, 8, 8), the first ones turned by each symmetry."""
    signs = (-1.0) ** np.arange(COMPARED, dtype=np.float32)
    products = np.stack([first * second, first.swapaxes(1, 2) * second])  # (2, N, 8, 8)
    weights = np.stack([np.ones_like(signs), signs])  # (2, 8): as it is, reversed
    return np.einsum("tnuv,au,bv->tabn", products, weights, weights, optimize=True).reshape(SYMMETRIES, -1)


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
        colour: (N, 8, 8, 2) uint8.
    """

    equalised: np.ndarray
    detail: np.ndarray
    shown: np.ndarray
    colour: np.ndarray

    @classmethod
    def of(cls, pictures: Pictures) -> PreparedThumbnails:
        equalised = _equalised(pictures.grey)
        blocks = _blocks(_detail(equalised))
        blocks = blocks - blocks.mean(axis=2, keepdims=True)
        blocks /= np.maximum(np.linalg.norm(blocks, axis=2, keepdims=True), 1e-6)
        side = GREY_SIDE // BLOCK
        detail = blocks.reshape(-1, side, side, BLOCK, BLOCK).swapaxes(2, 3).reshape(equalised.shape)
        return cls(equalised, detail, _shown(pictures.grey).reshape(-1, side, side), pictures.colour)

    def take(self, rows: np.ndarray) -> PreparedThumbnails:
        """Those at some positions."""
        return PreparedThumbnails(*(each[rows] for each in vars(self).values()))

    def turned(self, symmetries: np.ndarray) -> PreparedThumbnails:
        """Each turned by its symmetry, (N,)."""
        return PreparedThumbnails(*(turned(each, symmetries) for each in vars(self).values()))


def agreements(one: PreparedThumbnails, other: PreparedThumbnails, likeness: np.ndarray) -> np.ndarray:
    """(3, N) how far the pictures of each pair agree: as they lie, registered, and in their low spectra as they lie.

    `NO_AGREEMENT` where they show too little; in the spectra, where the detail differs. Colours do not count.

    Args:
        likeness: (N,) cosines of the low spectra, as they lie.
    """
    shown = (one.shown | other.shown).reshape(len(one.shown), -1)  # (N, 16)
    in_place = _agreement(_block_sums(one.detail * other.detail), shown)
    moved, inside = _warped(one.equalised, *_registration(_coarse(one.equalised), _coarse(other.equalised)))
    mass = np.maximum(_block_sums(inside), 1)
    counts = shown & (mass > BLOCK**2 / 4)
    registered = _agreement(_correlations(_detail(moved), other.detail, inside, mass), counts)
    doubtful = (counts.sum(axis=1) < FEW_BLOCKS) & (registered < FEW_AGREEMENT)
    registered = np.where(doubtful, np.minimum(registered, DOUBTFUL), registered)
    spectral = np.where(in_place < LEAST_DETAIL, NO_AGREEMENT, _fisher_z(likeness))
    return np.stack([in_place, registered, spectral])


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
    count = len(grey)
    levels = grey.reshape(count, -1).astype(np.int64)
    offsets = 256 * np.arange(count)[:, None]
    histograms = np.bincount((levels + offsets).ravel(), minlength=256 * count).reshape(count, 256)
    ranks = (histograms.cumsum(axis=1) - histograms / 2) / levels.shape[1] - 0.5
    return np.take_along_axis(ranks.astype(np.float32), levels, axis=1).reshape(grey.shape)


def _block_sums(images: np.ndarray) -> np.ndarray:
    """(N, 32, 32) -> (N, 16)."""
    ones = np.kron(np.eye(GREY_SIDE // BLOCK, dtype=np.float32), np.ones((BLOCK, 1), dtype=np.float32))  # (32, 4)
    return (ones.T @ (images @ ones)).reshape(len(images), ones.shape[1] ** 2)


def _blocks(images: np.ndarray) -> np.ndarray:
    """(N, 32, 32) -> (N, 16, 64)."""
    count = GREY_SIDE // BLOCK
    return images.reshape(-1, count, BLOCK, count, BLOCK).swapaxes(2, 3).reshape(-1, count**2, BLOCK**2)


def _shown(grey: np.ndarray) -> np.ndarray:
    """(N, 16) which blocks show something."""
    return _blocks(grey.astype(np.float32)).std(axis=2) >= LEAST_BLOCK_CONTRAST


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
    place = (np.arange(side) + 0.5) / side - 0.5
    at = (scales[:, :, None] * place + shifts[:, :, None] + 0.5) * side - 0.5  # (N, 2, n)
    inside = ((at >= -0.5 - 1e-6) & (at <= side - 0.5 + 1e-6)).astype(np.float32)
    at = np.clip(at, 0, side - 1).astype(np.float32)
    rows, columns = np.maximum(0, 1 - np.abs(at[..., None] - np.arange(side, dtype=np.float32))).swapaxes(0, 1)
    return rows @ images @ columns.swapaxes(1, 2), inside[:, 0, :, None] * inside[:, 1, None, :]
